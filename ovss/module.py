"""The Lightning shell: any training-free method for `trainer.test` and `trainer.predict`."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from ovss.benchmark import Benchmark, PhotoBatch, Unreadable
from ovss.captions import TEMPLATE
from ovss.distributed.gather import gather_texts
from ovss.labelling import Labeller
from ovss.metrics import SegmentationScores
from ovss.pnp import PnP
from ovss.preprocessing import InputSpec
from ovss.proposals import Proposal, Proposer
from ovss.proposals.metrics import ProposalScores
from ovss.salience import SalienceDropout, Variant
from ovss.segmenter import Segmenter
from ovss.sharing import shared
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


class SegmentationModule(LightningModule):
    """A training-free segmentation method as a LightningModule without trainable parameters.

    Args:
        segmenter: the method.
        benchmark: classes and scoring; default: the data module's.
        on_error: what photos do that cannot be read, or that the method fails on: `stop` ends the
            run with an error that lists them, once all others are done; `skip` leaves them out,
            and the scores say so.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        benchmark: Benchmark | None = None,
        on_error: Literal["stop", "skip"] = "stop",
    ) -> None:
        super().__init__()
        if on_error not in ("stop", "skip"):
            raise ValueError(f"Expected `on_error` to be 'stop' or 'skip', but got {on_error!r}.")
        self.segmenter = segmenter.requires_grad_(False).eval()
        self.on_error = on_error
        self.times = StageTimes()
        self.results: dict[str, Any] | None = None
        """Scores of the last finished run; see `SegmentationScores.compute`. Beside them the
        proposals' `proposals_precision` and `proposals_recall`."""
        self.unreadable: list[Unreadable] = []
        """Photos that the run under way could not read; of all processes once it is finished."""
        self.finished: frozenset[str] = frozenset()
        """Photos that an earlier start of the run under way finished, in whole batches."""
        self.proposal_scores = ProposalScores()
        self.proposal_costs: dict[str, float] = {}
        """What proposing cost beside time in the last finished run; see `Proposer.finish`."""
        self._said_out_of_memory = False
        self._photo_succeeded = False
        self._benchmark = benchmark
        self._benchmark_given = benchmark is not None
        self._scores: SegmentationScores | None = None

    # ---- what the data module and callbacks ask ------------------------------------------------

    @property
    def benchmark(self) -> Benchmark:
        """Classes and scoring, given or taken from the data module."""
        if self._benchmark is None:
            raise RuntimeError(
                f"Expected a benchmark, but none is known yet: give "
                f"`{type(self).__name__}(benchmark=...)` (see ovss.benchmark.of_classes) or run "
                "with a data module that has one."
            )
        return self._benchmark

    @benchmark.setter
    def benchmark(self, benchmark: Benchmark) -> None:
        self._benchmark = benchmark
        self._benchmark_given = True

    @property
    def given_benchmark(self) -> Benchmark | None:
        """The benchmark that was given; None where the data module's is taken."""
        return self._benchmark if self._benchmark_given else None

    def take_benchmark(self, datamodule: Any) -> None:
        """Use the data module's benchmark, unless one was given."""
        if not self._benchmark_given:
            self._benchmark = getattr(datamodule, "benchmark", self._benchmark)

    @property
    def scores(self) -> SegmentationScores:
        """The confusion matrix of the run under way."""
        if self._scores is None:
            raise RuntimeError("Expected `setup()` to have run before `scores` is used.")
        return self._scores

    def input_spec(self, benchmark: Benchmark) -> InputSpec:
        """How the photos of a benchmark are resized and normalised."""
        return self.segmenter.input_spec(benchmark)

    def fitting_batch(self) -> int:
        """Photos in a step that suit the Trainer's device; the same for all processes."""
        device = self.trainer.strategy.root_device
        batch = torch.tensor(self.segmenter.fitting_batch(device), device=device)
        return int(self.trainer.strategy.reduce(batch, reduce_op="min"))

    # ---- the method ----------------------------------------------------------------------------

    def forward(self, batch: PhotoBatch) -> list[Prediction]:
        """Label photos; in halves where the GPU's memory does not hold them together.

        Raises:
            torch.OutOfMemoryError: a single photo is too much.
        """
        try:
            return self._segment(batch)
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
        shared().clear()  # what other cells of a sweep left
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        half = len(batch.ids) // 2
        return [*self(batch.take(slice(half))), *self(batch.take(slice(half, None)))]

    def _segment(self, batch: PhotoBatch) -> list[Prediction]:
        benchmark = self.benchmark
        with self.times.measure("propose", self.device):
            proposals = self.segmenter.propose(batch, benchmark)
        with self.times.measure("segment", self.device):
            labels = self.segmenter(batch, benchmark, proposals)
        return [
            Prediction(photo_id, map_of_photo.to("cpu", torch.uint8), proposal)
            for photo_id, map_of_photo, proposal in zip(batch.ids, labels, proposals, strict=True)
        ]

    # ---- Lightning -----------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Take over the data module's benchmark and make a fresh confusion matrix."""
        self.take_benchmark(getattr(self.trainer, "datamodule", None))
        benchmark = self.benchmark
        self._scores = SegmentationScores(
            benchmark.scored, benchmark.ignore_index, benchmark.protocol, benchmark.distractors
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse Lightning's checkpoints, which it also takes from a run folder under SLURM.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "Expected the VLM's own weights alone, but got a checkpoint of Lightning's on top; "
            "leave `ckpt_path` out, and delete hpc_ckpt_*.ckpt in the run folder."
        )

    def test_step(  # type: ignore[override]
        self, batch: PhotoBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> list[Prediction]:
        """Label and score a batch; see `predict_step`."""
        _check_batch(batch)
        if batch.ids and batch.masks is None:
            raise ValueError(
                "Expected photos with ground truth to test on, but these have none; name it (the "
                "`mask` of `ovss.datamodules.from_dataset`), or use `predict`."
            )
        return self.predict_step(batch, batch_idx)

    def predict_step(
        self, batch: PhotoBatch, batch_idx: int = 0, dataloader_idx: int = 0
    ) -> list[Prediction]:
        """Label a batch; where there is ground truth, score it too.

        Args:
            batch: the photos; where `present` is not given it is read off the masks.
            batch_idx: not used.
            dataloader_idx: not used: there is one loader.

        Raises:
            ValueError: something else than a `PhotoBatch`.
        """
        _check_batch(batch)
        batch = batch.with_present(self.benchmark.searchable)
        self.unreadable += batch.unreadable
        predictions = self._predict_each(batch) if batch.ids else []
        if predictions and batch.masks is not None and self._scores is not None:
            done = batch.named([prediction.id for prediction in predictions])
            if done.masks is not None and done.present is not None:
                self.score(predictions, done.masks, done.present)
        return predictions

    def _predict_each(self, batch: PhotoBatch) -> list[Prediction]:
        """Label a batch; where that fails, photo by photo, and note those that fail alone.

        Raises:
            ValueError: a photo failed before any went well, and the run is to stop on that: the
                settings are at fault then, rather than the photo.
        """
        try:
            predictions = self(batch)
            self._photo_succeeded = True
            return predictions
        except (ValueError, RuntimeError, MemoryError) as error:
            if len(batch.ids) == 1:
                self._note_failure(batch.ids[0], error)
                return []
        photos = (batch.take([row]) for row in range(len(batch.ids)))
        return [prediction for photo in photos for prediction in self._predict_each(photo)]

    def _note_failure(self, photo_id: str, error: Exception) -> None:
        if self.on_error == "stop" and not self._photo_succeeded:
            raise ValueError(f"{photo_id}: {error}") from error
        log.warning("%s: %s", photo_id, error)
        self.unreadable.append(Unreadable(photo_id, f"segmenting it failed: {error}"))

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

    def on_test_model_eval(self) -> None:
        """Have the method prepare itself, before the photos' progress bar begins."""
        super().on_test_model_eval()
        self.prepare(self.trainer.test_dataloaders)

    def on_predict_model_eval(self) -> None:
        """Have the method prepare itself, before the photos' progress bar begins."""
        super().on_predict_model_eval()
        self.prepare(self.trainer.predict_dataloaders)

    def prepare(self, loader: Any) -> None:
        """Have the method compute what all photos share, where the loader has any left."""
        nothing_left = len(getattr(loader, "sampler", "?")) == 0
        if not nothing_left:
            with torch.no_grad():
                self.segmenter.prepare(self.benchmark)

    def on_test_start(self) -> None:
        """Forget earlier runs."""
        check_loaders(self.trainer.test_dataloaders)
        self.start()

    def on_predict_start(self) -> None:
        """Forget earlier runs."""
        check_loaders(self.trainer.predict_dataloaders)
        self.start()

    def on_test_epoch_end(self) -> None:
        """Sum over processes and log the scalars."""
        self.finish()
        if self.results is not None:
            scalars = ("mIoU", "pixel_accuracy", "mean_accuracy", "fw_IoU")
            values = {name: self.results[name].float() for name in scalars}
            # All processes have the same values: the maximum leaves their bits alone.
            self.log_dict(values, sync_dist=True, reduce_fx="max")

    def on_predict_epoch_end(self) -> None:
        """Sum over processes."""
        self.finish()

    def start(self) -> None:
        """Forget earlier runs."""
        self.results = None
        self.unreadable = []
        self._said_out_of_memory = self._photo_succeeded = False
        self.times.reset()
        self.times.watch(self.segmenter.stages())
        self.scores.reset()
        self.proposal_scores.reset()

    def finish(self) -> None:
        """Sum over processes.

        Raises:
            ValueError: some photos could not be read, and the run is to stop on that.
        """
        self.times.unwatch()
        texts = gather_texts([json.dumps(each) for each in self.unreadable], self.device)
        self.unreadable = sorted(Unreadable(*json.loads(text)) for text in texts)
        results = self.scores.compute()
        proposals = self.proposal_scores.compute()
        self.proposal_costs = self.segmenter.proposer.finish(self.device)
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


def _check_batch(batch: Any) -> None:
    """Refuse batches of other people's data sets, and say how they become ours."""
    if isinstance(batch, PhotoBatch):
        return
    kind = type(batch).__name__
    if isinstance(batch, dict):
        kind = f"a dict of {', '.join(map(repr, batch))}"
    elif isinstance(batch, (list, tuple)):
        kind = f"a {kind} of {', '.join(type(each).__name__ for each in batch[:4])}"
    raise ValueError(
        f"Expected batches that are an ovss.benchmark.PhotoBatch, but got {kind}; "
        "`ovss.datamodules.from_dataset(dataset, classes=[...])` makes a data module of the data "
        "set they come from."
    )


def check_loaders(loaders: Any) -> None:
    """Refuse several loaders: their photos would end up in one score."""
    if isinstance(loaders, (list, tuple, dict)) and len(loaders) > 1:
        raise ValueError(
            f"Expected one loader, but got {len(loaders)}, whose photos would be scored together; "
            "call the Trainer once for each, with a `default_root_dir` of its own."
        )


class PnPOVSS(SegmentationModule):
    """PnP-OVSS: training-free open-vocabulary segmentation with a frozen vision-language model.

    Args:
        vlm: the frozen model; or a hub id, a folder or `demo` (see `ovss.vlm.load_vlm`).
        layer: cross-attention layer, counted from 0.
        head: head of that layer, counted from 0, or `mean` over heads.
        dropout: Salience DropOut's settings.
        labeller: from class maps to label maps.
        proposals: which classes to look for in a photo: `oracle`, `all`, or another kind.
        variant: `paper`, or `released` for the released code's numerics.
        template: caption with `{}` for the class names.
        benchmark: classes and scoring; default: the data module's.
        on_error: what unreadable photos do; see `SegmentationModule`.

    Example:
        >>> from lightning.pytorch import Trainer  # doctest: +SKIP
        >>> model = PnPOVSS("Salesforce/blip-itm-large-flickr")  # doctest: +SKIP
        >>> Trainer().test(model, datamodule=VOC("data"))  # doctest: +SKIP
    """

    segmenter: PnP

    def __init__(
        self,
        vlm: VLM | str,
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
        segmenter = PnP(vlm, layer, head, dropout, labeller, proposals, variant, template)
        super().__init__(segmenter, benchmark, on_error)
