"""`table`: methods x benchmarks from any run folders, and published numbers beside them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovss.report.apart import told_apart
from ovss.report.bootstrap import bootstrap_interval
from ovss.report.cells import USUAL, Cell, Matrix, Row, with_notes
from ovss.report.formats import as_csv, as_json, as_latex, as_markdown, as_page
from ovss.report.published import read_published
from ovss.runs.fingerprint import flat
from ovss.runs.layout import RunLayout
from ovss.runs.photos import counts_of
from ovss.runs.run import read_results, read_run
from ovss.utils.files import write_atomically
from ovss.utils.progress import Progress
from ovss.utils.text import percent, seen


def read_matrix(
    folders: Sequence[Path],
    published: bool = False,
    intervals: bool = False,
    resamples: int = 10_000,
    seed: int = 0,
) -> Matrix:
    """The table of finished runs.

    A row is a method with a model and settings, proposals aside; a column is a benchmark. Runs that
    would share a cell have rows of their own. Cells whose protocol, proposals, prompts, photos or
    version are not those of their column's most are marked, with a note that says what differs.

    Args:
        folders: of runs; a folder that is given twice counts once.
        published: whether rows of published numbers follow, of all benchmarks where there are no
            runs, else of theirs.
        intervals: whether mIoUs get 95 % bootstrap intervals over photos.
        resamples: draws of the bootstrap.
        seed: of the draws.

    Raises:
        FileNotFoundError: a run is missing or not finished.
        ValueError: a run that cannot be read, or neither runs nor published numbers.
    """
    if not folders and not published:
        raise ValueError(
            "Expected at least one run for a table, or published numbers, but got none."
        )
    unique: dict[Path, Path] = {}
    for folder in folders:
        unique.setdefault(folder.resolve(), folder)
    with Progress("intervals", len(unique), "runs", enabled=intervals) as progress:
        results = []
        for folder in unique.values():
            results.append(_read(folder, (resamples, seed) if intervals else None))
            progress.advance()
    rows = _rows(results)
    keys = list(dict.fromkeys(result.benchmark for result in results))
    if published:
        rows += _published_rows(keys)
        keys = keys or list(dict.fromkeys(each.benchmark for each in read_published()))
    return with_notes(rows, keys)


def write_matrix(matrix: Matrix, output: Path, page: Path | None = None) -> list[Path]:
    """Write a table as Markdown, CSV, JSON, LaTeX and a page.

    Args:
        matrix: the table.
        output: a path without a suffix: `.md`, `.csv`, `.json`, `.tex` and `.html` are added.
        page: where the page goes instead; its links lead from there to the runs' reports.

    Returns:
        The files.

    Raises:
        OSError: a file cannot be written.
    """
    page = page or output.with_name(f"{output.name}.html")
    contents = {
        output.with_name(f"{output.name}.md"): as_markdown(matrix),
        output.with_name(f"{output.name}.csv"): as_csv(matrix),
        output.with_name(f"{output.name}.json"): as_json(matrix),
        output.with_name(f"{output.name}.tex"): as_latex(matrix),
        page: as_page(matrix, page.parent),
    }
    for path, content in contents.items():
        write_atomically(path, content)
    return list(contents)


@dataclass(frozen=True)
class _Result:
    """A run on its way into a cell: what it is, and by what runs in one cell are told apart."""

    method: str
    model: str
    benchmark: str
    settings: Mapping[str, str]
    traits: Mapping[str, str]
    cell: Cell


def _read(folder: Path, draws: tuple[int, int] | None) -> _Result:
    layout = RunLayout(folder)
    scores, fingerprint = read_results(layout)
    settings = {name: str(value) for name, value in flat(scores["settings"]).items()}
    # Answers and their thresholds are a benchmark's own: they are no part of the method.
    proposals = {name: settings.pop(name) for name in [*settings] if name.startswith("proposals.")}
    proposals.pop("proposals.kind", None)
    for name in ("precision", "weights"):
        if name in fingerprint:
            settings[name] = str(fingerprint[name])
    conditions = {
        "protocol": scores["protocol"],
        "proposals": scores["proposals"],
        **proposals,
        "prompts": scores.get("prompts", USUAL),
        **({"distractors": str(len(scores["distractors"]))} if "distractors" in scores else {}),
        "photos": seen(scores),
        "ovss": str(fingerprint.get("ovss", "unknown")),
    }
    part = scores["photos"] < scores.get("expected_photos", 0)
    traits = {**conditions, "photos": f"{scores['photos']}" if part else "all"}
    cell = Cell(
        scores["mIoU"],
        percent(scores["mIoU"]),
        conditions,
        _interval(folder, scores, *draws) if draws else None,
        folder,
    )
    return _Result(scores["method"], scores["model"], scores["benchmark"], settings, traits, cell)


def _interval(
    folder: Path, scores: Mapping[str, Any], resamples: int, seed: int
) -> tuple[float, float]:
    run = read_run(folder)
    counts = counts_of(run.scored)
    if len(counts) != scores["photos"]:
        raise ValueError(
            f"Expected {run.layout.photos} to have the {scores['photos']} photos that were scored, "
            f"but got {len(counts)}; run it again."
        )
    classes, distractors = len(run.classes), len(run.distractors)
    return bootstrap_interval(counts, classes, run.protocol, resamples, seed, distractors)


def _rows(results: Sequence[_Result]) -> list[Row]:
    """A row for each method with its settings, those of one method and model together."""
    alike: dict[tuple[str, str], dict[str, list[_Result]]] = {}
    for result in results:
        rows = alike.setdefault((result.method, result.model), {})
        rows.setdefault(json.dumps(result.settings, sort_keys=True), []).append(result)
    parts = [
        part for rows in alike.values() for same in rows.values() for part in _one_a_cell(same, {})
    ]
    methods, models = (
        [getattr(part[0], name) for part, _ in parts] for name in ("method", "model")
    )
    apart = told_apart(methods, models, [{**part[0].settings, **own} for part, own in parts])
    return [
        Row(part[0].method, part[0].model, {each.benchmark: each.cell for each in part}, own)
        for (part, _), own in zip(parts, apart, strict=True)
    ]


def _one_a_cell(
    results: list[_Result], own: Mapping[str, str]
) -> Iterator[tuple[list[_Result], dict[str, str]]]:
    """Runs of the same settings, dealt to rows with one of each benchmark.

    Args:
        results: the runs.
        own: by what they have been told from others.

    Yields:
        The runs of a row, and by what they are told from other rows.
    """
    count = Counter(result.benchmark for result in results)
    crowded = [result for result in results if count[result.benchmark] > 1]
    if not crowded:
        yield results, dict(own)
        return
    for name in dict.fromkeys(name for result in crowded for name in result.traits):
        values = {(each.benchmark, each.traits.get(name)) for each in crowded}
        if len(values) > len({key for key, _ in values}):
            break
    else:  # the same in everything: by their folders
        name = "run"
    parts: dict[str, list[_Result]] = {}
    for each in crowded:
        taken = sum(each.benchmark == other.benchmark for part in parts.values() for other in part)
        parts.setdefault(str(taken) if name == "run" else each.traits.get(name, "none"), []).append(
            each
        )
    # A run that is the only one of its benchmark stays with those that it is like.
    for each in results:
        if each not in crowded:
            parts.get(each.traits.get(name, "none"), next(iter(parts.values()))).append(each)
    for value, part in parts.items():
        told = str(part[0].cell.folder) if name == "run" else value
        yield from _one_a_cell(part, {**own, name: told})


def _published_rows(keys: Sequence[str]) -> list[Row]:
    """Published numbers on some benchmarks, or on all."""
    rows: dict[tuple[str, str], dict[str, Cell]] = {}
    for each in read_published():
        if not keys or each.benchmark in keys:
            cell = Cell(
                each.mIoU, each.written, each.conditions, origin=f"published: {each.origin}"
            )
            rows.setdefault((each.method, each.backbone), {})[each.benchmark] = cell
    return [Row(method, backbone, cells) for (method, backbone), cells in rows.items()]
