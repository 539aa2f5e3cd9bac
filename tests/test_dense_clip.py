"""CLIP-based methods: windows, names, settings, and what is refused."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import FEATURES, assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from ovss.datamodules.ade20k import benchmark as ade20k
from ovss.datamodules.cityscapes import Cityscapes
from ovss.datamodules.coco import COCOObject, COCOStuff
from ovss.datamodules.pascal_context import PascalContext
from ovss.datamodules.voc import VOC
from safetensors.torch import save
from torch.nn.functional import interpolate, normalize

from ovss.benchmark import PhotoBatch, of_classes
from ovss.crf import DenseCRF
from ovss.dense_clip import METHODS, DenseCLIP, queries_of, read_vocabulary
from ovss.dense_clip.inference import Inference, inference_of
from ovss.dense_clip.labelling import PhotoLogits, label_map
from ovss.dense_clip.methods import proxy_attention
from ovss.dense_clip.windows import Axis, Windows
from ovss.preprocessing import Preprocess
from ovss.proposals import Proposal
from ovss.refine import PAMR
from ovss.utils.progress import Progress

pytestmark = pytest.mark.numerical

CPU = torch.device("cpu")

BENCHMARKS = {
    "voc21": VOC("data").benchmark,
    "pc60": PascalContext("data", "pc60").benchmark,
    "coco_object81": COCOObject("data").benchmark,
    "voc20": VOC("data", "voc20").benchmark,
    "pc59": PascalContext("data", "pc59").benchmark,
    "coco_stuff171": COCOStuff("data").benchmark,
    "cityscapes19": Cityscapes("data").benchmark,
    "ade150": ade20k("standard"),
}


@pytest.fixture(scope="module")
def make(golden_clip_path):
    """A method with tiny weights; small windows, so that photos have several."""

    def make(method, **options):
        small = {"short_side": 48, "crop": 32, "stride": 16}
        if method == "proxyclip":
            options.setdefault("dino", golden_clip_path / "dino_tiny_p8_hf")
        folder = golden_clip_path / "clip_tiny_hf"
        return DenseCLIP.from_pretrained(folder, method, **{**small, **options})

    return make


def batch_of(model, benchmark, sizes, present=None, seed=0):
    """Photos of noise that is smooth enough to have regions."""
    rng = np.random.default_rng(seed)
    preprocess = Preprocess(model.input_spec(benchmark))
    photos = []
    for height, width in sizes:
        coarse = torch.from_numpy(rng.random((1, 3, 5, 7), dtype=np.float32))
        large = interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
        photos.append((255 * large[0]).to(torch.uint8))
    pixels = [preprocess(photo.permute(1, 2, 0).numpy()) for photo in photos]
    return PhotoBatch([f"p{i}" for i in range(len(sizes))], photos, pixels, present)


def label(model, batch, benchmark):
    with torch.no_grad():
        return model(batch, benchmark, model.propose(batch, benchmark))


# ---- windows -------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(16, 90), st.integers(16, 90)),
    target=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    crop=st.integers(16, 64),
    share=st.floats(0.2, 1),
    multiple=st.sampled_from([1, 16, 56]),
    patch=st.sampled_from([8, 16]),
    seed=st.integers(0, 9),
)
def test_two_matrices_do_what_a_canvas_does(size, target, crop, share, multiple, patch, seed):
    stride = max(1, int(crop * share))
    windows = Windows(*(Axis.of(side, crop, stride, multiple, 16) for side in size))
    grid = tuple(side // patch for side in windows.shape)
    logits = torch.randn(len(windows), *grid, 2, generator=torch.Generator().manual_seed(seed))

    canvas, count = torch.zeros(2, *size), torch.zeros(*size)
    each = iter(logits)
    rows, columns = (max(side - crop + stride - 1, 0) // stride + 1 for side in size)
    for row in range(rows):
        for column in range(columns):
            bottom, right = min(row * stride + crop, size[0]), min(column * stride + crop, size[1])
            top, left = max(bottom - crop, 0), max(right - crop, 0)
            height, width = bottom - top, right - left
            padded = tuple(-(-side // multiple) * multiple for side in (height, width))
            up, aside = (padded[0] - height) // 2, (padded[1] - width) // 2
            whole = interpolate(next(each).permute(2, 0, 1)[None], padded, mode="bilinear")[0]
            cut = whole[:, up : up + height, aside : aside + width]
            canvas[:, top:bottom, left:right] += cut
            count[top:bottom, left:right] += 1
    expected = interpolate((canvas / count)[None], target, mode="bilinear")[0]

    found = PhotoLogits(
        windows.side_by_side(logits),
        windows.rows.matrix(grid[0], target[0], True, CPU),
        windows.columns.matrix(grid[1], target[1], True, CPU),
    )[slice(None)]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_windows_are_cut_and_padded():
    pixels = torch.arange(1.0, 1 + 3 * 20 * 50).view(3, 20, 50)
    windows = Windows(Axis.of(20, 32, 16, 16, 16), Axis.of(50, 32, 16, 16, 16))
    assert (windows.shape, len(windows)) == ((32, 32), 3)
    for left, window in zip((0, 16, 18), windows.cut(pixels), strict=True):
        expected = torch.zeros(3, 32, 32)
        expected[:, 6:26] = pixels[:, :, left : left + 32]
        assert torch.equal(window, expected)


def test_bands_and_areas(monkeypatch):
    """Against a labelling with whole arrays, in bands of a few rows."""
    monkeypatch.setattr("ovss.dense_clip.labelling.BAND", 5 * 30 * 3)
    generator = torch.Generator().manual_seed(0)
    patches = torch.rand(5, 4, 6, generator=generator)
    rows, columns = (Axis.of(n, 0, 1, 1, 1) for n in (40, 60))
    logits = PhotoLogits(patches, rows.matrix(4, 20, False, CPU), columns.matrix(6, 30, False, CPU))
    assert len(logits.bands()) == 7
    labels, scale = np.array([0, 0, 1, 2, 3]), 8.0
    whole = interpolate(patches[None], (20, 30), mode="bilinear")[0]
    shares = (scale * whole).softmax(0).numpy()
    classes = np.stack([shares[labels == label].max(0) for label in range(4)])
    counts = np.bincount(classes.argmax(0).ravel(), minlength=4)
    for area in (0.0, 0.2, 0.35, 0.6, 1.0):
        kept = classes.copy()
        for number in (1, 2, 3):
            if counts[number] <= area * counts[1:].sum():
                kept[number] = 0
        for threshold in (0.0, 0.3, 1.0):
            expected = np.where(kept.max(0) < threshold, 0, kept.argmax(0))
            found = label_map(logits, labels.tolist(), scale, threshold, area)
            assert (found.numpy() == expected).mean() > 0.995
    assert len(np.unique(expected)) == 1  # nothing is that probable


# ---- ProxyCLIP -----------------------------------------------------------------------------------


def test_proxyclip_on_a_window_that_is_no_square(make):
    """The released code swaps height and width; here patch by patch, by hand."""
    model = make("proxyclip")
    window = torch.randn(2, 3, 48, 80, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        last = model.image.last_layer(window)
        gathered = model.image.attend(last)
        assert (last.grid, last.proxy_grid, model.image.grid(48, 80)) == ((3, 5), (6, 10), (6, 10))
        for photo in range(2):
            unit = normalize(model.image._dino_features(window)[0][photo, 1:], dim=-1)
            similarity = unit @ unit.T
            scores = 3 * (similarity - 1.2 * similarity.mean())
            weights = scores.exp() * (scores >= 0)
            weights = weights / weights.sum(1, keepdim=True)
            for head in range(4):
                values = last.v[photo, head, 1:].unflatten(0, (3, 5)).permute(2, 0, 1)
                values = interpolate(values[None], (6, 10), mode="bilinear")[0].flatten(1).T
                assert_close(gathered[photo, head], weights @ values, within=FEATURES)


def test_proxyclip_where_all_patches_are_alike():
    alike = normalize(torch.ones(1, 4, 3), dim=-1)
    assert torch.equal(proxy_attention(alike, 1.2, 3.0), torch.eye(4)[None])


# ---- a result is a photo's own -------------------------------------------------------------------

SIZES = [(40, 60), (61, 33), (50, 50), (20, 90)]


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_and_its_photos_one_by_one(method, make):
    benchmark = of_classes(["cat", "dog; puppy", "tree"])
    model = make(method, prob_thd=0.25)
    batch = batch_of(model, benchmark, SIZES)
    together = label(model, batch, benchmark)
    for photo, labels in enumerate(together):
        assert labels.shape == SIZES[photo]
        (alone,) = label(model, batch.take([photo]), benchmark)
        # To the bit on the machines tried; elsewhere rounding may choose between two that tie.
        assert (labels == alone).float().mean() >= 0.999
    assert len(torch.unique(torch.cat([labels.flatten() for labels in together]))) > 1


@pytest.mark.parametrize("method", ["sclip", "proxyclip"])
def test_windows_in_parts(method, make, monkeypatch):
    benchmark = of_classes(["cat", "dog"])
    model = make(method)
    batch = batch_of(model, benchmark, SIZES)
    features = model.text.features(model.queries(benchmark).names)
    windows = [model.windows(pixels, model.inference(benchmark)) for pixels in batch.pixel_values]
    assert max(map(len, windows)) > 2
    with torch.no_grad():
        whole = model.patch_logits(batch.pixel_values, windows, features)
        monkeypatch.setattr("ovss.dense_clip.segmenter.TOKENS_ON_CPU", 1)
        parts = model.patch_logits(batch.pixel_values, windows, features)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, atol=2e-6, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_photos_of_extreme_shapes(method, make):
    benchmark = of_classes(["cat", "dog"])
    model = make(method)
    batch = batch_of(model, benchmark, [(1, 1), (1, 90), (200, 2)])
    assert [labels.shape for labels in label(model, batch, benchmark)] == [
        (1, 1),
        (1, 90),
        (200, 2),
    ]


def test_half_precision_is_the_encoders_alone(make):
    benchmark = of_classes(["cat", "dog"])
    model = make("sclip")
    batch = batch_of(model, benchmark, [(40, 60)])
    features = model.text.features(["cat", "dog"])
    windows = [model.windows(batch.pixel_values[0], model.inference(benchmark))]
    with torch.no_grad():
        (exact,) = model.patch_logits(batch.pixel_values, windows, features)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            (found,) = model.patch_logits(batch.pixel_values, windows, features)
            logits = model.photo_logits(found, windows[0], (40, 60), model.inference(benchmark))
            assert logits[slice(None)].dtype == torch.float32
    assert found.dtype == torch.float32
    assert 0 < (found - exact).abs().max() < 0.05


def test_large_photos_are_labelled_at_a_bounded_size(make, monkeypatch):
    benchmark = of_classes(["cat", "dog"], background=False)
    model = make("maskclip")
    batch = batch_of(model, benchmark, [(60, 120)])
    monkeypatch.setattr("ovss.dense_clip.segmenter.LONGEST_SIDE", 30)
    (labels,) = label(model, batch, benchmark)
    small = labels[::4, ::4]
    assert torch.equal(labels, small.repeat_interleave(4, 0).repeat_interleave(4, 1))


def test_refined_logits(make):
    """NACLIP's PAMR is guided by the input, the CRF by the photo; each logit is a name's."""
    benchmark = of_classes(["cat", "dog; puppy"])
    batch = batch_of(make("naclip"), benchmark, [(40, 60), (33, 30)])
    plain = make("naclip", refine=None)
    for refine, refinement in (("default", PAMR()), ("crf", DenseCRF())):
        model = make("naclip", refine=refine, prob_thd=0.2)
        assert model.settings()["refine"] == refinement.settings()
        queries, own = plain.queries(benchmark), plain.inference(benchmark)
        windows = [plain.windows(pixels, own) for pixels in batch.pixel_values]
        with torch.no_grad():
            found = label(model, batch, benchmark)
            patches = plain.patch_logits(
                batch.pixel_values, windows, plain.text.features(queries.names)
            )
        for photo, labels in enumerate(found):
            size = labels.shape
            logits = 40 * plain.photo_logits(patches[photo], windows[photo], size, own)[slice(None)]
            guide = interpolate(batch.pixel_values[photo][None], size, mode="bilinear")[0]
            (shares,) = refinement.probabilities([logits], [batch.photos[photo]], [guide])
            best = torch.stack([shares[0], shares[1], shares[2:].amax(0)]).max(0)
            expected = torch.where(best.values < 0.2, 0, best.indices)
            assert (labels == expected).float().mean() > 0.999
    assert plain.settings()["refine"] is None
    assert make("sclip").settings()["refine"] is None
    with pytest.raises(ValueError, match="`refine` to be one of"):
        make("sclip", refine="prams")


# ---- names and proposals -------------------------------------------------------------------------


def test_classes_that_are_not_proposed_cannot_win(make):
    benchmark = of_classes(["cat", "dog; puppy", "tree"])
    model = make("clip", proposals="oracle")
    batch = batch_of(model, benchmark, SIZES, present=[(1,), (2, 3), (), (1, 2, 3)])
    proposals = model.propose(batch, benchmark)
    found = label(model, batch, benchmark)
    for labels, proposal in zip(found, proposals, strict=True):
        assert set(labels.unique().tolist()) <= {0, *proposal.labels}
    assert not found[2].any()  # nothing but background
    # As if the others did not exist.
    fewer = of_classes(["dog; puppy", "tree"])
    (expected,) = label(
        make("clip", proposals="oracle"), batch.take([1])._replace(present=[(1, 2)]), fewer
    )
    assert torch.equal(found[1], torch.where(expected > 0, expected + 1, 0))


def test_nothing_proposed_and_no_background(make):
    benchmark = of_classes(["cat", "dog", "tree"], background=False)
    model = make("sclip")
    batch = batch_of(model, benchmark, [(30, 30)])
    with torch.no_grad():
        (labels,) = model(batch, benchmark, [Proposal((), ())])
        queries = model.queries(benchmark)
        windows = model.windows(batch.pixel_values[0], model.inference(benchmark))
        (patches,) = model.patch_logits(
            batch.pixel_values, [windows], model.text.features(queries.names)
        )
    assert labels.unique().tolist() == [int(patches.mean((1, 2)).argmax())]


def test_names_of_the_references():
    counts = {
        ("sclip", "voc21"): (26 + 20 + 6 + 4, 26),
        ("sclip", "voc20"): (20 + 6 + 4, 1),
        ("sclip", "coco_object81"): (26 + 80 + 7, 26),
        ("clearclip", "voc21"): (21, 1),
        ("clearclip", "coco_object81"): (81, 1),
        ("proxyclip", "voc21"): (26 + 20, 26),
        ("proxyclip", "coco_object81"): (17 + 80, 17),
    }
    for (vocabulary, key), (total, first) in counts.items():
        queries = queries_of(BENCHMARKS[key], vocabulary)
        assert (len(queries.names), queries.labels.count(0)) == (total, first), (vocabulary, key)
    for key in ("pc60", "pc59", "coco_stuff171", "cityscapes19", "ade150"):
        (own,) = {queries_of(BENCHMARKS[key], each) for each in ("sclip", "clearclip", "proxyclip")}
        assert own.labels == tuple(range(len(BENCHMARKS[key].classes)))
    assert queries_of(BENCHMARKS["pc60"], "sclip").names[0] == "background"
    voc = dict(zip(*reversed(queries_of(BENCHMARKS["voc20"], "proxyclip")), strict=True))
    assert (voc[3], voc[10], voc[14]) == ("ship", "table", "person")
    # Line by line beside the benchmark's own names: nothing has slipped.
    for key, shared in (("ade150", 110), ("coco_stuff171", 100), ("coco_object81", 76)):
        prompts = BENCHMARKS[key].prompts
        pairs = zip(*queries_of(BENCHMARKS[key], "proxyclip"), strict=True)
        same = [
            name.replace(" ", "") == prompts[label][0].replace(" ", "")
            for name, label in pairs
            if prompts[label]
        ]
        assert sum(same) >= shared


def test_names_of_ones_own(tmp_path):
    benchmark = of_classes(["cat", "dog; puppy"])
    assert queries_of(benchmark, "natural") == (
        ("background", "cat", "dog", "puppy"),
        (0, 1, 2, 2),
    )
    assert queries_of(benchmark, "sclip") == queries_of(benchmark, "natural")
    file = tmp_path / "names.txt"
    file.write_text("# mine\nkitten\nwolf; hound\n", encoding="utf-8")
    assert queries_of(benchmark, read_vocabulary(str(file))) == (
        ("background", "kitten", "wolf", "hound"),
        (0, 1, 2, 2),
    )
    file.write_text("sky; wall\nkitten\nwolf\n", encoding="utf-8")
    assert queries_of(benchmark, read_vocabulary(str(file))).labels == (0, 0, 1, 2)
    file.write_text("#1 fan\nwolf\n", encoding="utf-8")  # a name, not a comment
    assert queries_of(benchmark, read_vocabulary(str(file))).names == (
        "background",
        "#1 fan",
        "wolf",
    )
    for text, message in (
        ("background\nkitten\n", "a line for each of the 3 classes .*, but got 2"),
        ("kitten\n", "a line for each of the 3 classes"),
        ("sky\nkitten;\nwolf\n", "names for 'cat' in `vocabulary`"),
        ("sky\n\nwolf\n", "names for 'cat' in `vocabulary`"),
    ):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            queries_of(benchmark, read_vocabulary(str(file)))
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_vocabulary("natral")
    own = replace(BENCHMARKS["voc21"], prompts_file="mine.txt")
    with pytest.raises(ValueError, match="set `vocabulary` to natural"):
        queries_of(own, "sclip")
    assert len(queries_of(own, "natural").names) == 21


# ---- settings ------------------------------------------------------------------------------------

# short side / crop / stride / scale / prob_thd / area_thd, as in the references' configurations.
TABLE = {
    "sclip": {
        "voc21": (336, 224, 112, 65, 0.1, 0.1), "voc20": (336, 224, 112, 40, 0, 0),
        "pc60": (336, 224, 112, 50, 0.1, 0), "pc59": (336, 224, 112, 40, 0, 0),
        "coco_object81": (336, 224, 112, 50, 0.1, 0), "coco_stuff171": (448, 224, 112, 40, 0, 0),
        "ade150": (336, 224, 112, 40, 0, 0), "cityscapes19": (560, 224, 112, 40, 0, 0),
    },
    "naclip": {
        "voc21": (336, 0, 112, 40, 0.1, 0), "voc20": (336, 0, 112, 40, 0, 0),
        "pc60": (336, 224, 112, 40, 0.1, 0), "pc59": (336, 224, 112, 40, 0, 0),
        "coco_object81": (336, 224, 112, 40, 0.1, 0), "coco_stuff171": (336, 224, 112, 40, 0, 0),
        "ade150": (336, 224, 112, 40, 0, 0), "cityscapes19": (560, 224, 112, 40, 0, 0),
    },
    "clearclip": {
        "voc21": (448, 448, 224, 50, 0.5, 0), "voc20": (448, 448, 224, 50, 0, 0),
        "pc60": (448, 448, 224, 50, 0.15, 0), "pc59": (448, 448, 224, 50, 0, 0),
        "coco_object81": (448, 448, 224, 50, 0.4, 0), "coco_stuff171": (448, 448, 224, 50, 0, 0),
        "ade150": (448, 448, 224, 50, 0, 0), "cityscapes19": (448, 224, 224, 50, 0, 0),
    },
    "proxyclip": {
        "voc21": (336, 336, 112, 40, 0.2, 0), "voc20": (336, 336, 112, 40, 0, 0),
        "pc60": (336, 336, 112, 40, 0.15, 0), "pc59": (336, 336, 112, 40, 0, 0),
        "coco_object81": (336, 336, 112, 40, 0.25, 0), "coco_stuff171": (336, 336, 112, 40, 0, 0),
        "ade150": (448, 336, 112, 40, 0, 0), "cityscapes19": (448, 224, 112, 40, 0, 0),
    },
}  # fmt: skip


@pytest.mark.parametrize("reference", TABLE)
def test_settings_of_each_benchmark(reference):
    for key, expected in TABLE[reference].items():
        assert inference_of(reference, BENCHMARKS[key]) == Inference(*expected), key
    own = inference_of(reference, BENCHMARKS["voc21"], prob_thd=0.0, crop=224, stride=None)
    assert (own.prob_thd, own.crop) == (0.0, 224)


def test_settings_tell_what_decides_a_label_map(make, tmp_path):
    model = make("naclip", sigma=3)
    told = model.settings()
    assert (told["method"], told["sigma"], told["residual"]) == ("naclip", 3.0, False)
    assert told["vocabulary"] == "sclip"
    assert told["inference"]["crop"] == 32
    assert told["by_benchmark"]["voc21"] == {"prob_thd": 0.1}  # its crop is overridden
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\n")
    assert make("clip", vocabulary=str(names)).settings()["vocabulary"] == ("cat", "dog")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"crop": 8},
            "`crop` to be 0 .no sliding. or at least the patch size, 16 pixels, but got 8",
        ),
        ({"stride": 0}, "`stride` to be at least 1 pixel, but got 0"),
        ({"crop": 32, "stride": 48}, "no gaps, but got crop 32 and stride 48"),
        ({"crop": -3, "stride": None}, "got crop -3"),
        ({"short_side": 0}, "`short_side` to be at least 1"),
        ({"prob_thd": 1.5}, "`prob_thd` in 0..1, but got 1.5"),
        ({"area_thd": -0.1}, "`area_thd` in 0..1, but got -0.1"),
        ({"prob_thd": float("nan")}, "`prob_thd` in 0..1, but got nan"),
        ({"logit_scale": 0.0}, "`logit_scale` to be positive"),
        ({"sigma": 2.0}, "options of sclip .*but got sigma"),
        ({"dino": "dino_tiny_p8_hf"}, "`dino` for ProxyCLIP and for no other method"),
    ],
)
def test_settings_that_cannot_be(options, message, make, golden_clip_path):
    if "dino" in options:
        options = {"dino": golden_clip_path / options["dino"]}
    with pytest.raises(ValueError, match=message):
        make("sclip", **options)


def test_more_that_cannot_be(make, golden_clip_path):
    with pytest.raises(ValueError, match="`method` to be one of"):
        make("slip")
    with pytest.raises(ValueError, match="`dino` for ProxyCLIP"):
        make("proxyclip", dino=None)
    with pytest.raises(ValueError, match="`sigma` to be positive"):
        make("naclip", sigma=0.0)
    with pytest.raises(ValueError, match="`prob_thd` to be 0 for Pascal VOC 2012"):
        make("sclip", prob_thd=0.1).input_spec(BENCHMARKS["voc20"])
    with pytest.raises(ValueError, match="of type 'vit'"):
        DenseCLIP.from_pretrained(golden_clip_path / "dino_tiny_p8_hf", "sclip")
    model = make("sclip")
    half = SimpleNamespace(text_projection=model.text.projection)
    with pytest.raises(ValueError, match="with both projections"):
        DenseCLIP(half, model.text.tokenizer, "sclip")
    with pytest.raises(ValueError, match=r"has \d+; shorten it"):
        model.text.features(["cat " * 80])


def test_a_tokenizer_of_another_model(make, tiny_blip):
    model = make("sclip")
    clip = SimpleNamespace(
        vision_model=model.image.vision,
        visual_projection=model.image.projection,
        text_model=model.text.model,
        text_projection=model.text.projection,
        config=SimpleNamespace(text_config=model.text.model.config),
    )
    with pytest.raises(ValueError, match="Expected a tokenizer of up to 934 tokens with 933"):
        DenseCLIP(clip, tiny_blip.tokenizer, "sclip")
    # OpenAI's configurations say 2 and mean the largest id.
    config = SimpleNamespace(vocab_size=934, eos_token_id=2)
    legacy = SimpleNamespace(**{**vars(clip), "config": SimpleNamespace(text_config=config)})
    assert DenseCLIP(legacy, model.text.tokenizer, "sclip").text.tokenizer.eos_token_id == 933


def test_names_are_encoded_once_and_before_the_photos(make, monkeypatch):
    benchmark = of_classes([f"c{i}" for i in range(60)])
    model = make("clip")
    shown = []

    class Shown(Progress):
        def __enter__(self):
            shown.append((self.total, self.enabled))
            return super().__enter__()

    monkeypatch.setattr("ovss.dense_clip.text.Progress", Shown)
    model.prepare(benchmark)
    assert shown == [(61, True)]
    encoded = []
    model.text.register_forward_hook(lambda *args: encoded.append(args[1]))
    label(model, batch_of(model, benchmark, [(30, 30)]), benchmark)
    assert encoded == []
    assert not any(enabled for _, enabled in shown[1:])


def test_features_of_names_are_kept_in_a_folder(make, tmp_path, caplog):
    names = ["cat", "red / blue", "dog"]
    plain = make("clip").text.features(names)
    first = make("clip")
    first.keep_in(tmp_path / "kept")
    assert torch.equal(first.text.features(names[:2]), plain[:2])
    (file,) = (tmp_path / "kept").iterdir()
    second = make("sclip")  # another method of the same weights
    second.keep_in(tmp_path / "kept")
    asked = []
    second.text.register_forward_pre_hook(lambda module, args: asked.append(args[0]))
    assert torch.equal(second.text.features(names), plain)
    assert asked == ["dog"]
    # Other weights have a file of their own, and a damaged one is not trusted.
    third = make("clip")
    third.text.model.final_layer_norm.weight.data.mul_(1.5)
    third.keep_in(tmp_path / "kept")
    assert not torch.equal(third.text.features(names), plain)
    assert len(list((tmp_path / "kept").iterdir())) == 2
    for damage, said in ((file.read_bytes()[:50], "cannot be read"), (None, "is no feature")):
        file.write_bytes(damage or save({"cat": torch.full((32,), 9.0)}))
        again = make("clip")
        again.keep_in(tmp_path / "kept")
        assert torch.equal(again.text.features(names[:1]), plain[:1])
        assert said in caplog.text
