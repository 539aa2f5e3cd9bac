"""Proposals from the segmenting VLM itself: its matching head or its contrastive embeddings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ovss.benchmark import Benchmark, PhotoBatch
from ovss.captions import TEMPLATE, Caption
from ovss.proposals.base import ScoredProposer, best_synonym, searched_names
from ovss.vlm.base import VLM


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
        names = searched_names(benchmark)
        captions = captions_of(names, self.template)
        features = vlm.encode_image(batch.pixel_values)
        rows = [
            torch.cat(
                [
                    vlm.match(photo[None], captions[start : start + self.chunk])
                    for start in range(0, len(captions), self.chunk)
                ]
            )
            for photo in features
        ]
        return best_synonym(torch.stack(rows).float().softmax(-1)[..., 1], names)

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
        temperature: divides the similarities; 0.07 is what BLIP's training starts from.
        template: caption with `{}` for the class name.
    """

    name = "itc"

    def __init__(
        self,
        threshold: float = 0.1,
        top_k: int | None = None,
        temperature: float = 0.07,
        template: str = TEMPLATE,
    ) -> None:
        super().__init__(threshold, top_k)
        if temperature <= 0:
            raise ValueError(f"Expected `temperature` to be positive, but got {temperature}.")
        self.temperature = temperature
        self.template = template
        self._embedded: tuple[VLM, Any, Tensor] | None = None

    def scores(self, batch: PhotoBatch, benchmark: Benchmark, vlm: VLM) -> Tensor:
        """See `ScoredProposer.scores`."""
        names = searched_names(benchmark)
        images = vlm.embed_image(vlm.encode_image(batch.pixel_values))
        similarities = (images @ self._texts(vlm, names).to(images).T).float()
        return best_synonym(similarities / self.temperature, names).softmax(-1)

    def _texts(self, vlm: VLM, names: tuple[tuple[str, ...], ...]) -> Tensor:
        """Text embeddings `(names, E)`, computed anew when the model or the names change."""
        if self._embedded is None or self._embedded[0] is not vlm or self._embedded[1] != names:
            texts = vlm.embed_text(captions_of(names, self.template))
            self._embedded = (vlm, names, texts)
        return self._embedded[2]

    def settings(self) -> dict[str, Any]:
        """See `Proposer.settings`."""
        own = {"temperature": self.temperature, "template": self.template}
        return {**super().settings(), **own}


def captions_of(names: tuple[tuple[str, ...], ...], template: str) -> list[Caption]:
    """A caption for every name and synonym."""
    return [Caption.of([name], template) for synonyms in names for name in synonyms]
