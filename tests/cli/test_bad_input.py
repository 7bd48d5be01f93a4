"""What the user got wrong is one line: field, value, remedy; exit status 2; never a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from autoconv.settings import child_environment

GOOD = "N=1,Cin=16,Cout=16,K=1,L=16"
CONFIG = '{"BLOCK_CO":16,"BLOCK_L":16,"BLOCK_R":16,"num_warps":2,"num_stages":2}'
GROUPS = "N=2,Cin=4,Cout=4,K=3,L=60,groups=2"


def config(**changes) -> str:
    numbers = {**json.loads(CONFIG), **changes}
    return json.dumps({name: value for name, value in numbers.items() if value != "left out"})


PROBLEMS = [
    ("N=64,Cin=0", "problem: Cin=0: must be at least 1; give the number of input channels"),
    ("N=64", "problem: Cin: is missing; add Cin= with the number of input channels"),
    ("N=1,Cin=1,Cout=1,K=5,L=3,dilation=2",
     "problem: L=3: is too short for K=5, dilation=2 and padding=0; the smallest L that works is 9"),
    ("N=1,cin=1,Cout=1,K=1,L=1", "problem: cin=1: is not a field, did you mean Cin?; the fields are N, Cin,"),
    (f"{GOOD},dtype=float8", "problem: dtype=float8: is not a known dtype"),
    (f"{GOOD},groups=3", "problem: groups=3: does not divide Cin=16; give a common divisor"),
    (f"{GOOD},N=2", "problem: N=2: given more than once; keep one N="),
    ("nonsense", "problem: nonsense: is not name=value; write it as in N=64"),
    ("", "problem: text: is not name=value; write it as in N=64"),
    ("N=1\nCin=1", "problem: N=1 Cin=1:"),
]  # fmt: skip

CONFIGS = [
    (("--kernel", "dense"), "config: --config: is missing; give --kernel and --config together, or neither"),
    (("--config", CONFIG), "config: --kernel: is missing; give --kernel and --config together, or neither"),
    (("--kernel", "dense", "--config", "{bad"), "config: config={bad: is not JSON (Expecting property name"),
    (("--kernel", "dense", "--config", ""), "config: config=: is not JSON"),
    (("--kernel", "dense", "--config", "[" * 100_000), "config: config=[[[["),
    (("--kernel", "dense", "--config", '{"BLOCK_L":' * 100_000), 'config: config={"BLOCK_L":{"BLOCK_L":'),
    (("--kernel", "dense", "--config", f'{{"BLOCK_L":{"9" * 5000}}}'), 'config: config={"BLOCK_L":9999'),
    (("--kernel", "dense", "--config", "[16]"), "config: config=[16]: must map names to numbers; give"),
    (("--kernel", "dense", "--config", "7"), "config: config=7: must map names to numbers; give"),
    (("--kernel", "dense", "--config", "NaN"), "config: config=nan: must map names to numbers; give"),
    (("--kernel", "dens", "--config", CONFIG), "config: kernel=dens: is not known; use one of"),
    (("--kernel", "no such", "--config", CONFIG), "config: kernel=no such: is not a kernel's name; give"),
    (("--kernel", "dense", "--config", config(BLOCK_M=16)), "config: BLOCK_M=16: is not a tile of dense;"),
    (("--kernel", "dense", "--config", config(BLOCK_L="left out")), "config: BLOCK_L: is missing from a"),
    (("--kernel", "dense", "--config", config(BLOCK_L=24)), "config: BLOCK_L=24: must be a power of two;"),
    (("--kernel", "dense", "--config", config(BLOCK_L=16.0)), "config: BLOCK_L=16.0: must be a whole"),
    (("--kernel", "dense", "--config", config(num_warps="left out")), "config: num_warps: is missing; add"),
    (("--kernel", "dense", "--config", config(num_warps=3)), "config: num_warps=3: must be a power of"),
    (("--kernel", "dense", "--config", config(num_stages=0)), "config: num_stages=0: must be at least 1;"),
]  # fmt: skip

# More phases than a grid's axis holds, and a dilation that keeps them from being rows of one product.
NOBODYS = "N=1,Cin=1,Cout=1,K=2,L=2,stride=65536,dilation=2,op=conv_transpose"


MORE = [
    (
        ("--resources", "register=3"),
        "config: resources=register=3: is not one of registers, shared, spills with a",
    ),
    (
        ("--resources", "registers=many"),
        "config: resources=registers=many: is not one of registers, shared, spills",
    ),
    (
        ("--resources", "registers=-1"),
        "config: resources=registers=-1: is not one of registers, shared, spills",
    ),
    (("--resources", "registers=\u00b2"), "config: resources=registers=\u00b2: is not one of registers"),
    (("--resources", f"registers={'9' * 5000}"), "config: resources=registers=9999"),
    (("--against", "[" * 100_000), "config: config=[[[["),
    (("--against-kernel", "dense"), "config: --against: is missing; give it with --against-kernel"),
    (("--against", ""), "config: config=: is not JSON"),
    (("--against", "{bad"), "config: config={bad: is not JSON"),
    (("--against", config(BLOCK_L=24)), "config: BLOCK_L=24: must be a power of two;"),
]


def refused(result) -> str:
    """The one line of an error."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = [line for line in result.stderr.splitlines() if not line.startswith("autoconv: ")]
    assert line.startswith("Error: ")
    return line.removeprefix("Error: ")


@pytest.mark.parametrize(("problem", "message"), PROBLEMS, ids=[text for text, _ in PROBLEMS])
@pytest.mark.parametrize("command", ["tune", "lookup", "explain", "verify"])
def test_a_problem_that_is_none(command, problem, message, run):
    for extra in ((), ("--json",)):
        assert refused(run(command, problem, *extra)).startswith(message)


@pytest.mark.parametrize(("arguments", "message"), CONFIGS, ids=[message[8:30] for _, message in CONFIGS])
@pytest.mark.parametrize("command", ["explain", "verify"])
def test_a_config_that_is_none(command, arguments, message, run):
    assert refused(run(command, GOOD, *arguments, "--json")).startswith(message)


@pytest.mark.parametrize(("arguments", "message"), MORE, ids=[message[8:40] for _, message in MORE])
def test_what_explain_alone_takes(arguments, message, run):
    line = refused(run("explain", GOOD, "--kernel", "dense", "--config", CONFIG, *arguments))
    assert line.startswith(message)


@pytest.mark.parametrize("command", ["tune", "lookup", "explain", "verify"])
def test_a_device_that_is_none(command, run):
    line = refused(run(command, GOOD, "--device", "rtx409"))
    assert line.startswith(
        "device: name=rtx409: is not a known device, did you mean rtx4090?; give one of a10,"
    )


@pytest.mark.parametrize("command", ["explain", "verify"])
def test_a_kernel_that_cannot_run_the_problem(command, run):
    line = refused(run(command, GROUPS, "--kernel", "dense", "--config", CONFIG, "--device", "l4"))
    assert line == (
        f"config: kernel=dense: cannot run {GROUPS}: it runs groups=1, not groups=2; choose another kernel"
    )


@pytest.mark.parametrize("command", ["tune", "explain", "verify"])
def test_a_problem_that_no_kernel_runs(command, run):
    line = refused(run(command, NOBODYS, "--device", "l4"))
    assert line.startswith(
        "problem: op=conv_transpose: no kernel runs this combination of fields; leave it to torch"
    )


@pytest.mark.parametrize(
    ("vast", "field"), [("stride=2305843009213693952", "stride"), ("padding=36028797018963968", "padding")]
)
@pytest.mark.parametrize("command", ["tune", "explain", "verify"])
def test_a_problem_that_no_kernel_reaches(command, vast, field, run):
    line = refused(run(command, f"N=1,Cin=16,Cout=16,K=1,L=20,{vast}", "--device", "l4"))
    assert line.startswith(f"problem: {vast}: its offsets reach ")
    assert line.endswith("past the 2**49 that a GPU addresses; leave it to torch.nn.functional")


@pytest.mark.parametrize("command", ["explain", "verify"])
def test_a_config_for_a_problem_that_no_kernel_reaches(command, run):
    vast = "N=1,Cin=16,Cout=16,K=1,L=20,stride=2305843009213693952"
    line = refused(run(command, vast, "--kernel", "dense", "--config", CONFIG, "--device", "l4"))
    assert line.startswith(f"config: kernel=dense: cannot run {vast}: its offsets reach ")


def test_a_lookup_of_what_no_kernel_reaches_finds_nothing(run):
    shown = run("lookup", "N=1,Cin=16,Cout=16,K=1,L=20,stride=2305843009213693952", "--device", "l4")
    assert shown.exit_code == 1 and shown.stdout.startswith("not found\n")


def test_a_config_that_does_not_compile(run):
    line = refused(run("explain", GOOD, "--kernel", "dense", "--config", config(BLOCK_R=8), "--device", "l4"))
    assert line.startswith(
        "config: config=dense[BLOCK_CO=16 BLOCK_L=16 BLOCK_R=8 num_warps=2 num_stages=2]: "
    )
    assert "does not compile for l4 (CompilationError: " in line
    assert line.endswith("; choose other tiles, warps or stages")


@pytest.mark.parametrize("command", ["explain", "emit"])
def test_a_machine_that_cannot_compile_is_no_fault_of_the_config(run, command, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("AUTOCONV_CACHE", str(tmp_path / "file" / "cache"))
    shown = run(
        command, GOOD.replace("L=16", "L=17"), "--kernel", "dense", "--config", CONFIG, "--device", "l4"
    )
    assert (shown.exit_code, shown.stdout) == (1, "")
    assert "cannot be compiled now (NotADirectoryError" in shown.stderr
    assert "see AUTOCONV_CACHE" in shown.stderr


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("AUTOCONV_ON_MISS", "maybe", "is not a policy; give background, sweep, predict or strict"),
        ("AUTOCONV_SWEEP_SECONDS", "soon", "is not a number of seconds above 0; give such as 60"),
        ("AUTOCONV_DB", "~nobody-of-that-name/x.db", "has a home folder that cannot be found; "
         "give an absolute path"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", [("tune", GOOD), ("lookup", GOOD), ("db", "info")], ids=" ".join)
def test_a_setting_that_is_none(command, variable, value, message, run, monkeypatch):
    monkeypatch.setenv(variable, value)
    assert refused(run(*command)) == f"setting: {variable}={value}: {message}"


def test_a_time_that_is_no_number(run):
    line = refused(run("tune", GOOD, "--device", "l4", "--seconds", "nan"))
    assert line == "tune: seconds=nan: is not a number of seconds; give such as 60"


@pytest.mark.parametrize("count", ["1", "9" * 30, "9" * 5000, "nan"])
def test_a_count_that_is_none(count, run):
    shown = run("db", "prune", "--best", count)
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert "Error: Invalid value for '--best': " in shown.stderr


def unwritable(tmp_path: Path) -> tuple[str, str]:
    return "/proc/nowhere/tuning.db", "its folder cannot be made"


def corrupt(tmp_path: Path) -> tuple[str, str]:
    path = tmp_path / "corrupt.db"
    path.write_bytes(b"this is no database " * 300)
    return str(path), "the file is damaged (file is not a database); move it away or restore a copy of it"


def folder(tmp_path: Path) -> tuple[str, str]:
    return str(
        tmp_path
    ), "unable to open database file; check permissions and free space, or choose another path"


@pytest.mark.parametrize(
    ("command", "trouble"),
    [
        (("tune", GOOD, "--device", "l4"), unwritable),
        (("tune", GOOD, "--device", "l4"), folder),
        (("db", "info"), unwritable),
        (("db", "info"), folder),
        (("db", "info"), corrupt),  # tune mends it
    ],
)
def test_a_database_that_does_not_serve(command, trouble, tmp_path, run, monkeypatch):
    path, message = trouble(tmp_path)
    monkeypatch.setenv("AUTOCONV_DB", path)
    assert refused(run(*command, "--json")).startswith(f"tuning database {path}: {message}")


def test_a_corrupt_database_does_not_stop_a_lookup(tmp_path, run, monkeypatch):
    path, _ = corrupt(tmp_path)
    monkeypatch.setenv("AUTOCONV_DB", path)
    shown = run("lookup", GOOD, "--device", "l4")
    assert (shown.exit_code, shown.stdout.partition(";")[0]) == (1, "not found")
    kept = "it is kept as corrupt.db.damaged-1, 0 trials were salvaged"
    assert shown.stderr == f"autoconv: {path} was damaged; {kept}\n"


@pytest.mark.parametrize(
    "arguments",
    [("nothing",), ("tune",), ("tune", GOOD, "--seconds", "0"), ("lookup", GOOD, "--kernel", "dense"),
     ("lookup", GOOD, GOOD), ("db",), ("db", "sweep"), ()],
    ids=" ".join,
)  # fmt: skip
def test_a_call_of_the_wrong_form(arguments, run):
    shown = run(*arguments)
    assert shown.exit_code == 2
    assert shown.stderr.startswith("Usage: autoconv") and shown.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ("tune", "N=64,Cin=0"),
        ("verify", GOOD, "--kernel", "dense", "--config", config(BLOCK_L=24)),
        ("lookup", GOOD, "--device", "rtx409"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_process_says_it_in_one_line_too(arguments):
    done = subprocess.run(
        [sys.executable, "-m", "autoconv", *arguments],
        capture_output=True,
        text=True,
        env=child_environment(),
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: ") and done.stderr.count("\n") == 1
