"""Whose mistake an error is."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager


class ConfigurationError(ValueError):
    """A mistake in the command line or the configuration: the program ends with exit code 2."""


@contextmanager
def configuration_at_fault() -> Iterator[None]:
    """Take what is refused while things are built from the configuration for a mistake in it.

    Raises:
        ConfigurationError: in place of a `ValueError`.
        OSError: a file is missing or cannot be read.
    """
    try:
        yield
    except ValueError as error:
        if not str(error).startswith("Does not validate"):
            raise ConfigurationError(str(error)) from error
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from None
        # Without the cause, whose text has the whole value, in which a password may be.
        raise ConfigurationError(_of_the_type_that_was_meant(error)) from None


def _of_the_type_that_was_meant(error: ValueError) -> str:
    """What was wrong, where a setting may be one of several types and jsonargparse lists them all.

    The types that were not meant only say that they are others; the first one is the cause.
    """
    listed = str(error).partition("\nErrors:\n")[2].partition("\nGiven value type:")[0]
    reasons = [
        textwrap.dedent(f"    {each}") for each in re.split(r"^  - ", listed, flags=re.M)[1:]
    ]
    own = [reason for reason in [str(error.__cause__ or ""), *reasons] if reason]
    meant = [reason for reason in own if not _ANOTHER_TYPE.match(reason)]
    return (meant or [str(error).partition("\nGiven value type:")[0]])[0].strip()


_ANOTHER_TYPE = re.compile("Expected an? <class ")


LOADER_REMEDY = (
    "Lower `data.init_args.num_workers` (0 needs no shared memory) or `data.init_args.batch_size`, "
    "or give a container more shared memory, as in `docker run --shm-size=2g`; Docker's default is "
    "64 MB."
)
"""What to do where loader processes cannot deliver."""
