"""A run's folder during a pass over the photos."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from ovss.benchmark import PhotoBatch, Unreadable
from ovss.callbacks.photo_writer import PhotoWriter
from ovss.module import Prediction, SegmentationModule
from ovss.proposals import Proposal
from ovss.runs.fingerprint import fingerprint_of
from ovss.runs.folder import LabelMap, Resumable, RunFiles
from ovss.runs.layout import RunLayout
from ovss.sweep_module import SweepModule


class PassRun(NamedTuple):
    """One of the runs of a pass over the photos: the only one, or a cell of a sweep.

    Attributes:
        layout: where its files are.
        module: its method, benchmark and scores.
        cell: its name in the sweep; None for the only one.
    """

    layout: RunLayout
    module: SegmentationModule
    cell: str | None = None

    def predictions(self, outputs: Any) -> list[Prediction] | None:
        """Its part of what a step gave; None where the batch was finished before."""
        return outputs if self.cell is None else outputs.get(self.cell)


def run_folder(trainer: Trainer) -> Path:
    """Where a run's files go: `default_root_dir`, whatever loggers there are.

    A logger's own folder may be new for each start, shared by runs, or none at all: a run that was
    cut short would not find what it had done.
    """
    return Path(trainer.default_root_dir)


def runs_of(
    trainer: Trainer, pl_module: LightningModule, folder: Path | None = None
) -> list[PassRun]:
    """The runs of the pass under way.

    Args:
        trainer: with the folder.
        pl_module: a run's module, or a sweep's.
        folder: in place of the trainer's.
    """
    folder = folder or run_folder(trainer)
    if isinstance(pl_module, SweepModule):
        folder = pl_module.folder or folder
        cells = pl_module.cells.items()
        return [PassRun(RunLayout(folder / name), cell, name) for name, cell in cells]
    module: Any = pl_module
    return [PassRun(RunLayout(folder), module)]


def saved_by(sweep: SweepModule, layout: RunLayout) -> dict[str, Any]:
    """What sharing saved in a sweep's pass, or the last one of a cell if nothing was left to do.

    Args:
        sweep: after its pass.
        layout: of the cell, whose `timing.json` need not be there.
    """
    if sweep.asked:
        return sweep.saved()
    try:
        return json.loads(layout.timing.read_text(encoding="utf-8")).get("sweep", {})
    except (OSError, ValueError, AttributeError):
        return {}


class Recorder:
    """Keeps what a run finds of each photo, and knows what it found before.

    Args:
        run: one of the pass.
        data: the photos' names and ground truth, where the data module can say.
    """

    def __init__(self, run: PassRun, data: Resumable | None) -> None:
        self.run = run
        self.files = RunFiles(run.layout, run.module.benchmark.palette)
        self._data = data
        self._share: list[int] = []
        self._writer: PhotoWriter | None = None

    # ---- before the photos -----------------------------------------------------------------------

    def claim(self, precision: str) -> dict[str, Any]:
        """Lock the folder and look what is finished; what the first process tells the others.

        Raises:
            ValueError: another run has the folder, or it holds another configuration's results.
            OSError: it cannot be written to.
        """
        module = self.run.module
        fingerprint = fingerprint_of(module.segmenter, module.benchmark, precision)
        self.files.lock()
        self.files.claim(fingerprint)
        self.files.clear_parts()
        names = [] if self._data is None else self._data.photo_ids
        done = self.files.finished(names)
        indices = [index for index, name in enumerate(names) if name in done]
        return {"fingerprint": fingerprint, "done": indices}

    def take_over(self, told: dict[str, Any], rank: int, world_size: int) -> list[int]:
        """Learn what the first process saw; gives the photos of batches that are finished.

        Args:
            told: by `claim`.
            rank: of this process, which scores its share of them.
            world_size: how many processes there are.
        """
        self.files.use(told["fingerprint"])
        left_out = [] if self._data is None else self._data.leave_out(told["done"])
        names = [] if self._data is None else self._data.photo_ids
        self.run.module.finished = frozenset(names[index] for index in left_out)
        self._share = left_out[rank::world_size]
        return left_out

    # ---- during the run ------------------------------------------------------------------------

    def start(self, rank: int) -> None:
        """Begin this process's lines of `photos.jsonl`."""
        self._writer = PhotoWriter(self.files, rank, self.run.module.benchmark)

    def score_finished(self) -> None:
        """Score this process's share of the photos that an earlier run finished."""
        data, files, module = self._data, self.files, self.run.module
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

    def write(self, outputs: Any, batch: PhotoBatch) -> None:
        """Write the label maps of a batch, once the last batch's are written."""
        self._photo_writer.wait()
        predictions = self.run.predictions(outputs)
        if predictions is None:
            return
        found = batch.named([prediction.id for prediction in predictions]).masks
        masks: Sequence[Tensor | None] = found or [None] * len(predictions)
        for prediction, mask in zip(predictions, masks, strict=True):
            label_map = LabelMap(
                prediction.labels.numpy(),
                prediction.proposal.labels,
                tuple(round(score, 6) for score in prediction.proposal.scores),
            )
            truth = None if mask is None else mask.cpu().numpy()
            self._photo_writer.write(prediction.id, label_map, truth)

    def wait(self) -> None:
        """Wait for the label maps in hand."""
        if self._writer is not None:
            self._writer.wait()

    def finish(self) -> None:
        """Say that this process has done its share."""
        self._photo_writer.finish()
        self._writer = None

    def close(self) -> None:
        """Stop writing."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def unlock(self) -> None:
        """Let go of the folder."""
        self.run.module.finished = frozenset()
        self.files.unlock()

    @property
    def _photo_writer(self) -> PhotoWriter:
        if self._writer is None:
            raise RuntimeError("Expected the run to have started before photos are written.")
        return self._writer
