"""A report as one page of HTML. Imports Jinja and matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from autoconv.report import pictures
from autoconv.report.facts import Subject, total


def page(subjects: Sequence[Subject], title: str, *, made: datetime | None = None) -> str:
    """Return the page of `subjects`, one at least: of several a table, a picture and a sum before each.

    Args:
        subjects: In the order of the page.
        title: Its heading.
        made: When; now by default.
    """
    templates = Environment(
        loader=PackageLoader("autoconv.report", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    templates.filters["ms"] = lambda us: "-" if us is None else f"{us / 1e3:.4g} ms"
    templates.filters["percent"] = lambda share: f"{share:.0f} %"
    templates.filters["broken"] = lambda text: Markup("{}").format(text).replace(",", Markup(",<wbr>"))
    sections = [
        {
            "of": one,
            "roofline": Markup(pictures.roofline(one)),
            "sweep": Markup(pictures.sweep(one)),
            "moved": Markup(pictures.moved(one)),
        }
        for one in subjects
    ]
    return templates.get_template("page.html").render(
        title=title,
        sections=sections,
        overview=Markup(pictures.layers(subjects)) if len(subjects) > 1 else "",
        total=total(subjects),
        contended=any(one.best.contended_us is not None for one in subjects),
        version=version("autoconv"),
        made=(made or datetime.now(timezone.utc)).isoformat(sep=" ", timespec="minutes"),
    )
