"""What a study's rewards are only comparable with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from ovss.benchmark import Benchmark
from ovss.pnp import PnP
from ovss.runs.fingerprint import as_plain, differences, fingerprint_of
from ovss.tuning.photos import TuningPhotos
from ovss.tuning.settings import RewardSettings, StudySettings
from ovss.vlm.scoring import Scorer

PHOTOS = "photos_and_classes"


def study_facts(
    segmenter: PnP,
    benchmark: Benchmark,
    photos: TuningPhotos,
    scorer: Scorer,
    reward: RewardSettings,
    search: StudySettings,
    choices: Mapping[str, Any],
    precision: str,
) -> dict[str, Any]:
    """All that decides a reward but the setting itself, JSON-ready.

    Args:
        segmenter: the method.
        benchmark: the classes.
        photos: what is looked at.
        scorer: the reward model.
        reward: how it is asked.
        search: parts and reduction decide which rewards so far are compared.
        choices: the space.
        precision: of the computation, such as `32-true`.
    """
    tree = fingerprint_of(segmenter, benchmark, precision)
    model = tree["model"]
    for part in (model, model["dropout"], model["labeller"]):
        for searched in ("layer", "head", "rounds", "patches", "threshold"):
            part.pop(searched, None)
    if reward.mask == "map":  # made without the labeller
        del model["labeller"]
    prompt = f", prompt {reward.prompt!r}" if reward.scorer == "clip" else ""
    seen = repr(list(zip(photos.ids, photos.labels, strict=True)))
    return as_plain(
        {
            "reward": f"{reward.measure} of {scorer.name}, {reward.mask} against {reward.negative}"
            + prompt,
            "photos": len(photos),
            PHOTOS: hashlib.sha256(seen.encode()).hexdigest()[:16],
            "parts": search.parts,
            "reduction": search.reduction,
            "space": choices,
            **tree,
        }
    )


def difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Where two studies differ, in words."""
    rows = differences(dict(there), dict(here))
    said = [
        "the photos or their classes (study.seed, data or proposals)"
        if name == PHOTOS
        else f"{name}: {old} there, {new} here"
        for name, old, new in rows
    ]
    return "; ".join(dict.fromkeys(said[:3])) + ("; ..." if len(said) > 3 else "")
