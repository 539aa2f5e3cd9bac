"""Several runs in one pass over the photos."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule

from ovss.benchmark import Benchmark, PhotoBatch
from ovss.distributed.gather import gather_texts
from ovss.module import Prediction, SegmentationModule, check_loaders
from ovss.preprocessing import InputSpec
from ovss.sharing import sharing


class SweepModule(LightningModule):
    """Runs that differ in settings or class names, done in one pass over the photos.

    What they have in common is computed once for a batch (`ovss.sharing`). Each cell is a run like
    any other, with the same files in a folder of its own that it would have had alone, bit by bit.

    Args:
        cells: name of its run folder -> a cell. Cells that are to share have segmenters from
            `Segmenter.varied`, of one model.
        folder: where the run folders go; default: `trainer.default_root_dir`.
        changes: for each cell what its configuration has in place of the command's, by dotted
            name; for its `config.yaml`.

    Raises:
        ValueError: no cells, or a name that no folder can have.
    """

    def __init__(
        self,
        cells: Mapping[str, SegmentationModule],
        folder: str | Path | None = None,
        changes: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        if not cells:
            raise ValueError("Expected at least one cell for a sweep, but got none.")
        for name in cells:
            if Path(name).name != name or name in ("", "..", "proposals", "text_features"):
                raise ValueError(f"Expected a cell's name to be a folder's, but got {name!r}.")
        self.names = tuple(cells)
        for number, cell in enumerate(cells.values()):
            self.add_module(f"cell_{number}", cell)  # Lightning gives it the trainer and the device
        self.folder = None if folder is None else Path(folder)
        self.changes = changes or {}
        self._failed = ""
        self.done: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        """What the last finished pass computed of each kind, and what runs of their own would have
        (see `ovss.sharing.Shared`); of all processes."""

    @property
    def cells(self) -> dict[str, SegmentationModule]:
        """The cells by name."""
        found: Iterable[Any] = self.children()
        return dict(zip(self.names, found, strict=True))

    def saved(self) -> dict[str, Any]:
        """What sharing saved, for `timing.json`: `{"cells": 24, "rounds": {"done": 8, ...}}`."""
        counts = {
            kind: {"done": self.done[kind], "without_sharing": asked}
            for kind, asked in self.asked.items()
        }
        return {"cells": len(self.names), **counts}

    # ---- what the data module asks ---------------------------------------------------------------

    def input_spec(self, benchmark: Benchmark) -> InputSpec:
        """How the photos of a benchmark are resized and normalised.

        Raises:
            ValueError: the cells want them differently.
        """
        specs = {
            cell.input_spec(cell.given_benchmark or benchmark): name
            for name, cell in self.cells.items()
        }
        if len(specs) > 1:
            (one, first), (other, second), *_ = specs.items()
            raise ValueError(
                "Expected cells that see the same photos, but "
                f"{first} wants {one} and {second} {other}; run them one by one."
            )
        return next(iter(specs))

    def fitting_batch(self) -> int:
        """Photos in a step that suit all cells."""
        return min(cell.fitting_batch() for cell in self.cells.values())

    # ---- the pass --------------------------------------------------------------------------------

    def test_step(
        self, batch: PhotoBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, list[Prediction]]:
        """Label and score a batch for each cell that has not finished it before."""
        return self._step("test_step", batch, batch_idx)

    def predict_step(
        self, batch: PhotoBatch, batch_idx: int = 0, dataloader_idx: int = 0
    ) -> dict[str, list[Prediction]]:
        """Label a batch for each cell that has not finished it before."""
        return self._step("predict_step", batch, batch_idx)

    def _step(self, step: str, batch: PhotoBatch, batch_idx: int) -> dict[str, list[Prediction]]:
        found = {}
        with sharing() as values:
            # Who has the most rounds first: the others find theirs among these.
            cells = sorted(self.cells.items(), key=lambda item: -item[1].segmenter.passes)
            for name, cell in cells:
                ids = getattr(batch, "ids", ())
                if not (ids and cell.finished.issuperset(ids)):
                    found[name] = getattr(cell, step)(batch, batch_idx)
        self.done += values.done
        self.asked += values.asked
        return found

    # ---- Lightning -------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """See `SegmentationModule.setup`, as for the other hooks."""
        for cell in self.cells.values():
            cell.setup(stage)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse Lightning's checkpoints."""
        next(iter(self.cells.values())).on_load_checkpoint(checkpoint)

    def on_test_model_eval(self) -> None:
        """Have the methods prepare themselves."""
        super().on_test_model_eval()
        for cell in self.cells.values():
            cell.prepare(self.trainer.test_dataloaders)

    def on_predict_model_eval(self) -> None:
        """Have the methods prepare themselves."""
        super().on_predict_model_eval()
        for cell in self.cells.values():
            cell.prepare(self.trainer.predict_dataloaders)

    def on_test_start(self) -> None:
        """Forget earlier runs."""
        check_loaders(self.trainer.test_dataloaders)
        self._start()

    def on_predict_start(self) -> None:
        """Forget earlier runs."""
        check_loaders(self.trainer.predict_dataloaders)
        self._start()

    def on_test_epoch_end(self) -> None:
        """Sum over processes and log each cell's mIoU."""
        self._finish()
        for name, cell in self.cells.items():
            if cell.results is not None:
                value = cell.results["mIoU"].float()
                self.log(f"mIoU/{name}", value, sync_dist=True, reduce_fx="max")

    def on_predict_epoch_end(self) -> None:
        """Sum over processes."""
        self._finish()

    def _start(self) -> None:
        self.done, self.asked = Counter(), Counter()
        self._failed = ""
        for cell in self.cells.values():
            cell.start()

    def on_test_end(self) -> None:
        """Say which cells failed, once the callbacks have written the others."""
        if self._failed:
            raise ValueError(self._failed)

    on_predict_end = on_test_end

    def _finish(self) -> None:
        failed = {}
        for name, cell in self.cells.items():
            try:
                cell.finish()
            except ValueError as error:  # the same on all processes, which have gathered it
                failed[name] = str(error)
        # What fails everywhere is said once.
        words = {text: [n for n in failed if failed[n] == text] for text in failed.values()}
        self._failed = "\n".join(f"{', '.join(own)}: {text}" for text, own in words.items())
        if len(failed) == len(self.names):
            raise ValueError(self._failed)
        counts = gather_texts([json.dumps([self.done, self.asked])], self.device)
        self.done, self.asked = Counter(), Counter()
        for done, asked in map(json.loads, counts):
            self.done.update(done)
            self.asked.update(asked)
