"""What a refinement is, and those there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from ovss.crf import DenseCRF
from ovss.refine.pamr import PAMR


@runtime_checkable
class Refinement(Protocol):
    """Sharpens class logits along the edges of a photo.

    The command line knows a class for one by its methods' signatures: they are to be these, with
    the annotations.
    """

    def probabilities(
        self,
        logits: Sequence[Tensor],
        photos: Sequence[Tensor],
        guides: Sequence[Tensor] | None = None,
    ) -> list[Tensor]:
        """Class probabilities of each photo; the same in a list as one by one.

        Args:
            logits: `(C_i, H_i, W_i)` each, floating point: the softmax over classes is what the
                method believes before refinement.
            photos: `(3, H_i, W_i)` uint8 RGB each.
            guides: `(3, H_i, W_i)` floating point each: what the method's network saw of the
                photos, at their size, for refinements that a method gives more than the photo.

        Returns:
            `(C_i, H_i, W_i)` float32 each, with a sum of 1 over C_i.
        """

    def settings(self) -> dict[str, Any]:
        """Its `kind` and everything that decides a result, for reports and run folders."""


CHOICES: dict[str, Callable[[], Refinement]] = {"crf": DenseCRF, "pamr": PAMR}
"""Refinements by their short names, with default settings."""


def resolve(refine: str | Refinement | None) -> Refinement | None:
    """A refinement from its short name, or itself.

    Raises:
        ValueError: an unknown name.

    Example:
        >>> resolve("pamr")
        PAMR(steps=10, dilations=(8, 16))
    """
    if refine is None or isinstance(refine, Refinement):
        return refine
    if refine not in CHOICES:
        raise ValueError(
            f"Expected `refine` to be one of {list(CHOICES)}, null, or a refinement such as "
            "{class_path: ovss.crf.DenseCRF, init_args: {iterations: 5}}, but got "
            f"{refine!r}."
        )
    return CHOICES[refine]()
