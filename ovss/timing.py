"""Where the time goes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class StageTimes:
    """Seconds spent in each named stage.

    Example:
        >>> times = StageTimes()
        >>> with times.measure("label"):
        ...     pass
        >>> list(times.seconds)
        ['label']
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def measure(self, stage: str, device: torch.device | None = None) -> Iterator[None]:
        """Add the time of the block to a stage; waits for the device's queue first and last."""
        start = self._now(device)
        try:
            yield
        finally:
            self.seconds[stage] += self._now(device) - start

    def reset(self) -> None:
        """Start anew."""
        self.seconds.clear()

    @staticmethod
    def _now(device: torch.device | None) -> float:
        if device is not None and device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()
