"""How well proposals agree with the ground truth, which bounds the segmentation after them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from ovss.proposals.base import Proposal


class ProposalScores(Metric):
    """Precision and recall of proposed classes, pooled over photos and classes.

    Recall bounds the mIoU from above: a class that is not looked for is not found. What precision
    lacks, the maps must make up for.

    Example:
        >>> scores = ProposalScores()
        >>> scores.update([Proposal((1, 3), (0.9, 0.8))], [(1, 2, 0)], searchable=(1, 2, 3))
        >>> {name: float(value) for name, value in scores.compute().items()}
        {'precision': 0.5, 'recall': 0.5, 'proposed_per_photo': 2.0, 'present_per_photo': 2.0}
    """

    full_state_update = False
    correct: Tensor
    proposed: Tensor
    present: Tensor
    photos: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("correct", "proposed", "present", "photos"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")

    def update(
        self,
        proposals: Sequence[Proposal],
        present: Sequence[Sequence[int]],
        searchable: Sequence[int],
    ) -> None:
        """Count some photos.

        Args:
            proposals: for each photo what was looked for.
            present: for each photo its image-level labels.
            searchable: labels that can be looked for; others, such as background, do not count.
        """
        for proposal, labels in zip(proposals, present, strict=True):
            proposed, true = set(proposal.labels), set(labels).intersection(searchable)
            self.correct += len(proposed & true)
            self.proposed += len(proposed)
            self.present += len(true)
            self.photos += 1

    def compute(self) -> dict[str, Tensor]:
        """Precision, recall and mean class counts a photo; a share of nothing is 0."""
        photos = self.photos.clamp(min=1)
        return {
            "precision": self.correct / self.proposed.clamp(min=1),
            "recall": self.correct / self.present.clamp(min=1),
            "proposed_per_photo": self.proposed / photos,
            "present_per_photo": self.present / photos,
        }
