"""Proposals from the segmenting VLM itself: its matching head or its contrastive embeddings."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ovss.benchmark import Benchmark, PhotoBatch
from ovss.captions import TEMPLATE
from ovss.proposals.base import ScoredProposer, best_synonym, searched_names
from ovss.vlm.base import VLM
from ovss.vlm.scoring import ITC_TEMPERATURE, ItcScorer, ItmScorer


class MatchProposer(ScoredProposer):
    """`itm`: the probability that "A picture of {class}" matches the photo, class by class.

    The vision features are computed once a photo and shared by its classes.

    Args:
        threshold: keep classes whose match probability is above it.
        top_k: at most how many classes to keep.
        chunk: class names that go through the text encoder together; bounds the memory.
        template: caption with `{}` for the class name.
    """

    name = "itm"
    needs_vlm = True

    def __init__(
        self,
        threshold: float = 0.5,
        top_k: int | None = None,
        chunk: int = 32,
        template: str = TEMPLATE,
    ) -> None:
        super().__init__(threshold, top_k)
        if chunk < 1:
            raise ValueError(f"Expected `chunk` to be at least 1, but got {chunk}.")
        self.chunk = chunk
        self.template = template

    def scores(self, batch: PhotoBatch, benchmark: Benchmark, vlm: VLM) -> Tensor:
        """See `ScoredProposer.scores`."""
        names, flat = searched_names(benchmark)
        scorer = ItmScorer(vlm, self.template, self.chunk)
        return best_synonym(scorer.logits_per_image(batch.stacked, flat).sigmoid(), names)

    def settings(self) -> dict[str, Any]:
        """See `Proposer.settings`."""
        return {**super().settings(), "template": self.template}


class ContrastiveProposer(ScoredProposer):
    """`itc`: softmax over the classes of the image-text similarity in the VLM's embedding space.

    Far cheaper than `itm`: each class name is encoded once a run, each photo once. Needs a VLM
    with contrastive projections (`VLM.embed_image`).

    Args:
        threshold: keep classes whose probability is above it. The probabilities of all classes
            sum to 1, so it depends on their number: tune it.
        top_k: at most how many classes to keep.
        temperature: divides the similarities; see `ovss.vlm.scoring.ITC_TEMPERATURE`.
        template: caption with `{}` for the class name.
    """

    name = "itc"
    needs_vlm = True

    def __init__(
        self,
        threshold: float = 0.1,
        top_k: int | None = None,
        temperature: float = ITC_TEMPERATURE,
        template: str = TEMPLATE,
    ) -> None:
        super().__init__(threshold, top_k)
        if temperature <= 0:
            raise ValueError(f"Expected `temperature` to be positive, but got {temperature}.")
        self.temperature = temperature
        self.template = template
        self._scorer: ItcScorer | None = None

    def scores(self, batch: PhotoBatch, benchmark: Benchmark, vlm: VLM) -> Tensor:
        """See `ScoredProposer.scores`."""
        if self._scorer is None or self._scorer.vlm is not vlm:  # it keeps the names' embeddings
            self._scorer = ItcScorer(vlm, self.template, self.temperature)
        names, flat = searched_names(benchmark)
        logits = self._scorer.logits_per_image(batch.stacked, flat)
        return best_synonym(logits, names).softmax(-1)

    def settings(self) -> dict[str, Any]:
        """See `Proposer.settings`."""
        own = {"temperature": self.temperature, "template": self.template}
        return {**super().settings(), **own}
