"""What `tune` can be told, beside the space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ovss.tuning.scorers import CLIP_MODEL


@dataclass(frozen=True)
class RewardSettings:
    """The reward model and what a masked photo must beat.

    Attributes:
        scorer: `itm`, the VLM's own matching head; `itc`, its contrastive projections; or `clip`,
            another model (the paper's choice).
        model: hub id or folder of the CLIP or SigLIP that `clip` uses.
        prompt: what `clip` reads for a class; `{}` stands for its name.
        negative: `black`, a black photo (the paper's), or `complement`, what the mask left out.
        batch_size: masked photos in a pass of the reward model.
    """

    scorer: Literal["itm", "itc", "clip"] = "itm"
    model: str = CLIP_MODEL
    prompt: str = "{}"
    negative: Literal["black", "complement"] = "black"
    batch_size: int = 64


@dataclass(frozen=True)
class StudySettings:
    """How to search.

    Attributes:
        trials: settings to try, earlier runs and other processes of the study included.
        photos: at most so many photos, chosen at random among those with two classes or more.
        sampler: `random` (the paper's), `tpe` or `grid`; none repeats a setting.
        seed: of the choice of photos and settings.
        name: of the study in its storage.
        storage: an Optuna URL, or the path of a journal file for a cluster's shared file system;
            null for SQLite in the run's folder.
        keep: stop a trial that falls out of the best share `keep` of the trials; 1 stops none.
        warmup: trials before the first may be stopped.
        parts: the photos are looked at in so many parts; a trial can be stopped after each.
        memory_gb: maps above this go to a file that is mapped into memory.
    """

    trials: int = 100
    photos: int = 128
    sampler: Literal["random", "tpe", "grid"] = "random"
    seed: int = 0
    name: str = "tune"
    storage: str | None = None
    keep: float = 0.25
    warmup: int = 5
    parts: int = 16
    memory_gb: float = 2.0

    def __post_init__(self) -> None:
        for name in ("trials", "photos", "parts", "warmup"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"Expected `study.{name}` to be at least 1, but got {getattr(self, name)}."
                )
