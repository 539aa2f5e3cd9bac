"""`vocabulary`: how a score spreads over the names that the classes are looked for by."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table
from rich.text import Text

from ovss.report.bootstrap import BootstrapResult
from ovss.report.compare import compare_rows
from ovss.report.tables import conditions_line
from ovss.runs.run import Run
from ovss.utils.files import write_atomically
from ovss.utils.text import counted, percent

Names = tuple[tuple[str, ...], ...]

DRAW = "draw-"
"""What the names of drawn vocabularies begin with."""


@dataclass(frozen=True)
class Row:
    """A vocabulary and its score.

    Attributes:
        name: of the vocabulary.
        names: what each label was looked for by.
        run: what it was scored in: its own, or that of the same names under another name.
        miou: in 0..1.
        iou: `(classes,)` likewise; NaN for classes that do not count.
        gain: its mIoU minus the first vocabulary's; None for the first.
        distractors: pixels that were taken for each of its distractors.
    """

    name: str
    names: Names
    run: Run
    miou: float
    iou: np.ndarray
    gain: BootstrapResult | None
    distractors: dict[str, int]

    @property
    def same_as(self) -> str | None:
        """The vocabulary with the same names, whose run it is; None where it is its own."""
        return None if self.run.name == self.name else self.run.name


class Swing(NamedTuple):
    """How far a class's IoU goes up and down.

    Attributes:
        label: of the class.
        lowest: the row with the smallest IoU.
        highest: the row with the largest.
        size: their difference, in 0..1.
    """

    label: int
    lowest: Row
    highest: Row
    size: float


class Spread(NamedTuple):
    """mIoUs of the drawn vocabularies, in 0..1.

    Attributes:
        draws: how many.
        mean: their mean.
        low: the smallest.
        high: the largest.
        deviation: the sample standard deviation; None of a single draw.
    """

    draws: int
    mean: float
    low: float
    high: float
    deviation: float | None


def scored_rows(
    vocabularies: Mapping[str, Names], runs: Mapping[str, Run], resamples: int = 10_000
) -> list[Row]:
    """Every vocabulary with its score on the photos that all runs have.

    Args:
        vocabularies: name -> what each label is looked for by; the others are compared with the
            first.
        runs: name of each vocabulary -> its run; the same one where names are the same.
        resamples: draws of the paired bootstrap.

    Raises:
        ValueError: the runs have no photos in common.
    """
    distinct = {run.folder: run for run in runs.values()}
    first = next(iter(distinct.values()))
    # Of a single run there is nothing to compare, but its own score.
    compared = compare_rows(
        [first, first] if len(distinct) == 1 else [*distinct.values()], resamples
    )
    by_folder = {row.run.folder: row for row in compared[::-1]}
    rows: list[Row] = []
    for name, names in vocabularies.items():
        found = by_folder[runs[name].folder]
        taken = found.run.confusion.sum(0)[len(found.run.classes) :].tolist()
        distractors = dict(zip(found.run.distractors, taken, strict=True))
        gain = found.gain if rows else None
        if rows and gain is None:  # the first one's names under another name
            gain = BootstrapResult(0.0, 0.0, 0.0)
        rows.append(Row(name, names, found.run, found.miou, found.iou, gain, distractors))
    return rows


def swings(rows: Sequence[Row]) -> list[Swing]:
    """The classes that are in the ground truth, the one whose IoU changes most first."""
    iou = np.stack([row.iou for row in rows])
    there = rows[0].run.confusion.sum(1)[: iou.shape[1]] > 0
    found = []
    for label in np.flatnonzero(there).tolist():
        low, high = int(iou[:, label].argmin()), int(iou[:, label].argmax())
        size = float(iou[high, label] - iou[low, label])
        found.append(Swing(label, rows[low], rows[high], size))
    return sorted(found, key=lambda swing: -swing.size)


def spread_of(rows: Sequence[Row]) -> Spread | None:
    """Of the draws; None where nothing was drawn."""
    mious = np.array([row.miou for row in rows if row.name.startswith(DRAW)])
    if not len(mious):
        return None
    deviation = float(mious.std(ddof=1)) if len(mious) > 1 else None
    mean, low, high = (float(f(mious)) for f in (np.mean, np.min, np.max))
    return Spread(len(mious), mean, low, high, deviation)


def about(rows: Sequence[Row]) -> str:
    """What the scores are only comparable with, in one line."""
    run = rows[0].run  # with the photos that all runs have
    return conditions_line({**run.scores, "photos": len(run.photos)}, names=False)


# ---- as text -------------------------------------------------------------------------------------


def remarks(rows: Sequence[Row], saved: Mapping[str, Any]) -> list[str]:
    """What the table does not show, a sentence each: the draws, the distractors, the saving.

    Args:
        rows: of `scored_rows`.
        saved: of each kind of work how much was `done`, and how much it would have been
            `without_sharing`; see `ovss.sweep_module.SweepModule.saved`.
    """
    said = []
    if spread := spread_of(rows):
        wide = (
            "" if spread.deviation is None else f", standard deviation {percent(spread.deviation)}"
        )
        said.append(
            f"{counted(spread.draws, 'draw')}: mean {percent(spread.mean)}, "
            f"{percent(spread.low)} .. {percent(spread.high)}{wide}"
        )
    for row in rows:
        pixels = int(row.run.confusion.sum())
        if row.distractors and pixels and row.same_as is None:
            most = max(row.distractors, key=lambda name: row.distractors[name])
            said.append(
                f"{row.name}: {percent(sum(row.distractors.values()) / pixels)} % of the pixels "
                f"were taken for one of them, {percent(row.distractors[most] / pixels)} % for "
                f"{most!r}"
            )
    shares = [
        f"{kind} {work['done']} of {work['without_sharing']}"
        for kind, work in sorted(saved.items())
        if isinstance(work, Mapping)
    ]
    if shares:
        said.append(f"computed, of what runs of their own would have: {', '.join(shares)}")
    return said


def rich_table(rows: Sequence[Row]) -> Table:
    """The vocabularies, in percent."""
    table = Table(title=about(rows))
    for number, name in enumerate(_HEADER):
        table.add_column(name, justify="right" if number else "left")
    for row in rows:
        table.add_row(*map(Text, _cells(row)))
    return table


def markdown(rows: Sequence[Row], saved: Mapping[str, Any]) -> str:
    """The vocabularies and the swings of the classes."""
    lines = [about(rows), ""]
    lines += _markdown_table(_HEADER, [_cells(row) for row in rows])
    lines += ["", *(f"- {remark}" for remark in remarks(rows, saved)), ""]
    classes = [
        [
            rows[0].run.classes[swing.label],
            percent(swing.size),
            *(
                cell
                for row in (swing.lowest, swing.highest)
                for cell in (percent(float(row.iou[swing.label])), _responsible(row, swing.label))
            ),
        ]
        for swing in swings(rows)
    ]
    lines += _markdown_table(("class", "swing", "lowest IoU", "by", "highest IoU", "by"), classes)
    return "\n".join(lines) + "\n"


_HEADER = ("vocabulary", "names", "mIoU", "difference", "95 % interval")


def _cells(row: Row) -> list[str]:
    gain, same = row.gain, "" if row.same_as is None else f" (same as {row.same_as})"
    return [
        row.name + same,
        str(sum(map(len, row.names))),
        percent(row.miou),
        "" if gain is None else f"{100 * gain.difference:+.1f}",
        "" if gain is None else f"{100 * gain.low:+.1f} .. {100 * gain.high:+.1f}",
    ]


def _responsible(row: Row, label: int, most: int = 3) -> str:
    names = row.names[label]
    return f"{'; '.join(names[:most])}{' ...' if len(names) > most else ''} ({row.name})"


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines]


# ---- as files ------------------------------------------------------------------------------------


def write_vocabulary_report(folder: Path, rows: Sequence[Row], saved: Mapping[str, Any]) -> None:
    """Write `vocabulary.md`, `vocabulary.csv` and `vocabulary.json`; scores are in 0..1.

    Args:
        folder: gets the files.
        rows: of `scored_rows`.
        saved: see `remarks`.
    """
    write_atomically(folder / "vocabulary.md", markdown(rows, saved))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["vocabulary", "same_as", "names", "mIoU", "difference", "low", "high"])
    for row in rows:
        count = sum(map(len, row.names))
        writer.writerow([row.name, row.same_as or "", count, row.miou, *(row.gain or ("",) * 3)])
    write_atomically(folder / "vocabulary.csv", text.getvalue())
    data = json.dumps(as_data(rows, saved), indent=2, ensure_ascii=False)
    write_atomically(folder / "vocabulary.json", data + "\n")


def as_data(rows: Sequence[Row], saved: Mapping[str, Any]) -> dict[str, Any]:
    """Everything of the report, JSON-ready."""
    first = rows[0].run
    spread = spread_of(rows)
    kept = ("benchmark", "protocol", "method", "variant", "model", "proposals")
    return {
        **{name: first.scores[name] for name in kept if name in first.scores},
        "photos": len(first.photos),
        "vocabularies": [
            {
                "name": row.name,
                "same_as": row.same_as,
                "mIoU": row.miou,
                **(row.gain._asdict() if row.gain else {}),
                "names": {
                    name: list(own) for name, own in zip(first.classes, row.names, strict=False)
                },
                **({"distractors": row.distractors} if row.distractors else {}),
            }
            for row in rows
        ],
        "draws": None if spread is None else spread._asdict(),
        "classes": [
            {
                "name": first.classes[swing.label],
                "swing": swing.size,
                "lowest": swing.lowest.name,
                "highest": swing.highest.name,
                "IoU": {row.name: float(row.iou[swing.label]) for row in rows},
            }
            for swing in swings(rows)
        ],
        "sharing": dict(saved),
    }
