"""What of a method's settings is not as its authors have it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ovss.dense_clip.inference import CHANGES, DEFAULTS
from ovss.dense_clip.methods import METHODS


def departures(method: str, settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings of a CLIP-based method that are not its reference's, by name.

    Args:
        method: its name; of other methods nothing is known.
        settings: those of `scores.json`.

    Example:
        >>> departures("sclip", {"residual": False, "vocabulary": "sclip", "refine": None})
        {'residual': 'false'}
    """
    row = METHODS.get(method)
    if row is None:
        return {}
    usual = {"residual": row.residual, "vocabulary": row.vocabulary, **row.options}
    found = {
        name: settings[name] for name in usual if settings.get(name, usual[name]) != usual[name]
    }
    refine = settings.get("refine") or {}
    if refine.get("kind") != row.refine:
        found["refine"] = refine.get("kind")
    own, by_benchmark = settings.get("inference", {}), settings.get("by_benchmark")
    for name, value in asdict(DEFAULTS[row.settings]).items():
        given = by_benchmark is not None and any(
            name in changed and name not in by_benchmark.get(key, {})
            for key, changed in CHANGES[row.settings].items()
        )
        if given or own.get(name, value) != value:
            found[name] = own.get(name)
    return {name: "none" if value is None else str(value).lower() for name, value in found.items()}
