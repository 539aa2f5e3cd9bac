"""A table of methods and benchmarks as Markdown, CSV, JSON, LaTeX, a page, and for the terminal."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ovss.report.cells import Cell, Matrix
from ovss.report.page import TEMPLATES
from ovss.report.tables import print_whole
from ovss.runs.layout import RunLayout
from ovss.utils.text import no_formula


def as_markdown(matrix: Matrix) -> str:
    """A table of GitHub's kind, mIoU in percent, and its notes."""
    settings = any(row.apart for row in matrix.rows)
    header = ["method", *(["settings"] if settings else []), *map(_markdown, _keys(matrix))]
    lines = [_markdown_row(header), "|---|" + "---|" * settings + "---:|" * len(matrix.columns)]
    for row in matrix.rows:
        title = _markdown(row.title) + _sup(row.marks)
        own = [_markdown(row.settings)] if settings else []
        cells = [row.cells.get(key) for key in _keys(matrix)]
        texts = ["" if cell is None else _text(cell) + _sup(cell.marks) for cell in cells]
        lines.append(_markdown_row([title, *own, *texts]))
    said = [_about(matrix), *map(_markdown, matrix.described)]
    notes = [f"{_sup((mark,)).strip()} {_markdown(text)}" for mark, text in matrix.notes]
    return "\n".join([*lines, "", "<br>\n".join([*said, *notes]), ""])


def as_csv(matrix: Matrix) -> str:
    """A line a method: mIoU in percent, and of each benchmark the conditions in words."""
    intervals = matrix.has_intervals
    header = ["method", "model", "settings"]
    for key in _keys(matrix):
        header += [key, *([f"{key} low", f"{key} high"] if intervals else []), f"{key} conditions"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(no_formula, header))
    for row in matrix.rows:
        settings = ", ".join(f"{name} {value}" for name, value in row.apart.items())
        line = [row.method, row.model, settings]
        for key in _keys(matrix):
            line += _csv_cell(row.cells.get(key), intervals)
        writer.writerow(map(no_formula, line))
    return text.getvalue()


def as_json(matrix: Matrix) -> str:
    """All there is, mIoU in 0..1."""
    notes = dict(matrix.notes)

    def said(marks: tuple[str, ...]) -> dict[str, Any]:
        return {"notes": [notes[mark] for mark in marks]} if marks else {}

    def cell_data(cell: Cell) -> dict[str, Any]:
        return {
            "mIoU": cell.mIoU,
            **({} if cell.interval is None else {"interval": list(cell.interval)}),
            "conditions": dict(cell.conditions),
            **({} if cell.folder is None else {"run": str(cell.folder)}),
            **said(cell.marks),
        }

    data = {
        "columns": [
            {"benchmark": each.benchmark, "conditions": dict(each.conditions)}
            for each in matrix.columns
        ],
        "rows": [
            {
                "method": row.method,
                "model": row.model or None,
                "settings": dict(row.apart),
                **said(row.marks),
                "cells": {key: cell_data(cell) for key, cell in row.cells.items()},
            }
            for row in matrix.rows
        ],
    }
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def as_latex(matrix: Matrix) -> str:
    """A `table` with booktabs, mIoU in percent."""
    keys = _keys(matrix)
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex(_about(matrix))}}}",
        rf"\begin{{tabular}}{{l{'r' * len(keys)}}}",
        r"\toprule",
        _latex_row(["method", *keys]),
        r"\midrule",
    ]
    for row in matrix.rows:
        title = ", ".join(filter(None, (row.title, row.settings)))
        cells = [row.cells.get(key) for key in keys]
        texts = ["" if cell is None else _text(cell, "--") for cell in cells]
        marks = [row.marks, *(() if cell is None else cell.marks for cell in cells)]
        lines.append(_latex_row([title, *texts], marks))
    lines += [r"\bottomrule", r"\end{tabular}", r"\par\smallskip\raggedright\footnotesize"]
    lines += [rf"{_latex(text)}\par" for text in matrix.described]
    lines += [rf"\textsuperscript{{{mark}}} {_latex(text)}\par" for mark, text in matrix.notes]
    return "\n".join([*lines, r"\end{table}", ""])


def as_page(matrix: Matrix, folder: Path) -> str:
    """A page that needs neither the network nor other files; a click on a benchmark sorts it.

    Args:
        matrix: the table.
        folder: of the page; cells link from there to their runs' reports, as far as there are any.
    """
    script = TEMPLATES.get_template("sort.js").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return TEMPLATES.get_template("table.html").render(
        matrix=matrix,
        text=_text,
        link=lambda cell: _link(cell, folder),
        about_intervals=_of_intervals(matrix),
        script_digest=digest,
    )


def print_matrix(matrix: Matrix, console: Console) -> None:
    """Print a table for the terminal; a score is never broken, however narrow that is."""
    settings = any(row.apart for row in matrix.rows)
    drawn = Table(title="mIoU in percent", box=box.SIMPLE_HEAD)
    for name in ("method", *(["settings"] if settings else [])):
        drawn.add_column(name, min_width=16)
    columns = {key: [_plain(row.cells.get(key)) for row in matrix.rows] for key in _keys(matrix)}
    for key, cells in columns.items():
        header = key.replace("_", "_\n")
        widest = max(map(len, [*cells, *header.split("\n")]))
        drawn.add_column(Text(header), justify="right", min_width=widest)
    for row, *cells in zip(matrix.rows, *columns.values(), strict=True):
        title = " ".join([row.title, *row.marks])
        drawn.add_row(*map(Text, [title, *([row.settings] if settings else []), *cells]))
    print_whole(drawn, console)
    said = [*filter(None, [_of_intervals(matrix)]), *matrix.described]
    for text in (*said, *(f"{mark} {text}" for mark, text in matrix.notes)):
        console.print(Text(text), soft_wrap=True)


def _keys(matrix: Matrix) -> list[str]:
    return [column.benchmark for column in matrix.columns]


def _of_intervals(matrix: Matrix) -> str:
    return "In brackets: 95 % bootstrap intervals over photos." if matrix.has_intervals else ""


def _about(matrix: Matrix) -> str:
    return f"mIoU in percent. {_of_intervals(matrix)}".strip()


def _text(cell: Cell, to: str = " .. ") -> str:
    """A score, with its interval where it has one."""
    if cell.interval is None:
        return cell.written
    low, high = (f"{100 * end:.1f}" for end in cell.interval)
    return f"{cell.written} ({low}{to}{high})"


def _plain(cell: Cell | None) -> str:
    return "" if cell is None else " ".join([_text(cell), *cell.marks])


def _csv_cell(cell: Cell | None, intervals: bool) -> list[str]:
    if cell is None:
        return [""] * (4 if intervals else 2)
    # A published number has the digits that were published.
    mIoU = _two_digits(cell.mIoU) if cell.folder else cell.written
    ends = [_two_digits(end) for end in cell.interval or (None, None)] if intervals else []
    words = [
        value if name == "photos" else f"{name} {value}" for name, value in cell.conditions.items()
    ]
    said = ", ".join(filter(None, [*words, cell.origin]))
    return [mIoU, *ends, said]


def _two_digits(score: float | None) -> str:
    return "" if score is None else f"{100 * score:.2f}"


def _link(cell: Cell, folder: Path) -> str:
    """Where a run's report is from a page's folder; empty where there is none."""
    if cell.folder is None or not (report := RunLayout(cell.folder).report).is_file():
        return ""
    try:
        way = Path(os.path.relpath(report.resolve(), folder.resolve())).as_posix()
    except ValueError:  # on another drive
        return report.resolve().as_uri()
    return quote(way)


# ---- what has a meaning in a format is written so that it has none -------------------------------


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _markdown(text: str) -> str:
    return re.sub(r"([\\`*\[\]<>|~$]|&(?=[\w#])|\b_|_\b)", r"\\\1", _one_line(text))


def _markdown_row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _sup(marks: tuple[str, ...]) -> str:
    return f" <sup>{', '.join(marks)}</sup>" if marks else ""


_LATEX: Mapping[str, str] = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # after `\\` it would begin an option, and a star is eaten
    "*": "{*}",
    "]": "{]}",
    **{character: f"\\{character}" for character in "{}$&#%_"},
}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in _one_line(text))


def _latex_row(cells: list[str], marks: list[tuple[str, ...]] | None = None) -> str:
    own = marks or [()] * len(cells)
    texts = [
        _latex(cell) + (rf"\textsuperscript{{{','.join(each)}}}" if each else "")
        for cell, each in zip(cells, own, strict=True)
    ]
    return " & ".join(texts) + r" \\"
