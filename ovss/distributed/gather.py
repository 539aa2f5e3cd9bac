"""Plain text between the processes of a run, without pickle."""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch
import torch.distributed as dist


def gather_texts(texts: Sequence[str], device: torch.device | str = "cpu") -> list[str]:
    """The texts of all processes in the order of their ranks; all processes must call it.

    Args:
        texts: this process's.
        device: where the process group's backend works: the CPU for gloo, the GPU for NCCL.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return list(texts)
    data = torch.frombuffer(bytearray(json.dumps(list(texts)).encode()), dtype=torch.uint8)
    size = torch.tensor([len(data)], device=device)
    sizes = [torch.zeros_like(size) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, size)
    longest = max(int(each) for each in sizes)
    padded = torch.zeros(longest, dtype=torch.uint8, device=device)
    padded[: len(data)] = data.to(device)
    rows = [torch.zeros_like(padded) for _ in sizes]
    dist.all_gather(rows, padded)
    return [
        text
        for row, length in zip(rows, sizes, strict=True)
        for text in json.loads(bytes(row[: int(length)].cpu().tolist()))
    ]


def broadcast_text(text: str | None, device: torch.device | str = "cpu") -> str:
    """The one text that a process gives; the others give None. All processes must call it."""
    (only,) = gather_texts([] if text is None else [text], device)
    return only
