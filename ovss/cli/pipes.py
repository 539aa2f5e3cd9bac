"""A reader of the output that leaves, as `head` does, ends no command."""

from __future__ import annotations

import io
import os
import sys
from typing import Any


class _Output(io.FileIO):
    """Standard output or error; once nobody reads it, what is written is dropped."""

    def write(self, data: Any) -> int:
        """As a raw file's, but a broken pipe is no error."""
        try:
            return super().write(data)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())  # for what else writes there: libraries, children
            os.close(nowhere)
            return len(data)


def outlive_readers() -> None:
    """Let this process write to its end, whoever stops reading: a run's results are its files."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.flush()
            text = io.TextIOWrapper(
                io.BufferedWriter(_Output(stream.fileno(), "w", closefd=False)),
                encoding=stream.encoding,
                errors=stream.errors,
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
            setattr(sys, name, text)
