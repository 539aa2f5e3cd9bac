"""The command `app`: a page in the browser that segments a photo."""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Collection, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from ovss.utils.errors import ConfigurationError
from ovss.utils.files import write_png
from ovss.utils.shipped import find_config, shipped_models
from ovss.utils.text import PROGRAM

MAX_UPLOAD = 20 << 20
"""Bytes of a photo."""
KEEP, SWEEP = 600.0, 60.0
"""Seconds after which uploads and pictures are deleted, and between two looks for them."""
EXAMPLES = (6, 13, 16)
"""Seeds of the page's drawn scenes, which are no part of the demo's splits."""


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


class Desk:
    """Segments photos, one at a time, with the model that was asked for last.

    Args:
        options: settings of the method for all models, as on the command line.
    """

    def __init__(self, options: Sequence[str] = ()) -> None:
        self.options = list(options)
        self._lock = threading.Lock()
        self._name, self._segmenter = "", None

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
        heatmaps = []
        for name in result.searched if len(result.rounds) else ():
            for number in (*range(len(result.rounds)), None):
                which = "sum" if number is None else f"round {number}"
                file = folder / f"{len(heatmaps):03d}_{safe_name(f'{name} {which}')}.png"
                write_png(file, result.heatmap_overlay(name, number))
                heatmaps.append((file, f"{name}, {which}"))
        return Shown(folder / "overlay.png", folder / "labels.png", heatmaps, result.note)

    def _load(self, name: str):  # type: ignore[no-untyped-def] # a Segmenter; Lightning is slow
        if name not in shipped_models():
            raise ConfigurationError(
                f"Expected a model of {', '.join(shipped_models())}, but got {name!r}."
            )
        if name != self._name:
            from ovss.cli.console import silence_libraries
            from ovss.cli.lightning_cli import load_segmenter

            silence_libraries()
            self._name, self._segmenter = "", None  # not two of them in memory
            self._segmenter = load_segmenter(["--model", name, *self.options])
            self._name = name
        return self._segmenter


def main(args: Sequence[str]) -> None:
    """Run `app [--model NAME] [--host ADDRESS] [--port NUMBER] [--model.SETTING VALUE ...]`.

    Args:
        args: what follows the command.

    Raises:
        ConfigurationError: no such model, or Gradio is not installed.
        OSError: a port that is taken.
    """
    parser = argparse.ArgumentParser(
        f"{PROGRAM} app",
        description="Segment photos on a page in the browser. Photos stay on this machine and are "
        "deleted within a quarter of an hour.",
        epilog="Settings of the method, such as --model.layer 3, hold for every model.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--model", default="demo", metavar="NAME", help="the one to begin with (default: demo)"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="0.0.0.0 lets others in, who need no password"
    )
    parser.add_argument("--port", type=int, default=7860, help="default: 7860")
    options, rest = parser.parse_known_args(args)
    model = find_config(options.model).stem
    if model not in shipped_models():
        raise ConfigurationError(
            f"Expected `--model` to be one of {', '.join(shipped_models())}, but got "
            f"{options.model!r}."
        )
    if wrong := [each for each in rest if each.startswith("-") and not each.startswith("--model.")]:
        raise ConfigurationError(f"Expected settings of `--model.`, but got {wrong[0]}.")
    if find_spec("gradio") is None:
        raise ConfigurationError(
            "Expected Gradio for the page, but it is not installed; `pip install 'ovss[app]'` "
            "installs it."
        )
    with tempfile.TemporaryDirectory(prefix="ovss_app_") as folder:
        # Read when Gradio is imported. Uploads and pictures go with the folder.
        os.environ.update(GRADIO_TEMP_DIR=folder, GRADIO_ANALYTICS_ENABLED="False")
        from ovss.cli.app_page import build_page, serve

        scenes = draw_examples(Path(folder))
        page = build_page(Desk(rest), model, scenes, Path(folder))
        threading.Thread(target=keep_swept, args=[Path(folder)], daemon=True).start()
        serve(page, options.host, options.port)


def keep_swept(folder: Path) -> None:
    """Delete what visitors leave, as long as the folder is there; Gradio forgets its copies."""
    ours = set(folder.rglob("*"))
    while folder.is_dir():
        sweep(folder, ours, KEEP)
        time.sleep(SWEEP)


def sweep(folder: Path, ours: Collection[Path], age: float) -> None:
    """Delete the files under a folder that are older than so many seconds, but for ours."""
    for file in folder.rglob("*"):
        if file.is_file() and file not in ours and time.time() - file.stat().st_mtime > age:
            file.unlink(missing_ok=True)


def draw_examples(folder: Path) -> list[tuple[str, str]]:
    """The page's drawn scenes: files in a folder, with the names to look for."""
    from PIL import Image

    from ovss.datamodules.scene_generator import classes_in, draw_scene

    examples = []
    for seed in EXAMPLES:
        scene, mask = draw_scene(seed=seed)
        file = folder / f"scene{seed}.png"
        write_png(file, Image.fromarray(scene))
        examples.append((str(file), ", ".join(classes_in(mask))))
    return examples
