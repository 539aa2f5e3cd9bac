"""The files of a run: label maps that can be trusted after a crash, a lock, a fingerprint."""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import weakref
import zlib
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from filelock import lock_descriptor
from PIL import Image, PngImagePlugin

from ovss.runs.fingerprint import differences, digest_of, read_fingerprint
from ovss.runs.layout import FORMAT, RunLayout
from ovss.utils.files import (
    check_no_link,
    check_regular,
    expecting_writable,
    open_in_place,
    write_atomically,
    write_png,
)
from ovss.utils.text import counted

log = logging.getLogger(__name__)

_KEY = "ovss"
"""Keyword of the PNG text chunk that says where a label map is from."""


@runtime_checkable
class Resumable(Protocol):
    """What a resumed run needs of a data module; `datamodules` has it."""

    @property
    def photo_ids(self) -> list[str]:
        """Names of all photos, in data-set order."""

    def leave_out(self, finished: Collection[int]) -> list[int]:
        """Name indices of photos that are finished; gives back those that loaders leave out."""

    def ground_truth(self, index: int) -> Any:
        """Ground truth of one of `photo_ids`: its `mask` `(H, W)` and the labels `present`.

        None where it has none.
        """


class LabelMap(NamedTuple):
    """A finished photo.

    Attributes:
        labels: `(H, W)` uint8, labels of the benchmark.
        proposed: labels that were looked for.
        confidences: the proposal's confidence in each.
    """

    labels: np.ndarray
    proposed: tuple[int, ...]
    confidences: tuple[float, ...]


class RunFiles:
    """A run's label maps, one PNG a photo, with what tells them from other files.

    A label map is written to a temporary name, flushed to the disk and renamed, so it is whole or
    not there. In a text chunk it carries the photo's name, the run's fingerprint, the proposal
    and a checksum of the labels; `read` trusts nothing that does not agree.

    Args:
        layout: where the run's files are.
        palette: an RGB colour for each label.
    """

    def __init__(self, layout: RunLayout, palette: Sequence[tuple[int, int, int]]) -> None:
        self.layout = layout
        self.path = layout.folder
        self.num_classes = len(palette)
        self._palette = bytes(channel for colour in palette for channel in colour)
        self._digest = ""
        self._lock: IO[str] | None = None

    # ---- one configuration, one writer ---------------------------------------------------------

    def lock(self) -> None:
        """Keep other runs out of the folder until `unlock`, or until the process ends.

        Raises:
            ValueError: another run is at work there, or a link leads out of the folder.
            OSError: the folder cannot be written to.
        """
        with expecting_writable(self.path, "a run folder", "trainer.default_root_dir"):
            self.path.mkdir(parents=True, exist_ok=True)
            self._check_no_links()
            file = open_in_place(self.layout.lock, "a+")
        free = True
        try:
            # Of the file that is open, as the path is not to be followed anew.
            free = lock_descriptor(file.fileno(), blocking=False)
        except OSError as error:
            log.warning(
                "%s is on a file system without locks (%s): make sure that only one run "
                "writes there.",
                self.path,
                error.strerror,
            )
        if not free:
            holder = ""
            with suppress(OSError):  # Windows lets nobody read what is locked
                file.seek(0)
                holder = file.read(200).strip()
            file.close()
            raise ValueError(
                f"Expected to be the only run in {self.path}, but {holder or 'another process'} is "
                "at work there; wait for it, or choose another `trainer.default_root_dir`."
            )
        try:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}\n")
            file.flush()
        except OSError:  # a full disk; the lock holds without its text
            log.debug("Could not write the lock's owner", exc_info=True)
        self._lock = file
        _holders.add(self)

    def _check_no_links(self) -> None:
        """Refuse links that writing would follow; files that are replaced as a whole may be links.

        Raises:
            ValueError: names the link.
        """
        check_no_link(self.layout.config)
        for top in self.layout.folders:
            check_no_link(top)
            for folder, names, _ in os.walk(top):
                for name in names:
                    check_no_link(Path(folder, name))

    def unlock(self) -> None:
        """Let other runs in."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        _holders.discard(self)

    def claim(self, fingerprint: dict[str, Any]) -> None:
        """Make the folder this configuration's, or check that it is.

        Raises:
            ValueError: it holds results of another configuration; lists what differs.
        """
        self.use(fingerprint)
        path = self.layout.run
        if path.exists():
            theirs = read_fingerprint(path)
            differing = differences(theirs, fingerprint)
            if differing:
                lines = "\n".join(
                    f"    {name}: {there} in the folder, {here} now"
                    for name, there, here in differing
                )
                raise ValueError(
                    f"Expected {self.path} to be a new folder or one of this configuration, but "
                    f"its results were made with another one:\n{lines}\nChoose another "
                    "`trainer.default_root_dir`, or delete the folder to start anew."
                )
        else:
            data = json.dumps(
                {"format": FORMAT, "fingerprint": fingerprint}, indent=2, ensure_ascii=False
            )
            write_atomically(path, data + "\n")
        for leftover in self.layout.labels.glob("**/.*.tmp"):  # of a run that was killed
            leftover.unlink(missing_ok=True)

    def use(self, fingerprint: dict[str, Any]) -> None:
        """Mark label maps with a fingerprint, and trust those that carry it."""
        self._digest = digest_of(fingerprint)

    # ---- label maps ----------------------------------------------------------------------------

    def write(self, photo_id: str, label_map: LabelMap) -> None:
        """Write a finished photo's label map.

        Raises:
            OSError: a full disk, or no permission; nothing half-written stays behind.
        """
        # JSON's ASCII escapes, because a PNG text chunk is Latin-1.
        text = json.dumps(
            {
                "id": photo_id,
                "run": self._digest,
                "proposed": label_map.proposed,
                "confidences": label_map.confidences,
                "crc": zlib.crc32(label_map.labels.tobytes()),
            }
        )
        information = PngImagePlugin.PngInfo()
        information.add_text(_KEY, text)
        image = Image.fromarray(label_map.labels)
        image.putpalette(self._palette)
        # Level 1: label maps are flat, so more effort saves little and takes 3 times as long.
        path = self.layout.label_map(photo_id)
        write_png(path, image, pnginfo=information, compress_level=1)

    def read(self, photo_id: str) -> LabelMap | None:
        """A photo's label map; None where there is none that can be trusted."""
        path = self.layout.label_map(photo_id)
        if not path.exists():
            return None
        try:
            check_regular(path)
            with Image.open(path, formats=["PNG"]) as image:
                said = json.loads(image.info[_KEY])
                labels = np.asarray(image)
            if (
                said["id"] == photo_id
                and said["run"] == self._digest
                and said["crc"] == zlib.crc32(labels.tobytes())
                and labels.ndim == 2
            ):
                return LabelMap(labels, tuple(said["proposed"]), tuple(said["confidences"]))
        except Exception as error:  # whatever is wrong with the file, the photo is done again
            log.debug("%s: %s", path, error)
        return None

    def finished(self, photo_ids: Iterable[str]) -> set[str]:
        """The photos among the named ones that have a label map that can be trusted."""
        photo_ids = list(photo_ids)
        with ThreadPoolExecutor(8) as pool:  # most of the time goes into waiting for the disk
            trusted = list(pool.map(lambda name: self.read(name) is not None, photo_ids))
        done = {name for name, good in zip(photo_ids, trusted, strict=True) if good}
        distrusted = [n for n in photo_ids if n not in done and self.layout.label_map(n).exists()]
        if distrusted:
            log.warning(
                "%s in %s cannot be trusted, as damaged or of another run (%s ...); what they "
                "hold is done again.",
                counted(len(distrusted), "file"),
                self.layout.labels,
                distrusted[0],
            )
        return done

    # ---- a line a photo ------------------------------------------------------------------------

    def clear_parts(self) -> None:
        """Forget the parts of a run that did not come to its end, and what stands in their way."""
        parts, stopped = self.layout.parts, self.layout.stopped
        for path in [*parts.glob("*.jsonl*"), stopped] if parts.is_dir() else [parts, stopped]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def note_stop(self, reason: str) -> None:
        """Tell the other processes of the run that one leaves; the first to say so is heard."""
        try:
            with self.layout.stopped.open("x", encoding="utf-8") as file:
                file.write(reason)
        except FileExistsError:
            pass

    def merge_parts(self, world_size: int, order: Sequence[str] | None) -> None:
        """Write `photos.jsonl` from the parts of all processes.

        Args:
            world_size: how many parts there are.
            order: the photos in data-set order; None sorts by name.
        """
        lines: dict[str, str] = {}
        for rank in range(world_size):
            for line in self.layout.part(rank).read_text(encoding="utf-8").split("\n"):
                if line:
                    lines[json.loads(line)["id"]] = line
        names = sorted(lines) if order is None else [name for name in order if name in lines]
        write_atomically(self.layout.photos, "".join(lines[n] + "\n" for n in names))
        self.clear_parts()
        with suppress(OSError):  # a file manager's or NFS's own files may be there
            self.layout.parts.rmdir()


_holders: weakref.WeakSet[RunFiles] = weakref.WeakSet()


def _let_go() -> None:
    """A loader process must not keep the lock for seconds after its parent was killed."""
    for files in list(_holders):
        files.unlock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
