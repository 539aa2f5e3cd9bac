"""What a report tells beyond the scores: confusions, proposals, and telling photos."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from ovss.runs.photos import PhotoRecord


class Confusion(NamedTuple):
    """Pixels of one class taken for another.

    Attributes:
        true: label of the ground truth.
        predicted: label that was given.
        pixels: how many.
        share: of the true class's pixels, in 0..1.
    """

    true: int
    predicted: int
    pixels: int
    share: float


def largest_confusions(matrix: np.ndarray, count: int = 10) -> list[Confusion]:
    """The off-diagonal cells of a `(true, predicted)` matrix with the most pixels."""
    off = matrix.copy()
    np.fill_diagonal(off, 0)
    truth = matrix.sum(1)
    cells = np.argsort(-off, axis=None, kind="stable")[:count]
    found = [(int(cell) // len(matrix), int(cell) % len(matrix)) for cell in cells]
    return [
        Confusion(i, j, int(off[i, j]), float(off[i, j] / truth[i])) for i, j in found if off[i, j]
    ]


class ProposalQuality(NamedTuple):
    """How well the classes that were looked for match those that are there.

    Attributes:
        looked_for: classes a photo, on average.
        present: classes in a photo, on average.
        missed: labels that were there and not looked for, with the number of photos, most first.
        invented: labels that were looked for and not there, likewise.
    """

    looked_for: float
    present: float
    missed: list[tuple[int, int]]
    invented: list[tuple[int, int]]


def proposal_quality(
    photos: Sequence[PhotoRecord], searchable: Collection[int], count: int = 5
) -> ProposalQuality:
    """Compare the proposals of photos with ground truth with the classes in it."""
    proposed = there = 0
    missed: dict[int, int] = {}
    invented: dict[int, int] = {}
    for photo in photos:
        if photo.counts is None:
            continue
        present = set(photo.counts[photo.counts[:, 2] > 0, 0].tolist()) & set(searchable)
        looked_for = set(photo.proposal)
        proposed += len(looked_for)
        there += len(present)
        for label in present - looked_for:
            missed[label] = missed.get(label, 0) + 1
        for label in looked_for - present:
            invented[label] = invented.get(label, 0) + 1
    number = max(1, sum(photo.counts is not None for photo in photos))
    return ProposalQuality(
        proposed / number,
        there / number,
        sorted(missed.items(), key=lambda item: (-item[1], item[0]))[:count],
        sorted(invented.items(), key=lambda item: (-item[1], item[0]))[:count],
    )


def telling_photos(scores: np.ndarray, count: int = 3) -> dict[str, list[int]]:
    """Indices of the photos with the best, middling and worst scores, each at most once.

    Args:
        scores: `(photos,)`; NaN where a photo has none.
        count: how many of each.
    """
    order = [int(i) for i in np.argsort(-scores, kind="stable") if not np.isnan(scores[i])]
    count = min(count, len(order) // 3) or min(1, len(order))
    start = (len(order) - count) // 2
    groups = {
        "best": order[:count],
        "median": order[start : start + count],
        "worst": order[len(order) - count :],
    }
    seen: set[int] = set()
    chosen: dict[str, list[int]] = {}
    for name, group in groups.items():
        chosen[name] = [index for index in group if index not in seen]
        seen.update(group)
    return {name: group for name, group in chosen.items() if group}
