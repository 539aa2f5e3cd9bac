"""Stopping on a signal. Imports nothing heavy: it stands before anything else of a command does."""

from __future__ import annotations

import atexit
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import subprocess

REQUEUE = 75
"""Exit code of a run that stopped on a signal and should be started again (sysexits' TEMPFAIL)."""

INTERRUPTED = 130
"""Exit code of a run that was stopped with Ctrl-C."""

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))
"""What schedulers send before a time limit or a preemption."""

STARTER = "OVSS_STARTER"
"""Environment variable with the process that Lightning's launcher starts others from."""

AGAIN = "start the same command again to go on"


class Requeue(SystemExit):
    """Ends the process with a scheduler's exit code."""


class WaitEnded(BaseException):
    """A signal came inside of `StopRequest.waiting`."""


class StopRequest:
    """What SIGTERM, SIGUSR1 and SIGINT do.

    From the first line of a command on (`begin`) they end the process at once, with exit code 75 or
    130. While photos are in hand (`listen` to `restore`), SIGTERM and SIGUSR1 are only noted, and
    Ctrl-C is a KeyboardInterrupt. A process that Lightning's launcher started passes signals on to
    its starter, which ends the whole run, and is ended by `ovss.distributed.watch`: the launcher
    would kill the starter if one of its processes left with another code than 0.

    Python runs handlers between two bytecodes: a long call into C (reading a checkpoint, a batch on
    the CPU) delays them by its own length.

    Attributes:
        received: the signal's name once one came.
        starter: the process whose launcher started this one; None in the first one, and under
            torchrun or SLURM.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self.starter: int | None = None
        self._process = os.getpid()
        self._listening = False
        self._waiting = False
        self._first: dict[int, Any] = {}
        self._before: dict[int, Any] = {}
        self._forward: Callable[[], Sequence[subprocess.Popen]] = list

    def begin(self, own_process: bool) -> None:
        """Take over the signals for a command.

        Args:
            own_process: whether the process is there for this command only. Then the processes that
                it starts know it as their starter.
        """
        self.received, self._process, self._listening = None, os.getpid(), False
        if own_process:
            named = os.environ.get(STARTER)
            if named and int(os.environ.get("LOCAL_RANK", "0")) > 0:
                self.starter = int(named)
            else:
                os.environ[STARTER] = str(os.getpid())
            # Handlers are gone before the interpreter is; what it does then changes no result.
            atexit.register(_ignore)
        for number in (*SIGNALS, signal.SIGINT):
            # A shell lets the programs that it starts in the background ignore Ctrl-C.
            if _is_main_thread() and signal.getsignal(number) is not signal.SIG_IGN:
                self._first[number] = signal.signal(number, self._on_signal)

    def end(self) -> None:
        """Give back what `begin` took, but to a process that is leaving because of a signal."""
        if _is_main_thread() and not self.received:
            for number, handler in self._first.items():
                signal.signal(number, handler)
        self._first = {}

    def listen(self, children: Callable[[], Sequence[subprocess.Popen]] = list) -> None:
        """Note signals from now on; a second call takes them back from who took them since.

        Args:
            children: gives the processes to pass a signal on to.
        """
        self._forward = children
        if not _is_main_thread():
            return  # Python lets no other thread do it
        if not self._before and self.starter is None:
            self.received = None
        self._process, self._listening = os.getpid(), True
        for number in SIGNALS:
            before = signal.signal(number, self._on_signal)
            self._before.setdefault(number, before)
        if signal.SIGINT in self._first:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def restore(self) -> None:
        """Give the signals back.

        After one came they are ignored from the interpreter's shutdown on, when handlers are gone:
        a launcher that sees one process end sends SIGTERM to the others, which would change their
        exit code.
        """
        if _is_main_thread() and self._listening:
            if self.received:
                atexit.register(_ignore)
            for number, handler in self._before.items():
                signal.signal(number, self._on_signal if self.received else handler)
            if signal.SIGINT in self._first and not self.received:
                signal.signal(signal.SIGINT, self._on_signal)
        self._before = {}
        if not self.received:  # else the process is about to leave with the right code
            self._listening = False

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Wait for something that may never come.

        Raises:
            WaitEnded: a signal is noted, before or during the wait.
        """
        self._waiting = self._listening
        try:
            if self._waiting and self.received:
                raise WaitEnded
            yield
        finally:
            self._waiting = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # forked from the command's: a loader's
            if not self._listening:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        first = self.received is None
        self.received = signal.Signals(number).name
        if first:  # two processes that pass a signal on to each other would not come to an end
            if self.starter is not None:
                with suppress(ProcessLookupError):
                    os.kill(self.starter, number)
            for child in self._forward() if self._listening else ():
                if child.poll() is None:
                    child.send_signal(number)
        if self._waiting:
            raise WaitEnded
        if not self._listening and self.starter is None:
            _leave(number)


def _leave(number: int) -> None:
    """End the process at once: an exception could be lost in the middle of an import."""
    interrupted = number == signal.SIGINT
    why = "" if interrupted else f" on {signal.Signals(number).name}"
    with suppress(OSError):  # nobody may be reading
        os.write(2, f"stopped{why}; {AGAIN}\n".encode())
    os._exit(INTERRUPTED if interrupted else REQUEUE)


def _ignore() -> None:
    if _is_main_thread():
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


stop = StopRequest()
"""One for the process, as signals are."""
