"""A finished run, read back from its folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ovss.benchmark import Protocol
from ovss.report.bootstrap import margins, mean_iou


@dataclass(frozen=True)
class PhotoRecord:
    """A line of `photos.jsonl`.

    Attributes:
        index: the line, counted from 0.
        id: the photo's name.
        proposal: labels that were looked for.
        counts: `(n, 3)` int64 rows true, predicted, pixels; None without ground truth.
    """

    index: int
    id: str
    proposal: tuple[int, ...]
    counts: np.ndarray | None


@dataclass(frozen=True)
class Run:
    """A run's files.

    Attributes:
        folder: where they are.
        scores: `scores.json`.
        photos: `photos.jsonl`, in the data set's order.
    """

    folder: Path
    scores: dict[str, Any]
    photos: tuple[PhotoRecord, ...]

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    @property
    def classes(self) -> list[str]:
        """A name for each label."""
        return [entry["name"] for entry in self.scores["classes"]]

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
        return mean_iou(margins(counts_of(self.scored), len(self.classes)), self.protocol)

    @cached_property
    def confusion(self) -> np.ndarray:
        """Pixels `(true, predicted)` of all photos, int64."""
        size = len(self.classes)
        matrix = np.zeros((size, size), np.int64)
        for counts in counts_of(self.scored):
            np.add.at(matrix, (counts[:, 0], counts[:, 1]), counts[:, 2])
        return matrix

    @cached_property
    def settings(self) -> dict[str, str]:
        """Every setting of the model, as `config.yaml` and `scores.json` tell, by dotted name."""
        found = {n: str(v) for n, v in self.scores.items() if not isinstance(v, (dict, list))}
        path = self.folder / "config.yaml"
        if path.is_file():
            config = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
            found |= _flat(config.get("model") or {}, "")
        return found

    def label_map(self, photo_id: str) -> Path:
        """Where a photo's label map is, if it was kept."""
        return self.folder / "labels" / f"{photo_id}.png"


def counts_of(photos: Sequence[PhotoRecord]) -> list[np.ndarray]:
    """The sparse confusions of photos with ground truth."""
    return [photo.counts for photo in photos if photo.counts is not None]


def read_run(folder: str | Path) -> Run:
    """Read a run's folder.

    Raises:
        FileNotFoundError: no run, or one without scores or without `photos.jsonl`.
        ValueError: a file that cannot be read.
    """
    folder = Path(folder)
    for name in ("scores.json", "photos.jsonl"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"Expected a finished run with {name} in {folder}, but there is none; give the "
                "folder that `test` named at its end (its `trainer.default_root_dir`)."
            )
    try:
        scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
        photos = read_photos(folder)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"Expected scores.json and photos.jsonl in {folder} to be as `test` writes them, but "
            f"got {error!r}; run it again."
        ) from error
    return Run(folder, scores, photos)


def read_photos(folder: Path) -> tuple[PhotoRecord, ...]:
    """The lines of a run's `photos.jsonl`."""
    lines = (folder / "photos.jsonl").read_text(encoding="utf-8").split("\n")
    return tuple(_photo(index, json.loads(line)) for index, line in enumerate(lines) if line)


def _photo(index: int, line: dict[str, Any]) -> PhotoRecord:
    counts = line.get("counts")
    return PhotoRecord(
        index,
        str(line["id"]),
        tuple(line["proposal"]),
        None if counts is None else np.array(counts, np.int64).reshape(-1, 3),
    )


def _flat(section: dict[str, Any], prefix: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in section.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + str(name)] = str(value)
    return found
