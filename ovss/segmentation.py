"""One photo and a list of names -> a segmentation."""

from __future__ import annotations

import glob
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml
from PIL import Image

from ovss.benchmark import Benchmark, PhotoBatch, of_classes
from ovss.demo import SETTINGS
from ovss.labelling import Labeller, upsampling
from ovss.method import look
from ovss.preprocessing import Preprocess, read_photo
from ovss.proposals import AllProposer
from ovss.salience import SalienceDropout, min_max
from ovss.vlm.base import VLM

if TYPE_CHECKING:
    from ovss.module import PnPOVSS


@dataclass(frozen=True)
class Segmentation:
    """What was found in a photo.

    Attributes:
        photo: `(H, W, 3)` uint8 RGB.
        labels: `(H, W)` uint8, indices into `classes`.
        classes: names; the first is "background" where pixels may belong to no class.
        palette: an RGB colour for each of `classes`.
        rounds: `(rounds, K, g, g)` float32, the class maps of each round of Salience DropOut on
            the patch grid, for the classes looked for.
    """

    photo: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    rounds: np.ndarray

    def mask(self, name: str) -> np.ndarray:
        """Where a class is: `(H, W)` bool."""
        return self.labels == self._index(name)

    def heatmap(self, name: str, number: int | None = None) -> np.ndarray:
        """A class's evidence before thresholding: `(H, W)` float32 in 0..1.

        Args:
            name: a class that was looked for.
            number: a round counted from 0; default: their sum.
        """
        searched = self.classes[len(self.classes) - self.rounds.shape[1] :]
        if name not in searched:
            raise ValueError(f"Expected one of {list(searched)}, but got {name!r}.")
        maps = torch.from_numpy(self.rounds[:, searched.index(name)])
        grid = min_max(maps.sum(0) if number is None else maps[number])
        height, width = self.labels.shape
        return (
            upsampling(grid.shape[0], height) @ grid @ upsampling(grid.shape[1], width).T
        ).numpy()

    def overlay(self, opacity: float = 0.55) -> Image.Image:
        """The photo with every class in its colour."""
        colours = np.asarray(self.palette, dtype=np.float32)[self.labels]
        found = (self.labels > 0) if self.classes[0] == "background" else np.ones_like(self.labels)
        weight = opacity * found[..., None].astype(np.float32)
        return Image.fromarray((self.photo * (1 - weight) + colours * weight).astype(np.uint8))

    def _index(self, name: str) -> int:
        if name not in self.classes:
            raise ValueError(f"Expected one of {list(self.classes)}, but got {name!r}.")
        return self.classes.index(name)

    def _repr_png_(self) -> bytes:
        data = io.BytesIO()
        self.overlay().save(data, "png")
        return data.getvalue()


def segment(
    image: str | Path | Image.Image | np.ndarray,
    classes: Sequence[str],
    vlm: VLM | None = None,
    layer: int = 7,
    head: int | str = 9,
    dropout: SalienceDropout | None = None,
    labeller: Labeller | None = None,
    background: bool = True,
) -> Segmentation:
    """Segment one photo.

    Args:
        image: a path, a PIL image, or `(H, W, 3)` / `(H, W)` uint8.
        classes: names to look for; synonyms of one class are separated by ";".
        vlm: the frozen model, on the device to use. Default: the demo's, which knows only the
            words of the demo's scenes, with the demo's settings.
        layer: cross-attention layer, counted from 0; with `vlm` only.
        head: head, counted from 0, or "mean"; with `vlm` only.
        dropout: Salience DropOut's settings.
        labeller: from class maps to labels.
        background: whether pixels may belong to none of the classes.

    Raises:
        ValueError: no class, a name twice, or an image of another kind.

    Example:
        >>> from datamodules.drawing import draw_scene
        >>> photo, _ = draw_scene(seed=1)
        >>> segment(photo, ["sun", "tree"]).classes
        ('background', 'sun', 'tree')
    """
    from ovss.module import PnPOVSS

    benchmark = of_classes(classes, background)
    if vlm is None:
        settings = demo_settings()
        module = PnPOVSS(
            demo_vlm(),
            settings["layer"],
            settings["head"],
            dropout or settings["dropout"],
            labeller or settings["labeller"],
            proposals="all",
            benchmark=benchmark,
        )
    else:
        module = PnPOVSS(
            vlm,
            layer,
            head,
            dropout or SalienceDropout(),
            labeller or Labeller(),
            proposals="all",
            benchmark=benchmark,
        )
    return segment_with(module, as_pixels(image), benchmark)


def segment_with(module: PnPOVSS, photo: np.ndarray, benchmark: Benchmark) -> Segmentation:
    """Segment `(H, W, 3)` uint8 with a module's settings and all classes of a benchmark."""
    pixels = Preprocess(module.input_spec(benchmark))(photo)[None].to(module.vlm.device)
    batch = PhotoBatch(
        ids=["photo"],
        photos=[torch.from_numpy(photo.transpose(2, 0, 1).copy()).to(pixels.device)],
        pixel_values=pixels,
    )
    proposals = AllProposer()(batch, benchmark, module.vlm)
    rounds = look(
        module.vlm,
        pixels,
        [[benchmark.prompts[label] for label in proposals[0].labels]],
        module.layer,
        module.head,
        module.dropout,
        template=module.template,
    ).maps[0]
    labels = module.label(batch, [module.dropout.combine(rounds)], proposals)[0]
    return Segmentation(
        photo,
        labels.cpu().numpy().astype(np.uint8),
        benchmark.classes,
        benchmark.palette,
        rounds.float().cpu().numpy(),
    )


def as_pixels(image: str | Path | Image.Image | np.ndarray) -> np.ndarray:
    """Any kind of image as `(H, W, 3)` uint8 RGB, upright."""
    if isinstance(image, (str, Path)):
        return read_photo(image, upright=True)
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or not (
        pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (1, 3, 4))
    ):
        raise ValueError(
            "Expected an array of shape (H, W, 3) or (H, W) and type uint8, but got shape "
            f"{pixels.shape} and type {pixels.dtype}."
        )
    squeezed = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    return np.asarray(Image.fromarray(squeezed).convert("RGB"))


@lru_cache(maxsize=1)
def demo_vlm() -> VLM:
    """The tiny model that ships with the package."""
    from ovss.vlm import BlipITM

    return BlipITM.from_pretrained("demo")


def demo_settings() -> dict[str, Any]:
    """The demo's settings, as `PnPOVSS` takes them."""
    section = yaml.safe_load(SETTINGS.read_text(encoding="utf-8"))["model"]
    return {
        "layer": section["layer"],
        "head": section["head"],
        "dropout": SalienceDropout(**section["dropout"]),
        "labeller": Labeller(**section["labeller"]),
    }


def segment_files(
    model: PnPOVSS, photos: str, classes: str | None, output: Path, background: bool
) -> None:
    """The `segment` command; see `ovss.cli.EvaluationTrainer.segment`."""

    if not classes:
        raise ValueError('Expected class names, but got none; give --classes "cat, dog, grass".')
    listing = Path(classes)
    names = (
        [line.strip() for line in listing.read_text(encoding="utf-8").splitlines() if line.strip()]
        if listing.suffix == ".txt"
        else [name.strip() for name in classes.split(",")]
    )
    path = Path(photos)
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    else:
        files = [path] if path.exists() else [Path(p) for p in sorted(glob.glob(photos))]  # noqa: PTH207
    if not files:
        raise FileNotFoundError(
            f"Expected a photo, a folder of photos or a glob pattern, but found nothing "
            f"at {photos}."
        )
    benchmark = of_classes(names, background)
    for file in files:
        result = segment_with(model, as_pixels(file), benchmark)
        output.mkdir(parents=True, exist_ok=True)
        result.overlay().save(output / f"{file.stem}_overlay.png")


IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
"""Files of a folder that `segment` takes for photos."""
