"""Finished photos onto the disk, and a run that was cut short taken up again."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from ovss.benchmark import PhotoBatch, Unreadable
from ovss.callbacks.photo_writer import PhotoWriter
from ovss.distributed import watch
from ovss.distributed.gather import broadcast_text
from ovss.distributed.launcher import children_of, quiet_code, was_launched
from ovss.module import Prediction, SegmentationModule
from ovss.proposals import CachedProposer, Proposal, Proposer
from ovss.runs.fingerprint import fingerprint_of
from ovss.runs.folder import LabelMap, Resumable, RunFiles
from ovss.runs.layout import RunLayout
from ovss.segmenter import Segmenter
from ovss.utils.signals import REQUEUE, Requeue, stop

log = logging.getLogger(__name__)


class RunFolder(Callback):
    """Writes each photo's label map as it is finished, and does not do finished photos again.

    In the folder: `run.json` (which configuration the results are of), `labels/<id>.png`, and at
    the end `photos.jsonl`. SIGTERM and SIGUSR1 end the run after the batch in hand with exit code
    75. What costly proposers answer is kept in `proposals/` beside the folder, for all runs there.
    Nothing is skipped with a data module that is not `ovss.runs.folder.Resumable`.

    Args:
        folder: where; default: `trainer.default_root_dir`. All processes must see the same folder.

    Raises:
        ValueError: the folder holds another configuration's results, or another run is at work in
            it.
        OSError: it cannot be written to.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = None if folder is None else Path(folder)
        self.done_before = 0
        """Photos that this run found finished."""
        self._files: RunFiles | None = None
        self._data: Resumable | None = None
        self._share: list[int] = []
        self._watch: watch.Watch | None = None
        self._writer: PhotoWriter | None = None
        self._uncached: tuple[Segmenter, Proposer] | None = None

    # ---- before the loaders are made -----------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Claim the folder and tell the data module what is finished."""
        if stage not in ("test", "predict"):
            return
        if not isinstance(pl_module, SegmentationModule):
            raise ValueError(
                "Expected an ovss.module.SegmentationModule, such as ovss.PnPOVSS, under "
                f"RunFolder, but got {type(pl_module).__name__}."
            )
        # Lightning's handlers would save a checkpoint, requeue the job themselves, and wait for the
        # other processes wherever these are.
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        if stop.starter is None and was_launched(trainer):  # by a program that is not ours
            stop.starter = os.getppid()
        datamodule = getattr(trainer, "datamodule", None)
        pl_module.take_benchmark(datamodule)
        self._data = datamodule if isinstance(datamodule, Resumable) else None
        self._files = RunFiles(
            RunLayout(self.folder or run_folder(trainer)), pl_module.benchmark.palette
        )
        finished = self._claim(trainer, pl_module, self._files)
        segmenter = pl_module.segmenter
        segmenter.keep_in(self._files.layout.text_features)
        if segmenter.proposer.costly and not isinstance(segmenter.proposer, CachedProposer):
            self._uncached = (segmenter, segmenter.proposer)
            segmenter.proposer = CachedProposer(segmenter.proposer, self._files.layout.proposals)
        left_out = self._data.leave_out(finished) if self._data is not None else []
        self.done_before = len(left_out)
        self._share = left_out[trainer.global_rank :: trainer.world_size]

    def _claim(self, trainer: Trainer, module: SegmentationModule, files: RunFiles) -> list[int]:
        """Have the first process look at the folder; all learn which photos are finished."""
        message: dict[str, Any] | None = None
        failure: Exception | None = None
        if trainer.is_global_zero:
            try:
                fingerprint = fingerprint_of(
                    module.segmenter, module.benchmark, str(trainer.precision)
                )
                files.lock()
                files.claim(fingerprint)
                files.clear_parts()
                names = [] if self._data is None else self._data.photo_ids
                done = files.finished(names)
                indices = [i for i, name in enumerate(names) if name in done]
                message = {"fingerprint": fingerprint, "done": indices}
            except (ValueError, OSError) as error:
                failure = error
                message = {"refused": True}
        text = None if message is None else json.dumps(message)
        told = json.loads(broadcast_text(text, trainer.strategy.root_device))
        if failure is not None:
            raise failure
        if told.get("refused"):
            raise Requeue(quiet_code())  # the first process says why
        files.use(told["fingerprint"])
        if not _becomes_visible(files.layout.run):
            raise FileNotFoundError(
                f"Expected all processes to share the run folder {files.path}, but process "
                f"{trainer.global_rank} does not see what the first one wrote; put "
                "`trainer.default_root_dir` on a file system that all nodes mount."
            )
        return told["done"]

    # ---- during the run ------------------------------------------------------------------------

    def _start_run(self, trainer: Trainer, module: SegmentationModule) -> None:
        stop.listen(lambda: children_of(trainer))
        watch.early.close()
        self._watch = watch.Watch(lambda: children_of(trainer), stop.starter, to_the_end=True)
        self._writer = PhotoWriter(self._run_files, trainer.global_rank, module.benchmark)
        if trainer.is_global_zero and self.done_before:
            log.info(
                "%d of %d photos are finished already (%s)",
                self.done_before,
                len(self._data.photo_ids) if self._data else 0,
                self._run_files.path,
            )

    def _score_finished(self, module: SegmentationModule) -> None:
        """Score this process's share of the photos that an earlier run finished."""
        data, files = self._data, self._run_files
        if data is None or not self._share:
            return
        names = data.photo_ids
        for index in self._share:
            name = names[index]
            label_map = files.read(name)
            if label_map is None:
                raise ValueError(
                    f"Expected {files.layout.label_map(name)} to stay as it was when the run "
                    "began, but it has changed since; start the same command again."
                )
            try:
                truth = data.ground_truth(index)
            except (ValueError, OSError) as error:
                module.unreadable.append(Unreadable(name, str(error)))
                continue
            mask = None if truth is None else truth.mask
            if mask is not None and mask.shape != label_map.labels.shape:
                raise ValueError(
                    f"Expected the ground truth of {name} to have the size of its label map, "
                    f"{label_map.labels.shape}, but got {mask.shape}: the data has changed since "
                    f"the run began. Delete {files.layout.label_map(name)}, or start a new run "
                    "folder."
                )
            prediction = Prediction(
                name,
                torch.from_numpy(label_map.labels.copy()),
                Proposal(label_map.proposed, label_map.confidences),
            )
            if truth is not None:
                module.score([prediction], [torch.tensor(truth.mask)], [truth.present])
            self._photo_writer.add_line(name, label_map, mask)

    def _write_batch(self, trainer: Trainer, outputs: Any, batch: PhotoBatch) -> None:
        self._photo_writer.wait()  # for the last batch's
        found = batch.named([prediction.id for prediction in outputs]).masks
        masks: Sequence[Tensor | None] = found or [None] * len(outputs)
        for prediction, mask in zip(outputs, masks, strict=True):
            label_map = LabelMap(
                prediction.labels.numpy(),
                prediction.proposal.labels,
                tuple(round(score, 6) for score in prediction.proposal.scores),
            )
            truth = None if mask is None else mask.cpu().numpy()
            self._photo_writer.write(prediction.id, label_map, truth)
        self._look_for_signal(trainer)

    def _look_for_signal(self, trainer: Trainer) -> None:
        """End this process if it, or another one of the run, got a signal.

        Raises:
            Requeue: to leave with.
        """
        files = self._run_files
        if stop.received:
            files.note_stop(f"{stop.received} to process {trainer.global_rank}")
        elif not files.layout.stopped.exists():
            return
        reason = stop.received or files.layout.stopped.read_text("utf-8") or "a signal"
        children = children_of(trainer)
        if self._writer is not None:
            self._writer.wait()
        self._close()  # the others are about to end too, which is no accident
        deadline = time.monotonic() + watch.BATCH_TIMEOUT
        for child in children:
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except TimeoutExpired:
                child.kill()
        if trainer.is_global_zero:
            log.warning(
                "Stopped on %s; finished photos are kept in %s. Start the same command again to "
                "go on.",
                reason,
                files.path,
            )
        raise Requeue(quiet_code(REQUEUE))

    def _wait_for_processes(self, trainer: Trainer) -> None:
        """Wait until all processes have done their share.

        Waiting on files instead of a collective lets a signal end the wait, and has no time limit
        that a slower process could exceed.
        """
        self._look_for_signal(trainer)  # one may have ended the wait for the next batch
        self._photo_writer.finish()
        self._writer = None
        files, world = self._run_files, trainer.world_size
        while not all(files.layout.part(rank).exists() for rank in range(world)):
            self._look_for_signal(trainer)
            time.sleep(0.1)

    def _write_photos_file(self, trainer: Trainer) -> None:
        trainer.strategy.barrier("ovss_parts_seen")
        self._stop_watching()  # from here on any process may leave
        if trainer.is_global_zero:
            order = None if self._data is None else self._data.photo_ids
            self._run_files.merge_parts(trainer.world_size, order)
        self._close()

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._stop_watching()

    def _stop_watching(self) -> None:
        watch.early.close()
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    @property
    def _run_files(self) -> RunFiles:
        if self._files is None:
            raise RuntimeError("Expected `setup()` to have run before the run folder is used.")
        return self._files

    @property
    def _photo_writer(self) -> PhotoWriter:
        if self._writer is None:
            raise RuntimeError("Expected the run to have started before photos are written.")
        return self._writer

    # ---- Lightning's hooks ---------------------------------------------------------------------

    def on_test_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Take over signals, watch the other processes."""
        self._start_run(trainer, pl_module)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Score what was finished before, where there is ground truth."""
        self._score_finished(pl_module)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Write label maps."""
        self._write_batch(trainer, outputs, batch)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for the other processes."""
        self._wait_for_processes(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write `photos.jsonl`."""
        self._write_photos_file(trainer)

    # Predicting goes the same way.
    on_predict_start = on_test_start
    on_predict_epoch_start = on_test_epoch_start
    on_predict_batch_end = on_test_batch_end
    on_predict_epoch_end = on_test_epoch_end
    on_predict_end = on_test_end

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Let go of the folder."""
        self.teardown(trainer, pl_module, "")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the folder and the signals."""
        try:
            self._close()
        finally:
            # A loader process that died may be reported here, whatever is under way.
            if self._files is not None:
                self._files.unlock()
                self._files = None
            if self._uncached is not None:  # another run has its proposals elsewhere
                segmenter, proposer = self._uncached
                segmenter.proposer, self._uncached = proposer, None
            stop.restore()


def run_folder(trainer: Trainer) -> Path:
    """Where a run's files go: `default_root_dir`, whatever loggers there are.

    A logger's own folder may be new for each start, shared by runs, or none at all: a run that was
    cut short would not find what it had done.
    """
    return Path(trainer.default_root_dir)


def done_before(trainer: Trainer) -> int:
    """Photos that a run found finished when it began."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return sum(each.done_before for each in callbacks if isinstance(each, RunFolder))


def _becomes_visible(path: Path, seconds: float = 10.0) -> bool:
    """Whether a file that another node wrote comes into sight; network file systems take a bit."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        os.listdir(path.parent)  # noqa: PTH208 - makes NFS look again
        time.sleep(0.2)
    return True
