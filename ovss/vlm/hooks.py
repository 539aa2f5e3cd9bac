"""What is read from a model while it runs, and taken out of it, through hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def start_graph(probabilities: Tensor) -> Tensor:
    """Mark attention probabilities as where the autograd graph begins (parameters are frozen)."""
    if torch.is_grad_enabled() and not probabilities.requires_grad:
        probabilities.requires_grad_()
    return probabilities


@contextmanager
def probabilities_from_hooks(modules: dict[int, nn.Module]) -> Iterator[dict[int, Tensor]]:
    """Record what enters attention-dropout modules, starting the autograd graph there.

    Args:
        modules: layer -> the module that is called with that layer's attention probabilities.
    """
    recorded: dict[int, Tensor] = {}

    def record(layer: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            recorded[layer] = start_graph(inputs[0])

        return hook

    handles = [module.register_forward_pre_hook(record(layer)) for layer, module in modules.items()]
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def first_row(attention: nn.Module) -> Iterator[None]:
    """Let the first token alone, `(B, 1, D)`, out of an attention module that returns a tuple."""

    def hook(_: nn.Module, __: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> tuple[Any, ...]:
        return output[0][:, :1], *output[1:]

    handle = attention.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
