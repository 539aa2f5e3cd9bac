"""What a training-free method is: photos and a benchmark's classes in, label maps out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ovss.batch_size import batch_on_cpu
from ovss.benchmark import Benchmark, PhotoBatch
from ovss.preprocessing import InputSpec
from ovss.proposals import Proposal, Proposer, resolve


class Segmenter(nn.Module, ABC):
    """A frozen method that segments photos into any benchmark's classes.

    A subclass serves `input_spec`, `forward` and `settings`. It knows no Lightning; the shell
    (`ovss.module.SegmentationModule`), run folders, resume and reports work for any.

    Args:
        proposals: which classes to look for in a photo: `oracle`, `all`, or another kind.

    Attributes:
        method: short name for reports, such as `pnp-ovss`.
        model: name of the checkpoint, for reports.
        vlm: the `ovss.vlm.VLM` that proposers of the kinds `itm` and `itc` ask, where there is one.
    """

    method: str
    model: str
    vlm: Any

    def __init__(self, proposals: str | Proposer) -> None:
        super().__init__()
        self.proposer = resolve(proposals)

    @abstractmethod
    def input_spec(self, benchmark: Benchmark) -> InputSpec:
        """How the photos of a benchmark are resized and normalised."""

    @abstractmethod
    def forward(
        self, batch: PhotoBatch, benchmark: Benchmark, proposals: Sequence[Proposal]
    ) -> list[Tensor]:
        """For each photo `(H, W)`: labels of the benchmark, integers.

        Args:
            batch: photos, on the segmenter's device.
            benchmark: the classes.
            proposals: for each photo the classes to look for, from `propose`.
        """

    def settings(self) -> dict[str, Any]:
        """Everything but weights, photos and classes that decides a label map, nested by part.

        It stands in run folders and beside scores: runs with other settings are another run. A
        subclass adds its own to these.
        """
        proposals = {"kind": self.proposer.name, **self.proposer.settings()}
        return {"method": self.method, "proposals": proposals}

    def prepare(self, benchmark: Benchmark) -> None:
        """Compute once what all photos share, on the device of the run; nothing by default."""

    def propose(self, batch: PhotoBatch, benchmark: Benchmark) -> list[Proposal]:
        """The classes to look for in each photo.

        Raises:
            ValueError: a proposer that asks a vision-language model, which this method has not.
        """
        vlm: Any = getattr(self, "vlm", None)
        if self.proposer.needs_vlm and vlm is None:
            raise ValueError(
                f"Expected a method with a vision-language model for `proposals: "
                f"{self.proposer.name}`, but {self.method} has none; use oracle, all, a file or "
                "CLIP."
            )
        return self.proposer(batch, benchmark, vlm)

    def keep_in(self, folder: Path) -> None:
        """Where what serves many runs, and not photos, may be kept; the default keeps nothing."""

    def fitting_batch(self, device: torch.device) -> int:
        """How many photos suit a device at once."""
        return batch_on_cpu(self)

    def stages(self) -> dict[str, nn.Module]:
        """Parts whose time is worth knowing, by name; each a module that is called as one."""
        return {}
