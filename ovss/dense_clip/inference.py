"""How each reference runs on each data set: input size, windows, temperature, thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from ovss.benchmark import Benchmark


@dataclass(frozen=True)
class Inference:
    """Settings beside the method itself.

    Attributes:
        short_side: pixels of the input's shorter side; the longer one ends at 2048.
        crop: pixels of a sliding window's side; 0 for the photo as a whole.
        stride: pixels from one window to the next.
        logit_scale: what cosines are multiplied with before the softmax over the queries.
        prob_thd: pixels whose best class is less probable become background.
        area_thd: classes with at most this share of the pixels of all classes but the background
            are taken out of a photo.
    """

    short_side: int = 336
    crop: int = 224
    stride: int = 112
    logit_scale: float = 40.0
    prob_thd: float = 0.0
    area_thd: float = 0.0

    def __post_init__(self) -> None:
        for name in ("short_side", "stride"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"Expected `{name}` to be at least 1 pixel, but got {getattr(self, name)}."
                )
        if self.crop < 0 or (self.crop and self.stride > self.crop):
            raise ValueError(
                f"Expected `crop` to be 0 (no sliding) or at least `stride`, so that windows leave "
                f"no gaps, but got crop {self.crop} and stride {self.stride}."
            )
        if not self.logit_scale > 0:
            raise ValueError(f"Expected `logit_scale` to be positive, but got {self.logit_scale}.")
        for name in ("prob_thd", "area_thd"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"Expected `{name}` in 0..1, but got {getattr(self, name)}.")


DEFAULTS = {
    "sclip": Inference(),
    "naclip": Inference(),
    "clearclip": Inference(448, crop=448, stride=224, logit_scale=50),
    "proxyclip": Inference(crop=336),
}
"""What a reference runs with where it has nothing else."""

CHANGES: dict[str, dict[str, dict[str, Any]]] = {
    "sclip": {
        "voc21": {"logit_scale": 65, "prob_thd": 0.1, "area_thd": 0.1},
        "pc60": {"logit_scale": 50, "prob_thd": 0.1},
        "coco_object81": {"logit_scale": 50, "prob_thd": 0.1},
        "coco_stuff171": {"short_side": 448},
        "cityscapes19": {"short_side": 560},
    },
    "naclip": {
        "voc21": {"crop": 0, "prob_thd": 0.1},
        "voc20": {"crop": 0},
        "pc60": {"prob_thd": 0.1},
        "coco_object81": {"prob_thd": 0.1},
        "cityscapes19": {"short_side": 560},
    },
    "clearclip": {
        "voc21": {"prob_thd": 0.5},
        "pc60": {"prob_thd": 0.15},
        "coco_object81": {"prob_thd": 0.4},
        "cityscapes19": {"crop": 224},  # the stride stays: windows do not overlap
    },
    "proxyclip": {
        "voc21": {"prob_thd": 0.2},
        "pc60": {"prob_thd": 0.15},
        "coco_object81": {"prob_thd": 0.25},
        "ade150": {"short_side": 448},
        "cityscapes19": {"short_side": 448, "crop": 224},
    },
}
"""By reference and benchmark; from the references' configurations (docs/methods.md)."""

OPTIONS = tuple(each.name for each in fields(Inference))
"""Names of the settings."""


def inference_of(reference: str, benchmark: Benchmark, **options: Any) -> Inference:
    """A reference's settings for a benchmark.

    Args:
        reference: a key of `DEFAULTS`.
        benchmark: by its key.
        options: in place of the reference's, where not None.

    Raises:
        ValueError: a setting that cannot be, or a threshold without a background.
    """
    own = {name: value for name, value in options.items() if value is not None}
    found = replace(DEFAULTS[reference], **{**CHANGES[reference].get(benchmark.key, {}), **own})
    for name in ("prob_thd", "area_thd"):
        if benchmark.background is None and getattr(found, name) > 0:
            raise ValueError(
                f"Expected `{name}` to be 0 for {benchmark.title}, which has no background for "
                f"what is taken away, but got {getattr(found, name)}."
            )
    return found


def check_overrides(overrides: Mapping[str, Any], patch: int) -> None:
    """Refuse settings that cannot be on any benchmark.

    Args:
        overrides: in place of a reference's.
        patch: CLIP's, in pixels.

    Raises:
        ValueError: the first of them.
    """
    crop = overrides.get("crop", 0)
    if 0 < crop < patch:
        raise ValueError(
            f"Expected `crop` to be 0 (no sliding) or at least the patch size, {patch} pixels, but "
            f"got {crop}."
        )
    # Whether windows leave gaps is known here only where both sizes are given.
    stride = overrides.get("stride", 1)
    checked = {
        **overrides,
        "stride": stride,
        "crop": crop if "stride" in overrides else min(crop, 0),
    }
    Inference(**{**asdict(Inference()), **checked})
