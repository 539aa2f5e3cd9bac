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

from ovss.utils.text import duration, pace

log = logging.getLogger(__name__)


class RateColumn(ProgressColumn):
    """Units a second, or seconds a unit, since the beginning."""

    def __init__(self, unit: str, before: int) -> None:
        super().__init__()
        self.unit = unit
        self.before = before

    def render(self, task: Task) -> Text:
        """Draw the rate."""
        done = int(task.completed) - self.before
        return Text(pace(done, max(task.elapsed or 0.0, 1e-9), self.unit), style="cyan")


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
                RateColumn(self.unit, self.before),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self.console,
                # Of the time left: a photo may take longer than rich's 30 s.
                speed_estimate_period=600.0,
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
        now = self.done - self.before
        rate = pace(now, max(seconds, 1e-9), self.unit)
        if self.total is None:
            return f"{self.what}: {self.done} {self.unit}, {rate}"
        line = f"{self.what}: {self.done} of {self.total} {self.unit}, {rate}"
        return f"{line}, {duration((self.total - self.done) * seconds / now)} left" if now else line
