"""What settings do to a score: the cells of an ablation as a table, files and a plot."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from ovss.report.bootstrap import BootstrapResult, paired_bootstrap
from ovss.report.tables import conditions_line
from ovss.runs.photos import counts_of
from ovss.runs.run import Run, read_run
from ovss.utils.files import write_atomically
from ovss.utils.text import percent

log = logging.getLogger(__name__)


class Row(NamedTuple):
    """A cell of an ablation.

    Attributes:
        run: its folder, read back.
        settings: what was varied.
        gain: its mIoU minus the best cell's; None for the best, and where the photos are others.
    """

    run: Run
    settings: Mapping[str, Any]
    gain: BootstrapResult | None

    @property
    def miou(self) -> float:
        """In 0..1."""
        return float(self.run.scores["mIoU"])


def read_ablation(folder: Path, cells: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """The cells of an ablation, the best first; of equal ones the one that was named first.

    Args:
        folder: with a run folder for each cell.
        cells: name of the run folder -> what was varied.

    Raises:
        FileNotFoundError: a cell is not finished.
    """
    runs = {name: read_run(folder / name) for name in cells}
    names = sorted(runs, key=lambda name: -runs[name].scores["mIoU"])
    best = runs[names[0]]
    return [Row(runs[name], cells[name], _gain(best, runs[name])) for name in names]


def _gain(best: Run, run: Run) -> BootstrapResult | None:
    if run is best or [p.id for p in run.scored] != [p.id for p in best.scored]:
        return None
    counts = counts_of(best.scored), counts_of(run.scored)
    distractors = len(run.distractors)
    return paired_bootstrap(*counts, len(run.classes), run.protocol, distractors=distractors)


def ablation_table(rows: Sequence[Row]) -> Table:
    """The cells with their mIoU in percent, for the terminal."""
    table = Table(title=conditions_line(rows[0].run.scores))
    heading, *lines = _texts(rows)
    for name in heading:
        table.add_column(name, justify="right")
    for line in lines:
        table.add_row(*line)
    return table


def write_ablation(folder: Path, rows: Sequence[Row]) -> list[Path]:
    """Write `ablation.csv` (mIoU in 0..1), `ablation.md` and, with matplotlib, `ablation.png`."""
    sheet, page, picture = (folder / f"ablation.{kind}" for kind in ("csv", "md", "png"))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*rows[0].settings, "mIoU", "gain", "low", "high", "photos", "folder"])
    for row in rows:
        gain = row.gain or ("", "", "")
        values = [_written(value) for value in row.settings.values()]
        writer.writerow([*values, row.miou, *gain, row.run.scores["photos"], row.run.name])
    write_atomically(sheet, text.getvalue())
    heading, *lines = _texts(rows)
    rule = ["---:"] * len(heading)
    grid = "\n".join(f"| {' | '.join(cells)} |" for cells in (heading, rule, *lines))
    write_atomically(
        page, f"mIoU in percent; {conditions_line(rows[0].run.scores)}.\n\n{grid}\n\n{_NOTE}\n"
    )
    if find_spec("matplotlib") is None:
        log.info("No plot, which needs matplotlib: `pip install 'ovss[tune]'`.")
        return [sheet, page]
    draw_ablation(rows, picture)
    return [sheet, page, picture]


_NOTE = (
    "Behind the best: the difference of the mIoUs in points, with the 95 % interval of the paired "
    "bootstrap over photos."
)


def _texts(rows: Sequence[Row]) -> list[list[str]]:
    """The heading and a line for each row."""
    lines = [[*rows[0].settings, "mIoU", "behind the best", "photos"]]
    for row in rows:
        behind = "-"
        if row.gain is not None:
            low, high = (f"{100 * value:+.1f}" for value in row.gain[1:])
            behind = f"{100 * row.gain.difference:+.1f} ({low} .. {high})"
        values = [_written(value) for value in row.settings.values()]
        lines.append([*values, percent(row.miou), behind, str(row.run.scores["photos"])])
    return lines


def _written(value: Any) -> str:
    """As one gives it: `null` for None."""
    return value if isinstance(value, str) else json.dumps(value)


def draw_ablation(rows: Sequence[Row], path: Path) -> None:
    """Draw mIoU over each varied setting.

    A thin line joins the cells that differ in this setting alone; the thick one goes through the
    best cell of each value.
    """
    from matplotlib.figure import Figure

    values = {
        name: list(dict.fromkeys(r.settings[name] for r in rows)) for name in rows[0].settings
    }
    varied = {name: _in_order(own) for name, own in values.items() if len(own) > 1}
    names = list(varied) or list(values)[:1]
    figure = Figure(figsize=(1 + 3 * len(names), 3.2), layout="constrained")
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axis, name in zip(axes, names, strict=True):
        own = varied.get(name, values[name])
        numeric = all(isinstance(value, (int, float)) for value in own)
        place = {value: value if numeric else float(i) for i, value in enumerate(own)}
        lines: dict[tuple[Any, ...], list[tuple[float, float]]] = {}
        for row in rows:
            others = tuple(value for other, value in row.settings.items() if other != name)
            point = (place[row.settings[name]], 100 * row.miou)
            lines.setdefault(others, []).append(point)
        for line in lines.values():
            axis.plot(*zip(*sorted(line), strict=True), ".-", color="0.75", linewidth=0.8)
        best = {
            x: max(y for line in lines.values() for at, y in line if at == x)
            for x in place.values()
        }
        axis.plot(list(best), list(best.values()), "o-", color="C0")
        axis.set_xticks(list(place.values()), [_written(value) for value in own])
        axis.set(xlabel=name)
    axes[0].set(ylabel="mIoU, %")
    figure.suptitle(conditions_line(rows[0].run.scores), fontsize=7, wrap=True)
    figure.savefig(path, dpi=110)


def _in_order(values: list[Any]) -> list[Any]:
    """None, numbers ascending, names."""
    return sorted(values, key=lambda own: (own is not None, isinstance(own, str), own or 0))
