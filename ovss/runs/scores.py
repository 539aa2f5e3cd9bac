"""`scores.json` and `per_class.csv`."""

from __future__ import annotations

import csv
import io
import json
import math
from typing import Any

from ovss.benchmark import Benchmark
from ovss.runs.fingerprint import as_plain
from ovss.runs.layout import RunLayout
from ovss.segmenter import Segmenter
from ovss.utils.files import check_regular, write_atomically
from ovss.utils.text import no_formula


def conditions(benchmark: Benchmark, segmenter: Segmenter) -> dict[str, Any]:
    """What a score is only comparable with, as JSON-ready data.

    Args:
        benchmark: the classes and how they are scored.
        segmenter: the method.
    """
    own, settings = benchmark.prompts_file, as_plain(segmenter.settings())
    distractors = benchmark.classes[benchmark.scored :]
    return {
        "benchmark": benchmark.key,
        "protocol": benchmark.protocol,
        **({} if own is None else {"prompts": own}),
        **({"distractors": list(distractors)} if distractors else {}),
        "method": segmenter.method,
        **{name: settings[name] for name in ("variant",) if name in settings},
        "model": segmenter.model,
        "proposals": segmenter.proposer.name,
        "settings": settings,
    }


def scores_as_data(
    results: dict[str, Any],
    benchmark: Benchmark,
    segmenter: Segmenter,
    expected: int | None = None,
) -> dict[str, Any]:
    """`SegmentationScores.compute` and what it is only comparable with, as JSON-ready data.

    Scores are in 0..1; a class that does not count has null.

    Args:
        results: the scores.
        benchmark: whose classes they are of.
        segmenter: the method.
        expected: photos in the whole split; None where nobody knows.
    """
    data = {**conditions(benchmark, segmenter), "photos": int(results["photos"])}
    if expected is not None:
        data["expected_photos"] = expected
    for name in ("mIoU", "pixel_accuracy", "mean_accuracy", "fw_IoU"):
        data[name] = _number(results[name])
    for name in ("proposals_precision", "proposals_recall"):
        data[name] = float(results[name])
    data["classes"] = [
        {"name": name, "IoU": _number(iou), "accuracy": _number(accuracy)}
        for name, iou, accuracy in zip(
            benchmark.classes[: benchmark.scored],
            results["IoU"],
            results["accuracy"],
            strict=True,
        )
    ]
    return data


def write_scores(layout: RunLayout, data: dict[str, Any]) -> None:
    """Write `scores.json` and `per_class.csv` into a run's folder."""
    write_atomically(layout.scores, json.dumps(data, indent=2, ensure_ascii=False) + "\n")
    text = io.StringIO()
    writer = csv.DictWriter(text, ["name", "IoU", "accuracy"], lineterminator="\n")
    writer.writeheader()
    for each in data["classes"]:
        writer.writerow({**each, "name": no_formula(each["name"])})
    write_atomically(layout.per_class, text.getvalue())


def read_scores(layout: RunLayout) -> dict[str, Any]:
    """What a run's `scores.json` says.

    Raises:
        OSError: there is none.
        ValueError: it is no JSON, or no file.
    """
    check_regular(layout.scores)
    return json.loads(layout.scores.read_text(encoding="utf-8"))


def _number(value: Any) -> float | None:
    number = float(value)
    return None if math.isnan(number) else number
