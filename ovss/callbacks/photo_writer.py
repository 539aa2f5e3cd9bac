"""Finished photos onto the disk, beside the next batch."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from ovss.benchmark import Benchmark
from ovss.metrics import sparse_counts
from ovss.runs.folder import LabelMap, RunFiles
from ovss.runs.photos import photo_line


class PhotoWriter:
    """Writes label maps on threads, and a process's lines of `photos.jsonl`.

    The disk takes milliseconds to flush a file: it does so while the next batch is computed.

    Args:
        files: of the run.
        rank: of this process; its lines are a part of their own until they are merged.
        benchmark: the classes.
    """

    def __init__(self, files: RunFiles, rank: int, benchmark: Benchmark) -> None:
        self._files = files
        self._benchmark = benchmark
        self._part = files.layout.part(rank)
        self._unfinished = files.layout.unfinished_part(rank)
        self._unfinished.parent.mkdir(parents=True, exist_ok=True)
        self._lines = self._unfinished.open("w", encoding="utf-8")
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="ovss-write")
        self._writing: list[Future[None]] = []

    def write(self, photo_id: str, label_map: LabelMap, truth: np.ndarray | None) -> None:
        """Add a photo's line, and have its label map written; see `wait`."""
        self.add_line(photo_id, label_map, truth)
        self._writing.append(self._threads.submit(self._files.write, photo_id, label_map))

    def add_line(self, photo_id: str, label_map: LabelMap, truth: np.ndarray | None) -> None:
        """Add the line of a photo.

        Args:
            photo_id: the photo's name.
            label_map: what was found.
            truth: `(H, W)` ground truth; None where there is none.
        """
        labels, counts, benchmark = label_map.labels, None, self._benchmark
        if truth is not None:
            classes, ignore = len(benchmark.classes), benchmark.ignore_index
            counts = sparse_counts(torch.tensor(labels), torch.tensor(truth), classes, ignore)
        line = photo_line(photo_id, labels.shape, label_map.proposed, counts)
        self._lines.write(line + "\n")

    def wait(self) -> None:
        """Wait for the label maps in hand.

        Raises:
            OSError: one could not be written.
        """
        tasks, self._writing = self._writing, []
        for task in tasks:
            task.result()

    def finish(self) -> None:
        """Give the lines the name that says that this process has done its share."""
        self.wait()
        self.close()
        self._unfinished.rename(self._part)

    def close(self) -> None:
        """Stop; what is in hand is still written."""
        self._threads.shutdown()
        self._lines.close()
