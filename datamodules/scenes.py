"""The demo's drawn scenes, served through the VOC reader."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from datamodules import specs
from datamodules.base import BenchmarkDataModule, Sample
from datamodules.voc import find_voc
from ovss.preprocessing import InputSpec


class Scenes(BenchmarkDataModule):
    """Cartoon scenes in the VOC layout, drawn on first use.

    Args:
        root: where the scenes are, or will be drawn.
        split: `val` (held out) or `dev` (for choosing settings).
        limit: only the first so many photos.
        batch_size: photos in a step.
        num_workers: loader processes; default by the cores at hand.
        spec: the VLM's input; default: asked of the module under test.
    """

    def __init__(
        self,
        root: str | Path = "data/scenes",
        split: Literal["val", "dev"] = "val",
        limit: int | None = None,
        batch_size: int = 16,
        num_workers: int | None = None,
        spec: InputSpec | None = None,
    ) -> None:
        benchmark = specs.scenes()
        labels = np.full(256, -1)
        labels[: len(benchmark.classes)] = np.arange(len(benchmark.classes))
        super().__init__(root, benchmark, labels, limit, batch_size, num_workers, spec)
        self.split = split

    def prepare_data(self) -> None:
        """Draw the scenes, unless they are there."""
        if not (self.root / "VOCdevkit").exists():
            from datamodules.drawing import write_benchmark

            write_benchmark(self.root)

    def find(self) -> list[Sample]:
        """See `BenchmarkDataModule.find`."""
        return find_voc(self.root, self.split, "the demo's scenes", "Run `make demo`.")
