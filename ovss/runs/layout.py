"""Where everything in a run's folder is. Nobody else joins paths there."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FORMAT = 2
"""Of the files of a run; in `run.json`. A folder of another format is refused."""


@dataclass(frozen=True)
class RunLayout:
    """The files of a run.

    Attributes:
        folder: the run's folder.
    """

    folder: Path

    @property
    def run(self) -> Path:
        """The format, and the fingerprint of the configuration that the results are of."""
        return self.folder / "run.json"

    @property
    def config(self) -> Path:
        """The resolved configuration of the newest start."""
        return self.folder / "config.yaml"

    @property
    def lock(self) -> Path:
        """Locked by the run at work, with its process in it."""
        return self.folder / ".lock"

    @property
    def stopped(self) -> Path:
        """Which process of the run at work got which signal; there only once one did."""
        return self.folder / ".stopped"

    @property
    def labels(self) -> Path:
        """Folder of the label maps."""
        return self.folder / "labels"

    def label_map(self, photo_id: str) -> Path:
        """A photo's label map; a name with slashes gets folders of its own.

        Raises:
            ValueError: a name that would lead out of the folder, or that no file can have.
        """
        parts = photo_id.split("/")
        if problem := _problem(photo_id, parts):
            raise ValueError(
                f"Expected a photo name that is a path inside the run folder, but got "
                f"{photo_id!a}, which {problem}; rename the photo."
            )
        return self.labels.joinpath(*parts[:-1], f"{parts[-1]}.png")

    @property
    def photos(self) -> Path:
        """A line a photo: what was looked for, and its confusion counts."""
        return self.folder / "photos.jsonl"

    @property
    def parts(self) -> Path:
        """Folder of the processes' lines until they are merged into `photos`."""
        return self.folder / "parts"

    def part(self, rank: int) -> Path:
        """A process's finished lines."""
        return self.parts / f"{rank}.jsonl"

    def unfinished_part(self, rank: int) -> Path:
        """A process's lines while it is at work."""
        return self.parts / f"{rank}.jsonl.unfinished"

    @property
    def scores(self) -> Path:
        """The scores with the settings they are only comparable with."""
        return self.folder / "scores.json"

    @property
    def per_class(self) -> Path:
        """IoU and accuracy of each class."""
        return self.folder / "per_class.csv"

    @property
    def timing(self) -> Path:
        """Photos a second, and seconds by stage."""
        return self.folder / "timing.json"

    @property
    def report(self) -> Path:
        """The page about the run."""
        return self.folder / "report.html"

    @property
    def overlays(self) -> Path:
        """Folder of the overlays."""
        return self.folder / "overlays"

    def overlay(self, photo_id: str) -> Path:
        """A photo's overlay."""
        return self.overlays / self.label_map(photo_id).relative_to(self.labels)

    def coco(self, kind: str) -> Path:
        """COCO's annotations of a kind: `rle` or `panoptic`."""
        return self.folder / f"coco_{kind}.json"

    @property
    def panoptic(self) -> Path:
        """Folder of the segments in COCO's panoptic format."""
        return self.folder / "coco_panoptic"

    def coco_panoptic(self, photo_id: str) -> Path:
        """A photo's segments as COCO's panoptic format has them."""
        return self.panoptic / self.label_map(photo_id).relative_to(self.labels)

    @property
    def folders(self) -> tuple[Path, ...]:
        """All folders in the run's folder."""
        return self.labels, self.parts, self.overlays, self.panoptic

    @property
    def text_features(self) -> Path:
        """What methods made of class names, kept as the proposals are."""
        return self.proposals.with_name("text_features")

    @property
    def proposals(self) -> Path:
        """What costly proposers answered, kept beside the run for all runs there.

        A run in the working folder itself keeps it inside: never outside of one's own tree.
        """
        here = self.folder.resolve() == Path.cwd()
        return (self.folder if here else self.folder.parent) / "proposals"


def _problem(photo_id: str, parts: Sequence[str]) -> str:
    """Why a photo's name cannot be a label map's; empty where it can."""
    # Control characters (Cc), and separators of lines and paragraphs, which text files split at.
    if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in photo_id):
        return "has a line break or another control character"
    if any(unicodedata.category(character) == "Cs" for character in photo_id):
        return "is not UTF-8"
    if "\\" in photo_id or Path(photo_id).drive:
        return "has a backslash or a drive, which lead elsewhere on Windows"
    if "" in parts:
        return "is empty or has an empty part between slashes"
    if "." in parts or ".." in parts:
        return "leads to another folder"
    longest = max(len(f"{part}.png".encode()) for part in parts)
    return "" if longest <= _NAME_BYTES else f"takes {longest} bytes of {_NAME_BYTES} with .png"


_NAME_BYTES = 255
"""Of a file name on all common file systems."""
