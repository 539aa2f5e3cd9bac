"""The `segment` command: photos -> overlays, label maps and heat maps on disk."""

from __future__ import annotations

import glob
import io
import json
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np

from ovss.pixels import as_pixels
from ovss.pnp import PnP
from ovss.proposals import AllProposer
from ovss.runs.fingerprint import as_plain
from ovss.segmentation import (
    MAX_SIDE,
    Segmentation,
    own_classes,
    segment_with,
    warn_unknown_names,
)
from ovss.segmenter import Segmenter
from ovss.utils.errors import ConfigurationError
from ovss.utils.fetch import is_url
from ovss.utils.files import make_writable, write_atomically, write_png
from ovss.utils.progress import Progress
from ovss.utils.text import counted

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
"""Files of a folder that `segment` takes for photos."""


def segment_files(
    segmenter: Segmenter,
    photos: Sequence[str],
    classes: str | None,
    output: Path,
    background: bool = True,
    heatmaps: bool = False,
    max_side: int = MAX_SIDE,
) -> None:
    """Segment photos and write what was found: the command `segment`.

    A photo that cannot be read does not stop the others.

    Raises:
        ValueError: no classes, heat maps of a method that has none, or photos that could not be
            read (after the others are done).
        FileNotFoundError: no photos, or no such list of classes.
        OSError: the output cannot be written.
    """
    benchmark = own_classes(read_classes(classes), background)
    files = find_photos(photos)
    if isinstance(segmenter, PnP):
        warn_unknown_names(segmenter.vlm, benchmark)
    elif heatmaps:
        raise ConfigurationError(
            f"Expected a method with heat maps for `heatmaps`, but {segmenter.method} has none; "
            "leave it out."
        )
    segmenter.proposer = AllProposer()
    settings = as_plain(segmenter.settings())
    make_writable(output, "a folder for results", "--output")
    failures = []
    with Progress("segment", len(files)) as progress:
        for file, name in zip(files, output_names(files), strict=True):
            try:
                result = segment_with(segmenter, as_pixels(file), benchmark, max_side)
            except (ValueError, OSError) as error:
                if len(files) == 1:
                    raise
                # Errors of reading name the file, those of the method do not.
                failures.append(f"{error}" if str(file) in str(error) else f"{file}: {error}")
            else:
                write_result(result, output, name, file, settings, heatmaps)
            progress.advance()
    done = len(files) - len(failures)
    log.info("%s segmented; results in %s", counted(done, "photo"), output)
    if failures:
        listed = "\n".join(f"    {failure}" for failure in failures[:5])
        raise ValueError(
            f"Expected {len(files)} readable photos, but could not read {len(failures)} of them"
            f"{', among them' if len(failures) > 5 else ''}:\n{listed}\nThe others are done."
        )


def read_classes(classes: str | None) -> list[str]:
    """Names separated by commas, or the lines of a `.txt` file.

    Raises:
        ValueError: none given.
        FileNotFoundError: no such file.

    Example:
        >>> read_classes("cat, dog; puppy,grass")
        ['cat', 'dog; puppy', 'grass']
    """
    if not classes or not classes.strip().endswith(".txt"):
        return split_classes(classes or "")
    path = Path(classes.strip())
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected a text file with a class a line at {path}, but there is no such file."
        )
    return _stripped(path.read_text(encoding="utf-8-sig").splitlines())


def split_classes(classes: str) -> list[str]:
    """Names separated by commas.

    Raises:
        ValueError: none given.
    """
    return _stripped(classes.split(","))


def _stripped(lines: Sequence[str]) -> list[str]:
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise ConfigurationError(
            'Expected class names, but got none; give --classes "cat, dog, grass".'
        )
    return names


def find_photos(photos: Sequence[str]) -> list[str | Path]:
    """The files that paths, folders and glob patterns stand for, each once, and addresses.

    What one of them stands for is in the order of names.

    Raises:
        FileNotFoundError: nothing there.
    """
    found: list[str | Path] = []
    for each in photos:
        found += [each] if is_url(each) else _find_files(each)
    return list(dict.fromkeys(found))


def _find_files(photos: str) -> list[Path]:
    path = Path(photos).expanduser()
    if path.is_dir():
        files = [file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES]
    elif path.is_file():
        files = [path]
    else:
        found = map(Path, glob.glob(str(path), recursive=True))  # noqa: PTH207 - absolute patterns
        files = [file for file in found if file.is_file()]
    if not files:
        raise FileNotFoundError(
            f"Expected a photo, a folder of photos or a glob pattern in quotes, but found nothing "
            f"at {photos}."
        )
    return sorted(files)


def _as_file(photo: str | Path) -> Path:
    """A file to name the results after; of an address its host and the last part of its path.

    Example:
        >>> _as_file("https://example.org:80/cats/my%20cat.jpg?size=3").as_posix()
        'example.org/my cat.jpg'
        >>> _as_file("https://example.org/..%2f").as_posix()
        'example.org/photo'
    """
    if isinstance(photo, Path):
        return photo
    parts = urlsplit(photo)
    last = re.split(r"[/\\]", unquote(parts.path))[-1]
    shown = "".join(letter for letter in last if letter.isprintable()).strip(". ")
    return Path(re.sub(r"[^\w.-]", "_", parts.hostname or "").strip("."), shown or "photo")


def output_names(photos: Sequence[str | Path]) -> list[str]:
    """A name for each photo's results: its own, with the folders and suffix it takes to differ.

    Example:
        >>> output_names([Path("a/cat.jpg"), Path("a/dog.jpg")])
        ['cat', 'dog']
        >>> output_names([Path("a/cat.jpg"), Path("a/cat.png"), Path("b/cat.jpg")])
        ['a/cat_jpg', 'a/cat_png', 'b/cat_jpg']
    """
    files = [_as_file(photo) for photo in photos]
    stems = [_that_fits(file.stem) for file in files]
    for suffix in (False, True):
        for folders in range(max(len(file.parts) for file in files)):
            names = [
                "/".join([*file.parts[:-1][len(file.parts) - 1 - folders :], stem])
                + (f"_{file.suffix[1:]}" if suffix else "")
                for file, stem in zip(files, stems, strict=True)
            ]
            if len({name.casefold() for name in names}) == len(files):
                return names
    return [f"{number:06d}_{stem}" for number, stem in enumerate(stems)]


def _that_fits(stem: str) -> str:
    """A photo's name, cut where a file's would be too long (255 bytes) with what is added to it."""
    most = 255 - len("000000__overlay.png")
    encoded = os.fsencode(stem)
    return stem if len(encoded) <= most else encoded[:most].decode(errors="ignore")


def write_result(
    result: Segmentation,
    output: Path,
    name: str,
    photo: str | Path,
    settings: dict[str, object],
    heatmaps: bool = False,
) -> None:
    """Write `<name>_overlay.png`, `<name>_labels.png` and `.json`, and heat maps on request."""
    write_png(output / f"{name}_overlay.png", result.overlay())
    write_png(output / f"{name}_labels.png", result.label_map())
    sidecar = {"photo": str(photo), **result.summary(), "settings": settings}
    text = json.dumps(sidecar, indent=2, ensure_ascii=False) + "\n"
    write_atomically(output / f"{name}_labels.json", text)
    if not heatmaps:
        return
    folder = output / f"{name}_heatmaps"
    for label, title in enumerate(result.searched):
        stem = f"{label:03d}_{safe_name(title)}"
        for number in range(len(result.rounds)):
            image = result.heatmap_overlay(title, number)
            write_png(folder / f"{stem}_round{number}.png", image)
        write_png(folder / f"{stem}_sum.png", result.heatmap_overlay(title))
    data = io.BytesIO()
    np.savez_compressed(data, rounds=result.rounds, classes=np.array(result.searched))
    write_atomically(folder / "rounds.npz", data.getvalue())


def safe_name(text: str) -> str:
    """A class name as part of a file name.

    Example:
        >>> safe_name("traffic light / lamp")
        'traffic_light_lamp'
    """
    return re.sub(r"\W+", "_", text).strip("_")[:60]
