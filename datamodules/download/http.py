"""Files from HTTP servers: resumed where they broke off, verified before they are used."""

from __future__ import annotations

import hashlib
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import Message
from http.client import HTTPException
from pathlib import Path
from typing import Any

from ovss.utils.files import check_no_link, check_regular, open_in_place, write_atomically

log = logging.getLogger(__name__)

BLOCK = 1 << 20
TIMEOUT = 60.0
"""Seconds without a byte after which a transfer counts as broken."""


class DownloadError(OSError):
    """A file could not be fetched, or is not what it should be."""


def download(
    url: str,
    target: Path,
    digest: str = "",
    size: int | None = None,
    progress: Callable[[int, int | None], None] | None = None,
    attempts: int = 5,
    pause: float = 1.0,
) -> None:
    """Fetch a file; it appears under its name only once it is whole and verified.

    What has come is kept in `<name>.part`, and a later call goes on from there if the server still
    has the same file: `<name>.part.version` holds what the server told it by.

    Args:
        url: http or https, as everywhere it redirects to.
        target: the file.
        digest: see `verify`.
        size: in bytes, if known; more are not received.
        progress: called with the bytes that are there and the bytes in all.
        attempts: broken transfers in a row, without a byte gained, after which to give up.
        pause: seconds before the second of them, doubled before each further one.

    Raises:
        DownloadError: the server refuses or keeps breaking off, or the file is not the right one.
        ValueError: `<name>.part` is a link or no file.
    """
    if not url.startswith(("http://", "https://")):
        raise DownloadError(f"Expected an http or https address, but got {url!r}.")
    part = target.with_name(target.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    check_no_link(part)
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            total = _transfer(url, part, digest, size, progress)
            have = part.stat().st_size
            if total is None or have >= total:
                break
            reason = f"the connection ended after {have} of {total} bytes"
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in (408, 429):
                raise DownloadError(
                    f"Expected {url} to be there, but the server says {error.code} "
                    f"{error.reason}. Get {target.name} from elsewhere, put it into "
                    f"{target.parent} and run this again."
                ) from error
            reason = f"the server says {error.code} {error.reason}"
        except DownloadError:
            raise
        except (HTTPException, OSError) as error:
            reason = str(error) or type(error).__name__
        gained = part.exists() and part.stat().st_size > before
        failures = 1 if gained else failures + 1
        if failures >= attempts:
            raise DownloadError(
                f"Expected to download {url}, but {reason}. What has come is kept in {part}: run "
                f"this again to go on, or put {target.name} into {target.parent} yourself."
            )
        log.warning("%s; trying again", reason)
        time.sleep(pause * 2 ** (failures - 1))
    try:
        verify(part, digest, size)
    except DownloadError:
        _discard(part)  # to go on from wrong bytes would never end well
        raise
    part.replace(target)
    _discard(part)


def _transfer(
    url: str,
    part: Path,
    digest: str,
    size: int | None,
    progress: Callable[[int, int | None], None] | None,
) -> int | None:
    """Append what is missing; the size of the whole file, None where the server does not say."""
    name, version = part.name.removesuffix(".part"), _version_file(part)
    if part.exists():
        check_regular(part)
    known = version.read_text(encoding="latin-1") if version.is_file() else ""
    if part.exists() and not (known or digest):
        part.unlink()  # nothing would tell the rest of another file
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "ovss"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        if known:
            request.add_header("If-Range", known)
    try:
        response = _opener.open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        # Nothing comes after what is there: it is whole, or of another file and starts anew.
        error.close()
        total = (error.headers.get("Content-Range") or "").rpartition("/")[2]
        if total != str(have) or known != (_version(error.headers) or known):
            _discard(part)
            return _transfer(url, part, digest, size, progress)
        return have
    with response:
        length, current = response.headers.get("Content-Length"), _version(response.headers)
        if length is not None and not (length.isascii() and length.isdigit()):
            raise DownloadError(
                f"Expected {url} to come with its length in bytes, but the server says "
                f"{length!r}. Get {name} from elsewhere, put it into {part.parent} and run this "
                "again."
            )
        resumed = response.status == 206 and (
            response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        )
        if resumed and known != (current or known):  # a server that does not heed If-Range
            _discard(part)
            return _transfer(url, part, digest, size, progress)
        # Without ranges, or when the file has changed, a server sends all of it again.
        done = have if resumed else 0
        total_bytes = done + int(length) if length else None
        if size is not None and total_bytes is not None:
            _check_size(name, total_bytes, size)
        if not resumed:
            _discard(part)
            if current:
                write_atomically(version, current.encode("latin-1"))
        with open_in_place(part, "ab" if resumed else "wb") as file:
            while block := response.read(BLOCK):
                file.write(block)
                done += len(block)
                if size is not None and done > size:
                    _discard(part)
                    _check_size(name, done, size)
                if progress is not None:
                    progress(done, total_bytes)
    return total_bytes


class _WebOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https; urllib's own would go on to ftp."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """See `urllib.request.HTTPRedirectHandler`."""
        if not newurl.startswith(("http://", "https://")):
            raise DownloadError(
                f"Expected {req.full_url} to redirect to http or https, but it does to {newurl!r}."
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_opener = urllib.request.build_opener(_WebOnly)


def _version(headers: Message) -> str:
    """What tells a file from the one that is there later: a strong ETag, or its time of change."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified", "")


def _version_file(part: Path) -> Path:
    return part.with_name(part.name + ".version")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _version_file(part).unlink(missing_ok=True)


def verify(path: Path, digest: str, size: int | None = None) -> None:
    """Check a file's size and checksum.

    Args:
        path: the file.
        digest: `algorithm:hexadecimal`; empty where none is published.
        size: in bytes, if known.

    Raises:
        DownloadError: another size or checksum.
    """
    name, actual_size = path.name.removesuffix(".part"), path.stat().st_size
    if size is not None:
        _check_size(name, actual_size, size)
    if not digest:
        return
    algorithm, _, expected = digest.partition(":")
    # MD5 and SHA-1 are what the data sets publish; they tell a broken file, not a forged one.
    hasher = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            hasher.update(block)
    if hasher.hexdigest() != expected:
        raise DownloadError(
            f"Expected {name} to have the {algorithm} checksum {expected}, but got "
            f"{hasher.hexdigest()}: it is damaged or another version. Delete it if it is still "
            "there, and run this again."
        )


def _check_size(name: str, actual: int, expected: int) -> None:
    if actual != expected:
        raise DownloadError(
            f"Expected {name} to have {expected} bytes, but got {actual}: it is cut short or "
            "another version. Delete it if it is still there, and run this again."
        )
