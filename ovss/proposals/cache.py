"""Proposals kept on disk, so that another labeller does not ask for them again."""

from __future__ import annotations

import hashlib
import json
import logging
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovss.benchmark import Benchmark, PhotoBatch
from ovss.proposals.base import Proposal, Proposer
from ovss.utils.files import open_in_place
from ovss.utils.text import counted
from ovss.vlm.base import VLM

logger = logging.getLogger(__name__)


class CachedProposer(Proposer):
    """Asks another proposer once a photo and keeps its answers in a folder.

    An answer is taken again only for the same pixels of the same photo, proposer settings, class
    names and VLM weights, and only if its line is as it was written: others are asked for anew.
    Every process appends to a file of its own and reads those of all.

    Args:
        proposer: whom to ask.
        folder: where the answers are kept; made when the first one is.
    """

    def __init__(self, proposer: Proposer, folder: str | Path) -> None:
        self.proposer = proposer
        self.name = proposer.name
        self.costly = proposer.costly
        self.folder = Path(folder)
        self._known: tuple[VLM | None, Benchmark, str, dict[tuple[str, int], Proposal]] | None = (
            None
        )

    def __call__(self, batch: PhotoBatch, benchmark: Benchmark, vlm: VLM | None) -> list[Proposal]:
        """See `Proposer`."""
        if self._known is None or self._known[0] is not vlm or self._known[1] != benchmark:
            stem = self._stem(benchmark, vlm)
            self._known = (vlm, benchmark, stem, _read(self.folder, stem, benchmark))
        stem, known = self._known[2:]
        keys = [
            (photo, _checksum(pixels))
            for photo, pixels in zip(batch.ids, batch.pixel_values, strict=True)
        ]
        missing = [row for row, key in enumerate(keys) if key not in known]
        if missing:
            fresh = dict(
                zip(
                    [keys[row] for row in missing],
                    self.proposer(batch.take(missing), benchmark, vlm),
                    strict=True,
                )
            )
            self._append(stem, fresh)
            known.update(fresh)
        return [known[key] for key in keys]

    def settings(self) -> dict[str, Any]:
        """See `Proposer.settings`."""
        return self.proposer.settings()

    def remarks(self) -> list[str]:
        """See `Proposer.remarks`."""
        return self.proposer.remarks()

    def finish(self, device: torch.device) -> dict[str, float]:
        """See `Proposer.finish`."""
        return self.proposer.finish(device)

    def _stem(self, benchmark: Benchmark, vlm: VLM | None) -> str:
        """File name without rank: the proposer and a fingerprint of what its answers depend on."""
        dependencies: dict[str, Any] = {
            "settings": self.proposer.settings(),
            "prompts": benchmark.prompts,
            "classes": benchmark.classes,
        }
        if vlm is not None:
            # The name alone would not notice that a local checkpoint was trained on.
            weights = [_checksum(parameter) for parameter in vlm.parameters()]
            dependencies |= {"vlm": vlm.settings(), "weights": weights}
        digest = hashlib.sha256(json.dumps(dependencies, sort_keys=True).encode()).hexdigest()
        return f"{self.name}-{digest[:16]}"

    def _append(self, stem: str, fresh: dict[tuple[str, int], Proposal]) -> None:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank = torch.distributed.get_rank() if distributed else 0
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [_line(photo, pixels, proposal) for (photo, pixels), proposal in fresh.items()]
        with open_in_place(self.folder / f"{stem}.rank{rank}.jsonl", "a") as file:
            # A run that was killed may have left half a line: the leading break ends it.
            file.write("\n" + "\n".join(lines) + "\n")


def _line(photo: str, pixels: int, proposal: Proposal) -> str:
    entry = {"id": photo, "pixels": pixels, "labels": proposal.labels, "scores": proposal.scores}
    return json.dumps({**entry, "crc": _checksum_of_entry(entry)})


def _checksum_of_entry(entry: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(entry).encode())


def _read(folder: Path, stem: str, benchmark: Benchmark) -> dict[tuple[str, int], Proposal]:
    known: dict[tuple[str, int], Proposal] = {}
    for path in sorted(folder.glob(f"{stem}.rank*.jsonl")):
        lines = [line for line in path.read_bytes().split(b"\n") if line.strip()]
        entries = [entry for line in lines if (entry := _entry(line, benchmark)) is not None]
        known.update(entries)
        if bad := len(lines) - len(entries):
            logger.warning(
                "%s of %s cannot be trusted, as cut short, damaged or of an older version; these "
                "photos are asked about anew.",
                counted(bad, "line"),
                path,
            )
    return known


def _entry(line: bytes, benchmark: Benchmark) -> tuple[tuple[str, int], Proposal] | None:
    """An answer with what it is to; None where the line is not as it was written."""
    try:
        entry = json.loads(line.decode("utf-8"))
        checksum = entry.pop("crc")
        photo, pixels, labels, scores = (entry[k] for k in ("id", "pixels", "labels", "scores"))
        # The checksum tells damage, the rest what other hands have written.
        good = (
            checksum == _checksum_of_entry(entry)
            and isinstance(photo, str)
            and type(pixels) is int
            and all(type(label) is int and label in benchmark.searchable for label in labels)
            and len(labels) == len(scores)
            and all(type(score) in (int, float) and 0 <= score <= 1 for score in scores)
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return ((photo, pixels), Proposal(tuple(labels), tuple(scores))) if good else None


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.detach().float().cpu().contiguous().numpy().tobytes())
