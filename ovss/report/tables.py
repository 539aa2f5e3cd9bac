"""Scores as a line and as a table."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from ovss.utils.text import counted, percent


def headline(data: dict[str, Any]) -> str:
    """The mIoU with everything it is only comparable with, in one line."""
    return f"mIoU {percent(data['mIoU'])} | {conditions_line(data)}"


def conditions_line(data: dict[str, Any], names: bool = True) -> str:
    """What a score is only comparable with, in one line.

    Args:
        data: of `scores.json`.
        names: whether to say whose names were looked for.
    """
    distractors = data.get("distractors", ()) if names else ()
    return (
        f"{data['benchmark']} | protocol {data['protocol']} | method {data['method']} | "
        + (f"variant {data['variant']} | " if "variant" in data else "")
        + f"model {data['model']} | proposals {data['proposals']} | "
        + (f"prompts {data['prompts']} | " if names and "prompts" in data else "")
        + (f"{counted(len(distractors), 'distractor')} | " if distractors else "")
        + seen(data)
        + (f", {data['skipped']['count']} unreadable ones skipped" if "skipped" in data else "")
    )


def seen(data: dict[str, Any]) -> str:
    """How many photos were scored, and of how many where some are missing.

    Example:
        >>> seen({"photos": 3, "expected_photos": 1449}), seen({"photos": 1449})
        ('3 of 1449 photos', '1449 photos')
    """
    photos, expected = data["photos"], data.get("expected_photos", data["photos"])
    return counted(photos, "photo") if photos >= expected else f"{photos} of {expected} photos"


def per_class_table(data: dict[str, Any]) -> Table:
    """IoU and accuracy of each class that counts, in percent."""
    table = Table(title=f"{data['benchmark']}, protocol {data['protocol']}")
    table.add_column("class")
    table.add_column("IoU", justify="right")
    table.add_column("accuracy", justify="right")
    for row in data["classes"]:
        if row["IoU"] is not None:
            table.add_row(row["name"], percent(row["IoU"]), percent(row["accuracy"]))
    return table
