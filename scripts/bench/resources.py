"""What the kernels compile to on a sample of published layers, and how that changed, as JSON.

    python scripts/bench/resources.py > before.json
    python scripts/bench/resources.py --like before.json > after.json

Every kernel that runs a layer of the sample is compiled with the config that is estimated to be its fastest
on DEVICE, for one GPU of each architecture. With `--like` the configs are those of an earlier run, and a
table of the differences goes to standard error: registers, bytes spilled, bytes of shared memory, and the
instructions of the main loop and of the whole kernel.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from autoconv.compiler.candidate import compile_candidate
from autoconv.config import Config
from autoconv.cost.predict import estimate_seconds
from autoconv.device import find
from autoconv.kernels.registry import supporting
from autoconv.problem import Problem

DEVICE = "rtx4090"
ARCHITECTURES = {"sm_80": "a100-80gb", "sm_89": "rtx4090", "sm_90": "h100-sxm"}
FIGURES = ("registers", "spills", "shared", "loop", "whole")
SAMPLE = [
    # KernelBench 67, 76 and 79; then layers of published models, the activation fused where they have one
    "N=32,Cin=64,Cout=128,K=3,L=131072",
    "N=64,Cin=64,Cout=128,K=3,L=524280,stride=3,dilation=4",
    "N=16,Cin=32,Cout=64,K=3,L=131072,op=conv_transpose,stride=2,padding=1,dilation=2",
    "N=1,Cin=64,Cout=64,K=11,L=55040,dilation=5,padding=25,bias=1",  # HiFi-GAN, residual block
    "N=1,Cin=512,Cout=256,K=16,L=430,op=conv_transpose,stride=8,padding=4,bias=1",  # HiFi-GAN, upsampling
    "N=1,Cin=80,Cout=384,K=3,L=3000,padding=1,bias=1,activation=gelu",  # Whisper, first layer
    "N=8,Cin=384,Cout=384,K=3,L=3000,stride=2,padding=1,bias=1,dtype=float16",  # Whisper, second layer
    "N=8,Cin=1,Cout=512,K=10,L=160000,stride=5",  # wav2vec 2.0, first layer
    "N=1,Cin=768,Cout=768,K=128,L=499,padding=64,groups=16,bias=1",  # wav2vec 2.0, positions
    "N=16,Cin=512,Cout=1536,K=1,L=840,bias=1,dtype=float16",
    "N=8,Cin=256,Cout=256,K=1,L=835",
    "N=16,Cin=512,Cout=512,K=31,L=400,padding=15,groups=512,dtype=bfloat16",  # Conformer
    "N=8,Cin=256,Cout=256,K=33,L=1501,padding=16,groups=256",  # QuartzNet
    "N=1,Cin=2048,Cout=4096,K=8,L=214,stride=4,padding=2",  # Demucs
    "N=4,Cin=128,Cout=64,K=41,L=8192,stride=4,padding=20,groups=16",  # a discriminator
    "N=4,Cin=256,Cout=256,K=3,L=1024,padding=1,bias=1,dtype=float16,layout=nlc",
    "N=4,Cin=512,Cout=512,K=5,L=1023,padding=2,layout=nlc",
    "N=8,Cin=64,Cout=128,K=3,L=8000,op=conv_weight,padding=1",
    "N=8,Cin=128,Cout=128,K=5,L=2000,padding=2,precision=ieee",
]


def measure(rows: list[tuple[str, str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Compile every (problem, architecture, config document), and return its figures."""
    found = []
    with tempfile.TemporaryDirectory() as cache:
        for done, (text, arch, document) in enumerate(rows, start=1):
            config = Config.from_document(document)
            taken = compile_candidate(Problem.parse(text), config, find(ARCHITECTURES[arch]), Path(cache))
            figures = {
                "registers": taken.registers,
                "spills": taken.spills,
                "shared": taken.shared,
                "loop": sum(taken.loop.values()),
                "whole": sum(taken.instructions.values()),
            }
            found.append({"problem": text, "arch": arch, "config": document, **figures})
            print(f"{done}/{len(rows)} {arch} {config}", file=sys.stderr)
    return found


def chosen() -> list[tuple[str, str, dict[str, Any]]]:
    """Return the sample: each layer with the best estimate of each kernel, for each architecture."""
    device = find(DEVICE)
    rows: list[tuple[str, str, dict[str, Any]]] = []
    for text in SAMPLE:
        problem = Problem.parse(text)
        for kernel in supporting(problem):
            configs = list(kernel.space(problem, device))
            if configs:
                seconds = estimate_seconds(problem, configs, device).tolist()
                best = configs[seconds.index(min(seconds))]
                rows += [(text, arch, dict(best.document())) for arch in ARCHITECTURES]
    return rows


def differences(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> list[str]:
    """Return a line for each candidate that compiles to something else, and a last one of counts."""
    lines = [f"{'kernel':<18}{'arch':<7}" + "".join(f"{name:>18}" for name in FIGURES)]
    changed = 0
    for old, new in zip(before, after, strict=True):
        if any(old[name] != new[name] for name in FIGURES):
            changed += 1
            cells = "".join(
                f"{old[name]:>9} -> {new[name]:<5}" if old[name] != new[name] else f"{old[name]:>18}"
                for name in FIGURES
            )
            lines.append(f"{old['config']['kernel']:<18}{old['arch']:<7}{cells}  {old['problem']}")
    return [*lines, f"{len(before)} compiled, {changed} differ"]


def main() -> None:
    """Print the figures, and with `--like` the differences from an earlier run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--like", type=Path, help="an earlier run, whose configs are compiled")
    parser.add_argument("--only", help="a kernel's name")
    given = parser.parse_args()
    before = json.loads(given.like.read_text())["rows"] if given.like else None
    rows = [(row["problem"], row["arch"], row["config"]) for row in before] if before else chosen()
    if given.only:
        rows = [row for row in rows if row[2]["kernel"] == given.only]
        before = before and [row for row in before if row["config"]["kernel"] == given.only]
    found = measure(rows)
    environment = {"python": platform.python_version(), "triton": version("triton")}
    print(json.dumps({"environment": environment, "rows": found}, indent=1))
    if before:
        print("\n".join(differences(before, found)), file=sys.stderr)


if __name__ == "__main__":
    main()
