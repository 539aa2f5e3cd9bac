"""The paired bootstrap against plain loops."""

import numpy as np
import pytest
import torch

from ovss.metrics import scores_of
from ovss.report.bootstrap import bootstrap_interval, margins, mean_iou, paired_bootstrap

CLASSES = 5


def random_runs(photos=12, seed=3):
    """Two runs on the same truth, as dense `(photos, K, K)` and sparse confusions."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 40, (photos, CLASSES)) * (
        generator.random((photos, CLASSES)) < 0.5
    )
    dense = [
        np.stack([[generator.multinomial(n, generator.dirichlet(np.ones(CLASSES))) for n in row]
                  for row in truth])
        for _ in range(2)
    ]  # fmt: skip
    return dense, [[sparse(matrix) for matrix in run] for run in dense]


def sparse(matrix):
    return np.array([(i, j, n) for (i, j), n in np.ndenumerate(matrix) if n], int).reshape(-1, 3)


@pytest.mark.parametrize("protocol", ["standard", "released"])
def test_against_a_loop_over_resamples(protocol):
    dense, (first, second) = random_runs()

    def miou(matrix):
        return float(scores_of(torch.from_numpy(matrix), protocol)["mIoU"])

    generator = np.random.default_rng(7)
    expected, alone = [], []
    for _ in range(2):  # 250 resamples are drawn at a time
        for drawn in generator.integers(0, 12, (250, 12)):
            alone.append(miou(dense[1][drawn].sum(0)))
            expected.append(alone[-1] - miou(dense[0][drawn].sum(0)))
    result = paired_bootstrap(first, second, CLASSES, protocol, resamples=500, seed=7)
    assert result.difference == pytest.approx(
        miou(dense[1].sum(0)) - miou(dense[0].sum(0)), abs=1e-12
    )
    assert result.low == pytest.approx(np.quantile(expected, 0.025), abs=1e-12)
    assert result.high == pytest.approx(np.quantile(expected, 0.975), abs=1e-12)
    interval = bootstrap_interval(second, CLASSES, protocol, resamples=500, seed=7)
    assert interval == pytest.approx(np.quantile(alone, (0.025, 0.975)), abs=1e-12)


def test_swapping_the_runs_mirrors_the_interval():
    _, (first, second) = random_runs()
    forward = paired_bootstrap(first, second, CLASSES, resamples=300)
    backward = paired_bootstrap(second, first, CLASSES, resamples=300)
    assert backward == pytest.approx((-forward.difference, -forward.high, -forward.low))
    assert paired_bootstrap(first, first, CLASSES, resamples=300) == (0.0, 0.0, 0.0)


def test_the_interval_covers_the_true_difference_about_19_times_in_20():
    # Two-class photos in which the second run is right with probability .8, the first with .6;
    # IoU depends on totals only, so the truth is the difference on a very large sample.
    def draw(photos, seed):
        generator = np.random.default_rng(seed)
        runs = []
        for chance in (0.6, 0.8):
            right = generator.binomial(20, generator.beta(chance * 4, (1 - chance) * 4, photos))
            runs.append([np.array([[0, 0, r], [0, 1, 20 - r], [1, 1, 20]]) for r in right])
        return runs

    truth = paired_bootstrap(*draw(20_000, 0), 2, resamples=1).difference
    covered = 0
    for trial in range(200):
        _, low, high = paired_bootstrap(*draw(60, trial + 1), 2, resamples=250, seed=trial)
        covered += low <= truth <= high
    assert 180 <= covered <= 198  # 95 % of 200 is 190; +- 3 standard errors is +- 9


def test_margins_and_mean_iou_of_a_hand_counted_photo():
    rows = np.array([[0, 0, 6], [0, 1, 2], [1, 1, 2]])
    sums = margins([rows, np.zeros((0, 3), int)], 3)
    np.testing.assert_array_equal(sums, [[[6, 2, 0], [8, 2, 0], [6, 4, 0]], np.zeros((3, 3))])
    np.testing.assert_allclose(mean_iou(sums), [(6 / 8 + 2 / 4) / 2, np.nan])
    absent = margins([np.array([[0, 0, 6], [0, 2, 2]])], 3)
    np.testing.assert_allclose(mean_iou(absent, "standard"), [0.75 / 2])
    np.testing.assert_allclose(mean_iou(absent, "released"), [0.75])


def test_refusals():
    _, (first, second) = random_runs()
    with pytest.raises(ValueError, match="same photos, but got 12 and 11"):
        paired_bootstrap(first, second[1:], CLASSES)
    with pytest.raises(ValueError, match="same photos, but got 0 and 0"):
        paired_bootstrap([], [], CLASSES)
    with pytest.raises(ValueError, match=r"same ground truth, but got other pixel counts in photo"):
        paired_bootstrap(first, second[::-1], CLASSES)
    with pytest.raises(ValueError, match=r"labels in 0\.\.3, but got 0\.\.4"):
        paired_bootstrap(first, second, 4)
    with pytest.raises(ValueError, match="`resamples`"):
        paired_bootstrap(first, second, CLASSES, resamples=0)
    with pytest.raises(ValueError, match="`resamples`"):
        bootstrap_interval(first, CLASSES, resamples=0)
    with pytest.raises(ValueError, match="photos to draw from"):
        bootstrap_interval([], CLASSES)
