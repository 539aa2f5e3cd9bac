"""Every photo exactly once, on any number of processes."""

from __future__ import annotations

from collections.abc import Iterator, Sized

import torch.distributed as dist
from torch.utils.data import DistributedSampler


class UnpaddedSampler(DistributedSampler):
    """Deals whole batches of consecutive photos to the processes in turn; never repeats a photo.

    Batches hold the same photos on any number of processes, so results do not depend on it to the
    last bit. Being a `DistributedSampler`, it keeps Lightning from putting its own in its place,
    which pads by repetition.

    Args:
        data: what to sample from.
        batch_size: photos in a batch; pass the same to the DataLoader.
        rank: this process; default from `torch.distributed`.
        world_size: processes; default likewise.
    """

    def __init__(
        self,
        data: Sized,
        batch_size: int,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        together = dist.is_available() and dist.is_initialized()
        world_size = (
            (dist.get_world_size() if together else 1) if world_size is None else world_size
        )
        rank = (dist.get_rank() if together else 0) if rank is None else rank
        super().__init__(data, num_replicas=world_size, rank=rank, shuffle=False)  # type: ignore[arg-type]
        starts = range(rank * batch_size, len(data), world_size * batch_size)
        self.indices = [
            index for start in starts for index in range(start, min(start + batch_size, len(data)))
        ]

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)
