"""Photo file -> pixels -> what the VLM reads."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

# albumentations asks the network for a newer version of itself on import unless told not to.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A
import cv2

from ovss.utils.files import check_regular

log = logging.getLogger(__name__)

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
"""What photos and masks may be, as Pillow names it, whatever their suffix says.

Pillow knows many more, and starts other programs for some: Ghostscript for EPS.
"""


@dataclass(frozen=True)
class InputSpec:
    """How a model wants its photos.

    Attributes:
        image_size: side S of the square input in pixels, or of the shorter side.
        mean: per channel, of pixels in 0..1.
        std: per channel, of pixels in 0..1.
        interpolation: `bicubic`, or `bilinear` for the released code's ADE20K; of squares only.
        resize: `square`, or `short_side`: the shorter side becomes S pixels and the ratio is kept,
            so that photos differ in size.
    """

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    resize: Literal["square", "short_side"] = "square"


class PilResize(A.ImageOnlyTransform):
    """Square resize with Pillow.

    Pillow low-passes when it shrinks, OpenCV's bicubic does not; the checkpoints and the released
    code saw Pillow's.

    Args:
        size: side in pixels.
        interpolation: `bicubic` or `bilinear`.
        p: probability; leave it at 1.
    """

    class InitSchema(A.ImageOnlyTransform.InitSchema):
        size: int
        interpolation: str

    def __init__(self, size: int, interpolation: str = "bicubic", p: float = 1.0) -> None:
        super().__init__(p=p)
        self.size = size
        self.interpolation = interpolation

    def apply(self, img: np.ndarray, **params: Any) -> np.ndarray:
        """Resize `(H, W, 3)` uint8."""
        how = Image.Resampling[self.interpolation.upper()]
        return np.asarray(Image.fromarray(img).resize((self.size, self.size), how))


LONGEST_INPUT = 2048
"""Pixels of the longer side beyond which a photo's shorter side stays below `image_size`, as in the
references of the CLIP-based methods."""


class ResizeShortSide(A.ImageOnlyTransform):
    """Resize with OpenCV, bilinear, to a shorter side; the ratio is kept.

    mmsegmentation resizes so, and bytes are compared with its.

    Args:
        size: pixels of the shorter side; fewer where the longer one would pass `LONGEST_INPUT`.
        p: probability; leave it at 1.
    """

    class InitSchema(A.ImageOnlyTransform.InitSchema):
        size: int

    def __init__(self, size: int, p: float = 1.0) -> None:
        super().__init__(p=p)
        self.size = size

    def apply(self, img: np.ndarray, **params: Any) -> np.ndarray:
        """Resize `(H, W, 3)` uint8."""
        height, width = short_side_size((img.shape[0], img.shape[1]), self.size)
        return cv2.resize(img, (width, height), interpolation=cv2.INTER_LINEAR)


def short_side_size(size: tuple[int, int], short: int) -> tuple[int, int]:
    """`(H, W)` with a shorter side of so many pixels; halves are rounded up.

    Example:
        >>> short_side_size((375, 500), 336), short_side_size((300, 2000), 336)
        ((336, 448), (307, 2048))
    """
    factor = min(LONGEST_INPUT / max(size), short / min(size))
    return max(1, int(size[0] * factor + 0.5)), max(1, int(size[1] * factor + 0.5))


class Standardize(A.ImageOnlyTransform):
    """Take off the mean and divide by the standard deviation, in float32 and in 0..255.

    `A.Normalize` multiplies by the reciprocal, which rounds otherwise than mmsegmentation does.

    Args:
        mean: per channel, of pixels in 0..1.
        std: per channel, of pixels in 0..1.
        p: probability; leave it at 1.
    """

    class InitSchema(A.ImageOnlyTransform.InitSchema):
        mean: tuple[float, float, float]
        std: tuple[float, float, float]

    def __init__(
        self,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        p: float = 1.0,
    ) -> None:
        super().__init__(p=p)
        self.mean = mean
        self.std = std

    def apply(self, img: np.ndarray, **params: Any) -> np.ndarray:
        """Normalise `(H, W, 3)` uint8."""
        mean, std = (np.float32(np.array(each) * 255) for each in (self.mean, self.std))
        return (img.astype(np.float32) - mean) / std


class Preprocess:
    """`(H, W, 3)` uint8 RGB -> `(3, S, S)` or `(3, h, w)` float32, resized and normalised.

    Args:
        spec: what the model wants.
    """

    def __init__(self, spec: InputSpec) -> None:
        self.spec = spec
        steps = (
            [ResizeShortSide(spec.image_size), Standardize(spec.mean, spec.std)]
            if spec.resize == "short_side"
            else [
                PilResize(spec.image_size, spec.interpolation),
                A.Normalize(mean=spec.mean, std=spec.std, max_pixel_value=255.0),
            ]
        )
        self.pipeline = A.Compose(steps)

    def __call__(self, photo: np.ndarray) -> Tensor:
        """Run the pipeline."""
        pixels = self.pipeline(image=photo)["image"]
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def read_photo(path: str | Path, upright: bool = False) -> np.ndarray:
    """Decode a photo to `(H, W, 3)` uint8 RGB; grey, palette and RGBA ones are converted.

    Of 16 bits a channel the upper 8 are taken. Of several frames it is the first.

    Args:
        path: one of `IMAGE_FORMATS`.
        upright: apply the camera's orientation tag. Benchmarks leave it, as their masks do.

    Raises:
        FileNotFoundError: no such file.
        ValueError: see `decode_photo`.
    """
    try:
        check_regular(path)
        return decode_photo(path, str(path), upright)
    except FileNotFoundError:
        raise FileNotFoundError(f"Expected a photo at {path}, but there is no such file.") from None


def decode_photo(file: str | Path | IO[bytes], name: str, upright: bool = False) -> np.ndarray:
    """`read_photo` of a path or of a file's content.

    Args:
        file: one of `IMAGE_FORMATS`.
        name: what to call it in an error.
        upright: see `read_photo`; a photo of several frames is named in the log, too.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not a photo, is cut short, is a decompression bomb, or has pixels
            of an unknown range.
    """
    try:
        with Image.open(file, formats=IMAGE_FORMATS) as image:
            if upright:
                return upright_pixels(image, name)
            return np.asarray(with_eight_bits(image, image.format, name).convert("RGB"))
    except FileNotFoundError:
        raise
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        # Pillow names the file again there.
        unknown = isinstance(error, UnidentifiedImageError)
        reason = f"none of {', '.join(IMAGE_FORMATS)}" if unknown else error
        raise ValueError(
            f"Expected {name} to be a readable photo, but decoding failed ({reason}); "
            "fetch or convert the file again."
        ) from error


def upright_pixels(image: Image.Image, name: str) -> np.ndarray:
    """`(H, W, 3)` uint8 RGB of a Pillow image, turned as the camera's orientation tag says.

    Args:
        image: of any mode.
        name: what to call it in the log and in an error.

    Raises:
        ValueError: see `with_eight_bits`.
    """
    if getattr(image, "is_animated", False):
        log.info("%s has several frames; the first one is taken.", name)
    kind = image.format  # a turned image has none
    turned = ImageOps.exif_transpose(image)
    return np.asarray(with_eight_bits(turned, kind, name).convert("RGB"))


def with_eight_bits(image: Image.Image, kind: str | None, name: str) -> Image.Image:
    """Grey of 16 bits as its upper 8, as Pillow itself takes them of colours; others as they are.

    Left to Pillow, all above 255 would be white.

    Args:
        image: of any mode.
        kind: the format it was read from.
        name: what to call it in an error.

    Raises:
        ValueError: 32 bits, whose range nobody knows.
    """
    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    # Pillow reads PPM's 16 bits into 32.
    if not image.mode.startswith("I;16") and kind != "PPM":
        raise ValueError(
            f"Expected {name} to have 8 or 16 bits a channel, but it has 32 (Pillow's mode "
            f"{image.mode}), of which nobody knows what is white; convert it to 8."
        )
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
