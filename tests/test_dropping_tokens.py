"""Dropped patch tokens, against the models' own modules on gathered tokens, a photo at a time."""

import copy

import pytest
import tiny_bridgetower as tiny
import torch
from transformers import AutoTokenizer, BlipForImageTextRetrieval

from ovss.benchmark import of_classes
from ovss.captions import Caption
from ovss.method import look
from ovss.module import PnPOVSS
from ovss.runs.fingerprint import differences, fingerprint_of
from ovss.salience import SalienceDropout
from ovss.vlm import VLM, BlipITM, BridgeTowerITM

NAMES = [["cat", "dog"], ["sky"], ["potted plant", "bus", "tv monitor"]]
CAPTIONS = [Caption.of(names) for names in NAMES]
# Many patches, so that the photos run out of positive salience at different numbers of them.
DROPOUT = SalienceDropout(rounds=4, patches=14, drop="tokens")


@pytest.fixture(scope="module")
def photos():
    return torch.randn(3, 3, 112, 112, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def bridgetower(tmp_path_factory):
    return BridgeTowerITM(
        tiny.bridgetower(image_size=56), tiny.tokenizer(tmp_path_factory.mktemp("tokenizer"))
    )


def of_blip(path):
    """What one round sees, from transformers' model with the tokens gathered by hand."""
    model = BlipForImageTextRetrieval.from_pretrained(path).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    attention = model.text_encoder.encoder.layer[4].crossattention.self
    enc = tokenizer.get_vocab()["[ENC]"]

    def see(photo, caption, kept):
        embedded = model.vision_model.embeddings(photo[None])
        embedded = embedded[:, [0, *(1 + patch for patch in kept)]]
        image = model.vision_model.encoder(inputs_embeds=embedded).last_hidden_state
        ids = torch.tensor([[enc, *tokenizer(caption.text)["input_ids"][1:]]])
        text = model.text_encoder(
            input_ids=ids, encoder_hidden_states=model.vision_model.post_layernorm(image)
        )
        return model.itm_head(text.last_hidden_state[:, 0])[0, 1]

    return see, attention


def of_bridgetower(vlm):
    """As `of_blip`; the embeddings are swapped for the gathered ones, and the model runs whole."""
    model = copy.deepcopy(vlm.model)
    model.set_attn_implementation("eager")
    model.requires_grad_(True)
    embeddings = model.bridgetower.vision_model.visual.embeddings
    attention = model.bridgetower.cross_modal_text_layers[1].crossattention.self

    class Gathered(torch.nn.Module):
        def forward(self, pixel_values, *_, **__):
            return embeddings(pixel_values)[:, [0, *(1 + patch for patch in self.kept)]]

    gathered = Gathered()
    gathered.patch_embedding = embeddings.patch_embedding  # asked for its type
    model.bridgetower.vision_model.visual.embeddings = gathered

    def see(photo, caption, kept):
        gathered.kept = kept
        encoded = vlm.tokenizer([caption.text], return_tensors="pt")
        return model(**encoded, pixel_values=photo[None]).logits[0, 1]

    return see, attention


def by_hand(vlm, see, attention, photo, caption, dropout, layer, head):
    """Class maps `(rounds, K, P)` and the dropped patches of each round."""
    (groups,) = vlm.tokenize([caption]).groups
    patches = vlm.grid**2
    maps, dropped, history = [], [], []
    for _ in range(dropout.rounds):
        recorded = []

        def keep(_, __, output, recorded=recorded):
            output[1].retain_grad()
            recorded.append(output[1])

        handle = attention.register_forward_hook(keep)
        kept = [patch for patch in range(patches) if patch not in dropped]
        see(photo, caption, kept).backward()
        handle.remove()
        (probabilities,) = recorded
        weighted = probabilities * probabilities.grad.clamp(min=0)
        tokens = torch.zeros(weighted.shape[2] - 1, patches)
        tokens[:, kept] = weighted.detach()[0, head, 1:, 1:]
        classes = torch.stack([tokens[list(group)].mean(0) for group in groups])
        salience = sum(tokens[list(group)].sum(0) for group in groups).tolist()
        maps.append(classes)
        history.append(sorted(dropped))
        order = sorted(range(patches), key=lambda patch: -salience[patch])[: dropout.patches]
        dropped = dropped + [patch for patch in order if salience[patch] > 0]
    return torch.stack(maps), history


def check(vlm, see, attention, photos, dropout, layer, head):
    rounds = dropout.look(vlm, photos, CAPTIONS, layer, head)
    later = []
    for photo, caption in enumerate(CAPTIONS):
        maps, history = by_hand(vlm, see, attention, photos[photo], caption, dropout, layer, head)
        found = rounds.dropped[:, photo].flatten(1)
        assert [each.nonzero()[:, 0].tolist() for each in found] == history
        scale = float(maps.max())
        later.append(bool(maps[1].any()))
        torch.testing.assert_close(
            rounds.maps[photo].flatten(2) / scale, maps / scale, atol=1e-5, rtol=0
        )
    assert any(later)  # something was left to see when tokens were gone
    return [len(set(each.flatten(1).sum(1).tolist())) for each in rounds.dropped]


def test_blip_equals_its_modules_on_gathered_tokens(tiny_blip, tiny_blip_path, photos):
    counts = check(tiny_blip, *of_blip(tiny_blip_path), photos, DROPOUT, 4, 2)
    assert max(counts) > 1  # photos with different numbers of tokens were looked at


def test_bridgetower_equals_its_modules_on_gathered_tokens(bridgetower, photos):
    few = SalienceDropout(rounds=3, patches=4, drop="tokens")
    check(bridgetower, *of_bridgetower(bridgetower), photos[:, :, :56, :56], few, 1, 1)


def test_several_captions_a_photo_and_early_stops_do_not_depend_on_the_batch(tiny_blip, photos):
    captions = [CAPTIONS[:2], [], CAPTIONS[1:]]
    for stop_below in (0.0, 0.5):
        dropout = SalienceDropout(4, 14, drop="tokens", stop_below=stop_below)
        together = dropout.look(tiny_blip, photos, captions, 4, 2)
        for photo, own in enumerate(captions):
            alone = dropout.look(tiny_blip, photos[photo : photo + 1], [own], 4, 2)
            assert torch.equal(together.dropped[:, photo], alone.dropped[:, 0])
            torch.testing.assert_close(together.maps[photo], alone.maps[0], atol=1e-6, rtol=1e-4)
            torch.testing.assert_close(
                together.match_logit[photo], alone.match_logit[0], atol=1e-5, rtol=1e-5
            )


@pytest.mark.parametrize("model", ["blip", "bridgetower"])
def test_with_nothing_dropped_every_bit_is_the_usual(tiny_blip, bridgetower, photos, model):
    vlm = {"blip": tiny_blip, "bridgetower": bridgetower}[model]
    photos = photos[..., : vlm.image_size, : vlm.image_size]
    features = vlm.encode_image(photos)
    visible = torch.ones(3, vlm.grid**2, dtype=torch.bool)
    assert torch.equal(vlm.encode_visible(photos, visible), features)
    tokens = vlm.tokenize(CAPTIONS)
    usual = vlm.attend(features, tokens, 1, 2)
    assert torch.equal(vlm.attend(features, tokens, 1, 2, visible=visible).maps, usual.maps)
    once = [SalienceDropout(rounds=1, drop=drop) for drop in ("pixels", "tokens")]
    one, other = (dropout.look(vlm, photos, CAPTIONS, 1, 2).maps for dropout in once)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_all_patches_may_go(tiny_blip, photos):
    visible = torch.zeros(3, 49, dtype=torch.bool)
    features = tiny_blip.encode_visible(photos, visible)
    assert features.shape[1] == 1  # the image's [CLS]
    seen = tiny_blip.attend(features, tiny_blip.tokenize(CAPTIONS), 4, 2, visible=visible)
    assert not seen.maps.any()
    assert torch.isfinite(seen.match_logit).all()


def test_works_in_inference_mode_and_leaves_no_hook(tiny_blip, photos):
    outside = DROPOUT(tiny_blip, photos, CAPTIONS, 4, 2)
    with torch.inference_mode():
        inside = DROPOUT(tiny_blip, photos, CAPTIONS, 4, 2)
    assert all(torch.equal(a, b) for a, b in zip(inside, outside, strict=True))
    assert not tiny_blip.model.vision_model.embeddings._forward_hooks


def test_errors_name_the_remedy(tiny_blip, photos):
    with pytest.raises(ValueError, match="Expected `drop` to be 'pixels' or 'tokens', but got 'x'"):
        SalienceDropout(drop="x")
    uneven = torch.ones(3, 49, dtype=torch.bool)
    uneven[0, 0] = False
    with pytest.raises(ValueError, match=r"as many patches in each row, but got \[48, 49, 49\]"):
        tiny_blip.encode_visible(photos, uneven)

    class Unnamed(BlipITM):
        _embeddings = VLM._embeddings

    vlm = Unnamed(tiny_blip.model, tiny_blip.tokenizer)
    with pytest.raises(ValueError, match=r"Unnamed does not name .* `dropout.drop` at 'pixels'"):
        DROPOUT(vlm, photos, CAPTIONS, 4, 2)


def test_runs_name_the_option(tiny_blip, photos):
    names = sorted({name for own in NAMES for name in own})
    modules = [
        PnPOVSS(tiny_blip, 4, 2, SalienceDropout(4, 14, drop=drop), benchmark=of_classes(names))
        for drop in ("pixels", "tokens")
    ]
    pixels, tokens = (fingerprint_of(module, "32-true") for module in modules)
    assert modules[1].describe()["drop"] == "tokens"
    assert {name for name, *_ in differences(pixels, tokens)} == {"drop", "dropout.drop"}
    classes = [[(name,) for name in own] for own in NAMES]
    one, other = (look(tiny_blip, photos, classes, 4, 2, module.dropout) for module in modules)
    assert any(not torch.equal(a, b) for a, b in zip(one.maps, other.maps, strict=True))
