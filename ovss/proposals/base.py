"""Which of the classes to look for in a photo."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ovss.benchmark import Benchmark, PhotoBatch
from ovss.vlm.base import VLM


class Proposal(NamedTuple):
    """The classes to look for in one photo.

    Attributes:
        labels: labels of the benchmark, in the order of an answer or else ascending. An answer may
            name a class twice.
        scores: a confidence in 0..1 for each.
    """

    labels: tuple[int, ...]
    scores: tuple[float, ...]


class Proposer(ABC):
    """Photos and a benchmark's classes in, a proposal for each photo out.

    Attributes:
        name: short name for reports.
        costly: whether a model runs, so that keeping the results pays (`CachedProposer`).
        needs_vlm: whether it asks the segmenting model itself, which not every method has.
    """

    name: str
    costly: bool = False
    needs_vlm: bool = False

    @abstractmethod
    def __call__(self, batch: PhotoBatch, benchmark: Benchmark, vlm: Any) -> list[Proposal]:
        """Propose classes for each photo of the batch; a proposal may be empty.

        Args:
            batch: the photos.
            benchmark: the classes.
            vlm: the segmenting `VLM`; None where the method has none (see `needs_vlm`).
        """

    def settings(self) -> dict[str, Any]:
        """What, beside the photos, classes and VLM, the proposals depend on; for reports."""
        return {}

    def remarks(self) -> list[str]:
        """What the run's summary says of the proposals, a sentence each."""
        return []

    def finish(self, device: torch.device) -> dict[str, float]:
        """What proposing cost in a run that ends, summed over its processes, which all call this.

        Args:
            device: where the processes' backend works.

        Returns:
            Numbers by name, for `timing.json`; none where nothing but time was spent.
        """
        return {}


class OracleProposer(Proposer):
    """The photo's image-level labels from its ground truth: an upper bound.

    A benchmark's distractors, which are in no photo, are looked for in every one.
    """

    name = "oracle"

    def __call__(self, batch: PhotoBatch, benchmark: Benchmark, vlm: VLM) -> list[Proposal]:
        """See `Proposer`.

        Raises:
            ValueError: the data has no ground truth.
        """
        if batch.present is None:
            raise ValueError(
                "Expected photos with ground truth for `proposals: oracle`, but these have none; "
                "use `all` or another kind of proposals."
            )
        wanted = set(benchmark.searchable)
        extra = range(benchmark.scored, len(benchmark.classes))
        found = [(*sorted(wanted.intersection(labels)), *extra) for labels in batch.present]
        return [Proposal(labels, (1.0,) * len(labels)) for labels in found]


class AllProposer(Proposer):
    """Every class in every photo."""

    name = "all"

    def __call__(self, batch: PhotoBatch, benchmark: Benchmark, vlm: VLM) -> list[Proposal]:
        """See `Proposer`."""
        labels = benchmark.searchable
        return [Proposal(labels, (1.0,) * len(labels)) for _ in batch.ids]


class ScoredProposer(Proposer):
    """Scores every class with a model and keeps the best ones.

    Args:
        threshold: a class is kept when its score is above it (not equal); in 0..1.
        top_k: at most how many classes to keep; None for any number.
    """

    costly = True

    def __init__(self, threshold: float, top_k: int | None) -> None:
        if not 0 <= threshold < 1:
            raise ValueError(
                f"Expected `threshold` to be at least 0 and below 1, but got {threshold}."
            )
        if top_k is not None and top_k < 1:
            raise ValueError(f"Expected `top_k` to be at least 1 or None, but got {top_k}.")
        self.threshold = threshold
        self.top_k = top_k

    @abstractmethod
    def scores(self, batch: PhotoBatch, benchmark: Benchmark, vlm: VLM) -> Tensor:
        """Confidences `(B, K)` in 0..1 of the K labels of `benchmark.searchable`."""

    def __call__(self, batch: PhotoBatch, benchmark: Benchmark, vlm: VLM) -> list[Proposal]:
        """See `Proposer`."""
        with torch.no_grad():
            scores = self.scores(batch, benchmark, vlm).cpu()
        return [select(row, benchmark.searchable, self.threshold, self.top_k) for row in scores]

    def settings(self) -> dict[str, Any]:
        """See `Proposer.settings`."""
        return {"threshold": self.threshold, "top_k": self.top_k}


def select(scores: Tensor, labels: Sequence[int], threshold: float, top_k: int | None) -> Proposal:
    """The labels that score above a threshold, at most the `top_k` best of them.

    Args:
        scores: `(K,)`.
        labels: K labels, ascending.
        threshold: a score must be above it.
        top_k: None for any number; ties go to the lower label.

    Example:
        >>> select(torch.tensor([0.75, 0.5, 1.0]), [1, 2, 5], 0.5, None)
        Proposal(labels=(1, 5), scores=(0.75, 1.0))
        >>> select(torch.tensor([0.75, 0.5, 1.0]), [1, 2, 5], 0.0, 1)
        Proposal(labels=(5,), scores=(1.0,))
    """
    ranked = scores.argsort(descending=True, stable=True)[:top_k].tolist()
    kept = sorted(k for k in ranked if float(scores[k]) > threshold)
    return Proposal(tuple(labels[k] for k in kept), tuple(float(scores[k]) for k in kept))


def searched_names(benchmark: Benchmark) -> tuple[list[tuple[str, ...]], list[str]]:
    """For each label of `benchmark.searchable` its name and synonyms, and all of them in a row."""
    names = [benchmark.prompts[label] for label in benchmark.searchable]
    return names, [name for synonyms in names for name in synonyms]


def best_synonym(scores: Tensor, names: Sequence[Sequence[str]]) -> Tensor:
    """`(..., all names)` -> `(..., K)`: each class's score is its best synonym's."""
    parts = scores.split([len(synonyms) for synonyms in names], dim=-1)
    return torch.stack([part.amax(-1) for part in parts], -1)
