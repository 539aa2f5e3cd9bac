"""Numbers in sentences."""

from __future__ import annotations


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
