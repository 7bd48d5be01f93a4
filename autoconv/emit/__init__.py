"""A tuned convolution as one Python file that needs torch and Triton alone."""

from autoconv.emit.file import emit
from autoconv.emit.heading import Facts
from autoconv.emit.rivals import Over, rivals

__all__ = ["Facts", "Over", "emit", "rivals"]
