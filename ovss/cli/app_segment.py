"""What the page of the command `app` shows of a photo."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ovss.utils.errors import ConfigurationError
from ovss.utils.files import write_png
from ovss.utils.shipped import shipped_models

if TYPE_CHECKING:  # the page is there before torch and Lightning are imported
    from ovss.segmenter import Segmenter


class Shown(NamedTuple):
    """What the page shows of a photo: files in the page's own folder.

    Attributes:
        overlay: the photo with its classes.
        labels: the label map, a palette PNG of the photo's size.
        heatmaps: for each class and round, and their sum, a picture and its caption.
        note: what to know of the result; may be empty.
    """

    overlay: Path
    labels: Path
    heatmaps: list[tuple[Path, str]]
    note: str


class PhotoSegmenter:
    """Segments photos, one at a time, with the model that was asked for last.

    Args:
        options: settings of the method for all models, as on the command line.
    """

    def __init__(self, options: Sequence[str] = ()) -> None:
        self.options = list(options)
        self._lock = threading.Lock()
        self._name = ""
        self._segmenter: Segmenter | None = None

    def segment(
        self, photo: str | Path, names: str, model: str, background: bool, folder: Path
    ) -> Shown:
        """Segment a photo and write pictures of the result.

        Args:
            photo: a file.
            names: class names as on the command line; here no file of them.
            model: one of `shipped_models`.
            background: whether pixels may belong to none of the classes.
            folder: an empty one for the pictures.

        Raises:
            ValueError: no names, no such model, or no photo.
            OSError: weights that cannot be had.
        """
        from ovss.cli.segment import safe_name, split_classes
        from ovss.pixels import as_pixels
        from ovss.segmentation import own_classes, segment_with, warn_unknown_names

        benchmark = own_classes(split_classes(names), background)
        pixels = as_pixels(Path(photo))
        with self._lock:
            segmenter = self._load(model)
            if getattr(segmenter, "vlm", None) is not None:
                warn_unknown_names(segmenter.vlm, benchmark)
            result = segment_with(segmenter, pixels, benchmark)
        write_png(folder / "overlay.png", result.overlay())
        write_png(folder / "labels.png", result.label_map())
        heatmaps: list[tuple[Path, str]] = []
        for name in result.searched if len(result.rounds) else ():
            for number in (*range(len(result.rounds)), None):
                which = "sum" if number is None else f"round {number}"
                file = folder / f"{len(heatmaps):03d}_{safe_name(f'{name} {which}')}.png"
                write_png(file, result.heatmap_overlay(name, number))
                heatmaps.append((file, f"{name}, {which}"))
        return Shown(folder / "overlay.png", folder / "labels.png", heatmaps, result.note)

    def _load(self, name: str) -> Segmenter:
        if name not in shipped_models():
            raise ConfigurationError(
                f"Expected a model of {', '.join(shipped_models())}, but got {name!r}."
            )
        if name != self._name or self._segmenter is None:
            from ovss.cli.console import silence_libraries
            from ovss.cli.lightning_cli import load_segmenter

            silence_libraries()
            self._name, self._segmenter = "", None  # not two of them in memory
            self._segmenter = load_segmenter(["--model", name, *self.options])
            self._name = name
        return self._segmenter
