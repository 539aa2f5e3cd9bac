"""The method for some photos: names -> captions -> class maps -> label maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ovss.captions import TEMPLATE, Caption
from ovss.salience import Rounds, SalienceDropout
from ovss.vlm.base import VLM

ClassNames = Sequence[tuple[str, ...]]
"""The classes to look for in a photo: for each its name and synonyms."""


def look(
    vlm: VLM,
    pixel_values: Tensor,
    classes: Sequence[ClassNames],
    layer: int,
    head: int | str,
    dropout: SalienceDropout,
    rescale: bool = False,
    template: str = TEMPLATE,
) -> Rounds:
    """The class maps of each round of Salience DropOut.

    A class with synonyms has all of them in the caption, and the elementwise maximum of their maps.
    A name that several classes share stands there once, and its map counts for each of them.

    Args:
        vlm: the frozen model.
        pixel_values: `(B, 3, S, S)`, normalised.
        classes: for each photo the classes to look for; none at all is allowed.
        layer: cross-attention layer, counted from 0.
        head: head, counted from 0, or `"mean"`.
        dropout: rounds and patches.
        rescale: the released code's scaling of COCO maps.
        template: caption with `{}` for the names.

    Returns:
        `Rounds` whose maps have a row for each class (not for each synonym).
    """
    captions: list[list[Caption]] = [
        vlm.captions(unique_names(own), template) if own else [] for own in classes
    ]
    rounds = dropout.look(vlm, pixel_values, captions, layer, head, rescale)
    return rounds._replace(
        maps=[merge_synonyms(maps, own) for maps, own in zip(rounds.maps, classes, strict=True)]
    )


def unique_names(classes: ClassNames) -> list[str]:
    """The names of a photo's classes, each once.

    Example:
        >>> unique_names([("screen",), ("car", "auto"), ("screen",)])
        ['screen', 'car', 'auto']
    """
    return list(dict.fromkeys(name for names in classes for name in names))


def merge_synonyms(maps: Tensor, classes: ClassNames) -> Tensor:
    """`(rounds, names, g, g)` -> `(rounds, classes, g, g)`: the maximum over a class's names."""
    rows = {name: row for row, name in enumerate(unique_names(classes))}
    if all(len(names) == 1 for names in classes) and len(rows) == len(classes):
        return maps
    parts = [maps[:, [rows[name] for name in names]].amax(1) for names in classes]
    return torch.stack(parts, 1)


def best_match(vlm: VLM, pixel_values: Tensor, names: Sequence[str], template: str) -> int:
    """Index of the name that the matching head likes best for one photo `(1, 3, S, S)`."""
    features = vlm.encode_image(pixel_values)
    logits = [vlm.match(features, vlm.captions([name], template))[0, 1] for name in names]
    return int(torch.stack(logits).argmax())
