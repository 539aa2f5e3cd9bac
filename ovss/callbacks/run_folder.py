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

from lightning.pytorch import Callback, LightningModule, Trainer

from ovss.benchmark import Benchmark
from ovss.callbacks.recorder import PassRun, Recorder, runs_of
from ovss.distributed import watch
from ovss.distributed.gather import broadcast_text
from ovss.distributed.launcher import children_of, quiet_code, was_launched
from ovss.module import SegmentationModule
from ovss.proposals import CachedProposer, Proposer
from ovss.runs.folder import Resumable
from ovss.segmenter import Segmenter
from ovss.sharing import sharing
from ovss.sweep_module import SweepModule
from ovss.utils.signals import REQUEUE, Requeue, stop

log = logging.getLogger(__name__)


class RunFolder(Callback):
    """Writes each photo's label map as it is finished, and does not do finished photos again.

    Each cell of a sweep has a folder of its own; a photo is brought while any of them lacks it.
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
        """Photos that the pass need not bring: all of its runs found them finished."""
        self._recorders: list[Recorder] = []
        self._data: Resumable | None = None
        self._watch: watch.Watch | None = None
        self._uncached: list[tuple[Segmenter, Proposer]] = []

    # ---- before the loaders are made -----------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Claim the folders and tell the data module what is finished."""
        if stage not in ("test", "predict"):
            return
        if not isinstance(pl_module, (SegmentationModule, SweepModule)):
            raise ValueError(
                "Expected an ovss.module.SegmentationModule, such as ovss.PnPOVSS, under "
                f"RunFolder, but got {type(pl_module).__name__}."
            )
        runs = runs_of(trainer, pl_module, self.folder)
        # Lightning's handlers would save a checkpoint, requeue the job themselves, and wait for the
        # other processes wherever these are.
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        if stop.starter is None and was_launched(trainer):  # by a program that is not ours
            stop.starter = os.getppid()
        datamodule = getattr(trainer, "datamodule", None)
        for run in runs:
            run.module.take_benchmark(datamodule)
        self._data = datamodule if isinstance(datamodule, Resumable) else None
        self._recorders = [Recorder(run, self._data) for run in runs]
        told = self._claim(trainer)
        self._keep_what_serves_other_runs(runs)
        ranks = trainer.global_rank, trainer.world_size
        pairs = zip(self._recorders, told, strict=True)
        left_out, *others = (recorder.take_over(own, *ranks) for recorder, own in pairs)
        if others and self._data is not None:  # what one run lacks is brought
            left_out = self._data.leave_out(set(left_out).intersection(*others))
        self.done_before = len(left_out)

    def _claim(self, trainer: Trainer) -> list[dict[str, Any]]:
        """Have the first process look at the folders; all learn which photos are finished."""
        message: Any = None
        failure: Exception | None = None
        if trainer.is_global_zero:
            try:
                with sharing():
                    message = [each.claim(str(trainer.precision)) for each in self._recorders]
            except (ValueError, OSError) as error:
                failure = error
                message = []
        text = None if message is None else json.dumps(message)
        told = json.loads(broadcast_text(text, trainer.strategy.root_device))
        if failure is not None:
            raise failure
        if not told:
            raise Requeue(quiet_code())  # the first process says why
        for recorder in self._recorders:
            if not _becomes_visible(recorder.files.layout.run):
                raise FileNotFoundError(
                    f"Expected all processes to share the run folder {recorder.files.path}, but "
                    f"process {trainer.global_rank} does not see what the first one wrote; put "
                    "`trainer.default_root_dir` on a file system that all nodes mount."
                )
        return told

    def _keep_what_serves_other_runs(self, runs: Sequence[PassRun]) -> None:
        """Have features of names, and what costly proposers answer, kept beside the runs."""
        cached: dict[tuple[int, Benchmark], CachedProposer] = {}
        for run in runs:
            segmenter = run.module.segmenter
            segmenter.keep_in(run.layout.text_features)
            proposer = segmenter.proposer
            if proposer.costly and not isinstance(proposer, CachedProposer):
                self._uncached.append((segmenter, proposer))
                segmenter.proposer = cached.setdefault(
                    (id(proposer), run.module.benchmark),
                    CachedProposer(proposer, run.layout.proposals),
                )

    # ---- during the run ------------------------------------------------------------------------

    def _start_run(self, trainer: Trainer) -> None:
        stop.listen(lambda: children_of(trainer))
        watch.early.close()
        self._watch = watch.Watch(lambda: children_of(trainer), stop.starter, to_the_end=True)
        for recorder in self._recorders:
            recorder.start(trainer.global_rank)
        if trainer.is_global_zero and self.done_before:
            log.info(
                "%d of %d photos are finished already (%s)",
                self.done_before,
                len(self._data.photo_ids) if self._data else 0,
                self._where,
            )

    def _look_for_signal(self, trainer: Trainer) -> None:
        """End this process if it, or another one of the run, got a signal.

        Raises:
            Requeue: to leave with.
        """
        files = self._recorders[0].files  # one run of the pass speaks for all
        if stop.received:
            files.note_stop(f"{stop.received} to process {trainer.global_rank}")
        elif not files.layout.stopped.exists():
            return
        reason = stop.received or files.layout.stopped.read_text("utf-8") or "a signal"
        children = children_of(trainer)
        for recorder in self._recorders:
            recorder.wait()
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
                self._where,
            )
        raise Requeue(quiet_code(REQUEUE))

    def _wait_for_processes(self, trainer: Trainer) -> None:
        """Wait until all processes have done their share.

        Waiting on files instead of a collective lets a signal end the wait, and has no time limit
        that a slower process could exceed.
        """
        self._look_for_signal(trainer)  # one may have ended the wait for the next batch
        for recorder in self._recorders:
            recorder.finish()
        layouts = [recorder.files.layout for recorder in self._recorders]
        parts = [each.part(rank) for each in layouts for rank in range(trainer.world_size)]
        while not all(part.exists() for part in parts):
            self._look_for_signal(trainer)
            time.sleep(0.1)

    def _write_photos_files(self, trainer: Trainer) -> None:
        trainer.strategy.barrier("ovss_parts_seen")
        self._stop_watching()  # from here on any process may leave
        if trainer.is_global_zero:
            order = None if self._data is None else self._data.photo_ids
            for recorder in self._recorders:
                recorder.files.merge_parts(trainer.world_size, order)
        self._close()

    def _close(self) -> None:
        for recorder in self._recorders:
            recorder.close()
        self._stop_watching()

    def _stop_watching(self) -> None:
        watch.early.close()
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    @property
    def _where(self) -> Path:
        """The folder of the only run, or the one around those of a sweep."""
        only, *others = (recorder.files.path for recorder in self._recorders)
        return only.parent if others else only

    # ---- Lightning's hooks ---------------------------------------------------------------------

    def on_test_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Take over signals, watch the other processes."""
        self._start_run(trainer)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Score what was finished before, where there is ground truth."""
        for recorder in self._recorders:
            recorder.score_finished()

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Write label maps."""
        for recorder in self._recorders:
            recorder.write(outputs, batch)
        self._look_for_signal(trainer)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for the other processes."""
        self._wait_for_processes(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write `photos.jsonl`."""
        self._write_photos_files(trainer)

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
            for recorder in self._recorders:
                recorder.unlock()
            self._recorders = []
            for segmenter, proposer in self._uncached:  # another run has its proposals elsewhere
                segmenter.proposer = proposer
            self._uncached = []
            stop.restore()


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
