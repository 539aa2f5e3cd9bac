"""How well the reward ranks settings, where there is ground truth. The search never sees this."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.utils.data import DataLoader, Subset
from torchmetrics.functional import spearman_corrcoef

from ovss.benchmark import Benchmark, PhotoBatch
from ovss.metrics import SegmentationScores
from ovss.pnp import PnP
from ovss.tuning.maps import MapStore
from ovss.tuning.masks import label_photos
from ovss.tuning.photos import TuningPhotos, chunked
from ovss.tuning.space import Setting


def score_settings(
    segmenter: PnP,
    benchmark: Benchmark,
    loader: DataLoader,
    photos: TuningPhotos,
    store: MapStore,
    settings: Sequence[Setting],
    progress: Callable[[int], None] = lambda settings: None,
) -> list[float]:
    """The mIoU of each setting on the tuning photos, with the method's labeller.

    Args:
        segmenter: its labeller is used.
        benchmark: the classes.
        loader: of the data set the photos came from, with ground truth.
        photos: the tuning photos.
        store: their class maps.
        settings: what to score.
        progress: told after every setting.

    Raises:
        ValueError: the data has no ground truth.
    """
    truth = DataLoader(
        Subset(loader.dataset, photos.indices),
        batch_size=loader.batch_size,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
    )
    batches: list[PhotoBatch] = list(truth)
    if any(batch.masks is None for batch in batches):
        raise ValueError(
            "Expected ground truth for `validate`, but the data has none; leave the option out."
        )
    size = loader.batch_size or 1
    found = []
    for setting in settings:
        scores = SegmentationScores(
            benchmark.scored, benchmark.ignore_index, benchmark.protocol, benchmark.distractors
        )
        for batch, chunk in zip(batches, chunked(len(photos), size), strict=True):
            maps = store(setting, chunk)
            labels = label_photos(segmenter, benchmark, photos, chunk, maps, setting)
            scores.update([each.cpu() for each in labels], list(batch.masks or ()))
        found.append(float(scores.compute()["mIoU"]))
        progress(1)
    return found


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rank correlation; ties share their mean rank. NaN where one is constant."""
    if len(set(first)) < 2 or len(set(second)) < 2:
        return float("nan")  # torchmetrics says 0
    ranked = (torch.tensor(values, dtype=torch.float64) for values in (first, second))
    return float(spearman_corrcoef(*ranked))
