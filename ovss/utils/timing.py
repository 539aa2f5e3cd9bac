"""Where the time goes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_listening: ContextVar[StageTimes | None] = ContextVar("listening", default=None)


class StageTimes:
    """Seconds spent in each named stage.

    On a GPU a stage's time is read from the device's own clock after the run, so that taking times
    does not make the host wait for the device.

    Example:
        >>> times = StageTimes()
        >>> with times.measure("attend"):
        ...     with stage("vision"):
        ...         pass
        >>> sorted(times.seconds)
        ['attend', 'attend/vision']
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._within: str | None = None

    @property
    def seconds(self) -> dict[str, float]:
        """Stage -> seconds; a stage within another is called `outer/inner` and counts in both."""
        for name, start, end in self._events:
            end.synchronize()
            self._seconds[name] += start.elapsed_time(end) / 1e3
        self._events.clear()
        return dict(self._seconds)

    @contextmanager
    def measure(self, name: str, device: torch.device | None = None) -> Iterator[None]:
        """Add the time of the block to a stage, and that of each `stage` within to its own.

        Args:
            name: of the stage.
            device: where the block computes; None for the CPU.
        """
        outer = self._within
        self._within = name if outer is None else f"{outer}/{name}"
        token = _listening.set(self)
        try:
            if device is not None and device.type == "cuda":
                with self._on_gpu(self._within, device):
                    yield
            else:
                start = time.perf_counter()
                try:
                    yield
                finally:
                    self._seconds[self._within] += time.perf_counter() - start
        finally:
            self._within = outer
            _listening.reset(token)

    @contextmanager
    def _on_gpu(self, name: str, device: torch.device) -> Iterator[None]:
        stream = torch.cuda.current_stream(device)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record(stream)
        try:
            yield
        finally:
            end.record(stream)
            self._events.append((name, start, end))

    def add(self, name: str, seconds: float) -> None:
        """Add to a stage that was timed elsewhere."""
        self._seconds[name] += seconds

    def reset(self) -> None:
        """Start anew."""
        self._seconds.clear()
        self._events.clear()


@contextmanager
def stage(name: str, device: torch.device | None = None) -> Iterator[None]:
    """Name a part of the method for whoever measures it; nothing happens where nobody does."""
    times = _listening.get()
    if times is None:
        yield
    else:
        with times.measure(name, device):
            yield
