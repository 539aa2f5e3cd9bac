"""A finished run, read back from its folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ovss.benchmark import Protocol
from ovss.metrics import margins, mean_iou
from ovss.runs.fingerprint import flat, read_fingerprint
from ovss.runs.layout import RunLayout
from ovss.runs.photos import PhotoRecord, counts_of, read_photos


@dataclass(frozen=True)
class Run:
    """A run's files.

    Attributes:
        layout: where they are.
        scores: `scores.json`.
        photos: `photos.jsonl`, in the data set's order.
    """

    layout: RunLayout
    scores: dict[str, Any]
    photos: tuple[PhotoRecord, ...]

    @property
    def folder(self) -> Path:
        """Where they are."""
        return self.layout.folder

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    @property
    def classes(self) -> list[str]:
        """A name for each label."""
        return [entry["name"] for entry in self.scores["classes"]]

    @property
    def distractors(self) -> list[str]:
        """Names for further labels, of things that are in no photo."""
        return self.scores.get("distractors", [])

    @property
    def protocol(self) -> Protocol:
        """How it was scored."""
        return self.scores["protocol"]

    @cached_property
    def scored(self) -> tuple[PhotoRecord, ...]:
        """The photos with ground truth."""
        return tuple(photo for photo in self.photos if photo.counts is not None)

    @cached_property
    def photo_scores(self) -> np.ndarray:
        """Each of `scored`'s own mIoU in 0..1, over the classes in its truth or prediction."""
        counts = counts_of(self.scored)
        sums = margins(counts, len(self.classes), len(self.distractors))
        return mean_iou(sums, self.protocol)

    @cached_property
    def confusion(self) -> np.ndarray:
        """Pixels `(true, predicted)` of all photos, int64."""
        size = len(self.classes) + len(self.distractors)
        matrix = np.zeros((size, size), np.int64)
        for counts in counts_of(self.scored):
            np.add.at(matrix, (counts[:, 0], counts[:, 1]), counts[:, 2])
        return matrix

    @cached_property
    def settings(self) -> dict[str, str]:
        """Every setting of the method, by dotted name."""
        return {name: str(value) for name, value in flat(self.scores["settings"]).items()}

    def label_map(self, photo_id: str) -> Path:
        """Where a photo's label map is, if it was kept."""
        return self.layout.label_map(photo_id)


def read_run(folder: str | Path) -> Run:
    """Read a run's folder.

    Raises:
        FileNotFoundError: no run, or one that is not finished.
        ValueError: a file that cannot be read, or a folder of another format.
    """
    layout = RunLayout(Path(folder))
    scores, _ = read_results(layout)
    try:
        photos = read_photos(layout)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(layout, error) from error
    return Run(layout, scores, photos)


def read_results(layout: RunLayout) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a finished run says without its photos: `scores.json`, and its fingerprint.

    Raises:
        FileNotFoundError: no run, or one that is not finished.
        ValueError: a file that cannot be read, or a folder of another format.
    """
    for path in (layout.scores, layout.photos, layout.run):
        if not path.is_file():
            raise FileNotFoundError(
                f"Expected a finished run with {path.name} in {layout.folder}, but there is none; "
                "give the folder that `test` named at its end (its `trainer.default_root_dir`)."
            )
    fingerprint = read_fingerprint(layout.run)
    try:
        scores = json.loads(layout.scores.read_text(encoding="utf-8"))
        for name in _NEEDED:
            scores[name]
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(layout, error) from error
    return scores, fingerprint


_NEEDED = (
    "benchmark", "protocol", "method", "model", "proposals", "settings", "classes", "photos",
    "mIoU",
)  # fmt: skip


def _damaged(layout: RunLayout, error: Exception) -> ValueError:
    return ValueError(
        f"Expected {layout.scores.name} and {layout.photos.name} in {layout.folder} to be as this "
        f"version's `test` writes them, but got {error!r}; run it again."
    )
