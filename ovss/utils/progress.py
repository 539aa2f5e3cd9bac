"""Progress of long steps: a bar in a terminal, a line a minute in a log file."""

from __future__ import annotations

import logging
import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar
from rich.text import Text

log = logging.getLogger(__name__)


class RateColumn(ProgressColumn):
    """Units a second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        """Draw the rate."""
        rate = task.finished_speed or task.speed
        return Text(f"{rate:.1f} {self.unit}/s" if rate else f"- {self.unit}/s", style="cyan")


class Progress:
    """Counts what is done, with the rate and the time left.

    Nothing is shown in a log file before the first `interval` is over: short steps stay silent.

    Args:
        what: the step's name; may change while it is under way.
        total: how many there are; None where nobody knows.
        unit: of what, in the plural.
        interval: seconds between two lines where there is no terminal.
        enabled: False counts in silence.
        console: where to; default: standard error, so that output can be piped.
        before: how many of the total were done before; they are no part of the rate.

    Example:
        >>> with Progress("segment", total=2, enabled=False) as progress:
        ...     progress.advance()
        >>> progress.done
        1
    """

    def __init__(
        self,
        what: str,
        total: int | None,
        unit: str = "photos",
        interval: float = 60.0,
        enabled: bool = True,
        console: Console | None = None,
        before: int = 0,
    ) -> None:
        self.what = what
        self.total = total
        self.unit = unit
        self.interval = interval
        self.enabled = enabled
        self.console = console or Console(stderr=True)
        self.done = self.before = before
        self._began = self._said = time.monotonic()
        self._bar: Bar | None = None

    def __enter__(self) -> Progress:
        self._began = self._said = time.monotonic()
        if self.enabled and self.console.is_terminal:
            self._bar = Bar(
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                RateColumn(self.unit),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self.console,
            )
            self._bar.add_task(self.what, total=self.total, completed=self.done)
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def advance(self, count: int = 1) -> None:
        """Count some more, never past the total."""
        self.done += count if self.total is None else min(count, self.total - self.done)
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self.done, description=self.what)
        elif self.enabled and now - self._said >= self.interval:
            self._said = now
            log.info(self.line(now - self._began))

    def line(self, seconds: float) -> str:
        """What is done after so many seconds, in words."""
        rate = (self.done - self.before) / max(seconds, 1e-9)
        if self.total is None:
            return f"{self.what}: {self.done} {self.unit}, {rate:.1f} {self.unit}/s"
        left = (self.total - self.done) / max(rate, 1e-9)
        return (
            f"{self.what}: {self.done} of {self.total} {self.unit}, {rate:.1f} {self.unit}/s, "
            f"{left:.0f} s left"
        )
