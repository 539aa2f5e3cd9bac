"""`compare`: several runs on the same photos, against the first of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ovss.metrics import iou_per_class, margins
from ovss.report.apart import in_short, told_apart
from ovss.report.bootstrap import BootstrapResult, paired_bootstrap
from ovss.report.gallery import Photos, show_photo
from ovss.report.page import TEMPLATES
from ovss.report.tables import print_whole
from ovss.runs.photos import PhotoRecord, counts_of
from ovss.runs.run import Run, read_run
from ovss.utils.files import make_writable, write_atomically
from ovss.utils.text import counted, percent

log = logging.getLogger(__name__)

_MUST_AGREE = ("benchmark", "protocol")
_SHOWN_PHOTOS = 6


@dataclass(frozen=True)
class Row:
    """A run beside the first one.

    Attributes:
        run: which, with the photos that all runs have.
        title: its folder, as short as it is unique.
        miou: on those photos, in 0..1.
        iou: `(classes,)` likewise; NaN for classes that do not count.
        gain: its mIoU minus the first run's; None for the first.
    """

    run: Run
    title: str
    miou: float
    iou: np.ndarray
    gain: BootstrapResult | None


def compare_runs(
    folders: Sequence[Path],
    output: Path,
    resamples: int = 10_000,
    seed: int = 0,
    open_photos: Callable[[Run], Photos | None] = lambda run: None,
) -> None:
    """Print a table and write a page; see `compare_rows` for what can be compared.

    Args:
        folders: of runs; the others are compared with the first.
        output: the page.
        resamples: draws of the paired bootstrap.
        seed: of the draws.
        open_photos: gives a run's photos and ground truth, if they are at hand.

    Raises:
        OSError: a run is missing, or the page cannot be written.
    """
    make_writable(output.parent, "a folder for the report", "--output")
    rows = compare_rows([read_run(folder) for folder in folders], resamples, seed)
    console = Console()
    print_whole(_rich_table(rows), console)
    write_atomically(output, _page(rows, open_photos(rows[0].run), resamples))
    console.print(Text(f"report: {output}"), soft_wrap=True)


def compare_rows(runs: Sequence[Run], resamples: int = 10_000, seed: int = 0) -> list[Row]:
    """Scores on the photos that all runs have, with intervals of the differences to the first.

    Raises:
        ValueError: fewer than two runs, other benchmarks, protocols, classes or ground truths, or
            no photo in common.
    """
    if len(runs) < 2:
        raise ValueError(f"Expected at least two runs to compare, but got {len(runs)}.")
    first = runs[0]
    for run in runs[1:]:
        for name in _MUST_AGREE:
            if run.scores[name] != first.scores[name]:
                raise ValueError(
                    f"Expected runs of one {name}, but got {first.scores[name]!r} in "
                    f"{first.folder} and {run.scores[name]!r} in {run.folder}; their scores "
                    "measure different things."
                )
        if run.classes != first.classes:
            raise ValueError(
                f"Expected runs with the same classes, but {run.folder} has others than "
                f"{first.folder}."
            )
    common = set.intersection(*({photo.id for photo in run.scored} for run in runs))
    if not common:
        raise ValueError("Expected runs on the same photos, but they have none in common.")
    everything = max(len(run.scored) for run in runs)
    if len(common) < everything:
        log.warning("Compared on the %d photos of %d that all runs have.", len(common), everything)
    ids = [photo.id for photo in first.scored if photo.id in common]
    titles = _titles([run.folder for run in runs])
    rows: list[Row] = []
    for run, title in zip(runs, titles, strict=True):
        by_id: dict[str, PhotoRecord] = {photo.id: photo for photo in run.scored}
        same = Run(run.layout, run.scores, tuple(by_id[photo_id] for photo_id in ids))
        counts = counts_of(same.photos)
        gain = None
        if rows:
            gain = paired_bootstrap(
                counts_of(rows[0].run.photos),
                counts,
                len(run.classes),
                run.protocol,
                resamples,
                seed,
                max(len(each.distractors) for each in runs),
            )
        sums = torch.from_numpy(margins(counts, len(run.classes), len(run.distractors)).sum(0))
        hits, truth, predicted = sums
        iou = iou_per_class(hits, truth, predicted, run.protocol)
        rows.append(Row(same, title, float(iou.nanmean()), iou.numpy(), gain))
    return rows


def _titles(folders: Sequence[Path]) -> list[str]:
    """The folders' names, or their paths where names are the same."""
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _cells(rows: Sequence[Row]) -> list[list[str]]:
    """What the table says of each run; the first columns are texts, the last three numbers."""
    runs = [row.run for row in rows]
    methods, models = ([run.scores[name] for run in runs] for name in ("method", "model"))
    apart = told_apart(methods, models, [run.settings for run in runs])
    proposals = told_apart([""] * len(runs), models, [_proposals(run) for run in runs])
    return [
        [
            f"{run.scores['method']}, {run.scores['model']}",
            row.title,
            in_short({**other, **own}),
            percent(row.miou),
            "" if row.gain is None else f"{100 * row.gain.difference:+.1f}",
            "" if row.gain is None else f"{100 * row.gain.low:+.1f} .. {100 * row.gain.high:+.1f}",
        ]
        for row, run, own, other in zip(rows, runs, apart, proposals, strict=True)
    ]


def _proposals(run: Run) -> dict[str, str]:
    """Of the settings the one that scores of other methods depend on as well."""
    return {name: value for name, value in run.settings.items() if name == "proposals.kind"}


_HEADER = ("method", "run", "settings", "mIoU", "difference", "95 % interval")


def _rich_table(rows: Sequence[Row]) -> Table:
    scores = rows[0].run.scores
    drawn = Table(
        title=f"{scores['benchmark']}, protocol {scores['protocol']}, "
        f"{counted(len(rows[0].run.photos), 'photo')}"
    )
    cells = _cells(rows)
    for number, name in enumerate(_HEADER):
        # Numbers are not broken, texts are.
        widest = max(len(line[number]) for line in cells) if number > 2 else None
        justify: Any = "left" if number < 3 else "right"
        drawn.add_column(name, justify=justify, overflow="fold", min_width=widest)
    for line in cells:
        drawn.add_row(*map(Text, line))
    return drawn


def _page(rows: Sequence[Row], dataset: Photos | None, resamples: int) -> str:
    return TEMPLATES.get_template("compare.html").render(
        rows=rows,
        header=_HEADER,
        cells=_cells(rows),
        resamples=resamples,
        **_classes(rows),
        **_photos(rows, dataset),
    )


def _classes(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Bars of each class's `changes` from the first run to the last, and a table of all `iou`."""
    names = rows[0].run.classes
    labels = [k for k in range(len(names)) if any(not np.isnan(row.iou[k]) for row in rows)]
    # A class that one run found nowhere and nothing of is there in no photo: it counts as 0.
    change = np.nan_to_num(rows[-1].iou) - np.nan_to_num(rows[0].iou)
    largest = max((abs(change[k]) for k in labels), default=0) or 1.0
    bars = [(names[k], change[k] / largest, f"{100 * change[k]:+.1f}") for k in labels]
    iou = [
        [names[k], *(percent(None if np.isnan(row.iou[k]) else row.iou[k]) for row in rows)]
        for k in labels
    ]
    return {"changes": sorted(bars, key=lambda bar: -bar[1]), "iou": iou}


def _photos(rows: Sequence[Row], dataset: Photos | None) -> dict[str, list[Any]]:
    """The `photos` that differ most between the first run and the last, and their `figures`."""
    first, last = rows[0].run, rows[-1].run
    change = last.photo_scores - first.photo_scores
    order = np.argsort(-np.abs(np.nan_to_num(change)), kind="stable")[:_SHOWN_PHOTOS]
    photos, figures = [], []
    for index in order:
        photo = first.photos[index]
        before, after = (percent(float(run.photo_scores[index])) for run in (first, last))
        written = f"{100 * change[index]:+.1f}"
        photos.append((photo.id, before, after, written))
        if dataset is not None:
            files = [(row.title, row.run.label_map(photo.id)) for row in rows]
            caption = f"{photo.id}: mIoU {before} to {after} ({written})"
            if figure := show_photo(dataset, photo, files, caption):
                figures.append(figure)
    return {"photos": photos, "figures": figures}
