"""The pictures of a report, as SVG to stand in the page itself. Imports matplotlib."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from autoconv.kernels.aten import ATEN
from autoconv.report.facts import Point, Subject

MOST_BARS = 24  # configs in the picture of a sweep, the best ones
WIDTH = 7.2  # inches
BEST, OTHER, TORCH, FLOOR, ROOF = "#0b6e4f", "#8aa6c1", "#ee6c4d", "#555555", "#222222"
_FILLED: dict[str, dict[str, Any]] = {  # markers, by what a time rests on
    "measured": {"fillstyle": "full"},
    "contended": {"fillstyle": "left", "markerfacecoloralt": "white"},
    "predicted": {"markerfacecolor": "none"},
}
_STYLE = {
    "svg.fonttype": "none",  # text stays text: searchable, and a fifth of the size of outlines
    "svg.hashsalt": "autoconv",  # the same page twice is the same bytes
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def roofline(subject: Subject) -> str:
    """Draw the device's roofs and every config below them: FLOPs for each byte of DRAM, by the model."""
    problem, device = subject.problem, subject.device
    rate, ideal = device.tensor_rate(problem.dtype, problem.precision), problem.flops / problem.ideal_bytes
    at = {one: problem.flops / one.dram_bytes if one.dram_bytes else ideal for one in subject.points}
    figure, axes = _figure(3.6)
    _roofs(axes, device.dram_gbps * 1e9, rate, [ideal, *at.values()])
    products = problem.precision if problem.dtype == "float32" else problem.dtype
    _note(axes, f"{products} products", (axes.get_xlim()[1], rate / 1e12), (0, 4), ha="right")
    axes.axvline(ideal, color=FLOOR, linewidth=0.8, linestyle=":")
    for one, intensity in reversed(at.items()):
        color, first = _color(one, subject), one is subject.best
        speed = problem.flops / ((one.time_us or 1.0) * 1e-6) / 1e12
        axes.plot(intensity, speed, "*" if first else "o", markersize=13 if first else 5, color=color,
                  **_FILLED[one.provenance])  # fmt: skip
    _note(axes, "every tensor\nmoved once", (ideal, axes.get_ylim()[0]), (4, 4), color=FLOOR)
    axes.set_xlabel("FLOP per byte of DRAM (bytes by the model)")
    axes.set_ylabel("TFLOP/s")
    return _svg(figure, f"Roofline of {device.name} with {len(subject.points)} configs")


def _roofs(axes: Axes, bandwidth: float, rate: float, intensities: Sequence[float]) -> None:
    """Draw the two roofs, in bytes and FLOPs a second, over what there is to show below them."""
    ridge = rate / bandwidth
    low, high = min(ridge, *intensities) / 4, max(ridge, *intensities) * 4
    peak, slope = rate / 1e12, bandwidth / 1e12
    axes.plot([low, ridge, high], [low * slope, peak, peak], color=ROOF, linewidth=1.5)
    for axis in (axes.xaxis, axes.yaxis):
        axis.axes.set(**{f"{axis.axis_name}scale": "log"})
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    axes.set_xlim(low, high)
    middle = (low * ridge) ** 0.5
    _note(axes, f"{bandwidth / 1e9:g} GB/s of DRAM", (middle, middle * slope), (8, -10))
    _note(axes, f"{peak:.4g} TFLOP/s", (ridge, peak), (0, 4))


def _note(axes: Axes, text: str, at: tuple[float, float], off: tuple[int, int], **style: Any) -> None:
    axes.annotate(text, at, off, textcoords="offset points", fontsize=8, **style)


def sweep(subject: Subject) -> str:
    """Draw the configs' times, the best first, with torch and the floor.

    Measured full, predicted hollow, half where taken beside other work.
    """
    shown = subject.points[:MOST_BARS]
    figure, axes = _figure(1.3 + 0.21 * len(shown))
    for place, one in enumerate(shown):
        color = _color(one, subject)
        for provenance, time in one.times.items():
            axes.plot(time / 1e3, place, "o", color=color, markersize=7, **_FILLED[provenance])
    best = (subject.best.time_us or 0.0) / 1e3
    axes.axvspan(best, best * (1 + subject.tolerance), color=BEST, alpha=0.12, linewidth=0)
    _line(axes, subject.floor_us / 1e3, "floor", FLOOR)
    if subject.torch_us is not None:
        _line(axes, subject.torch_us / 1e3, "torch", TORCH)
    axes.set_yticks(range(len(shown)), [_label(one) for one in shown], fontsize=8)
    axes.set_ylim(len(shown) - 0.4, -1.2)
    axes.set_xlim(left=0)
    band = f"the band: {subject.tolerance:.0%} from the best".replace("%", " %")
    half = ", beside other work half" if subject.best.contended_us is not None else ""
    axes.set_xlabel(f"ms: measured full{half}, predicted hollow\n{band}")
    return _svg(figure, f"Times of {len(shown)} configs")


def moved(subject: Subject) -> str:
    """Draw the bytes that the best of our kernels moves at each level, by the model."""
    told = subject.prediction
    if told is None:
        return ""
    levels = {
        "L1, asked": told.l1_bytes,
        "L2, both ways": told.l2_bytes,
        "DRAM": told.dram_bytes,
        "every tensor once": told.ideal_bytes,
    }
    figure, axes = _figure(1.7)
    bars = axes.barh(
        list(levels), [size / 1e9 for size in levels.values()], color=[OTHER, OTHER, BEST, FLOOR]
    )
    axes.bar_label(bars, [f"{size / 1e9:.4g} GB" for size in levels.values()], padding=4, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.set_xlabel("GB a call, by the model")
    return _svg(figure, "Bytes moved at each level")


def layers(subjects: Sequence[Subject]) -> str:
    """Draw what each layer takes, times its calls, beside its floor and, where it was timed, torch."""
    figure, axes = _figure(1.1 + 0.36 * len(subjects))
    for place, one in enumerate(subjects):
        calls = one.asked.calls / 1e3
        color = BEST if one.measured else OTHER
        axes.barh(place, (one.best.time_us or 0.0) * calls, color=color, height=0.55)
        axes.plot([one.floor_us * calls] * 2, [place - 0.36, place + 0.36], color=ROOF, linewidth=2)
        if one.torch_us is not None:
            axes.plot(one.torch_us * calls, place, "D", color=TORCH, markersize=6)
    # A layer's name is text, whatever it has of dollars and backslashes.
    axes.set_yticks(range(len(subjects)), [name_of(one) for one in subjects], fontsize=8, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlabel("ms of all calls: measured dark, others light\nblack mark: floor; diamond: torch")
    return _svg(figure, f"Times of {len(subjects)} layers")


def name_of(subject: Subject) -> str:
    """Return the layer's name, or the problem's text in lines of a picture's width."""
    if subject.asked.name:
        return subject.asked.name
    text = str(subject.problem)
    middle = text.find(",", len(text) // 2)
    return text if len(text) < 40 or middle < 0 else f"{text[: middle + 1]}\n{text[middle + 1 :]}"


def _label(one: Point) -> str:
    if one.config == ATEN:
        return "torch's own"
    tiles = " ".join(f"{name.removeprefix('BLOCK_')}={size}" for name, size in one.config.tiles.items())
    return f"{one.config.kernel} {tiles} w{one.config.num_warps} s{one.config.num_stages}"


def _color(one: Point, subject: Subject) -> str:
    if one.config == ATEN:
        return TORCH
    return BEST if one is subject.best or one in subject.tied else OTHER


def _line(axes: Axes, at: float, name: str, color: str) -> None:
    axes.axvline(at, color=color, linewidth=1, linestyle="--")
    axes.annotate(name, (at, -0.9), (3, 0), textcoords="offset points", color=color, fontsize=8, va="center")


def _figure(height: float) -> tuple[Figure, Axes]:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        return figure, figure.subplots()


def _svg(figure: Figure, title: str) -> str:
    """Return the figure as an element of a page, without a prologue, named for who cannot see it."""
    out = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    element = out.getvalue().partition("<svg ")[2]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    return f'<svg role="img" aria-label="{title}" {element}'
