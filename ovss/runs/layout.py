"""Where everything in a run's folder is. Nobody else joins paths there."""

from __future__ import annotations

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
            ValueError: a name that would lead out of the folder.
        """
        parts = photo_id.split("/")
        if (
            any(part in ("", ".", "..") for part in parts)
            or any(not character.isprintable() or character == "\\" for character in photo_id)
            or Path(photo_id).drive
        ):
            raise ValueError(
                f"Expected a photo name that is a path inside the run folder, but got "
                f"{photo_id!r}; rename the photo."
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

    def coco_panoptic(self, photo_id: str) -> Path:
        """A photo's segments as COCO's panoptic format has them."""
        return self.folder / "coco_panoptic" / self.label_map(photo_id).relative_to(self.labels)

    @property
    def proposals(self) -> Path:
        """What costly proposers answered, kept beside the run for all runs there.

        A run in the working folder itself keeps it inside: never outside of one's own tree.
        """
        here = self.folder.resolve() == Path.cwd()
        return (self.folder if here else self.folder.parent) / "proposals"
