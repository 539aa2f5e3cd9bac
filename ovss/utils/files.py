"""Files that are whole or not there, and nothing but files."""

from __future__ import annotations

import io
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from PIL import Image


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Write a file so that readers see the old one or the new one, never a part.

    Args:
        path: the file; its folder is made.
        content: text (UTF-8) or bytes.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode("utf-8") if isinstance(content, str) else content
    # Without the file's name, which may be as long as names can be.
    handle, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_UMASK)  # noqa: PTH101 - mkstemp's 0600 hides it from others
        os.replace(temporary, path)  # noqa: PTH105
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def expecting_writable(path: str | Path, what: str, setting: str) -> Iterator[None]:
    """Say of what cannot be made or written within what was expected and what to do.

    Args:
        path: the folder that is written to.
        what: it is, such as "a run folder".
        setting: that names it.

    Raises:
        OSError: as it was raised, in these words.
    """
    try:
        yield
    except OSError as error:
        raise type(error)(
            error.errno,
            f"Expected {what} that can be written to, but got {path} ({error.strerror}); choose "
            f"another `{setting}`",
        ) from error


def make_writable(folder: Path, what: str, setting: str) -> None:
    """Make a folder that results will go to, before the work rather than after it.

    Raises:
        OSError: see `expecting_writable`.
    """
    with expecting_writable(folder, what, setting):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


def check_regular(path: str | Path) -> None:
    """Refuse what reading could wait for without end, or set off: pipes, sockets, devices.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: no ordinary file, nor a link to one.
    """
    mode = os.stat(path).st_mode  # noqa: PTH116 - of a path that may be text
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "a special file")
        raise ValueError(f"Expected {path} to be a file, but it is {kind}; remove it.")


def check_no_link(path: str | Path) -> None:
    """Refuse to write where a link leads, which may be out of the folder.

    Raises:
        ValueError: the path itself is a link; the folders above it may be.
    """
    if os.path.islink(path):  # noqa: PTH114 - a path that may be text
        raise ValueError(
            f"Expected {path} not to be a link, as it would be written to, but it leads to "
            f"{os.readlink(path)}; remove it."  # noqa: PTH115
        )


def open_in_place(path: str | Path, mode: str) -> IO[Any]:
    """Open a file that is written where it is, unlike those of `write_atomically`.

    Args:
        path: the file.
        mode: as `open` takes it; text is UTF-8.

    Raises:
        ValueError: a link, or no ordinary file.
    """
    check_no_link(path)
    if os.path.exists(path):  # noqa: PTH110
        check_regular(path)
    encoding = None if "b" in mode else "utf-8"
    return open(path, mode, encoding=encoding, opener=_open_no_link)


def _open_no_link(path: str, flags: int) -> int:
    # Windows has no such flag, and no links without an administrator.
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def write_png(path: str | Path, image: Image.Image, **options: Any) -> None:
    """Write a picture as `write_atomically` writes; the options are those of Pillow's PNG."""
    data = io.BytesIO()
    image.save(data, "png", **options)
    write_atomically(path, data.getvalue())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# Asked for once: reading it means setting it, which two threads must not do at the same time.
_UMASK = _umask()
