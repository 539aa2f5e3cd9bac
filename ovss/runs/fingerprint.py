"""What decides a run's results, as data that can be compared."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ovss._version import __version__
from ovss.benchmark import Benchmark
from ovss.runs.layout import FORMAT
from ovss.segmenter import Segmenter
from ovss.sharing import shared
from ovss.utils.files import check_regular


def digest_of(fingerprint: dict[str, Any]) -> str:
    """A short hash of a fingerprint."""
    text = json.dumps(fingerprint, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def weights_digest(model: nn.Module) -> str:
    """A short hash of all weights and buffers: names, shapes, types and every bit."""
    weights = sorted(model.state_dict().items())

    def digest() -> str:
        total = hashlib.sha256()
        for name, tensor in weights:
            total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            total.update(memoryview(flat.view(torch.uint8).numpy()))
        return total.hexdigest()[:16]

    # Of gigabytes: a sweep's cells are of the same ones.
    return shared().once(digest, "weights", *(each for pair in weights for each in pair))


def as_plain(value: Any) -> Any:
    """Settings as JSON knows them, as they look after having been written and read."""

    def convert(other: Any) -> Any:
        return asdict(other) if is_dataclass(other) and not isinstance(other, type) else str(other)

    return json.loads(json.dumps(value, default=convert))


def fingerprint_of(segmenter: Segmenter, benchmark: Benchmark, precision: str) -> dict[str, Any]:
    """Everything that decides a label map or its score, but not paths, batches or processes.

    Args:
        segmenter: the method.
        benchmark: the classes.
        precision: of the computation, such as `32-true`.
    """
    return as_plain(
        {
            "ovss": __version__,
            "benchmark": benchmark.settings(),
            "model": segmenter.settings(),
            "weights": weights_digest(segmenter),
            "precision": precision,
        }
    )


def read_fingerprint(path: Path) -> dict[str, Any]:
    """The fingerprint in a run's `run.json`.

    Raises:
        ValueError: the folder is of another format, or the file says nothing.
    """
    check_regular(path)
    remedy = "choose another `trainer.default_root_dir`, or delete the folder to start anew"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        found, fingerprint = data.get("format", 1), data["fingerprint"]
    except (ValueError, KeyError, TypeError, AttributeError):
        found = fingerprint = None
    if isinstance(found, int) and found != FORMAT:
        raise ValueError(
            f"Expected {path.parent} to be a run folder of format {FORMAT}, but it is of format "
            f"{found}, written by {'an older' if found < FORMAT else 'a newer'} version of ovss; "
            f"{remedy}."
        )
    if not isinstance(fingerprint, dict):
        raise ValueError(
            f"Expected {path} to say which configuration the folder's results were made with, but "
            f"it does not; {remedy}."
        )
    return fingerprint


def flat(settings: Any, name: str = "") -> dict[str, Any]:
    """Nested settings by dotted name.

    Example:
        >>> flat({"layer": 7, "dropout": {"rounds": 4}})
        {'layer': 7, 'dropout.rounds': 4}
    """
    if not isinstance(settings, dict):
        return {name: settings}
    parts = [flat(value, f"{name}.{key}" if name else key) for key, value in settings.items()]
    return {key: value for part in parts for key, value in part.items()}


def differences(there: Any, here: Any, name: str = "") -> list[tuple[str, str, str]]:
    """Where two fingerprints differ: dotted name, the one's value, the other's value.

    Example:
        >>> differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": 0})
        [('a.c', '2', '3'), ('d', 'nothing', '0')]
    """
    if isinstance(there, dict) and isinstance(here, dict):
        keys = [*there, *(key for key in here if key not in there)]
        return [
            row
            for key in keys
            for row in differences(
                there.get(key, _MISSING), here.get(key, _MISSING), f"{name}.{key}" if name else key
            )
        ]
    if isinstance(there, list) and isinstance(here, list) and len(there) == len(here) > 0:
        pairs = enumerate(zip(there, here, strict=True))
        rows = [row for i, (a, b) in pairs for row in differences(a, b, f"{name}[{i}]")]
        return rows[:5]
    if there is not _MISSING and here is not _MISSING and there == here:
        return []
    return [(name, _short(there), _short(here))]


_MISSING = object()


def _short(value: Any) -> str:
    text = "nothing" if value is _MISSING else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
