"""What the search may choose from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from typing import Any, NamedTuple

from ovss.vlm.base import VLM


class Setting(NamedTuple):
    """One point of the space.

    Attributes:
        layer: cross-attention layer, counted from 0.
        head: head, counted from 0, or `mean` over heads.
        threshold: the labeller's, in 0..1.
        rounds: rounds of Salience DropOut; 1 is GradCAM alone.
        patches: patches dropped after a round; 0 where there is one round.
    """

    layer: int
    head: int | str
    threshold: float
    rounds: int
    patches: int | float

    def overlay(self) -> dict[str, Any]:
        """The `model` section of a configuration that has this setting."""
        dropout: dict[str, Any] = {"rounds": self.rounds}
        if self.patches:
            dropout["patches"] = self.patches
        return {
            "layer": self.layer,
            "head": self.head,
            "dropout": dropout,
            "labeller": {"threshold": self.threshold},
        }


@dataclass(frozen=True)
class SearchSpace:
    """Values to search over; every combination is a setting.

    Attributes:
        layers: layers counted from 0; null for all whose class tokens carry gradient.
        heads: heads counted from 0 and `mean`; null for all single heads and the mean.
        thresholds: of the labeller, in 0..1.
        rounds: rounds of Salience DropOut. A setting of more than one round costs as many passes
            over the photos; all settings of one round share a single pass.
        patches: patches dropped after a round, for settings of more than one: counts, or
            shares in (0, 1) of the patches that remain.
    """

    layers: list[int] | None = None
    heads: list[int | str] | None = None
    thresholds: list[float] | None = None
    rounds: list[int] | None = None
    patches: list[int | float] | None = None

    def choices(self, vlm: VLM) -> dict[str, list[Any]]:
        """The values of each part of `Setting`, defaults filled in.

        Layers whose gradient is always zero are no choice. By default thresholds are 0.01 to 0.5
        (the released code's is 0.15), rounds 1, 2 and 4 (the paper's), and the patches of a round
        about 2 % of the grid (the released code's 10 of 441), twice that, a quarter of the patches
        that remain, and half of them (the paper's).

        Raises:
            ValueError: a layer, head, threshold or number that cannot be, or an empty list.
        """
        few = max(1, round(vlm.grid**2 * 10 / 441))
        chosen: dict[str, list[Any]] = {
            "layer": list(vlm.layers) if self.layers is None else self.layers,
            "head": [*range(vlm.num_heads), "mean"] if self.heads is None else self.heads,
            "threshold": (
                [0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5]
                if self.thresholds is None
                else self.thresholds
            ),
            "rounds": [1, 2, 4] if self.rounds is None else self.rounds,
            "patches": [few, 2 * few, 0.25, 0.5] if self.patches is None else self.patches,
        }
        names = {field.name.removesuffix("s"): field.name for field in fields(self)}
        for part, values in chosen.items():
            if not values or len(set(values)) != len(values):
                name = names.get(part, part)
                raise ValueError(
                    f"Expected `space.{name}` to be values without repeats, but got {values}."
                )
        for layer, head in product(chosen["layer"], chosen["head"]):
            vlm.check_choice(layer, head)
        for name, good in (
            ("threshold", lambda value: 0 <= value <= 1),
            ("rounds", lambda value: isinstance(value, int) and value >= 1),
            ("patches", lambda value: 0 < value < 1 or (type(value) is int and value >= 1)),
        ):
            for value in chosen[name]:
                if not good(value):
                    raise ValueError(
                        f"Expected `space.{names.get(name, name)}` to hold possible values, but "
                        f"got {value}; see `Labeller.threshold` and `SalienceDropout`."
                    )
        # Settings of one round drop nothing: their patches are 0, and only theirs are.
        single, several = min(chosen["rounds"]) == 1, max(chosen["rounds"]) > 1
        chosen["patches"] = [*([0] if single else []), *(chosen["patches"] if several else [])]
        return chosen


def settings_of(choices: Mapping[str, Sequence[Any]]) -> list[Setting]:
    """All settings of the space, each once, in the order of the choices."""
    every = (Setting(*values) for values in product(*(choices[name] for name in Setting._fields)))
    return [setting for setting in every if (setting.patches == 0) == (setting.rounds == 1)]


def repair(values: Mapping[str, Any], choices: Mapping[str, Sequence[Any]]) -> Setting:
    """The setting meant by values that were chosen one by one, without regard to each other."""
    setting = Setting(**{name: values[name] for name in Setting._fields})
    if setting.rounds == 1:
        return setting._replace(patches=0)
    if setting.patches == 0:
        return setting._replace(patches=next(value for value in choices["patches"] if value))
    return setting
