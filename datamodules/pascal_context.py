"""Pascal Context: Pascal VOC 2010 photos, labelled pixel by pixel."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal

from ovss.benchmark import Benchmark, Protocol

from .annotations import Annotations, annotated_photos, read_json
from .base import BenchmarkDataModule
from .dataset import Split
from .download.archives import Archive
from .errors import DatasetNotFoundError
from .layouts import find_listed
from .masks import label_table
from .specs import (
    check_choice,
    class_names,
    label_map,
    palette,
    prompt_names,
    refuse_released,
)

TREE = """
VOCdevkit/VOC2010/
  JPEGImages/<id>.jpg
  trainval_merged.json
    or ImageSets/SegmentationContext/val.txt and SegmentationClassContext/<id>.png
"""
BASE_FOLDERS = ("VOCdevkit/VOC2010", "VOC2010", ".")
JSON_PATH = "VOCdevkit/VOC2010/trainval_merged.json"
CATEGORIES = 459
"""Categories in trainval_merged.json; 59 of them are evaluated."""


@cache
def benchmark(classes: str, protocol: Protocol) -> Benchmark:
    """`pc60`, with background, or `pc59`, without."""
    check_choice("classes", classes, ("pc60", "pc59"))
    if classes == "pc59":
        refuse_released(
            "pc59", protocol, "the released code scores Pascal Context with background; use pc60."
        )
    blank = ((),) if classes == "pc60" else ()
    return Benchmark(
        key=classes,
        title=f"Pascal Context ({classes[2:]} classes)",
        protocol=protocol,
        classes=class_names(classes),
        prompts=(*blank, *prompt_names("pc59")),
        released_prompts=(*blank, *prompt_names("pc59_released")),
        palette=palette(classes),
        background=0 if blank else None,
        background_rule="few" if blank else "never",
        expected=5104,
    )


def evaluated(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The images of the evaluated phase, by file name."""
    images = [image for image in content.get("images", ()) if image.get("phase") == "val"]
    return sorted(images, key=lambda image: image["file_name"])


def listed(root: Path, read: Callable[[str], bytes]) -> list[str]:
    """Names of the evaluated photos, for `prepare`."""
    return [Path(image["file_name"]).stem for image in evaluated(read_json(root / JSON_PATH))]


class PascalContext(BenchmarkDataModule):
    """Pascal Context, `val`: 5,104 photos.

    Args:
        root: the folder that holds `VOCdevkit`, or `VOCdevkit`, or `VOC2010` itself.
        classes: `pc60` (with background) or `pc59` (background not scored).
        protocol: `released` has only `pc60`, with means over the classes in the ground truth.
        kwargs: see `BenchmarkDataModule`.
    """

    archives = (
        Archive(
            name="trainval_merged.json",
            url="https://codalabuser.blob.core.windows.net/public/trainval_merged.json",
            digest="sha1:169325d9f7e9047537fedca7b04de4dddf10b881",
            into="VOCdevkit/VOC2010",
            done=(JSON_PATH, 1),
        ),
        Archive(
            name="VOCtrainval_03-May-2010.tar",
            url="http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar",
            digest="md5:da459979d0c395079b5c75ee67908abb",
            members=("VOCdevkit/VOC2010/JPEGImages/{id}.jpg",),
            listing=listed,
            done=("VOCdevkit/VOC2010/JPEGImages/*.jpg", 5104),
        ),
    )

    def __init__(
        self,
        root: str | Path,
        classes: Literal["pc60", "pc59"] = "pc60",
        protocol: Protocol = "standard",
        **kwargs: Any,
    ) -> None:
        super().__init__(root, benchmark(classes, protocol), **kwargs)
        # Values of converted masks: 0 background, 1..59 the classes.
        self.labels = (
            label_table({**{i: i for i in range(60)}, 255: 255})
            if classes == "pc60"
            else label_table({0: 255, **{i: i - 1 for i in range(1, 60)}, 255: 255})
        )

    def find(self) -> Split:
        """Converted masks where they are, the official JSON file otherwise."""
        name, remedy = self.benchmark.title, self.remedy
        for base in (self.root / base for base in BASE_FOLDERS):
            photos, masks = base / "JPEGImages", base / "SegmentationClassContext"
            listing = base / "ImageSets" / "SegmentationContext" / "val.txt"
            if listing.is_file() and masks.is_dir():
                ids = sorted(listing.read_text(encoding="utf-8").split())
                samples = find_listed(name, ids, listing, photos, masks, remedy)
                source = f"{masks.relative_to(self.root).as_posix()}/*.png"
                return Split(samples, self.labels, source)
            # The official file is found beside the photos or in the root.
            for path in (base / "trainval_merged.json", self.root / "trainval_merged.json"):
                if path.is_file() and photos.is_dir():
                    return self._find_json(path, photos)
        raise DatasetNotFoundError(name, self.root, TREE, remedy)

    def _find_json(self, path: Path, photos: Path) -> Split:
        content = read_json(path)
        # Later regions are painted over earlier ones; categories outside the 59 are background.
        labels = dict.fromkeys(range(CATEGORIES + 1), 0)
        labels |= label_map("pascal_context_catid_to_pc60")
        annotated = annotated_photos(
            path, content, evaluated(content), labels, "image_id", "annos_segmentation"
        )
        name = self.benchmark.title
        ids = [photo.id for photo in annotated]
        samples = find_listed(name, ids, path, photos, None, self.remedy)
        source = path.relative_to(self.root).as_posix()
        return Split(samples, self.labels, source, Annotations(annotated, wins="last").read_mask)
