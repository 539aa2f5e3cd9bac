"""Noticing that another process of the run has left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

from ovss.utils.signals import INTERRUPTED, REQUEUE, stop

GRACE = 5.0
"""Seconds after which a process that left with exit code 0 has left too early."""

BATCH_TIMEOUT = 300.0
"""Seconds for the other processes of a node to finish their batch after a signal."""


class Watch:
    """Ends this process when one that it works with leaves, which a collective may never notice.

    Of processes that one starter launched on a node, the starter watches the others and the others
    watch the starter. (torchrun and srun watch theirs themselves.)

    Args:
        children: gives the processes that this one started.
        starter: the process that started this one, where it is to be watched.
        to_the_end: whether a child leaves too early if it leaves with exit code 0.
        period: seconds between two looks.
    """

    def __init__(
        self,
        children: Callable[[], Sequence[subprocess.Popen]] = list,
        starter: int | None = None,
        to_the_end: bool = False,
        period: float = 0.5,
    ) -> None:
        self.children = children
        self.starter = starter
        self.to_the_end = to_the_end
        self.period = period
        self._left: dict[int, float] = {}
        self._done = threading.Event()
        if children is not list or starter is not None:
            threading.Thread(target=self._watch, daemon=True, name="ovss-watch").start()

    def close(self) -> None:
        """Stop watching."""
        self._done.set()

    def _watch(self) -> None:
        while not self._done.wait(self.period):
            found = self._failure()
            if found is None or self._done.is_set():
                continue
            reason, code = found
            sys.stderr.write(
                f"error: {reason}. Finished photos are kept: start the same command again.\n"
            )
            sys.stderr.flush()
            for child in self.children():
                child.kill()
            # The main thread may be inside a collective that waits for the dead process, where no
            # exception reaches it.
            os._exit(code)

    def _failure(self) -> tuple[str, int] | None:
        """What happened, and the exit code it gives this process."""
        asked = {None: 1, "SIGINT": INTERRUPTED}.get(stop.received, REQUEUE)
        if self.starter is not None and os.getppid() != self.starter:
            if stop.received:
                os._exit(asked)  # the starter has said why
            return f"The first process of the run (pid {self.starter}) has died", asked
        children = self.children()
        if children:
            _retire_lightnings_observer()
        for child in children:
            code = child.poll()
            if code is None or (code == 0 and not self.to_the_end):
                continue
            if code < 0:
                return f"Process {child.pid} of the run was killed ({_signal_name(-code)})", asked
            if code > 0:
                kept = code if code in (REQUEUE, INTERRUPTED) else asked
                return f"Process {child.pid} of the run ended with exit code {code}", kept
            left = self._left.setdefault(child.pid, time.monotonic())
            # After a signal this process may still be at its own batch.
            if time.monotonic() - left > (BATCH_TIMEOUT if stop.received else GRACE):
                return f"Process {child.pid} of the run left before the others", asked
        return None


def _retire_lightnings_observer() -> None:
    """Leave the children to this watch alone.

    Lightning's launcher has a thread that, up to five seconds after a child's death, kills this
    process with SIGKILL: without a word, and in one case in ten before this watch ends it with one.
    """
    for thread in threading.enumerate():
        if thread.name == "child-process-observer" and hasattr(thread, "_child_processes"):
            thread._child_processes = []  # with none it ends


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


early = Watch()
"""Watches until the run folder does, with a watch of its own."""


def watch_early(children: Callable[[], Sequence[subprocess.Popen]] = list) -> None:
    """Begin to watch, before anything that takes time.

    Args:
        children: gives the processes that this one will start.
    """
    global early
    early.close()
    early = Watch(children, stop.starter)
