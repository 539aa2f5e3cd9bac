"""The dot plot of `vocabulary`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ovss.report.vocabulary import DRAW, Row, about, swings

_CLASSES = 20
"""Shown at most: those whose IoU changes most."""

_FIRST, _OTHERS, _SPAN = "tab:blue", "0.35", "0.85"


def draw_dots(rows: Sequence[Row], path: Path) -> None:
    """Draw the mIoU of each vocabulary, and each class's IoU with all of them.

    Bars are 95 % intervals of the difference to the first vocabulary, whose mIoU is the blue line.
    Draws share a line. A class's span is from its lowest to its highest IoU.

    Args:
        rows: of `ovss.report.vocabulary.scored_rows`.
        path: the PNG.
    """
    named = [row for row in rows if not row.name.startswith(DRAW)]
    draws = [row for row in rows if row.name.startswith(DRAW)]
    changes = swings(rows)[:_CLASSES]
    lines = max(len(named) + bool(draws), len(changes))
    figure = Figure(figsize=(9, 1.4 + 0.26 * lines), layout="constrained")
    left, right = figure.subplots(1, 2)
    figure.suptitle(about(rows), fontsize=8)
    _draw_vocabularies(left, named, draws)
    _draw_classes(right, rows, [change.label for change in changes])
    figure.savefig(path, dpi=100)


def _draw_vocabularies(axes: Axes, named: Sequence[Row], draws: Sequence[Row]) -> None:
    first = 100 * named[0].miou
    axes.axvline(first, color=_FIRST, linewidth=0.8)
    for height, row in enumerate(named):
        if row.gain is not None:
            ends = [first + 100 * row.gain.low, first + 100 * row.gain.high]
            axes.plot(ends, [height] * 2, color="0.6", linewidth=3, solid_capstyle="butt")
        axes.plot(100 * row.miou, height, "o", color=_FIRST if row is named[0] else _OTHERS)
    labels = [row.name for row in named]
    if draws:
        mious = [100 * row.miou for row in draws]
        axes.plot(mious, [len(named)] * len(draws), "o", color=_OTHERS, markerfacecolor="none")
        axes.plot(np.mean(mious), len(named), "|", color=_OTHERS, markersize=14)
        labels.append(f"{len(draws)} draws, mean")
    _label_lines(axes, labels, "mIoU, %")


def _draw_classes(axes: Axes, rows: Sequence[Row], labels: Sequence[int]) -> None:
    for height, label in enumerate(labels):
        iou = [100 * float(row.iou[label]) for row in rows]
        axes.plot([min(iou), max(iou)], [height] * 2, color=_SPAN, linewidth=3)
        axes.plot(iou[1:], [height] * len(iou[1:]), "o", color=_OTHERS, markersize=3)
        axes.plot(iou[0], height, "o", color=_FIRST, markersize=5)
    _label_lines(axes, [rows[0].run.classes[label] for label in labels], "IoU, %")


def _label_lines(axes: Axes, labels: Sequence[str], quantity: str) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xlabel(quantity)
    axes.grid(axis="x", color="0.92")
    axes.set_axisbelow(True)
