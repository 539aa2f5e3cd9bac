"""Where the trials of a study are kept: a database, or a journal on a shared file system."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

log = logging.getLogger(__name__)

_MAKING_TABLES = 60.0
"""Seconds for another process to make the tables of a new database."""


def open_storage(storage: str | None, folder: Path) -> BaseStorage:
    """Where trials are kept.

    Args:
        storage: an Optuna URL such as `postgresql://...`, or the path of a journal file (for file
            systems shared by a cluster, where SQLite's locks do not work); default: SQLite in
            `folder`.
        folder: the run's.

    Raises:
        ValueError: it cannot be opened, is damaged, or the package for such a database is missing.
    """
    if storage is None:
        folder.mkdir(parents=True, exist_ok=True)
        storage = f"sqlite:///{folder / 'study.db'}"
    try:
        return _open_database(storage) if "://" in storage else _open_journal(Path(storage))
    except (ImportError, OSError, SQLAlchemyError, StorageInternalError) as error:
        raise ValueError(
            f"Expected `study.storage` to be a database or a journal file that can be opened, but "
            f"{storage} cannot: {str(error).splitlines()[0]}"
        ) from error


def _open_database(url: str) -> RDBStorage:
    # SQLite lets one process write at a time; the others wait instead of failing.
    waiting = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    deadline = time.monotonic() + _MAKING_TABLES
    while True:
        try:
            return RDBStorage(url, engine_kwargs=waiting)
        except (SQLAlchemyError, StorageInternalError) as error:
            # Optuna makes the tables unless it sees them, which another process may just be doing.
            reason = f"{error} {error.__cause__}"
            raced = any(sign in reason for sign in ("UNIQUE", "already exists", "locked"))
            if not (raced or isinstance(error, IntegrityError)) or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _open_journal(path: Path) -> JournalStorage:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return JournalStorage(JournalFileBackend(str(path), _MendingLock(str(path))))
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
        raise ValueError(
            f"Expected `study.storage` to be a journal that Optuna wrote, but {path} is damaged or "
            f"another file ({error!r}); put a copy of it back, or give another --study.storage."
        ) from error


class _MendingLock(JournalFileSymlinkLock):
    """Optuna's lock for writing to a journal, which takes half a line off its end first.

    A process that was killed, or a full disk, leaves one. Optuna does not read it, but writes on
    behind it, and then nobody can read the journal.
    """

    def acquire(self) -> bool:
        """Wait for the lock; see `JournalFileSymlinkLock`."""
        acquired = super().acquire()
        try:
            with open(self._lock_target_file, "r+b") as file:  # noqa: PTH123 - the parent's str
                size = file.seek(0, os.SEEK_END)
                file.seek(max(size - 1, 0))
                if file.read(1) not in (b"", b"\n"):
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)
                    log.warning(
                        "Took half a line off the end of %s: a process was cut off while it wrote.",
                        self._lock_target_file,
                    )
        except BaseException:
            self.release()
            raise
        return acquired
