"""Scores as plain data, as a table and as files."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

from rich.table import Table

from ovss.benchmark import Benchmark
from ovss.utils.files import write_atomically
from ovss.utils.text import counted


def scores_as_data(
    results: dict[str, Any],
    benchmark: Benchmark,
    settings: dict[str, Any],
    expected: int | None = None,
) -> dict[str, Any]:
    """`SegmentationScores.compute` and the settings as JSON-ready data.

    Scores are in 0..1; a class that does not count has null.

    Args:
        results: the scores.
        benchmark: whose classes they are of.
        settings: what the scores are only comparable with.
        expected: photos in the whole split; None where nobody knows.
    """
    data: dict[str, Any] = {**settings, "photos": int(results["photos"])}
    if expected is not None:
        data["expected_photos"] = expected
    for name in ("mIoU", "pixel_accuracy", "mean_accuracy", "fw_IoU"):
        data[name] = _number(results[name])
    data["classes"] = [
        {"name": name, "IoU": _number(iou), "accuracy": _number(accuracy)}
        for name, iou, accuracy in zip(
            benchmark.classes, results["IoU"], results["accuracy"], strict=True
        )
    ]
    return data


def write_scores(folder: Path, data: dict[str, Any]) -> None:
    """Write `scores.json` and `per_class.csv` into a run's folder."""
    write_atomically(folder / "scores.json", json.dumps(data, indent=2, ensure_ascii=False) + "\n")
    text = io.StringIO()
    writer = csv.DictWriter(text, ["name", "IoU", "accuracy"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(data["classes"])
    write_atomically(folder / "per_class.csv", text.getvalue())


def headline(data: dict[str, Any]) -> str:
    """The mIoU with everything it is only comparable with, in one line."""
    return (
        f"mIoU {percent(data['mIoU'])} | {data['benchmark']} | protocol {data['protocol']} | "
        f"variant {data['variant']} | VLM {data['vlm']} | proposals {data['proposals']} | "
        + (f"prompts {data['prompts']} | " if "prompts" in data else "")
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


def percent(value: float | None) -> str:
    """A share as percent with one decimal; a dash for none."""
    return "-" if value is None else f"{100 * value:.1f}"


def _number(value: Any) -> float | None:
    number = float(value)
    return None if math.isnan(number) else number
