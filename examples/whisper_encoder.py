"""The front of a Whisper encoder: which problems its convolutions pose, and what they should take on a GPU.

    python examples/whisper_encoder.py rtx4090 h100-sxm

Nothing is launched: the problems are looked up for devices that need not be here. What is found is printed
with where it comes from, measured or predicted; what is not found, with the command that tunes it.
"""

import json
import subprocess
import sys

from autoconv import Problem

FRAMES = 3000  # 30 s of audio


def problems(batch: int, width: int) -> dict[str, Problem]:
    """The two convolutions of an encoder of this width, in half precision, with their GELU."""
    first = Problem(batch, 80, width, 3, FRAMES, padding=1, bias=True, activation="gelu", dtype="float16")
    second = Problem(
        batch, width, width, 3, FRAMES, stride=2, padding=1, bias=True, activation="gelu", dtype="float16"
    )
    return {"conv1": first, "conv2": second}


def main() -> None:
    """Look the layers of Whisper tiny up."""
    for device in sys.argv[1:] or ["rtx4090"]:
        for name, problem in problems(batch=1, width=384).items():
            command = [sys.executable, "-m", "autoconv", "lookup", str(problem), "--device", device, "--json"]
            found = json.loads(subprocess.run(command, capture_output=True, text=True).stdout)
            times = {kind: found[f"{kind}_ms"] for kind in ("measured", "contended", "predicted")}
            told = [f"{kind} {time:.4g} ms" for kind, time in times.items() if time is not None]
            print(f"{device} {name}: {found['kernel']} {found['config']}")
            print(f"  {told[0] if told else 'no time'}, floor {found['floor_ms']:.4g} ms")
            if not found["found"]:
                print(f'  not tuned yet: autoconv tune "{problem}" --device {device}')


if __name__ == "__main__":
    main()
