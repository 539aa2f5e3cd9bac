"""The paper's table: its rows, and how it is shown with ours."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ovss.report.published import Published, read_published
from ovss.utils.files import write_atomically
from ovss.utils.text import percent, seen


class Benchmark(NamedTuple):
    """A row of the paper's table.

    Attributes:
        title: the benchmark.
        answers: what its file of GPT-4o's answers is named after.
    """

    title: str
    answers: str


PAPER = {
    "voc21": Benchmark("Pascal VOC", "voc"),
    # Not pc59: the released code scores 60 classes, background among them.
    "pc60": Benchmark("Pascal Context", "psc"),
    "coco_object81": Benchmark("COCO-Object", "coco_object"),
    "coco_stuff171": Benchmark("COCO-Stuff", "coco_stuff"),
    "ade150": Benchmark("ADE20K", "ade20k"),
}
"""By the configuration that the released code's scoring is of."""


def paper_number(key: str) -> Published:
    """The paper's mIoU on a benchmark of `PAPER`, with BLIP."""
    numbers = {each.benchmark: each for each in read_published() if each.method == "PnP-OVSS"}
    return numbers[key]


class Row(NamedTuple):
    """What became of a benchmark: scores, or why there are none."""

    key: str
    scores: dict[str, Any] | None
    problem: str = ""


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
        paper, scores = paper_number(row.key), row.scores or {}
        mIoU = scores.get("mIoU")
        difference = "-" if mIoU is None else f"{100 * (mIoU - paper.mIoU):+.1f}"
        last = seen(scores) if scores else row.problem
        lines.append(
            f"| {PAPER[row.key].title} (`{row.key}`) | {paper.written} | {percent(mIoU)} | "
            f"{difference} | {last} | {scores.get('model', '-')} |"
        )
        keys = ("mIoU", "photos", "expected_photos", "protocol", "variant", "proposals", "model")
        data.append(
            {
                "benchmark": row.key,
                "paper": paper.mIoU,
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
    last = seen(scores) if scores else row.problem
    return _line(row.key, paper_number(row.key).written, percent(scores.get("mIoU")), last)


def _line(key: str, paper: str, ours: str, last: str) -> str:
    return f"{key:<14} {paper:>6} {ours:>6}  {last}".rstrip() + "\n"
