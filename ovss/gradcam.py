"""Cross-attention GradCAM (eq. 1 of the paper) as pure functions; `ovss.vlm.VLM` runs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor


class GradCAM(NamedTuple):
    """Cross-attention GradCAM of a batch of captions (eq. 1 of the paper).

    Attributes:
        maps: `(B, T, gh, gw)`, non-negative: a map for each token in tokenizer order, the leading
            [ENC]/[CLS] token left out; padding is zero. `(L, N, B, T, gh, gw)` from `gradcam_all`,
            for every layer and head.
        match_logit: `(B,)`, the image-text-matching head's logit for "match".
    """

    maps: Tensor
    match_logit: Tensor


def weight_by_gradient(attention: Tensor, gradient: Tensor) -> Tensor:
    """Eq. 1: attention probabilities times the positive part of the match logit's gradient.

    Args:
        attention: `(B, N, T + 1, 1 + g*g)` cross-attention probabilities of a layer.
        gradient: of the match logit with respect to them, the same shape.
    """
    return attention * gradient.clamp(min=0)


def take_head(maps: Tensor, head: int | str) -> Tensor:
    """One head of `(B, N, ...)`, counted from 0, or their mean for `"mean"`."""
    return maps.mean(1) if head == "mean" else maps[:, int(head)]


def differentiate(
    match: Callable[[Tensor], Tensor],
    features: Tensor,
    record: Callable[[Sequence[int]], AbstractContextManager[dict[int, Tensor]]],
    layers: Sequence[int],
    gradient: bool = True,
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """The attention probabilities of some layers, and the match logit's gradient for each.

    The logit itself and not a cross-entropy, whose sign would choose the opposite evidence. Model
    parameters are frozen, so the graph begins at the first of these layers.

    Args:
        match: image features -> match logits `(B, 2)` (no match, match).
        features: what `match` takes, from a vision encoder without a graph.
        record: context manager within which `match` fills a dict: layer -> probabilities that
            require grad.
        layers: counted from 0.
        gradient: False leaves the gradients out.

    Returns:
        A tensor `(B, N, T + 1, 1 + g*g)` for each layer; the same of gradients, or none; and the
        match logit `(B,)` in float32.
    """
    # Lightning predicts and tests in inference mode, where autograd cannot work.
    with torch.inference_mode(False), torch.set_grad_enabled(gradient):
        features = features.clone() if features.is_inference() else features.detach()
        with record(layers) as attention:
            logit = match(features)[:, 1]
        probabilities = [attention[layer] for layer in layers]
        gradients = list(torch.autograd.grad(logit.sum(), probabilities)) if gradient else []
    return [p.detach() for p in probabilities], gradients, logit.detach().float()


def to_patch_grid(weighted: Tensor, attention_mask: Tensor, grid: int) -> Tensor:
    """`(B, ..., T + 1, 1 + g*g)` -> `(B, ..., T, g, g)`: no [CLS], padding zeroed, float32.

    Args:
        weighted: maps with the leading token and the image's [CLS] patch.
        attention_mask: `(B, T + 1)`, 0 for padding.
        grid: patches on a side.
    """
    mask = attention_mask[:, 1:]
    mask = mask.view(mask.shape[0], *[1] * (weighted.dim() - 3), mask.shape[1], 1)
    return (weighted[..., 1:, 1:].float() * mask).unflatten(-1, (grid, grid))
