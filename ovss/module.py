"""The LightningModule: PnP-OVSS for `trainer.test` and `trainer.predict`."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from ovss.batch_size import fitting_batch
from ovss.benchmark import Benchmark, PhotoBatch, Unreadable
from ovss.captions import TEMPLATE
from ovss.distributed.gather import gather_texts
from ovss.labelling import Labeller
from ovss.method import best_match, look
from ovss.metrics import SegmentationScores
from ovss.preprocessing import InputSpec
from ovss.proposals import Proposal, ProposalScores, Proposer, resolve
from ovss.salience import SalienceDropout, Variant
from ovss.utils.timing import StageTimes
from ovss.vlm import VLM

log = logging.getLogger(__name__)


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
        on_error: what unreadable photos do: `stop` ends the run with an error that lists them,
            once all others are done; `skip` leaves them out, and the scores say so.

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
        on_error: Literal["stop", "skip"] = "stop",
    ) -> None:
        super().__init__()
        if on_error not in ("stop", "skip"):
            raise ValueError(f"Expected `on_error` to be 'stop' or 'skip', but got {on_error!r}.")
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
        """Scores of the last finished run; see `SegmentationScores.compute`. Beside them the
        proposals' `proposals_precision` and `proposals_recall`."""
        self.unreadable: list[Unreadable] = []
        """Photos that the run under way could not read; of all processes once it is finished."""
        self.on_error = on_error
        self.proposal_scores = ProposalScores()
        self._said_out_of_memory = False
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

    def take_benchmark(self, datamodule: Any) -> None:
        """Use the data module's benchmark, unless one was given."""
        if self._benchmark is None:
            self._benchmark = getattr(datamodule, "benchmark", None)

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

    def fitting_batch(self) -> int:
        """Photos in a step that suit the Trainer's device; the same for all processes."""
        device = self.trainer.strategy.root_device
        batch = fitting_batch(self.vlm, device, self.layer, self.head)
        least = self.trainer.strategy.reduce(torch.tensor(batch, device=device), reduce_op="min")
        return int(least)

    def describe(self) -> dict[str, Any]:
        """The settings that a score is only comparable with."""
        benchmark = self.benchmark
        own = benchmark.prompts_file
        return {
            "benchmark": benchmark.key,
            "protocol": benchmark.protocol,
            **({} if own is None else {"prompts": own}),
            "variant": self.variant,
            "vlm": self.vlm.name,
            "image_size": self.vlm.image_size,
            "layer": self.layer,
            "head": self.head,
            "proposals": self.proposer.name,
            "rounds": self.dropout.rounds,
            "patches": self.dropout.patches,
            "relevance": self.dropout.relevance,
            "stop_below": self.dropout.stop_below,
            "drop": self.dropout.drop,
            "threshold": self.labeller.threshold,
            "blur": self.labeller.blur,
            "crf": self.labeller.crf is not None,
        }

    # ---- the method ----------------------------------------------------------------------------

    def forward(self, batch: PhotoBatch) -> list[Prediction]:
        """Label photos; in halves where the GPU's memory does not hold them together.

        Raises:
            torch.OutOfMemoryError: a single photo is too much.
        """
        try:
            return self._label_photos(batch)
        except torch.OutOfMemoryError:
            if len(batch.ids) == 1:
                raise
        # Here and not in the `except` block, where the traceback still holds the activations.
        if not self._said_out_of_memory:
            self._said_out_of_memory = True
            log.warning(
                "Out of GPU memory with %d photos at once: going on with halves. A smaller "
                "`data.init_args.batch_size` is faster.",
                len(batch.ids),
            )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        half = len(batch.ids) // 2
        return [*self(batch.take(slice(half))), *self(batch.take(slice(half, None)))]

    def _label_photos(self, batch: PhotoBatch) -> list[Prediction]:
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
        several = [photo for photo, proposal in enumerate(proposals) if proposal.labels]
        found = iter(
            self.label_maps(
                [batch.photos[photo] for photo in several],
                [maps[photo] for photo in several],
                [proposals[photo].labels for photo in several],
                self.labeller,
            )
        )
        labels = []
        for photo, proposal in enumerate(proposals):
            if proposal.labels:
                labels.append(next(found))
            else:
                size = batch.photos[photo].shape[-2:]
                label = self._label_without_proposal(batch.pixel_values[photo : photo + 1])
                labels.append(torch.full(size, label, device=self.device))
        return labels

    def label_maps(
        self,
        photos: Sequence[Tensor],
        maps: Sequence[Tensor],
        labels: Sequence[Sequence[int]],
        labeller: Labeller,
    ) -> list[Tensor]:
        """For each photo `(H, W)`: benchmark labels from the maps of one class or more.

        Args:
            photos: `(3, H_i, W_i)` uint8 each.
            maps: `(K_i, g, g)` each.
            labels: the benchmark's labels of each photo's K_i classes.
            labeller: makes the label maps.
        """
        benchmark = self.benchmark
        local = labeller.batch(
            maps,
            photos,
            [benchmark.has_background(len(own)) for own in labels],
            rescale=benchmark.rescale and self.variant == "released",
        )
        background = benchmark.background if benchmark.background is not None else 0
        return [
            torch.tensor([background, *own], device=indices.device)[indices]
            for own, indices in zip(labels, local, strict=True)
        ]

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
        self.take_benchmark(getattr(self.trainer, "datamodule", None))
        benchmark = self.benchmark
        self._scores = SegmentationScores(
            len(benchmark.classes), benchmark.ignore_index, benchmark.protocol
        )

    def test_step(self, batch: PhotoBatch, batch_idx: int) -> list[Prediction]:  # type: ignore[override]
        """Label and score a batch."""
        if batch.ids and batch.masks is None:
            raise ValueError(
                "Expected photos with ground truth to test on, but these have none; use `predict`."
            )
        return self.predict_step(batch, batch_idx)

    def predict_step(self, batch: PhotoBatch, batch_idx: int = 0) -> list[Prediction]:
        """Label a batch; where there is ground truth, score it too."""
        self.unreadable += batch.unreadable
        if not batch.ids:
            return []
        predictions = self(batch)
        if batch.masks is not None and batch.present is not None and self._scores is not None:
            self.score(predictions, batch.masks, batch.present)
        return predictions

    def score(
        self,
        predictions: Sequence[Prediction],
        masks: Sequence[Tensor],
        present: Sequence[tuple[int, ...]],
    ) -> None:
        """Add photos to the run's scores.

        Args:
            predictions: what was found.
            masks: ground truth `(H_i, W_i)` each.
            present: image-level labels of each photo.
        """
        with self.times.measure("score", self.device):
            self.scores.update(
                [prediction.labels for prediction in predictions], [mask.cpu() for mask in masks]
            )
            self.proposal_scores.update(
                [prediction.proposal for prediction in predictions],
                present,
                self.benchmark.searchable,
            )

    def on_test_start(self) -> None:
        """Forget earlier runs."""
        self._start()

    def on_predict_start(self) -> None:
        """Forget earlier runs."""
        self._start()

    def on_test_epoch_end(self) -> None:
        """Sum over processes and log the scalars."""
        self._finish()
        if self.results is not None:
            scalars = ("mIoU", "pixel_accuracy", "mean_accuracy", "fw_IoU")
            values = {name: self.results[name].float() for name in scalars}
            # All processes have the same values: the maximum leaves their bits alone.
            self.log_dict(values, sync_dist=True, reduce_fx="max")

    def on_predict_epoch_end(self) -> None:
        """Sum over processes."""
        self._finish()

    def _start(self) -> None:
        self.results = None
        self.unreadable = []
        self._said_out_of_memory = False
        self.times.reset()
        self.scores.reset()
        self.proposal_scores.reset()

    def _finish(self) -> None:
        """Sum over processes.

        Raises:
            ValueError: some photos could not be read, and the run is to stop on that.
        """
        texts = gather_texts([json.dumps(each) for each in self.unreadable], self.device)
        self.unreadable = sorted(Unreadable(*json.loads(text)) for text in texts)
        results = self.scores.compute()
        proposals = self.proposal_scores.compute()
        if self.unreadable and self.on_error == "stop":
            lines = "\n".join(f"    {each.id}: {each.reason}" for each in self.unreadable)
            raise ValueError(
                f"Expected readable photos, but {len(self.unreadable)} could not be read:\n{lines}"
                "\nAll others are done. Mend these files and start the same command again, or "
                "leave them out with `--model.on_error skip`."
            )
        if int(results["photos"]):
            shares = {f"proposals_{name}": proposals[name] for name in ("precision", "recall")}
            self.results = {**results, **shares}
