"""CLIP's image encoder with one of the methods in its last layer: windows -> patch features."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from ovss.dense_clip.methods import METHODS, LastLayer
from ovss.vlm.attention import use_onednn
from ovss.vlm.loading import CLIP_STATISTICS

IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation that DINO was trained with, of pixels in 0..1."""


class ImageEncoder(nn.Module):
    """Windows `(B, 3, H, W)` -> patch features `(B, h * w, E)` and their grid.

    Args:
        clip: a `transformers.CLIPModel`; its vision side is shared, not copied.
        method: a key of `METHODS`.
        residual: whether the last layer's residual connections and MLP stay; default: the method's.
        dino: ProxyCLIP's other model, a `transformers.ViTModel`.
        options: the method's own settings; default: its own.
    """

    def __init__(
        self,
        clip: Any,
        method: str,
        residual: bool | None = None,
        dino: Any = None,
        **options: float,
    ) -> None:
        super().__init__()
        row = METHODS[method]
        self.vision = clip.vision_model
        self.projection = clip.visual_projection
        self.dino = dino
        self.residual = row.residual if residual is None else residual
        self.attend = partial(row.attend, **{**row.options, **options})
        for model in (self.vision, self.dino):
            if model is not None:
                use_onednn(model)

    @property
    def patch(self) -> int:
        """Side of CLIP's patches in pixels."""
        return int(self.vision.config.patch_size)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Patches of a window of that size in pixels, in rows and columns."""
        patch = self.patch if self.dino is None else int(self.dino.config.patch_size)
        return height // patch, width // patch

    def forward(self, windows: Tensor) -> Tensor:
        """`(B, 3, H, W)`, normalised -> `(B, N, E)`: projected features, not of unit length.

        N patches of `grid(H, W)`, row by row; a rest of H or W that makes no patch is cut.
        """
        last = self.last_layer(windows)
        out = last.project(self.attend(last), self.residual)
        if last.proxy is None:
            out = out[:, 1:]
        return self.projection(self.vision.post_layernorm(out))

    def last_layer(self, windows: Tensor) -> LastLayer:
        """All layers but the last."""
        vision = self.vision
        patches = vision.embeddings.patch_embedding(windows)
        grid = (patches.shape[-2], patches.shape[-1])
        tokens = _with_cls(patches, vision.embeddings.class_embedding)
        tokens = tokens + resized_positions(vision.embeddings.position_embedding.weight, grid)
        *layers, last = vision.encoder.layers
        tokens = _run(layers, vision.pre_layrnorm(tokens))
        if self.dino is None:
            return LastLayer(last, tokens, grid)
        features, proxy_grid = self._dino_features(windows)
        return LastLayer(last, tokens, grid, normalize(features[:, 1:], dim=-1), proxy_grid)

    def _dino_features(self, windows: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """DINO's last layer `(B, 1 + n, D)` after its norm, and its grid."""
        dino = self.dino
        pixels = dino_pixels(windows)
        patches = dino.embeddings.patch_embeddings.projection(pixels)
        grid = (patches.shape[-2], patches.shape[-1])
        tokens = _with_cls(patches, dino.embeddings.cls_token)
        tokens = tokens + resized_positions(dino.embeddings.position_embeddings[0], grid)
        # transformers 5.0 has them in `encoder.layer`.
        layers = dino.layers if hasattr(dino, "layers") else dino.encoder.layer
        return dino.layernorm(_run(layers, tokens)), grid


def _with_cls(patches: Tensor, cls: Tensor) -> Tensor:
    """Patch embeddings `(B, D, h, w)` -> tokens `(B, 1 + h * w, D)`."""
    tokens = patches.flatten(2).transpose(1, 2)
    return torch.cat([cls.expand(len(tokens), 1, -1).to(tokens), tokens], 1)


def _run(layers: Iterable[Any], tokens: Tensor) -> Tensor:
    for layer in layers:
        out = layer(tokens, None)
        tokens = out[0] if isinstance(out, tuple) else out
    return tokens


def dino_pixels(windows: Tensor) -> Tensor:
    """Pixels normalised for CLIP `(B, 3, H, W)` as DINO wants them."""

    def channels(values: Iterable[float]) -> Tensor:
        return torch.tensor(tuple(values), device=windows.device).view(3, 1, 1)

    pixels = windows * channels(CLIP_STATISTICS.std) + channels(CLIP_STATISTICS.mean)
    mean, std = IMAGENET_STATISTICS
    return (pixels - channels(mean)) / channels(std)


def resized_positions(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Position embeddings `(1 + n * n, D)` on another grid, `(1 + h * w, D)`; [CLS] is kept.

    Bicubic as in the references (and in DINO): by the factors `(h + 0.1) / n` and `(w + 0.1) / n`,
    which also place the samples, not by sizes. Shapes are those of a resize to (h, w), the numbers
    are others.
    """
    side = round((len(positions) - 1) ** 0.5)
    if grid == (side, side):
        return positions
    square = positions[1:].T.unflatten(1, (side, side))[None].float()
    factors = [(size + 0.1) / side for size in grid]
    resized = interpolate(square, scale_factor=factors, mode="bicubic", align_corners=False)
    return torch.cat([positions[:1], resized[0].flatten(1).T.to(positions)])
