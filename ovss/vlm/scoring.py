"""What judges a masked photo: image-text similarities behind one interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovss.captions import TEMPLATE, Caption
from ovss.tuning.photos import chunked
from ovss.vlm.base import VLM, ImageStatistics

CLIP_MODEL = "openai/clip-vit-large-patch14-336"
"""The paper's reward model."""

ITC_TEMPERATURE = 0.07
"""What BLIP's contrastive training starts from; the published checkpoints do not keep theirs."""


class Scorer(ABC):
    """Similarities of photos and class names.

    Attributes:
        name: short name for reports.
        size: side of its square input in pixels.
        statistics: how it wants its pixels normalised.
        device: where it computes.
    """

    name: str
    size: int
    statistics: ImageStatistics
    device: torch.device

    @abstractmethod
    def similarities(self, pixel_values: Tensor, names: Sequence[Sequence[str]]) -> list[Tensor]:
        """For each photo a logit for each of its own names, `(K_i,)`.

        Args:
            pixel_values: `(B, 3, size, size)`, normalised.
            names: for each photo the class names to compare it with.
        """

    @torch.no_grad()
    def __call__(
        self, pixels: Tensor, names: Sequence[Sequence[str]], batch_size: int = 64
    ) -> list[Tensor]:
        """Logits `(K_i,)` for photos whose pixels `(B, 3, size, size)` are in 0..1."""
        mean = torch.tensor(self.statistics.mean, device=self.device).view(3, 1, 1)
        std = torch.tensor(self.statistics.std, device=self.device).view(3, 1, 1)
        logits: list[Tensor] = []
        for chunk in chunked(len(pixels), batch_size):
            part = pixels[chunk[0] : chunk[-1] + 1].to(self.device)
            logits += self.similarities((part - mean) / std, [names[i] for i in chunk])
        return [each.float().cpu() for each in logits]


class ClipScorer(Scorer):
    """CLIP, SigLIP or a relative from transformers.

    Args:
        model: with `get_image_features`, `get_text_features` and `logit_scale`.
        tokenizer: its tokenizer.
        statistics: pixel mean and standard deviation.
        prompt: sentence with `{}` for the class name; eq. 7 has the bare name.
        name: short name for reports.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        statistics: ImageStatistics,
        prompt: str = "{}",
        name: str = "clip",
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.statistics = statistics
        self.prompt = prompt
        self.name = name
        self.size = model.config.vision_config.image_size
        self._texts: dict[str, Tensor] = {}

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Where the weights are."""
        return self.model.device

    @classmethod
    def from_pretrained(
        cls, name_or_path: str = CLIP_MODEL, device: torch.device | None = None, prompt: str = "{}"
    ) -> ClipScorer:
        """Load a checkpoint from the hub or a folder.

        Raises:
            FileNotFoundError: no such folder or model, or files missing.
        """
        from transformers import AutoModel, AutoTokenizer

        from ovss.vlm.loading import preprocessor_config

        if Path(name_or_path).is_absolute() and not Path(name_or_path).is_dir():
            raise FileNotFoundError(
                f"Expected a CLIP-like model at {name_or_path}, but there is no such folder; give "
                "one or a hub id with --reward.model."
            )
        try:
            model = AutoModel.from_pretrained(name_or_path)
            tokenizer = AutoTokenizer.from_pretrained(name_or_path)
        except (OSError, ValueError) as error:  # ValueError: no model_type in config.json
            raise FileNotFoundError(
                f"Expected a CLIP-like model at {name_or_path}, but it cannot be loaded "
                f"({str(error).splitlines()[0]}); give its folder or hub id with --reward.model, "
                "or use the VLM itself with --reward.scorer itm."
            ) from error
        if not hasattr(model, "get_text_features") or not hasattr(model, "logit_scale"):
            raise ValueError(
                f"Expected a CLIP-like model at {name_or_path}, with features of both photos and "
                f"texts, but got {type(model).__name__}."
            )
        preprocessing = preprocessor_config(name_or_path, None)
        missing = [key for key in ("image_mean", "image_std") if key not in preprocessing]
        if missing:
            raise FileNotFoundError(
                f"Expected a preprocessor_config.json with image_mean and image_std at "
                f"{name_or_path}, but {' and '.join(missing)} are missing."
            )
        statistics = ImageStatistics(
            tuple(preprocessing["image_mean"]),
            tuple(preprocessing["image_std"]),
        )
        return cls(model.to(device), tokenizer, statistics, prompt, f"clip ({name_or_path})")

    def similarities(self, pixel_values: Tensor, names: Sequence[Sequence[str]]) -> list[Tensor]:
        """See `Scorer`; texts are encoded once and kept."""
        images = _embedding(self.model.get_image_features(pixel_values=pixel_values))
        # The bias that SigLIP adds is the same for all names and falls out of the softmax.
        scale = self.model.logit_scale.exp()
        return [
            scale * (self._embed(own) @ image) for image, own in zip(images, names, strict=True)
        ]

    def _embed(self, names: Sequence[str]) -> Tensor:
        new = [name for name in dict.fromkeys(names) if name not in self._texts]
        if new:
            # SigLIP was trained on texts padded to the full length, without a mask.
            encoded = self.tokenizer(
                [self.prompt.format(name) for name in new],
                padding="max_length",
                max_length=self.model.config.text_config.max_position_embeddings,
                truncation=True,
                return_tensors="pt",
            )
            wanted = {"input_ids", "attention_mask"} & set(encoded)
            inputs = {key: encoded[key].to(self.device) for key in wanted}
            features = _embedding(self.model.get_text_features(**inputs))
            self._texts.update(zip(new, features, strict=True))
        return torch.stack([self._texts[name] for name in names])


class ItcScorer(Scorer):
    """The VLM's own contrastive projections: no second model.

    Args:
        vlm: with `embed_image` and `embed_text`.
        template: caption with `{}` for the class name.
        temperature: of the similarities.
    """

    name = "itc"

    def __init__(
        self, vlm: VLM, template: str = TEMPLATE, temperature: float = ITC_TEMPERATURE
    ) -> None:
        self.vlm = vlm
        self.template = template
        self.temperature = temperature
        self.size = vlm.image_size
        self.statistics = vlm.statistics
        self.device = vlm.device
        self._texts: dict[str, Tensor] = {}

    def similarities(self, pixel_values: Tensor, names: Sequence[Sequence[str]]) -> list[Tensor]:
        """See `Scorer`; texts are encoded once and kept."""
        images = self.vlm.embed_image(self.vlm.encode_image(pixel_values))
        for name in dict.fromkeys(name for own in names for name in own):
            if name not in self._texts:
                captions = self.vlm.captions([name], self.template)
                self._texts[name] = self.vlm.embed_text(captions)[0]
        return [
            torch.stack([self._texts[name] for name in own]) @ image / self.temperature
            for image, own in zip(images, names, strict=True)
        ]


class ItmScorer(Scorer):
    """The VLM's image-text-matching head: no second model.

    Args:
        vlm: any.
        template: caption with `{}` for the class name.
    """

    name = "itm"

    def __init__(self, vlm: VLM, template: str = TEMPLATE) -> None:
        self.vlm = vlm
        self.template = template
        self.size = vlm.image_size
        self.statistics = vlm.statistics
        self.device = vlm.device
        self._captions: dict[str, Caption] = {}

    def similarities(self, pixel_values: Tensor, names: Sequence[Sequence[str]]) -> list[Tensor]:
        """See `Scorer`: the logit of a match less that of none."""
        for name in {name for own in names for name in own} - self._captions.keys():
            (self._captions[name],) = self.vlm.captions([name], self.template)
        features = self.vlm.encode_image(pixel_values)
        captions = [[self._captions[name] for name in own] for own in names]
        logits = self.vlm.match_each(features, captions)
        return [each[:, 1] - each[:, 0] for each in logits]


def make_scorer(
    kind: str, vlm: VLM, model: str = CLIP_MODEL, template: str = TEMPLATE, prompt: str = "{}"
) -> Scorer:
    """A scorer by its name, on the VLM's device.

    Args:
        kind: `clip`, `itc` or `itm`.
        vlm: the model under tuning; `itc` and `itm` ask it.
        model: hub id or folder, for `clip`.
        template: caption of the VLM with `{}` for a class name.
        prompt: sentence of `clip` with `{}` for a class name.

    Raises:
        ValueError: another name.
    """
    if kind == "clip":
        return ClipScorer.from_pretrained(model, vlm.device, prompt)
    if kind == "itc":
        return ItcScorer(vlm, template)
    if kind == "itm":
        return ItmScorer(vlm, template)
    raise ValueError(f"Expected `reward.scorer` to be clip, itc or itm, but got {kind!r}.")


def _embedding(features: Any) -> Tensor:
    """Unit vectors; transformers 5 returns an output object where 4 returned the tensor."""
    tensor = features if isinstance(features, Tensor) else features.pooler_output
    return torch.nn.functional.normalize(tensor.float(), dim=-1)
