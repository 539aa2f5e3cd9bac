"""Fused attention for encoders whose attention maps nobody looks at."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from ovss.vlm.linear import use_onednn


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


WORTHWHILE = 128
"""Patches from which fusing pays; below, the maps are small and the eager form is as fast."""


def fuse_blip_vision(model: Any) -> None:
    """Swap modules that work on all patches for faster ones, in place; weights are shared."""
    config = model.config.vision_config
    if (config.image_size // config.patch_size) ** 2 < WORTHWHILE:
        return
    for layer in model.vision_model.encoder.layers:
        if not isinstance(layer.self_attn, FusedBlipAttention):
            layer.self_attn = FusedBlipAttention(layer.self_attn)
            use_onednn(layer)
    for block in model.text_encoder.encoder.layer:
        use_onednn(block.crossattention.self)  # keys and values of all patches
