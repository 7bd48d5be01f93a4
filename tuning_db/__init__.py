"""A tuning database for any kernel: it keeps every trial, derives the winners, knows nothing of kernels."""

from .checking import Report, check
from .errors import (
    BusyError,
    ContradictionError,
    DamagedError,
    ForeignFileError,
    NewerSchemaError,
    TuningDBError,
    UnwritableError,
)
from .healing import open_healed
from .layers import Layers
from .locks import single_flight
from .maintenance import Pruned, prune, rebuild, vacuum
from .nearest import Neighbour
from .reading import Ranked
from .records import EnvironmentRecord, ProblemRecord, RunRecord, Trial, Winner
from .store import TuningDB
from .text import open_text
from .transfer import ImportSummary, bounded_lines, export_lines, import_lines, merge, quarantined

__all__ = [
    "BusyError",
    "ContradictionError",
    "DamagedError",
    "EnvironmentRecord",
    "ForeignFileError",
    "ImportSummary",
    "Layers",
    "Neighbour",
    "NewerSchemaError",
    "ProblemRecord",
    "Pruned",
    "Ranked",
    "Report",
    "RunRecord",
    "Trial",
    "TuningDB",
    "TuningDBError",
    "UnwritableError",
    "Winner",
    "bounded_lines",
    "check",
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
]
