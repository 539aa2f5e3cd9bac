"""Numbers in sentences, and what this program is called there."""

from __future__ import annotations

import sys
from pathlib import Path

_CALLED = Path(sys.argv[0])

_INSTALLED = _CALLED.stem == "ovss" or _CALLED.parts[-2:] == ("ovss", "__main__.py")

PROGRAM = "ovss" if _INSTALLED else "train_free_eval.py"
"""What this program was called as, for messages: the installed command or the checkout's script."""

COMMAND = PROGRAM if _INSTALLED else f"python {PROGRAM}"
"""The same as one types it."""


def counted(number: int, noun: str) -> str:
    """A number with what it counts.

    Example:
        >>> counted(1, "photo"), counted(1449, "photo")
        ('1 photo', '1449 photos')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def percent(value: float | None) -> str:
    """A share as percent with one decimal; a dash for none."""
    return "-" if value is None else f"{100 * value:.1f}"
