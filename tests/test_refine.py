"""Refinements: PAMR against recorded results and plain loops, the interface, the options."""

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import assert_close

from ovss.crf import DenseCRF
from ovss.labelling import Labeller
from ovss.refine import PAMR, Refinement, pamr, resolve

pytestmark = pytest.mark.numerical

MEANS = 1e-5
"""PAMR's logits, as a share of the largest. A weight is the exponential of down to -40, so rounding
of deviation and distance (some times 6e-8) is up to 40 times as large in it; the weighted means
average them. Largest difference to double precision seen: 2.7e-6."""


def problem(classes=3, size=(21, 34), seed=0):
    """Logits `(C, H, W)` and a photo with flat parts, where every neighbour has the same colour."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(classes, *size, generator=generator)
    photo = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
    photo[:, :, : size[1] // 3] = 200
    return logits, photo


def plain_pamr(logits, guide, steps, dilations):
    """The definition, in double precision, all values of all neighbourhoods at once."""

    def around(values):
        """`(C, 9 d, H, W)`: for each dilation a 3 x 3 neighbourhood, row by row."""
        height, width = values.shape[1:]
        rows, columns = np.arange(height), np.arange(width)
        return np.stack(
            [
                values[:, np.clip(rows + y * d, 0, height - 1)][
                    :, :, np.clip(columns + x * d, 0, width - 1)
                ]
                for d in dilations
                for y in (-1, 0, 1)
                for x in (-1, 0, 1)
            ],
            axis=1,
        )

    logits, guide = logits.double().numpy(), guide.double().numpy()
    others = np.arange(9 * len(dilations)) % 9 != 4
    values = around(guide)
    deviation = values.std(axis=1, ddof=1, keepdims=True)
    distance = np.abs(values - guide[:, None]) / (1e-8 + 0.1 * deviation)
    similarity = np.exp(-distance.mean(axis=0))[others]
    weights = similarity / similarity.sum(axis=0)
    for _ in range(steps):
        logits = (weights * around(logits)[:, others]).sum(axis=1)
    return logits


@pytest.mark.parametrize("size", [(21, 34), (40, 7), (1, 23), (2, 1), (1, 1)])
@pytest.mark.parametrize(("steps", "dilations"), [(10, (8, 16)), (1, (1,)), (3, (2, 5, 1))])
def test_pamr_equals_its_definition(size, steps, dilations):
    logits, photo = problem(size=size)
    refined = PAMR(steps, dilations)(logits, photo)
    assert_close(refined.double(), plain_pamr(logits, photo, steps, dilations), MEANS)


def test_pamr_equals_recorded_results():
    # NACLIP's released code (sinahmr/NACLIP at 0cac3a6) on a photo of 64 x 80: cosine logits of
    # three names, the network's input at the photo's size, and every sixth pixel of the result.
    recorded = np.load(Path(__file__).parent / "data" / "golden_clip" / "pamr.npz")
    logits, guide = (torch.from_numpy(recorded[name]) for name in ("logits", "guide"))
    assert_close(PAMR()(logits, guide)[:, ::6, ::6], recorded["refined"], MEANS)


def test_classes_do_not_depend_on_each_other(monkeypatch):
    logits, photo = problem(classes=5)
    together = PAMR()(logits, photo)
    monkeypatch.setattr(pamr, "_VALUES_AT_ONCE", 2 * logits[0].numel())
    assert torch.equal(PAMR()(logits, photo), together)
    assert torch.equal(PAMR()(logits[3:4], photo), together[3:4])


def test_neither_scale_nor_offset_of_a_colour_matters():
    logits, photo = problem()
    mean, std = torch.tensor([0.48, 0.46, 0.41]), torch.tensor([0.27, 0.26, 0.28])
    normalised = (photo / 255 - mean[:, None, None]) / std[:, None, None]
    # Unlike levels, normalised colours are rounded before their differences are taken.
    assert_close(PAMR()(logits, normalised), PAMR()(logits, photo), 1e-4)


def test_pamr_draws_nothing_from_beyond_an_edge():
    # Left and right differ so much that only neighbours of the same colour count.
    photo = torch.zeros(3, 12, 40, dtype=torch.uint8)
    photo[:, :, 17:] = 255
    logits = torch.zeros(2, 12, 40)
    logits[0, :, 17:] = 1
    refined = PAMR(5, (1, 2))(logits, photo)
    assert refined[0, :, :17].max() < 1e-3
    assert refined[0, :, 17:].min() > 1 - 1e-3
    assert not refined[1].any()


def test_probabilities_are_those_of_the_refined_logits():
    (logits, photo), (others, another) = problem(), problem(2, (15, 12), seed=1)
    guides = [problem(3, (21, 34), seed=2)[0], problem(3, (15, 12), seed=3)[0]]
    crf = DenseCRF(iterations=2)
    for refinement, expected in (
        (PAMR(), [PAMR()(logits, photo), PAMR()(others, another)]),
        (crf, [crf(logits.softmax(0), photo).log(), crf(others.softmax(0), another).log()]),
    ):
        found = refinement.probabilities([logits, others], [photo, another])
        for own, reference in zip(found, expected, strict=True):
            assert_close(own, reference.softmax(0), MEANS)
    # A guide takes the photo's place for PAMR, and only there.
    found = PAMR().probabilities([logits, others], [photo, another], guides)
    assert torch.equal(found[1], PAMR()(others, guides[1]).softmax(0))
    plain, guided = (crf.probabilities([logits], [photo], given) for given in (None, guides[:1]))
    assert torch.equal(plain[0], guided[0])


def test_labels_are_refined_by_what_was_asked_for():
    maps = torch.rand(2, 7, 7, generator=torch.Generator().manual_seed(0))
    _, photo = problem(size=(30, 40))
    channels = Labeller().channels(maps, (30, 40), True)
    for refine in ("crf", "pamr", PAMR(2, (3,))):
        expected = resolve(refine).probabilities([channels], [photo])[0].argmax(0)
        assert torch.equal(Labeller(refine=refine)(maps, photo), expected)
    assert torch.equal(Labeller(refine=None)(maps, photo), channels.argmax(0))


class Even:
    """A refinement of one's own: every class is as probable."""

    def probabilities(self, logits, photos, guides=None):
        return [torch.full_like(own, 1 / len(own)) for own in logits]

    def settings(self):
        return {"kind": "even"}


def test_a_refinement_of_ones_own():
    labeller = Labeller(refine=Even())
    assert labeller.settings() == {"threshold": 0.15, "blur": 0.05, "refine": {"kind": "even"}}
    assert not labeller(torch.rand(2, 7, 7), problem()[1]).any()


def test_settings_say_which_and_how():
    assert resolve("crf") == DenseCRF()
    assert resolve(None) is None
    assert Labeller(refine="crf").settings() == Labeller(refine=DenseCRF()).settings()
    assert Labeller(refine=None).settings()["refine"] is None
    assert Labeller(refine="pamr").settings()["refine"] == {
        "kind": "pamr",
        "steps": 10,
        "dilations": (8, 16),
    }
    assert resolve("crf").settings()["kind"] == "crf"
    assert resolve("crf").settings()["bilateral_sxy"] == 50


@pytest.mark.parametrize("refinement", [DenseCRF, PAMR])
def test_signatures_are_the_interfaces(refinement):
    # By these the command line knows a refinement.
    for name in ("probabilities", "settings"):
        own, interface = getattr(refinement, name), getattr(Refinement, name)
        assert inspect.signature(own) == inspect.signature(interface)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PAMR(steps=0), "`steps` to be 1 or more, but got 0; for no refinement"),
        (lambda: PAMR(dilations=()), r"`dilations` to be pixels, 1 or more, but got \[\]"),
        (lambda: PAMR(dilations=[8, 0]), r"`dilations` .* but got \[8, 0\]"),
        (lambda: Labeller(refine="sharp"), r"`refine` to be one of \['crf', 'pamr'\], .*'sharp'"),
        (lambda: Labeller(refine=3), r"`refine` to be one of .* but got 3"),
        (lambda: PAMR()(torch.zeros(3, 4), problem()[1]), r"`logits` .* got .* shape \(3, 4\)"),
        (lambda: PAMR()(problem()[1], problem()[1]), "`logits` to be floating .* got torch.uint8"),
        (
            lambda: PAMR()(problem()[0], problem(size=(20, 34))[1]),
            r"`guide` to have shape \(3, 21, 34\) .* got \(3, 20, 34\)",
        ),
        (lambda: PAMR()(problem()[0] / 0, problem()[1]), "`logits` to be finite"),
        (lambda: PAMR()(problem()[0], problem()[0] / 0), "`guide` to be finite"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(ValueError, match=f"Expected {message}"):
        make()


@pytest.mark.gpu
def test_a_gpu_computes_the_same():
    logits, photo = problem(size=(120, 90))
    on_gpu = PAMR()(logits.cuda(), photo)
    assert on_gpu.is_cuda
    assert_close(on_gpu.cpu(), PAMR()(logits, photo), 1e-5)
