"""`vocabulary`: how a score spreads over the names that the classes are looked for by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ovss.report.bootstrap import BootstrapResult
from ovss.report.compare import compare_rows
from ovss.report.tables import conditions_line
from ovss.runs.run import Run

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


def image_passes(saved: Mapping[str, Any]) -> tuple[int, int] | None:
    """Photos through the image encoder, and how many they would have been in runs of their own.

    Each round of Salience DropOut is a pass; only the first one's photo is the same whatever the
    names.

    Args:
        saved: see `ovss.sweep_module.SweepModule.saved`.

    Returns:
        None where the method does not say.

    Example:
        >>> clip = {"image": {"done": 4, "without_sharing": 20}}
        >>> image_passes(clip)
        (4, 20)
        >>> image_passes({**clip, "rounds": {"done": 80, "without_sharing": 80}})
        (64, 80)
    """
    image, rounds = saved.get("image"), saved.get("rounds")
    if image is None or rounds is None:
        return None if image is None else (image["done"], image["without_sharing"])
    first = image["without_sharing"] - image["done"]
    return rounds["done"] - first, rounds["without_sharing"]
