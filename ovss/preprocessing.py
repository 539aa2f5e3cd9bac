"""Photo file -> pixels -> what the VLM reads."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

# albumentations asks the network for a newer version of itself on import unless told not to.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A

from ovss.utils.files import check_regular

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
"""What photos and masks may be, as Pillow names it, whatever their suffix says.

Pillow knows many more, and starts other programs for some: Ghostscript for EPS.
"""


@dataclass(frozen=True)
class InputSpec:
    """How a VLM wants its photos.

    Attributes:
        image_size: side S of the square input, in pixels.
        mean: per channel, of pixels in 0..1.
        std: per channel, of pixels in 0..1.
        interpolation: `bicubic`, or `bilinear` for the released code's ADE20K.
    """

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"


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


class Preprocess:
    """`(H, W, 3)` uint8 RGB -> `(3, S, S)` float32, resized and normalised.

    Args:
        spec: what the VLM wants.
    """

    def __init__(self, spec: InputSpec) -> None:
        self.spec = spec
        self.pipeline = A.Compose(
            [
                PilResize(spec.image_size, spec.interpolation),
                A.Normalize(mean=spec.mean, std=spec.std, max_pixel_value=255.0),
            ]
        )

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
        ValueError: the file is not a photo, is cut short, is a decompression bomb, or has pixels
            of an unknown range.
    """
    try:
        check_regular(path)
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            kind = image.format  # a turned image has none
            if upright:
                image = ImageOps.exif_transpose(image)
            return np.asarray(with_eight_bits(image, kind, str(path)).convert("RGB"))
    except FileNotFoundError:
        raise FileNotFoundError(f"Expected a photo at {path}, but there is no such file.") from None
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        # Pillow names the file again there.
        unknown = isinstance(error, UnidentifiedImageError)
        reason = f"none of {', '.join(IMAGE_FORMATS)}" if unknown else error
        raise ValueError(
            f"Expected {path} to be a readable photo, but decoding failed ({reason}); "
            "fetch or convert the file again."
        ) from error


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
