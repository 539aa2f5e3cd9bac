"""A folder of one's own photos and masks."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

from ovss.benchmark import Benchmark, of_classes

from .base import BenchmarkDataModule
from .dataset import Split
from .errors import DatasetNotFoundError
from .masks import Sample, label_table
from .specs import read_text_lines, split_synonyms

TREE = """
{classes}                   a class a line, in label order
{photos}/<name>.jpg         or PNG, WebP, BMP, TIFF
{masks}/<name>.png          optional: labels as pixel values, 255 is not scored
"""
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


class Folder(BenchmarkDataModule):
    """Photos and masks of one's own.

    The classes are the lines of a text file in label order, synonyms separated by ";". If the
    first is `background`, label 0 is what belongs to none of them; otherwise every pixel belongs
    to one of the classes.

    Args:
        root: the folder that holds the others.
        classes: the text file, relative to the root or anywhere.
        photos: folder of photos, relative to the root or anywhere.
        masks: folder of PNG masks, relative to the root or anywhere, named like the photos; null
            for none. Where the default does not exist there are none, and only `predict` works.
        kwargs: see `BenchmarkDataModule`.
    """

    def __init__(
        self,
        root: str | Path,
        classes: str | Path = "classes.txt",
        photos: str | Path = "photos",
        masks: str | Path | None = "masks",
        **kwargs: Any,
    ) -> None:
        self.tree = TREE.format(classes=classes, photos=photos, masks=masks or "masks")
        home = Path(root).expanduser()
        super().__init__(home, own_benchmark(home / classes), **kwargs)
        self.photos = home / photos
        self.masks = None if masks is None else home / masks
        if self.masks is not None and masks == "masks" and not self.masks.exists():
            self.masks = None

    @property
    def remedy(self) -> str:
        """How to arrange the data, for errors."""
        return "Put the photos there, or name the folders with `photos`, `masks` and `classes`."

    def find(self) -> Split:
        """See `BenchmarkDataModule.find`."""
        if not self.photos.is_dir() or (self.masks is not None and not self.masks.is_dir()):
            raise DatasetNotFoundError("a folder of photos", self.root, self.tree, self.remedy)
        stems = defaultdict(list)
        for path in sorted(self.photos.iterdir()):
            if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
                stems[path.stem].append(path)
        if not stems:
            raise DatasetNotFoundError("photos", self.photos, f"<name>{SUFFIXES[0]}", self.remedy)
        twice = [path.name for paths in stems.values() if len(paths) > 1 for path in paths]
        if twice:
            raise ValueError(
                f"Expected photos in {self.photos} to differ in more than their suffix, as results "
                f"are named after them, but got {twice[:6]}; rename or move some."
            )
        samples = [
            Sample(stem, paths[0], self.masks / f"{stem}.png" if self.masks else None)
            for stem, paths in sorted(stems.items())
        ]
        if self.masks:
            self._check_pairs(self.masks, samples)
        values = {i: i for i in range(self.benchmark.scored)}
        return Split(
            samples,
            label_table({**values, 255: 255}),
            f"{self.masks}/*.png" if self.masks else "nowhere: no masks",
            upright=True,  # as people see and label them
        )

    def _check_pairs(self, masks: Path, samples: list[Sample]) -> None:
        there = {path.stem for path in masks.glob("*.png") if not path.name.startswith(".")}
        photos = {sample.id for sample in samples}
        lonely = [f"{self.photos / i} (no mask)" for i in sorted(photos - there)]
        lonely += [f"{masks / i}.png (no photo)" for i in sorted(there - photos)]
        if lonely:
            listed = "\n".join(f"    {path}" for path in lonely[:5])
            raise FileNotFoundError(
                f"Expected a mask for each photo and a photo for each mask, but {len(lonely)} "
                f"files have no partner, among them\n{listed}"
            )


def own_benchmark(path: Path) -> Benchmark:
    """Classes from a text file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no classes, more than labels of 8 bits can hold, an empty or a repeated name;
            says file and line.
    """
    lines = read_text_lines(path)
    background = bool(lines) and lines[0].strip().lower() == "background"
    first = 2 if background else 1
    named: dict[str, int] = {}
    for number, line in enumerate(lines[first - 1 :], start=first):
        for name in split_synonyms(line):
            if not name:
                raise ValueError(
                    f"Expected class names in {path}, line {number}, but got {line!r}."
                )
            if named.setdefault(name.casefold(), number) != number:
                raise ValueError(
                    f"Expected distinct names in {path}, but {name!r} in line {number} is already "
                    f"in line {named[name.casefold()]}."
                )
    if not named or len(lines) > 255:
        raise ValueError(f"Expected 1 to 255 classes in {path}, but got {len(lines)} lines.")
    benchmark = of_classes(lines[first - 1 :], background)
    return replace(benchmark, key="folder", title=f"Folder ({len(lines)} classes)")
