"""What `prepare` has to know of a download."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

Selection = Callable[[str], bool]
"""Whether a member of an archive is needed, by its name."""


@dataclass(frozen=True)
class Archive:
    """A file on a server and what evaluation needs of it.

    Attributes:
        name: file name.
        url: where it is; empty where it is behind a registration and people put it into the root.
        digest: `algorithm:hexadecimal` as published; empty where none is.
        size: in bytes; None where it is not known.
        members: shell patterns of the members to extract; `{id}` stands for each name in `listing`.
            Empty: the file itself is the data.
        listing: names of the photos in the split, from the data root and a reader of the archive's
            members.
        into: folder under the root to extract into.
        done: pattern under the root, and how many files match it once this archive is extracted.
    """

    name: str
    url: str
    done: tuple[str, int]
    digest: str = ""
    size: int | None = None
    members: tuple[str, ...] = ()
    listing: Callable[[Path, Callable[[str], bytes]], Iterable[str]] | None = None
    into: str = "."

    def is_done(self, root: Path) -> bool:
        """Whether the root has what this archive gives."""
        pattern, count = self.done
        return sum(1 for _ in root.glob(pattern)) >= count

    def selection(self, root: Path, read: Callable[[str], bytes]) -> Selection:
        """Which members to extract.

        Args:
            root: the data root, with the archives before this one extracted.
            read: a member's content by its name.
        """
        if self.listing is None:
            return lambda name: any(fnmatchcase(name, pattern) for pattern in self.members)
        ids = set(self.listing(root, read))

        def needed(name: str) -> bool:
            stem = PurePosixPath(name).stem
            patterns = (
                pattern.replace("{id}", stem)
                for pattern in self.members
                if "{id}" not in pattern or stem in ids
            )
            return any(fnmatchcase(name, pattern) for pattern in patterns)

        return needed
