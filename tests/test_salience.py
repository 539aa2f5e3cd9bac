"""Salience DropOut against plain loops, on a made-up model whose maps are small integers."""

import math
import re

import numpy as np
import pytest
import torch
from conftest import LOGITS, MAPS, assert_close, class_maps, margin_of
from hypothesis import example, given
from hypothesis import strategies as st

from ovss.captions import Caption, class_tokens
from ovss.gradcam import GradCAM
from ovss.maps import min_max
from ovss.salience import SalienceDropout, most_salient
from ovss.vlm.base import Tokens

pytestmark = pytest.mark.numerical

GRID, SIDE = 3, 2
PATCHES = GRID * GRID
WORDS = ("a", "cat", "dog", "red", "bus", "old", "tree")
PHOTOS = torch.ones(1, 3, GRID * SIDE, GRID * SIDE)


class TableVLM:
    """As much of a VLM as Salience DropOut uses: a word is a token, its map a row of a table.

    The rows are rolled by the number of blank patches, so that each round sees other maps, and
    blank patches have values like all others.
    """

    def __init__(self, table):
        self.table = torch.as_tensor(table, dtype=torch.float32)
        self.grid = math.isqrt(self.table.shape[1])
        self.seen = []

    def check_choice(self, layer, head):
        self.choice = (layer, head)

    def tokenize(self, captions):
        texts = [[(m.start(), m.end()) for m in re.finditer(r"\S+", c.text)] for c in captions]
        ids = torch.zeros(len(captions), 1 + max(map(len, texts)), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, (caption, spans) in enumerate(zip(captions, texts, strict=True)):
            words = [WORDS.index(caption.text[start:end]) for start, end in spans]
            ids[row, 1 : 1 + len(words)] = torch.tensor(words)
            mask[row, : 1 + len(words)] = 1
        groups = tuple(class_tokens(c, spans) for c, spans in zip(captions, texts, strict=True))
        return Tokens(ids, mask, groups)

    def encode_image(self, pixel_values):
        patches = pixel_values.unfold(2, SIDE, SIDE).unfold(3, SIDE, SIDE).flatten(2, 3)
        blank = (patches == 0).all(dim=(1, 3, 4))
        self.seen.append(blank)
        return blank.sum(1)

    def attend(self, features, tokens, layer, head, gradient=True):
        assert (layer, head) == self.choice
        rows = self.table[tokens.input_ids[:, 1:]] * tokens.attention_mask[:, 1:, None]
        rolled = [row.roll(int(blank), -1) for row, blank in zip(rows, features, strict=True)]
        maps = torch.stack(rolled).unflatten(-1, (self.grid, self.grid))
        return GradCAM(maps if gradient else maps + 1, features.float())


def plain_rounds(table, captions, rounds, patches, variant):
    """Class maps `(rounds, K, P)` and the blank patches of each round, with loops."""
    dropped, maps, blanks = [], [], []
    for _ in range(rounds):
        salience, classes = np.zeros(PATCHES), []
        for caption in captions:
            for name in caption.classes:
                total = np.zeros(PATCHES)
                for word in name.split():
                    row = np.roll(table[WORDS.index(word)], len(dropped)).astype(float)
                    row[dropped] = 0
                    total += row
                salience += total
                last = name == caption.classes[-1]
                summed = variant == "released" and last
                classes.append(total if summed else total / len(name.split()))
        maps.append(classes)
        blanks.append(sorted(dropped))
        order = sorted(range(PATCHES), key=lambda p: (-salience[p], p))
        remain = PATCHES - len(dropped)
        count = patches if isinstance(patches, int) else max(1, math.floor(patches * remain))
        dropped = dropped + [p for p in order if salience[p] > 0][:count]
    return np.array(maps), blanks


TABLES = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).integers(0, 3, (len(WORDS), PATCHES))
)
CAPTIONS = st.sampled_from(
    [
        [["cat"]],
        [["cat", "red bus"]],
        [["old tree", "dog", "cat"]],
        [["red bus"], ["old dog", "cat"]],
    ]
).map(lambda lists: [Caption.of(names, "a {}") for names in lists])


@given(
    TABLES,
    CAPTIONS,
    st.integers(1, 5),
    st.sampled_from([1, 2, 4, 9, 50, 0.3, 0.5, 0.01]),
    st.sampled_from(["paper", "released"]),
)
def test_equals_plain_loops(table, captions, rounds, patches, variant):
    expected, blanks = plain_rounds(table, captions, rounds, patches, variant)
    vlm = TableVLM(table)
    dropout = SalienceDropout(rounds, patches, variant)
    seen = dropout.gradcam_rounds(vlm, PHOTOS, [captions], 4, 2)
    np.testing.assert_array_equal(seen.maps[0].flatten(2).numpy(), expected)
    for number, blank in enumerate(blanks):
        assert seen.dropped[number, 0].flatten().nonzero()[:, 0].tolist() == blank
        assert vlm.seen[number][0].nonzero()[:, 0].tolist() == blank  # of the model, too
        # The made-up match logit counts the blank patches.
        assert seen.match_logit[0][number].tolist() == [len(blank)] * len(captions)
    total = expected.sum(0) + (expected[0] if variant == "released" and rounds > 1 else 0)
    (maps,) = class_maps(dropout, TableVLM(table), PHOTOS, [captions], 4, 2)
    np.testing.assert_array_equal(maps.flatten(1).numpy(), total)


@pytest.mark.parametrize(
    ("settings", "gone"),
    [
        ({}, [0, 220, 330, 385]),  # the paper's halving
        ({"variant": "released"}, [0, 10, 20, 30]),
        ({"patches": 10}, [0, 10, 20, 30]),
        ({"patches": 0.25}, [0, 110, 192, 254]),
        ({"variant": "released", "patches": 0.5}, [0, 220, 330, 385]),
    ],
)
def test_patches_gone_before_each_round(settings, gone):
    table = np.ones((len(WORDS), 441))
    photo = torch.ones(1, 3, 21 * SIDE, 21 * SIDE)
    dropout = SalienceDropout(**settings)
    rounds = dropout.gradcam_rounds(TableVLM(table), photo, [Caption.of(["cat"], "a {}")], 4, 2)
    assert rounds.dropped.sum((1, 2, 3)).tolist() == gone
    patches = settings.get("patches", 10 if settings else 0.5)
    assert dropout.settings()["patches"] == patches  # the score says which, default or not


@given(st.integers(1, 99), st.integers(1, 30))
@example(42, 12)
@example(52, 15)
@example(13, 30)
def test_a_share_is_rounded_down_in_whole_numbers(percent, side):
    dropout = SalienceDropout(rounds=2, patches=percent / 100)
    table = np.ones((len(WORDS), side * side))
    photo = torch.ones(1, 3, side * SIDE, side * SIDE)
    rounds = dropout.gradcam_rounds(TableVLM(table), photo, [Caption.of(["cat"], "a {}")], 4, 2)
    assert int(rounds.dropped[1].sum()) == max(1, percent * side * side // 100)


def test_a_share_is_of_what_remains_in_each_photo():
    # "dog" is salient at two patches alone, so half of nine are never gone there.
    table = np.zeros((len(WORDS), PATCHES))
    table[WORDS.index("cat")], table[WORDS.index("dog")] = 1, np.arange(PATCHES) < 2
    captions = [Caption.of([name], "a {}") for name in ("cat", "dog")]
    dropout = SalienceDropout(rounds=3)
    rounds = dropout.gradcam_rounds(TableVLM(table), PHOTOS.repeat(2, 1, 1, 1), captions, 4, 2)
    assert rounds.dropped[1:].sum((2, 3)).tolist() == [[4, 2], [6, 4]]


def test_ties_go_to_the_lower_index_and_zeros_stay():
    salience = torch.tensor([[1.0, 2.0, 1.0, 0.0, 1.0], [0.0, 0.0, 3.0, 0.0, 0.0]])
    assert most_salient(salience, torch.tensor([3, 3])).tolist() == [
        [True, True, True, False, False],
        [False, False, True, False, False],
    ]
    assert most_salient(salience, torch.tensor([1, 99])).tolist() == [
        [False, True, False, False, False],
        [False, False, True, False, False],
    ]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 60))
@example([1] * 49, 10)  # all equal: the first ten
def test_most_salient_is_a_stable_sort(values, count):
    salience = torch.tensor([values], dtype=torch.float32)
    chosen = most_salient(salience, torch.tensor([count]))[0]
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))[:count]
    assert chosen.nonzero()[:, 0].tolist() == sorted(i for i in order if values[i] > 0)


@given(TABLES)
def test_attention_alone_leaves_out_the_gradient(table):
    dropout = SalienceDropout(rounds=1, relevance="attention")
    caption = Caption.of(["cat"], "a {}")
    (maps,) = class_maps(dropout, TableVLM(table), PHOTOS, [caption], 4, 2)
    np.testing.assert_array_equal(maps[0].flatten().numpy(), table[WORDS.index("cat")] + 1)


@pytest.mark.parametrize(
    ("variant", "classes", "scaled"),
    [
        ("released", ["cat", "dog"], True),
        ("released", ["cat", "red bus"], False),  # not every class is one token
        ("paper", ["cat", "dog"], False),
    ],
)
def test_rescaling_of_the_released_coco_maps(variant, classes, scaled):
    table = np.random.default_rng(0).integers(1, 9, (len(WORDS), PATCHES))
    captions = [Caption.of(classes, "a {}")]
    dropout = SalienceDropout(rounds=3, patches=2, variant=variant)
    plain = dropout.gradcam_rounds(TableVLM(table), PHOTOS, [captions], 4, 2)
    rescaled = dropout.gradcam_rounds(TableVLM(table), PHOTOS, [captions], 4, 2, rescale=True)
    expected = plain.maps[0].numpy()
    if scaled:
        low = expected.min((-2, -1), keepdims=True)
        expected = (expected - low) / (expected.max((-2, -1), keepdims=True) - low)
    np.testing.assert_allclose(rescaled.maps[0].numpy(), expected, rtol=1e-6)
    assert torch.equal(rescaled.dropped, plain.dropped)


def test_min_max_of_a_constant_map_is_zero():
    maps = torch.tensor([[[2.0, 4.0], [3.0, 2.0]], [[7.0, 7.0], [7.0, 7.0]], [[0.0] * 2] * 2])
    assert min_max(maps).tolist() == [[[0.0, 1.0], [0.5, 0.0]], [[0.0] * 2] * 2, [[0.0] * 2] * 2]
    tiny = torch.tensor([[[0.0, 1e-42]]])  # a span below the smallest normal number
    assert torch.isfinite(min_max(tiny)).all()


# ---- a real model ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(4, 3, 112, 112, generator=torch.Generator().manual_seed(0))


MIXED = [
    [Caption.of(["cat", "dog"])],
    [],
    [Caption.of(["potted plant", "tv monitor", "bus"]), Caption.of(["sky", "sea"])],
    [Caption.of(["sofa"])],
]


def margins(vlm, captions, rounds, dropout):
    """How clear each choice of patches of a single photo is; see `conftest.margin_of`."""
    if not captions:
        return []
    weights = []  # of a class's tokens in the salience, where its map is their mean or sum
    for groups in vlm.tokenize(captions).groups:
        counts = [len(group) for group in groups]
        weights += [*counts[:-1], 1 if dropout.variant == "released" else counts[-1]]
    salience = (rounds.maps[0] * torch.tensor(weights).view(-1, 1, 1)).sum(1)
    remain = (~rounds.dropped[:-1, 0]).sum((1, 2)).tolist()
    share = dropout.patches
    counts = [share if share >= 1 else max(1, int(share * count)) for count in remain]
    return [margin_of(each, k) for each, k in zip(salience[:-1], counts, strict=True)]


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("relevance", ["gradcam", "attention"])
def test_a_batch_equals_single_photos(tiny_blip, pixels, variant, relevance):
    patches = 0.1 if variant == "paper" else 5  # where half is, rounding would choose
    dropout = SalienceDropout(3, patches, variant, relevance)
    together = dropout.gradcam_rounds(tiny_blip, pixels, MIXED, 4, 2)
    assert [maps.shape[1] for maps in together.maps] == [2, 0, 5, 1]
    assert [logits.shape for logits in together.match_logit] == [(3, 1), (3, 0), (3, 2), (3, 1)]
    for photo, captions in enumerate(MIXED):
        alone = dropout.gradcam_rounds(tiny_blip, pixels[photo : photo + 1], [captions], 4, 2)
        assert all(margin > MAPS for margin in margins(tiny_blip, captions, alone, dropout))
        assert torch.equal(together.dropped[:, photo], alone.dropped[:, 0])
        assert_close(together.maps[photo], alone.maps[0], MAPS)
        assert_close(together.match_logit[photo], alone.match_logit[0], LOGITS)
    sizes = together.dropped.flatten(2).sum(2)
    gone = [4, 8] if variant == "paper" else [5, 10]
    assert sizes.tolist() == [[0] * 4, *([n, 0, n, n] for n in gone)]


def test_captions_of_a_photo_share_the_dropping(tiny_blip, pixels):
    captions = MIXED[2]
    dropout = SalienceDropout(rounds=2, patches=5)
    together = dropout.gradcam_rounds(tiny_blip, pixels[2:3], [captions], 4, 2)
    first = SalienceDropout(rounds=1)
    maps = [tiny_blip.gradcam(pixels[2:3], [caption], 4, 2).maps[0] for caption in captions]
    salience = torch.zeros(7, 7)
    for caption, of_caption in zip(captions, maps, strict=True):
        for group in tiny_blip.tokenize([caption]).groups[0]:
            salience += of_caption[list(group)].sum(0)
    assert margin_of(salience, 5) > MAPS
    expected = salience.flatten().topk(5).indices.sort().values
    assert torch.equal(together.dropped[1, 0].flatten().nonzero()[:, 0], expected)
    separate = [first.gradcam_rounds(tiny_blip, pixels[2:3], [c], 4, 2).maps[0] for c in captions]
    assert_close(together.maps[0][:1], torch.cat(separate, 1), MAPS)


def test_no_photo_has_a_caption(tiny_blip, pixels):
    rounds = SalienceDropout(rounds=3).gradcam_rounds(tiny_blip, pixels[:2], [[], []], 4, 2)
    assert [maps.shape for maps in rounds.maps] == [(3, 0, 7, 7)] * 2
    assert rounds.dropped.shape == (3, 2, 7, 7)
    assert not rounds.dropped.any()
    assert [logits.shape for logits in rounds.match_logit] == [(3, 0)] * 2


def test_a_caption_or_a_list_of_one_is_the_same(tiny_blip, pixels):
    caption = MIXED[0][0]
    one = class_maps(SalienceDropout(), tiny_blip, pixels[:1], [caption], 4, 2)
    listed = class_maps(SalienceDropout(), tiny_blip, pixels[:1], [[caption]], 4, 2)
    assert torch.equal(one[0], listed[0])


def test_works_in_inference_mode(tiny_blip, pixels):
    expected = class_maps(SalienceDropout(), tiny_blip, pixels, MIXED, 4, 2)
    with torch.inference_mode():
        seen = class_maps(SalienceDropout(), tiny_blip, pixels.clone(), MIXED, 4, 2)
    for one, other in zip(seen, expected, strict=True):
        assert torch.equal(one, other)


def test_the_last_layer_is_refused(tiny_blip, pixels):
    with pytest.raises(ValueError, match="always zero"):
        class_maps(SalienceDropout(), tiny_blip, pixels, MIXED, 11, 2)


def test_captions_for_each_photo(tiny_blip, pixels):
    with pytest.raises(ValueError, match="captions for 4 photos, but got 3"):
        class_maps(SalienceDropout(), tiny_blip, pixels, MIXED[:3], 4, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rounds": 0}, "`rounds` to be at least 1, but got 0"),
        ({"rounds": True}, "`rounds` to be at least 1, but got True"),
        ({"rounds": 2.5}, "`rounds` to be at least 1, but got 2.5"),
        ({"patches": 0}, "`patches` to be a positive whole count or a share .*, but got 0"),
        ({"patches": 1.0}, "but got 1.0"),
        ({"patches": 6.0}, "but got 6.0"),
        ({"patches": True}, "but got True"),
        ({"patches": -0.5}, "but got -0.5"),
        ({"patches": 1.5}, "but got 1.5"),
        ({"variant": "new"}, "'paper' or 'released', but got 'new'"),
        ({"relevance": "rollout"}, "'gradcam' or 'attention', but got 'rollout'"),
    ],
)
def test_settings_that_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SalienceDropout(**settings)
