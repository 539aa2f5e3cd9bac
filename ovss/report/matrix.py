"""`table`: methods x benchmarks from any run folders, and published numbers beside them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovss.report.apart import told_apart
from ovss.report.bootstrap import bootstrap_interval
from ovss.report.cells import (
    ALL_PHOTOS,
    OF_A_BENCHMARK,
    UNKNOWN,
    USUAL,
    Cell,
    Matrix,
    Row,
    with_notes,
)
from ovss.report.departures import departures
from ovss.report.formats import as_csv, as_json, as_latex, as_markdown, as_page
from ovss.report.published import read_published
from ovss.runs.fingerprint import flat, read_fingerprint
from ovss.runs.photos import counts_of
from ovss.runs.run import Run, read_run
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
    """A run on its way into a cell.

    Attributes:
        own: settings that are not the method's own.
        traits: by what runs in one cell are told apart.
    """

    method: str
    model: str
    benchmark: str
    settings: Mapping[str, str]
    own: Mapping[str, str]
    traits: Mapping[str, str]
    cell: Cell


def _read(folder: Path, draws: tuple[int, int] | None) -> _Result:
    run = read_run(folder)
    scores, fingerprint = run.scores, read_fingerprint(run.layout.run)
    settings = {name: str(value) for name, value in flat(scores["settings"]).items()}
    # Answers and their thresholds are a benchmark's own: they are no part of the method.
    proposals = {name: settings.pop(name) for name in [*settings] if name.startswith("proposals.")}
    proposals.pop("proposals.kind", None)
    for name in ("precision", "weights"):
        if name in fingerprint:
            settings[name] = str(fingerprint[name])
    names = fingerprint.get("benchmark", {})
    conditions = {
        "protocol": scores["protocol"],
        "proposals": scores["proposals"],
        **proposals,
        "prompts": scores.get("prompts", USUAL),
        **({"distractors": str(len(run.distractors))} if run.distractors else {}),
        "photos": seen(scores),
        "photo set": _digest([photo.id for photo in run.photos]),
        "class names": _digest([names.get("classes"), names.get("prompts")]),
        "ovss": str(fingerprint.get("ovss", "unknown")),
    }
    part = scores["photos"] < scores.get("expected_photos", 0)
    traits = {**conditions, "photos": f"{scores['photos']}" if part else "all"}
    for name in OF_A_BENCHMARK:
        del traits[name]
    cell = Cell(
        scores["mIoU"],
        percent(scores["mIoU"]),
        conditions,
        _interval(run, *draws) if draws else None,
        folder,
    )
    method = scores["method"]
    own = departures(method, scores["settings"], scores["benchmark"])
    return _Result(method, scores["model"], scores["benchmark"], settings, own, traits, cell)


def _digest(names: Any) -> str:
    """What tells lists of names apart."""
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()[:6]


def _interval(run: Run, resamples: int, seed: int) -> tuple[float, float]:
    counts = counts_of(run.scored)
    if len(counts) != run.scores["photos"]:
        raise ValueError(
            f"Expected {run.layout.photos} to have the {run.scores['photos']} photos that were "
            f"scored, but got {len(counts)}; run it again."
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
        part for rows in alike.values() for same in rows.values() for part in _one_a_cell(same)
    ]
    methods, models = (
        [getattr(part[0], name) for part, _ in parts] for name in ("method", "model")
    )
    apart = told_apart(methods, models, [{**part[0].settings, **own} for part, own in parts])
    return [
        Row(
            part[0].method,
            part[0].model,
            {each.benchmark: each.cell for each in part},
            {**own, **{n: v for each in part for n, v in each.own.items() if n not in own}},
        )
        for (part, _), own in zip(parts, apart, strict=True)
    ]


def _one_a_cell(results: Sequence[_Result]) -> list[tuple[list[_Result], dict[str, str]]]:
    """Runs of the same settings, dealt to rows with one of each benchmark.

    Returns:
        The runs of each row, and by what they are told from the other rows.
    """
    if len({each.benchmark for each in results}) == len(results):
        return [(list(results), {})]
    rows: list[list[_Result]] = []
    for each in results:
        free = [
            row
            for row in rows
            if row[0].traits == each.traits and all(o.benchmark != each.benchmark for o in row)
        ]
        if free:
            free[0].append(each)
        else:
            rows.append([each])
    names = dict.fromkeys(name for row in rows for name in row[0].traits)
    differing = [n for n in names if len({row[0].traits.get(n) for row in rows}) > 1]
    told = [{name: row[0].traits.get(name, "none") for name in differing} for row in rows]
    folders = [{"run": ", ".join(str(each.cell.folder) for each in row)} for row in rows]
    # The same in everything: by their folders.
    return [
        (row, own | (folder if told.count(own) > 1 else {}))
        for row, own, folder in zip(rows, told, folders, strict=True)
    ]


def _published_rows(keys: Sequence[str]) -> list[Row]:
    """Published numbers on some benchmarks, or on all."""
    rows: dict[tuple[str, str], dict[str, Cell]] = {}
    for each in read_published():
        if not keys or each.benchmark in keys:
            known = {name: getattr(each, name) or UNKNOWN for name in ("protocol", "proposals")}
            conditions = {**known, "prompts": USUAL, "photos": ALL_PHOTOS}
            origin = f"published: {each.origin}"
            cell = Cell(each.mIoU, each.written, conditions, origin=origin)
            rows.setdefault((each.method, each.backbone), {})[each.benchmark] = cell
    return [Row(method, backbone, cells) for (method, backbone), cells in rows.items()]
