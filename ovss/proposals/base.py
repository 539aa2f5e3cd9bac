"""Which of the classes to look for in a photo."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from ovss.benchmark import Benchmark, PhotoBatch
from ovss.vlm.base import VLM


class Proposal(NamedTuple):
    """The classes to look for in one photo.

    Attributes:
        labels: labels of the benchmark, in ascending order.
        scores: a confidence in 0..1 for each.
    """

    labels: tuple[int, ...]
    scores: tuple[float, ...]


class Proposer(ABC):
    """Photos and a benchmark's classes in, a proposal for each photo out.

    Attributes:
        name: short name for reports.
    """

    name: str

    @abstractmethod
    def __call__(self, batch: PhotoBatch, benchmark: Benchmark, vlm: VLM) -> list[Proposal]:
        """Propose classes for each photo of the batch."""


class OracleProposer(Proposer):
    """The photo's image-level labels from its ground truth: an upper bound."""

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
        found = [tuple(sorted(wanted.intersection(labels))) for labels in batch.present]
        return [Proposal(labels, (1.0,) * len(labels)) for labels in found]


class AllProposer(Proposer):
    """Every class in every photo."""

    name = "all"

    def __call__(self, batch: PhotoBatch, benchmark: Benchmark, vlm: VLM) -> list[Proposal]:
        """See `Proposer`."""
        labels = benchmark.searchable
        return [Proposal(labels, (1.0,) * len(labels)) for _ in batch.ids]


def resolve(proposals: str | Proposer) -> Proposer:
    """A proposer from its short name, or itself.

    Raises:
        ValueError: an unknown name.
    """
    kinds = {"oracle": OracleProposer, "all": AllProposer}
    if isinstance(proposals, Proposer):
        return proposals
    if proposals not in kinds:
        raise ValueError(
            f"Expected `proposals` to be one of {sorted(kinds)}, but got {proposals!r}."
        )
    return kinds[proposals]()
