"""What all benchmarks share: reading photos and masks, and the loaders."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.sampler import UnpaddedSampler
from ovss.benchmark import Benchmark, PhotoBatch
from ovss.preprocessing import InputSpec, Preprocess, read_photo


@dataclass(frozen=True)
class Sample:
    """A photo and its mask.

    Attributes:
        id: unique name; results are keyed by it.
        photo: the image file.
        mask: the ground-truth file; None where there is none.
    """

    id: str
    photo: Path
    mask: Path | None = None


class PhotoDataset(Dataset):
    """Decoded photos, masks as labels, and the VLM's input.

    Args:
        samples: the files.
        benchmark: classes and colours.
        labels: `(256,)` table from a mask file's values to labels; negative for values that must
            not occur.
        preprocess: photo -> VLM input.
        read_mask: decodes a sample's mask to `(H, W)` uint8 file values. Default: a PNG.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        benchmark: Benchmark,
        labels: np.ndarray,
        preprocess: Callable[[np.ndarray], Tensor],
        read_mask: Callable[[Sample], np.ndarray] | None = None,
    ) -> None:
        self.samples = samples
        self.benchmark = benchmark
        self.labels = labels
        self.preprocess = preprocess
        self.read_mask = read_mask or read_png_mask

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One photo.

        Raises:
            ValueError: an unreadable file, a mask of another size, or an unknown mask value.
        """
        sample = self.samples[index]
        photo = read_photo(sample.photo)
        item: dict[str, Any] = {
            "id": sample.id,
            "photo": torch.from_numpy(photo.transpose(2, 0, 1).copy()),
            "pixel_values": self.preprocess(photo),
        }
        if sample.mask is not None:
            mask = self.mask(sample)
            if mask.shape != photo.shape[:2]:
                raise ValueError(
                    f"Expected {sample.mask} to have the size of its photo, "
                    f"{photo.shape[0]} x {photo.shape[1]} (height x width), but got "
                    f"{mask.shape[0]} x {mask.shape[1]}."
                )
            item["mask"] = torch.from_numpy(mask)
            scored = np.bincount(mask.ravel(), minlength=256) > 0
            item["present"] = tuple(label for label in self.benchmark.searchable if scored[label])
        return item

    def mask(self, sample: Sample) -> np.ndarray:
        """A sample's labels `(H, W)` uint8."""
        values = self.read_mask(sample)
        labels = self.labels[values]
        if labels.min(initial=0) < 0:
            unknown = np.unique(values[labels < 0]).tolist()
            raise ValueError(
                f"Expected the values of {self.benchmark.title} in {sample.mask}, but got "
                f"{unknown[:5]}; is this another data set's mask, or one saved with loss?"
            )
        return labels.astype(np.uint8)


def read_png_mask(sample: Sample) -> np.ndarray:
    """A palette or grey PNG's raw values, `(H, W)` uint8; colours are never interpreted.

    Raises:
        FileNotFoundError: no such file.
        ValueError: unreadable, or not a single-channel 8-bit image.
    """
    path = sample.mask
    try:
        with Image.open(path) as image:  # type: ignore[arg-type]
            if image.mode not in ("P", "L"):
                raise ValueError(
                    f"Expected {path} to be a palette or grey 8-bit PNG, but got mode "
                    f"{image.mode}; class labels cannot be read from colours."
                )
            return np.asarray(image)
    except FileNotFoundError:
        raise FileNotFoundError(f"Expected a mask at {path}, but there is no such file.") from None
    except (OSError, SyntaxError) as error:
        raise ValueError(f"Expected {path} to be a readable mask, but got: {error}.") from error


def collate(items: Sequence[dict[str, Any]]) -> PhotoBatch:
    """Items of `PhotoDataset` as one batch; photos and masks keep their own sizes."""
    with_truth = "mask" in items[0]
    return PhotoBatch(
        ids=[item["id"] for item in items],
        photos=[item["photo"] for item in items],
        pixel_values=torch.stack([item["pixel_values"] for item in items]),
        present=[item["present"] for item in items] if with_truth else None,
        masks=[item["mask"] for item in items] if with_truth else None,
    )


class BenchmarkDataModule(LightningDataModule, ABC):
    """A benchmark's photos and masks for `trainer.test` and `trainer.predict`.

    A subclass gives `benchmark`, `labels` and `find`; see `datamodules.voc`.

    Args:
        root: where the data is.
        benchmark: classes and scoring.
        labels: `(256,)` table from mask values to labels; negative where a value must not occur.
        limit: only the first so many photos; scores then say so.
        batch_size: photos in a step.
        num_workers: loader processes; default: the cores this process may use, less one, at most 8.
        spec: the VLM's input; default: asked of the module under test.
    """

    def __init__(
        self,
        root: str | Path,
        benchmark: Benchmark,
        labels: np.ndarray,
        limit: int | None = None,
        batch_size: int = 8,
        num_workers: int | None = None,
        spec: InputSpec | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"Expected `batch_size` to be at least 1, but got {batch_size}.")
        if limit is not None and limit < 1:
            raise ValueError(f"Expected `limit` to be at least 1 or null, but got {limit}.")
        self.root = Path(root).expanduser()
        self.benchmark = benchmark
        self.labels = labels
        self.limit = limit
        self.batch_size = batch_size
        self.num_workers = default_workers() if num_workers is None else num_workers
        self.spec = spec
        self._dataset: PhotoDataset | None = None

    @abstractmethod
    def find(self) -> list[Sample]:
        """The files of the whole split, in a fixed order.

        Raises:
            DatasetNotFoundError: the data is not there.
            FileNotFoundError: some photos or masks are missing.
        """

    def read_mask(self, sample: Sample) -> np.ndarray:
        """Decode a mask to file values; override for masks that are not PNGs."""
        return read_png_mask(sample)

    @property
    def dataset(self) -> PhotoDataset:
        """The photos, once `setup` ran."""
        if self._dataset is None:
            raise RuntimeError("Expected `setup()` to have run before `dataset` is used; call it.")
        return self._dataset

    def setup(self, stage: str | None = None) -> None:
        """Find the files and check that the split is whole.

        Raises:
            ValueError: another number of photos than the benchmark has.
        """
        samples = self.find()
        expected = self.benchmark.expected
        if expected is not None and len(samples) != expected and self.limit is None:
            raise ValueError(
                f"Expected {expected} photos in {self.benchmark.title}, but found {len(samples)} "
                f"under {self.root}; complete the data, or ask for a part of it with `limit`."
            )
        self._dataset = PhotoDataset(
            samples[: self.limit],
            self.benchmark,
            self.labels,
            Preprocess(self._input_spec()),
            self.read_mask,
        )

    def _input_spec(self) -> InputSpec:
        if self.spec is not None:
            return self.spec
        module = getattr(self.trainer, "lightning_module", None)
        if not hasattr(module, "input_spec"):
            raise ValueError(
                "Expected the module under test to have `input_spec(benchmark)`, as ovss.PnPOVSS "
                "has; for another module give the data module `spec=InputSpec(...)`."
            )
        return module.input_spec(self.benchmark)

    def test_dataloader(self) -> DataLoader:
        """Each photo once, over all processes."""
        return DataLoader(
            self.dataset,
            batch_size=self.batch_size,
            sampler=UnpaddedSampler(self.dataset, self.batch_size),
            num_workers=self.num_workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
        )

    def predict_dataloader(self) -> DataLoader:
        """The same photos as for testing."""
        return self.test_dataloader()


def default_workers() -> int:
    """Loader processes that leave a core for the model: the usable cores less one, at most 8."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(8, max(0, (usable or 1) - 1))


def check_pairs(samples: Sequence[Sample]) -> None:
    """Refuse samples whose files are missing, listing the first five.

    Raises:
        FileNotFoundError: with the missing files.
    """
    paths = [path for sample in samples for path in (sample.photo, sample.mask) if path]
    missing = [path for path in paths if not path.exists()]
    if missing:
        listed = "\n".join(f"    {path}" for path in missing[:5])
        raise FileNotFoundError(
            f"Expected a photo and a mask for every entry of the split, but {len(missing)} files "
            f"are missing, among them\n{listed}\nExtract the archives again."
        )
