"""Stopping on a scheduler's signal."""

from __future__ import annotations

import atexit
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

REQUEUE = 75
"""Exit code of a run that stopped on a signal and should be started again (sysexits' TEMPFAIL)."""

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))
"""What schedulers send before a time limit or a preemption."""


class Requeue(SystemExit):
    """Ends the process with a scheduler's exit code."""


class StopRequest:
    """Notes SIGTERM and SIGUSR1 instead of dying of them.

    Attributes:
        received: the signal's name once one came.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._before: dict[int, Any] = {}
        self._forward: Callable[[], Sequence[subprocess.Popen]] = list

    def listen(self, children: Callable[[], Sequence[subprocess.Popen]] = list) -> None:
        """Take over the signals; a second call takes them back from who took them since.

        Args:
            children: gives the processes to pass a signal on to.
        """
        self._forward = children
        if threading.current_thread() is not threading.main_thread():
            return  # Python lets no other thread do it
        if not self._before:
            self.received = None
        for number in SIGNALS:
            before = signal.signal(number, self._note)
            self._before.setdefault(number, before)

    def restore(self) -> None:
        """Give the signals back.

        After one came they are ignored from the interpreter's shutdown on, when handlers are gone:
        a launcher that sees one process end sends SIGTERM to the others, which would change their
        exit code.
        """
        if threading.current_thread() is threading.main_thread():
            if self.received:
                atexit.register(_ignore)
            for number, handler in self._before.items():
                signal.signal(number, self._note if self.received else handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        for child in self._forward():
            if child.poll() is None:
                child.send_signal(number)


def _ignore() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


stop = StopRequest()
"""One for the process, as signals are."""
