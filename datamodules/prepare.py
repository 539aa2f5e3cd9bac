"""Getting a benchmark's data, and checking what is there."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.progress import TransferSpeedColumn as SpeedColumn

from ovss.utils.cpus import usable_cpus

from .base import BenchmarkDataModule
from .dataset import PhotoDataset
from .download.archives import Archive
from .download.extract import extract
from .download.http import DownloadError, download, verify
from .errors import DatasetNotFoundError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """What was found in a data root.

    Attributes:
        title: the benchmark.
        root: where.
        photos: how many.
        source: what the labels come from.
        labels: how many of the classes occur; None without ground truth.
        classes: how many classes there are.
    """

    title: str
    root: Path
    photos: int
    source: str
    labels: int | None
    classes: int

    def __str__(self) -> str:
        seen = "" if self.labels is None else f", {self.labels} of {self.classes} classes occur"
        return f"{self.title}: {self.photos} photos in {self.root}, labels from {self.source}{seen}"


def prepare(
    datamodule: BenchmarkDataModule,
    check: bool = False,
    mirror: str | None = None,
    archives: Sequence[Archive] | None = None,
    console: Console | None = None,
) -> Found:
    """Download what evaluation needs and is not there yet, then check everything.

    An archive that lies in the root already is used and left there; one that is downloaded is
    deleted once it is extracted.

    Args:
        datamodule: the benchmark and its root.
        check: only look, do not download or write.
        mirror: address of a folder to get the archives from, instead of their own addresses.
        archives: what to download; default: the data module's.
        console: where progress is shown; default: standard error.

    Returns:
        What was found.

    Raises:
        DatasetNotFoundError: the data is not there, and has to be got by hand.
        DownloadError: see `http.download` and `extract.extract`.
        ValueError: photos or masks that cannot be used; the first five are listed.
    """
    console = console or Console(stderr=True)
    if not check:
        datamodule.prepare_data()
    if not check and not _is_complete(datamodule):
        for archive in datamodule.archives if archives is None else archives:
            if not archive.is_done(datamodule.root):
                _check_writable(datamodule.root)
                _download_and_extract(archive, datamodule, mirror, console)
    return inspect(datamodule, console)


def inspect(datamodule: BenchmarkDataModule, console: Console | None = None) -> Found:
    """Read every photo and mask once.

    Raises:
        FileNotFoundError: photos or masks are missing.
        ValueError: another number of photos than expected, or files that cannot be used.
    """
    split = datamodule.find_whole()
    dataset = PhotoDataset(split, datamodule.benchmark)

    def read_one(index: int) -> tuple[tuple[int, ...], str]:
        try:
            labels = dataset.read(index)[1]
            return labels.present if labels else (), ""
        except (OSError, ValueError) as error:
            return (), str(error)

    present: Counter[int] = Counter()
    problems = []
    with (
        _progress_bar("check", console or Console(stderr=True), in_bytes=False) as update,
        # Decoding lets go of the interpreter's lock.
        ThreadPoolExecutor(min(8, usable_cpus())) as threads,
    ):
        for number, (labels, problem) in enumerate(threads.map(read_one, range(len(dataset))), 1):
            present.update(labels)
            if problem:
                problems.append(problem)
            update(number, len(dataset))
    if problems:
        listed = "\n".join(f"    {problem}" for problem in problems[:5])
        raise ValueError(
            f"Expected {len(dataset)} photos of {datamodule.benchmark.title} to be usable, but "
            f"{len(problems)} are not, among them\n{listed}"
        )
    benchmark = datamodule.benchmark
    with_truth = any(sample.mask for sample in split.samples)
    occurring = len(set(present) & set(range(benchmark.scored)))
    return Found(
        benchmark.title,
        datamodule.root,
        len(dataset),
        split.source,
        occurring if with_truth else None,
        benchmark.scored,
    )


def _is_complete(datamodule: BenchmarkDataModule) -> bool:
    try:
        datamodule.find_whole()
    except (FileNotFoundError, ValueError) as error:
        log.debug("not whole yet: %s", error)
        return False
    return True


def _check_writable(root: Path) -> None:
    reason = ""
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f" ({error.strerror})"
    if reason or not os.access(root, os.W_OK):
        raise DownloadError(
            f"Expected to write the data into {root}, but that is not possible{reason}; choose "
            "another folder with --data.init_args.root, or have somebody run this who may."
        )


def _download_and_extract(
    archive: Archive, datamodule: BenchmarkDataModule, mirror: str | None, console: Console
) -> None:
    """Download an archive, or take the one in the root, and extract it."""
    root = datamodule.root
    into = root / archive.into
    path = (root if archive.members else into) / archive.name
    own = path.is_file()
    if own:
        console.print(f"{archive.name}: found in {path.parent}")
        verify(path, archive.digest, archive.size)
    elif archive.url or mirror:
        url = f"{mirror.rstrip('/')}/{archive.name}" if mirror else archive.url
        console.print(f"{archive.name}: from {url}")
        with _progress_bar(archive.name, console) as update:
            download(url, path, archive.digest, archive.size, update)
    else:
        raise DatasetNotFoundError(
            datamodule.benchmark.title, root, archive.name, datamodule.remedy
        )
    if not archive.members:
        return
    with _progress_bar(f"extract {archive.name}", console) as update:
        count = extract(path, into, lambda read: archive.selection(root, read), update)
    console.print(f"{archive.name}: {count} files extracted")
    if not own:
        path.unlink()


@contextmanager
def _progress_bar(
    what: str, console: Console, in_bytes: bool = True
) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar for bytes, or for files."""
    units = (DownloadColumn(), SpeedColumn()) if in_bytes else (TextColumn("{task.completed}"),)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *units,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(what, total=None)

        def update(done: int, total: int | None) -> None:
            bar.update(task, completed=done, total=total)

        yield update
