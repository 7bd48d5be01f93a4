"""What is asked to be tuned: problems, with how often they are called and by which modules."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from autoconv.errors import FieldError, ProblemError, suggestion
from autoconv.problem import Problem
from autoconv.tuning.cover import spanned

_FIELDS = tuple(field.name for field in fields(Problem) if field.name != "_")
_RANGE = re.compile(r"\b(\w+)\s*=\s*(\d{1,20})\s*\.\.\s*(\d{1,20})(?=\s*(?:,|$))")
_SPELLINGS = {  # of fields whose values are two: what false means, and what true
    "transposed": ("op", ("conv", "conv_transpose")),
    "input_contiguous": ("layout", ("nlc", "ncl")),
}
_RANGED = ("N", "L")  # a module shape leaves them open


@dataclass(frozen=True)
class Asked:
    """One problem that is to be tuned."""

    problem: Problem
    calls: int = 1
    names: tuple[str, ...] = ()  # of the modules that pose it

    def to_json(self) -> dict[str, Any]:
        """Return what `autoconv capture` writes of it, and `parsed` reads."""
        return {"problem": str(self.problem), "calls": self.calls, "modules": list(self.names)}


def merged(asked: Iterable[Asked]) -> list[Asked]:
    """Return each problem once, with all its calls and names."""
    found: dict[Problem, Asked] = {}
    for one in asked:
        before = found.get(one.problem)
        if before is not None:
            names = tuple(dict.fromkeys((*before.names, *one.names)))
            one = Asked(one.problem, before.calls + one.calls, names)
        found[one.problem] = one
    return list(found.values())


def parsed(text: str) -> list[Asked]:
    """Read a problem from its text form, in which N and L may be ranges, such as L=200..4000.

    A range stands for a few sizes in whose buckets all of it lies.

    Raises:
        ProblemError: as `Problem.parse`; or a range is of another field, or ends before it begins.

    >>> [one.problem.L for one in parsed("N=1,Cin=4,Cout=4,K=5,L=200..4000")]
    [384, 1520, 4000]
    """
    ranges = {name: (int(least), int(most)) for name, least, most in _RANGE.findall(text)}
    if not ranges:
        return [Asked(Problem.parse(text))]
    for name, (least, most) in ranges.items():
        shown = f"{least}..{most}"
        if name not in _RANGED:
            remedy = "give one number; N and L take ranges"
            raise ProblemError(name, shown, "is not a field that takes a range", remedy)
        if most < least:
            raise ProblemError(name, shown, "ends before it begins", f"write {name}={most}..{least}")
    first = Problem.parse(_RANGE.sub(r"\1=\2", text))
    changed: dict[str, Any] = {name: most for name, (_, most) in ranges.items()}
    last = replace(first, **changed)
    return [Asked(problem) for problem in spanned(first, last)]


def read(text: str, source: str) -> list[Asked]:
    """Read problems from the text of a file: a JSON array, or a problem a line, as JSON or in its text form.

    A JSON object has the problem's text under "problem", or its fields, of which `transposed` may stand for
    op and `input_contiguous` for layout; "calls" or "count" says how often it is called, "modules", or
    "model" and "layer", by whom. Other keys are passed over unless they resemble a field that is missing, and
    so are empty lines and those that begin with #.

    Args:
        text: All of the file.
        source: Its name, for errors.

    Raises:
        FieldError: some entry is no problem; it names the line, or the entry of the array.
    """
    found: list[Asked] = []
    for place, entry in _entries(text, source):
        try:
            found += parsed(entry) if isinstance(entry, str) else _of_object(entry)
        except FieldError as error:
            raise FieldError(place, error.field, error.value, error.reason, error.remedy) from None
    return found


def _entries(text: str, source: str) -> Iterator[tuple[str, Any]]:
    """Yield each entry of a file, a string or what JSON has there, with its place."""
    if text.lstrip().startswith("["):
        whole = _json(text, source)
        yield from ((f"{source}, entry {number}", entry) for number, entry in enumerate(whole, start=1))
        return
    for number, line in enumerate(map(str.strip, text.splitlines()), start=1):
        place = f"{source}, line {number}"
        if line and not line.startswith("#"):
            yield place, _json(line, place) if line.startswith("{") else line


def _json(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        remedy = "give a JSON array, or a problem a line, as JSON or as N=64,Cin=64,Cout=128,K=3,L=4096"
        raise FieldError(place, "text", text, f"is not JSON ({error})", remedy) from None


def _of_object(entry: Any) -> list[Asked]:
    if not isinstance(entry, Mapping):
        remedy = "give an object with the problem's fields, or its text"
        raise ProblemError("entry", entry, "is neither an object nor a text", remedy)
    calls = entry.get("calls", entry.get("count", 1))
    if type(calls) is not int or calls < 1:
        raise ProblemError("calls", calls, "is not a number of calls", "give a whole number from 1 on")
    text = _text_alone(entry) if "problem" in entry else _as_text(entry)
    return [replace(one, calls=calls, names=_names(entry)) for one in parsed(text)]


def _text_alone(entry: Mapping[str, Any]) -> str:
    """Return the text that an object has under "problem", which says all of the problem."""
    for name in (*_FIELDS, *_SPELLINGS):
        if name in entry:
            remedy = "write it into the problem's text, or give all fields in its place"
            raise ProblemError(name, entry[name], 'is given beside "problem"', remedy)
    return str(entry["problem"])


def _as_text(entry: Mapping[str, Any]) -> str:
    """Return the text form of a problem's fields.

    >>> _as_text({"N": 1, "K": 3, "padding": [1, 2], "transposed": True, "bias": False, "model": "hifi"})
    'N=1,K=3,padding=1:2,bias=0,op=conv_transpose'
    """
    given = {name: value for name, value in entry.items() if name in _FIELDS}
    for name, (field, values) in _SPELLINGS.items():
        if name in entry:
            if field in given or not isinstance(entry[name], bool):
                reason = "is not true or false" if field not in given else f"is given beside {field}"
                raise ProblemError(name, entry[name], reason, f"give it alone, or give {field}")
            given[field] = values[entry[name]]
    free = [field for field in _FIELDS if field not in given]
    free += [name for name, (field, _) in _SPELLINGS.items() if field not in given]
    for name in sorted(entry.keys() - {*_FIELDS, *_SPELLINGS}):
        near = suggestion(name, free)
        if near:
            raise ProblemError(name, entry[name], f"is not a field{near}", "leave it out, or mend its name")
    return ",".join(f"{name}={_value(name, value)}" for name, value in given.items())


def _value(name: str, value: object) -> str:
    """Return a field's value as the text form has it."""
    if isinstance(value, list):
        return ":".join(_value(name, one) for one in value)
    if isinstance(value, bool) and name == "bias":
        return str(int(value))
    text = str(value)
    if isinstance(value, bool) or set(text) & set(",="):
        raise ProblemError(
            name, value, "is not one value of that field", "give a number or a name, as listed"
        )
    return text


def _names(entry: Mapping[str, Any]) -> tuple[str, ...]:
    modules = entry.get("modules")
    if isinstance(modules, list):
        return tuple(map(str, modules))
    of_layer = [str(entry[name]) for name in ("model", "layer") if name in entry]
    return (" ".join(of_layer),) if of_layer else ()
