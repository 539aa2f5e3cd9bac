"""Errors that say what was expected where."""

from __future__ import annotations

from pathlib import Path


class DatasetNotFoundError(FileNotFoundError):
    """A data set is not where it was looked for.

    Args:
        name: the data set.
        root: the folder that was searched.
        tree: the expected layout, a line an entry.
        remedy: how to get it.
    """

    def __init__(self, name: str, root: str | Path, tree: str, remedy: str) -> None:
        layout = "\n".join(f"    {line}" for line in tree.strip().splitlines())
        super().__init__(
            f"Expected {name} under {Path(root).absolute()}, with this layout:\n{layout}\n{remedy}"
        )


class SharedMemoryError(RuntimeError):
    """A loader process has no room for a batch in shared memory."""
