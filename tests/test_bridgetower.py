"""BridgeTowerITM against the unmodified transformers model and a full backward pass."""

from __future__ import annotations

import copy

import pytest
import tiny_bridgetower as tiny
import torch
from conftest import FEATURES, LOGITS, MAPS, assert_close
from transformers import BridgeTowerForContrastiveLearning

from ovss.captions import Caption
from ovss.salience import SalienceDropout
from ovss.vlm import BridgeTowerITM, load_vlm

pytestmark = pytest.mark.numerical

CAPTIONS = [Caption.of(["cat", "dog"]), Caption.of(["potted plant", "dog", "cat"])]
SETUPS = {
    "base": {},
    "large": {"width": 128, "layers": 2, "tower_layers": 3, "image_size": 28, "patch_size": 7},
    "interpolating": {"link_tower_type": "interpolate", "layers": 4},
    "through oneDNN": {"image_size": 96},
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tiny.tokenizer(tmp_path_factory.mktemp("tokenizer"))


def pixels(vlm, count=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, vlm.image_size, vlm.image_size, generator=generator)


def reference(model, tokenizer, pixel_values, captions, layer):
    """Full backward through the model as transformers ships it, one photo at a time."""
    model.requires_grad_(True)
    probabilities = {}
    module = model.bridgetower.cross_modal_text_layers[layer].crossattention.self

    def keep(_, __, output):
        output[1].retain_grad()
        probabilities["of layer"] = output[1]

    handle = module.register_forward_hook(keep)
    maps, logits = [], []
    for photo, caption in zip(pixel_values, captions, strict=True):
        model.zero_grad()
        encoded = tokenizer([caption.text], return_tensors="pt")
        output = model(
            input_ids=encoded["input_ids"],
            attention_mask=encoded["attention_mask"],
            pixel_values=photo[None],
            output_attentions=True,
        )
        output.logits[0, 1].backward()
        attention = probabilities["of layer"]
        maps.append((attention * attention.grad.clamp(min=0))[0, :, 1:, 1:].detach())
        logits.append(output.logits[0, 1].detach())
    handle.remove()
    return maps, torch.stack(logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("setup", SETUPS)
def test_gradcam_equals_full_backward(tokenizer, setup, dtype):
    model = tiny.bridgetower(**SETUPS[setup]).to(dtype)
    untouched = copy.deepcopy(model)
    vlm = BridgeTowerITM(model, tokenizer)
    photos = pixels(vlm).to(dtype)
    every = vlm.gradcam_all(photos, CAPTIONS)
    for layer in vlm.layers:
        expected, logits = reference(untouched, tokenizer, photos, CAPTIONS, layer)
        for head in [0, 3]:
            seen = vlm.gradcam(photos, CAPTIONS, layer, head)
            assert_close(
                seen.match_logit, logits.float(), LOGITS if dtype == torch.float32 else 1e-6
            )
            for row, maps in enumerate(expected):
                wanted = maps[head].unflatten(-1, (vlm.grid, vlm.grid)).float()
                bound = (1e-6 if dtype == torch.float64 else MAPS) * float(maps.max())
                assert maps.max() > 0
                assert (seen.maps[row, : len(wanted)] - wanted).abs().max() <= bound
                assert (every.maps[layer, head, row, : len(wanted)] - wanted).abs().max() <= bound
                assert (seen.maps[row, len(wanted) :] == 0).all()
        mean = vlm.gradcam(photos, CAPTIONS, layer, "mean")
        assert_close(mean.maps, every.maps[layer].mean(0), MAPS)


def test_all_layers_but_the_last_carry_gradient(tokenizer):
    model = tiny.bridgetower()
    untouched = copy.deepcopy(model)
    vlm = BridgeTowerITM(model, tokenizer)
    assert vlm.layers == range(2)
    photos = pixels(vlm)
    for layer in range(3):
        maps, _ = reference(untouched, tokenizer, photos, CAPTIONS, layer)
        for each in maps:  # (N, T, g*g): for every token some head sees evidence, or none does
            assert (each.amax((0, 2)) > 0).tolist() == [layer in vlm.layers] * each.shape[1]
    with pytest.raises(ValueError, match=r"in 0..1, but got 2: the last layer's"):
        vlm.gradcam(photos, CAPTIONS, 2, 0)


def test_match_equals_the_model_and_shares_one_photo(tokenizer):
    model = tiny.bridgetower()
    untouched = copy.deepcopy(model)
    vlm = BridgeTowerITM(model, tokenizer)
    photo = pixels(vlm, 1)
    shared = vlm.match(vlm.encode_image(photo), CAPTIONS)
    for row, caption in enumerate(CAPTIONS):
        encoded = tokenizer([caption.text], return_tensors="pt")
        with torch.no_grad():
            logits = untouched(**encoded, pixel_values=photo).logits
        assert_close(shared[row : row + 1], logits, LOGITS)


def test_vision_tower_runs_without_a_graph_and_hooks_nothing(tokenizer):
    vlm = BridgeTowerITM(tiny.bridgetower(), tokenizer)
    assert not any(parameter.requires_grad for parameter in vlm.parameters())
    with torch.enable_grad():
        features = vlm.encode_image(pixels(vlm))
    assert features.shape == (2, 3, 1 + 16, 64)
    assert not features.requires_grad
    before = vlm.match(features, CAPTIONS)
    with torch.inference_mode():  # as under Lightning's predict
        inside = vlm.gradcam(pixels(vlm), CAPTIONS, 1, 2)
    outside = vlm.gradcam(pixels(vlm), CAPTIONS, 1, 2)
    assert torch.equal(inside.maps, outside.maps)
    assert torch.equal(vlm.match(features, CAPTIONS), before)


def test_image_cls_token_is_left_out_and_patches_are_in_raster_order(tokenizer):
    """Only what a patch shows may change the keys of that patch in layer 0."""
    vlm = BridgeTowerITM(tiny.bridgetower(layers=4), tokenizer)
    # Without vision attention and MLP, a patch's features depend on its pixels alone.
    for block in vlm.model.bridgetower.vision_model.visual.transformer.resblocks:
        for linear in (block.attn.out_proj, block.mlp["c_proj"]):
            linear.weight.data.zero_()
            linear.bias.data.zero_()
    photo = pixels(vlm, 1)
    other = photo.clone()
    row, column = 1, 2
    other[..., row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] += 1.0
    changed = (vlm.encode_image(photo) - vlm.encode_image(other)).abs().amax((0, 1, 3)) > 0
    assert changed.nonzero().flatten().tolist() == [1 + row * vlm.grid + column]
    # The maps are the columns after [CLS].
    features = vlm.encode_image(photo)
    tokens = vlm.tokenize(CAPTIONS[:1])
    maps, _, _ = vlm._differentiate(features, tokens, [0], False)
    assert maps[0].shape[-1] == 1 + vlm.grid**2
    seen = vlm.attend(features, tokens, 0, 1, gradient=False)
    torch.testing.assert_close(seen.maps.flatten(2), maps[0][:, 1, 1:, 1:])


@pytest.mark.parametrize(
    ("classes", "pieces"),
    [
        (["cat", "dog"], [["Ġcat"], ["Ġdog"]]),
        (["potted cat", "dog"], [["Ġp", "o", "t", "t", "e", "d", "Ġcat"], ["Ġdog"]]),
        (["café", "dog"], [["Ġc", "a", "f", "Ã", "©"], ["Ġdog"]]),
    ],
)
def test_byte_level_tokens_are_grouped_by_characters(tokenizer, classes, pieces):
    vlm = BridgeTowerITM(tiny.bridgetower(), tokenizer)
    tokens = vlm.tokenize([Caption.of(["dog"]), Caption.of(classes)])
    names = tokenizer.convert_ids_to_tokens(tokens.input_ids[1])
    assert names[0] == "<s>"
    got = [[names[token + 1] for token in group] for group in tokens.groups[1]]
    assert got == pieces
    # Commas between names belong to no class.
    caption = Caption.of(["cat", "dog"], separator=", ")
    tokens = vlm.tokenize([caption])
    names = tokenizer.convert_ids_to_tokens(tokens.input_ids[0])
    assert [[names[t + 1] for t in group] for group in tokens.groups[0]] == [["Ġcat"], ["Ġdog"]]


def test_salience_dropout_with_several_captions_a_photo(tokenizer):
    """A photo whose classes need two captions gives what each caption gives with shared drops."""
    vlm = BridgeTowerITM(tiny.bridgetower(), tokenizer)
    photos = pixels(vlm)
    dropout = SalienceDropout(rounds=2, patches=3)
    split = [[Caption.of(["cat"]), Caption.of(["dog"])], CAPTIONS[1]]
    together = dropout.gradcam_rounds(vlm, photos, split, 1, 2)
    assert [maps.shape for maps in together.maps] == [(2, 2, 4, 4), (2, 3, 4, 4)]
    alone = dropout.gradcam_rounds(vlm, photos[1:], CAPTIONS[1:], 1, 2)
    assert_close(together.maps[1], alone.maps[0], MAPS)
    first = vlm.gradcam(photos[:1], [Caption.of(["dog"])], 1, 2)
    group = vlm.tokenize([Caption.of(["dog"])]).groups[0][0]
    expected = first.maps[0, list(group)].mean(0)
    assert_close(together.maps[0][0, 1], expected, MAPS)


def test_from_pretrained_reads_statistics_and_resizes_positions(tmp_path):
    model = tiny.bridgetower()
    folder = tiny.save(tmp_path / "tiny-bridgetower", model)
    vlm = BridgeTowerITM.from_pretrained(folder)
    assert (vlm.image_size, vlm.patch_size, vlm.grid) == (32, 8, 4)
    assert vlm.statistics.mean == (0.4, 0.5, 0.6)
    assert vlm.statistics.std == (0.2, 0.3, 0.4)
    assert (vlm.num_layers, vlm.num_heads, vlm.max_tokens) == (3, 4, 60)
    assert vlm.name == "tiny-bridgetower"
    photos = pixels(vlm)
    expected, _ = reference(model, vlm.tokenizer, photos, CAPTIONS, 0)
    assert_close(vlm.gradcam(photos, CAPTIONS, 0, 1).maps[1].flatten(1), expected[1][1], MAPS)

    named = load_vlm(folder)
    assert isinstance(named, BridgeTowerITM)
    assert named.image_size == vlm.image_size
    larger = BridgeTowerITM.from_pretrained(folder, image_size=48)
    assert larger.grid == 6
    photos = pixels(larger)
    with torch.no_grad():  # transformers interpolates on the fly; ours is done at load
        visual = model.bridgetower.vision_model.visual
        wanted = visual.forward_pre(photos, interpolate_pos_encoding=True)
        got = larger.model.bridgetower.vision_model.visual.forward_pre(photos)
    assert_close(got, wanted, FEATURES)
    assert larger.gradcam(photos, CAPTIONS, 0, 1).maps.shape[-2:] == (6, 6)
    with pytest.raises(ValueError, match=r"multiple of the patch size 8, but got 30"):
        BridgeTowerITM.from_pretrained(folder, image_size=30)


def test_a_checkpoint_without_a_matching_head_is_refused(tmp_path):
    model = tiny.bridgetower()
    del model.itm_score
    folder = tiny.save(tmp_path / "headless", model)
    with pytest.raises(ValueError, match=r"itm_score\.fc"):
        BridgeTowerITM.from_pretrained(folder)


def test_contrastive_heads_where_the_checkpoint_has_them(tmp_path):
    model = tiny.bridgetower(
        architecture=BridgeTowerForContrastiveLearning,
        contrastive_hidden_size=16,
        logit_scale_init_value=2.6,
    )
    # The published itc checkpoint holds the matching head too.
    model.itm_score = tiny.bridgetower().itm_score
    folder = tiny.save(tmp_path / "itc", model)
    vlm = BridgeTowerITM.from_pretrained(folder)
    photos = pixels(vlm)
    encoded = vlm.tokenizer([c.text for c in CAPTIONS], padding=True, return_tensors="pt")
    with torch.no_grad():
        output = model(**encoded, pixel_values=photos)
    assert_close(vlm.embed_image(vlm.encode_image(photos)), output.image_embeds, LOGITS)
    assert_close(vlm.embed_text(CAPTIONS), output.text_embeds, LOGITS)

    plain = BridgeTowerITM.from_pretrained(tiny.save(tmp_path / "plain", tiny.bridgetower()))
    with pytest.raises(ValueError, match=r"'plain' to have contrastive heads .* but it has none"):
        plain.embed_text(CAPTIONS)
    # The width alone, without weights, is not enough either.
    bare = tiny.bridgetower(contrastive_hidden_size=16)
    bare = BridgeTowerITM.from_pretrained(tiny.save(tmp_path / "bare", bare))
    with pytest.raises(ValueError, match=r"contrastive heads"):
        bare.embed_image(bare.encode_image(photos))


def test_each_photo_is_matched_with_its_own_captions(tokenizer):
    vlm = BridgeTowerITM(tiny.bridgetower(), tokenizer)
    features = vlm.encode_image(pixels(vlm))
    together = vlm.match_each(features, [CAPTIONS, CAPTIONS[1:]])
    for row, own in enumerate([CAPTIONS, CAPTIONS[1:]]):
        alone = torch.cat([vlm.match(features[row : row + 1], [caption]) for caption in own])
        assert_close(together[row], alone, LOGITS)
