"""What several commands share: their arguments, the device they mean, and how they print.

No command's module imports torch or Triton before the command needs them: --help and typing errors do not
wait two seconds for torch, and `autoconv doctor` can say that Triton is missing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar
from unicodedata import category

import click
from click.shell_completion import CompletionItem

from autoconv import device as devices
from autoconv import targets
from autoconv.config import Config
from autoconv.errors import ConfigError
from autoconv.kernels.aten import ATEN
from autoconv.lookup import published
from autoconv.targets import WITHOUT_GPU as WITHOUT_GPU
from autoconv.targets import Target as Target

_UNPRINTABLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # control and format characters, lone surrogates, separators

Command = TypeVar("Command", bound=Callable[..., Any])

PROBLEM_HELP = "PROBLEM is text such as N=64,Cin=64,Cout=128,K=3,L=4096; `autoconv --help` has its fields."


def _named(names: Callable[[], Iterable[str]]) -> Callable[..., list[CompletionItem]]:
    """Return what completes an option's value to one of these names."""

    def complete(_ctx: click.Context, _option: click.Parameter, begun: str) -> list[CompletionItem]:
        return [CompletionItem(name) for name in sorted(names()) if name.startswith(begun.lower())]

    return complete


def kernel_names() -> list[str]:
    """Return the names of all kernels, and of torch's own convolution; without Triton."""
    from autoconv.kernels.source import sources

    return [*sources(), ATEN.kernel]


complete_devices = _named(lambda: ["auto", *devices.names()])
complete_kernels = _named(kernel_names)
complete_models = _named(published.names)

problem_argument = click.argument("problem")
_DEVICES = f"GPU to answer for: {', '.join(devices.names())}; or auto, the GPU here, else {WITHOUT_GPU}."
device_option = click.option(
    "--device",
    shell_complete=complete_devices,
    default="auto",
    show_default=True,
    metavar="NAME",
    help=_DEVICES,
)
devices_option = click.option(
    "--device",
    "devices",
    shell_complete=complete_devices,
    multiple=True,
    default=["auto"],
    show_default="auto",
    metavar="NAME",
    help=_DEVICES,
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")


def config_options(command: Command) -> Command:
    """Add --kernel and --config."""
    command = click.option(
        "--config",
        "numbers",
        metavar="JSON",
        help="Tiles, warps and stages, such as "
        '{"BLOCK_CO": 128, "BLOCK_L": 128, "BLOCK_R": 16, "num_warps": 8, "num_stages": 3}.',
    )(command)
    return click.option(
        "--kernel", metavar="NAME", help="Kernel that --config is for.", shell_complete=complete_kernels
    )(command)


def target(name: str) -> Target:
    """Return the target called `name`, "auto" included; what is to be known of it is told on standard error.

    Raises:
        DeviceError: no device has that name, the GPU here is older than sm_80, or Triton does not compile
            for it.
        SettingError: an AUTOCONV_ variable has an invalid value.
    """
    return targets.target(name, note)


def device_called(name: str | None, there: Iterable[str]) -> str | None:
    """Return the name of a device as `there` or the catalogue has it, to pick rows by; None stays None.

    Raises:
        DeviceError: it is the name of none, neither in the catalogue nor there.
    """
    if name is None:
        return None
    wanted = name.strip().lower()
    if wanted in there:
        return wanted
    return target_to_look_up(wanted).device.name if wanted == "auto" else devices.find(wanted).name


def target_to_look_up(name: str) -> Target:
    """Return the target called `name`; without torch where it is a device that is certainly not here.

    Raises:
        DeviceError: as `target` does, and so is the next.
        SettingError: see there.
    """
    return targets.target_to_look_up(name, note)


def parse_config(kernel: str | None, numbers: str | None) -> Config | None:
    """Return the config that --kernel and --config give, or None where neither is given.

    Raises:
        ConfigError: only one of them is given, or they make no config.
    """
    if kernel is None and numbers is None:
        return None
    if kernel is None or numbers is None:
        missing = "--kernel" if kernel is None else "--config"
        raise ConfigError(missing, None, "is missing", "give --kernel and --config together, or neither")
    try:
        parsed = json.loads(numbers)
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            "config", numbers, f"is not JSON ({error})", 'give such as {"BLOCK_L":128}'
        ) from None
    return Config.from_json(kernel, parsed)


def printable(text: str) -> str:
    r"""Return text with what a terminal would act on escaped: it may be another's, out of a file.

    >>> print(printable("\x1b[2Jgone"))
    \x1b[2Jgone
    """
    return "".join(ascii(one)[1:-1] if category(one) in _UNPRINTABLE else one for one in text)


def say(line: str) -> None:
    """Print one line for a person on standard output."""
    click.echo(printable(line))


def note(message: str) -> None:
    """Print one line for a person on standard error."""
    click.echo(f"autoconv: {printable(message)}", err=True)


def print_json(fields: Mapping[str, Any]) -> None:
    """Print one JSON object on one line of standard output; a number that is not finite becomes null."""
    click.echo(json.dumps(_finite(fields), allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def milliseconds(microseconds: float | None) -> float | None:
    """Return microseconds as milliseconds; None stays None."""
    return None if microseconds is None else microseconds / 1e3
