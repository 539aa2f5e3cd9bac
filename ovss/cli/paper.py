"""The paper's table: its rows, and how it is shown with ours."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ovss.runs.layout import RunLayout
from ovss.utils.files import check_regular, write_atomically
from ovss.utils.text import percent


class Published(NamedTuple):
    """A row of the paper's table.

    Attributes:
        title: the benchmark.
        mIoU: the paper's, with BLIP, in percent (arXiv 2311.17095 v4).
        answers: what its file of GPT-4o's answers is named after.
    """

    title: str
    mIoU: float
    answers: str


PAPER = {
    "voc21": Published("Pascal VOC", 51.3, "voc"),
    # Not pc59: the released code scores 60 classes, background among them.
    "pc60": Published("Pascal Context", 28.0, "psc"),
    "coco_object81": Published("COCO-Object", 36.2, "coco_object"),
    "coco_stuff171": Published("COCO-Stuff", 17.9, "coco_stuff"),
    "ade150": Published("ADE20K", 14.2, "ade20k"),
}
"""By the configuration that the released code's scoring is of."""


class Row(NamedTuple):
    """What became of a benchmark: scores, or why there are none."""

    key: str
    scores: dict[str, Any] | None
    problem: str = ""


def read_scores(layout: RunLayout) -> dict[str, Any]:
    """What a run's `scores.json` says.

    Raises:
        OSError: there is none.
        ValueError: it is no JSON, or no file.
    """
    check_regular(layout.scores)
    return json.loads(layout.scores.read_text(encoding="utf-8"))


def write_table(output: Path, rows: Sequence[Row]) -> None:
    """Write `reproduce.md` and `reproduce.json`.

    Args:
        output: their folder.
        rows: all benchmarks.
    """
    lines = [
        "# PnP-OVSS: the paper's table",
        "",
        "mIoU in percent. The paper's: arXiv 2311.17095 v4, BLIP. Ours: variant and protocol "
        "`released`, classes from the authors' GPT-4o answers.",
        "",
        "| benchmark | paper | ours | difference | photos | model |",
        "|---|---|---|---|---|---|",
    ]
    data = []
    for row in rows:
        published, scores = PAPER[row.key], row.scores or {}
        mIoU = scores.get("mIoU")
        difference = "-" if mIoU is None else f"{100 * mIoU - published.mIoU:+.1f}"
        lines.append(
            f"| {published.title} (`{row.key}`) | {published.mIoU} | {percent(mIoU)} | "
            f"{difference} | {_seen(scores) or row.problem} | {scores.get('model', '-')} |"
        )
        keys = ("mIoU", "photos", "expected_photos", "protocol", "variant", "proposals", "model")
        data.append(
            {
                "benchmark": row.key,
                "paper": round(published.mIoU / 100, 3),
                **{key: scores.get(key) for key in keys},
                "problem": row.problem or None,
            }
        )
    write_atomically(output / "reproduce.md", "\n".join(lines) + "\n")
    write_atomically(output / "reproduce.json", json.dumps(data, indent=2) + "\n")


def heading() -> str:
    """The first line for the terminal."""
    return _line("", "paper", "ours", "")


def line_of(row: Row) -> str:
    """A row for the terminal."""
    scores = row.scores or {}
    last = _seen(scores) or row.problem
    return _line(row.key, str(PAPER[row.key].mIoU), percent(scores.get("mIoU")), last)


def _seen(scores: dict[str, Any]) -> str:
    from ovss.report.tables import seen

    return seen(scores) if scores else ""


def _line(key: str, paper: str, ours: str, last: str) -> str:
    return f"{key:<14} {paper:>6} {ours:>6}  {last}".rstrip() + "\n"
