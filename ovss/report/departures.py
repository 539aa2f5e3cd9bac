"""What of a method's settings is not as its authors have it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ovss.dense_clip.inference import CHANGES, DEFAULTS
from ovss.dense_clip.methods import METHODS
from ovss.refine import resolve
from ovss.runs.fingerprint import as_plain


def departures(method: str, settings: Mapping[str, Any], benchmark: str) -> dict[str, str]:
    """Settings of a CLIP-based method that are not its reference's on a benchmark, by name.

    Args:
        method: its name; of other methods nothing is known.
        settings: those of `scores.json`.
        benchmark: a key such as `voc21`.

    Example:
        >>> own = {"residual": False, "vocabulary": "sclip", "refine": None}
        >>> departures("sclip", own, "voc21")
        {'residual': 'false'}
    """
    row = METHODS.get(method)
    if row is None:
        return {}
    usual = {"residual": row.residual, "vocabulary": row.vocabulary, **row.options}
    found = {
        name: settings[name] for name in usual if settings.get(name, usual[name]) != usual[name]
    }
    mine, refinement = settings.get("refine") or {}, resolve(row.refine)
    theirs = as_plain(refinement.settings()) if refinement else {}
    if mine.get("kind") != row.refine:
        found["refine"] = mine.get("kind")
    else:
        found |= {f"refine.{name}": own for name, own in mine.items() if own != theirs.get(name)}
    usual = {**asdict(DEFAULTS[row.settings]), **CHANGES[row.settings].get(benchmark, {})}
    by_benchmark = settings.get("by_benchmark", {})
    inference = {**settings.get("inference", {}), **by_benchmark.get(benchmark, {})}
    found |= {name: own for name, own in inference.items() if own != usual.get(name)}
    return {name: "none" if value is None else str(value).lower() for name, value in found.items()}
