"""A photo, or several, and a list of names -> segmentations."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from PIL import Image

from ovss.benchmark import Benchmark, PhotoBatch, of_classes
from ovss.captions import TEMPLATE
from ovss.demo import SETTINGS
from ovss.labelling import Labeller
from ovss.maps import bounded, enlarge_labels, min_max, shrink_photo, upsampling
from ovss.pixels import Photo, as_pixels
from ovss.pnp import PnP
from ovss.preprocessing import Preprocess
from ovss.proposals import AllProposer
from ovss.salience import SalienceDropout
from ovss.segmenter import Segmenter
from ovss.visualization.overlay import (
    display_size,
    distinct_palette,
    draw_heatmap,
    draw_overlay,
    palette_png,
    resize_photo,
)
from ovss.vlm import VLM, load_vlm

log = logging.getLogger(__name__)

MAX_SIDE = 1600
"""Pixels of a photo's longer side up to which it is labelled at its own size. Overlays are no
larger either; a photo of 12 megapixels labelled whole takes gigabytes and a minute of a CPU."""

DEMO_NOTE = "demo model: knows drawn scenes only"
"""What stands below the pictures of the demo's model, which finds its words in any photo."""


@dataclass(frozen=True)
class Segmentation:
    """What was found in a photo.

    Attributes:
        photo: `(H, W, 3)` uint8 RGB.
        labels: `(H, W)` uint8, indices into `classes`.
        classes: names; the first is "background" where pixels may belong to no class.
        palette: an RGB colour for each of `classes`.
        rounds: `(rounds, K, g, g)` float32, the class maps of each round of Salience DropOut on
            the patch grid, for the classes looked for; of other methods no round.
        note: what to know of the result; it stands below the overlay.
    """

    photo: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    rounds: np.ndarray
    note: str = ""

    def mask(self, name: str) -> np.ndarray:
        """Where a class is: `(H, W)` bool."""
        return self.labels == self._index(name)

    def heatmap(self, name: str, number: int | None = None) -> np.ndarray:
        """A class's evidence before thresholding: `(H, W)` float32 in 0..1.

        Args:
            name: a class that was looked for.
            number: a round counted from 0; default: their sum.
        """
        if name not in self.searched:
            raise ValueError(f"Expected one of {list(self.searched)}, but got {name!r}.")
        if not len(self.rounds):
            raise ValueError("Expected a method with heat maps, such as PnP-OVSS, but got another.")
        maps = torch.from_numpy(self.rounds[:, self.searched.index(name)])
        grid = min_max(maps.sum(0) if number is None else maps[number])
        height, width = self.labels.shape
        return (
            upsampling(grid.shape[0], height) @ grid @ upsampling(grid.shape[1], width).T
        ).numpy()

    def overlay(
        self, opacity: float = 0.55, names: bool = True, legend: bool = True
    ) -> Image.Image:
        """The photo with every class in its colour, contours, names and a legend.

        Small photos are enlarged for it; see `ovss.visualization.overlay.draw_overlay`.
        """
        return draw_overlay(
            self.photo,
            self.labels,
            self.classes,
            self.palette,
            self.background,
            opacity,
            names,
            legend,
            missing=[self.classes.index(name) for name in self.searched],
            note=self.note,
        )

    def heatmap_overlay(self, name: str, number: int | None = None) -> Image.Image:
        """The photo with a class's evidence over it, enlarged as an overlay; see `heatmap`."""
        size = display_size(*self.labels.shape)
        heat = Image.fromarray(self.heatmap(name, number)).resize(
            size[::-1], Image.Resampling.BILINEAR
        )
        return draw_heatmap(resize_photo(self.photo, size), np.asarray(heat))

    def label_map(self) -> Image.Image:
        """The labels as a palette image of the photo's size."""
        return palette_png(self.labels, self.palette)

    def summary(self) -> dict[str, Any]:
        """The classes with their labels, colours and pixels, as JSON-ready data."""
        pixels = np.bincount(self.labels.ravel(), minlength=len(self.classes))
        return {
            "size": list(self.labels.shape),
            **({"note": self.note} if self.note else {}),
            "classes": [
                {"label": label, "name": name, "colour": list(colour), "pixels": int(count)}
                for label, (name, colour, count) in enumerate(
                    zip(self.classes, self.palette, pixels, strict=True)
                )
            ],
        }

    @property
    def searched(self) -> tuple[str, ...]:
        """The classes that were looked for."""
        return self.classes[len(self.classes) - self.rounds.shape[1] :]

    @property
    def background(self) -> int | None:
        """The label of pixels that belong to no class; None where every pixel has one."""
        return 0 if len(self.searched) < len(self.classes) else None

    def _index(self, name: str) -> int:
        if name not in self.classes:
            raise ValueError(f"Expected one of {list(self.classes)}, but got {name!r}.")
        return self.classes.index(name)

    def _repr_png_(self) -> bytes:
        data = io.BytesIO()
        self.overlay().save(data, "png")
        return data.getvalue()


@overload
def segment(image: Photo, classes: Sequence[str], *args: Any, **kwargs: Any) -> Segmentation: ...


@overload
def segment(
    image: list[Photo] | tuple[Photo, ...], classes: Sequence[str], *args: Any, **kwargs: Any
) -> list[Segmentation]: ...


def segment(
    image: Photo | list[Photo] | tuple[Photo, ...],
    classes: Sequence[str],
    vlm: VLM | None = None,
    layer: int = 7,
    head: int | str = 9,
    dropout: SalienceDropout | None = None,
    labeller: Labeller | None = None,
    background: bool = True,
    model: str | Path | None = None,
    max_side: int = MAX_SIDE,
) -> Segmentation | list[Segmentation]:
    """Segment one photo, or several, for which a list comes back.

    Args:
        image: a path, an http or https address, a PIL image, an array `(H, W, 3)` or `(H, W)`, or a
            tensor `(3, H, W)` or `(H, W)`; arrays and tensors are uint8, or floats in 0..1. Or a
            list of such.
        classes: names to look for; synonyms of one class are separated by ";".
        vlm: the frozen model, on the device to use.
        layer: cross-attention layer, counted from 0; not for the demo's model.
        head: head, counted from 0, or "mean"; not for the demo's model.
        dropout: Salience DropOut's settings.
        labeller: from class maps to labels.
        background: whether pixels may belong to none of the classes.
        model: in place of `vlm`: a hub id or a folder, as `ovss.vlm.load_vlm` takes them; the last
            one is kept for the next call. Default: `demo`, which knows only the words of the
            demo's scenes, with the demo's settings.
        max_side: pixels of the longer side beyond which a photo is labelled at that size, and its
            labels enlarged to the photo's own; beyond 2048 it changes nothing.

    Raises:
        ValueError: no class, a name twice, an image of another kind, both `vlm` and `model`, or
            `max_side` below 1.
        FileNotFoundError: no photo at that path, or no such model.
        OSError: no photo at that address.

    Example:
        >>> from ovss.datamodules.scene_generator import draw_scene
        >>> photo, _ = draw_scene(seed=1)
        >>> segment(photo, ["sun", "tree"]).classes
        ('background', 'sun', 'tree')
    """
    benchmark = own_classes(classes, background)
    if vlm is not None and model is not None:
        raise ValueError(
            f"Expected either `vlm` or `model`, but got both; leave out `model={str(model)!r}`."
        )
    settings: dict[str, Any] = {"layer": layer, "head": head}
    if vlm is None:
        name = "demo" if model is None else str(model)
        vlm = named_vlm(name)
        settings = demo_settings() if name == "demo" else settings
    if dropout is not None:
        settings["dropout"] = dropout
    if labeller is not None:
        settings["labeller"] = labeller
    segmenter = PnP(vlm, **settings)
    warn_unknown_names(vlm, benchmark)
    if isinstance(image, (list, tuple)):
        return [segment_with(segmenter, as_pixels(each), benchmark, max_side) for each in image]
    return segment_with(segmenter, as_pixels(image), benchmark, max_side)


def own_classes(classes: Sequence[str], background: bool = True) -> Benchmark:
    """A benchmark of one's own, in colours that are easy to tell apart.

    Raises:
        ValueError: a bare string, no classes, or more than labels of 8 bits can hold.
    """
    if isinstance(classes, str):
        raise ValueError(f"Expected a list of class names, but got the string {classes!r}.")
    if not 1 <= len(classes) <= 254:
        raise ValueError(f"Expected 1 to 254 class names, but got {len(classes)}.")
    benchmark = of_classes(classes, background)
    black = ((0, 0, 0),) if background else ()
    return replace(benchmark, palette=(*black, *distinct_palette(len(classes))))


def warn_unknown_names(vlm: VLM, benchmark: Benchmark) -> None:
    """Say which of the names are new to a model's tokenizer, and what the demo's model knows."""
    unknown = [
        name
        for names in benchmark.prompts
        for name in names
        if vlm.tokenizer.unk_token_id in vlm.tokenizer(name)["input_ids"]
    ]
    if unknown:
        log.warning(
            "%s: unknown to this model's tokenizer, so what is found for it means nothing.",
            ", ".join(unknown),
        )
    if unknown and vlm.name == "demo":
        own = {*TEMPLATE.lower().split(), "and"}
        words = [w for w, _ in sorted(vlm.tokenizer.get_vocab().items(), key=lambda item: item[1])]
        known = [word for word in words if word.isalpha() and word not in own]
        log.warning(
            "The demo's model knows only the demo's words: %s.",
            ", ".join(known),
        )
    if vlm.name == "demo":
        log.info("%s; for photos give --model blip-large (in Python: `vlm=...`)", DEMO_NOTE)


def segment_with(
    segmenter: Segmenter, photo: np.ndarray, benchmark: Benchmark, max_side: int = MAX_SIDE
) -> Segmentation:
    """Segment `(H, W, 3)` uint8 with a method's settings and all classes of a benchmark.

    Raises:
        ValueError: `max_side` below 1.
    """
    if max_side < 1:
        raise ValueError(f"Expected `max_side` to be at least 1, but got {max_side}.")
    weights = next(segmenter.parameters(), None)
    device = torch.device("cpu") if weights is None else weights.device
    pixels = Preprocess(segmenter.input_spec(benchmark))(photo)[None].to(device)
    size = (photo.shape[0], photo.shape[1])
    bound = bounded(size, max_side)
    whole = torch.from_numpy(photo.transpose(2, 0, 1).copy())
    batch = PhotoBatch(
        ids=["photo"],
        photos=[(whole if bound == size else shrink_photo(whole, bound)).to(device)],
        pixel_values=pixels,
    )
    vlm: Any = getattr(segmenter, "vlm", None)
    proposals = AllProposer()(batch, benchmark, vlm)
    if isinstance(segmenter, PnP):
        rounds = segmenter.rounds(pixels, benchmark, proposals)
        (labels,) = segmenter.label(batch, benchmark, proposals, rounds)
        maps = rounds[0].float().cpu().numpy()
    else:
        with torch.no_grad():
            (labels,) = segmenter(batch, benchmark, proposals)
        maps = np.zeros((0, len(benchmark.searchable), 1, 1), np.float32)
    return Segmentation(
        photo,
        enlarge_labels(labels.cpu().to(torch.uint8), size).numpy(),
        benchmark.classes,
        benchmark.palette,
        maps,
        DEMO_NOTE if getattr(vlm, "name", None) == "demo" else "",
    )


@lru_cache(maxsize=1)
def named_vlm(name: str) -> VLM:
    """`ovss.vlm.load_vlm`, which keeps the last model."""
    return load_vlm(name)


def demo_settings() -> dict[str, Any]:
    """The demo's settings, as `PnP` takes them."""
    return {
        "layer": SETTINGS["layer"],
        "head": SETTINGS["head"],
        "dropout": SalienceDropout(**SETTINGS["dropout"]),
        "labeller": Labeller(**SETTINGS["labeller"]),
    }
