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

from ovss.utils.errors import ConfigurationError
from ovss.utils.files import write_png
from ovss.utils.shipped import find_config, shipped_models
from ovss.utils.text import PROGRAM

KEEP, SWEEP = 600.0, 60.0
"""Seconds after which uploads and pictures are deleted, and between two looks for them."""
EXAMPLES = (6, 13, 16)
"""Seeds of the page's drawn scenes, which are no part of the demo's splits."""


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
        from ovss.cli.app_segment import PhotoSegmenter

        scenes = draw_examples(Path(folder))
        page = build_page(PhotoSegmenter(rest), model, scenes, Path(folder))
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
