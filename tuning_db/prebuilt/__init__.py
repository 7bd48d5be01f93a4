"""Tuned data shipped as text (`*.jsonl`, as `export_lines` writes it), and its build into SQLite."""

from .build import build, is_intact

__all__ = ["build", "is_intact"]
