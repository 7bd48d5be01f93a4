"""The plain values a tuning database keeps: environments, problems, trials and winners.

Everything hashed is hashed over canonical JSON (sorted keys, no spaces, ASCII, no NaN), so a hash depends on
the content alone, never on insertion order, process or platform.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or sys.version_info >= (3, 12):
    from functools import cached_property as cached_property
else:

    class cached_property:  # noqa: N801 - it stands in for the standard library's
        """What the standard library's is from Python 3.12 on: two threads at once may both compute the value.

        The older one holds a lock for all instances while it computes, and a child that was forked meanwhile
        would wait for ever for a thread that it does not have.
        """

        def __init__(self, compute):
            self._compute = compute
            self.__doc__ = compute.__doc__

        def __set_name__(self, owner, name):
            self._name = name

        def __get__(self, instance, owner=None):
            if instance is None:
                return self
            # An instance's own attribute goes before this descriptor, so this runs once.
            value = instance.__dict__[self._name] = self._compute(instance)
            return value


FINISHED_OUTCOMES = ("ok", "compiled", "resources", "compile", "launch", "wrong", "timeout", "crash")
OUTCOMES = ("started", *FINISHED_OUTCOMES)
PROVENANCES = ("measured", "contended", "predicted")
"""Best first. contended: timed beside other work; such times compare among themselves alone."""
_SCALARS = (str, int, float, bool, type(None))
_EXACT = frozenset({str, int, bool, type(None)})  # scalars that need no further look
_INT64 = 2**63

canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode
"""Returns a value as canonical JSON; raises TypeError for no JSON value, ValueError for NaN and infinity."""


class Application(str):
    """The name of an application, which its files carry, with how its problems read.

    Attributes:
        fields: the members of its problems' keys, which are JSON objects, in the order in which people write
            them, each with its default; None where there is none. The views of a file leave out what is at
            its default. Empty: they show the keys as they are.

    >>> Application("convolutions", {"N": None, "stride": 1}).fields["stride"]
    1
    """

    fields: Mapping[str, Any]

    def __new__(cls, name: str, fields: Mapping[str, Any] | None = None) -> Application:
        """Make the name, which is a text like any other."""
        made = super().__new__(cls, name)
        made.fields = dict(fields or {})
        return made


def digest(text: str) -> str:
    """Return the SHA-256 of `text` in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def plain(name: str, value: Mapping[str, Any], *, scalars: bool) -> dict[str, Any]:
    """Return a private copy of `value`, checked to be JSON that reads back as the same value.

    Raises:
        ValueError: it is not; the message calls it `name`.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"{name}={value!r} maps no names to values; give a dict")
    flat = True
    for key, item in value.items():
        if not isinstance(key, str):
            raise ValueError(f"{name}: key {key!r} is no text; name every entry with a string")
        if type(item) in _EXACT or (isinstance(item, _SCALARS) and _finite(item)):
            continue
        if scalars:
            raise ValueError(
                f"{name}[{key!r}]={item!r} is no JSON scalar; use text, a finite number, a bool or None"
            )
        flat = False
    if flat:
        return dict(value)
    try:
        copied: dict[str, Any] = json.loads(canonical(dict(value)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}={value!r} is not JSON ({error}); use plain finite values") from None
    return copied


def _finite(item: Any) -> bool:
    return not isinstance(item, float) or math.isfinite(item)


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name}={value!r} is no number; give one, or None") from None


def _microseconds(name: str, value: Any) -> float:
    if type(value) is float and 0.0 < value < math.inf:
        return value
    number = _number(name, value)
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{name}={value!r} is no duration; give finite microseconds above 0, or None")
    return number


def is_figure(value: object) -> bool:
    """Return whether a row can hold `value` as a figure: a finite float, or None."""
    return value is None or (type(value) is float and math.isfinite(value))


def is_duration(value: object) -> bool:
    """Return whether a row can hold `value` as a time: a finite float above 0, or None."""
    return value is None or (type(value) is float and 0.0 < value < math.inf)


def storable(value: str) -> str:
    """Return `value` with what UTF-8, and so SQLite, cannot hold (lone surrogates) written as escapes."""
    return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()


def instant(name: str, value: Any) -> str:
    """Return a time as the database keeps it: UTC, to the second, so that texts sort as times do.

    Raises:
        ValueError: it is not ISO 8601 with a zone; the message calls it `name`.
    """
    remedy = "give ISO 8601 with its zone, such as 2026-01-31T12:00:00Z"
    try:
        time = datetime.fromisoformat(as_text(name, value).replace("Z", "+00:00"))
        if time.tzinfo is None:
            raise ValueError("of no zone")
        return time.astimezone(timezone.utc).isoformat(timespec="seconds")
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{name}={value!r} is no time ({error}); {remedy}") from None


def as_text(name: str, value: Any) -> str:
    """Return `value` as the database keeps a text; raises ValueError, which calls it `name`, for no text."""
    if not isinstance(value, str):
        raise ValueError(f"{name}={value!r} is no text; give a string")
    return storable(value)


@dataclass(frozen=True)
class EnvironmentRecord:
    """What a figure holds for: the machine and its tools.

    `hard` fields decide whether an entry applies at all; `soft` fields say how exactly it applies.

    Raises:
        ValueError: a field is no JSON scalar.
    """

    hard: Mapping[str, str | int | None]
    soft: Mapping[str, str | int | float | None]

    def __post_init__(self) -> None:
        object.__setattr__(self, "hard", plain("hard", self.hard, scalars=True))
        object.__setattr__(self, "soft", plain("soft", self.soft, scalars=True))

    @cached_property
    def hard_hash(self) -> str:
        """SHA-256 of the hard fields."""
        return digest(canonical(self.hard))

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the hard and the soft fields."""
        return digest(self.document)

    @cached_property
    def document(self) -> str:
        """The canonical JSON of both, as the database stores it."""
        return canonical({"hard": self.hard, "soft": self.soft})


@dataclass(frozen=True)
class ProblemRecord:
    """One problem: the caller's canonical text, and columns that let a person query for it.

    Raises:
        ValueError: the key is empty, or a column is neither text nor an integer of 64 bits.
    """

    key: str
    columns: Mapping[str, int | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.key, str) or not self.key or storable(self.key) != self.key:
            raise ValueError(
                f"key={self.key!r} identifies no problem; give non-empty text that UTF-8 can hold"
            )
        object.__setattr__(self, "columns", plain("columns", self.columns, scalars=True))
        for name, value in self.columns.items():
            if isinstance(value, int):
                fits = -_INT64 <= value < _INT64
            else:
                fits = isinstance(value, str) and (value.isascii() or storable(value) == value)
            if not fits:
                raise ValueError(
                    f"columns[{name!r}]={value!r} fits no column; give text or an integer of 64 bits"
                )


@dataclass(frozen=True)
class RunRecord:
    """One sweep: where its trials ran, and what the caller notes about it.

    Raises:
        ValueError: the id or the origin is no text, the info is not JSON, or `finished` is no bool.
    """

    id: str  # a UUID
    environment: EnvironmentRecord
    origin: str
    info: Mapping[str, Any] = field(default_factory=dict)  # any JSON
    finished: bool = False  # whether it came to its end; one that did not is to be taken up again

    def __post_init__(self) -> None:
        for name, value in (("id", self.id), ("origin", self.origin)):
            object.__setattr__(self, name, as_text(name, value))
        if not isinstance(self.finished, bool):
            raise ValueError(f"finished={self.finished!r} is neither True nor False; give one of them")
        object.__setattr__(self, "info", plain("info", self.info, scalars=False))


@dataclass(frozen=True)
class Trial:
    """One configuration tried on one problem; never changed once finished.

    Raises:
        ValueError: an unknown outcome, a duration that is none, or values JSON cannot hold.
    """

    config: Mapping[str, Any]  # JSON scalars
    outcome: str  # one of OUTCOMES; only "ok" (output verified) can become a winner
    predicted_us: float | None = None  # microseconds, by a model
    samples_us: tuple[float, ...] = ()  # microseconds, each one timed
    measured_us: float | None = None  # microseconds; the median of the samples unless given
    max_err: float | None = None  # largest error seen; an infinite or NaN one is kept as None
    error: str | None = None  # what went wrong, in words
    detail: Mapping[str, Any] = field(default_factory=dict)  # any JSON; "default", "contended" mean something
    source: str = ""  # names the code that was tried; any text of the caller's
    predictor: str = ""  # names what made `predicted_us`, likewise; empty where nothing was predicted

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise ValueError(f"outcome={self.outcome!r} is unknown; use one of {', '.join(OUTCOMES)}")
        if not (self.error is None or isinstance(self.error, str)):
            raise ValueError(f"error={self.error!r} is no text; give a string, or None")
        put = partial(object.__setattr__, self)
        samples = tuple([_microseconds("samples_us", sample) for sample in self.samples_us])
        measured = statistics.median(samples) if samples and self.measured_us is None else self.measured_us
        for name, value in (("predicted_us", self.predicted_us), ("measured_us", measured)):
            put(name, None if value is None else _microseconds(name, value))
        largest = math.inf if self.max_err is None else _number("max_err", self.max_err)
        put("samples_us", samples)
        put("max_err", largest if math.isfinite(largest) else None)
        put("error", None if self.error is None else storable(self.error))
        put("source", as_text("source", self.source))
        put("predictor", as_text("predictor", self.predictor))
        put("config", plain("config", self.config, scalars=True))
        put("detail", plain("detail", self.detail, scalars=False))

    @cached_property
    def config_hash(self) -> str:
        """SHA-256 of the configuration."""
        return digest(canonical(self.config))

    @property
    def is_default(self) -> bool:
        """Whether this configuration is the one in use without tuning: its detail has "default": true."""
        return self.detail.get("default") is True

    @property
    def contended(self) -> bool:
        """Whether its time was taken beside other work: its detail has "contended": true."""
        return self.detail.get("contended") is True

    @property
    def finished(self) -> bool:
        """Whether the trial came to an end; one left "started" took its process down with it."""
        return self.outcome != "started"


@dataclass(frozen=True)
class Pin:
    """The mark of a file that is never written again, and asked before all others.

    Raises:
        ValueError: the title is no text, or `made` no time.
    """

    title: str  # what the caller says of it: which device it is for, say
    made: str  # when; ISO 8601, kept in UTC

    def __post_init__(self) -> None:
        object.__setattr__(self, "title", as_text("title", self.title))
        object.__setattr__(self, "made", instant("made", self.made))


@dataclass(frozen=True)
class Winner:
    """The best configuration of one source for one problem in one environment, derived from the trials.

    There is one where anything of that source was timed there, and else one a predictor: measured and
    predicted times do not compare, nor do those of two predictors. Times taken beside other work count only
    where there are no others. Whoever asks knows which sources are
    today's, and chooses among those.

    Raises:
        ValueError: an unknown provenance, one without its time, a figure that is no number, or a config whose
            values are no JSON scalars.
    """

    environment: EnvironmentRecord
    problem: ProblemRecord
    config: Mapping[str, Any]
    provenance: str  # one of PROVENANCES: what the choice, the margin and the ties rest on
    measured_us: float | None  # microseconds, median over the runs; None where only predicted
    predicted_us: float | None  # microseconds, median over the runs; of the trial told about, if timed
    max_err: float | None  # the largest over the runs
    margin: float | None  # least time of the others / its own - 1, below 0 if a tie is faster; None without
    ties: int  # other configurations whose time is as good, within TIE_TOLERANCE of the least
    noise: float | None = None  # median deviation of its samples from their median, over that median
    default_us: float | None = None  # microseconds, of the default configuration; same provenance
    detail: Mapping[str, Any] = field(default_factory=dict)  # of the trial nearest the median
    source: str = ""  # of its trials
    predictor: str = ""  # of its trials where predicted; empty where timed
    finished: bool = True  # whether a run that came to its end is among those it was chosen from

    def __post_init__(self) -> None:
        if self.provenance not in PROVENANCES:
            raise ValueError(f"provenance={self.provenance!r} is unknown; use {' or '.join(PROVENANCES)}")
        for name in ("measured_us", "predicted_us", "default_us"):
            if not is_duration(getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)!r} is no duration; give microseconds, or None")
        rests_on = "predicted_us" if self.provenance == "predicted" else "measured_us"
        if getattr(self, rests_on) is None:
            raise ValueError(f"{rests_on}=None, and the choice rests on it; give microseconds")
        for name in ("max_err", "margin", "noise"):
            if not is_figure(getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)!r} is no number; give a finite one, or None")
        if type(self.ties) is not int:
            raise ValueError(f"ties={self.ties!r} is no count; give a whole number")
        object.__setattr__(self, "config", plain("config", self.config, scalars=True))

    @property
    def time_us(self) -> float:
        """The time that the choice rests on, in microseconds."""
        time = self.predicted_us if self.provenance == "predicted" else self.measured_us
        return math.inf if time is None else time

    @cached_property
    def config_hash(self) -> str:
        """SHA-256 of the configuration."""
        return digest(canonical(self.config))
