import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ovss.metrics import SegmentationScores, confusion_matrix, scores_of


def numpy_scores(pairs, num_classes, ignore, protocol):
    """The scores pixel by pixel with sets, independent of the implementation."""
    true = np.concatenate([t.ravel() for _, t in pairs])
    predicted = np.concatenate([p.ravel() for p, _ in pairs])
    predicted, true = predicted[true != ignore], true[true != ignore]
    ious, accuracies, weighted = [], [], 0.0
    for label in range(num_classes):
        is_true, is_predicted = true == label, predicted == label
        union = (is_true | is_predicted).sum()
        counted = is_true.any() if protocol == "released" else union > 0
        ious.append((is_true & is_predicted).sum() / union if counted else np.nan)
        accuracies.append(
            (is_true & is_predicted).sum() / is_true.sum() if is_true.any() else np.nan
        )
        if is_true.any():
            weighted += is_true.mean() * ious[-1]
    return {
        "mIoU": np.nanmean(ious),
        "IoU": ious,
        "accuracy": accuracies,
        "mean_accuracy": np.nanmean(accuracies),
        "pixel_accuracy": (true == predicted).mean(),
        "fw_IoU": weighted,
    }


@pytest.mark.parametrize("protocol", ["standard", "released"])
@pytest.mark.parametrize("seed", range(3))
def test_equals_numpy_on_photos_of_all_sizes(protocol, seed):
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(4):
        size = tuple(rng.integers(1, 30, 2))
        true = rng.choice([0, 1, 2, 4, 255], size)  # 3 never in the ground truth, 5 nowhere
        pairs.append((rng.integers(0, 5, size), true))
    scores = SegmentationScores(6, protocol=protocol)
    scores.update([torch.tensor(p) for p, _ in pairs], [torch.tensor(t) for _, t in pairs])
    got, expected = scores.compute(), numpy_scores(pairs, 6, 255, protocol)
    assert int(got["photos"]) == 4
    for name, value in expected.items():
        np.testing.assert_allclose(got[name].numpy(), value, rtol=1e-12, err_msg=name)


@pytest.mark.parametrize(
    ("num_classes", "ignore"), [(3, 255), (256, -1), (256, 256), (255, 255), (21, 200), (300, 999)]
)
def test_bytes_are_counted_as_numpy_counts(num_classes, ignore):
    """Maps of bytes take another way than those of wider integers."""
    rng = np.random.default_rng(0)
    predicted, true = rng.integers(0, min(num_classes, 256), (2, 40, 60)).astype(np.uint8)
    if 0 <= ignore < 256:
        true[:5] = ignore
        predicted[:3] = 255  # outside the classes, or not: it does not matter here
    expected = np.zeros((num_classes, num_classes), int)
    scored = true != ignore
    np.add.at(expected, (true[scored], predicted[scored]), 1)
    for dtype in (torch.uint8, torch.int64):
        pair = torch.from_numpy(predicted).to(dtype), torch.from_numpy(true).to(dtype)
        counted = confusion_matrix(*pair, num_classes, ignore)
        assert counted.dtype == torch.int64
        assert np.array_equal(counted.numpy(), expected)


def test_protocols_differ_on_a_class_that_is_only_predicted():
    predicted, true = torch.tensor([[0, 0, 1]]), torch.tensor([[0, 0, 0]])
    matrix = confusion_matrix(predicted, true, 3)
    assert float(scores_of(matrix, "standard")["mIoU"]) == pytest.approx((2 / 3 + 0) / 2)
    assert float(scores_of(matrix, "released")["mIoU"]) == pytest.approx(2 / 3)


@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_sum_over_parts_equals_the_whole(num_classes, seed):
    generator = torch.Generator().manual_seed(seed)
    photos = [torch.randint(0, num_classes, (2, 5, 7), generator=generator) for _ in range(4)]
    whole = SegmentationScores(num_classes)
    for predicted, true in photos:
        whole.update(predicted, true)
    parts = sum(confusion_matrix(predicted, true, num_classes) for predicted, true in photos)
    assert torch.equal(whole.confusion, parts)
    assert int(whole.confusion.sum()) == 4 * 35


def test_counts_beyond_float32_stay_exact():
    scores = SegmentationScores(2)
    scores.confusion = torch.tensor([[2**53, 1], [0, 2**40 + 1]])
    scores.photos += 1
    assert int(scores.confusion.sum()) == 2**53 + 2**40 + 2
    scores.update(torch.zeros(1, 1, dtype=torch.uint8), torch.zeros(1, 1, dtype=torch.uint8))
    assert int(scores.confusion[0, 0]) == 2**53 + 1


def test_reset_forgets():
    scores = SegmentationScores(2)
    scores.update(torch.ones(3, 3).long(), torch.ones(3, 3).long())
    scores.reset()
    assert int(scores.confusion.sum()) == int(scores.photos) == 0


def test_no_scored_pixel_gives_nan_not_an_error():
    scores = SegmentationScores(2)
    scores.update(torch.zeros(2, 2).long(), torch.full((2, 2), 255))
    assert torch.isnan(scores.compute()["mIoU"])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
@pytest.mark.parametrize(
    ("predicted", "true", "message"),
    [
        ([[2]], [[0]], r"prediction labels in 0\.\.1.*got \[2\]"),
        ([[0]], [[2]], r"mask labels in 0\.\.1 \(or 255 to ignore\), but got \[2\]"),
        ([[9, 7, 0, 9]], [[0, 1, 0, 1]], r"prediction labels.*got \[7, 9\]"),
        ([[0] * 6], [[8, 7, 6, 5, 4, 3]], r"mask labels.*got \[3, 4, 5, 6, 7\]"),
        ([[0, 0]], [[0]], r"mask's size \(1, 1\), but got \(1, 2\)"),
    ],
)
def test_labels_and_shapes_that_do_not_fit_are_refused(predicted, true, message, dtype):
    maps = torch.tensor(predicted, dtype=dtype), torch.tensor(true, dtype=dtype)
    with pytest.raises(ValueError, match=message):
        SegmentationScores(2).update(*maps)


def test_negative_labels_are_refused():
    with pytest.raises(ValueError, match=r"prediction labels.*got \[-1\]"):
        SegmentationScores(2).update(torch.tensor([[-1]]), torch.tensor([[0]]))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_a_refused_prediction_in_an_ignored_pixel_is_no_error(dtype):
    SegmentationScores(2).update(
        torch.tensor([[7]], dtype=dtype), torch.tensor([[255]], dtype=dtype)
    )


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_classes": 0},
        {"num_classes": 3, "ignore_index": 2},
        {"num_classes": 3, "protocol": "x"},
    ],
)
def test_impossible_settings_are_refused(arguments):
    with pytest.raises(ValueError, match="Expected"):
        SegmentationScores(**arguments)


def test_as_many_predictions_as_masks():
    with pytest.raises(ValueError, match="2 and 1"):
        SegmentationScores(2).update([torch.zeros(1, 1)] * 2, [torch.zeros(1, 1)])
