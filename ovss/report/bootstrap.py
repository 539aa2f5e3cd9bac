"""How sure an mIoU, and a difference of two, is: the bootstrap over photos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ovss.benchmark import Protocol
from ovss.metrics import margins, mean_iou

_CHUNK = 250
"""Resamples drawn at a time: bounds memory at 10 MB for 5,000 photos."""


class BootstrapResult(NamedTuple):
    """A difference of mIoUs, second run minus first, in -1..1.

    Attributes:
        difference: on the photos themselves.
        low: 2.5th percentile over the resamples.
        high: 97.5th percentile.
    """

    difference: float
    low: float
    high: float


def paired_bootstrap(
    first: Sequence[np.ndarray],
    second: Sequence[np.ndarray],
    num_classes: int,
    protocol: Protocol = "standard",
    resamples: int = 10_000,
    seed: int = 0,
    distractors: int = 0,
) -> BootstrapResult:
    """95 % percentile interval of the difference of two runs' mIoUs on the same photos.

    Photos are drawn with replacement, the same ones for both runs, and the mIoU of each draw comes
    from its summed confusion matrix, as the score itself does (Efron and Tibshirani, "An
    Introduction to the Bootstrap", 1993, section 13.3).

    Args:
        first: for each photo its sparse confusion, `(n, 3)` int rows true, predicted, pixels.
        second: the other run's, for the same photos in the same order.
        num_classes: labels are 0..num_classes - 1.
        protocol: which classes a mean covers; see `ovss.metrics.SegmentationScores`.
        resamples: how many draws of as many photos.
        seed: of the draws; the same seed gives the same interval.
        distractors: how many further labels, in no ground truth, may have been predicted.

    Raises:
        ValueError: no photos, numbers of photos or ground truths that differ, or labels outside
            the classes.

    Example:
        >>> right, wrong = np.array([[0, 0, 4], [1, 1, 4]]), np.array([[0, 0, 4], [1, 0, 4]])
        >>> paired_bootstrap([wrong] * 3, [right] * 3, num_classes=2)
        BootstrapResult(difference=0.75, low=0.75, high=0.75)
    """
    if len(first) != len(second) or not len(first):
        raise ValueError(
            f"Expected both runs to have the same photos, but got {len(first)} and {len(second)}."
        )
    _check_resamples(resamples)
    one, two = (margins(each, num_classes, distractors) for each in (first, second))
    if not np.array_equal(one[:, 1], two[:, 1]):
        photo = int((one[:, 1] != two[:, 1]).any(-1).argmax())
        raise ValueError(
            "Expected both runs to have the same ground truth, but got other pixel counts in "
            f"photo {photo} (counted from 0); compare runs of one benchmark, split and protocol."
        )
    both = np.concatenate([one, two[:, (0, 2)]], 1)  # the truth is shared
    difference = float(_difference(both.sum(0, keepdims=True), protocol)[0])
    drawn = _resampled(both, lambda sums: _difference(sums, protocol), resamples, seed)
    return BootstrapResult(difference, *_middle(drawn))


def bootstrap_interval(
    photos: Sequence[np.ndarray],
    num_classes: int,
    protocol: Protocol = "standard",
    resamples: int = 10_000,
    seed: int = 0,
    distractors: int = 0,
) -> tuple[float, float]:
    """95 % percentile interval of one run's mIoU, in 0..1; the arguments are `paired_bootstrap`'s.

    Two runs on the same photos are compared by `paired_bootstrap`: their own intervals, which hold
    what photos have in common, may overlap where the difference is sure.

    Raises:
        ValueError: no photos, or labels outside the classes.

    Example:
        >>> right, wrong = np.array([[0, 0, 4], [1, 1, 4]]), np.array([[0, 0, 4], [1, 0, 4]])
        >>> bootstrap_interval([right, wrong], num_classes=2)
        (0.25, 1.0)
    """
    if not len(photos):
        raise ValueError("Expected photos to draw from, but got none.")
    _check_resamples(resamples)
    table = margins(photos, num_classes, distractors)
    return _middle(_resampled(table, lambda sums: mean_iou(sums, protocol), resamples, seed))


def _check_resamples(resamples: int) -> None:
    if resamples < 1:
        raise ValueError(f"Expected `resamples` to be at least 1, but got {resamples}.")


def _resampled(
    table: np.ndarray, score: Callable[[np.ndarray], np.ndarray], resamples: int, seed: int
) -> np.ndarray:
    """Scores `(resamples,)` of the sums over as many photos, drawn with replacement.

    Args:
        table: `(photos, n, K)`.
        score: sums `(draws, n, K)` -> `(draws,)`.
        resamples: how many draws.
        seed: of the draws.
    """
    photos = len(table)
    generator = np.random.default_rng(seed)
    flat = table.reshape(photos, -1)
    scores = []
    for start in range(0, resamples, _CHUNK):
        drawn = generator.integers(0, photos, (min(_CHUNK, resamples - start), photos))
        drawn += np.arange(len(drawn))[:, None] * photos
        times = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
        sums = (times.astype(np.float64) @ flat).reshape(-1, *table.shape[1:])
        scores.append(score(sums))
    return np.concatenate(scores)


def _middle(scores: np.ndarray) -> tuple[float, float]:
    """Between which 95 % of the scores are."""
    # NaN: a draw of photos without a scored pixel.
    low, high = np.nanquantile(scores, (0.025, 0.975))
    return float(low), float(high)


def _difference(sums: np.ndarray, protocol: Protocol) -> np.ndarray:
    """Second minus first mIoU of sums `(..., 5, K)`: right, truth, predicted; right, predicted."""
    return mean_iou(sums[:, (3, 1, 4)], protocol) - mean_iou(sums[:, :3], protocol)
