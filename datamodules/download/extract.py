"""Members of tar and zip archives, extracted whole or not at all."""

from __future__ import annotations

import lzma
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, NamedTuple, cast

from .archives import Selection
from .http import DownloadError


class Member(NamedTuple):
    """A regular file in an archive.

    Attributes:
        size: in bytes, extracted.
        open: its content.
        extract: writes it under a folder.
    """

    size: int
    open: Callable[[], IO[bytes]]
    extract: Callable[[str], object]


@contextmanager
def opened(path: Path) -> Iterator[dict[str, Member]]:
    """An archive's regular files by name.

    Raises:
        DownloadError: not an archive, cut short, or with a member that has no business there: a
            path that leads outside, a link, or a device.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                yield dict(_zip_members(archive, path))
        elif tarfile.is_tarfile(path):
            with tarfile.open(path) as archive:
                yield dict(_tar_members(archive, path))
        else:
            raise DownloadError(
                f"Expected {path} to be a tar or zip archive, but it is neither; download it again."
            )
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DownloadError(
            f"Expected {path} to be a whole archive, but reading failed ({error}); delete it and "
            "run this again."
        ) from error


def extract(
    path: Path,
    into: Path,
    needed: Callable[[Callable[[str], bytes]], Selection],
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Extract the needed members into a temporary folder, then move them into place.

    Args:
        path: the archive.
        into: folder to extract into; made if it is not there.
        needed: from a reader of members to which ones to extract.
        progress: called with the bytes that are extracted and the bytes in all.

    Returns:
        Number of files.

    Raises:
        DownloadError: see `opened`; or nothing in the archive is needed, or the disk is too small.
    """
    with opened(path) as members:

        def read(name: str) -> bytes:
            if name not in members:
                raise DownloadError(
                    f"Expected {name} in {path}, but it is not there; is it another archive?"
                )
            with members[name].open() as source:
                return source.read()

        select = needed(read)
        chosen = [member for name, member in members.items() if select(name)]
        if not chosen:
            raise DownloadError(
                f"Expected the members that evaluation needs in {path}, but there are none among "
                f"{list(members)[:3]} and others; is it another archive?"
            )
        total = sum(member.size for member in chosen)
        into.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(into).free
        if total > free:
            raise DownloadError(
                f"Expected {total / 1e9:.1f} GB free under {into}, but there are {free / 1e9:.1f}; "
                "make room or choose another root."
            )
        with tempfile.TemporaryDirectory(prefix=".extracting-", dir=into) as temporary:
            done = 0
            for member in chosen:
                member.extract(temporary)
                done += member.size
                if progress is not None:
                    progress(done, total)
            _move_into_place(Path(temporary), into)
    return len(chosen)


def _move_into_place(source: Path, target: Path) -> None:
    """Move a tree: folders that are new as a whole, others file by file."""
    for entry in sorted(source.iterdir()):
        destination = target / entry.name
        if entry.is_dir() and destination.is_dir():
            _move_into_place(entry, destination)
        else:
            os.replace(entry, destination)  # noqa: PTH105 - rename() does not replace everywhere


def _zip_members(archive: zipfile.ZipFile, path: Path) -> Iterator[tuple[str, Member]]:
    for info in archive.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        # The name as it was written: zipfile mends some of it.
        _check(info.orig_filename, kind in (0, stat.S_IFREG, stat.S_IFDIR), path)
        if not info.is_dir():
            member = Member(
                info.file_size, partial(archive.open, info), partial(archive.extract, info)
            )
            yield info.filename, member


def _tar_members(archive: tarfile.TarFile, path: Path) -> Iterator[tuple[str, Member]]:
    # Python before 3.10.12 and 3.11.4 has no filter and ignores this. What is left there are our
    # own checks, which are stricter, and `set_attrs`, without which no owner or mode is taken over.
    archive.extraction_filter = getattr(tarfile, "data_filter", None)
    for info in archive:
        _check(info.name, info.isreg() or info.isdir(), path)
        if info.isreg():
            # `extractfile` gives None for what is not a file.
            content = cast("Callable[[], IO[bytes]]", partial(archive.extractfile, info))
            write = partial(archive.extract, info, set_attrs=False)
            yield info.name, Member(info.size, content, write)


def _check(name: str, is_file_or_folder: bool, path: Path) -> None:
    """Refuse an archive for a member, needed or not, that honest archives do not have."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or ".." in parts or parts[0] == "/" or PureWindowsPath(name).drive:
        raise DownloadError(
            f"Expected members of {path} to stay inside it, but got {name!r}; do not use this file."
        )
    if not is_file_or_folder:
        raise DownloadError(
            f"Expected files and folders in {path}, but {name!r} is a link or a device; do not use "
            "this file."
        )
