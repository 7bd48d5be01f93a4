"""Take the results of a run on a GPU into the project: shipped rows, and a page of docs/.

    python -m scripts.gpu.adopt DIR [--best 3]

Of each problem swept the best few configs, torch's own convolution and what would have served untuned go to
tuning_db/prebuilt/DEVICE-tritonX.Y-measured.jsonl; docs/measured_DEVICE.md gets the tables. What was timed
before the source of its kernel changed is shipped, too: it is carried until the kernel is timed anew.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from autoconv.kernels.aten import ATEN
from autoconv.kernels.registry import kernels
from hatch_build import build_database
from scripts.gpu.summary import (
    forward_table,
    layer_table,
    loaded,
    model_table,
    pairs,
    summed,
    told_against_torch,
)

ROOT = Path(__file__).resolve().parents[2]
PREBUILT = ROOT / "tuning_db" / "prebuilt"
DOCS = ROOT / "docs"


def main() -> None:
    """Adopt one run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--best", type=int, default=3, help="configs of each problem")
    parser.add_argument("--date", required=True, help="of the run, as 2026-01-31")
    given = parser.parse_args()
    try:
        text = adopted(given.out, given.best)
    except RefusedError as refused:
        sys.exit(f"not adopted: {refused}")
    device = loaded(given.out / "machine.json")["environment"]["device"]
    to = DOCS / f"measured_{device}.md"
    to.write_text(page(given.out, given.date))
    print(
        f"{text.name}: {len(text.read_text().splitlines())} trials; {to.name}, which docs/measured.md names"
    )


class RefusedError(Exception):
    """Results that may not be shipped, and why."""


def adopted(out: Path, best: int) -> Path:
    """Write the shipped text and return its path.

    Raises:
        RefusedError: they are a rehearsal's, or no trial of a kernel of today was measured.
    """
    machine = loaded(out / "machine.json")
    environment = machine.get("environment")
    if machine.get("rehearsal") or not environment:
        raise RefusedError("a rehearsal measures nothing" if machine else f"{out} holds no machine.json")
    lines = (out / "export.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if shippable(json.loads(line), environment["device"])]
    if not kept:
        raise RefusedError("it has no measured trial of today's kernels")
    text = PREBUILT / f"{environment['device']}-triton{environment['triton']}-measured.jsonl"
    text.write_text("".join(chosen(kept, best)))
    build_database(ROOT)  # which raises on a line that is damaged or contradicts another
    return text


def shippable(line: dict[str, Any], device: str) -> bool:
    """Return whether a trial was measured on `device` with a kernel there is today, and passed its check."""
    trial = line["trial"]
    here = line["environment"]["soft"]["device"] == device
    known = trial["config"]["kernel"] in (*kernels(), ATEN.kernel)
    return bool(here and known and trial["outcome"] == "ok" and trial["samples_us"])


def chosen(lines: Iterable[str], best: int) -> list[str]:
    """Return of each problem the lines of its best trials, of torch's and of the default."""
    of_problem: dict[str, list[tuple[float, str, bool, str]]] = defaultdict(list)
    for line in lines:
        parsed = json.loads(line)
        trial = parsed["trial"]
        us, default = statistics.median(trial["samples_us"]), trial["detail"].get("default", False)
        of_problem[parsed["problem"]["key"]].append((us, trial["config"]["kernel"], default, line))
    kept = []
    for _, trials in sorted(of_problem.items()):
        ours = sorted(trial for trial in trials if trial[1] != ATEN.kernel)
        torchs = [trial for trial in trials if trial[1] == ATEN.kernel]
        rest = [trial for trial in ours[best:] if trial[2]]
        kept += [line for *_, line in (*ours[:best], *torchs, *rest)]
    return kept


def page(out: Path, date: str) -> str:
    """Return the page of what was measured in the run of that date."""
    found = summed(out)
    machine, environment = found["machine"], found["machine"]["environment"]
    versions = f"Triton {environment['triton_patch']}, torch {machine['versions']['torch']}"
    parts = [
        f"# Measured on {machine['nvidia_smi']['name']}",
        "[All GPUs](measured.md).",
        f"On {machine['nvidia_smi']['name']}, driver {environment['cuda_driver']}, "
        f"{environment['power_limit_w']} W, {versions}; {date}, by `scripts/gpu/run.sh`. Every time is the "
        'median of single calls with a cold L2, in microseconds; "with benchmark" is torch with cuDNN\'s '
        'benchmark mode, "first guess" what the model would serve untuned, "floor" every byte moved once '
        "at the data sheet's bandwidth, or the operations at its peak rate.",
        layer_table(found["layers"]),
        told_against_torch(found),
        *models(found),
        "## The model against it",
        "Over all configs that were timed, the winners and those drawn at random alike. Which measurements "
        "its constants were chosen with, [the cost model](cost_model.md) says.",
        model_table(found["model"]),
        "## What the card reaches",
        pairs("GB/s", machine["gbps"]) + ".",
        pairs("TFLOP/s of torch's products of 8192 x 8192 matrices", machine["tflops"]) + ".",
        pairs("Stores of 2 GiB alone, us", {name: row["us"] for name, row in found["stores"].items()}) + ".",
        pairs("A call of a small convolution costs the host, us", found["calls"]) + ".",
    ]
    return "\n\n".join(parts) + "\n"


def models(found: Mapping[str, Any]) -> list[str]:
    """Return what of the page is on whole models; nothing where none was run."""
    parts = []
    if found["models"]:
        swept = {row["model"]: (row["swept"], row["unfinished"]) for row in found["models"]}
        told = ", ".join(f"{one}: {done} sweeps, {left} left over" for one, (done, left) in swept.items())
        parts += [
            "## Whole models",
            f"Tuned with effort `quick` and a budget of some minutes ({told}); then a forward, in "
            "microseconds: as a captured graph, which leaves the host out, in turns, and eager, one after "
            "the other; medians of 15. Served: how many convolutions by which grade and layer, under the "
            "policy `predict`.",
            forward_table(found["models"]),
        ]
    for model, row in found["first_calls"].items():
        beyond = row["first_beyond_torch_by_convolution"]
        deciles, most = row["while_tuning_deciles"], row["while_tuning_most"]
        parts.append(
            f"First calls of {model}, by the default policy, nothing tuned: the very first forward takes "
            f"{beyond[0]:.1f} ms a convolution beyond torch's, for what the process starts then; that at "
            f"each further size {statistics.median(beyond[1:]):.2f} in the median, {max(beyond[1:]):.2f} at "
            f"most. While the background tunes beside, a forward at one size takes {deciles[4]:.1f} ms in "
            f"the median, {deciles[8]:.1f} in the 90th percentile and {most:.0f} at most; torch alone "
            f"{min(row['forwards'][0]['torch']):.1f}."
        )
    return parts


if __name__ == "__main__":
    main()
