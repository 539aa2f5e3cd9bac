"""Whose mistake an error is."""

from __future__ import annotations

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
        # Where a setting may be one of several types jsonargparse lists them all; what the class
        # that was meant said is the cause.
        reason = error.__cause__ if str(error).startswith("Does not validate") else error
        if isinstance(reason, OSError):
            raise reason from None
        raise ConfigurationError(str(reason or error)) from error


LOADER_REMEDY = (
    "Lower `data.init_args.num_workers` (0 needs no shared memory) or `data.init_args.batch_size`, "
    "or give a container more shared memory, as in `docker run --shm-size=2g`; Docker's default is "
    "64 MB."
)
"""What to do where loader processes cannot deliver."""
