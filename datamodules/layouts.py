"""Finding photos and masks in the layouts that people have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .dataset import Split
from .errors import DatasetNotFoundError
from .masks import Sample


@dataclass(frozen=True)
class Encoding:
    """One way in which masks are stored.

    Attributes:
        folders: where they may be, relative to the data set.
        suffix: what follows a photo's id in their names.
        labels: table from their values to labels; see `masks.label_table`.
    """

    folders: tuple[str, ...]
    suffix: str
    labels: np.ndarray


@dataclass(frozen=True)
class Layout:
    """A data set whose split is all files of a folder.

    Attributes:
        tree: the layout for people, a line an entry.
        base_folders: where the data set may be, relative to the root.
        photos: folders where its photos may be.
        suffix: what follows the id in a photo's name.
        encodings: kinds of masks, the preferred one first.
        nested: whether photos and masks are in a folder for each city.
    """

    tree: str
    base_folders: tuple[str, ...]
    photos: tuple[str, ...]
    suffix: str
    encodings: tuple[Encoding, ...]
    nested: bool = False

    def find(self, name: str, root: Path, remedy: str) -> Split:
        """All photos with the first kind of masks that is complete, ordered by id.

        Args:
            name: the data set, for errors.
            root: the folder to search.
            remedy: how to get the data, for errors.

        Raises:
            DatasetNotFoundError: no photos, or no masks of any kind.
            FileNotFoundError: photos without mask or masks without photo.
        """
        folders = [root / base / folder for base in self.base_folders for folder in self.photos]
        photos = first_listing(folders, self.suffix, self.nested)
        if not photos:
            raise DatasetNotFoundError(name, root, self.tree, remedy)
        kinds = []
        for encoding in self.encodings:
            places = [
                root / base / folder for base in self.base_folders for folder in encoding.folders
            ]
            masks = first_listing(places, encoding.suffix, self.nested)
            if masks.keys() == photos.keys():
                samples = [Sample(key, photos[key], masks[key]) for key in sorted(photos)]
                source = f"{_mask_folder(samples[0].mask, root, self.nested)}/*{encoding.suffix}"
                return Split(samples, encoding.labels, source)
            kinds.append((encoding, masks))
        encoding, masks = max(kinds, key=lambda kind: len(kind[1].keys() & photos.keys()))
        if not masks.keys() & photos.keys():
            raise DatasetNotFoundError(name, root, self.tree, remedy)
        without_mask = [str(photos[key]) for key in sorted(photos.keys() - masks.keys())]
        without_photo = [str(masks[key]) for key in sorted(masks.keys() - photos.keys())]
        raise FileNotFoundError(
            f"Expected a photo *{self.suffix} for each mask *{encoding.suffix} of {name} and the "
            f"other way round, but {len(without_mask)} photos have no mask and "
            f"{len(without_photo)} masks have no photo{_first_five(without_mask + without_photo)}"
            f"\n{remedy}"
        )


def first_listing(folders: Iterable[Path], suffix: str, nested: bool = False) -> dict[str, Path]:
    """The files with that suffix, by what stands before it, in the first folder that has any.

    Hidden files, such as those that macOS leaves beside the real ones, are not listed.
    """
    pattern = f"*/*{suffix}" if nested else f"*{suffix}"
    for folder in folders:
        files = {
            file.name[: -len(suffix)]: file
            for file in folder.glob(pattern)
            if not file.name.startswith(".")
        }
        # `000000000139.png` beside `000000000139_labelTrainIds.png`: ids have no underscore there.
        if suffix == ".png" and not nested:
            files = {key: file for key, file in files.items() if not key.endswith("TrainIds")}
        if files:
            return files
    return {}


def find_listed(
    name: str, ids: Sequence[str], listing: Path, photos: Path, masks: Path | None, remedy: str
) -> list[Sample]:
    """Photos `<id>.jpg` and masks `<id>.png` of the ids in a split list, in its order.

    Args:
        name: the data set, for errors.
        ids: the entries of the list.
        listing: the list; without `masks`, the file that has the labels.
        photos: folder of the photos.
        masks: folder of the masks.
        remedy: how to get the data, for errors.

    Raises:
        FileNotFoundError: missing files.
        ValueError: an empty list, or an id twice.
    """
    if not ids:
        raise ValueError(f"Expected photo names in {listing}, but it has none. {remedy}")
    twice = [photo_id for photo_id, count in Counter(ids).items() if count > 1]
    if twice:
        raise ValueError(f"Expected every photo once in {listing}, but got {twice[:5]} repeatedly.")
    samples = [
        Sample(i, photos / f"{i}.jpg", masks / f"{i}.png" if masks else listing) for i in ids
    ]
    # One listing of a folder is much quicker than thousands of questions on a network drive.
    there = {folder: _file_names(folder) for folder in (photos, masks) if folder}
    wanted = [sample.photo for sample in samples]
    wanted += [sample.mask for sample in samples if masks and sample.mask]
    missing = [str(path) for path in wanted if path.name not in there[path.parent]]
    if missing:
        raise FileNotFoundError(
            f"Expected the photos and masks of {name} that {listing} lists, but {len(missing)} "
            f"files are missing{_first_five(missing)}\n{remedy}"
        )
    return samples


def _file_names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()} if folder.is_dir() else set()


def _first_five(paths: Sequence[str]) -> str:
    return ", among them\n" + "\n".join(f"    {path}" for path in paths[:5])


def _mask_folder(mask: Path | None, root: Path, nested: bool) -> str:
    folder = mask.parents[1 if nested else 0] if mask else root
    return folder.relative_to(root).as_posix()
