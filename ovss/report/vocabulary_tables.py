"""What `vocabulary` found, as tables and files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from ovss.report.vocabulary import Row, about, image_passes, spread_of, swings
from ovss.utils.files import write_atomically
from ovss.utils.text import counted, percent


def remarks(rows: Sequence[Row], saved: Mapping[str, Any], seed: int) -> list[str]:
    """What the table does not show, a sentence each: the draws, the distractors, the saving.

    Args:
        rows: of `scored_rows`.
        saved: of each kind of work how much was `done`, and how much it would have been
            `without_sharing`; see `ovss.sweep_module.SweepModule.saved`.
        seed: of the draws.
    """
    said = []
    if spread := spread_of(rows):
        wide = (
            "" if spread.deviation is None else f", standard deviation {percent(spread.deviation)}"
        )
        said.append(
            f"{counted(spread.draws, 'draw')}, seed {seed}: mean {percent(spread.mean)}, "
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
    if passes := image_passes(saved):
        said.append(
            f"one pass over the photos: {passes[0]:,} passes of the image encoder in place of "
            f"{passes[1]:,} in runs of their own"
        )
    return said


def rich_table(rows: Sequence[Row]) -> Table:
    """The vocabularies, in percent."""
    table = Table(title=about(rows))
    for number, name in enumerate(_HEADER):
        table.add_column(name, justify="right" if number else "left")
    for row in rows:
        table.add_row(*map(Text, _cells(row)))
    return table


def markdown(rows: Sequence[Row], saved: Mapping[str, Any], seed: int) -> str:
    """The vocabularies and the swings of the classes."""
    lines = [about(rows), ""]
    lines += _markdown_table(_HEADER, [_cells(row) for row in rows])
    lines += ["", *(f"- {remark}" for remark in remarks(rows, saved, seed)), ""]
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
    if not names:  # of the background, which not every method looks for
        return row.name
    return f"{'; '.join(names[:most])}{' ...' if len(names) > most else ''} ({row.name})"


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines]


def write_vocabulary_report(
    folder: Path, rows: Sequence[Row], saved: Mapping[str, Any], seed: int
) -> None:
    """Write `vocabulary.md`, `vocabulary.csv` and `vocabulary.json`; scores are in 0..1.

    Args:
        folder: gets the files.
        rows: of `scored_rows`.
        saved: see `remarks`.
        seed: of the draws.
    """
    write_atomically(folder / "vocabulary.md", markdown(rows, saved, seed))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["vocabulary", "same_as", "names", "mIoU", "difference", "low", "high"])
    for row in rows:
        count = sum(map(len, row.names))
        writer.writerow([row.name, row.same_as or "", count, row.miou, *(row.gain or ("",) * 3)])
    write_atomically(folder / "vocabulary.csv", text.getvalue())
    data = json.dumps(as_data(rows, saved, seed), indent=2, ensure_ascii=False)
    write_atomically(folder / "vocabulary.json", data + "\n")


def as_data(rows: Sequence[Row], saved: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Everything of the report, JSON-ready."""
    first = rows[0].run
    spread = spread_of(rows)
    kept = ("benchmark", "protocol", "method", "variant", "model", "proposals")
    return {
        **{name: first.scores[name] for name in kept if name in first.scores},
        "photos": len(first.photos),
        "seed": seed,
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
