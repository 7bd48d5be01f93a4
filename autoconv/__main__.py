"""`python -m autoconv`: the command line."""

from __future__ import annotations

from autoconv.cli import main

if __name__ == "__main__":
    main()
