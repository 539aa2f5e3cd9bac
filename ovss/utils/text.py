"""Numbers in sentences, and what this program is called there."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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


def pace(done: int, seconds: float, unit: str = "photos") -> str:
    """How fast something goes: units a second or, of slow ones, seconds a unit.

    Args:
        done: how many took so many seconds.
        seconds: above 0.
        unit: in the plural.

    Example:
        >>> pace(12, 5.0), pace(5, 60.0), pace(0, 5.0)
        ('2.4 photos/s', '12 s/photo', '- s/photo')
    """
    if done >= seconds:
        return f"{done / seconds:.1f} {unit}/s"
    each = f"{seconds / done:.1f}" if done else "-"
    if len(each) > 3:  # from ten seconds on whole ones will do
        each = f"{seconds / done:.0f}"
    return f"{each} s/{unit.removesuffix('s')}"


def duration(seconds: float) -> str:
    """A time as one says it.

    Example:
        >>> duration(89), duration(273), duration(7530)
        ('89 s', '5 min', '2 h 6 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def percent(value: float | None) -> str:
    """A share as percent with one decimal; a dash for none."""
    return "-" if value is None else f"{100 * value:.1f}"


def seen(data: Mapping[str, Any]) -> str:
    """How many photos were scored, of how many where some are missing, and why those.

    Example:
        >>> seen({"photos": 3, "expected_photos": 1449}), seen({"photos": 1449})
        ('3 of 1449 photos', '1449 photos')
    """
    photos, expected = data["photos"], data.get("expected_photos", data["photos"])
    found = counted(photos, "photo") if photos >= expected else f"{photos} of {expected} photos"
    skipped = data["skipped"]["count"] if "skipped" in data else 0
    return found + (f", {skipped} unreadable ones skipped" if skipped else "")


def no_formula(text: str) -> str:
    """Text of a CSV file that no spreadsheet runs: an apostrophe before what looks like a formula.

    Example:
        >>> no_formula("=1+1"), no_formula("a=b")
        ("'=1+1", 'a=b')
    """
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
