"""Attention and linear layers, computed in cheaper ways; the weights are the model's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention


class FusedBlipAttention(nn.Module):
    """BLIP's vision self-attention without materialising the `(1 + g*g)^2` maps of each head.

    transformers has only the eager form for BLIP. This one shares its weights; outputs agree to
    float rounding.

    Args:
        attention: a `BlipAttention`.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.scale = attention.scale
        self.qkv = attention.qkv
        self.projection = attention.projection

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> tuple[Tensor, None]:
        """Attend: `(B, P, D)` -> `(B, P, D)` and no maps."""
        heads = self.qkv(hidden_states).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        context = scaled_dot_product_attention(query, key, value, scale=self.scale)
        return self.projection(context.transpose(1, 2).flatten(2)), None


class FoldedBlipCrossAttention(nn.Module):
    """BLIP's text-to-image attention; a short text needs no keys and values of the patches.

    A score is `q . (W f + b) = (q W) . f + q . b` of a query and a patch's features: a few queries
    are sooner multiplied by the weights than hundreds of patches, and so is what they gather.
    Outputs and gradients agree with transformers' to float rounding.

    Args:
        attention: a `BlipTextSelfAttention` with keys and values from an image.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.num_heads = attention.num_attention_heads
        self.query, self.key, self.value = attention.query, attention.key, attention.value
        self.dropout = attention.dropout

    def forward(
        self,
        hidden_states: Tensor,
        *args: Any,
        encoder_hidden_states: Tensor,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """Attend: `(B, T, D)` to `(B, P, E)`, or to `(1, P, E)` of one photo for all texts.

        The other arguments are masks, which BLIP ignores here, and a cache, which it leaves empty.

        Returns:
            `(B, T, D)`, and the probabilities `(B, N, T, P)` that the dropout module was given.
        """
        image = encoder_hidden_states
        query = self._heads(self.query(hidden_states))
        width = query.shape[-1]
        # Operations are equal at `width` tokens for one photo; its products are smaller.
        folded = 2 * hidden_states.shape[:2].numel() < width * len(image)
        if folded:
            # The bias adds the same to all scores of a query, which the softmax takes off again.
            query = torch.einsum("bntd,nde->bnte", query, self._weights(self.key))
            scores = query.flatten(1, 2) @ image.transpose(1, 2)
            scores = scores.unflatten(1, (self.num_heads, -1))
        else:
            scores = query @ self._heads(self.key(image)).transpose(2, 3)
        probabilities = (scores * width**-0.5).softmax(-1)
        weights = self.dropout(probabilities)
        if folded:
            seen = (weights.flatten(1, 2) @ image).unflatten(1, (self.num_heads, -1))
            context = torch.einsum("bnte,nde->bntd", seen, self._weights(self.value))
            # The probabilities sum to 1, but their gradient has the bias.
            bias = self.value.bias.unflatten(0, (self.num_heads, 1, -1))
            context = context + (weights.sum(-1, keepdim=True) * bias).to(context.dtype)
        else:
            context = weights @ self._heads(self.value(image))
        return context.transpose(1, 2).flatten(2), probabilities

    def _heads(self, projected: Tensor) -> Tensor:
        """`(B, L, N * d)` -> `(B, N, L, d)`."""
        return projected.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _weights(self, projection: Any) -> Tensor:
        """Of each head, `(N, d, E)`."""
        return projection.weight.unflatten(0, (self.num_heads, -1))


class OneDNNLinear(nn.Module):
    """`nn.Linear` whose float32 products on a CPU are oneDNN's and not MKL's.

    PyTorch multiplies float32 matrices with MKL, which was the slower of the two on an AMD
    processor with AVX-512 (docs/performance.md). Outputs agree to float rounding. Where a graph,
    autocast, another type, another device or `torch.compile` is asked for, this is `nn.Linear`.
    Weights are shared and keep their names.

    Args:
        layer: whose weights to use.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight = layer.weight
        self.bias = layer.bias

    def forward(self, values: Tensor) -> Tensor:
        """Apply: `(..., in)` -> `(..., out)`."""
        needs_graph = values.requires_grad or self.weight.requires_grad
        suits = (
            values.device.type == "cpu"
            and values.dtype == self.weight.dtype == torch.float32
            and not (torch.is_grad_enabled() and needs_graph)
            and not torch.is_autocast_enabled("cpu")
            # The compiler chooses products itself, and fails on this one unless it made it.
            and not torch.compiler.is_compiling()
        )
        if not suits:
            return linear(values, self.weight, self.bias)
        # What torch.compile makes of a frozen linear layer on a CPU; there is no public name.
        return torch.ops.mkldnn._linear_pointwise(values, self.weight, self.bias, "none", [], "")


WORTHWHILE = 128
"""Patches from which it pays to swap modules; below, the products and maps are small."""


def use_onednn(module: nn.Module) -> None:
    """Swap the linear layers within a module, in place, where this PyTorch has the operation."""
    known = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    if not known:
        return
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            setattr(module, name, OneDNNLinear(child))
        else:
            use_onednn(child)


def speed_up_blip(model: Any) -> None:
    """Swap modules that work on all patches for faster ones, in place; weights are shared."""
    config = model.config.vision_config
    for block in model.text_encoder.encoder.layer:
        attention = block.crossattention
        if not isinstance(attention.self, FoldedBlipCrossAttention):
            attention.self = FoldedBlipCrossAttention(attention.self)
    if (config.image_size // config.patch_size) ** 2 < WORTHWHILE:
        return
    for layer in model.vision_model.encoder.layers:
        if not isinstance(layer.self_attn, FusedBlipAttention):
            layer.self_attn = FusedBlipAttention(layer.self_attn)
            use_onednn(layer)
    for block in model.text_encoder.encoder.layer:
        use_onednn(block.crossattention.self)  # keys and values of all patches
