"""Sparse matrices as bags of rows, the way `embedding_bag` multiplies them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Entries of a bag that one CUDA block sums one after the other. Bags are skewed: a patch of plain
# sky puts thousands of pixels into one vertex where the mean is 11 to 25.
_MAX_CUDA_BAG = 64
# Entries of a sparse matrix that are worth waking a CPU thread.
_MIN_BAND = 50_000


class Bags(NamedTuple):
    """A sparse matrix as bags of weighted rows: row i sums `weight[k] * table[rows[k]]` over
    `offsets[i] <= k < offsets[i + 1]`."""

    rows: Tensor
    offsets: Tensor
    weight: Tensor

    def __call__(self, table: Tensor) -> Tensor:
        """Multiply with a contiguous table `(rows, C)`; the result has `len(offsets) - 1` rows."""
        return F.embedding_bag(
            self.rows,
            table,
            self.offsets,
            mode="sum",
            per_sample_weights=self.weight,
            include_last_offset=True,
        )

    def split(self, most: int) -> list[Bags]:
        """Cut the matrix into at most as many bands of rows, each worth a thread."""
        bags = len(self.offsets) - 1
        count = max(1, min(most, bags, len(self.rows) // _MIN_BAND))
        if count == 1:
            return [self]
        cuts = [bags * i // count for i in range(count + 1)]
        entries = self.offsets[cuts].tolist()
        return [
            Bags(
                self.rows[entries[i] : entries[i + 1]],
                self.offsets[cuts[i] : cuts[i + 1] + 1] - entries[i],
                self.weight[entries[i] : entries[i + 1]],
            )
            for i in range(count)
        ]


def limit_bags(bags: Bags) -> tuple[Bags, ...]:
    """Leave no long bags where one block sums a bag serially."""
    return split_bags(bags, _MAX_CUDA_BAG) if bags.rows.device.type == "cuda" else (bags,)


def split_bags(bags: Bags, longest: int) -> tuple[Bags, Bags]:
    """Factor a matrix into the sums of parts of bags and the sums of those."""
    length = bags.offsets.diff().to(torch.int64)
    count = (length + longest - 1).div(longest, rounding_mode="floor")
    ends = torch.cat([count.new_zeros(1), count.cumsum(0)])
    bag = torch.repeat_interleave(count)
    within = torch.arange(len(bag), device=bag.device) - ends[bag]
    starts = (bags.offsets[bag] + within * longest).to(torch.int32)
    number = torch.arange(len(bag), dtype=torch.int32, device=bag.device)
    sums = Bags(number, ends.to(torch.int32), bags.weight.new_ones(len(bag)))
    return bags._replace(offsets=torch.cat([starts, bags.offsets[-1:]])), sums


def chunks(n: int, device: torch.device, step: int) -> Iterator[slice]:
    """Cut n points into slices of `step`; a GPU takes all at once."""
    step = step if device.type == "cpu" else n
    return (slice(start, min(start + step, n)) for start in range(0, n, step))
