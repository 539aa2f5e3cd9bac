"""What the method needs of a vision-language model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ovss.captions import TEMPLATE, Caption, class_tokens, split_captions
from ovss.gradcam import GradCAM, differentiate, take_head, to_patch_grid, weight_by_gradient
from ovss.vlm.identity import built_from


@dataclass(frozen=True)
class ImageStatistics:
    """How pixels are normalised: `(pixel / 255 - mean) / std`, RGB."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class Tokens:
    """A padded batch of tokenised captions.

    Attributes:
        input_ids: `(B, T + 1)`, the leading special token included.
        attention_mask: `(B, T + 1)`, 1 for tokens and 0 for padding.
        groups: for each caption and each of its classes, indices into the T map tokens.
    """

    input_ids: Tensor
    attention_mask: Tensor
    groups: tuple[tuple[tuple[int, ...], ...], ...]


class VLM(nn.Module, ABC):
    """A frozen vision-language model with text-to-image cross-attention and a matching head.

    A subclass serves `encode_image`, `_match` and `_record_attention`, and sets the attributes
    below. See `ovss.vlm.blip` for the shortest example.

    Attributes:
        image_size: side S of the square input, in pixels.
        patch_size: side of a patch, in pixels; the patch grid is S / patch_size on a side.
        statistics: pixel mean and standard deviation the checkpoint was trained with.
        num_layers: cross-attention layers.
        num_heads: heads of each.
        max_tokens: positions of the text encoder.
        name: where the weights came from, for reports.
        tokenizer: a fast tokenizer (offset mapping).
    """

    image_size: int
    patch_size: int
    statistics: ImageStatistics
    num_layers: int
    num_heads: int
    max_tokens: int
    name: str
    tokenizer: Any

    @property
    def grid(self) -> int:
        """Patches on a side."""
        return self.image_size // self.patch_size

    @property
    def layers(self) -> range:
        """Layers whose class tokens carry gradient.

        Only the leading token feeds the matching head, so the last layer's maps are exactly zero
        for every other token.
        """
        return range(self.num_layers - 1)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    # ---- text ----------------------------------------------------------------------------------

    def token_count(self, text: str) -> int:
        """Tokens of a text, special tokens included."""
        return len(self.tokenizer(text)["input_ids"])

    def captions(
        self, classes: Sequence[str], template: str = TEMPLATE, separator: str = " "
    ) -> list[Caption]:
        """The classes in one caption, or in several where the text encoder's positions are few."""
        return split_captions(classes, self.token_count, self.max_tokens, template, separator)

    def tokenize(self, captions: Sequence[Caption]) -> Tokens:
        """Token ids, mask and class groups of captions, on the weights' device.

        Raises:
            ValueError: a caption is longer than the text encoder's positions.
        """
        encoded = self.tokenizer(
            [caption.text for caption in captions],
            padding=True,
            return_tensors="pt",
            return_offsets_mapping=True,
        )
        if encoded["input_ids"].shape[1] > self.max_tokens:
            longest = max(captions, key=lambda caption: self.token_count(caption.text))
            raise ValueError(
                f"Expected captions of at most {self.max_tokens} tokens, but got one of "
                f"{self.token_count(longest.text)}: {longest.text[:80]!r}...; "
                "split the classes with `vlm.captions(classes)`."
            )
        groups = tuple(
            # -1: the maps leave out the leading special token.
            tuple(
                tuple(token - 1 for token in group)
                for group in class_tokens(caption, [(a, b) for a, b in offsets])
            )
            for caption, offsets in zip(captions, encoded["offset_mapping"].tolist(), strict=True)
        )
        return Tokens(
            self._prepare_ids(encoded["input_ids"]).to(self.device),
            encoded["attention_mask"].to(self.device),
            groups,
        )

    def _prepare_ids(self, input_ids: Tensor) -> Tensor:
        """Hook for checkpoints whose text encoder wants another leading token."""
        return input_ids

    # ---- images and matching -------------------------------------------------------------------

    @abstractmethod
    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """What the text side needs of photos `(B, 3, S, S)`, computed without a graph.

        Returns:
            One tensor whose first dimension is the photo; the rest is the model's own business.
            BLIP: `(B, 1 + g*g, D)`. BridgeTower: `(B, L, 1 + g*g, D)`.
        """

    @abstractmethod
    def _match(self, features: Tensor, tokens: Tokens) -> Tensor:
        """Match logits `(B, 2)` (no match, match) of image features and captions, row by row.

        Features of one photo, `(1, ...)`, are shared by all captions.
        """

    @abstractmethod
    def _record_attention(self, layers: Sequence[int]) -> Any:
        """Context manager that yields a dict filled by `_match`: layer -> probabilities.

        The probabilities `(B, N, T + 1, 1 + g*g)` of the named cross-attention layers must
        require grad, and what follows must be computed from them.
        """

    @torch.no_grad()
    def match(self, features: Tensor, captions: Sequence[Caption]) -> Tensor:
        """Match logits `(B, 2)` of B captions and the features of B photos, or of one for all."""
        return self._match(features, self.tokenize(captions))

    @torch.no_grad()
    def match_each(self, features: Tensor, captions: Sequence[Sequence[Caption]]) -> list[Tensor]:
        """Match logits `(K_i, 2)` of each photo and its own captions.

        Args:
            features: of B photos, from `encode_image`.
            captions: for each photo its captions, one or more.
        """
        counts = [len(own) for own in captions]
        rows = torch.tensor([row for row, count in enumerate(counts) for _ in range(count)])
        tokens = self.tokenize([caption for own in captions for caption in own])
        return list(self._match(features[rows.to(features.device)], tokens).split(counts))

    def embed_image(self, features: Tensor) -> Tensor:
        """Image embeddings `(B, E)` of unit length, from `encode_image`'s features.

        Their dot products with `embed_text` are the image-text similarities of the model's
        contrastive training. A model without such heads leaves this out.
        """
        raise ValueError(
            f"Expected a model with contrastive projections for image-text similarity, but "
            f"{type(self).__name__} has none; use `itm` instead."
        )

    def embed_text(self, captions: Sequence[Caption]) -> Tensor:
        """Text embeddings `(K, E)` of unit length; see `embed_image`."""
        raise ValueError(
            f"Expected a model with contrastive projections for image-text similarity, but "
            f"{type(self).__name__} has none; use `itm` instead."
        )

    # ---- GradCAM -------------------------------------------------------------------------------

    def gradcam(
        self,
        pixel_values: Tensor,
        captions: Sequence[Caption | str],
        layer: int,
        head: int | str,
    ) -> GradCAM:
        """Cross-attention GradCAM of one layer and head for photos and their captions.

        Args:
            pixel_values: `(B, 3, S, S)`, normalised.
            captions: B captions.
            layer: counted from 0.
            head: counted from 0, or `"mean"` over heads.

        Raises:
            ValueError: shapes that do not fit, or a layer or head that does not exist or whose
                maps are always zero.
        """
        self._check_pixels(pixel_values, len(captions))
        tokens = self.tokenize(as_captions(captions))
        return self.attend(self.encode_image(pixel_values), tokens, layer, head)

    def gradcam_all(self, pixel_values: Tensor, captions: Sequence[Caption | str]) -> GradCAM:
        """GradCAM of all layers that carry gradient and all heads, from one pass.

        Returns:
            `maps` of shape `(L, N, B, T, g, g)` with L = `len(vlm.layers)`.
        """
        self._check_pixels(pixel_values, len(captions))
        tokens = self.tokenize(as_captions(captions))
        return self.attend_all(self.encode_image(pixel_values), tokens)

    def attend(
        self,
        features: Tensor,
        tokens: Tokens,
        layer: int,
        head: int | str,
        gradient: bool = True,
    ) -> GradCAM:
        """`gradcam` from image features and tokenised captions.

        Args:
            features: from `encode_image`.
            tokens: from `tokenize`.
            layer: counted from 0.
            head: counted from 0, or `"mean"`.
            gradient: False leaves out the gradient weight (attention alone, the paper's ablation).
        """
        self.check_choice(layer, head)
        attention, gradients, logit = self._differentiate(features, tokens, [layer], gradient)
        weighted = weight_by_gradient(attention[0], gradients[0]) if gradient else attention[0]
        maps = to_patch_grid(take_head(weighted, head), tokens.attention_mask, self.grid)
        return GradCAM(maps, logit)

    def attend_all(self, features: Tensor, tokens: Tokens) -> GradCAM:
        """`gradcam_all` from image features and tokenised captions."""
        attention, gradients, logit = self._differentiate(features, tokens, self.layers)
        maps = [
            to_patch_grid(weight_by_gradient(*pair), tokens.attention_mask, self.grid)
            for pair in zip(attention, gradients, strict=True)
        ]
        return GradCAM(torch.stack(maps).transpose(1, 2), logit)

    def _differentiate(
        self, features: Tensor, tokens: Tokens, layers: Sequence[int], gradient: bool = True
    ) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """See `ovss.gradcam.differentiate`."""

        def match(features: Tensor) -> Tensor:
            return self._match(features, tokens)

        return differentiate(match, features, self._record_attention, layers, gradient)

    def settings(self) -> dict[str, Any]:
        """What tells this model from another of its architecture, but for the weights."""
        return {
            "name": self.name,
            "image_size": self.image_size,
            **asdict(self.statistics),
            "built_from": built_from(getattr(self, "model", None), self.tokenizer),
        }

    def stages(self) -> dict[str, nn.Module]:
        """Parts whose time is worth knowing, by name; each a module that is called as one."""
        return {}

    # ---- checks --------------------------------------------------------------------------------

    def check_choice(self, layer: int, head: int | str) -> None:
        """Refuse a layer or head that does not exist or cannot work.

        Raises:
            ValueError: with the choices there are.
        """
        if type(layer) is int and layer == self.num_layers - 1:
            raise ValueError(
                f"Expected `layer` to be in 0..{self.layers[-1]}, but got {layer}: the last "
                "layer's class tokens do not reach the matching head, so its maps are always zero."
            )
        if type(layer) is not int or layer not in self.layers:
            raise ValueError(
                f"Expected `layer` to be in 0..{self.layers[-1]} (counted from 0), but got {layer}."
            )
        if head != "mean" and not (
            isinstance(head, int) and not isinstance(head, bool) and 0 <= head < self.num_heads
        ):
            raise ValueError(
                f"Expected `head` to be in 0..{self.num_heads - 1} (counted from 0) or 'mean', "
                f"but got {head!r}."
            )

    def _check_pixels(self, pixel_values: Tensor, captions: int) -> None:
        shape = (captions, 3, self.image_size, self.image_size)
        if tuple(pixel_values.shape) != shape:
            raise ValueError(
                f"Expected `pixel_values` of shape {shape} ({captions} captions, images of "
                f"{self.image_size} pixels), but got {tuple(pixel_values.shape)}; resize the "
                "photos, or load the model with the `image_size` that you want."
            )


def as_captions(captions: Sequence[Caption | str]) -> list[Caption]:
    """Plain strings become captions without classes."""
    return [Caption(c) if isinstance(c, str) else c for c in captions]
