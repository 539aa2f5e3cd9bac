"""What each method makes of CLIP's last layer: the one place where they differ.

All but the last layer of the image encoder run unchanged. Of the last one, `u = layer_norm1(x)`
gives queries q, keys k and values v of each head, and a method says which attention A gathers the
values, and whether the residual connections and the MLP stay:

    out = out_proj(A v);    x + out, and the MLP on top (residual), or out alone.

Sources: CLIP (Radford et al. 2021, arXiv 2103.00020), MaskCLIP (Zhou et al. 2022, arXiv
2112.01071), SCLIP (Wang et al. 2024, arXiv 2312.01597), ClearCLIP (Lan et al. 2024, arXiv
2407.12442), NACLIP (Hajimiri et al. 2025, arXiv 2404.08181), ProxyCLIP (Lan et al. 2024, arXiv
2408.04883), and their code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate, scaled_dot_product_attention


@dataclass(frozen=True)
class LastLayer:
    """The last layer of CLIP's image encoder and what enters it.

    Attributes:
        layer: a `CLIPEncoderLayer`.
        tokens: `(B, 1 + h * w, D)`, [CLS] first.
        grid: patches of a window, (h, w).
        proxy: ProxyCLIP's features of another model, `(B, n, E)` of unit length, without [CLS].
        proxy_grid: their grid, (height, width).
    """

    layer: Any
    tokens: Tensor
    grid: tuple[int, int]
    proxy: Tensor | None = None
    proxy_grid: tuple[int, int] = (0, 0)

    @cached_property
    def _normed(self) -> Tensor:
        return self.layer.layer_norm1(self.tokens)

    def _heads(self, projection: Any) -> Tensor:
        """`(B, heads, 1 + h * w, d)`."""
        attention = self.layer.self_attn
        return projection(self._normed).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)

    @cached_property
    def q(self) -> Tensor:
        """Queries `(B, heads, 1 + h * w, d)`."""
        return self._heads(self.layer.self_attn.q_proj)

    @cached_property
    def k(self) -> Tensor:
        """Keys, as the queries."""
        return self._heads(self.layer.self_attn.k_proj)

    @cached_property
    def v(self) -> Tensor:
        """Values, as the queries."""
        return self._heads(self.layer.self_attn.v_proj)

    def project(self, gathered: Tensor, residual: bool) -> Tensor:
        """Gathered values `(B, heads, N, d)` -> what leaves the layer, `(B, N, D)`."""
        out = self.layer.self_attn.out_proj(gathered.transpose(1, 2).flatten(2))
        if not residual:
            return out
        tokens = self.tokens + out
        return tokens + self.layer.mlp(self.layer.layer_norm2(tokens))


# ---- the methods: what gathers the values --------------------------------------------------------


def clip(x: LastLayer) -> Tensor:
    """`A = softmax(s q k^T)`, s = d^-0.5: CLIP as it is."""
    return scaled_dot_product_attention(x.q, x.k, x.v)


def maskclip(x: LastLayer) -> Tensor:
    """`A` is the identity: each patch keeps its own value."""
    return x.v


def sclip(x: LastLayer) -> Tensor:
    """`A = softmax(s q q^T) + softmax(s k k^T)`: a sum, whose rows add to 2."""
    return scaled_dot_product_attention(x.q, x.q, x.v) + scaled_dot_product_attention(x.k, x.k, x.v)


def clearclip(x: LastLayer) -> Tensor:
    """`A = softmax(s q q^T)`."""
    return scaled_dot_product_attention(x.q, x.q, x.v)


def naclip(x: LastLayer, sigma: float) -> Tensor:
    """`A = softmax(s k k^T + G)`, G a Gaussian around each patch."""
    mask = neighbourhood(x.grid, sigma).to(x.k)
    return scaled_dot_product_attention(x.k, x.k, x.v, attn_mask=mask)


def proxyclip(x: LastLayer, beta: float, gamma: float) -> Tensor:
    """`A = softmax(gamma (F F^T - beta mean))` over its positive entries, F another model's.

    The values of the patches are put on the other model's grid; [CLS] takes no part.
    """
    assert x.proxy is not None
    batch, heads, _, width = x.v.shape
    values = x.v[:, :, 1:].transpose(2, 3).reshape(batch, heads * width, *x.grid)
    # The grid is (height, width) on both sides; the released code swaps them for CLIP's.
    values = interpolate(values, x.proxy_grid, mode="bilinear", align_corners=False)
    gathered = proxy_attention(x.proxy, beta, gamma) @ values.flatten(2).transpose(1, 2)
    return gathered.unflatten(-1, (heads, width)).transpose(1, 2)


# ---- what they are made of -----------------------------------------------------------------------


@lru_cache(maxsize=8)
def neighbourhood(grid: tuple[int, int], sigma: float) -> Tensor:
    """NACLIP's G, `(1 + h * w, 1 + h * w)`: `exp(-(dy^2 + dx^2) / (2 sigma^2))`, 0 for [CLS].

    Args:
        grid: patches of a window, (h, w).
        sigma: in patches.
    """
    with torch.inference_mode(False):  # cached, so it must serve calls in either mode
        rows, columns = (torch.arange(size, dtype=torch.float32) for size in grid)
        y, x = (axis.flatten() for axis in torch.meshgrid(rows, columns, indexing="ij"))
        squared = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2
        return torch.nn.functional.pad((-squared / (2 * sigma**2)).exp(), (1, 0, 1, 0))


def proxy_attention(features: Tensor, beta: float, gamma: float) -> Tensor:
    """ProxyCLIP's A, `(B, n, n)`, of unit features `(B, n, E)`.

    The mean of `F F^T` is each window's own. Where a row has no positive entry, which takes a mean
    above `1 / beta`, the patch attends to itself; the released code divides 0 by 0 there.
    """
    with torch.autocast(features.device.type, enabled=False):
        similarity = features.float() @ features.float().transpose(1, 2)
        similarity = gamma * (similarity - beta * similarity.mean((1, 2), keepdim=True))
        itself = torch.eye(similarity.shape[-1], dtype=torch.bool, device=features.device)
        return similarity.masked_fill((similarity < 0) & ~itself, -torch.inf).softmax(-1)


# ---- the table -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        attend: last layer -> gathered values `(B, heads, N, d)`, with or without [CLS].
        residual: whether residual connections and MLP of the last layer stay.
        options: its own settings and their defaults.
        pad: windows are padded with zeros to a multiple of so many pixels; `patch` for CLIP's patch
            size, None where what is left of a division is cut and the logits are stretched.
        via_input: a photo that is no sliding window has its logits resized to the input's size
            first and then to its own; elsewhere straight to its own.
        settings: whose settings for each benchmark it has (`ovss.dense_clip.inference`).
        vocabulary: whose class names it has.
        refine: how its logits are refined, a key of `ovss.refine.CHOICES`.
    """

    attend: Callable[..., Tensor]
    residual: bool
    options: Mapping[str, float] = field(default_factory=dict)
    pad: int | str | None = None
    via_input: bool = False
    settings: str = "sclip"
    vocabulary: str = "sclip"
    refine: str | None = None


METHODS: dict[str, Method] = {
    "clip": Method(clip, residual=True, via_input=True),
    "maskclip": Method(
        maskclip, residual=True, pad="patch", settings="clearclip", vocabulary="clearclip"
    ),
    "sclip": Method(sclip, residual=True),
    "clearclip": Method(
        clearclip, residual=False, pad="patch", settings="clearclip", vocabulary="clearclip"
    ),
    "naclip": Method(
        naclip,
        residual=False,
        options={"sigma": 5.0},
        via_input=True,
        settings="naclip",
        refine="pamr",
    ),
    "proxyclip": Method(
        proxyclip,
        residual=False,
        options={"beta": 1.2, "gamma": 3.0},
        pad=56,  # of patches of 8 and of 14 pixels; of 16 it is none, and the rest is cut
        settings="proxyclip",
        vocabulary="proxyclip",
    ),
}
"""The original MaskCLIP keeps residual and MLP; `residual=False` is its reduced form, which the
ClearCLIP repository calls MaskCLIP."""
