"""BlipITM against the unmodified transformers model and a full backward pass."""

import re

import pytest
import torch
from conftest import FEATURES, LOGITS, MAPS, assert_close
from transformers import AutoTokenizer, BlipForImageTextRetrieval

from ovss.captions import Caption
from ovss.vlm import BlipITM

pytestmark = pytest.mark.numerical

CAPTIONS = [
    Caption.of(["cat", "dog"]),
    Caption.of(["potted plant", "tv monitor", "bus"]),
    Caption.of(["sky"]),
]
ENC, CLS = 399, 101


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(3, 3, 112, 112, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def unmodified(tiny_blip_path):
    """The model as transformers loads it, every parameter requiring grad."""
    model = BlipForImageTextRetrieval.from_pretrained(tiny_blip_path)
    return model.eval(), AutoTokenizer.from_pretrained(tiny_blip_path)


@pytest.fixture(scope="module")
def full_backward(unmodified, pixels):
    """Maps `(L, N, T, g, g)` of all layers and the logits `(2,)`, photo by photo."""
    model, tokenizer = unmodified
    attention = []

    def retain(module, inputs, output):
        output[1].retain_grad()
        attention.append(output[1])

    handles = [
        layer.crossattention.self.register_forward_hook(retain)
        for layer in model.text_encoder.encoder.layer
    ]
    results = []
    for photo, caption in zip(pixels, CAPTIONS, strict=True):
        attention.clear()
        ids = torch.tensor([[ENC, *tokenizer(caption.text)["input_ids"][1:]]])
        logits = model(input_ids=ids, pixel_values=photo[None]).itm_score[0]
        logits[1].backward()
        maps = torch.stack([(a * a.grad.clamp(min=0)).detach()[0, :, 1:, 1:] for a in attention])
        results.append((maps.unflatten(-1, (7, 7)), logits.detach()))
    for handle in handles:
        handle.remove()
    return results


def hooks_of(vlm):
    return [
        (name, hook)
        for name, module in vlm.named_modules()
        for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
        for hook in hooks.values()
    ]


def test_equals_the_full_backward_pass(tiny_blip, pixels, full_backward):
    seen = tiny_blip.gradcam_all(pixels, CAPTIONS)
    assert seen.maps.shape == (11, 12, 3, 13, 7, 7)
    for row, (maps, logits) in enumerate(full_backward):
        tokens = maps.shape[2]
        assert maps.amax() > 1e-2  # against which the tolerance is small
        assert_close(seen.maps[:, :, row, :tokens], maps[:-1], MAPS)
        assert not seen.maps[:, :, row, tokens:].any()  # padding
        assert not maps[-1].any()  # the last layer, for which there is no choice
        assert_close(seen.match_logit[row], logits[1], LOGITS)


@pytest.mark.parametrize(("layer", "head"), [(0, 0), (4, 2), (7, 9), (10, 11), (7, "mean")])
def test_one_layer_and_head_is_a_slice_of_all(tiny_blip, pixels, layer, head):
    every = tiny_blip.gradcam_all(pixels, CAPTIONS)
    one = tiny_blip.gradcam(pixels, CAPTIONS, layer, head)
    of_layer = every.maps[layer]
    expected = of_layer.mean(0) if head == "mean" else of_layer[head]
    assert_close(one.maps, expected, MAPS)
    torch.testing.assert_close(one.match_logit, every.match_logit, atol=0, rtol=0)


def test_a_batch_of_captions_of_different_length_equals_single_ones(tiny_blip, pixels):
    together = tiny_blip.gradcam(pixels, CAPTIONS, 4, 2)
    for row, caption in enumerate(CAPTIONS):
        alone = tiny_blip.gradcam(pixels[row : row + 1], [caption], 4, 2)
        tokens = alone.maps.shape[1]
        assert_close(together.maps[row, :tokens], alone.maps[0], MAPS)
        assert not together.maps[row, tokens:].any()
        assert_close(together.match_logit[row], alone.match_logit[0], LOGITS)


def test_without_gradient_the_maps_are_attention_probabilities(tiny_blip, unmodified, pixels):
    model, tokenizer = unmodified
    ids = torch.tensor([[ENC, *tokenizer(CAPTIONS[0].text)["input_ids"][1:]]])
    kept = {}
    handle = model.text_encoder.encoder.layer[4].crossattention.self.register_forward_hook(
        lambda module, inputs, output: kept.update(probabilities=output[1].detach())
    )
    model(input_ids=ids, pixel_values=pixels[:1])
    handle.remove()
    tokens = tiny_blip.tokenize(CAPTIONS[:1])
    features = tiny_blip.encode_image(pixels[:1])
    seen = tiny_blip.attend(features, tokens, 4, 2, gradient=False)
    expected = kept["probabilities"][:, 2, 1:, 1:].unflatten(-1, (7, 7))
    assert_close(seen.maps, expected, MAPS)


def test_enc_replaces_the_first_token(tiny_blip, unmodified, pixels):
    tokens = tiny_blip.tokenize(CAPTIONS)
    assert tokens.input_ids[:, 0].tolist() == [ENC] * 3
    plain = tiny_blip.tokenizer([c.text for c in CAPTIONS], padding=True, return_tensors="pt")
    assert plain["input_ids"][:, 0].tolist() == [CLS] * 3
    assert torch.equal(tokens.input_ids[:, 1:], plain["input_ids"][:, 1:])
    assert torch.equal(tokens.attention_mask, plain["attention_mask"])
    features = tiny_blip.encode_image(pixels)
    with torch.no_grad():
        without = unmodified[0](**plain, pixel_values=pixels).itm_score
        plain["input_ids"][:, 0] = ENC
        expected = unmodified[0](**plain, pixel_values=pixels).itm_score
    logits = tiny_blip.match(features, CAPTIONS)
    assert_close(logits, expected, LOGITS)
    assert (logits - without).abs().min() > 0.1


def test_a_tokenizer_that_does_not_know_enc(tiny_blip, monkeypatch):
    # As published by Salesforce: BERT's, with neither [DEC] nor [ENC].
    vocabulary = {k: v for k, v in tiny_blip.tokenizer.get_vocab().items() if k != "[ENC]"}
    monkeypatch.setattr(tiny_blip.tokenizer, "get_vocab", lambda: vocabulary)
    assert BlipITM(tiny_blip.model, tiny_blip.tokenizer).encode_token == ENC
    monkeypatch.setattr(tiny_blip.model.config.text_config, "bos_token_id", 399)
    with pytest.raises(ValueError, match=r"within the text encoder's 400 embeddings, .* id 400"):
        BlipITM(tiny_blip.model, tiny_blip.tokenizer)


def test_works_in_inference_mode(tiny_blip, pixels):
    expected = tiny_blip.gradcam(pixels, CAPTIONS, 4, 2)
    with torch.inference_mode():
        inside = pixels.clone()
        assert inside.is_inference()
        seen = tiny_blip.gradcam(inside, CAPTIONS, 4, 2)
        every = tiny_blip.gradcam_all(inside, CAPTIONS)
    torch.testing.assert_close(seen, expected, atol=0, rtol=0)
    assert_close(every.maps[4, 2], expected.maps, MAPS)


def test_nothing_is_left_behind(tiny_blip, pixels):
    before = hooks_of(tiny_blip)
    seen = tiny_blip.gradcam(pixels, CAPTIONS, 4, 2)
    tiny_blip.gradcam_all(pixels, CAPTIONS)
    tokens = tiny_blip.tokenize(CAPTIONS)
    with pytest.raises(RuntimeError):  # in the first cross-attention layer, hooks in place
        tiny_blip.attend(torch.zeros(3, 50, 7), tokens, 4, 2)
    with pytest.raises(RuntimeError):
        tiny_blip.attend_all(torch.zeros(3, 50, 7), tokens)
    assert hooks_of(tiny_blip) == before == []
    assert not seen.maps.requires_grad
    assert not seen.match_logit.requires_grad
    assert all(p.grad is None and not p.requires_grad for p in tiny_blip.parameters())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("layer", "head", "message"),
    [
        (11, 2, r"`layer` to be in 0..10, but got 11: the last layer's .* always zero"),
        (12, 2, r"`layer` to be in 0..10 \(counted from 0\), but got 12"),
        (-1, 2, r"`layer` to be in 0..10 \(counted from 0\), but got -1"),
        (4, 12, r"`head` to be in 0..11 \(counted from 0\) or 'mean', but got 12"),
        (4, -1, r"or 'mean', but got -1"),
        (4, "max", r"or 'mean', but got 'max'"),
        (4, True, r"or 'mean', but got True"),
        (4, 1.5, r"or 'mean', but got 1.5"),
    ],
)
def test_layers_and_heads_that_are_refused(tiny_blip, pixels, layer, head, message):
    with pytest.raises(ValueError, match=message):
        tiny_blip.gradcam(pixels, CAPTIONS, layer, head)


@pytest.mark.parametrize("shape", [(3, 3, 96, 112), (3, 3, 224, 224), (2, 3, 112, 112), (3, 112)])
def test_pixels_of_another_shape(tiny_blip, shape):
    message = re.escape(
        f"shape (3, 3, 112, 112) (3 captions, images of 112 pixels), but got {shape}"
    )
    with pytest.raises(ValueError, match=message):
        tiny_blip.gradcam(torch.zeros(shape), CAPTIONS, 4, 2)
    with pytest.raises(ValueError, match=message):
        tiny_blip.gradcam_all(torch.zeros(shape), CAPTIONS)


# 192: enough patches for the fused form of the vision encoder's attention.
@pytest.mark.parametrize("image_size", [48, 160, 192])
def test_another_image_size_interpolates_the_positions(tiny_blip_path, unmodified, image_size):
    vlm = BlipITM.from_pretrained(tiny_blip_path, image_size=image_size)
    grid = image_size // 16
    assert (vlm.image_size, vlm.grid) == (image_size, grid)
    embeddings = unmodified[0].vision_model.embeddings
    patches = torch.zeros(1, 1 + grid * grid, 96)
    expected = embeddings.interpolate_pos_encoding(patches, image_size, image_size)
    positions = vlm.model.vision_model.embeddings.position_embedding
    assert positions.std() > 0.001
    torch.testing.assert_close(positions, expected, atol=0, rtol=0)

    photos = torch.randn(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features = unmodified[0].vision_model(pixel_values=photos, interpolate_pos_encoding=True)
    expected = features.last_hidden_state
    assert_close(vlm.encode_image(photos), expected, FEATURES)
    assert vlm.gradcam(photos, CAPTIONS[:2], 4, 2).maps.shape == (2, 13, grid, grid)


@pytest.mark.parametrize("image_size", [100, 8, 0, -16])
def test_image_sizes_that_are_refused(tiny_blip_path, image_size):
    message = f"multiple of the patch size 16, but got {image_size}"
    with pytest.raises(ValueError, match=message):
        BlipITM.from_pretrained(tiny_blip_path, image_size=image_size)


def test_features_of_one_photo_serve_all_captions(tiny_blip, pixels):
    features = tiny_blip.encode_image(pixels[:1])
    shared = tiny_blip.match(features, CAPTIONS)
    copied = tiny_blip.match(features.repeat(3, 1, 1), CAPTIONS)
    assert_close(shared, copied, LOGITS)
    assert shared.shape == (3, 2)


@pytest.mark.parametrize("longest", [256, 1])
def test_a_photos_captions_do_not_see_each_other(tiny_blip, pixels, monkeypatch, longest):
    monkeypatch.setattr("ovss.vlm.blip.LONGEST", longest)
    features = tiny_blip.encode_image(pixels)
    captions = [CAPTIONS[:2], CAPTIONS, CAPTIONS[2:]]  # of different lengths and numbers
    together = tiny_blip.match_each(features, captions)
    for row, own in enumerate(captions):
        alone = torch.cat([tiny_blip.match(features[row : row + 1], [c]) for c in own])
        assert_close(together[row], alone, LOGITS)


def test_embeddings_give_the_contrastive_similarities(tiny_blip, unmodified, pixels):
    plain = tiny_blip.tokenizer([c.text for c in CAPTIONS], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = unmodified[0](**plain, pixel_values=pixels, use_itm_head=False).itm_score
    image = tiny_blip.embed_image(tiny_blip.encode_image(pixels))
    text = tiny_blip.embed_text(CAPTIONS)
    assert_close(image @ text.T, expected, LOGITS)
