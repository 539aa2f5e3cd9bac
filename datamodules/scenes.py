"""The demo's drawn scenes, served through the VOC reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from ovss.benchmark import Benchmark

from .base import BenchmarkDataModule
from .dataset import Split
from .masks import label_table
from .specs import palette
from .voc import find_voc


def benchmark() -> Benchmark:
    """Background and the classes that are drawn."""
    from .scene_generator import CLASSES

    return Benchmark(
        key="scenes",
        title=f"Scenes (drawn, {len(CLASSES) + 1} classes)",
        protocol="standard",
        classes=("background", *CLASSES),
        prompts=((), *((name,) for name in CLASSES)),
        palette=palette("scenes"),
        background=0,
        background_rule="always",
    )


class Scenes(BenchmarkDataModule):
    """Cartoon scenes in the VOC layout, drawn on first use.

    Args:
        root: where the scenes are, or will be drawn.
        split: `val` (held out) or `dev` (for choosing settings).
        batch_size: photos in a step.
        kwargs: see `BenchmarkDataModule`.
    """

    tuning_split = "dev"
    """What `tune` looks at whatever `split` says, so that `val` stays held out."""

    def __init__(
        self,
        root: str | Path = "data/scenes",
        split: Literal["val", "dev"] = "val",
        batch_size: int = 16,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, benchmark(), batch_size=batch_size, **kwargs)
        self.split = split

    @property
    def remedy(self) -> str:
        """How to get the data, for errors."""
        return "Run `make demo`, which draws them."

    def check(self) -> None:
        """Nothing is missing before the scenes are drawn; else as `BenchmarkDataModule.check`."""
        if (self.root / "VOCdevkit").exists():
            super().check()

    def prepare_data(self) -> None:
        """Draw the scenes, unless they are there."""
        if not (self.root / "VOCdevkit").exists():
            from .scene_generator import write_scenes

            write_scenes(self.root)

    def find(self) -> Split:
        """See `BenchmarkDataModule.find`."""
        return find_voc(self, self.split, label_table(range(self.benchmark.scored)))
