"""Every stage of the CLIP-based methods against what their own code computed."""

import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import FEATURES, assert_close
from torch.nn.functional import interpolate

from ovss.benchmark import Benchmark, PhotoBatch
from ovss.dense_clip import DenseCLIP
from ovss.dense_clip.image import ImageEncoder, dino_pixels, resized_positions
from ovss.dense_clip.labelling import WholeLogits, label_map
from ovss.dense_clip.text import TEMPLATES
from ovss.preprocessing import Preprocess, read_photo
from ovss.proposals import Proposal
from ovss.refine import PAMR

pytestmark = pytest.mark.numerical

METHODS = {
    "vanilla": ("clip", {}),
    "maskclip": ("maskclip", {"residual": False}),
    "sclip": ("sclip", {}),
    "clearclip": ("clearclip", {}),
    "naclip": ("naclip", {}),
    "proxyclip_p8": ("proxyclip", {"dino": "dino_tiny_p8_hf"}),
    "proxyclip_p16": ("proxyclip", {"dino": "dino_tiny_p16_hf"}),
}
VARIANTS = {
    "maskclip_residual": ("maskclip", {}),
    "clearclip_residual": ("clearclip", {"residual": True}),
    "sclip_noresidual": ("sclip", {"residual": False}),
    "vanilla_noresidual": ("clip", {"residual": False}),
    "naclip_vanillaarch": ("naclip", {"residual": True}),
}
COSINES = 2e-6
"""Absolute, of cosines in -1..1: about 16 times float32's spacing; the recording's own bound."""
EQUAL = 0.999
"""Share of pixels whose two best cosines are further apart than rounding."""


@pytest.fixture(scope="module")
def recorded(golden_clip_path):
    """The arrays, and the cases."""
    cases = json.loads((golden_clip_path / "cases.json").read_text("utf-8"))
    with np.load(golden_clip_path / "golden_clip.npz") as arrays:
        return SimpleNamespace(arrays=dict(arrays), cases=cases)


@pytest.fixture(scope="module")
def make(golden_clip_path):
    """A method with the tiny weights, which are loaded once and whose names are encoded once."""
    whole = DenseCLIP.from_pretrained(
        golden_clip_path / "clip_tiny_hf", "proxyclip", dino=golden_clip_path / "dino_tiny_p8_hf"
    )
    other = DenseCLIP.from_pretrained(
        golden_clip_path / "clip_tiny_hf", "proxyclip", dino=golden_clip_path / "dino_tiny_p16_hf"
    )
    dinos = {"dino_tiny_p8_hf": whole.image.dino, "dino_tiny_p16_hf": other.image.dino}
    clip = SimpleNamespace(
        vision_model=whole.image.vision,
        visual_projection=whole.image.projection,
        text_model=whole.text.model,
        text_projection=whole.text.projection,
        config=SimpleNamespace(text_config=whole.text.model.config),
    )

    def make(method, dino=None, **options):
        model = DenseCLIP(clip, whole.text.tokenizer, method, dinos.get(dino), **options)
        model.text = whole.text
        return model

    return make


def benchmark_of(recorded, listed, path):
    """A class list as a benchmark, and its names as a vocabulary."""
    names = recorded.cases["classes"][listed]
    path.write_text("".join("; ".join(each) + "\n" for each in names), encoding="utf-8")
    titles = tuple(each[0].strip() for each in names)
    prompts = ((), *((title,) for title in titles[1:]))
    palette = tuple((i, i, i) for i in range(len(names)))
    return Benchmark(
        "golden", "Golden", "standard", titles, prompts, palette,
        background=0, background_rule="always",
    )  # fmt: skip


def test_templates_are_the_references(recorded):
    assert list(TEMPLATES) == recorded.cases["templates"]


def test_pixels(make, recorded, golden_clip_path):
    model = make("sclip", short_side=100)
    for key, (shape, digest) in recorded.cases["resized_rgb_sha256"].items():
        side, image = key.split("/")
        spec = make_spec(model, int(side[1:]))
        (path,) = (golden_clip_path / "images").glob(f"{image}_*.png")
        photo = read_photo(path)
        preprocess = Preprocess(spec)
        resized = preprocess.pipeline.transforms[0](image=photo)["image"]
        assert list(resized.shape) == shape
        assert hashlib.sha256(np.ascontiguousarray(resized).tobytes()).hexdigest() == digest
        if f"pixels/{key}" in recorded.arrays:
            np.testing.assert_array_equal(preprocess(photo), recorded.arrays[f"pixels/{key}"])


def make_spec(model, short):
    from dataclasses import replace

    from ovss.benchmark import of_classes

    return replace(model.input_spec(of_classes(["cat"])), image_size=short)


@pytest.mark.parametrize("listed", ["syn", "plain"])
def test_text_features(listed, make, recorded):
    text = make("clip").text
    names, arrays = recorded.cases["query_names"][listed], recorded.arrays
    for row, name in enumerate(names[:2]):
        ids = text.tokenizer([t.format(name) for t in TEMPLATES])["input_ids"]
        for template, own in enumerate(ids):
            expected = arrays[f"text/{listed}/input_ids"][80 * row + template]
            assert own == expected[: len(own)].tolist()
            assert not expected[len(own) :].any()
    embeddings = text.embeddings(names[1])
    assert_close(embeddings, arrays[f"text/{listed}/template_features_q1"], within=FEATURES)
    features = text.features(names)
    np.testing.assert_allclose(features, arrays[f"text/{listed}/features"], rtol=0, atol=COSINES)
    # The released ClearCLIP leaves a blank in front of a name.
    blank = text.features(recorded.cases["query_names_clearclip"][listed])
    assert torch.equal(features, blank)


def test_position_embeddings(make, recorded):
    tables = {"pos_embed": make("clip").image.vision.embeddings.position_embedding.weight}
    for patch in (8, 16):
        dino = make("proxyclip", dino=f"dino_tiny_p{patch}_hf").image.dino
        tables[f"dino_pos_embed_p{patch}"] = dino.embeddings.position_embeddings[0]
    found = 0
    for key, expected in recorded.arrays.items():
        if not key.startswith("positions/"):
            continue
        parts = key.split("/")
        table = tables[parts[1] if len(parts) == 3 else "pos_embed"]
        patch = 8 if "p8" in key else 16
        grid = tuple(int(side) // patch for side in parts[-1].split("x"))
        assert_close(resized_positions(table, grid)[:, ::4], expected.squeeze(), within=FEATURES)
        found += 1
    assert found == 4


def native(recorded, golden_clip_path, model):
    (path,) = (golden_clip_path / "images").glob("img0_*.png")
    return Preprocess(make_spec(model, 112))(read_photo(path))[None, :, :112, :112]


@pytest.mark.parametrize("name", [*METHODS, *VARIANTS])
def test_patch_features_of_one_window(name, make, recorded, golden_clip_path):
    method, options = {**METHODS, **VARIANTS}[name]
    model = make(method, **options)
    window = native(recorded, golden_clip_path, model)
    key = f"{name}/native/dense" if name in METHODS else f"variants/{name}"
    with torch.no_grad():
        assert_close(model.image(window)[0], recorded.arrays[key], within=FEATURES)
        if name == "vanilla":
            tokens = model.image.last_layer(window).tokens[0]
            assert_close(tokens, recorded.arrays["vanilla/native/last_block_in"], within=FEATURES)
        if name in ("proxyclip_p8", "proxyclip_p16"):
            features, _ = model.image._dino_features(window)
            assert_close(features[0], recorded.arrays[f"{name}/native/dino_feats"], within=FEATURES)
    # Cosines of two methods lie far apart: agreement is no accident.
    others = [recorded.arrays[f"{other}/native/dense"] for other in METHODS if other != name]
    for other in others:
        if other.shape == recorded.arrays[key].shape:
            assert np.abs(other - recorded.arrays[key]).max() > 0.1


def cases_of(recorded, name):
    """(config, list, image) of what was recorded of a method's predictions."""
    prefix = f"{name}/"
    parts = {tuple(key.split("/")[1:4]) for key in recorded.arrays if key.startswith(prefix)}
    return sorted(case for case in parts if case[0] != "native")


@pytest.mark.parametrize("name", METHODS)
def test_predictions(name, make, recorded, golden_clip_path, tmp_path):
    method, options = METHODS[name]
    scale = recorded.cases["logit_scale"][name.partition("_")[0]]
    seen = set()
    for config, listed, image in cases_of(recorded, name):
        sizes = recorded.cases["configs"][config.removesuffix("_pamr")]
        vocabulary = tmp_path / f"{listed}.txt"
        benchmark = benchmark_of(recorded, listed, vocabulary)
        model = make(
            method,
            vocabulary=str(vocabulary),
            short_side=sizes["short"],
            crop=sizes.get("crop", 0),
            stride=sizes.get("stride", 1),
            logit_scale=scale,
            refine="pamr" if config == "slide_pamr" else None,
            **options,
        )
        (path,) = (golden_clip_path / "images").glob(f"{image}_*.png")
        photo = read_photo(path)
        pixels = Preprocess(model.input_spec(benchmark))(photo)
        queries, settings = model.queries(benchmark), model.inference(benchmark)
        assert list(queries.labels) == recorded.cases["query_idx"][listed]
        windows = model.windows(pixels, settings)
        with torch.no_grad():
            features = model.text.features(queries.names)
            (patches,) = model.patch_logits([pixels], [windows], features)
        logits = model.photo_logits(patches, windows, photo.shape[:2], settings)
        cosines = logits[slice(None)]
        if config == "slide_pamr":
            guide = interpolate(pixels[None], photo.shape[:2], mode="bilinear")[0]
            cosines = PAMR()(cosines, guide)
            logits = WholeLogits(cosines)
            seen.add("pamr")

        key = f"{name}/{config}/{listed}/{image}"
        array = recorded.arrays
        np.testing.assert_allclose(
            cosines[:, ::18, ::18], array[f"{key}/logits_sub"], rtol=0, atol=COSINES
        )
        if f"{key}/logits_patch" in array:
            np.testing.assert_allclose(
                patches[:, ::2, ::2], array[f"{key}/logits_patch"], rtol=0, atol=COSINES
            )
            seen.add("patch")
        for threshold in recorded.cases["prob_thresholds"]:
            found = label_map(logits, queries.labels, scale, threshold).numpy()
            expected = array[f"{key}/labels_thd{threshold:g}"]
            assert (found == expected).mean() >= EQUAL, (key, threshold)
        if f"{key}/area_labels" in array:
            case = recorded.cases["area_case"]
            found = label_map(
                logits, queries.labels, case["logit_scale"], case["prob_thd"], case["area_thd"]
            )
            assert (found.numpy() == array[f"{key}/area_labels"]).mean() >= EQUAL
            seen.add("area")
        if f"{key}/probs_sub" in array:
            # A class's probability is its best query's; NACLIP's were divided by their sum.
            shares = (scale * cosines).softmax(0)
            labels = torch.tensor(queries.labels)
            best = torch.stack([shares[labels == own].amax(0) for own in labels.unique()])
            if name in ("vanilla", "naclip"):
                best = best / best.sum(0)
            np.testing.assert_allclose(
                best[:, ::6, ::6], array[f"{key}/probs_sub"], rtol=0, atol=2e-5
            )
            seen.add("probs")
        # The same through the front door.
        batch = PhotoBatch(["a"], [torch.tensor(photo).permute(2, 0, 1)], [pixels])
        searched = benchmark.searchable
        with torch.no_grad():
            (labels,) = model(batch, benchmark, [Proposal(searched, (1.0,) * len(searched))])
        assert (labels.numpy() == array[f"{key}/labels_thd0"]).mean() >= EQUAL, key
    expected = {"patch", "probs"} | ({"area"} if name == "sclip" else set())
    if name == "naclip":
        expected.add("pamr")
    assert seen == expected


def test_dino_sees_the_pixels_normalised_its_own_way():
    rng = np.random.default_rng(0)
    photo = rng.random((3, 2, 2))
    clip = [(0.48145466, 0.26862954), (0.4578275, 0.26130258), (0.40821073, 0.27577711)]
    dino = [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]
    given = np.stack([(c - m) / s for c, (m, s) in zip(photo, clip, strict=True)])
    wanted = np.stack([(c - m) / s for c, (m, s) in zip(photo, dino, strict=True)])
    found = dino_pixels(torch.from_numpy(given.astype(np.float32))[None])[0]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6)


def test_naclip_weighs_neighbours_by_sigma(make, recorded, golden_clip_path):
    clip = make("clip")
    narrow = ImageEncoder(SimpleNamespace(
        vision_model=clip.image.vision, visual_projection=clip.image.projection
    ), "naclip", sigma=0.1)  # fmt: skip
    window = native(recorded, golden_clip_path, clip)
    with torch.no_grad():
        last = narrow.last_layer(window)
        # By hand, with loops: the Gaussian is added after scaling, but for [CLS].
        scores = (last.k @ last.k.transpose(2, 3)) * last.k.shape[-1] ** -0.5
        for i in range(49):
            for j in range(49):
                squared = (i // 7 - j // 7) ** 2 + (i % 7 - j % 7) ** 2
                scores[..., 1 + i, 1 + j] += float(np.exp(-squared / (2 * 0.1**2)))
        assert_close(narrow.attend(last), scores.softmax(-1) @ last.v, within=FEATURES)
