"""itm, itc and clip against the unmodified transformers models, one photo and name at a time."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny_bridgetower
import torch
import transformers
from conftest import LOGITS, assert_close
from packaging.version import Version
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
)
from transformers.utils import is_sentencepiece_available

from ovss.benchmark import PhotoBatch, of_classes
from ovss.proposals import ClipProposer, ContrastiveProposer, MatchProposer
from ovss.vlm import BridgeTowerITM

pytestmark = pytest.mark.numerical

BENCHMARK = of_classes(["cat", "dog; brown dog", "potted plant", "tree"])
NAMES = [["cat"], ["dog", "brown dog"], ["potted plant"], ["tree"]]


def batch_for(size, count=2):
    generator = torch.Generator().manual_seed(3)
    photos = [
        torch.randint(0, 256, (3, 40 + 7 * i, 56), generator=generator, dtype=torch.uint8)
        for i in range(count)
    ]
    pixels = torch.randn(count, 3, size, size, generator=generator)
    return PhotoBatch([f"photo{i}" for i in range(count)], photos, pixels)


def best_of_synonyms(score):
    """`(B, K)` from a function of photo and name."""
    rows = [[max(score(photo, n) for n in names) for names in NAMES] for photo in range(2)]
    return torch.tensor(rows)


@pytest.fixture(scope="module")
def vlms(tiny_blip, tmp_path_factory):
    tokenizer = tiny_bridgetower.tokenizer(tmp_path_factory.mktemp("tokenizer"))
    return {
        "blip": tiny_blip,
        "bridgetower": BridgeTowerITM(tiny_bridgetower.bridgetower(), tokenizer),
    }


@torch.no_grad()
def match_probability(vlm, pixels, name):
    encoded = vlm.tokenizer([f"A picture of {name}"], return_tensors="pt")
    ids, mask = vlm._prepare_ids(encoded["input_ids"]), encoded["attention_mask"]
    output = vlm.model(input_ids=ids, attention_mask=mask, pixel_values=pixels[None])
    logits = output[0] if hasattr(output, "itm_score") else output.logits
    return float(logits.softmax(-1)[0, 1])


@pytest.mark.parametrize("family", ["blip", "bridgetower"])
def test_itm_is_the_match_probability_of_each_class(vlms, family):
    vlm = vlms[family]
    batch = batch_for(vlm.image_size)
    expected = best_of_synonyms(
        lambda photo, name: match_probability(vlm, batch.pixel_values[photo], name)
    )
    assert expected.std() > 1e-4
    for chunk in [1, 3, 32]:
        got = MatchProposer(chunk=chunk).scores(batch, BENCHMARK, vlm)
        assert_close(got, expected, LOGITS)
    # The proposal is what lies above the threshold, with labels of the benchmark.
    middle = float(expected[0].sort().values[1:3].mean())
    proposals = MatchProposer(threshold=middle)(batch, BENCHMARK, vlm)
    above = (expected[0] > middle).nonzero().flatten() + 1
    assert proposals[0].labels == tuple(above.tolist())


def test_itm_encodes_each_photo_once(vlms, monkeypatch):
    vlm, seen = vlms["blip"], []
    encode = vlm.encode_image
    monkeypatch.setattr(vlm, "encode_image", lambda x: seen.append(len(x)) or encode(x))
    MatchProposer(chunk=2)(batch_for(vlm.image_size), BENCHMARK, vlm)
    assert seen == [2]


def test_itc_is_a_softmax_of_the_models_similarity(vlms):
    vlm = vlms["blip"]
    batch = batch_for(vlm.image_size)

    @torch.no_grad()
    def similarity(photo, name):
        encoded = vlm.tokenizer([f"A picture of {name}"], return_tensors="pt")
        return float(
            vlm.model(
                input_ids=encoded["input_ids"],
                attention_mask=encoded["attention_mask"],
                pixel_values=batch.pixel_values[photo][None],
                use_itm_head=False,
            )[0]
        )

    expected = (best_of_synonyms(similarity) / 0.07).softmax(-1)
    assert expected.std() > 1e-4
    proposer = ContrastiveProposer()
    for _ in range(2):  # the second time the texts are taken from before
        got = proposer.scores(batch, BENCHMARK, vlm)
        assert_close(got, expected, LOGITS)
    fewer = proposer.scores(batch, of_classes(["tree", "cat"]), vlm)
    assert fewer.shape == (2, 2)
    best = ContrastiveProposer(threshold=0.0, top_k=1)(batch, BENCHMARK, vlm)
    assert [proposal.labels for proposal in best] == [(int(k) + 1,) for k in expected.argmax(1)]


def test_itc_needs_contrastive_heads(vlms):
    vlm = vlms["bridgetower"]
    with pytest.raises(ValueError, match=r"contrastive heads .* use `itm`"):
        ContrastiveProposer()(batch_for(vlm.image_size), BENCHMARK, vlm)


def word_tokenizer(folder):
    """A word-level tokenizer whose end token has the highest id, as CLIP's text tower expects."""
    words = ["[PAD]", "[UNK]", "a", "photo", "of", "picture", "cat", "dog", "brown", "potted"]
    vocabulary = {word: i for i, word in enumerate([*words, "plant", "tree", ".", "[EOS]"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    end = [("[EOS]", vocabulary["[EOS]"])]
    tokenizer.post_processor = processors.TemplateProcessing(single="$A [EOS]", special_tokens=end)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", eos_token="[EOS]"
    )
    fast.save_pretrained(folder)
    return fast


def two_towers(kind, folder):
    """A tiny random CLIP or SigLIP checkpoint."""
    text = {
        "vocab_size": 14,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 12,
        "eos_token_id": 13,
        "pad_token_id": 0,
        "bos_token_id": 13,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 24,
        "patch_size": 8,
    }
    torch.manual_seed(5)
    if kind == "clip":
        config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
        model = CLIPModel(config)
    else:
        model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    model = model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(0.3 * torch.randn_like(parameter))
        model.logit_scale.fill_(1.5)
        if kind == "siglip":
            model.logit_bias.fill_(-0.7)
    model.save_pretrained(folder)
    statistics = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
    (folder / "preprocessor_config.json").write_text(json.dumps(statistics))
    return model, word_tokenizer(folder)


NO_SIGLIP = pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.3") and not is_sentencepiece_available(),
    reason="this transformers needs sentencepiece for SigLIP's tokenizer",
)


@pytest.mark.parametrize("kind", ["clip", pytest.param("siglip", marks=NO_SIGLIP)])
def test_clip_scores_are_the_models_own(tmp_path, kind):
    model, tokenizer = two_towers(kind, tmp_path)
    batch = batch_for(8)
    proposer = ClipProposer(str(tmp_path))
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.4])

    @torch.no_grad()
    def logit(photo, name):
        image = Image.fromarray(batch.photos[photo].permute(1, 2, 0).numpy())
        small = np.asarray(image.resize((24, 24), Image.Resampling.BICUBIC))
        pixels = (torch.from_numpy(small.copy()) / 255 - mean) / std
        padding = {"padding": "max_length", "max_length": 12} if kind == "siglip" else {}
        encoded = tokenizer([f"a photo of a {name}."], return_tensors="pt", **padding)
        if kind == "siglip":
            encoded.pop("attention_mask")
        encoded.pop("token_type_ids", None)
        return float(
            model(**encoded, pixel_values=pixels.permute(2, 0, 1)[None].float()).logits_per_image
        )

    logits = best_of_synonyms(logit)
    expected = logits.softmax(-1) if kind == "clip" else logits.sigmoid()
    assert expected.std() > 1e-3
    got = proposer.scores(batch, BENCHMARK, None)
    # PIL rounds the resized pixels to whole numbers.
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-3)
    again = proposer.scores(batch, BENCHMARK, None)
    assert torch.equal(got, again)
    assert proposer(batch, BENCHMARK, None)[0].labels == tuple(
        (got[0] > 0.1).nonzero().flatten().add(1).tolist()
    )


def test_clip_averages_its_templates(tmp_path):
    two_towers("clip", tmp_path)
    first, second, both = (
        ClipProposer(str(tmp_path), templates=templates).scorer._embed_name("cat")
        for templates in (["a {}"], ["picture of {}"], ["a {}", "picture of {}"])
    )
    expected = (first + second) / (first + second).norm()
    torch.testing.assert_close(both, expected)


def test_clip_refuses_other_checkpoints_and_templates(tmp_path, tiny_blip_path):
    with pytest.raises(ValueError, match=r"a 'clip' or 'siglip' checkpoint .* is of type 'blip'"):
        ClipProposer(str(tiny_blip_path))
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
        ClipProposer(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"'{}' exactly once, but got \['a photo'\]"):
        ClipProposer(str(tmp_path), templates=["a photo"])
