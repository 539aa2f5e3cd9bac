"""Scores from one confusion matrix over the whole data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from ovss.benchmark import Protocol


class SegmentationScores(Metric):
    """mIoU and its company, counted in int64 and divided in float64.

    Photos of any size add to one confusion matrix, which is summed over processes once, at the
    end. Means over classes leave out classes that do not count:

    - `standard`: a class counts when it is in the ground truth or was predicted (mmsegmentation's
      mean). A class predicted but absent counts as 0.
    - `released`: a class counts when it is in the ground truth (the paper's own code).

    Args:
        num_classes: labels are 0..num_classes - 1.
        ignore_index: ground-truth value whose pixels are not scored.
        protocol: which classes a mean covers.
        distractors: how many further labels predictions may have that are in no ground truth; they
            have no IoU, and pixels with one are missed for their true class.

    Example:
        >>> scores = SegmentationScores(num_classes=2)
        >>> scores.update(torch.tensor([[0, 1], [1, 1]]), torch.tensor([[0, 0], [1, 255]]))
        >>> round(float(scores.compute()["mIoU"]), 3)
        0.5
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    confusion: Tensor
    photos: Tensor

    def __init__(
        self,
        num_classes: int,
        ignore_index: int = 255,
        protocol: Protocol = "standard",
        distractors: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if num_classes < 1:
            raise ValueError(f"Expected `num_classes` to be at least 1, but got {num_classes}.")
        if 0 <= ignore_index < num_classes + distractors:
            raise ValueError(
                f"Expected `ignore_index` to lie outside 0..{num_classes + distractors - 1}, "
                f"but got {ignore_index}."
            )
        if protocol not in ("standard", "released"):
            raise ValueError(
                f"Expected `protocol` to be 'standard' or 'released', but got {protocol!r}."
            )
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.protocol = protocol
        self.distractors = distractors
        shape = (num_classes + distractors, num_classes + distractors)
        self.add_state("confusion", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("photos", torch.tensor(0, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, preds: Tensor | Sequence[Tensor], target: Tensor | Sequence[Tensor]) -> None:
        """Add label maps: one `(H, W)`, a batch `(B, H, W)`, or lists of `(H_i, W_i)`.

        Args:
            preds: predicted labels, each in 0..num_classes + distractors - 1.
            target: ground-truth labels, `ignore_index` allowed.

        Raises:
            ValueError: shapes that differ, or a label outside the classes.
        """
        preds, target = _as_list(preds), _as_list(target)
        if len(preds) != len(target):
            raise ValueError(
                f"Expected as many predictions as masks, but got {len(preds)} and {len(target)}."
            )
        for predicted, true in zip(preds, target, strict=True):
            self.confusion += confusion_matrix(
                predicted, true, len(self.confusion), self.ignore_index
            ).to(self.confusion.device)
            self.photos += 1

    def compute(self) -> dict[str, Tensor]:
        """The scores, in 0..1.

        Returns:
            `mIoU`, `pixel_accuracy`, `mean_accuracy` and `fw_IoU` (frequency-weighted IoU), float64
            scalars; `IoU` and `accuracy`, `(num_classes,)` float64, NaN for classes that do not
            count; `photos`, an int64 scalar.
        """
        scores = scores_of(self.confusion, self.protocol, self.distractors)
        return scores | {"photos": self.photos.clone()}


def confusion_matrix(
    predicted: Tensor, true: Tensor, num_classes: int, ignore_index: int = 255
) -> Tensor:
    """Pixel counts `(true, predicted)` of two label maps of one shape, int64.

    Raises:
        ValueError: shapes that differ, or a label outside the classes.
    """
    if predicted.shape != true.shape:
        raise ValueError(
            f"Expected a prediction of the mask's size {tuple(true.shape)}, but got "
            f"{tuple(predicted.shape)}."
        )
    predicted = predicted.to(true.device)
    # Bytes, as masks and label maps are, are counted pair by pair first: some ten times faster,
    # because pixels are then neither picked out nor widened to 64 bits.
    pairs = None
    if predicted.dtype == true.dtype == torch.uint8:
        pairs = torch.bincount((true.int() * 256 + predicted).flatten(), minlength=256**2)
        pairs = pairs.view(256, 256)
        if 0 <= ignore_index < 256:
            pairs[ignore_index] = 0
        rows, columns = (pairs.sum(dim).nonzero().flatten() for dim in (1, 0))
    else:
        true = true.long()  # bytes would wrap an `ignore_index` outside 0..255
        scored = true != ignore_index
        rows, columns = true[scored], predicted[scored].long()
    for name, labels in (("mask", rows), ("prediction", columns)):
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
            outside = labels[(labels < 0) | (labels >= num_classes)].unique().tolist()
            raise ValueError(
                f"Expected {name} labels in 0..{num_classes - 1} (or {ignore_index} to ignore), "
                f"but got {outside[:5]}."
            )
    if pairs is not None:
        counts, used = pairs.new_zeros(num_classes, num_classes), min(num_classes, 256)
        counts[:used, :used] = pairs[:used, :used]
        return counts
    counts = torch.bincount(rows * num_classes + columns, minlength=num_classes**2)
    return counts.view(num_classes, num_classes)


def iou_per_class(
    hits: Tensor, truth: Tensor, predicted: Tensor, protocol: Protocol = "standard"
) -> Tensor:
    """IoU `(..., K)` in 0..1; NaN for classes that do not count (see `SegmentationScores`).

    Args:
        hits: pixels of each class that were right, `(..., K)` float64.
        truth: pixels that are truly of each class.
        predicted: pixels that were predicted to be.
        protocol: which classes count.
    """
    union = truth + predicted - hits
    counted = truth > 0 if protocol == "released" else union > 0
    return torch.where(counted, hits / union, torch.nan)


def scores_of(
    confusion: Tensor, protocol: Protocol = "standard", distractors: int = 0
) -> dict[str, Tensor]:
    """Scores of a confusion matrix `(K, K)`; see `SegmentationScores.compute`.

    Args:
        confusion: pixels `(true, predicted)`.
        protocol: which classes count.
        distractors: how many of the K labels, the last ones, have no scores.
    """
    matrix, scored = confusion.double(), len(confusion) - distractors
    sums = (matrix.diagonal(), matrix.sum(1), matrix.sum(0))
    hits, truth, predicted = (each[:scored] for each in sums)
    iou = iou_per_class(hits, truth, predicted, protocol)
    in_truth = truth > 0
    accuracy = torch.where(in_truth, hits / truth, torch.nan)
    share = truth / truth.sum()
    return {
        "mIoU": iou.nanmean(),
        "pixel_accuracy": hits.sum() / matrix.sum(),
        "mean_accuracy": accuracy.nanmean(),
        "fw_IoU": (share * iou.nan_to_num())[in_truth].sum(),
        "IoU": iou,
        "accuracy": accuracy,
    }


def sparse_counts(predicted: Tensor, true: Tensor, num_classes: int, ignore: int) -> np.ndarray:
    """`confusion_matrix` without its zeros: `(n, 3)` int64 rows true, predicted, pixels."""
    matrix = confusion_matrix(predicted, true, num_classes, ignore)
    rows, columns = matrix.nonzero(as_tuple=True)
    return torch.stack([rows, columns, matrix[rows, columns]], 1).numpy()


def margins(confusions: Sequence[np.ndarray], num_classes: int, distractors: int = 0) -> np.ndarray:
    """What IoU needs of sparse confusions: `(photos, 3, num_classes)` float64.

    The three are the pixels that were right, that are truly of a class, and that were predicted.

    Args:
        confusions: of each photo `(n, 3)` rows true, predicted, pixels.
        num_classes: labels that are scored, 0..num_classes - 1.
        distractors: how many further labels may have been predicted.

    Raises:
        ValueError: labels outside the classes.
    """
    if distractors:
        return margins(confusions, num_classes + distractors)[..., :num_classes]
    table = np.zeros((len(confusions), 3, num_classes))
    lengths = [len(rows) for rows in confusions]
    if not sum(lengths):
        return table
    photo = np.repeat(np.arange(len(confusions)), lengths)
    filled = [np.asarray(rows) for rows in confusions if len(rows)]
    true, predicted, pixels = np.concatenate(filled).T
    if min(true.min(), predicted.min()) < 0 or max(true.max(), predicted.max()) >= num_classes:
        raise ValueError(
            f"Expected labels in 0..{num_classes - 1}, but got "
            f"{min(true.min(), predicted.min())}..{max(true.max(), predicted.max())}."
        )
    hit = true == predicted
    right = (3 * photo[hit]) * num_classes + true[hit]
    cells = np.concatenate(
        [right, (3 * photo + 1) * num_classes + true, (3 * photo + 2) * num_classes + predicted]
    )
    weights = np.concatenate([pixels[hit], pixels, pixels])
    return np.bincount(cells, weights, minlength=table.size).reshape(table.shape)


def mean_iou(sums: np.ndarray, protocol: Protocol = "standard") -> np.ndarray:
    """Mean IoU of summed margins `(..., 3, num_classes)`, in 0..1; NaN where no class counts."""
    hits, truth, predicted = torch.from_numpy(np.ascontiguousarray(sums)).unbind(-2)
    return iou_per_class(hits, truth, predicted, protocol).nanmean(-1).numpy()


def _as_list(labels: Tensor | Sequence[Tensor]) -> list[Tensor]:
    if isinstance(labels, Tensor):
        return [labels] if labels.dim() == 2 else list(labels)
    return list(labels)
