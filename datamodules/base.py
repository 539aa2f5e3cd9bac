"""What all data modules share: the checks on a split, and the loaders."""

from __future__ import annotations

import logging
import signal
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader

from ovss.benchmark import Benchmark, with_distractors
from ovss.preprocessing import InputSpec, Preprocess
from ovss.utils.cpus import share_of_cpus
from ovss.utils.text import COMMAND

from .dataset import PhotoDataset, Split, collate
from .download.archives import Archive
from .masks import Labels
from .sampler import PhotoLoader, UnpaddedSampler, unfinished_batches
from .specs import with_prompts

log = logging.getLogger(__name__)


class BenchmarkDataModule(LightningDataModule, ABC):
    """A benchmark's photos and masks for `trainer.test` and `trainer.predict`.

    A subclass gives the benchmark and `find`; docs/benchmarks.md shows how.

    Args:
        root: where the data is; never written to, but by `prepare`.
        benchmark: classes and scoring.
        prompts: a file of one's own with the names to look for: a class a line in label order,
            synonyms separated by ";". Default: natural English names.
        limit: only the first so many photos; scores then say so.
        batch_size: photos in a step; default: what fits the device, as the module under test finds
            out (8 on a CPU).
        num_workers: loader processes; default: of the CPUs that this process may use all but one on
            a GPU, and a quarter where the model computes on them, too; at most 8.
        spec: the model's input; default: asked of the module under test.
        distractors: further names to look for, of things that are in no photo; what is labelled so
            is wrong, and they are no part of a mean (see `ovss.benchmark.with_distractors`).
    """

    archives: tuple[Archive, ...] = ()
    """What `prepare` downloads."""

    def __init__(
        self,
        root: str | Path,
        benchmark: Benchmark,
        prompts: str | Path | None = None,
        limit: int | None = None,
        batch_size: int | None = None,
        num_workers: int | None = None,
        spec: InputSpec | None = None,
        distractors: Sequence[str] = (),
    ) -> None:
        super().__init__()
        for name, value in (("batch_size", batch_size), ("limit", limit)):
            if value is not None and value < 1:
                raise ValueError(f"Expected `{name}` to be at least 1, but got {value}.")
        if num_workers is not None and num_workers < 0:
            raise ValueError(f"Expected `num_workers` to be at least 0, but got {num_workers}.")
        self.root = Path(root).expanduser()
        named = benchmark if prompts is None else with_prompts(benchmark, prompts)
        self.benchmark = with_distractors(named, distractors) if distractors else named
        self.limit = limit
        self._batch_size = batch_size
        self._num_workers = num_workers
        self.spec = spec
        self._dataset: PhotoDataset | None = None
        self._collate = partial(collate)
        self._finished: frozenset[int] = frozenset()
        self.whole: int | None = None
        """Photos in the split without `limit`, once `setup` ran."""

    @abstractmethod
    def find(self) -> Split:
        """The files of the whole split.

        Raises:
            DatasetNotFoundError: the data is not there.
            FileNotFoundError: some photos or masks are missing.
            ValueError: the files contradict each other.
        """

    @property
    def remedy(self) -> str:
        """How to get the data, for errors."""
        # Of COCO-Object the released protocol needs other files.
        released = self.benchmark.protocol == "released"
        protocol = " --data.init_args.protocol released" if released else ""
        return (
            f"Point `data.init_args.root` at it, or fetch it with `{COMMAND} prepare --config "
            f"{self.config} --data.init_args.root {self.root}{protocol}`."
        )

    @property
    def config(self) -> str:
        """Name of the shipped configuration."""
        return self.benchmark.key

    @property
    def dataset(self) -> PhotoDataset:
        """The photos, once `setup` ran."""
        if self._dataset is None:
            raise RuntimeError("Expected `setup()` to have run before `dataset` is used; call it.")
        return self._dataset

    @property
    def batch_size(self) -> int:
        """Photos in a step."""
        if self._batch_size is None:
            raise RuntimeError(
                "Expected `setup()` to have run before `batch_size` is used; call it, or give "
                "`batch_size` to the data module."
            )
        return self._batch_size

    @batch_size.setter
    def batch_size(self, batch_size: int) -> None:
        self._batch_size = batch_size

    @property
    def num_workers(self) -> int:
        """Loader processes."""
        return default_workers(self.trainer) if self._num_workers is None else self._num_workers

    @num_workers.setter
    def num_workers(self, num_workers: int) -> None:
        self._num_workers = num_workers

    def find_whole(self) -> Split:
        """The split after `limit`, checked to be whole without it.

        Raises:
            ValueError: another number of photos than the benchmark has.
        """
        split = self.find()
        count, expected = len(split.samples), self.benchmark.expected
        if expected is not None and count != expected and self.limit is None:
            raise ValueError(
                f"Expected {expected} photos in {self.benchmark.title}, but found {count} under "
                f"{self.root}. {self.remedy} To use a part of the data, ask for it with `limit`."
            )
        self.whole = count
        return replace(split, samples=split.samples[: self.limit])

    def check(self) -> None:
        """Notice missing data without a model, which takes minutes to load.

        Raises:
            DatasetNotFoundError: and the other errors of `find_whole`.
        """
        self.find_whole()

    def setup(self, stage: str | None = None) -> None:
        """Find the files and check that the split is whole."""
        split = self.find_whole()
        log.info("%s: labels from %s", self.benchmark.title, split.source)
        spec = self._input_spec()
        self._collate = partial(collate, stack=spec.resize == "square")
        self._dataset = PhotoDataset(split, self.benchmark, Preprocess(spec))
        if self._batch_size is None:
            module = getattr(self.trainer, "lightning_module", None)
            find = getattr(module, "fitting_batch", None)
            self._batch_size = 8 if find is None else find()

    def _input_spec(self) -> InputSpec:
        if self.spec is not None:
            return self.spec
        module = getattr(self.trainer, "lightning_module", None)
        if module is None or not hasattr(module, "input_spec"):
            raise ValueError(
                "Expected the module under test to have `input_spec(benchmark)`, as ovss.PnPOVSS "
                "has; for another module give the data module `spec=InputSpec(...)`."
            )
        return module.input_spec(self.benchmark)

    def test_dataloader(self) -> DataLoader:
        """Each photo once, over all processes."""
        return PhotoLoader(
            self.dataset,
            batch_size=self.batch_size,
            sampler=UnpaddedSampler(self.dataset, self.batch_size, finished=self._finished),
            num_workers=self.num_workers,
            collate_fn=self._collate,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=begin_loader,
        )

    def shared_memory(self) -> int:
        """Bytes that the batches of this process's loaders take in shared memory, about.

        As if all photos were as large as the first one that is read; two batches a worker.
        """
        item = self.dataset[0] if len(self.dataset) else None
        if not isinstance(item, dict):
            return 0
        tensors = [value for value in item.values() if isinstance(value, torch.Tensor)]
        return 2 * self.num_workers * self.batch_size * sum(t.nbytes for t in tensors)

    def predict_dataloader(self) -> DataLoader:
        """The same photos as for testing."""
        return self.test_dataloader()

    # ---- what a resumed run asks (ovss.runs.folder.Resumable) ------------------------------------

    @property
    def photo_ids(self) -> list[str]:
        """Names of all photos, in data-set order."""
        return [sample.id for sample in self.dataset.split.samples]

    def leave_out(self, finished: Collection[int]) -> list[int]:
        """Have the loaders made from now on leave out batches that are finished as a whole.

        Args:
            finished: indices into `photo_ids` that need no work.

        Returns:
            Those that the loaders will not bring.
        """
        self._finished = frozenset(finished)
        left = unfinished_batches(len(self.dataset), self.batch_size, self._finished)
        return sorted(set(range(len(self.dataset))).difference(*left))

    def ground_truth(self, index: int) -> Labels | None:
        """Ground truth of one of `photo_ids`; None where it has none.

        Raises:
            FileNotFoundError: the file is gone.
            ValueError: it is unreadable, or has an unknown value.
        """
        return self.dataset.truth(index)


def begin_loader(worker: int) -> None:
    """Keep a loader process to one thread, and at work when SIGUSR1 asks for an end.

    Batches in hand are finished.
    """
    cv2.setNumThreads(1)
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def default_workers(trainer: Trainer | None) -> int:
    """Loader processes that leave the model its CPUs.

    Args:
        trainer: of the run; None where it computes on CPUs alone.
    """
    if trainer is None or trainer.strategy.root_device.type == "cpu":
        return min(8, share_of_cpus(1 if trainer is None else trainer.num_devices) // 4)
    return min(8, share_of_cpus(trainer.num_devices) - 1)
