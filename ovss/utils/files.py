"""Files that are whole or not there, and nothing but files."""

from __future__ import annotations

import io
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

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
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
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
