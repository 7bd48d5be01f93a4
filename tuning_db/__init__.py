"""A tuning database for any kernel: it keeps every trial, derives the winners, knows nothing of kernels."""

from .errors import (
    BusyError,
    ContradictionError,
    DamagedError,
    ForeignFileError,
    NewerSchemaError,
    TuningDBError,
    UnwritableError,
)
from .files import single_flight
from .jsonl import bounded_lines, open_text
from .layers import Layers
from .maintenance import Pruned, Report, check, prune, rebuild, vacuum
from .misses import Miss
from .nearest import Neighbour
from .packing import write_pin
from .ranking import Ranked
from .records import Application, EnvironmentRecord, Pin, ProblemRecord, RunRecord, Trial, Winner
from .recovery import open_healed
from .siblings import Sibling
from .store import TuningDB
from .transfer import ImportSummary, entry_lines, export_lines, import_lines, merge, quarantined

__all__ = [
    "Application",
    "BusyError",
    "ContradictionError",
    "DamagedError",
    "EnvironmentRecord",
    "ForeignFileError",
    "ImportSummary",
    "Layers",
    "Miss",
    "Neighbour",
    "NewerSchemaError",
    "Pin",
    "ProblemRecord",
    "Pruned",
    "Ranked",
    "Report",
    "RunRecord",
    "Sibling",
    "Trial",
    "TuningDB",
    "TuningDBError",
    "UnwritableError",
    "Winner",
    "bounded_lines",
    "check",
    "entry_lines",
    "export_lines",
    "import_lines",
    "merge",
    "open_healed",
    "open_text",
    "prune",
    "quarantined",
    "rebuild",
    "single_flight",
    "vacuum",
    "write_pin",
]
