"""What `make demo` shows: three convolutions tuned for an RTX 4090 without one, and where that leads.

Nothing here is measured: times are predicted, numerics come from Triton's interpreter, launches are recorded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import autoconv
from autoconv import Config, Problem

DEVICE = "rtx4090"
FOLDER = Path(__file__).resolve().parents[1] / "build" / "demo"
SEED = Problem(64, 64, 128, 3, 224280, stride=3, dilation=4)
PROBLEMS = {
    "KernelBench 76, shortened": SEED,
    "KernelBench 67": Problem(32, 64, 128, 3, 131072),
    "KernelBench 76": Problem(64, 64, 128, 3, 524280, stride=3, dilation=4),
}
BASELINE = Config("im2col_rows", {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32}, num_warps=4, num_stages=2)

console = Console(width=max(120, Console().width))


def main() -> None:
    """Tune, tune again, compare, record one launch, compute one result."""
    if sys.argv[1:] == ["--interpreted"]:
        interpreted()
        return
    os.environ["AUTOCONV_DB"] = str(FOLDER / "tuning.db")
    os.environ["AUTOCONV_CACHE"] = str(FOLDER / "cache")
    console.rule(f"1. Tune for {DEVICE}: no GPU needed, so the times are predicted")
    tuned = tune("first pass", "--again")  # else the packaged database has them
    console.rule("2. Another process asks again")
    tune("second pass")
    console.rule("3. The schedule of the published kernels against the winner")
    compare(tuned)
    console.rule(f"4. ModelNew, up to the launch on an {DEVICE}")
    record()
    console.rule("5. ModelNew in Triton's interpreter, against torch")
    subprocess.run(
        [sys.executable, __file__, "--interpreted"], check=True, env={**os.environ, "TRITON_INTERPRET": "1"}
    )


def tune(title: str, *options: str) -> list[dict[str, Any]]:
    """Run `autoconv tune` in a process of its own, and say how many sweeps it made."""
    command = [
        sys.executable,
        "-m",
        "autoconv",
        "tune",
        *map(str, PROBLEMS.values()),
        "--device",
        DEVICE,
        "--json",
        *options,
    ]
    begun = monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        results = []
        for line in process.stdout:
            results.append(json.loads(line))
            console.print(f"{title}: {says(results[-1])}", highlight=False)
    if process.returncode:
        raise SystemExit(f"autoconv tune ended with status {process.returncode}")
    sweeps = sum(result["swept"] for result in results)
    console.print(f"{title}: {sweeps} sweeps, {monotonic() - begun:.1f} s", style="bold", highlight=False)
    return results


def says(result: dict[str, Any]) -> str:
    """Return one result as a line."""
    how = (
        f"{result['candidates']} candidates, {result['compiled']} compiled, {result['seconds']:.0f} s"
        if result["swept"]
        else "from the database"
    )
    time = f"{result['predicted_ms']:.2f} ms {result['provenance']}"
    return f"{result['problem']}: {result['kernel']}, {time} ({how})"


def compare(tuned: list[dict[str, Any]]) -> None:
    """Print the baseline and the winner of each problem, row under row."""
    table = Table(title=f"{DEVICE}, all times predicted", title_justify="left")
    columns = (
        "problem",
        "schedule",
        "grid",
        "blocks/SM",
        "registers",
        "DRAM GB (ideal)",
        "predicted ms",
        "floor ms",
    )
    for column in columns:
        table.add_column(column, justify="left" if column in ("problem", "schedule") else "right")
    of_problem = {result["problem"]: result for result in tuned}  # which end in any order
    for name, problem in PROBLEMS.items():
        result = of_problem[str(problem)]
        winner = Config.from_json(result["kernel"], result["config"])
        for label, config in ((f"{name}\n{problem}", BASELINE), ("", winner)):
            row = autoconv.predict(problem, config, DEVICE)
            table.add_row(
                label if config is BASELINE else "",
                schedule(config),
                " x ".join(map(str, row.grid)),
                str(row.blocks_per_sm),
                str(row.registers),
                f"{row.dram_bytes / 1e9:.2f} ({row.ideal_bytes / 1e9:.2f})",
                f"{row.seconds * 1e3:.2f}",
                f"{row.floor_seconds * 1e3:.2f}",
            )
        table.add_section()
    console.print(table)


def schedule(config: Config) -> str:
    """Return a config in two lines."""
    tiles = " ".join(f"{name.removeprefix('BLOCK_')}={size}" for name, size in config.tiles.items())
    return f"{config.kernel} {tiles}\n{config.num_warps} warps, {config.num_stages} stages"


def record() -> None:
    """Send the first problem through ModelNew on the recording driver, and print the launch."""
    model = autoconv.ModelNew(SEED.Cin, SEED.Cout, SEED.K, stride=SEED.stride, dilation=SEED.dilation)
    with torch.no_grad(), autoconv.recorded(DEVICE) as launches:
        y = model(torch.empty(SEED.x_shape))  # 3.7 GB of addresses; nothing touches the memory
    (launch,) = launches
    console.print(f"x {tuple(SEED.x_shape)} -> y {tuple(y.shape)}, one launch recorded:", highlight=False)
    console.print(f"  kernel {launch.kernel}, grid {launch.grid}", highlight=False)
    console.print(
        f"  num_warps={launch.num_warps} num_stages={launch.num_stages} shared={launch.shared} bytes"
    )
    constants = [value for value in launch.arguments if not isinstance(value, torch.Tensor)]
    console.print(f"  arguments after the tensors: {constants}", highlight=False)


def interpreted() -> None:
    """Compute a short input through ModelNew in the interpreter, and print the error."""
    os.environ["AUTOCONV_ON_MISS"] = "predict"
    torch.manual_seed(0)
    model = autoconv.ModelNew(SEED.Cin, SEED.Cout, SEED.K, stride=SEED.stride, dilation=SEED.dilation)
    x = torch.randn(2, SEED.Cin, 609)
    with torch.no_grad():
        expected = model.conv1d(x)
        with autoconv.interpreted(DEVICE):
            y = model(x)
    error = ((y - expected).norm() / expected.norm()).item()
    console.print(
        f"x {tuple(x.shape)} -> y {tuple(y.shape)}: relative error {error:.1e} against torch", highlight=False
    )
    if error > 2e-6:
        raise SystemExit("the interpreted kernel disagrees with torch")


if __name__ == "__main__":
    main()
