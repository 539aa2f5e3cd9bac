"""Labelling against SciPy, PyTorch and plain loops; degenerate maps."""

import logging

import numpy as np
import pytest
import torch
from conftest import class_maps
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from torch.nn.functional import interpolate
from torch.overrides import TorchFunctionMode

from ovss.captions import Caption
from ovss.crf import DenseCRF
from ovss.labelling import Labeller, blurring, upsampling
from ovss.refine import PAMR
from ovss.salience import SalienceDropout

pytestmark = pytest.mark.numerical

SIZES = [(20, 31), (31, 20), (1, 40), (40, 1), (1, 1), (7, 7), (3, 5)]


def random_maps(classes=3, grid=7, seed=0):
    """Non-negative, sparse maps `(K, g, g)`, as GradCAM's are."""
    noise = torch.randn(classes, grid, grid, generator=torch.Generator().manual_seed(seed))
    return noise.clamp(min=0)


def photo_of(size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)


def scaled(channel):
    """Min-max, 0 for a constant."""
    span = channel.max() - channel.min()
    return (channel - channel.min()) / span if span > 0 else np.zeros_like(channel)


def plain_channels(maps, size, threshold, blur, background, rescale):
    """Section 3.4 of the paper, channel by channel in double precision."""
    channels = []
    for m in maps.double().numpy():
        kept = np.where(scaled(m) < threshold, 0, m)
        up = interpolate(
            torch.from_numpy(kept)[None, None], size, mode="bilinear", align_corners=True
        )
        channels.append(scaled(up[0, 0].numpy()) if rescale else up[0, 0].numpy())
    if background:
        nothing = np.ones(size, bool)
        for channel in channels:
            nothing &= channel == 0
        channels.insert(0, nothing.astype(float))
    if blur:
        sigma = blur * max(size)
        channels = [scaled(gaussian_filter(channel, sigma)) for channel in channels]
    return np.stack(channels)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize(("threshold", "blur"), [(0.15, 0.0), (0.15, 0.05), (0.5, 0.3), (0.0, 0.1)])
def test_channels_equal_plain_loops(size, background, rescale, threshold, blur):
    maps = random_maps()
    channels = Labeller(threshold, blur, None).channels(maps, size, background, rescale)
    expected = plain_channels(maps, size, threshold, blur, background, rescale)
    np.testing.assert_allclose(channels.numpy(), expected, atol=1e-5, rtol=0)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 60), st.integers(1, 60))
@settings(max_examples=25, deadline=None)
def test_upsampling_equals_pytorch(grid_height, grid_width, height, width):
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(2, grid_height, grid_width, generator=generator)
    up = upsampling(grid_height, height) @ maps @ upsampling(grid_width, width).T
    expected = interpolate(maps[None], (height, width), mode="bilinear", align_corners=True)[0]
    torch.testing.assert_close(up, expected, atol=1e-6, rtol=0)


@given(st.integers(1, 50), st.integers(1, 50), st.floats(0.05, 120))
@settings(max_examples=25, deadline=None)
def test_blur_equals_scipy(height, width, sigma):
    channel = np.random.default_rng(0).random((height, width))
    rows, columns = blurring(height, sigma).double(), blurring(width, sigma).double()
    blurred = (rows @ torch.from_numpy(channel) @ columns.T).numpy()
    np.testing.assert_allclose(blurred, gaussian_filter(channel, sigma), atol=1e-6, rtol=0)


def test_labels_count_classes_from_one():
    maps = torch.zeros(3, 2, 2)
    maps[0, 0, 0] = maps[1, 0, 1] = maps[2, 1, 0] = 1
    labeller, photo = Labeller(0.15, 0, None), photo_of((2, 2))
    assert labeller(maps, photo, background=True).tolist() == [[1, 2], [3, 0]]
    assert labeller(maps, photo, background=False).tolist() == [[1, 2], [3, 1]]
    assert labeller(maps, photo).dtype == torch.int64


def test_threshold_is_relative_to_each_class():
    maps = torch.tensor([[[10.0, 2.0, 1.0, 0.0]], [[0.0, 0.1, 1.0, 0.1]]])
    channels = Labeller(0.15, 0, None).channels(maps, (1, 4), background=False)
    assert channels.tolist() == [[[10.0, 2.0, 0.0, 0.0]], [[0.0, 0.0, 1.0, 0.0]]]


REFINEMENTS = [None, DenseCRF(iterations=2), PAMR(2, (1, 3))]


@pytest.mark.parametrize("refine", REFINEMENTS)
def test_a_batch_equals_single_photos(refine):
    labeller = Labeller(refine=refine)
    maps = [random_maps(k, seed=k) for k in (1, 3, 2, 0, 1)]
    photos = [photo_of(size, i) for i, size in enumerate(SIZES[:5])]
    backgrounds = [True, False, True, True, False]
    together = labeller.batch(maps, photos, backgrounds)
    for m, photo, background, labels in zip(maps, photos, backgrounds, together, strict=True):
        assert labels.shape == photo.shape[1:]
        assert torch.equal(labels, labeller(m, photo, background))


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("blur", [0.0, 0.05])
@pytest.mark.parametrize("size", SIZES)
class TestDegenerateMaps:
    def labels(self, maps, size, background, blur, rescale):
        labeller = Labeller(0.15, blur, None)
        channels = labeller.channels(maps, size, background, rescale)
        assert torch.isfinite(channels).all()
        return labeller(maps, photo_of(size), background, rescale).unique().tolist()

    def test_nothing_anywhere(self, size, blur, rescale):
        maps = torch.zeros(3, 7, 7)
        assert self.labels(maps, size, True, blur, rescale) == [0]
        assert self.labels(maps, size, False, blur, rescale) == [1]

    def test_constant(self, size, blur, rescale):
        # Min-max makes it 0, which is below any threshold: as good as nothing.
        maps = torch.full((2, 7, 7), 3.0)
        assert self.labels(maps, size, True, blur, rescale) == [0]
        assert self.labels(maps, size, False, blur, rescale) == [1]

    def test_no_class(self, size, blur, rescale):
        assert self.labels(torch.zeros(0, 7, 7), size, True, blur, rescale) == [0]
        with pytest.raises(ValueError, match="at least one class or a background"):
            self.labels(torch.zeros(0, 7, 7), size, False, blur, rescale)

    def test_one_class_without_background_takes_all(self, size, blur, rescale):
        assert self.labels(random_maps(1), size, False, blur, rescale) == [1]

    def test_an_empty_class_takes_no_pixel_with_evidence(self, size, blur, rescale):
        maps = random_maps(2) + 0.5  # nowhere below the threshold but at the least entry
        maps[0] = 0
        labeller = Labeller(0.15, blur, None)
        channels = labeller.channels(maps, size, False, rescale)
        labels = labeller(maps, photo_of(size), False, rescale)
        assert not channels[0].any()
        assert torch.equal(labels == 2, channels[1] > 0)
        assert torch.isfinite(channels).all()


@pytest.mark.parametrize("refine", ["crf", "pamr"])
def test_nothing_anywhere_is_background_after_refinement(refine):
    assert not Labeller(refine=refine)(torch.zeros(3, 7, 7), photo_of((20, 31))).any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_maps_that_are_not_finite(bad):
    maps = random_maps()
    maps[1, 2, 3] = bad
    with pytest.raises(ValueError, match=r"Expected `maps` to be finite, but got .* in class 2"):
        Labeller(refine=None)(maps, photo_of((20, 31)))


@pytest.mark.parametrize("shape", [(7, 7), (1, 3, 7, 7)])
def test_maps_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"shape \(K, gh, gw\)"):
        Labeller(refine=None)(torch.zeros(shape), photo_of((20, 31)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": -0.1}, r"`threshold` to be in 0..1, but got -0.1"),
        ({"threshold": 1.5}, r"`threshold` to be in 0..1, but got 1.5"),
        ({"blur": -1}, "`blur` to be in 0..1, .* but got -1"),
        ({"blur": 1e6}, "`blur` to be in 0..1, .* but got 1000000"),
        ({"blur": float("nan")}, "`blur` to be in 0..1, .* but got nan"),
    ],
)
def test_settings_that_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Labeller(**settings)


def test_works_in_and_out_of_inference_mode():
    # The interpolation and blur matrices are cached on first use, here inside.
    maps, photo, size = random_maps(), photo_of((53, 47)), (53, 47)
    upsampling.cache_clear()
    blurring.cache_clear()
    labeller = Labeller(refine=None)
    with torch.inference_mode():
        inside = labeller(maps, photo)
    leaf = maps.clone().requires_grad_()
    labeller.channels(leaf, size, True).sum().backward()
    assert torch.isfinite(leaf.grad).all()
    assert torch.equal(inside, labeller(maps, photo))


# Which patch is the tenth may turn on rounding, and a random model's later rounds turn on it.
@pytest.mark.parametrize(("rounds", "floor"), [(1, 0.85), (4, 0.5)])
def test_bfloat16_autocast_agrees(tiny_blip, golden, record_property, rounds, floor):
    captions = [Caption.of(case["classes"]) for case in golden.cases["voc"]]
    pixels = torch.cat([golden.pixels("voc", image) for image in range(4)])
    photos = [photo_of(size) for size in golden.sizes]
    labeller, dropout = Labeller(refine=None), SalienceDropout(rounds)

    def labels():
        maps = class_maps(dropout, tiny_blip, pixels, captions, 4, 2)
        assert all(m.dtype == torch.float32 for m in maps)
        return torch.cat([m.flatten() for m in labeller.batch(maps, photos, [True] * 4)])

    full = labels()
    with torch.autocast("cpu", torch.bfloat16):
        half = labels()
    agreement = (full == half).double().mean().item()
    record_property("bfloat16_label_agreement", agreement)
    logging.info("%d rounds: bfloat16 agrees on %.2f%% of the pixels", rounds, 100 * agreement)
    assert agreement > floor


@pytest.mark.parametrize("refine", REFINEMENTS)
def test_labelling_ignores_autocast(refine):
    labeller, maps, photo = Labeller(refine=refine), random_maps(), photo_of((53, 47))
    expected = labeller(maps, photo)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(labeller(maps, photo), expected)


# ---- precision -----------------------------------------------------------------------------------


def allowed():
    """What float32 matrix products may be rounded to on a GPU."""
    backend = torch.backends.cuda.matmul
    if hasattr(backend, "fp32_precision"):
        return backend.fp32_precision
    return torch.get_float32_matmul_precision()


class Products(TorchFunctionMode):
    """Notes the precision that each matrix product is computed with."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (torch.Tensor.__matmul__, torch.Tensor.matmul, torch.matmul):
            self.seen.append(allowed())
        return function(*args, **(kwargs or {}))


def old_way():
    torch.set_float32_matmul_precision("high")


def new_way():
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        pytest.skip("since torch 2.9")
    torch.backends.cuda.matmul.fp32_precision = "tf32"


@pytest.fixture
def highest():
    """Full precision again afterwards, whatever the test sets."""
    yield
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        torch.backends.mkldnn.matmul.fp32_precision = "ieee"
    torch.set_float32_matmul_precision("highest")


@pytest.mark.usefixtures("highest")
@pytest.mark.parametrize("allow", [old_way, new_way])
def test_coarse_products_are_not_for_label_maps(allow):
    allow()
    coarse = allowed()
    assert coarse in ("high", "tf32")
    products = Products()
    with products:
        Labeller(refine=None)(random_maps(), photo_of((20, 31)))
    assert len(products.seen) == 4  # interpolation and blur, rows and columns
    assert set(products.seen) <= {"highest", "ieee"}
    assert allowed() == coarse
