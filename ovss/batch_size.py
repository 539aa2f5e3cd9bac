"""How many photos a device takes at once."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import nn

from ovss.captions import Caption
from ovss.vlm import VLM

log = logging.getLogger(__name__)

ON_CPU = 8
"""A CPU gains nothing from larger batches: the matrix products of one photo keep its cores busy."""
LARGE = 100_000_000
"""Weights from which on a photo takes seconds of a CPU (BLIP large: about 15, a CLIP ViT-B/16: 1 to
2). Then it is one at a time: nothing is lost by it, and progress and results come by photo."""
MOST = 32
"""Above it a GPU gains little: a product of 32 x 442 rows fills the largest ones."""
_SHARE = 0.6
"""Of the GPU's memory; the rest is for label maps, the CRF and fragmentation."""


def fitting_batch(vlm: VLM, device: torch.device, layer: int, head: int | str) -> int:
    """Find the largest power of two up to 32 of photos whose GradCAM leaves room on a GPU.

    The answer depends on the memory alone and not on the clock, so that a run that is taken up
    again cuts the same batches. The GPU is tried in the weights' precision, without autocast.

    Args:
        vlm: the frozen model; it is moved to the device.
        device: where the run will be.
        layer: cross-attention layer, counted from 0.
        head: head, counted from 0, or `"mean"`.
    """
    if device.type != "cuda":
        return batch_on_cpu(vlm)
    vlm.to(device)
    total = torch.cuda.get_device_properties(device).total_memory
    dtype = next(vlm.parameters()).dtype
    caption = Caption.of(["cat"] * 10)

    def fits(count: int) -> bool:
        size = (count, 3, vlm.image_size, vlm.image_size)
        torch.cuda.reset_peak_memory_stats(device)
        vlm.gradcam(torch.zeros(size, device=device, dtype=dtype), [caption] * count, layer, head)
        return torch.cuda.max_memory_allocated(device) <= _SHARE * total

    batch = largest_batch(fits)
    torch.cuda.empty_cache()
    log.info("batch size %d, found by trying; set `data.init_args.batch_size` to choose", batch)
    return batch


def batch_on_cpu(model: nn.Module) -> int:
    """Photos that a CPU takes at once: `ON_CPU`, of a model from `LARGE` weights on one.

    Example:
        >>> batch_on_cpu(nn.Linear(10, 10)), batch_on_cpu(nn.Linear(10_000, 10_000, device="meta"))
        (8, 1)
    """
    return 1 if sum(each.numel() for each in model.parameters()) >= LARGE else ON_CPU


def largest_batch(fits: Callable[[int], bool], most: int = MOST) -> int:
    """The largest power of two up to `most` for which `fits` holds; at least 1.

    Args:
        fits: whether so many fit; may raise `torch.OutOfMemoryError`.
        most: where to stop.

    Example:
        >>> largest_batch(lambda count: count <= 12)
        8
    """
    batch = 1
    while 2 * batch <= most:
        try:
            if not fits(2 * batch):
                break
        except torch.OutOfMemoryError:
            break
        batch *= 2
    return batch
