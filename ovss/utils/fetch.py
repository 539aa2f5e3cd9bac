"""A small file from a web server, into memory."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from http.client import HTTPException

LIMIT = 64 << 20
"""Bytes of the largest file that is taken: a photo of 50 megapixels as JPEG has half of it."""
TIMEOUT = 30.0
"""Seconds after which a transfer counts as broken, whether bytes still come or not."""
_BLOCK = 1 << 16


def is_url(source: object) -> bool:
    """Whether something is an address of http or https."""
    return isinstance(source, str) and source.lower().startswith(("http://", "https://"))


def fetch(url: str, limit: int = LIMIT, timeout: float = TIMEOUT) -> bytes:
    """What is at an address.

    Args:
        url: http or https, as everywhere it redirects to.
        limit: bytes; more are not received.
        timeout: seconds the server may take.

    Raises:
        OSError: the server cannot be reached, refuses, is too slow, or sends too much.
        ValueError: an address of another kind.
    """
    if not is_url(url):
        raise ValueError(f"Expected an http or https address, but got {url!r}.")
    began, data = time.monotonic(), bytearray()
    request = urllib.request.Request(url, headers={"User-Agent": "ovss"})
    try:
        with _opener().open(request, timeout=timeout) as answer:
            # One read may wait for each of its bytes; `read1` returns with what has come.
            while block := answer.read1(_BLOCK):
                data += block
                if len(data) > limit:
                    raise OSError(f"it is larger than {limit >> 20} MB")
                if time.monotonic() - began > timeout:
                    raise OSError(f"it took more than {timeout:.0f} s")
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        code = f"{error.code} " if isinstance(error, urllib.error.HTTPError) else ""
        raise OSError(
            f"Expected a photo at {url}, but fetching it failed ({code}{reason}); download it "
            "yourself and give the file."
        ) from error
    return bytes(data)


def _opener() -> urllib.request.OpenerDirector:
    """As urllib's, but a redirect leads to no file and no FTP server."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener
