"""Proposals from zero-shot classification with CLIP or SigLIP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ovss.benchmark import Benchmark, PhotoBatch
from ovss.proposals.base import ScoredProposer, best_synonym, searched_names
from ovss.vlm.base import VLM
from ovss.vlm.loading import checkpoint_name, preprocessor_config

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Pixel statistics where the checkpoint names none: CLIP's."""


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
        self.templates = tuple(templates)
        self.model, self.tokenizer = _load(name_or_path, revision)
        preprocessing = preprocessor_config(name_or_path, revision)
        self._mean = torch.tensor(preprocessing.get("image_mean", CLIP_MEAN)).view(3, 1, 1)
        self._std = torch.tensor(preprocessing.get("image_std", CLIP_STD)).view(3, 1, 1)
        self._embedded: tuple[Any, Tensor] | None = None

    def scores(self, batch: PhotoBatch, benchmark: Benchmark, vlm: VLM) -> Tensor:
        """See `ScoredProposer.scores`."""
        names = searched_names(benchmark)
        device = batch.pixel_values.device
        self.model.to(device)
        pixels = torch.stack([self._prepare(photo.to(device)) for photo in batch.photos])
        images = self.model.get_image_features(pixel_values=pixels).pooler_output
        texts = self._texts(names).to(device)
        logits = nn.functional.normalize(images, dim=-1) @ texts.T * self.model.logit_scale.exp()
        if self.model.config.model_type == "siglip":
            return best_synonym((logits + self.model.logit_bias).sigmoid(), names)
        return best_synonym(logits, names).softmax(-1)

    def _prepare(self, photo: Tensor) -> Tensor:
        """`(3, H, W)` uint8 -> `(3, S, S)` normalised; bicubic with antialiasing, as PIL's."""
        side = self.model.config.vision_config.image_size
        pixels = nn.functional.interpolate(
            photo[None].float(), (side, side), mode="bicubic", antialias=True
        )[0]
        return (pixels.clamp(0, 255) / 255 - self._mean.to(photo.device)) / self._std.to(
            photo.device
        )

    def _texts(self, names: tuple[tuple[str, ...], ...]) -> Tensor:
        """Unit text embeddings `(names, E)`, averaged over the templates; kept for the run."""
        if self._embedded is None or self._embedded[0] != names:
            flat = [name for synonyms in names for name in synonyms]
            self._embedded = (names, torch.stack([self._embed(name) for name in flat]))
        return self._embedded[1]

    def _embed(self, name: str) -> Tensor:
        length = self.model.config.text_config.max_position_embeddings
        encoded = self.tokenizer(
            [template.format(name) for template in self.templates],
            # SigLIP was trained on padded texts and reads the last position.
            padding="max_length" if self.model.config.model_type == "siglip" else True,
            truncation=True,
            max_length=length,
            return_tensors="pt",
        )
        inputs = {"input_ids": encoded["input_ids"].to(self.model.device)}
        if self.model.config.model_type == "clip":
            inputs["attention_mask"] = encoded["attention_mask"].to(self.model.device)
        features = self.model.get_text_features(**inputs).pooler_output
        mean = nn.functional.normalize(features, dim=-1).mean(0)
        return nn.functional.normalize(mean, dim=-1)

    def settings(self) -> dict[str, Any]:
        """See `Proposer.settings`."""
        own = {"checkpoint": self.checkpoint, "templates": list(self.templates)}
        return {**super().settings(), **own}


def _load(name_or_path: str | Path, revision: str | None) -> tuple[Any, Any]:
    """The frozen model and its tokenizer."""
    from transformers import AutoConfig, AutoTokenizer, CLIPModel, SiglipModel

    try:
        config = AutoConfig.from_pretrained(name_or_path, revision=revision)
        architectures: dict[str, Any] = {"clip": CLIPModel, "siglip": SiglipModel}
        if config.model_type not in architectures:
            raise ValueError(
                f"Expected a checkpoint of type {' or '.join(architectures)} for `clip` proposals, "
                f"but {str(name_or_path)!r} is of type {config.model_type!r}."
            )
        model = architectures[config.model_type].from_pretrained(
            name_or_path, revision=revision, dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, revision=revision)
    except OSError as error:
        raise FileNotFoundError(
            "Expected a hub id or a folder with config.json, model.safetensors and the "
            f"tokenizer's files for `clip` proposals, but could not read {str(name_or_path)!r}: "
            f"{error}"
        ) from error
    return model.eval().requires_grad_(False), tokenizer
