"""Dense CRF against pydensecrf's recorded results, and its properties."""

import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from ovss.crf import DenseCRF
from ovss.crf.dense import _spatial_kernel
from ovss.crf.threads import map_photos

pytestmark = pytest.mark.numerical

GOLDEN = Path(__file__).parent / "data" / "golden_crf"
PYDENSECRF = ["astronaut_320x240_c3", "coffee_160x120_c21", "rocket_240x180_c6"]


@pytest.fixture(autouse=True)
def one_thread():
    # Two threads that wait for each other crawl where test processes fill all cores.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def load(name):
    stored = np.load(GOLDEN / f"{name}.npz")
    run = json.loads(str(stored["settings"]))
    crf = DenseCRF(
        iterations=run["iterations"],
        gaussian_sxy=run["gaussian"]["sxy"],
        gaussian_compat=run["gaussian"]["compat"],
        bilateral_sxy=run["bilateral"]["sxy"],
        bilateral_srgb=run["bilateral"]["srgb"],
        bilateral_compat=run["bilateral"]["compat"],
    )
    probabilities = torch.from_numpy(stored["prob"].astype(np.float32))
    photo = torch.from_numpy(stored["image"]).permute(2, 0, 1)
    return crf, probabilities, photo, stored


def agreement(q, labels):
    return (q.argmax(0).cpu().numpy() == labels).mean()


def random_input(classes, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    photo = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    return torch.randn(classes, height, width, generator=generator).softmax(0), photo


class TestGolden:
    @pytest.mark.parametrize("name", PYDENSECRF)
    def test_equals_pydensecrf(self, name):
        crf, probabilities, photo, stored = load(name)
        q = crf(probabilities, photo)
        assert agreement(q, stored["labels"]) >= 0.9999
        assert np.abs(q[:, ::2, ::2].numpy() - stored["q"]).max() <= 2e-3

    @pytest.mark.parametrize("name", PYDENSECRF)
    def test_first_iteration_equals_pydensecrf(self, name):
        crf, probabilities, photo, stored = load(name)
        one = DenseCRF(**{**vars(crf), "iterations": 1})
        assert agreement(one(probabilities, photo), stored["labels_1iter"]) >= 0.9999

    def test_golden_is_not_the_input(self):
        # What makes the agreement above mean something: the CRF changes many labels.
        for name in PYDENSECRF:
            _, probabilities, _, stored = load(name)
            assert agreement(probabilities, stored["labels"]) < 0.9

    @pytest.mark.parametrize("blur", [False, True], ids=["crf", "blur+crf"])
    @pytest.mark.parametrize(
        "case", ["voc/img1", "voc/img3", "psc/img1", "ade20k/img3", "coco_object/img1"]
    )
    def test_label_maps_of_the_released_code(self, case, blur):
        stored = np.load(GOLDEN / "label_maps.npz")
        maps = stored[f"{case}/maps"]
        if blur:
            sigma = 0.05 * max(maps.shape[1:])
            maps = np.stack([gaussian_filter(m, sigma) for m in maps])
            low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
            maps = (maps - low) / (high - low)
        photo = torch.from_numpy(stored[f"{case.split('/')[1]}/photo"]).permute(2, 0, 1)
        q = DenseCRF()(torch.from_numpy(maps).softmax(0), photo)
        labels = stored[f"{case}/values"][q.argmax(0).numpy()]
        assert np.mean(labels == stored[f"{case}/{'blur+crf' if blur else 'crf'}"]) >= 0.9999


def filter_by_hand(values, features, group):
    """Filter with the permutohedral lattice as Adams et al. write it, point by point, float64."""
    d, n = features.shape
    scale = [np.sqrt(2 / 3) * (d + 1) / np.sqrt((i + 1) * (i + 2)) for i in range(d)]
    corners, table = [], {}
    for p in range(n):
        f = features[:, p].astype(np.float64) * scale
        up = np.array([f.sum(), *(f[j:].sum() - j * f[j - 1] for j in range(1, d + 1))])
        base = np.round(up / (d + 1)) * (d + 1)
        order = np.argsort(-(up - base), kind="stable")
        rank = np.empty(d + 1, int)
        rank[order] = np.arange(d + 1)
        rank += int(base.sum()) // (d + 1)
        base = base + (d + 1) * ((rank < 0).astype(int) - (rank > d))
        rank = rank % (d + 1)
        v = np.empty(d + 1)
        v[rank] = (up - base) / (d + 1)
        own = []
        for r in range(d + 1):
            key = base + np.where(rank <= d - r, r, r - (d + 1))
            weight = v[d - r] - v[d - r + 1] if r else 1 + v[d] - v[0]
            own.append(((group[p], *key.astype(int).tolist()), weight))
            table.setdefault(own[-1][0], 0)
        corners.append(own)

    def apply(x):
        now = {key: np.zeros(x.shape[1]) for key in table}
        for own, row in zip(corners, x, strict=True):
            for key, weight in own:
                now[key] = now[key] + weight * row
        for axis in range(d + 1):
            step = np.full(d + 1, -1)
            step[axis] = d

            def at(key, sign, now=now, step=step):
                return now.get((key[0], *(np.array(key[1:]) + sign * step).tolist()), 0)

            now = {key: x + 0.5 * (at(key, 1) + at(key, -1)) for key, x in now.items()}
        alpha = 1 / (1 + 2.0**-d)
        return alpha * np.stack([sum(w * now[key] for key, w in own) for own in corners])

    norm = 1 / np.sqrt(apply(np.ones((n, 1))))
    return norm * apply(norm * values)


@pytest.mark.parametrize(("d", "groups"), [(1, 1), (2, 1), (2, 3), (5, 1), (5, 2)])
def test_kernel_equals_the_lattice_written_out(d, groups):
    from ovss.crf.lattice import gaussian_kernel

    rng = np.random.default_rng(d)
    features = rng.uniform(-3, 3, (d, 60)).astype(np.float32)
    values = rng.uniform(size=(60, 4)).astype(np.float32)
    group = np.sort(rng.integers(0, groups, 60))
    kernel = gaussian_kernel(
        torch.from_numpy(features), torch.from_numpy(group) if groups > 1 else None, scale=2.0
    )
    expected = 2.0 * filter_by_hand(values, features, group)
    np.testing.assert_allclose(kernel(torch.from_numpy(values)).numpy(), expected, atol=2e-5)


class TestSeveralPhotos:
    def test_equals_one_by_one(self):
        shapes = [(3, 20, 31), (5, 33, 12), (3, 31, 20), (1, 7, 7), (3, 20, 31)]
        inputs = [random_input(*shape, seed=i) for i, shape in enumerate(shapes)]
        together = DenseCRF()([p for p, _ in inputs], [photo for _, photo in inputs])
        for q, (probabilities, photo) in zip(together, inputs, strict=True):
            assert torch.equal(q, DenseCRF()(probabilities, photo))

    def test_in_one_lattice_equals_one_by_one(self):
        # What a GPU does with photos of equally many classes, here on the CPU.
        inputs = [random_input(4, *size, seed=i) for i, size in enumerate([(20, 31), (9, 40)])]
        one, other = DenseCRF()._refine([p for p, _ in inputs], [photo for _, photo in inputs])
        assert torch.allclose(one, DenseCRF()(*inputs[0]), atol=1e-5)
        assert torch.allclose(other, DenseCRF()(*inputs[1]), atol=1e-5)

    def test_long_bags_in_parts(self, monkeypatch):
        # What a GPU does with vertices of many pixels, here on the CPU.
        from ovss.crf import lattice, sparse

        features = torch.rand(2, 500)
        values = torch.rand(500, 3)
        expected = lattice.gaussian_kernel(features)(values)
        monkeypatch.setattr(lattice, "limit_bags", lambda bags: sparse.split_bags(bags, 8))
        split = lattice.gaussian_kernel(features)
        assert split.to_vertices[0].offsets.diff().max() <= 8
        assert torch.allclose(split(values), expected, atol=1e-6)

    def test_number_of_threads_does_not_matter(self, monkeypatch):
        monkeypatch.setattr("ovss.crf.threads.usable_cpus", lambda: 4)
        inputs = [random_input(3, 21, 30 + i, seed=i) for i in range(3)]
        probabilities, photos = [p for p, _ in inputs], [photo for _, photo in inputs]
        expected = DenseCRF()(probabilities, photos)
        for threads in (2, 3):
            torch.set_num_threads(threads)
            for q, one in zip(DenseCRF()(probabilities, photos), expected, strict=True):
                assert torch.equal(q, one)

    def test_several_threads_on_one_photo_give_the_same_bits(self, monkeypatch):
        monkeypatch.setattr("ovss.crf.threads.usable_cpus", lambda: 4)
        monkeypatch.setattr("ovss.crf.sparse._MIN_BAND", 100)
        monkeypatch.setattr("ovss.crf.lattice._CHUNK", 100)
        monkeypatch.setattr("ovss.crf.mean_field._CHUNK", 300)
        for classes in (3, 20):
            one = random_input(classes, 21, 30)
            torch.set_num_threads(1)
            expected = DenseCRF()(*one)
            _spatial_kernel.cache_clear()
            torch.set_num_threads(4)
            with torch.inference_mode():
                assert torch.equal(DenseCRF()(*one), expected)

    def test_no_state_between_photos(self):
        crf = DenseCRF()
        first, second = random_input(3, 24, 17), random_input(3, 24, 17, seed=1)
        expected = crf(*first)
        crf(*second)
        assert torch.equal(crf(*first), expected)


class TestModes:
    def test_inference_mode_inside_and_outside(self):
        probabilities, photo = random_input(3, 13, 29)
        _spatial_kernel.cache_clear()
        with torch.inference_mode():
            inside = DenseCRF()(probabilities.clone(), photo.clone())
        outside = DenseCRF()(probabilities, photo)  # with the lattice cached by the other
        assert torch.equal(inside, outside)
        assert not outside.is_inference()

    def test_gradients_are_left_out(self):
        probabilities, photo = random_input(3, 13, 29)
        assert not DenseCRF()(probabilities.requires_grad_(), photo).requires_grad

    def test_half_precision_and_strides(self):
        probabilities, photo = random_input(3, 13, 29)
        rounded = probabilities.half()
        strided = rounded.permute(1, 2, 0).contiguous().permute(2, 0, 1)
        q = DenseCRF()(strided, photo.permute(1, 2, 0).contiguous().permute(2, 0, 1))
        assert q.dtype == torch.float32
        assert torch.equal(q, DenseCRF()(rounded.float(), photo))

    def test_default_dtype_does_not_matter(self):
        probabilities, photo = random_input(3, 13, 29)
        expected = DenseCRF()(probabilities, photo)
        _spatial_kernel.cache_clear()
        torch.set_default_dtype(torch.float64)
        try:
            assert torch.equal(DenseCRF()(probabilities, photo), expected)
        finally:
            torch.set_default_dtype(torch.float32)

    def test_threads_calling_at_once(self, monkeypatch):
        monkeypatch.setattr("ovss.crf.threads.usable_cpus", lambda: 2)
        inputs = [random_input(3, 30 + i % 2, 40, seed=i) for i in range(6)]
        expected = [DenseCRF()(*one) for one in inputs]
        _spatial_kernel.cache_clear()
        results = [None] * len(inputs)
        torch.set_num_threads(2)

        def work(i):
            results[i] = DenseCRF()([inputs[i][0]] * 2, [inputs[i][1]] * 2)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for pair, q in zip(results, expected, strict=True):
            assert torch.equal(pair[0], q)
            assert torch.equal(pair[1], q)

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
    def test_after_fork(self):
        # As in a data loader's worker: forked, one thread.
        probabilities, photo = random_input(3, 40, 50)
        expected = DenseCRF()([probabilities] * 3, [photo] * 3)[0]
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            torch.set_num_threads(1)
            q = DenseCRF()([probabilities] * 3, [photo] * 3)[2]
            os.write(writer, b"1" if torch.equal(q, expected) else b"0")
            os._exit(0)
        os.close(writer)
        assert os.read(reader, 1) == b"1"
        assert os.waitpid(child, 0)[1] == 0


class TestThreads:
    @pytest.fixture
    def four_cores(self, monkeypatch):
        monkeypatch.setattr("ovss.crf.threads.usable_cpus", lambda: 4)
        torch.set_num_threads(4)

    def test_one_intra_op_thread_a_photo(self, four_cores):
        seen = map_photos(
            lambda _, pool: (threading.get_ident(), torch.get_num_threads(), pool.size), range(8)
        )
        assert {threads for _, threads, _ in seen} == {1}
        assert {size for *_, size in seen} == {1}
        assert threading.get_ident() not in {thread for thread, *_ in seen}

    def test_a_lone_photo_gets_several_threads(self, four_cores):
        def sizes(count):
            return map_photos(lambda _, pool: pool.size, range(count))

        assert sizes(1) == [4]
        assert sizes(5) == [1, 1, 1, 1, 4]
        assert sizes(6) == [1] * 6

    def test_several_threads_have_one_intra_op_thread_each(self, four_cores):
        meeting = threading.Barrier(4, timeout=30)  # broken unless four threads come

        def work(_):
            meeting.wait()
            return threading.get_ident(), torch.get_num_threads()

        (seen,) = map_photos(lambda _, pool: pool.map(work, range(4)), [0])
        assert len({thread for thread, _ in seen}) == 4
        assert {threads for _, threads in seen} == {1}

    def test_thread_count_is_put_back(self, four_cores):
        map_photos(lambda *_: None, range(8))
        assert torch.get_num_threads() == 4
        fresh = []
        thread = threading.Thread(target=lambda: fresh.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert fresh == [4]

    def test_errors_come_through(self, four_cores):
        def fail(photo, pool):
            raise KeyError(photo)

        with pytest.raises(KeyError):
            map_photos(fail, range(8))
        assert torch.get_num_threads() == 4

    def test_no_threads_where_the_caller_has_one(self, monkeypatch):
        monkeypatch.setattr("ovss.crf.threads.usable_cpus", lambda: 4)
        seen = map_photos(lambda *_: threading.get_ident(), range(8))
        assert set(seen) == {threading.get_ident()}


class TestProperties:
    sizes = st.tuples(st.integers(1, 6), st.integers(1, 12), st.integers(1, 12))

    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(sizes, st.integers(0, 1000))
    def test_sums_to_one(self, size, seed):
        q = DenseCRF()(*random_input(*size, seed=seed))
        assert q.shape == size
        assert torch.allclose(q.sum(0), torch.ones(size[1:]), atol=1e-5)
        assert (q >= 0).all()

    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(sizes, st.integers(0, 1000), st.randoms(use_true_random=False))
    def test_permuting_classes_permutes_q(self, size, seed, random):
        probabilities, photo = random_input(*size, seed=seed)
        order = list(range(size[0]))
        random.shuffle(order)
        permuted = DenseCRF()(probabilities[order], photo)
        assert torch.allclose(permuted, DenseCRF()(probabilities, photo)[order], atol=1e-5)

    @settings(max_examples=15, deadline=None, derandomize=True)
    @given(sizes, st.integers(0, 1000))
    def test_saturated(self, size, seed):
        probabilities, photo = random_input(*size, seed=seed)
        saturated = (probabilities == probabilities.amax(0)).float()
        q = DenseCRF()(saturated, photo)
        assert q.isfinite().all()
        assert torch.allclose(q.sum(0), torch.ones(size[1:]), atol=1e-5)

    @pytest.mark.parametrize("value", [0, 127, 255])
    def test_photo_of_one_colour(self, value):
        # Without edges, one class that is likelier everywhere stays so everywhere.
        probabilities = torch.full((2, 24, 36), 0.4)
        probabilities[1] = 0.6
        photo = torch.full((3, 24, 36), value, dtype=torch.uint8)
        q = DenseCRF()(probabilities, photo)
        assert (q.argmax(0) == 1).all()
        assert (q[1] > 0.6).all()

    @pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 2)])
    def test_tiny_photos(self, size):
        q = DenseCRF()(*random_input(3, *size))
        assert q.shape == (3, *size)
        assert torch.allclose(q.sum(0), torch.ones(size), atol=1e-5)

    def test_one_pixel_by_hand(self):
        # A pixel alone hears only itself: K = 1, D = 1, so Q <- softmax(log p + 17 Q).
        p = np.array([0.5, 0.3, 0.2])
        expected = p
        for _ in range(10):
            energy = np.log(p) + 17 * expected
            expected = np.exp(energy - energy.max())
            expected /= expected.sum()
        probabilities = torch.tensor(p, dtype=torch.float32).view(3, 1, 1)
        q = DenseCRF()(probabilities, torch.zeros(3, 1, 1, dtype=torch.uint8))
        np.testing.assert_allclose(q.flatten().numpy(), expected, atol=1e-5)

    def test_one_class(self):
        q = DenseCRF()(*random_input(1, 9, 11))
        assert torch.equal(q, torch.ones(1, 9, 11))

    def test_many_classes(self):
        probabilities, photo = random_input(172, 40, 30)
        q = DenseCRF()(probabilities, photo)
        assert torch.allclose(q.sum(0), torch.ones(40, 30), atol=1e-5)

    def test_without_pairwise_terms_is_the_normalised_prior(self):
        probabilities, photo = random_input(4, 9, 11)
        for off in (
            DenseCRF(gaussian_compat=0, bilateral_compat=0),
            DenseCRF(iterations=0),
        ):
            assert torch.allclose(off(probabilities * 0.5, photo), probabilities, atol=1e-5)


class TestRefusals:
    def test_nan_and_out_of_range(self):
        probabilities, photo = random_input(3, 5, 6)
        for bad in (float("nan"), -0.1, 1.5, float("inf")):
            wrong = probabilities.clone()
            wrong[1, 2, 3] = bad
            with pytest.raises(ValueError, match=r"in 0 to 1, but got .* apply a softmax"):
                DenseCRF()(wrong, photo)

    def test_names_the_photo(self):
        inputs = [random_input(3, 5, 6), random_input(3, 5, 7)]
        with pytest.raises(ValueError, match=r"of photo 1 .*size \(5, 6\), but got \(5, 7\)"):
            DenseCRF()([p for p, _ in inputs], [inputs[0][1], inputs[0][1]])

    @pytest.mark.parametrize(
        ("probabilities", "photo", "message"),
        [
            (torch.rand(5, 6), torch.zeros(3, 5, 6, dtype=torch.uint8), r"\(C, H, W\)"),
            (torch.rand(2, 3, 5, 6), torch.zeros(2, 3, 5, 6, dtype=torch.uint8), "pass a list"),
            (torch.ones(3, 5, 6, dtype=torch.int64), torch.zeros(3, 5, 6), "floating point"),
            (torch.rand(0, 5, 6), torch.zeros(3, 5, 6, dtype=torch.uint8), r"\(C, H, W\)"),
            (torch.rand(3, 5, 6), torch.zeros(5, 6, 3, dtype=torch.uint8), "channels first"),
            (torch.rand(3, 5, 6), torch.zeros(3, 5, 6), "uint8"),
            (torch.rand(3, 5, 6), torch.zeros(3, 6, 5, dtype=torch.uint8), "resize"),
            (torch.rand(3, 5, 6), [torch.zeros(3, 5, 6, dtype=torch.uint8)], "two lists"),
            ([], [], "at least one"),
            ([torch.rand(3, 5, 6)], [], "1 probability maps and 0 photos"),
        ],
    )
    def test_shapes(self, probabilities, photo, message):
        with pytest.raises(ValueError, match=message):
            DenseCRF()(probabilities, photo)

    @pytest.mark.parametrize(
        "setting",
        [
            {"iterations": -1},
            {"gaussian_sxy": 0},
            {"bilateral_srgb": -5},
            {"bilateral_compat": float("nan")},
        ],
    )
    def test_settings(self, setting):
        with pytest.raises(ValueError, match=f"Expected `{next(iter(setting))}` to be"):
            DenseCRF(**setting)

    def test_too_small_a_sigma(self):
        probabilities, _ = random_input(2, 2, 2)
        photo = torch.zeros(3, 2, 2, dtype=torch.uint8)
        photo[0, 0, 0] = photo[1, 0, 1] = photo[2, 1, 0] = 255
        with pytest.raises(ValueError, match="raise the CRF's sxy or srgb"):
            DenseCRF(bilateral_srgb=1e-3, bilateral_sxy=1e-3)(probabilities, photo)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestCUDA:
    @pytest.mark.parametrize("name", PYDENSECRF)
    def test_equals_pydensecrf(self, name):
        crf, probabilities, photo, stored = load(name)
        q = crf(probabilities.cuda(), photo).cpu()
        assert agreement(q, stored["labels"]) >= 0.9999
        assert np.abs(q[:, ::2, ::2].numpy() - stored["q"]).max() <= 2e-3

    def test_equals_cpu_several_at_once(self):
        inputs = [random_input(3, 60 + i, 80, seed=i) for i in range(4)]
        inputs.append(random_input(7, 50, 50))
        photos = [photo for _, photo in inputs]
        on_cpu = DenseCRF()([p for p, _ in inputs], photos)
        on_gpu = DenseCRF()([p.cuda() for p, _ in inputs], photos)
        for q, expected in zip(on_gpu, on_cpu, strict=True):
            assert (q.cpu().argmax(0) == expected.argmax(0)).float().mean() >= 0.9999
            assert torch.allclose(q.cpu(), expected, atol=2e-3)

    def test_mean_field_does_not_wait_for_the_device(self):
        from ovss.crf.lattice import gaussian_kernel
        from ovss.crf.mean_field import mean_field

        kernel = gaussian_kernel(torch.rand(5, 1000, device="cuda"))
        prior = torch.randn(1000, 4, device="cuda")
        torch.cuda.set_sync_debug_mode("error")
        try:
            mean_field(prior, [kernel], 10)
        finally:
            torch.cuda.set_sync_debug_mode("default")
