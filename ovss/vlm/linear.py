"""Linear layers on a CPU through oneDNN."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


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
