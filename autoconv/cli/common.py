"""What several commands share: their arguments, the device they mean, and how they print.

No command's module imports torch or Triton before the command needs them: --help and typing errors do not
wait two seconds for torch, and `autoconv doctor` can say that Triton is missing.
"""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar
from unicodedata import category

import click
from click.shell_completion import CompletionItem

from autoconv import device as devices
from autoconv import lookup, settings
from autoconv.config import Config
from autoconv.device import Device
from autoconv.environment import Environment
from autoconv.errors import ConfigError, DeviceError
from autoconv.kernels.aten import ATEN
from autoconv.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console

    from autoconv.sweep.sweep import Job
    from autoconv.tuning.tuner import Tuner
    from tuning_db import Layers

WITHOUT_GPU = "rtx4090"
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

problem_argument = click.argument("problem")
device_option = click.option(
    "--device",
    shell_complete=complete_devices,
    default="auto",
    show_default=True,
    metavar="NAME",
    help=f"GPU to answer for: {', '.join(devices.names())}; or auto, the GPU here, else {WITHOUT_GPU}.",
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


@dataclass(frozen=True)
class Target:
    """The device that a command answers for, and all that goes with it."""

    device: Device
    environment: Environment
    on_gpu: bool  # the device is present
    settings: Settings

    @cached_property
    def layers(self) -> Layers:
        """Every layer of the tuning database, without torch."""
        return lookup.open_layers(self.settings, note)

    @cached_property
    def tuner(self) -> Tuner:
        """What tunes and guesses. Imports torch."""
        from autoconv.tuning.tuner import Tuner

        return Tuner(self.settings, warn=note)

    def job(self, seconds: float = float("inf")) -> Job:
        """Return the sweep job for this target, of at most `seconds`."""
        from autoconv.sweep.sweep import Job

        return Job(self.device, self.environment, self.settings.cache, self.on_gpu, seconds)


def target(name: str) -> Target:
    """Return the target called `name`, "auto" included. Imports torch, which knows whether it is here.

    Raises:
        DeviceError: no device has that name, the GPU here is older than sm_80, or Triton does not compile
            for it.
        SettingError: an AUTOCONV_ variable has an invalid value.
    """
    from autoconv import gpu

    now = settings.load()
    here = gpu.current(0) if gpu.present() else None
    if name == "auto" and gpu.present() and here is None:
        raise DeviceError("name", name, "is a GPU of an unknown architecture", "name a device with --device")
    if name == "auto" and here is None:
        note(f"no GPU here: answering for {WITHOUT_GPU} (choose with --device)")
    device = (here or devices.find(WITHOUT_GPU)) if name == "auto" else devices.find(name)
    _check_compilable(device)
    on_gpu = here is not None and here.name == device.name
    driver, power = gpu.driver_and_power(0) if on_gpu else (None, None)
    environment = Environment.current(device, cuda_driver=driver, power_limit_w=power)
    return Target(device, environment, on_gpu, now)


def target_to_look_up(name: str) -> Target:
    """Return the target called `name` without torch where it is a device that is certainly not here.

    Raises:
        DeviceError: as `target` does, and so is the next.
        SettingError: see there.
    """
    if name == "auto":
        return target(name)
    device = devices.find(name)
    if {device.product, *device.other_products} & _products_here():
        return target(name)  # it may be this one, whose driver and power limit are part of the environment
    _check_compilable(device)
    return Target(device, Environment.current(device), on_gpu=False, settings=settings.load())


def _products_here() -> set[str]:
    """Return what the driver calls the GPUs of this machine.

    None where there is no nvidia-smi: the driver's version and the power limit could not be told then either.
    """
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return set()
    return {line.strip() for line in done.stdout.splitlines()}


def _check_compilable(device: Device) -> None:
    from autoconv.compiler.targets import uncompilable

    reason = uncompilable(device.arch)
    if reason is not None:
        raise DeviceError("name", device.name, f"cannot be tuned for: {reason}", "install that Triton")


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


@contextmanager
def progress_bar(title: str, console: Console | None = None) -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar on standard error, if that is a terminal; yield what to tell it: (doing, done, of).

    It keeps to one line of any width: what is being done, the bar and the numbers are whole, and of the title
    there is as much as fits.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Column

    room = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    columns = (
        TextColumn("{task.description}", markup=False, table_column=room),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    console = console or Console(stderr=True)
    quiet = not console.is_terminal
    with Progress(*columns, console=console, transient=True, expand=True, disable=quiet) as bars:
        bar = bars.add_task(printable(title), total=None)

        def show(doing: str, done: int, of: int) -> None:
            bars.update(bar, description=printable(f"{doing}: {title}"), completed=done, total=of)

        yield show
