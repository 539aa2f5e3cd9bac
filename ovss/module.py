"""The LightningModule: PnP-OVSS for `trainer.test` and `trainer.predict`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from ovss.benchmark import Benchmark, PhotoBatch
from ovss.captions import TEMPLATE
from ovss.labelling import Labeller
from ovss.method import best_match, look
from ovss.metrics import SegmentationScores
from ovss.preprocessing import InputSpec
from ovss.proposals import Proposal, Proposer, resolve
from ovss.salience import SalienceDropout, Variant
from ovss.timing import StageTimes
from ovss.vlm import VLM


class Prediction(NamedTuple):
    """What became of one photo.

    Attributes:
        id: the photo's name.
        labels: `(H, W)` uint8, labels of the benchmark, on the CPU.
        proposal: the classes that were looked for.
    """

    id: str
    labels: Tensor
    proposal: Proposal


class PnPOVSS(LightningModule):
    """Training-free open-vocabulary segmentation with a frozen vision-language model.

    Args:
        vlm: the frozen model.
        layer: cross-attention layer, counted from 0.
        head: head of that layer, counted from 0, or `mean` over heads.
        dropout: Salience DropOut's settings.
        labeller: from class maps to label maps.
        proposals: which classes to look for in a photo: `oracle`, `all`, or another kind.
        variant: `paper`, or `released` for the released code's numerics.
        template: caption with `{}` for the class names.
        benchmark: classes and scoring; default: the data module's.

    Example:
        >>> from lightning.pytorch import Trainer  # doctest: +SKIP
        >>> model = PnPOVSS(BlipITM.from_pretrained("Salesforce/blip-itm-large-flickr", 336))
        ... # doctest: +SKIP
        >>> Trainer().test(model, datamodule=VOC("data"))  # doctest: +SKIP
    """

    def __init__(
        self,
        vlm: VLM,
        layer: int = 7,
        head: int | str = 9,
        dropout: SalienceDropout = SalienceDropout(),
        labeller: Labeller = Labeller(),
        proposals: str | Proposer = "oracle",
        variant: Variant = "paper",
        template: str = TEMPLATE,
        benchmark: Benchmark | None = None,
    ) -> None:
        super().__init__()
        vlm.check_choice(layer, head)
        self.vlm = vlm.requires_grad_(False)
        self.layer = layer
        self.head = head
        self.dropout = replace(dropout, variant=variant)
        self.labeller = labeller
        self.proposer = resolve(proposals)
        self.variant = variant
        self.template = template
        self.times = StageTimes()
        self.results: dict[str, Any] | None = None
        """Scores of the last finished run; see `SegmentationScores.compute`."""
        self._benchmark = benchmark
        self._scores: SegmentationScores | None = None

    # ---- what the data module and callbacks ask ------------------------------------------------

    @property
    def benchmark(self) -> Benchmark:
        """Classes and scoring, given or taken from the data module."""
        if self._benchmark is None:
            raise RuntimeError(
                "Expected a benchmark, but none is known yet: give `PnPOVSS(benchmark=...)` (see "
                "ovss.benchmark.of_classes) or run with a data module that has one."
            )
        return self._benchmark

    @benchmark.setter
    def benchmark(self, benchmark: Benchmark) -> None:
        self._benchmark = benchmark

    @property
    def scores(self) -> SegmentationScores:
        """The confusion matrix of the run under way."""
        if self._scores is None:
            raise RuntimeError("Expected `setup()` to have run before `scores` is used.")
        return self._scores

    def input_spec(self, benchmark: Benchmark) -> InputSpec:
        """How the photos of a benchmark are resized and normalised."""
        if self.variant == "released" and not benchmark.normalise:
            return InputSpec(self.vlm.image_size, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear")
        statistics = self.vlm.statistics
        return InputSpec(self.vlm.image_size, statistics.mean, statistics.std)

    def describe(self) -> dict[str, Any]:
        """The settings that a score is only comparable with."""
        benchmark = self.benchmark
        return {
            "benchmark": benchmark.key,
            "protocol": benchmark.protocol,
            "variant": self.variant,
            "vlm": self.vlm.name,
            "image_size": self.vlm.image_size,
            "layer": self.layer,
            "head": self.head,
            "proposals": self.proposer.name,
        }

    # ---- the method ----------------------------------------------------------------------------

    def forward(self, batch: PhotoBatch) -> list[Prediction]:
        """Label photos."""
        benchmark = self.benchmark
        with self.times.measure("propose", self.device):
            proposals = self.proposer(batch, benchmark, self.vlm)
        with self.times.measure("attend", self.device):
            maps = self.class_maps(batch.pixel_values, proposals)
        with self.times.measure("label", self.device):
            labels = self.label(batch, maps, proposals)
        return [
            Prediction(photo_id, map_of_photo.to("cpu", torch.uint8), proposal)
            for photo_id, map_of_photo, proposal in zip(batch.ids, labels, proposals, strict=True)
        ]

    def class_maps(self, pixel_values: Tensor, proposals: list[Proposal]) -> list[Tensor]:
        """For each photo `(K_i, g, g)`: the summed maps of its proposed classes."""
        names = [[self.names_of(label) for label in proposal.labels] for proposal in proposals]
        rounds = look(
            self.vlm,
            pixel_values,
            names,
            self.layer,
            self.head,
            self.dropout,
            rescale=self.benchmark.rescale,
            template=self.template,
        )
        return [self.dropout.combine(maps) for maps in rounds.maps]

    def label(
        self, batch: PhotoBatch, maps: list[Tensor], proposals: list[Proposal]
    ) -> list[Tensor]:
        """For each photo `(H, W)`: benchmark labels from its class maps.

        A photo without proposed classes is all background or, where the benchmark has none, all of
        the class that the matching head likes best.
        """
        benchmark = self.benchmark
        labels: list[Tensor | None] = [None] * len(proposals)
        several = [photo for photo, proposal in enumerate(proposals) if proposal.labels]
        backgrounds = [benchmark.has_background(len(proposals[p].labels)) for p in several]
        local = self.labeller.batch(
            [maps[photo] for photo in several],
            [batch.photos[photo] for photo in several],
            backgrounds,
            rescale=benchmark.rescale and self.variant == "released",
        )
        for photo, indices in zip(several, local, strict=True):
            background = benchmark.background if benchmark.background is not None else 0
            table = torch.tensor([background, *proposals[photo].labels], device=indices.device)
            labels[photo] = table[indices]
        for photo, proposal in enumerate(proposals):
            if not proposal.labels:
                size = batch.photos[photo].shape[-2:]
                label = self._label_without_proposal(batch.pixel_values[photo : photo + 1])
                labels[photo] = torch.full(size, label, device=self.device)
        return [each for each in labels if each is not None]

    def names_of(self, label: int) -> tuple[str, ...]:
        """What a class is called in captions: its name and synonyms."""
        if self.variant == "released":
            released = self.benchmark.released_prompts
            # The released code takes one word as one class, so it removes the blanks in names.
            return (
                released[label]
                if released
                else tuple("".join(name.split()) for name in self.benchmark.prompts[label][:1])
            )
        return self.benchmark.prompts[label]

    def _label_without_proposal(self, pixel_values: Tensor) -> int:
        benchmark = self.benchmark
        if benchmark.background is not None:
            return benchmark.background
        names = [self.names_of(label)[0] for label in benchmark.searchable]
        return benchmark.searchable[best_match(self.vlm, pixel_values, names, self.template)]

    # ---- Lightning -----------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Take over the data module's benchmark and make a fresh confusion matrix."""
        datamodule = getattr(self.trainer, "datamodule", None)
        if self._benchmark is None:
            self._benchmark = getattr(datamodule, "benchmark", None)
        benchmark = self.benchmark
        self._scores = SegmentationScores(
            len(benchmark.classes), benchmark.ignore_index, benchmark.protocol
        )

    def test_step(self, batch: PhotoBatch, batch_idx: int) -> list[Prediction]:
        """Label and score a batch."""
        if batch.masks is None:
            raise ValueError(
                "Expected photos with ground truth to test on, but these have none; use `predict`."
            )
        return self.predict_step(batch, batch_idx)

    def predict_step(self, batch: PhotoBatch, batch_idx: int = 0) -> list[Prediction]:
        """Label a batch; where there is ground truth, score it too."""
        predictions = self(batch)
        if batch.masks is not None and self._scores is not None:
            with self.times.measure("score", self.device):
                self._scores.update(
                    [prediction.labels for prediction in predictions],
                    [mask.cpu() for mask in batch.masks],
                )
        return predictions

    def on_test_epoch_start(self) -> None:
        """Forget earlier runs."""
        self._start()

    def on_predict_epoch_start(self) -> None:
        """Forget earlier runs."""
        self._start()

    def on_test_epoch_end(self) -> None:
        """Sum over processes and log the scalars."""
        self._finish()
        if self.results is not None:
            scalars = ("mIoU", "pixel_accuracy", "mean_accuracy", "fw_IoU")
            self.log_dict({name: self.results[name].float() for name in scalars})

    def on_predict_epoch_end(self) -> None:
        """Sum over processes."""
        self._finish()

    def _start(self) -> None:
        self.results = None
        self.times.reset()
        self.scores.reset()

    def _finish(self) -> None:
        results = self.scores.compute()
        self.results = results if int(results["photos"]) else None
