"""A tuning database for any kernel: it keeps every trial, derives the winners, knows nothing of kernels."""

from .errors import DamagedError, ForeignFileError, NewerSchemaError, TuningDBError, UnwritableError
from .layers import Layers
from .locks import single_flight
from .records import EnvironmentRecord, ProblemRecord, Trial, Winner
from .store import TuningDB
from .transfer import ImportSummary, export_lines, import_lines

__all__ = [
    "DamagedError",
    "EnvironmentRecord",
    "ForeignFileError",
    "ImportSummary",
    "Layers",
    "NewerSchemaError",
    "ProblemRecord",
    "Trial",
    "TuningDB",
    "TuningDBError",
    "UnwritableError",
    "Winner",
    "export_lines",
    "import_lines",
    "single_flight",
]
