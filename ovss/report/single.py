"""The report of one run: `report.html`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ovss.benchmark import Benchmark
from ovss.report.environment import command, environment
from ovss.report.gallery import Photos, show_photo
from ovss.report.page import bars, facts, matrix, note, page, section, table, text
from ovss.report.statistics import largest_confusions, proposal_quality, telling_photos
from ovss.report.tables import percent, seen
from ovss.runs.run import Run
from ovss.utils.files import write_atomically
from ovss.utils.text import counted

_SHOWN_IN_MATRIX = 21
_STAGES = {
    "load": "load (waiting for photos)",
    "propose": "propose (which classes)",
    "attend": "attend (GradCAM, Salience DropOut)",
    "label": "label (maps to labels)",
    "crf": "CRF",
    "score": "score",
}


def write_report(run: Run, benchmark: Benchmark, dataset: Photos | None = None) -> Path:
    """Write `report.html` into a run's folder.

    Args:
        run: what is reported on.
        benchmark: its classes and colours.
        dataset: photos and ground truth, for the gallery; None for no gallery.

    Returns:
        The file, which needs neither the network nor other files.
    """
    scores = run.scores
    title = f"mIoU {percent(scores['mIoU'])} on {benchmark.title}"
    path = run.folder / "report.html"
    parts = [
        f"<h1>{text(title)}</h1>",
        _settings(scores),
        section("Classes", _classes(run)),
        section("Confusions", _confusions(run)),
        section("Class proposals", _proposals(run, benchmark)),
        section("Photos", _gallery(run, dataset)),
        section("Time", _time(run.folder)),
        section("To run it again", f"<pre>{text(command())}</pre>", _environment()),
    ]
    write_atomically(path, page(title, parts))
    return path


def _settings(scores: dict[str, Any]) -> str:
    known = {
        "mIoU", "pixel_accuracy", "mean_accuracy", "fw_IoU", "classes", "benchmark",
        "photos", "expected_photos", "proposals_precision", "proposals_recall",
    }  # fmt: skip
    results = [
        ("mIoU", percent(scores["mIoU"])),
        ("pixel accuracy", percent(scores["pixel_accuracy"])),
        ("mean accuracy", percent(scores["mean_accuracy"])),
        ("frequency-weighted IoU", percent(scores["fw_IoU"])),
    ]
    settings = [
        *(
            (name.replace("_", " "), value)
            for name, value in scores.items()
            if name not in known and not isinstance(value, (dict, list))
        ),
        ("scored", seen(scores)),
    ]
    skipped = scores.get("skipped", {}).get("count", 0)
    return (
        facts(results)
        + note("In percent, over all pixels of all photos. Comparable only with these:")
        + facts(settings)
        + (note(f"{counted(skipped, 'photo')} could not be read.") if skipped else "")
    )


def _classes(run: Run) -> str:
    rows = [row for row in run.scores["classes"] if row["IoU"] is not None]
    rows.sort(key=lambda row: -row["IoU"])
    left_out = len(run.scores["classes"]) - len(rows)
    return (
        note("IoU of each class, in percent.")
        + bars([(r["name"], r["IoU"], percent(r["IoU"])) for r in rows], columns=len(rows) > 12)
        + (
            note(f"{left_out} classes do not count: they were neither there nor found.")
            if left_out
            else ""
        )
    )


def _confusions(run: Run) -> str:
    names, confusion = run.classes, run.confusion
    largest = largest_confusions(confusion)
    if not largest:
        return ""
    rows = [(names[c.true], names[c.predicted], f"{c.pixels:,}", percent(c.share)) for c in largest]
    # Of many classes only those that are confused most: the rest would not fit a page.
    off = confusion - np.diag(np.diag(confusion))
    weight = off.sum(0) + off.sum(1)
    labels = sorted(np.argsort(-weight, kind="stable")[:_SHOWN_IN_MATRIX].tolist())
    labels = [label for label in labels if weight[label] or confusion[label].any()]
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    listed = [names[label] for label in labels]
    which = "" if len(labels) >= len(names) else f" Shown: the {len(labels)} most confused classes."
    return (
        table(("truly", "taken for", "pixels", "% of the class"), rows, numbers=2)
        + "<h3>Matrix</h3>"
        + note(
            "Each row: where a class's pixels went, in percent of the row; the diagonal is right."
            + which
        )
        + matrix(listed, shares[np.ix_(labels, labels)].tolist())
    )


def _proposals(run: Run, benchmark: Benchmark) -> str:
    if not run.scored:
        return ""
    quality = proposal_quality(run.scored, benchmark.searchable)
    names = benchmark.classes

    def listed(counts: list[tuple[int, int]]) -> str:
        found = [f"{names[label]} ({counted(number, 'photo')})" for label, number in counts]
        return ", ".join(found) or "none"

    kind = run.scores["proposals"]
    return (
        facts(
            [
                ("precision", percent(quality.precision)),
                ("recall", percent(quality.recall)),
                ("looked for, a photo", f"{quality.looked_for:.1f}"),
                ("there, a photo", f"{quality.present:.1f}"),
            ]
        )
        + f"<p>Missed most: {text(listed(quality.missed))}.<br>"
        + f"Looked for in vain most: {text(listed(quality.invented))}.</p>"
        + note(
            "Proposals of the kind oracle are the ground truth's own classes: an upper bound."
            if kind == "oracle"
            else f"Proposals of the kind {kind}, against the classes in the ground truth."
        )
    )


def _gallery(run: Run, dataset: Photos | None) -> str:
    if dataset is None:
        return ""
    parts = []
    for name, indices in telling_photos(run.photo_scores).items():
        shown = [
            show_photo(
                dataset,
                run.scored[index],
                [("prediction", run.label_map(run.scored[index].id))],
                f"{run.scored[index].id}: mIoU {percent(float(run.photo_scores[index]))}",
            )
            for index in indices
        ]
        if any(shown):
            parts.append(f'<h3>{name.capitalize()}</h3><div class="photos">{"".join(shown)}</div>')
    return "".join(parts) and note(
        "By a photo's own mIoU, over the classes in its ground truth or prediction."
    ) + "".join(parts)


def _time(folder: Path) -> str:
    path = folder / "timing.json"
    if not path.is_file():
        return ""
    timing = json.loads(path.read_text(encoding="utf-8"))
    stages = dict(timing["stages"])
    whole = max(float(timing["seconds"]), 1e-9)
    stages["everything else"] = max(0.0, whole - sum(stages.values()))
    order = [*(name for name in _STAGES if name in stages)]
    order += [name for name in stages if name not in _STAGES]
    return facts(
        [("seconds", f"{whole:.1f}"), ("photos a second", f"{timing['photos_per_second']:.2f}")]
        + ([("processes", timing["processes"])] if timing.get("processes", 1) > 1 else [])
    ) + bars([(_STAGES.get(n, n), stages[n] / whole, f"{stages[n]:.1f} s") for n in order])


def _environment() -> str:
    return facts(list(environment().items()))
