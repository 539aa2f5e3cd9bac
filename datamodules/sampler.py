"""Every photo exactly once, on any number of processes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sized
from typing import Any

import torch.distributed as dist
from torch.utils.data import DataLoader, DistributedSampler

from ovss.utils.errors import LOADER_REMEDY
from ovss.utils.signals import WaitEnded, stop

from .errors import SharedMemoryError


class UnpaddedSampler(DistributedSampler):
    """Deals whole batches of consecutive photos to the processes in turn; never repeats a photo.

    Batches hold the same photos on any number of processes and after any interruption, so results
    do not depend on either to the last bit. Being a `DistributedSampler`, it keeps Lightning from
    putting its own in its place, which pads by repetition.

    Args:
        data: what to sample from.
        batch_size: photos in a batch; pass the same to the DataLoader.
        rank: this process; default from `torch.distributed`.
        world_size: processes; default likewise.
        finished: indices that need no work. A batch is left out when all of its photos are among
            them, and dealt as a whole otherwise.

    Example:
        >>> [list(UnpaddedSampler(range(7), 2, rank, 2)) for rank in range(2)]
        [[0, 1, 4, 5], [2, 3, 6]]
        >>> [list(UnpaddedSampler(range(7), 2, rank, 2, finished={0, 1, 2})) for rank in range(2)]
        [[2, 3, 6], [4, 5]]
    """

    def __init__(
        self,
        data: Sized,
        batch_size: int,
        rank: int | None = None,
        world_size: int | None = None,
        finished: Collection[int] = frozenset(),
    ) -> None:
        together = dist.is_available() and dist.is_initialized()
        world_size = (
            (dist.get_world_size() if together else 1) if world_size is None else world_size
        )
        rank = (dist.get_rank() if together else 0) if rank is None else rank
        super().__init__(data, num_replicas=world_size, rank=rank, shuffle=False)  # type: ignore[arg-type]
        left = unfinished_batches(len(data), batch_size, finished)
        self.indices = [index for batch in left[rank::world_size] for index in batch]

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


def unfinished_batches(
    count: int, batch_size: int, finished: Collection[int] = frozenset()
) -> list[range]:
    """Batches of consecutive indices below `count` that hold at least one unfinished photo."""
    batches = [
        range(start, min(start + batch_size, count)) for start in range(0, count, batch_size)
    ]
    return [batch for batch in batches if not all(index in finished for index in batch)]


class PhotoLoader(DataLoader):
    """A DataLoader that gives a process without photos one empty batch.

    Lightning leaves out the hooks of a test whose loader is empty, and with them the sum over
    processes, on which the others would wait for ever.

    A signal ends the wait for a batch, and with it the batches. There is no time limit
    (DataLoader's `timeout`): a slow disk is no error, and loader processes that died are noticed
    without one.
    """

    def __len__(self) -> int:
        return max(1, super().__len__())

    def __iter__(self) -> Any:
        if super().__len__():
            return _until_signal(super().__iter__())
        if self.batch_sampler is None or self.collate_fn is None:
            raise ValueError(
                "Expected `batch_size` of a PhotoLoader to be at least 1, but got None; photos "
                "come in batches, also where there are none."
            )
        # `predict` asks Lightning's wrapper for the indices it gave out, which it only has (as of
        # 2.6) once it was iterated over.
        iter(self.batch_sampler)
        return iter([self.collate_fn([])])


def _until_signal(batches: Iterator[Any]) -> Iterator[Any]:
    while True:
        try:
            with stop.waiting():
                batch = next(batches)
        except (StopIteration, WaitEnded):
            return
        except SharedMemoryError:
            raise RuntimeError(
                "Expected room for the loader processes' batches in /dev/shm, but it is full. "
                + LOADER_REMEDY
            ) from None
        yield batch
