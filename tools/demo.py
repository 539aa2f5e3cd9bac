"""The demo: segment and score the drawn scenes, say what Salience DropOut brings, draw a picture.

Runs the command line once for each row of the table, on the shipped model: the default and one
round, whose label maps the picture shows, and with `--table` the others. All runs can be resumed,
so a second call takes seconds. All settings were chosen on the scenes' dev split.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table

from ovss.benchmark import Benchmark
from ovss.cli.main import main as train_free_eval
from ovss.report.bootstrap import paired_bootstrap
from ovss.runs.run import Run, counts_of, read_run
from ovss.visualization.overlay import draw_legend, draw_overlay, load_font

ROWS: dict[str, tuple[str, list[str]]] = {
    "GradCAM + Salience DropOut": ("", []),
    "GradCAM, one round": (
        "_one_round",
        ["--model.dropout.rounds=1", "--model.labeller.threshold=0.01"],
    ),
    "attention alone": (
        "_attention",
        [
            "--model.dropout.rounds=1",
            "--model.dropout.relevance=attention",
            "--model.labeller.threshold=0.01",
        ],
    ),
    "settings chosen with dev masks": (
        "_dev_masks",
        [
            "--model.dropout.rounds=3",
            "--model.dropout.patches=8",
            "--model.labeller.threshold=0.01",
        ],
    ),
    "half of the patches dropped, as the paper has it": (
        "_halving",
        ["--model.dropout.patches=0.5"],
    ),
    "classes proposed by ITM": ("_itm", ["--model.proposals=itm"]),
    "all classes in every photo": ("_all", ["--model.proposals=all"]),
    "MaskCLIP on the demo's CLIP": (
        "_clip",
        ["--config=configs/model/demo_clip.yaml", "--model.proposals=oracle"],
    ),
    "MaskCLIP, all classes in every photo": (
        "_clip_all",
        ["--config=configs/model/demo_clip.yaml"],
    ),
}
"""Label -> the run folder's ending and what it changes of configs/demo.yaml.

The first is the default pipeline: image-level labels as the classes to look for, and the settings
that `tune` found on the dev split without masks. The three after it have the best threshold (and,
for the fourth, rounds and patches) on the dev split with masks.
"""
DRAWN = list(ROWS)[:2]
"""The rows that the picture shows, which run first."""


PANEL = 130
"""Side of a picture's panels in pixels."""


def folder_of(runs: Path, label: str) -> Path:
    """The run folder of a row."""
    return runs.with_name(runs.name + ROWS[label][0])


def main() -> None:
    """Run the rows, compare them, draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/scenes"))
    parser.add_argument("--runs", type=Path, default=Path("runs/demo"))
    parser.add_argument("--picture", type=Path, default=Path("runs/demo.png"))
    parser.add_argument("--limit", type=int, help="only the first so many photos")
    parser.add_argument("--table", action="store_true", help="all rows of the README's table")
    arguments = parser.parse_args()
    console = Console()
    labels = list(ROWS) if arguments.table else DRAWN
    for label in labels:
        console.rule(label)
        limit = [f"--data.init_args.limit={arguments.limit}"] if arguments.limit else []
        train_free_eval(
            [
                "test",
                "--config=configs/demo.yaml",
                f"--data.init_args.root={arguments.data}",
                f"--trainer.default_root_dir={folder_of(arguments.runs, label)}",
                *limit,
                *ROWS[label][1],
            ]
        )
    runs = {label: read_run(folder_of(arguments.runs, label)) for label in labels}
    show_comparison(runs, console)
    with_dropout, one_round, *_ = runs.values()
    draw_picture(arguments.data, one_round, with_dropout, arguments.picture)
    console.print(f"picture: {arguments.picture}", soft_wrap=True)


def show_comparison(runs: dict[str, Run], console: Console) -> None:
    """Print each row's mIoU and its difference to the default, with a paired bootstrap interval."""
    first, *others = runs
    default = runs[first]
    title = f"held-out scenes, {default.scores['photos']} photos, protocol standard"
    table = Table(title=title, caption="mIoU; 95 % paired bootstrap intervals over photos")
    table.add_column("")
    table.add_column("mIoU", justify="right")
    table.add_column("first row is better by", justify="right")
    table.add_row(first, f"{100 * default.scores['mIoU']:.1f}", "")
    for label in others:
        run = runs[label]
        gain = paired_bootstrap(
            counts_of(run.photos), counts_of(default.photos), len(default.classes)
        )
        table.add_row(
            label,
            f"{100 * run.scores['mIoU']:.1f}",
            f"{100 * gain.difference:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]",
        )
    console.print(table)


def draw_picture(
    data: Path, one_round: Run, with_dropout: Run, path: Path, photos: int = 12, scenes: int = 2
) -> None:
    """Photos with ground truth and both label maps beside them, `scenes` of them in a line."""
    from ovss.datamodules import Scenes

    datamodule = Scenes(data)
    samples = [s for s in datamodule.find().samples if with_dropout.label_map(s.id).exists()]
    # Scenes with several objects show more; the list's order decides, not the result.
    samples = [s for s in samples if len(np.unique(np.asarray(Image.open(s.mask)))) > 2][:photos]
    benchmark = datamodule.benchmark
    columns = ["photo", "ground truth", "+ dropout", "one round"]
    gap, heading = 4, 24
    block = len(columns) * (PANEL + gap) + 4 * gap
    width, height = scenes * block - 4 * gap, heading + -(-len(samples) // scenes) * (PANEL + gap)
    legend = draw_legend(
        list(zip(benchmark.classes[1:], benchmark.palette[1:], strict=True)), width, 15
    )
    canvas = Image.new("RGB", (width, height + legend.height), "white")
    canvas.paste(legend, (0, height))
    draw = ImageDraw.Draw(canvas)
    for number, sample in enumerate(samples):
        left, top = number % scenes * block, heading + number // scenes * (PANEL + gap)
        photo = Image.open(sample.photo).convert("RGB")
        maps = [sample.mask, with_dropout.label_map(sample.id), one_round.label_map(sample.id)]
        panels = [photo, *(draw_labels(photo, Image.open(file), benchmark) for file in maps)]
        for column, (name, panel) in enumerate(zip(columns, panels, strict=True)):
            x = left + column * (PANEL + gap)
            canvas.paste(panel.resize((PANEL, PANEL), Image.Resampling.LANCZOS), (x, top))
            if number < scenes:
                draw.text((x + PANEL // 2, heading // 2), name, "black", load_font(15), "mm")
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path, optimize=True)


def draw_labels(photo: Image.Image, labels: Image.Image, benchmark: Benchmark) -> Image.Image:
    """A label map over its photo in pale grey: all colour there is stands for a class."""
    grey = np.asarray(photo.convert("L").convert("RGB"))
    return draw_overlay(
        (grey * 0.5 + 120).astype(np.uint8),
        np.asarray(labels),
        benchmark.classes,
        benchmark.palette,
        benchmark.background,
        opacity=0.8,
        names=False,
        legend=False,
    )


if __name__ == "__main__":
    main()
