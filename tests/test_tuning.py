"""The space, the maps, and the reward, against independent computations."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import MAPS, assert_close
from PIL import Image
from scipy.ndimage import map_coordinates
from scipy.stats import spearmanr
from test_scoring import Letters, tiny_clip

from ovss.datamodules import Scenes
from ovss.labelling import Labeller
from ovss.pnp import PnP, gradcam_rounds
from ovss.preprocessing import InputSpec
from ovss.proposals import AllProposer, OracleProposer
from ovss.salience import SalienceDropout
from ovss.tuning.facts import difference, study_facts
from ovss.tuning.maps import MapStore
from ovss.tuning.masks import label_masks, label_photos, make_masks, soft_mask
from ovss.tuning.photos import chunked, gather_photos, resize
from ovss.tuning.rewards import Points, Reward, make_scorer, point
from ovss.tuning.settings import RewardSettings, StudySettings
from ovss.tuning.space import SearchSpace, Setting, repair, settings_of
from ovss.tuning.validation import rank_correlation
from ovss.vlm.base import ImageStatistics
from ovss.vlm.scoring import ClipScorer, ItmScorer, Scorer

pytestmark = pytest.mark.numerical


@pytest.fixture(scope="module")
def loader(scenes_root, tiny_blip):
    spec = InputSpec(tiny_blip.image_size, tiny_blip.statistics.mean, tiny_blip.statistics.std)
    datamodule = Scenes(scenes_root, num_workers=0, batch_size=3, spec=spec)
    datamodule.setup()
    return datamodule.predict_dataloader()


@pytest.fixture(scope="module")
def benchmark(loader):
    return loader.dataset.benchmark


@pytest.fixture(scope="module")
def photos(loader, benchmark, tiny_blip):
    return gather_photos(
        loader, benchmark, OracleProposer(), tiny_blip, tiny_blip.image_size, 5, seed=0
    )


@pytest.fixture(scope="module")
def names(photos, benchmark):
    return [[benchmark.prompts[label] for label in labels] for labels in photos.labels]


# ---- the space ----------------------------------------------------------------------------------


def test_the_space_leaves_out_the_layer_without_gradient(tiny_blip):
    choices = SearchSpace().choices(tiny_blip)
    assert choices["layer"] == list(range(tiny_blip.num_layers - 1))
    assert choices["head"] == [*range(tiny_blip.num_heads), "mean"]
    assert choices["patches"][0] == 0
    with pytest.raises(ValueError, match="always zero"):
        SearchSpace(layers=[tiny_blip.num_layers - 1]).choices(tiny_blip)


def test_every_setting_is_there_once_and_only_dropout_has_patches(tiny_blip):
    space = SearchSpace([0, 1], ["mean"], [0.1, 0.2, 0.3], [1, 2], [4, 8])
    settings = settings_of(space.choices(tiny_blip))
    assert len(settings) == len(set(settings)) == 2 * 3 * (1 + 2)
    assert {s.patches for s in settings if s.rounds == 1} == {0}
    assert {s.patches for s in settings if s.rounds == 2} == {4, 8}
    assert "patches" not in settings[0].overlay()["dropout"]
    several = SearchSpace([0], [0], [0.1], [2], [4]).choices(tiny_blip)
    assert settings_of(several) == [Setting(0, 0, 0.1, 2, 4)]


@pytest.mark.parametrize(("rounds", "patches", "expected"), [(1, 4, 0), (2, 0, 4), (2, 8, 8)])
def test_parts_chosen_without_regard_to_each_other_are_repaired(rounds, patches, expected):
    choices = {"patches": [0, 4, 8]}
    values = Setting(1, "mean", 0.2, rounds, patches)._asdict()
    assert repair(values, choices).patches == expected


@pytest.mark.parametrize(
    ("space", "named"),
    [
        (SearchSpace(thresholds=[1.5]), "space.thresholds"),
        (SearchSpace(thresholds=[]), "space.thresholds"),
        (SearchSpace(rounds=[0]), "space.rounds"),
        (SearchSpace(patches=[2.5]), "space.patches"),
        (SearchSpace(heads=[0, 0]), "space.heads"),
        (SearchSpace(heads=[99]), "head"),
    ],
)
def test_impossible_spaces_are_refused(tiny_blip, space, named):
    with pytest.raises(ValueError, match=named):
        space.choices(tiny_blip)


# ---- the photos ---------------------------------------------------------------------------------


def test_photos_have_two_classes_and_no_masks(photos, loader):
    assert len(photos) == 5
    assert all(len(labels) > 1 for labels in photos.labels)
    for place, photo_id in enumerate(photos.ids):
        item = loader.dataset[photos.indices[place]]
        assert item["id"] == photo_id
        assert item["present"] == photos.labels[place]
        torch.testing.assert_close(item["pixel_values"], photos.pixel_values[place])
    assert not hasattr(photos, "masks")


def test_any_proposals_will_do(loader, benchmark, tiny_blip):
    found = gather_photos(loader, benchmark, AllProposer(), tiny_blip, 32, 2, seed=1)
    assert found.labels == [benchmark.searchable] * 2
    assert found.thumbnails.shape == (2, 3, 32, 32)


def test_photos_with_one_class_cannot_be_tuned_on(loader, benchmark, tiny_blip):
    class One(OracleProposer):
        def __call__(self, batch, benchmark, vlm):
            found = super().__call__(batch, benchmark, vlm)
            return [p._replace(labels=p.labels[:1]) for p in found]

    with pytest.raises(ValueError, match="two classes"):
        gather_photos(loader, benchmark, One(), tiny_blip, 32, 2, seed=1)


def test_thumbnails_are_pillows():
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)
    expected = np.asarray(Image.fromarray(pixels).resize((16, 16), Image.Resampling.BICUBIC))
    found = resize(torch.from_numpy(pixels).permute(2, 0, 1), 16)
    np.testing.assert_array_equal(found.permute(1, 2, 0).numpy(), expected)


# ---- the maps -----------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize(("layer", "head"), [(4, 2), (0, "mean"), (10, 5)])
def test_maps_are_those_of_the_method(tiny_blip, photos, names, variant, layer, head):
    # Synonyms: the mean over heads must come before the maximum over a class's names.
    if variant == "paper":  # the released code knows none
        names = [[(*own[0], "small dog"), *own[1:]] for own in names]
    dropout = SalienceDropout(rounds=1, variant=variant)
    store = MapStore(tiny_blip, photos, names, dropout, batch_size=2)
    everyone = range(len(photos))
    found = store(Setting(layer, head, 0.1, 1, 0), everyone)
    rounds = gradcam_rounds(tiny_blip, photos.pixel_values, names, layer, head, dropout)
    for own, expected in zip(found, rounds.maps, strict=True):
        assert_close(own, dropout.combine(expected), MAPS)
    assert store.passes == len(photos)


def test_several_rounds_are_looked_at_once_and_hold_the_shorter_ones(tiny_blip, photos, names):
    store = MapStore(tiny_blip, photos, names, SalienceDropout(), batch_size=2)
    before = store.passes
    found = store(Setting(4, 2, 0.1, 3, 4), [3, 1])
    assert store.passes == before + 2 * 3
    for rounds in (2, 3):  # both from the cache
        again = store(Setting(4, 2, 0.3, rounds, 4), [3, 1])
        dropout = SalienceDropout(rounds=rounds, patches=4)
        for own, place in zip(again, (3, 1), strict=True):
            pixels = photos.pixel_values[place : place + 1]
            (expected,) = gradcam_rounds(tiny_blip, pixels, [names[place]], 4, 2, dropout).maps
            assert_close(own, expected.sum(0), MAPS)
    assert store.passes == before + 2 * 3
    assert_close(found[0], store(Setting(4, 2, 0.1, 3, 4), [3])[0], MAPS)
    store(Setting(4, 2, 0.1, 3, 5), [3])
    assert store.passes == before + 3 * 3


def test_large_maps_go_to_a_file_and_are_the_same(tiny_blip, photos, names, tmp_path):
    inside = MapStore(tiny_blip, photos, names, SalienceDropout(), batch_size=2)
    outside = MapStore(
        tiny_blip, photos, names, SalienceDropout(), batch_size=2, memory=1000, folder=tmp_path
    )
    assert outside.mapped
    assert not inside.mapped
    assert list(tmp_path.iterdir()) == []  # nothing to clean up
    for setting in (Setting(3, 1, 0.1, 1, 0), Setting(3, 1, 0.1, 2, 4)):
        for one, other in zip(inside(setting, [0, 4]), outside(setting, [0, 4]), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_attention_alone_cannot_be_tuned(tiny_blip, photos, names):
    with pytest.raises(ValueError, match="relevance"):
        MapStore(tiny_blip, photos, names, SalienceDropout(relevance="attention"))


# ---- the reward ---------------------------------------------------------------------------------


def softmax(logits):
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def test_points_are_equations_6_and_7():
    rng = np.random.default_rng(7)
    total = 0
    for count in (1, 2, 3, 7):
        masked, black = rng.normal(size=(count, count)), rng.normal(size=count)
        expected = [softmax(masked[k])[k] > softmax(black)[k] for k in range(count)]
        won, margin = point(torch.from_numpy(masked), torch.from_numpy(black))
        assert won.tolist() == expected
        gap = [softmax(masked[k])[k] - softmax(black)[k] for k in range(count)]
        np.testing.assert_allclose(margin.numpy(), gap, atol=1e-12)
        complement = rng.normal(size=(count, count))
        won, _ = point(torch.from_numpy(masked), torch.from_numpy(complement))
        assert won.tolist() == [
            softmax(masked[k])[k] > softmax(complement[k])[k] for k in range(count)
        ]
        total += sum(expected)
    assert 0 < total < 13
    # One class: Pr is 1 with any map, so there is no point to win.
    assert point(torch.tensor([[5.0]]), torch.tensor([-5.0]))[0].tolist() == [False]


def test_masks_are_thresholded_on_the_grid_and_bilinear():
    maps = torch.from_numpy(np.random.default_rng(3).random((2, 4, 4)))
    found = soft_mask(maps, 0.4, 9)
    for own, expected in zip(found, maps.numpy(), strict=True):
        scaled = (expected - expected.min()) / (expected.max() - expected.min())
        scaled[scaled < 0.4] = 0
        axis = np.linspace(0, 3, 9)
        smooth = map_coordinates(scaled, np.meshgrid(axis, axis, indexing="ij"), order=1)
        np.testing.assert_allclose(own.numpy(), smooth, atol=1e-6)
    assert float(soft_mask(torch.zeros(1, 4, 4), 0.1, 9).max()) == 0  # no evidence, nothing seen


def test_masks_of_labels_are_each_labels_share_of_a_pixel():
    labels = np.random.default_rng(5).integers(0, 4, (30, 50))
    found = label_masks(torch.from_numpy(labels), [1, 3], 16)
    for own, label in zip(found, (1, 3), strict=True):
        exact = Image.fromarray((labels == label).astype(np.float32))
        expected = np.asarray(exact.resize((16, 16), Image.Resampling.BILINEAR))
        np.testing.assert_allclose(own.numpy(), expected, atol=1e-5)
    same = label_masks(torch.from_numpy(labels[:30, :30]), [2], 30)[0]
    np.testing.assert_array_equal(same.numpy(), labels[:30, :30] == 2)


def test_labels_are_the_pipelines(tiny_blip, photos, benchmark):
    labeller = Labeller(threshold=0.5)
    segmenter = PnP(tiny_blip, 4, 2, labeller=labeller)
    rng = np.random.default_rng(4)
    maps = [torch.from_numpy(rng.random((len(photos.labels[p]), 7, 7))).float() for p in (3, 1)]
    setting = Setting(4, 2, 0.2, 1, 0)
    found = label_photos(segmenter, benchmark, photos, [3, 1], maps, setting)
    masks = make_masks("labels", segmenter, benchmark, photos, 20)([3, 1], maps, setting)
    for place, own, labels, mask in zip((3, 1), maps, found, masks, strict=True):
        local = replace(labeller, threshold=0.2)(own, photos.photos[place])
        expected = np.array([benchmark.background, *photos.labels[place]])[local.numpy()]
        np.testing.assert_array_equal(labels.numpy(), expected)
        torch.testing.assert_close(mask, label_masks(labels, photos.labels[place], 20))
    soft = make_masks("map", segmenter, benchmark, photos, 20)([3, 1], maps, setting)
    torch.testing.assert_close(soft[0], soft_mask(maps[0], 0.2, 20))
    with pytest.raises(ValueError, match=r"reward\.mask"):
        make_masks("soft", segmenter, benchmark, photos, 20)


class Brightness(Scorer):
    """Logits a test can compute by hand: a channel's mean for each name."""

    name = "brightness"
    size = 8
    statistics = ImageStatistics((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    device = torch.device("cpu")
    channels = ("red", "green", "blue")

    def similarities(self, pixel_values, names):
        means = pixel_values.mean((-2, -1))
        return [
            torch.stack([row[self.channels.index(name)] for name in own])
            for row, own in zip(means, names, strict=True)
        ]


@pytest.mark.parametrize("negative", ["black", "complement"])
@pytest.mark.parametrize("batch_size", [2, 64])
def test_reward_of_photos_is_numpys(photos, negative, batch_size):
    rng = np.random.default_rng(1)
    thumbnails = rng.integers(0, 256, (3, 3, 8, 8), np.uint8)
    names = [["red", "green"], ["green", "blue", "red"], ["blue", "red"]]
    some = replace(photos, thumbnails=torch.from_numpy(thumbnails))
    masks = [torch.from_numpy(rng.random((len(own), 8, 8))) for own in names]
    found = Reward(Brightness(), some, names, negative, batch_size)([0, 1, 2], masks)
    won, margin = 0, 0.0
    for place, own in enumerate(names):
        channels = [Brightness.channels.index(name) for name in own]
        for k in range(len(own)):
            mask = masks[place][k].numpy()

            def chance(pixels, k=k, channels=channels):
                means = ((pixels - 0.5) / 0.25).mean((-2, -1))
                return softmax(means[channels])[k]

            photo = thumbnails[place] / 255
            rest = photo * (1 - mask) if negative == "complement" else photo * 0
            won += chance(photo * mask) > chance(rest)
            margin += chance(photo * mask) - chance(rest)
    assert (found.won, found.pairs) == (won, 7)
    assert 0 < won < 7
    assert found.margin == pytest.approx(margin, abs=1e-5)
    assert found.mean("points") == won / 7
    assert found.mean("margin") == found.margin / 7


@pytest.mark.parametrize("kind", ["itm", "itc", "clip"])
def test_nothing_kept_wins_nothing(tiny_blip, photos, kind):
    # Black photos compared in another batch than the one they are judged in differ by rounding.
    if kind == "clip":
        statistics = ImageStatistics((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
        scorer = ClipScorer(tiny_clip(), Letters(), statistics)
    else:
        scorer = make_scorer(RewardSettings(kind), tiny_blip)
    every = ["cat", "dog", "person", "car", "tree", "sun", "boat"]
    names = [every[place : place + len(own)] for place, own in enumerate(photos.labels)]
    sized = replace(photos, thumbnails=torch.zeros(len(photos), 3, scorer.size, scorer.size))
    masks = [torch.zeros(len(own), scorer.size, scorer.size) for own in names]
    found = Reward(scorer, sized, names)(range(len(photos)), masks)
    assert found.won == 0
    assert found.margin == pytest.approx(0, abs=1e-5)


def test_points_add_up():
    assert Points(1, 3, 0.5) + Points(2, 3, 0.25) == Points(3, 6, 0.75)
    assert Points(0, 0, 0.0).mean("points") == Points(0, 0, 0.0).mean("margin") == 0


def test_a_study_says_what_its_rewards_depend_on(tiny_blip, photos, benchmark):
    def facts(
        reward=RewardSettings(),
        search=StudySettings(),
        precision="32-true",
        benchmark=benchmark,
        **settings,
    ):
        segmenter, scorer = PnP(tiny_blip, 4, 2, **settings), ItmScorer(tiny_blip)
        return study_facts(segmenter, benchmark, photos, scorer, reward, search, {}, precision)

    renamed = replace(benchmark, prompts=((), *((f"a {p[0]}",) for p in benchmark.prompts[1:])))
    other = [
        facts(RewardSettings(measure="points")),
        facts(RewardSettings(mask="map")),
        facts(RewardSettings(negative="complement")),
        facts(dropout=SalienceDropout(relevance="attention")),
        facts(labeller=Labeller(refine=None)),
        facts(variant="released"),
        facts(template="{}"),
        facts(benchmark=renamed),
        facts(search=StudySettings(parts=8)),
        facts(search=StudySettings(reduction=2)),
        facts(precision="bf16-mixed"),
    ]
    plain = facts()
    assert all(each != plain for each in other)
    assert "precision: " in difference(plain, facts(precision="bf16-mixed"))
    other_photos = difference(plain, {**plain, "photos_and_classes": "1f"})
    assert other_photos == "the photos or their classes (study.seed, data or proposals)"
    # What the search chooses itself, and what does not touch the reward.
    assert facts(labeller=Labeller(threshold=0.4), dropout=SalienceDropout(rounds=2)) == plain
    soft = RewardSettings(mask="map")
    assert facts(soft, labeller=Labeller(refine=None)) == facts(soft)


def test_unknown_and_missing_scorers_are_named(tiny_blip, tiny_blip_path, tmp_path):
    with pytest.raises(ValueError, match=r"reward\.scorer"):
        make_scorer(RewardSettings("oracle"), tiny_blip)
    with pytest.raises(ValueError, match=r"is of type 'blip'.*\s.*--reward\.model"):
        make_scorer(RewardSettings("clip", model=str(tiny_blip_path)), tiny_blip)
    with pytest.raises(FileNotFoundError, match=r"reward\.model"):
        make_scorer(RewardSettings("clip", model=str(tmp_path)), tiny_blip)


# ---- validation ---------------------------------------------------------------------------------


def test_rank_correlation_is_scipys():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 5, 40), rng.normal(size=40)
    assert rank_correlation(first, second) == pytest.approx(spearmanr(first, second)[0])
    assert np.isnan(rank_correlation([1, 1, 1], [1, 2, 3]))
    assert np.isnan(rank_correlation([1, 2, 3], [1, 1, 1]))


def test_chunks_cover_everything():
    assert [list(part) for part in chunked(5, 2)] == [[0, 1], [2, 3], [4]]
