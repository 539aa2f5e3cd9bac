"""Noticing that another process of the run has died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence


class Watch:
    """Ends this process when one that it works with dies, which a collective may never notice.

    Of processes that one starter launched on a node, the starter watches the others and the others
    watch the starter. (torchrun and srun watch theirs themselves.)

    Args:
        children: the processes that this one started.
        parent: whether to watch the process that started this one.
        period: seconds between two looks.
    """

    def __init__(
        self, children: Sequence[subprocess.Popen], parent: bool, period: float = 0.5
    ) -> None:
        self.children = children
        self.parent = os.getppid() if parent else None
        self.period = period
        self._done = threading.Event()
        if children or parent:
            threading.Thread(target=self._watch, daemon=True, name="ovss-watch").start()

    def close(self) -> None:
        """Stop watching."""
        self._done.set()

    def _watch(self) -> None:
        while not self._done.wait(self.period):
            reason = self._failure()
            if reason is None or self._done.is_set():
                continue
            sys.stderr.write(
                f"error: {reason}. Finished photos are kept: start the same command again.\n"
            )
            sys.stderr.flush()
            for child in self.children:
                child.kill()
            # The main thread may be inside a collective that waits for the dead process, where no
            # exception reaches it.
            os._exit(1)

    def _failure(self) -> str | None:
        if self.parent is not None and os.getppid() != self.parent:
            return f"The first process of the run (pid {self.parent}) has died"
        for child in self.children:
            code = child.poll()
            if code is not None and code < 0:
                return f"Process {child.pid} of the run was killed ({_signal_name(-code)})"
            if code:
                return f"Process {child.pid} of the run ended with exit code {code}"
        return None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
