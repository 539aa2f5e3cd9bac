"""Image-text scores: how well photos and class names go together, for CLIP and for a VLM itself.

Class proposals threshold them, tuning rewards settings by them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ovss.captions import TEMPLATE, Caption
from ovss.vlm.base import VLM, ImageStatistics
from ovss.vlm.loading import CLIP_STATISTICS, checkpoint_name, image_statistics, load_checkpoint

ITC_TEMPERATURE = 0.07
"""What BLIP's contrastive training starts from; the published checkpoints do not keep theirs."""

SIGLIP_STATISTICS = ImageStatistics((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class Scorer(ABC):
    """Logits of photos and class names.

    Attributes:
        name: short name for reports.
        size: side of its square input in pixels.
        statistics: how it wants its pixels normalised.
    """

    name: str
    size: int
    statistics: ImageStatistics

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where it computes."""

    @abstractmethod
    def similarities(self, pixel_values: Tensor, names: Sequence[Sequence[str]]) -> list[Tensor]:
        """For each photo a logit for each of its own names, `(K_i,)`.

        Args:
            pixel_values: `(B, 3, size, size)`, normalised.
            names: for each photo the class names to compare it with.
        """

    def logits_per_image(self, pixel_values: Tensor, names: Sequence[str]) -> Tensor:
        """Logits `(B, K)` of every photo and every name, in float32.

        Args:
            pixel_values: `(B, 3, size, size)`, normalised.
            names: K class names.
        """
        return torch.stack(self.similarities(pixel_values, [names] * len(pixel_values)))

    def normalise(self, pixels: Tensor) -> Tensor:
        """Pixels `(..., 3, H, W)` in 0..1 as the model wants them."""
        mean = torch.tensor(self.statistics.mean, device=pixels.device).view(3, 1, 1)
        std = torch.tensor(self.statistics.std, device=pixels.device).view(3, 1, 1)
        return (pixels - mean) / std

    @torch.no_grad()
    def __call__(
        self, pixels: Tensor, names: Sequence[Sequence[str]], batch_size: int = 64
    ) -> list[Tensor]:
        """`similarities` on the CPU for any number of photos, pixels `(B, 3, size, size)` in 0..1.

        Args:
            pixels: not normalised.
            names: for each photo the class names to compare it with.
            batch_size: photos in a pass.
        """
        logits: list[Tensor] = []
        for start in range(0, len(pixels), batch_size):
            rows = slice(start, start + batch_size)
            part = self.normalise(pixels[rows].to(self.device))
            logits += self.similarities(part, names[rows])
        return [each.float().cpu() for each in logits]


class _EmbeddingScorer(Scorer):
    """Dot products of unit vectors; a name's is computed once and kept."""

    def __init__(self) -> None:
        self._texts: dict[str, Tensor] = {}

    @abstractmethod
    def _embed_images(self, pixel_values: Tensor) -> Tensor:
        """Unit vectors `(B, E)`."""

    @abstractmethod
    def _embed_name(self, name: str) -> Tensor:
        """A unit vector `(E,)`."""

    @abstractmethod
    def _logits(self, cosines: Tensor) -> Tensor:
        """The model's logits of cosines."""

    def similarities(self, pixel_values: Tensor, names: Sequence[Sequence[str]]) -> list[Tensor]:
        """See `Scorer`."""
        images = self._embed_images(pixel_values)
        return [
            self._logits((self._embed_names(own).to(image) @ image).float())
            for image, own in zip(images, names, strict=True)
        ]

    def _embed_names(self, names: Sequence[str]) -> Tensor:
        for name in names:
            if name not in self._texts:
                self._texts[name] = self._embed_name(name)
        return torch.stack([self._texts[name] for name in names])


class ClipScorer(_EmbeddingScorer):
    """CLIP or SigLIP from transformers; its own logits, temperature and bias included.

    Args:
        model: a `CLIPModel` or `SiglipModel`.
        tokenizer: its tokenizer.
        statistics: pixel mean and standard deviation.
        templates: prompts with `{}` for the class name; their text embeddings are averaged. Eq. 7
            has the bare name.
        name: short name for reports.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        statistics: ImageStatistics,
        templates: Sequence[str] = ("{}",),
        name: str = "clip",
    ) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.statistics = statistics
        self.templates = tuple(templates)
        self.name = name
        self.size = model.config.vision_config.image_size

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        revision: str | None = None,
        templates: Sequence[str] = ("{}",),
    ) -> ClipScorer:
        """Load a checkpoint, on the CPU.

        Args:
            name_or_path: hub id such as `openai/clip-vit-large-patch14-336`, or a local folder.
            revision: branch, tag or commit on the hub.
            templates: see the class.

        Raises:
            FileNotFoundError: no such folder or model, or files missing.
            ValueError: another architecture, or damaged or missing weights.
        """
        from transformers import CLIPModel, SiglipModel

        architectures = {"clip": CLIPModel, "siglip": SiglipModel}
        model, tokenizer = load_checkpoint(architectures, name_or_path, revision)
        siglip = model.config.model_type == "siglip"
        statistics = image_statistics(
            name_or_path, revision, SIGLIP_STATISTICS if siglip else CLIP_STATISTICS
        )
        name = f"clip ({checkpoint_name(name_or_path, revision)})"
        return cls(model, tokenizer, statistics, templates, name)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def siglip(self) -> bool:
        """Whether a logit's sigmoid is the probability, or the softmax over the names (CLIP)."""
        return self.model.config.model_type == "siglip"

    def _embed_images(self, pixel_values: Tensor) -> Tensor:
        features = self.model.get_image_features(pixel_values=pixel_values).pooler_output
        return normalize(features.float(), dim=-1)

    def _embed_name(self, name: str) -> Tensor:
        encoded = self.tokenizer(
            [template.format(name) for template in self.templates],
            # SigLIP was trained on padded texts without a mask and reads the last position.
            padding="max_length" if self.siglip else True,
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        )
        wanted = ["input_ids"] if self.siglip else ["input_ids", "attention_mask"]
        inputs = {key: encoded[key].to(self.device) for key in wanted}
        features = self.model.get_text_features(**inputs).pooler_output
        return normalize(normalize(features.float(), dim=-1).mean(0), dim=-1)

    def _logits(self, cosines: Tensor) -> Tensor:
        logits = cosines * self.model.logit_scale.exp()
        return logits + self.model.logit_bias if self.siglip else logits


class ItcScorer(_EmbeddingScorer):
    """The VLM's own contrastive projections: no second model.

    Args:
        vlm: with `embed_image` and `embed_text`.
        template: caption with `{}` for the class name.
        temperature: divides the similarities.
    """

    name = "itc"

    def __init__(
        self, vlm: VLM, template: str = TEMPLATE, temperature: float = ITC_TEMPERATURE
    ) -> None:
        super().__init__()
        self.vlm = vlm
        self.template = template
        self.temperature = temperature
        self.size = vlm.image_size
        self.statistics = vlm.statistics

    @property
    def device(self) -> torch.device:
        """Where the VLM is."""
        return self.vlm.device

    def _embed_images(self, pixel_values: Tensor) -> Tensor:
        return self.vlm.embed_image(self.vlm.encode_image(pixel_values))

    def _embed_name(self, name: str) -> Tensor:
        return self.vlm.embed_text([Caption.of([name], self.template)])[0]

    def _logits(self, cosines: Tensor) -> Tensor:
        return cosines / self.temperature


class ItmScorer(Scorer):
    """The VLM's image-text-matching head: the logit of a match less that of none.

    The sigmoid of it is the probability of a match.

    Args:
        vlm: any.
        template: caption with `{}` for the class name.
        chunk: names that `logits_per_image` puts through the text encoder together; bounds the
            memory.
    """

    name = "itm"

    def __init__(self, vlm: VLM, template: str = TEMPLATE, chunk: int = 32) -> None:
        self.vlm = vlm
        self.template = template
        self.chunk = chunk
        self.size = vlm.image_size
        self.statistics = vlm.statistics

    @property
    def device(self) -> torch.device:
        """Where the VLM is."""
        return self.vlm.device

    def similarities(self, pixel_values: Tensor, names: Sequence[Sequence[str]]) -> list[Tensor]:
        """See `Scorer`; for some names a photo: they are matched together."""
        features = self.vlm.encode_image(pixel_values)
        logits = self.vlm.match_each(features, [self._captions(own) for own in names])
        return [_margin(each) for each in logits]

    def logits_per_image(self, pixel_values: Tensor, names: Sequence[str]) -> Tensor:
        """See `Scorer`; for many names: photo by photo, whose features the names share."""
        captions = self._captions(names)
        chunks = [captions[i : i + self.chunk] for i in range(0, len(captions), self.chunk)]
        features = self.vlm.encode_image(pixel_values)
        return torch.stack(
            [
                torch.cat([_margin(self.vlm.match(photo, chunk)) for chunk in chunks])
                for photo in features.split(1)
            ]
        )

    def _captions(self, names: Sequence[str]) -> list[Caption]:
        return [Caption.of([name], self.template) for name in names]


def _margin(logits: Tensor) -> Tensor:
    """`(K, 2)` logits of no match and of a match -> `(K,)`."""
    return logits[:, 1].float() - logits[:, 0].float()
