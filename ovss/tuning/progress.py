"""Progress of a search."""

from __future__ import annotations

from ovss.utils.progress import Progress


class TrialProgress(Progress):
    """Counts trials, with the best reward so far beside the rate and the time left.

    Args:
        total: trials still to do.
    """

    def __init__(self, total: int) -> None:
        super().__init__("trials", total, unit="trials")

    def show(self, done: int, best: str) -> None:
        """Say how far the search is.

        Args:
            done: trials since the start, other processes' included.
            best: the best reward so far, for people.
        """
        self.what = f"trials, best {best}"
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], description=self.what)
        self.advance(done - self.done)
