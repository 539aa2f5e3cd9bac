"""The paper's reward: does the reward model see the class where the prediction has it?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ovss.captions import TEMPLATE
from ovss.tuning.photos import TuningPhotos
from ovss.tuning.settings import RewardSettings
from ovss.vlm.base import VLM
from ovss.vlm.scoring import ClipScorer, ItcScorer, ItmScorer, Scorer

Negative = Literal["black", "complement"]
"""What a masked photo must beat: a black photo (the paper's), or what the mask left out."""


Measure = Literal["margin", "points"]
"""What a pair is worth: the difference of its two probabilities, or a point where it is above 0."""


ROUNDING = 1e-6
"""What probabilities may differ by without a point: equal pixels, computed in another batch."""


def make_scorer(reward: RewardSettings, vlm: VLM, template: str = TEMPLATE) -> Scorer:
    """The reward model, on the VLM's device.

    Args:
        reward: which one; `itc` and `itm` ask the VLM.
        vlm: the model under tuning.
        template: its caption with `{}` for a class name.

    Raises:
        FileNotFoundError: `reward.model` is missing or lacks files.
        ValueError: another scorer, or `reward.model` is no CLIP or SigLIP.
    """
    if reward.scorer == "itc":
        return ItcScorer(vlm, template)
    if reward.scorer == "itm":
        return ItmScorer(vlm, template)
    if reward.scorer != "clip":
        raise ValueError(
            f"Expected `reward.scorer` to be clip, itc or itm, but got {reward.scorer!r}."
        )
    try:
        scorer = ClipScorer.from_pretrained(reward.model, templates=[reward.prompt])
    except (FileNotFoundError, ValueError) as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(
            f"{error}\nGive its folder or hub id with --reward.model, or use the VLM itself with "
            "--reward.scorer itm."
        ) from error
    scorer.model.to(vlm.device)
    return scorer


class Points(NamedTuple):
    """Reward of some photos.

    Attributes:
        won: points, eq. 6.
        pairs: (photo, class) pairs, the most there can be.
        margin: sum over the pairs of the two probabilities' difference, eq. 6 without its step.
    """

    won: int
    pairs: int
    margin: float

    def __add__(self, other: Points) -> Points:  # type: ignore[override]
        """Points of both."""
        return Points(self.won + other.won, self.pairs + other.pairs, self.margin + other.margin)

    def mean(self, measure: Measure) -> float:
        """The reward of a pair: points in 0..1, or margin in -1..1."""
        total = self.won if measure == "points" else self.margin
        return total / self.pairs if self.pairs else 0.0


def probability(logits: Tensor) -> Tensor:
    """Pr of eq. 7: `(..., K)` logits of a photo's classes -> probabilities, in float64."""
    return logits.double().softmax(-1)


def point(masked: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Eq. 6 for the classes of one photo.

    Args:
        masked: `(K, K)` logits; row k is the photo under class k's mask, column j the name j.
        negative: the same of the negatives, `(K, K)`, or `(K,)` where one serves all classes.

    Returns:
        `(K,)` bool: which classes score, by more than `ROUNDING`; and `(K,)`: by how much.
    """
    positive = probability(masked).diagonal()
    against = probability(negative)
    against = against.diagonal() if negative.dim() == 2 else against
    margin = positive - against
    return margin > ROUNDING, margin


class Reward:
    """Eq. 6 and 7 for the tuning photos.

    Args:
        scorer: the reward model.
        photos: the photos, in the scorer's size.
        names: for each photo, a name for each of its classes.
        negative: what a masked photo must beat.
        batch_size: masked photos in a pass of the reward model.
    """

    def __init__(
        self,
        scorer: Scorer,
        photos: TuningPhotos,
        names: Sequence[Sequence[str]],
        negative: Negative = "black",
        batch_size: int = 64,
    ) -> None:
        if negative not in ("black", "complement"):
            raise ValueError(
                f"Expected `reward.negative` to be black or complement, but got {negative!r}."
            )
        self.scorer = scorer
        self.photos = photos
        self.names = [list(own) for own in names]
        self.negative = negative
        self.batch_size = batch_size
        self._black: dict[str, Tensor] = {}
        if negative == "black":
            every = sorted({name for own in self.names for name in own})
            nothing = torch.zeros(1, 3, scorer.size, scorer.size)
            self._black = dict(zip(every, scorer(nothing, [every])[0], strict=True))

    def __call__(self, photos: Sequence[int], masks: Sequence[Tensor]) -> Points:
        """Reward of some photos.

        Args:
            photos: places in `TuningPhotos`.
            masks: `(K_i, R, R)` in 0..1 each, what is kept of the photo for each of its
                classes; R is the scorer's size.
        """
        device = self.scorer.device
        counts = [len(own) for own in masks]
        whole = [self.photos.thumbnails[p].to(device) / 255 for p in photos]
        pixels = torch.cat(
            [own.to(device)[:, None] * photo for own, photo in zip(masks, whole, strict=True)]
        )
        names = [self.names[p] for p in photos for _ in self.names[p]]
        masked = self._ask(pixels, names, counts)
        if self.negative == "complement":
            repeated = [
                photo.expand(count, -1, -1, -1) for photo, count in zip(whole, counts, strict=True)
            ]
            against = self._ask(torch.cat(repeated) - pixels, names, counts)
        else:
            against = [torch.stack([self._black[n] for n in self.names[p]]) for p in photos]
        total = Points(0, 0, 0.0)
        for positive, negative in zip(masked, against, strict=True):
            won, margin = point(positive, negative)
            total += Points(int(won.sum()), len(won), float(margin.sum()))
        return total

    def _ask(
        self, pixels: Tensor, names: Sequence[Sequence[str]], counts: Sequence[int]
    ) -> list[Tensor]:
        """`(K_i, K_i)` logits of each photo."""
        rows = torch.cat(self.scorer(pixels, names, self.batch_size)).split(
            [count**2 for count in counts]
        )
        return [each.view(count, count) for each, count in zip(rows, counts, strict=True)]
