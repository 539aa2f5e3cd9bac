"""A file of answers that grows while it is in use."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import lock_descriptor

from ovss.utils.files import check_no_link, check_regular, open_in_place, write_atomically

log = logging.getLogger(__name__)


class AnswerFile:
    """A JSON object of answers by photo, as `FileProposer` reads it.

    It is whole at any time. Processes and runs may add to it together: one at a time, each to what
    the others wrote.

    Args:
        path: the file; made, with its folder, when the first answer comes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, str]:
        """The answers; none where there is no file yet.

        Raises:
            ValueError: something else in its place.
        """
        if not self.path.exists():
            return {}
        check_regular(self.path)
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            content = error
        if not isinstance(content, dict) or not all(isinstance(a, str) for a in content.values()):
            raise ValueError(
                f"Expected {self.path} to be a JSON object of answers by photo, but got "
                f"{str(content)[:80]}; delete it, or give another `folder`."
            )
        return content

    def add(self, answers: Mapping[str, str]) -> None:
        """Write more answers.

        Raises:
            ValueError: see `read`; or the file is a link.
            OSError: it cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        check_no_link(self.path)
        with self._lock():
            whole = {**self.read(), **answers}
            write_atomically(self.path, json.dumps(whole, indent=0, ensure_ascii=False) + "\n")

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Wait until no other process adds.

        Without locks (some network file systems) the answer of one of two processes that
        write at the same moment may be missing from the file, and is asked for again next time.
        """
        with open_in_place(self.path.with_name(f".{self.path.name}.lock"), "a") as file:
            try:
                lock_descriptor(file.fileno())  # until the file is closed
            except OSError as error:
                log.debug("No lock on %s: %s", self.path, error)
            yield
