"""What a training-free method is: photos and a benchmark's classes in, label maps out."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from ovss.batch_size import batch_on_cpu
from ovss.benchmark import Benchmark, PhotoBatch
from ovss.preprocessing import InputSpec
from ovss.proposals import Proposal, Proposer, resolve
from ovss.sharing import shared

Self = TypeVar("Self", bound="Segmenter")


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
        variable: the settings that `varied` takes, each with its name in the `model` section of a
            configuration.
    """

    method: str
    model: str
    vlm: Any
    variable: ClassVar[Mapping[str, str]] = {}

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

    def names(self, benchmark: Benchmark) -> tuple[tuple[str, ...], ...]:
        """For each label what it is looked for by; none where it is not, as the background."""
        return benchmark.prompts

    def settings(self) -> dict[str, Any]:
        """Everything but weights, photos and classes that decides a label map, nested by part.

        It stands in run folders and beside scores: runs with other settings are another run. A
        subclass adds its own to these.
        """
        proposals = {"kind": self.proposer.name, **self.proposer.settings()}
        return {"method": self.method, "proposals": proposals}

    def varied(self: Self, **settings: Any) -> Self:
        """The same method with other settings and the same models, which are not copied.

        What both make of a photo alike is computed once within `ovss.sharing.sharing`.

        Args:
            settings: some of `variable`. A subclass that has any gives them to the copy.

        Raises:
            ValueError: one that the method does not have, or a value that cannot be.
        """
        unknown = [name for name in settings if name not in self.variable]
        if unknown:
            raise ValueError(
                f"Expected settings of {self.method} that can be varied "
                f"({', '.join(self.variable) or 'it has none'}), but got {', '.join(unknown)}."
            )
        other = copy.copy(self)
        other._modules = dict(self._modules)  # its own table of the same parts
        return other

    @property
    def passes(self) -> int:
        """How often a photo goes through the model: of settings that share, the most go first."""
        return 1

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
        return shared().once(
            lambda: self.proposer(batch, benchmark, vlm),
            "proposals", id(self.proposer), vlm, benchmark, *batch.ids, cost=len(batch.ids),
        )  # fmt: skip

    def keep_in(self, folder: Path) -> None:
        """Where what serves many runs, and not photos, may be kept; the default keeps nothing."""

    def fitting_batch(self, device: torch.device) -> int:
        """How many photos suit a device at once."""
        return batch_on_cpu(self)

    def stages(self) -> dict[str, nn.Module]:
        """Parts whose time is worth knowing, by name; each a module that is called as one."""
        return {}
