"""What `tune` can be told, beside the space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CLIP_MODEL = "openai/clip-vit-large-patch14-336"
"""The paper's reward model."""


@dataclass(frozen=True)
class RewardSettings:
    """The reward model and what a masked photo must beat.

    Attributes:
        scorer: `itm`, the VLM's own matching head; `itc`, its contrastive projections; or `clip`,
            another model (the paper's choice).
        model: hub id or folder of the CLIP or SigLIP that `clip` uses.
        prompt: what `clip` reads for a class; `{}` stands for its name.
        mask: `labels`, the pixels that the whole pipeline labels with the class, or `map`, the
            class's map as the labeller gets it.
        negative: `black`, a black photo (the paper's), or `complement`, what the mask left out.
        measure: `margin`, how much likelier the class is in the masked photo than in the negative,
            or `points`, one where it is likelier at all (the paper's).
        batch_size: masked photos in a pass of the reward model.
    """

    scorer: Literal["itm", "itc", "clip"] = "itm"
    model: str = CLIP_MODEL
    prompt: str = "{}"
    mask: Literal["labels", "map"] = "labels"
    negative: Literal["black", "complement"] = "black"
    measure: Literal["margin", "points"] = "margin"
    batch_size: int = 64

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(
                f"Expected `reward.batch_size` to be at least 1, but got {self.batch_size}."
            )
        if "{}" not in self.prompt:
            raise ValueError(
                f"Expected `reward.prompt` to have {{}} for the class name, but got "
                f"{self.prompt!r}."
            )


@dataclass(frozen=True)
class StudySettings:
    """How to search.

    Attributes:
        trials: settings to try, earlier runs and other processes of the study included.
        photos: at most so many photos, chosen at random among those with two classes or more.
        sampler: `random` (the paper's), `tpe` or `grid`; none repeats a setting.
        seed: of the choice of photos and settings.
        name: of the study in its storage, and of the folder in the run's that gets its results.
        storage: an Optuna URL, or the path of a journal file for a cluster's shared file system;
            null for SQLite in the run's folder.
        parts: the photos are looked at in so many parts.
        reduction: after 1, r, r^2, ... parts the best 1 in r trials go on (successive halving); 1
            stops none.
        memory_gb: maps above this go to a file that is mapped into memory.
    """

    trials: int = 300
    photos: int = 128
    sampler: Literal["random", "tpe", "grid"] = "random"
    seed: int = 0
    name: str = "tune"
    storage: str | None = None
    parts: int = 32
    reduction: int = 4
    memory_gb: float = 2.0

    def __post_init__(self) -> None:
        for name in ("trials", "photos", "parts", "reduction"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"Expected `study.{name}` to be at least 1, but got {getattr(self, name)}."
                )
        if self.memory_gb <= 0:
            raise ValueError(f"Expected `study.memory_gb` to be above 0, but got {self.memory_gb}.")
        if not self.name or self.name in (".", "..") or {"/", "\\"} & set(self.name):
            raise ValueError(
                f"Expected `study.name` to be a name that a folder can have, but got {self.name!r}."
            )
