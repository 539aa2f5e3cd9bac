"""Salience DropOut (section 3.3): GradCAM in rounds, the most salient patches blanked between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ovss.captions import Caption
from ovss.maps import min_max
from ovss.sharing import shared
from ovss.vlm.base import VLM, Tokens

Variant = Literal["paper", "released"]
"""`paper`: the method as published. `released`: the released code's numerics."""

PATCHES: dict[Variant, int | float] = {"paper": 0.5, "released": 10}
"""Dropped after a round by default. The paper halves what remains (docs/method.md, section 6, has
the sources); the released code's constant is `save_len = 10`, of 441 patches."""


class Rounds(NamedTuple):
    """What each round of Salience DropOut saw.

    Attributes:
        maps: for each photo `(rounds, K_i, g, g)`, the class maps of each round, zero at the
            patches that were dropped before it.
        dropped: `(rounds, B, g, g)` bool, the patches missing from each round's input.
        match_logit: for each photo `(rounds, captions of the photo)`.
    """

    maps: list[Tensor]
    dropped: Tensor
    match_logit: list[Tensor]


@dataclass(frozen=True)
class SalienceDropout:
    """GradCAM in several rounds, the most salient patches blanked between them.

    Attributes:
        rounds: how many GradCAM passes; 1 is GradCAM alone.
        patches: patches dropped after a round: a count, or a share in (0, 1) of the patches that
            remain, rounded down but at least one; default: the variant's in `PATCHES`.
        variant: `released` counts round 0 twice and sums, rather than averages, the word pieces of
            a caption's last class.
        relevance: `attention` leaves out the gradient weight (an ablation).
    """

    rounds: int = 4
    patches: int | float | None = None
    variant: Variant = "paper"
    relevance: Literal["gradcam", "attention"] = "gradcam"

    def __post_init__(self) -> None:
        if type(self.rounds) is not int or self.rounds < 1:
            raise ValueError(f"Expected `rounds` to be at least 1, but got {self.rounds}.")
        patches = self.patches
        if isinstance(patches, float) and patches.is_integer():
            # From YAML and JSON a count may come as 6.0: one count has one form.
            patches = int(patches)
            object.__setattr__(self, "patches", patches)
        counted = type(patches) is int and patches >= 1
        if not (patches is None or counted or (isinstance(patches, float) and 0 < patches < 1)):
            raise ValueError(
                "Expected `patches` to be a positive whole count or a share in (0, 1) of the "
                f"patches that remain, but got {patches}."
            )
        if self.variant not in ("paper", "released"):
            raise ValueError(
                f"Expected `variant` to be 'paper' or 'released', but got {self.variant!r}."
            )
        if self.relevance not in ("gradcam", "attention"):
            raise ValueError(
                f"Expected `relevance` to be 'gradcam' or 'attention', but got {self.relevance!r}."
            )

    def combine(self, maps: Tensor) -> Tensor:
        """Sum `(rounds, K, g, g)` over the rounds; `released` counts the first of several twice."""
        total = maps.sum(0)
        return total + maps[0] if self.variant == "released" and len(maps) > 1 else total

    def settings(self) -> dict[str, Any]:
        """What decides the maps; the variant is the method's."""
        patches = PATCHES[self.variant] if self.patches is None else self.patches
        return {"rounds": self.rounds, "patches": patches, "relevance": self.relevance}

    def gradcam_rounds(
        self,
        vlm: VLM,
        pixel_values: Tensor,
        captions: Sequence[Caption | Sequence[Caption]],
        layer: int,
        head: int | str,
        rescale: bool = False,
    ) -> Rounds:
        """The rounds one by one.

        Args:
            vlm: the frozen model.
            pixel_values: `(B, 3, S, S)`, normalised.
            captions: for each photo its caption or captions; a photo without any gives no map.
            layer: cross-attention layer, counted from 0.
            head: head, counted from 0, or `"mean"`.
            rescale: of several rounds min-max scale each one's class maps when every class is one
                token, as the released code's drawing function does to its COCO maps.
        """
        vlm.check_choice(layer, head)
        per_photo = [[c] if isinstance(c, Caption) else list(c) for c in captions]
        if len(per_photo) != pixel_values.shape[0]:
            raise ValueError(
                f"Expected captions for {pixel_values.shape[0]} photos, but got {len(per_photo)}."
            )
        count, grid, device = len(per_photo), vlm.grid, pixel_values.device
        owner = [photo for photo, own in enumerate(per_photo) for _ in own]
        dropped = torch.zeros(count, grid * grid, dtype=torch.bool, device=device)
        if not owner:
            empty = [torch.zeros(self.rounds, 0, grid, grid, device=device) for _ in per_photo]
            nothing = torch.zeros(self.rounds, count, grid, grid, dtype=torch.bool, device=device)
            return Rounds(empty, nothing, [torch.zeros(self.rounds, 0, device=device)] * count)
        tokens = vlm.tokenize([caption for own in per_photo for caption in own])
        pooling = self.pooling(tokens)
        members = (pooling > 0).any(1, keepdim=True).to(pooling.dtype)
        rows = torch.tensor(owner, device=device)
        rows_in_order = owner == list(range(count))
        history, pooled, logits = [], [], []
        for number in range(self.rounds):
            blanked = _blank(pixel_values, dropped.unflatten(1, (grid, grid)))
            encode = partial(vlm.encode_image, blanked)
            if number == 0:  # the same for every layer, head and number of rounds
                features = shared().once(encode, "image", vlm, pixel_values, cost=count)
            else:
                features = encode()
            seen = vlm.attend(
                features if rows_in_order else features[rows],
                tokens,
                layer,
                head,
                self.relevance == "gradcam",
            )
            # Under autocast the pooled maps and the salience would be rounded.
            with torch.autocast(device.type, enabled=False):
                maps = seen.maps.flatten(2) * ~dropped[rows, None]
                history.append(dropped.view(count, grid, grid))
                pooled.append((pooling @ maps).unflatten(-1, (grid, grid)))
                logits.append(seen.match_logit)
                if number + 1 < self.rounds:
                    salience = torch.zeros(count, grid * grid, dtype=maps.dtype, device=device)
                    salience.index_add_(0, rows, (members @ maps)[:, 0])
                    dropped = dropped | most_salient(salience, self._count(~dropped))
        by_round, by_logit = torch.stack(pooled, 1), torch.stack(logits, 1)
        maps_of_photo, logits_of_photo = [], []
        for photo in range(count):
            own = [row for row, other in enumerate(owner) if other == photo]
            groups = [tokens.groups[row] for row in own]
            parts = [by_round[row, :, : len(g)] for row, g in zip(own, groups, strict=True)]
            class_maps = torch.cat([by_round.new_zeros(self.rounds, 0, grid, grid), *parts], 1)
            if (
                rescale
                and self.variant == "released"
                and self.rounds > 1
                and all(len(group) == 1 for g in groups for group in g)
            ):
                class_maps = min_max(class_maps)
            maps_of_photo.append(class_maps)
            logits_of_photo.append(by_logit[own].T)
        return Rounds(maps_of_photo, torch.stack(history), logits_of_photo)

    def _count(self, remaining: Tensor) -> Tensor:
        """`(B,)`: patches to drop after a round, of those that remain `(B, P)`; at least one."""
        patches, count = self.settings()["patches"], remaining.sum(1)
        if patches >= 1:
            return torch.full_like(count, int(patches))
        # In whole numbers: 0.29 of 100 is 29, whatever the product's last bit.
        share = Fraction(str(patches)).limit_denominator(10**9)
        return (count * share.numerator // share.denominator).clamp(min=1)

    def pooling(self, tokens: Tokens) -> Tensor:
        """`(B, K, T)` weights that average the tokens of each class; unused rows are zero."""
        width = max(len(groups) for groups in tokens.groups)
        weights = torch.zeros(len(tokens.groups), width, tokens.input_ids.shape[1] - 1)
        for row, groups in enumerate(tokens.groups):
            for k, group in enumerate(groups):
                summed = self.variant == "released" and k == len(groups) - 1
                weights[row, k, list(group)] = 1.0 if summed else 1.0 / len(group)
        return weights.to(tokens.input_ids.device)


def most_salient(salience: Tensor, count: Tensor) -> Tensor:
    """The largest positive entries of each row; ties go to the lower index.

    Args:
        salience: `(B, P)`, non-negative; zeros are never chosen.
        count: `(B,)`, at most how many entries to choose.

    Returns:
        `(B, P)` bool.
    """
    order = salience.argsort(dim=1, descending=True, stable=True)
    among_first = torch.arange(salience.shape[1], device=salience.device) < count[:, None]
    return torch.zeros_like(among_first).scatter_(1, order, among_first) & (salience > 0)


def _blank(pixel_values: Tensor, dropped: Tensor) -> Tensor:
    """Zero the normalised pixels of dropped patches `(B, g, g)`."""
    side = pixel_values.shape[-1] // dropped.shape[-1]
    visible = ~dropped.repeat_interleave(side, 1).repeat_interleave(side, 2)
    return pixel_values * visible[:, None]
