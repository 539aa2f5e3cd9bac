"""Where the time goes, measured from outside of what is measured."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn


class StageTimes:
    """Seconds spent in each named stage.

    On a GPU a stage's time is read from the device's own clock after the run, so that taking times
    does not make the host wait for the device.

    Example:
        >>> times, model = StageTimes(), nn.Identity()
        >>> times.watch({"vision": model})
        >>> with times.measure("segment"):
        ...     _ = model(torch.zeros(1))
        >>> sorted(times.seconds)
        ['segment', 'segment/vision']
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._within: str | None = None
        self._device: torch.device | None = None
        self._open: list[ExitStack] = []
        self._handles: list[Any] = []

    @property
    def seconds(self) -> dict[str, float]:
        """Stage -> seconds; a stage within another is called `outer/inner` and counts in both."""
        for name, start, end in self._events:
            end.synchronize()
            self._seconds[name] += start.elapsed_time(end) / 1e3
        self._events.clear()
        return dict(self._seconds)

    def watch(self, modules: Mapping[str, nn.Module]) -> None:
        """Time every call of some modules within `measure`, through hooks; `unwatch` removes them.

        Args:
            modules: stage -> the module that is called.
        """
        self.unwatch()  # a run that failed leaves its hooks
        self._open.clear()
        for name, module in modules.items():

            def enter(*_: Any, name: str = name) -> None:
                stack = ExitStack()
                if self._within is not None:
                    stack.enter_context(self.measure(name, self._device))
                self._open.append(stack)

            def leave(*_: Any) -> None:
                self._open.pop().close()

            self._handles.append(module.register_forward_pre_hook(enter))
            self._handles.append(module.register_forward_hook(leave, always_call=True))

    def unwatch(self) -> None:
        """Take the hooks of `watch` away."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @contextmanager
    def measure(self, name: str, device: torch.device | None = None) -> Iterator[None]:
        """Add the time of the block to a stage, and that of each watched module in it to its own.

        Args:
            name: of the stage.
            device: where the block computes; None for the CPU.
        """
        outer, self._device = self._within, device
        self._within = name if outer is None else f"{outer}/{name}"
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
