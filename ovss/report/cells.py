"""A table of methods and benchmarks, as data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ovss.report.apart import in_short

_LONGEST = 60


@dataclass(frozen=True)
class Cell:
    """A score.

    Attributes:
        mIoU: in 0..1; None where no class counts.
        written: in percent.
        conditions: what it is only comparable with, as far as it is known: protocol, proposals,
            photos and others.
        interval: of 95 %, in 0..1.
        folder: of the run; None for a published number.
        origin: of a published number.
        marks: letters of `Matrix.notes`.
    """

    mIoU: float | None
    written: str
    conditions: Mapping[str, str]
    interval: tuple[float, float] | None = None
    folder: Path | None = None
    origin: str = ""
    marks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """A method.

    Attributes:
        method: its name.
        model: its model, or a published method's backbone; empty where it is not known.
        cells: by benchmark.
        apart: settings that other rows of the method have not, by name.
        marks: letters of `Matrix.notes`.
    """

    method: str
    model: str
    cells: Mapping[str, Cell]
    apart: Mapping[str, str] = field(default_factory=dict)
    marks: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Method and model."""
        return ", ".join(filter(None, (self.method, self.model)))

    @property
    def settings(self) -> str:
        """What tells it from other rows, in short."""
        return in_short(self.apart)


@dataclass(frozen=True)
class Column:
    """A benchmark.

    Attributes:
        benchmark: its key.
        conditions: of most of its cells.
    """

    benchmark: str
    conditions: Mapping[str, str]

    @property
    def described(self) -> str:
        """Its conditions in short."""
        own = self.conditions
        named = [
            f"{name} {own[name]}"
            for name in ("protocol", "proposals", "prompts")
            if name in own and own[name] != USUAL
        ]
        return ", ".join([*named, *filter(None, [own.get("photos")])])


@dataclass(frozen=True)
class Matrix:
    """All of it.

    Attributes:
        columns: the benchmarks.
        rows: the methods.
        notes: a letter and what it stands for.
    """

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[tuple[str, str], ...] = ()

    @property
    def has_intervals(self) -> bool:
        """Whether any score has one."""
        return any(cell.interval for row in self.rows for cell in row.cells.values())

    @property
    def described(self) -> list[str]:
        """The columns' conditions, those that are alike in one line."""
        alike: dict[str, list[str]] = {}
        for column in self.columns:
            if column.described:
                alike.setdefault(column.described, []).append(column.benchmark)
        return [f"{', '.join(keys)}: {text}" for text, keys in alike.items()]


USUAL = "the usual"
"""Prompts that come with the benchmark or the method."""

ALL_PHOTOS = "all photos"
"""Of published numbers, which say no count."""

UNKNOWN = "not known"

OF_A_BENCHMARK = {
    "photo set": ("photos",),
    "class names": ("prompts", "protocol", "distractors"),
}
"""Conditions as digests, with those that change them and say it in words."""


def with_notes(rows: Sequence[Row], keys: Sequence[str]) -> Matrix:
    """The table of rows, in which each cell that is unlike its column bears a mark.

    A column's conditions are those of most of its runs, or the first one's; where it has no runs,
    of most published numbers.

    Args:
        rows: without marks.
        keys: the benchmarks, in order.
    """
    columns = tuple(
        Column(key, _usual([r.cells[key] for r in rows if key in r.cells])) for key in keys
    )
    letters: dict[str, str] = {}

    def mark(text: str) -> str:
        return letters.setdefault(text, _letter(len(letters)))

    marked = []
    for row in rows:
        # What all cells of a row are from stands beside its name.
        origins = {cell.origin for cell in row.cells.values()}
        shared = origins.pop() if len(origins) == 1 else ""
        own = (mark(shared),) if shared else ()
        cells = {}
        for column in columns:
            if cell := row.cells.get(column.benchmark):
                texts = ("" if shared else cell.origin, _difference(cell, column))
                marks = tuple(mark(text) for text in texts if text)
                cells[column.benchmark] = replace(cell, marks=marks)
        marked.append(replace(row, cells=cells, marks=own))
    return Matrix(columns, tuple(marked), tuple((mark, text) for text, mark in letters.items()))


def _usual(cells: Sequence[Cell]) -> Mapping[str, str]:
    """Each condition as most cells have it; as the first one has it where several are as common."""
    runs = [cell for cell in cells if cell.folder is not None] or cells
    names = dict.fromkeys(name for cell in runs for name in cell.conditions)
    common = {
        name: Counter(cell.conditions.get(name) for cell in runs).most_common(1)[0][0]
        for name in names
    }
    return {name: value for name, value in common.items() if value is not None}


def _difference(cell: Cell, column: Column) -> str:
    """In what a cell is unlike its column; empty where it is alike."""
    own, usual = cell.conditions, column.conditions
    # Published numbers say nothing of versions and photos' names; none is with distractors.
    known = [*own, "distractors"] if cell.folder is None else [*usual, *own]
    found = []
    for name in dict.fromkeys(known):
        if own.get(name) == usual.get(name):
            continue
        if any(own.get(other) != usual.get(other) for other in OF_A_BENCHMARK.get(name, ())):
            continue
        if name in OF_A_BENCHMARK:
            found.append(f"another {name}" if name == "photo set" else f"other {name}")
            continue
        if UNKNOWN in (own.get(name), usual.get(name)):
            found.append(f"{name} {UNKNOWN}")
            continue
        if own.get(name) == ALL_PHOTOS and "of" not in usual.get(name, "").split():
            continue
        # Settings of another kind of proposals are others anyway.
        if name.startswith("proposals.") and own["proposals"] != usual.get("proposals"):
            continue
        words = [_cut(each.get(name, "none")) for each in (own, usual)]
        label = "" if name == "photos" else f"{name} "
        found.append(f"{label}{words[0]} instead of {words[1]}")
    return "; ".join(found)


def _cut(value: str) -> str:
    return value if len(value) <= _LONGEST else f"{value[: _LONGEST - 3]}..."


def _letter(number: int) -> str:
    """a, b, ..., z, aa, ab, ..."""
    before, last = divmod(number, 26)
    return (_letter(before - 1) if before else "") + chr(ord("a") + last)
