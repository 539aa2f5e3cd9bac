"""COCO 2017 val with two sets of classes: COCO-Object and COCO-Stuff (164k)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ovss.benchmark import Benchmark, Protocol

from .annotations import Annotations, annotated_photos, read_json
from .base import BenchmarkDataModule
from .dataset import Split
from .download.archives import Archive
from .errors import DatasetNotFoundError
from .layouts import Encoding, Layout, find_listed, first_listing
from .masks import label_table
from .specs import check_choice, class_names, label_map, palette, prompt_names

TREE = """
images/val2017/<id>.jpg                 or val2017/<id>.jpg
annotations/val2017/<id>.png            or stuffthingmaps/val2017/<id>.png, val2017/<id>.png,
                                           annotations/val2017/<id>_{converted}.png
"""
INSTANCES_TREE = """
images/val2017/<id>.jpg                 or val2017/<id>.jpg
annotations/instances_val2017.json
"""
BASE_FOLDERS = ("coco", ".", "coco_stuff164k", "coco_object")
PHOTOS = ("images/val2017", "val2017")
MASKS = (
    "annotations/val2017",
    "stuffthingmaps/val2017",
    "stuffthingmaps_trainval2017/val2017",
    "val2017",
)

PHOTO_ARCHIVE = Archive(
    name="val2017.zip",
    url="http://images.cocodataset.org/zips/val2017.zip",
    digest="md5:442b8da7639aecaf257c1dceb8ba8c80",
    size=815585330,
    members=("val2017/*.jpg",),
    into="coco/images",
    done=("coco/images/val2017/*.jpg", 5000),
)
STUFF_ARCHIVE = Archive(
    name="stuffthingmaps_trainval2017.zip",
    url="http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/"
    "stuffthingmaps_trainval2017.zip",
    members=("val2017/*.png",),
    into="coco/annotations",
    done=("coco/annotations/val2017/*[0-9].png", 5000),
)
INSTANCES_ARCHIVE = Archive(
    name="annotations_trainval2017.zip",
    url="http://images.cocodataset.org/annotations/annotations_trainval2017.zip",
    digest="md5:f4bbac642086de4f52a3fdda2de5fa2c",
    size=252907541,
    members=("annotations/instances_val2017.json",),
    into="coco",
    done=("coco/annotations/instances_val2017.json", 1),
)


@cache
def stuff_pixels() -> dict[int, int]:
    """COCO-Stuff's mask values (official id - 1) to its 171 labels; 255 is unlabelled."""
    return label_map("coco_stuff164k_pixel_to_trainid")


@cache
def object_ids() -> dict[int, int]:
    """COCO's category ids to labels 1..80."""
    return label_map("coco_instance_catid_to_object81")


@cache
def object_benchmark(protocol: Protocol, truth: str) -> Benchmark:
    """81 contiguous labels or, in the released code, 91 with gaps."""
    check_choice("protocol", protocol, ("standard", "released"))
    classes, colours = class_names("coco_object81"), palette("coco_object81")
    prompts = ((), *prompt_names("coco_object80"))
    released_prompts = ((), *prompt_names("coco_object80_released"))
    # Labels are not pixel-identical in the two sources: a score must say which it was.
    key = "coco_object81" + ("_instances" if (protocol, truth) == ("standard", "instances") else "")
    title = "COCO-Object (81 classes)"
    if protocol == "released":
        label_of = {0: 0, **object_ids()}
        title = "COCO-Object (91 bins)"
        classes = spread(classes, label_of, 91, "unused {}")
        prompts = spread(prompts, label_of, 91, ())
        released_prompts = spread(released_prompts, label_of, 91, ())
        colours = spread(colours, label_of, 91, (0, 0, 0))
    return Benchmark(
        key=key,
        title=title,
        protocol=protocol,
        classes=classes,
        prompts=prompts,
        released_prompts=released_prompts,
        palette=colours,
        background=0,
        background_rule="always",
        rescale=True,
        expected=5000,
    )


@cache
def stuff_benchmark(protocol: Protocol) -> Benchmark:
    """171 labels or, in the released code, 183: official ids and unlabelled as background."""
    check_choice("protocol", protocol, ("standard", "released"))
    classes, colours = class_names("coco_stuff171"), palette("coco_stuff171")
    prompts, released_prompts = (
        prompt_names("coco_stuff171"),
        prompt_names("coco_stuff171_released"),
    )
    if protocol == "released":
        label_of = {pixel + 1: label for pixel, label in stuff_pixels().items() if label != 255}
        classes = ("background", *spread(classes, label_of, 183, "unused {}")[1:])
        prompts = spread(prompts, label_of, 183, ())
        released_prompts = spread(released_prompts, label_of, 183, ())
        colours = spread(colours, label_of, 183, (0, 0, 0))
    return Benchmark(
        key="coco_stuff171",
        title=f"COCO-Stuff 164k ({'183 bins' if protocol == 'released' else '171 classes'})",
        protocol=protocol,
        classes=classes,
        prompts=prompts,
        released_prompts=released_prompts,
        palette=colours,
        background=0 if protocol == "released" else None,
        background_rule="few" if protocol == "released" else "never",
        rescale=True,
        expected=5000,
    )


def spread(entries: Any, label_of: Mapping[int, int], count: int, gap: Any) -> tuple[Any, ...]:
    """Entries by label as entries by sparse id; `gap` for ids without label."""
    fill = gap.format if isinstance(gap, str) else lambda _: gap
    return tuple(entries[label_of[i]] if i in label_of else fill(i) for i in range(count))


class COCOObject(BenchmarkDataModule):
    """COCO-Object, COCO 2017 `val`: 5,000 photos.

    Args:
        root: the folder that holds the photos and labels in one of the usual layouts.
        protocol: `standard` has 81 labels; `released` has COCO's sparse ids, 91 bins.
        truth: `stuff` reads COCO-Stuff's masks, as the field does (GroupViT's convention: what is
            no object is background, unlabelled pixels too); `instances` paints the objects of
            instances_val2017.json, crowds included, the first object over later ones, as the
            released code does. Default: by the protocol.
        kwargs: see `BenchmarkDataModule`.
    """

    def __init__(
        self,
        root: str | Path,
        protocol: Protocol = "standard",
        truth: Literal["stuff", "instances"] | None = None,
        **kwargs: Any,
    ) -> None:
        truth = truth or ("instances" if protocol == "released" else "stuff")
        check_choice("truth", truth, ("stuff", "instances"))
        super().__init__(root, object_benchmark(protocol, truth), **kwargs)
        if (protocol, truth) == ("released", "stuff"):
            raise ValueError(
                "Expected `truth` to be 'instances' for the released protocol of COCO-Object, but "
                "got 'stuff'; leave it out."
            )
        self.source = truth
        labels = STUFF_ARCHIVE if truth == "stuff" else INSTANCES_ARCHIVE
        self.archives = (PHOTO_ARCHIVE, labels)

    @property
    def config(self) -> str:
        """Name of the shipped configuration."""
        return "coco_object81"

    def find(self) -> Split:
        """See `BenchmarkDataModule.find`."""
        name = self.benchmark.title
        if self.source == "instances":
            return self._find_instances(name)
        object_labels = {i: i for i in range(81)}
        train_ids = {i: i + 1 if i < 80 else 0 for i in range(171)}
        encodings = (
            Encoding(MASKS, ".png", label_table(label_map("coco_object_pixel_to_trainid"))),
            Encoding(MASKS, "_instanceTrainIds.png", label_table({**object_labels, 255: 0})),
            Encoding(MASKS, "_labelTrainIds.png", label_table({**train_ids, 255: 0})),
        )
        tree = TREE.format(converted="instanceTrainIds")
        layout = Layout(tree, BASE_FOLDERS, PHOTOS, ".jpg", encodings)
        return layout.find(name, self.root, self.remedy)

    def _find_instances(self, name: str) -> Split:
        places = [self.root / base for base in BASE_FOLDERS]
        paths = [place / "annotations" / "instances_val2017.json" for place in places]
        paths += [place / "instances_val2017.json" for place in places]
        path = next((path for path in paths if path.is_file()), None)
        folders = [place / folder for place in places for folder in PHOTOS]
        photos = first_listing(folders, ".jpg")
        if path is None or not photos:
            raise DatasetNotFoundError(name, self.root, INSTANCES_TREE, self.remedy)
        released = self.benchmark.protocol == "released"
        labels = {i: i for i in object_ids()} if released else object_ids()
        content = read_json(path)
        images = sorted(content.get("images", ()), key=lambda image: image["file_name"])
        annotated = annotated_photos(path, content, images, labels)
        folder = next(iter(photos.values())).parent
        ids = [photo.id for photo in annotated]
        samples = find_listed(name, ids, path, folder, None, self.remedy)
        return Split(
            samples,
            label_table(range(self.benchmark.scored)),
            path.relative_to(self.root).as_posix(),
            Annotations(annotated, wins="first").read_mask,
        )


class COCOStuff(BenchmarkDataModule):
    """COCO-Stuff 164k, COCO 2017 `val`: 5,000 photos.

    Args:
        root: the folder that holds the photos and labels in one of the usual layouts.
        protocol: `standard` ignores unlabelled pixels; `released` scores them as background and
            keeps the official ids, 183 bins in all.
        kwargs: see `BenchmarkDataModule`.
    """

    archives = (PHOTO_ARCHIVE, STUFF_ARCHIVE)

    def __init__(self, root: str | Path, protocol: Protocol = "standard", **kwargs: Any) -> None:
        super().__init__(root, stuff_benchmark(protocol), **kwargs)

    def find(self) -> Split:
        """See `BenchmarkDataModule.find`."""
        raw, converted = stuff_tables(self.benchmark.protocol)
        encodings = (
            Encoding(MASKS, ".png", raw),
            Encoding(MASKS, "_labelTrainIds.png", converted),
        )
        tree = TREE.format(converted="labelTrainIds")
        layout = Layout(tree, BASE_FOLDERS, PHOTOS, ".jpg", encodings)
        return layout.find(self.benchmark.title, self.root, self.remedy)


def stuff_tables(protocol: Protocol) -> tuple[np.ndarray, np.ndarray]:
    """Tables for masks as downloaded and as mmsegmentation converts them."""
    pixels = stuff_pixels()
    if protocol == "standard":
        labels = {label: label for label in (*pixels.values(), 255)}
        return label_table(pixels), label_table(labels)
    official = {pixel: pixel + 1 for pixel in pixels if pixel != 255}
    back = {pixels[pixel]: label for pixel, label in official.items()}
    return label_table({**official, 255: 0}), label_table({**back, 255: 0})
