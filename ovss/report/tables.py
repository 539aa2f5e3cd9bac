"""Scores as a line and as a table."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from ovss.utils.text import counted, percent, seen


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
    )


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


def print_whole(table: Table, console: Console) -> None:
    """Print a table with its columns' `min_width`, which a narrow terminal would cut.

    Args:
        table: it gets a width.
        console: a file or another program, which has no width, gets each row in a line.
    """
    least, most = console.measure(table, options=console.options.update(width=_WIDEST))
    table.width = min(most, max(console.width, least)) if console.is_terminal else most
    console.print(table, crop=False)


_WIDEST = 1000
