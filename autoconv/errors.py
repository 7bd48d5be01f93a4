"""The errors autoconv raises on purpose: a small tree, each carrying its data and its remedy."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

_LONGEST_VALUE = 120  # characters of a bad value shown; the whole of it stays in `value`


class AutoconvError(Exception):
    """Base of every error autoconv raises on purpose."""


class FieldError(AutoconvError, ValueError):
    """One field of one thing has a value that cannot be used.

    Attributes:
        subject: what the field belongs to, such as ``"problem"``.
        field: the field's name as the user writes it.
        value: the value given; None where none was given.
        reason: what is wrong with it.
        remedy: what to write instead.
    """

    def __init__(self, subject: str, field: str, value: object, reason: str, remedy: str) -> None:
        """Keep the parts; the message is put together when it is asked for."""
        super().__init__(subject, field, value, reason, remedy)
        self.subject = subject
        self.field = field
        self.value = value
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        """One line: subject, field and value, reason, remedy."""
        shown = "" if self.value is None else f"={_one_line(self.value)}"
        return f"{self.subject}: {self.field}{shown}: {self.reason}; {self.remedy}"

    def __reduce__(self) -> tuple[Callable[..., FieldError], tuple[Any, ...]]:
        """Pickle by parts, because the subclasses take one argument fewer than this class."""
        return _restore, (type(self), self.subject, self.field, self.value, self.reason, self.remedy)


class ProblemError(FieldError):
    """A field of a problem is unknown, missing or impossible."""

    def __init__(self, field: str, value: object, reason: str, remedy: str) -> None:
        """As FieldError, the subject being ``"problem"``."""
        super().__init__("problem", field, value, reason, remedy)


class ConfigError(FieldError):
    """A field of a config is unknown, missing or impossible."""

    def __init__(self, field: str, value: object, reason: str, remedy: str) -> None:
        """As FieldError, the subject being ``"config"``."""
        super().__init__("config", field, value, reason, remedy)


class DeviceError(FieldError):
    """A device is not in the catalogue, or was asked for something it has no figure for."""

    def __init__(self, field: str, value: object, reason: str, remedy: str) -> None:
        """As FieldError, the subject being ``"device"``."""
        super().__init__("device", field, value, reason, remedy)


class SettingError(FieldError):
    """An environment variable of autoconv's holds a value that cannot be used."""

    def __init__(self, field: str, value: object, reason: str, remedy: str) -> None:
        """As FieldError, the subject being ``"setting"``."""
        super().__init__("setting", field, value, reason, remedy)


class MissError(AutoconvError, LookupError):
    """No tuned config serves the problem, and the policy in force is ``strict``.

    Attributes:
        problem: the problem as text.
        why: one line per reason, such as a field in which the nearest entry differs.
    """

    def __init__(self, problem: str, why: Sequence[str]) -> None:
        """Keep the problem and the reasons."""
        super().__init__(problem, list(why))
        self.problem = problem
        self.why = list(why)

    def __str__(self) -> str:
        """One line: the problem, the reasons, the remedy."""
        reasons = "; ".join(map(_one_line, self.why)) or "the tuning database holds nothing near it"
        return (
            f"no tuned config for {self.problem}: {reasons}; "
            f'run `autoconv tune "{self.problem}"` or set AUTOCONV_ON_MISS to sweep, background or predict'
        )


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return ``", did you mean X?"`` for the known names closest to `name`, or an empty string.

    Names that begin with `name` come before merely similar ones; letter case is ignored.

    >>> suggestion("cin", ["Cin", "Cout"])
    ', did you mean Cin?'
    >>> suggestion("h100", ["h100-pcie", "h100-sxm", "h200"])
    ', did you mean h100-pcie or h100-sxm?'
    >>> suggestion("zebra", ["Cin", "Cout"])
    ''
    """
    wanted = name.lower()
    by_lower = {candidate.lower(): candidate for candidate in known}
    longer = [candidate for candidate in by_lower if wanted and candidate.startswith(wanted)]
    close = longer[:3] or difflib.get_close_matches(wanted, by_lower, n=1)
    return f", did you mean {' or '.join(by_lower[candidate] for candidate in close)}?" if close else ""


def _restore(
    kind: type[FieldError], subject: str, field: str, value: object, reason: str, remedy: str
) -> FieldError:
    error = kind.__new__(kind)
    FieldError.__init__(error, subject, field, value, reason, remedy)
    return error


def _one_line(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."
