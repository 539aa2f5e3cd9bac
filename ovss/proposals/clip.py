"""Proposals from zero-shot classification with CLIP or SigLIP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ovss.benchmark import Benchmark, PhotoBatch
from ovss.proposals.base import ScoredProposer, best_synonym, searched_names
from ovss.vlm.base import VLM
from ovss.vlm.loading import checkpoint_name
from ovss.vlm.scoring import ClipScorer


class ClipProposer(ScoredProposer):
    """`clip`: zero-shot image classification with any CLIP or SigLIP checkpoint.

    CLIP's scores are a softmax over the classes at the learned temperature; SigLIP's are a sigmoid
    for each class. The whole photo is squeezed into the model's square input, nothing is cropped.

    Args:
        name_or_path: hub id such as `openai/clip-vit-large-patch14-336`, or a local folder.
        threshold: keep classes whose score is above it. CLIP's scores of all classes sum to 1, so
            it depends on their number: tune it.
        top_k: at most how many classes to keep.
        templates: prompts with `{}` for the class name; their text embeddings are averaged.
        revision: branch, tag or commit on the hub.
    """

    name = "clip"

    def __init__(
        self,
        name_or_path: str,
        threshold: float = 0.1,
        top_k: int | None = None,
        templates: Sequence[str] = ("a photo of a {}.",),
        revision: str | None = None,
    ) -> None:
        super().__init__(threshold, top_k)
        wrong = [template for template in templates if template.count("{}") != 1]
        if isinstance(templates, str) or not templates or wrong:
            raise ValueError(
                "Expected `templates` to be a list of prompts with '{}' exactly once, but got "
                f"{templates!r}."
            )
        self.checkpoint = checkpoint_name(name_or_path, revision)
        self.scorer = ClipScorer.from_pretrained(name_or_path, revision, templates)

    def scores(self, batch: PhotoBatch, benchmark: Benchmark, vlm: VLM) -> Tensor:
        """See `ScoredProposer.scores`."""
        device = batch.device
        self.scorer.model.to(device)
        pixels = torch.stack([self._resize(photo.to(device)) for photo in batch.photos])
        names, flat = searched_names(benchmark)
        logits = self.scorer.logits_per_image(self.scorer.normalise(pixels), flat)
        if self.scorer.siglip:
            return best_synonym(logits.sigmoid(), names)
        return best_synonym(logits, names).softmax(-1)

    def _resize(self, photo: Tensor) -> Tensor:
        """`(3, H, W)` uint8 -> `(3, S, S)` in 0..1; bicubic with antialiasing, as PIL's."""
        pixels = nn.functional.interpolate(
            photo[None].float(), (self.scorer.size,) * 2, mode="bicubic", antialias=True
        )[0]
        return pixels.clamp(0, 255) / 255

    def settings(self) -> dict[str, Any]:
        """See `Proposer.settings`."""
        own = {"checkpoint": self.checkpoint, "templates": list(self.scorer.templates)}
        return {**super().settings(), **own}
