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
from typing import IO, NamedTuple

from datamodules.download.archives import Selection
from datamodules.download.http import DownloadError


class Member(NamedTuple):
    """A regular file in an archive.

    Attributes:
        name: its path inside.
        size: in bytes, extracted.
        open: its content.
    """

    name: str
    size: int
    open: Callable[[], IO[bytes]]


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
                yield {member.name: member for member in _zip_members(archive, path)}
        elif tarfile.is_tarfile(path):
            with tarfile.open(path) as archive:
                yield {member.name: member for member in _tar_members(archive, path)}
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
                target = Path(temporary, *PurePosixPath(member.name).parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                with member.open() as source, target.open("xb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
                if target.stat().st_size != member.size:
                    raise DownloadError(f"Expected {member.size} bytes of {member.name} in {path}.")
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


def _check_name(name: str, path: Path) -> None:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or ".." in parts or parts[0] == "/" or PureWindowsPath(name).drive:
        raise DownloadError(
            f"Expected members of {path} to stay inside it, but got {name!r}; do not use this file."
        )


def _zip_members(archive: zipfile.ZipFile, path: Path) -> Iterator[Member]:
    for info in archive.infolist():
        # Reading the name as it was written: zipfile mends some of it.
        _check_name(info.orig_filename, path)
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise DownloadError(_not_a_file(info.filename, path))
        if not info.is_dir():
            yield Member(info.filename, info.file_size, partial(archive.open, info))


def _tar_members(archive: tarfile.TarFile, path: Path) -> Iterator[Member]:
    for info in archive:
        _check_name(info.name, path)
        if not (info.isreg() or info.isdir()):
            raise DownloadError(_not_a_file(info.name, path))
        if info.isreg():
            yield Member(info.name, info.size, partial(_tar_open, archive, info))


def _tar_open(archive: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    content = archive.extractfile(info)
    if content is None:  # cannot be: it is a regular file
        raise DownloadError(_not_a_file(info.name, Path(str(archive.name))))
    return content


def _not_a_file(name: str, path: Path) -> str:
    return (
        f"Expected files and folders in {path}, but {name!r} is a link or a device; do not use "
        "this file."
    )
