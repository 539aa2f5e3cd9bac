"""The report of one run: `report.html`."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np

from ovss.benchmark import Benchmark
from ovss.report.environment import command, environment
from ovss.report.gallery import Figure, Photos, show_photo
from ovss.report.page import TEMPLATES
from ovss.report.published import published_beside
from ovss.report.statistics import largest_confusions, proposal_quality, telling_photos
from ovss.runs.fingerprint import flat
from ovss.runs.run import Run
from ovss.utils.files import write_atomically
from ovss.utils.text import percent, seen

log = logging.getLogger(__name__)

_SHOWN_IN_MATRIX = 21
_STAGES = {
    "load": "load (waiting for photos)",
    "propose": "propose (which classes)",
    "segment/vision": "segment: vision encoder",
    "segment/text": "segment: text encoder, forward",
    "segment/label": "segment: maps to labels",
    "segment": "segment: everything else",
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
    classes = [row for row in run.scores["classes"] if row["IoU"] is not None]
    classes.sort(key=lambda row: -row["IoU"])
    path = run.layout.report
    html = TEMPLATES.get_template("run.html").render(
        scores=run.scores,
        benchmark=benchmark,
        published=published_beside(run.scores),
        settings=_settings(run.scores),
        classes=[(row["name"], row["IoU"], percent(row["IoU"])) for row in classes],
        **_confusions(run),
        proposals=proposal_quality(run.scored, benchmark.searchable) if run.scored else None,
        photos=_photos(run, dataset) if dataset is not None else {},
        time=_time(run.layout.timing),
        command=command(),
        environment=environment(),
    )
    write_atomically(path, html)
    return path


def _settings(scores: dict[str, Any]) -> list[tuple[str, object]]:
    """What the scores are only comparable with."""
    named: list[tuple[str, object]] = [
        (name, scores[name]) for name in ("protocol", "prompts") if name in scores
    ]
    if distractors := scores.get("distractors"):
        few = ", ".join(distractors[:3]) + (", ..." if len(distractors) > 3 else "")
        named.append(("distractors", f"{len(distractors)}: {few}"))
    own = [(name.replace("_", " "), value) for name, value in flat(scores["settings"]).items()]
    return [*named, *own, ("scored", seen(scores))]


def _confusions(run: Run) -> dict[str, Any]:
    """The largest ones, and the matrix `shares` of the classes that are `confused` most."""
    names, confusion = [*run.classes, *run.distractors], run.confusion
    largest = [
        (names[c.true], names[c.predicted], f"{c.pixels:,}", percent(c.share))
        for c in largest_confusions(confusion)
    ]
    # Of many classes only those that are confused most: the rest would not fit a page.
    off = confusion - np.diag(np.diag(confusion))
    weight = off.sum(0) + off.sum(1)
    labels = sorted(np.argsort(-weight, kind="stable")[:_SHOWN_IN_MATRIX].tolist())
    labels = [label for label in labels if weight[label] or confusion[label].any()]
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    return {
        "confusions": largest,
        "confused": [names[label] for label in labels],
        "shares": shares[np.ix_(labels, labels)].tolist(),
    }


def _photos(run: Run, dataset: Photos) -> dict[str, list[Figure]]:
    """Figures of the best, middling and worst photos; a group without any is left out."""
    groups: dict[str, list[Figure]] = {}
    for name, indices in telling_photos(run.photo_scores).items():
        for index in indices:
            photo = run.scored[index]
            caption = f"{photo.id}: mIoU {percent(float(run.photo_scores[index]))}"
            prediction = ("prediction", run.label_map(photo.id))
            if figure := show_photo(dataset, photo, [prediction], caption):
                groups.setdefault(name, []).append(figure)
    return groups


def _time(path: Path) -> dict[str, Any] | None:
    """`timing.json` as facts and as bars of the stages; None without a whole file."""
    if not path.is_file():
        return None
    try:
        timing = json.loads(path.read_text(encoding="utf-8"))
        seconds, rate = float(timing["seconds"]), float(timing["photos_per_second"])
        stages = {str(name): float(spent) for name, spent in timing["stages"].items()}
        processes = int(timing.get("processes", 1))
        cells = timing["sweep"]["cells"] if "sweep" in timing else None
        if not all(map(math.isfinite, (seconds, rate, *stages.values()))):
            raise ValueError("a time is not finite")
    # The time is the least of a report: whatever is wrong with it, the scores are shown.
    except Exception as error:
        log.warning("The report says nothing of time: %s is damaged (%s).", path, error)
        return None
    whole = max(seconds, 1e-9)
    rest = whole - sum(spent for name, spent in stages.items() if "/" not in name)
    # A stage within another one counts in both: here each second is shown once.
    for name, spent in list(stages.items()):
        outer = name.rpartition("/")[0]
        if outer in stages:
            stages[outer] -= spent
    stages["everything else"] = max(0.0, rest)
    facts = [("seconds", f"{whole:.1f}"), ("photos a second", f"{rate:.2f}")]
    if processes > 1:
        facts.append(("processes", str(processes)))
    if cells is not None:
        facts.append(("runs that shared these seconds", str(cells)))
    ordered = {name: stages[name] for name in (*_STAGES, *stages) if name in stages}
    bars = [(_STAGES.get(n, n), spent / whole, f"{spent:.1f} s") for n, spent in ordered.items()]
    return {"facts": facts, "stages": bars}
