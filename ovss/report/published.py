"""Published numbers, and which of them a run may be held against.

They are data, `datamodules/data/published.csv`, a line a number. It is read by its path, as the
data modules are none of a report's business.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from ovss.utils.text import counted, seen

_FILE = Path(__file__).parents[2] / "datamodules" / "data" / "published.csv"


@dataclass(frozen=True)
class Published:
    """A number that somebody published.

    Attributes:
        method: as its authors write it, with what tells the row from others of the method.
        key: what `Segmenter.method` calls it; empty where it is not in this project.
        backbone: for people; empty where it is not known.
        model: the checkpoints, as `Segmenter.model` names them; empty where none is comparable.
        benchmark: a key such as `voc21`.
        written: mIoU in percent, with the digits that were published.
        protocol: ours that scores alike; empty where nobody checked.
        proposals: the kind of ours that is alike; empty where it is not known.
        settings: of the method, where a variant is meant, such as `refine` or `residual`.
        second_hand: whether the source quotes somebody else.
        source: where it stands.
        notes: what else is to be known.
    """

    method: str
    key: str
    backbone: str
    model: str
    benchmark: str
    written: str
    protocol: str
    proposals: str
    settings: dict[str, str]
    second_hand: bool
    source: str
    notes: str

    @property
    def mIoU(self) -> float:
        """In 0..1."""
        return float(Decimal(self.written) / 100)

    @property
    def origin(self) -> str:
        """Source and notes, and whether it is second-hand."""
        parts = (self.source, "second-hand" if self.second_hand else "", self.notes)
        return "; ".join(filter(None, parts))

    @property
    def conditions(self) -> dict[str, str]:
        """What is known of what it is only comparable with; published numbers are of all photos."""
        known = {"protocol": self.protocol, "proposals": self.proposals}
        return {name: value for name, value in known.items() if value}


@cache
def read_published() -> tuple[Published, ...]:
    """All published numbers, in the file's order."""
    with _FILE.open(encoding="utf-8", newline="") as file:
        return tuple(
            Published(
                written=line.pop("mIoU"),
                settings=dict(part.split("=") for part in line.pop("settings").split()),
                second_hand=line.pop("second_hand") == "yes",
                **line,
            )
            for line in csv.DictReader(file)
        )


def published_beside(scores: Mapping[str, Any]) -> list[str]:
    """Published numbers of a run's method and model on its benchmark, with what differs.

    Args:
        scores: a run's `scores.json`.

    Returns:
        A line for each, such as `51.3 (PnP-OVSS, BLIP; ...); differs: proposals oracle instead of
        answers`.
    """
    lines = []
    for each in read_published():
        same = (each.key, each.benchmark) == (scores["method"], scores["benchmark"])
        if same and each.model and _checkpoints(each.model) == _checkpoints(scores["model"]):
            title = ", ".join((each.method, each.backbone))
            differing = "; ".join(_differences(each, scores))
            lines.append(
                f"{each.written} ({title}; {each.origin})"
                + (f"; differs: {differing}" if differing else "")
            )
    return lines


def _differences(each: Published, scores: Mapping[str, Any]) -> list[str]:
    from ovss.report.departures import departures  # which imports torch

    named = {"file": "answers"}
    pairs = [(name, scores[name], value) for name, value in each.conditions.items()]
    pairs += [(name, _value(scores, name), value) for name, value in each.settings.items()]
    found = [
        f"{name} {named.get(mine, mine)} instead of {named.get(theirs, theirs)}"
        for name, mine, theirs in pairs
        if mine != theirs
    ]
    own = departures(scores["method"], scores["settings"], each.benchmark)
    found += [
        f"{name} {value} and not the method's own"
        for name, value in own.items()
        if name not in each.settings
    ]
    found += [f"{name} not known" for name in ("protocol", "proposals") if not getattr(each, name)]
    if "prompts" in scores:
        found.append(f"prompts {scores['prompts']}")
    if "distractors" in scores:
        found.append(counted(len(scores["distractors"]), "distractor"))
    if scores["photos"] < scores.get("expected_photos", 0):
        found.append(seen(scores))
    return found


def _value(scores: Mapping[str, Any], name: str) -> str:
    """A setting of the method as the file writes it; a part's by its `kind`."""
    value = scores["settings"].get(name)
    value = value.get("kind") if isinstance(value, Mapping) else value
    return "none" if value is None else str(value).lower()


def _checkpoints(model: str) -> list[str]:
    """A model's checkpoints without revisions and owners, which a copy on disk has not."""
    return [re.sub("@.*", "", name).rsplit("/", 1)[-1] for name in model.split(" + ")]
