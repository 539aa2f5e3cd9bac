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
from ovss.vlm.base import VLM

logger = logging.getLogger(__name__)


class CachedProposer(Proposer):
    """Asks another proposer once a photo and keeps its answers in a folder.

    An answer is taken again only for the same pixels of the same photo, proposer settings, class
    names and VLM weights. Every process appends to a file of its own and reads those of all.

    Args:
        proposer: whom to ask.
        folder: where the answers are kept; made when the first one is.
    """

    def __init__(self, proposer: Proposer, folder: str | Path) -> None:
        self.proposer = proposer
        self.name = proposer.name
        self.costly = proposer.costly
        self.folder = Path(folder)
        self._known: tuple[VLM, Benchmark, str, dict[tuple[str, int], Proposal]] | None = None

    def __call__(self, batch: PhotoBatch, benchmark: Benchmark, vlm: VLM) -> list[Proposal]:
        """See `Proposer`."""
        if self._known is None or self._known[0] is not vlm or self._known[1] != benchmark:
            stem = self._stem(benchmark, vlm)
            self._known = (vlm, benchmark, stem, _read(self.folder, stem))
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

    def _stem(self, benchmark: Benchmark, vlm: VLM) -> str:
        """File name without rank: the proposer and a fingerprint of what its answers depend on."""
        dependencies = {
            "settings": self.proposer.settings(),
            "prompts": benchmark.prompts,
            "classes": benchmark.classes,
            "vlm": vlm.name,
            "image_size": vlm.image_size,
            # The name alone would not notice that a local checkpoint was trained on.
            "weights": [_checksum(p) for p in vlm.parameters() if p.dim() == 1],
        }
        digest = hashlib.sha256(json.dumps(dependencies, sort_keys=True).encode()).hexdigest()
        return f"{self.name}-{digest[:16]}"

    def _append(self, stem: str, fresh: dict[tuple[str, int], Proposal]) -> None:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank = torch.distributed.get_rank() if distributed else 0
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [
            json.dumps({"id": photo, "pixels": pixels, "labels": p.labels, "scores": p.scores})
            for (photo, pixels), p in fresh.items()
        ]
        with (self.folder / f"{stem}.rank{rank}.jsonl").open("a", encoding="utf-8") as file:
            # A run that was killed may have left half a line: the leading break ends it.
            file.write("\n" + "\n".join(lines) + "\n")


def _read(folder: Path, stem: str) -> dict[tuple[str, int], Proposal]:
    known: dict[tuple[str, int], Proposal] = {}
    for path in sorted(folder.glob(f"{stem}.rank*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if not line:
                continue
            try:
                entry = json.loads(line)
                proposal = Proposal(tuple(entry["labels"]), tuple(entry["scores"]))
                known[entry["id"], entry["pixels"]] = proposal
            except (ValueError, KeyError, TypeError):
                logger.warning("Left out an incomplete line of %s.", path)
    return known


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.detach().float().cpu().contiguous().numpy().tobytes())
