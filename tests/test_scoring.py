"""Image-text scores against the models' own code, one photo and name at a time."""

import json

import pytest
import torch
from conftest import LOGITS, assert_close
from safetensors.torch import load_file, save_file
from test_proposals_models import NO_SIGLIP, two_towers

from ovss.vlm.base import ImageStatistics
from ovss.vlm.loading import CLIP_STATISTICS
from ovss.vlm.scoring import SIGLIP_STATISTICS, ClipScorer, ItcScorer, ItmScorer

pytestmark = pytest.mark.numerical


@pytest.fixture(scope="module")
def pixels(tiny_blip):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(3, 3, tiny_blip.image_size, tiny_blip.image_size, generator=generator)


def normalised(vlm, pixels):
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (vlm.statistics.mean, vlm.statistics.std))
    return (pixels - mean) / std


NAMES = [["cat"], ["dog", "cat", "person"], ["person", "dog"]]


def test_itm_is_the_matching_head(tiny_blip, pixels):
    found = ItmScorer(tiny_blip)(pixels, NAMES, batch_size=2)
    for place, own in enumerate(NAMES):
        features = tiny_blip.encode_image(normalised(tiny_blip, pixels[place : place + 1]))
        for logit, name in zip(found[place], own, strict=True):
            two = tiny_blip.match(features, tiny_blip.captions([name]))[0]
            assert float(logit) == pytest.approx(float(two[1] - two[0]), abs=1e-4)


def test_itc_is_the_published_contrastive_path(tiny_blip, pixels):
    found = ItcScorer(tiny_blip)(pixels, NAMES, batch_size=2)
    texts = tiny_blip.tokenizer([f"A picture of {name}" for name in ("dog", "cat", "person")])
    with torch.no_grad():
        # transformers' own code for BLIP's contrastive similarities.
        similarities = torch.cat(
            [
                tiny_blip.model(
                    input_ids=torch.tensor(ids)[None],
                    pixel_values=normalised(tiny_blip, pixels[1:2]),
                    use_itm_head=False,
                ).itm_score[0]
                for ids in texts["input_ids"]
            ]
        )
    assert_close(found[1], similarities / 0.07, LOGITS)


def tiny_clip():
    """A random CLIP."""
    from transformers import CLIPConfig, CLIPModel

    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    config = CLIPConfig(
        text_config={
            **small,
            "num_attention_heads": 2,
            "vocab_size": 30,
            "max_position_embeddings": 8,
            "eos_token_id": 29,
            "bos_token_id": 0,
            "projection_dim": 12,
        },
        vision_config={
            **small,
            "num_attention_heads": 2,
            "image_size": 16,
            "patch_size": 8,
            "projection_dim": 12,
        },
        projection_dim=12,
    )
    torch.manual_seed(0)
    return CLIPModel(config)


class Letters:
    """Ids of a text's letters, with CLIP's first and last token."""

    def __call__(self, texts, **kwargs):
        rows = [[0, *(ord(c) - ord("a") + 1 for c in text[:6]), 29] for text in texts]
        mask = [[1] * len(row) + [0] * (8 - len(row)) for row in rows]
        ids = [row + [29] * (8 - len(row)) for row in rows]
        return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


@pytest.fixture(scope="module")
def clip():
    return tiny_clip()


def test_clip_is_transformers_own_logits(clip):
    statistics = ImageStatistics((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    scorer = ClipScorer(clip, Letters(), statistics)
    assert scorer.size == 16
    pixels = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = scorer(pixels, NAMES, batch_size=2)
    mean, std = torch.tensor(statistics.mean), torch.tensor(statistics.std)
    values = (pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    for place, own in enumerate(NAMES):
        expected = clip(pixel_values=values[place : place + 1], **Letters()(own)).logits_per_image
        assert_close(found[place], expected[0].detach(), LOGITS)


def test_clip_reads_a_text_once(clip):
    scorer = ClipScorer(clip, Letters(), ImageStatistics((0.5,) * 3, (0.5,) * 3))
    calls = []
    original = clip.get_text_features
    clip.get_text_features = lambda **kwargs: calls.append(1) or original(**kwargs)
    try:
        scorer(torch.rand(3, 3, 16, 16), NAMES)
        count = len(calls)
        scorer(torch.rand(3, 3, 16, 16), NAMES)
    finally:
        del clip.get_text_features
    assert len(calls) == count > 0


@pytest.mark.parametrize("kind", ["itm", "itc"])
def test_all_names_for_all_photos_are_the_same_as_each_photos_own(tiny_blip, pixels, kind):
    scorer = ItmScorer(tiny_blip, chunk=2) if kind == "itm" else ItcScorer(tiny_blip)
    names = ["cat", "brown dog", "person"]
    found = scorer.logits_per_image(scorer.normalise(pixels), names)
    assert found.shape == (3, 3)
    for row, own in zip(found, scorer(pixels, [names] * 3), strict=True):
        assert_close(row, own, LOGITS)


# ---- checkpoints of CLIP and SigLIP -------------------------------------------------------------


@pytest.fixture(params=["clip", pytest.param("siglip", marks=NO_SIGLIP)])
def checkpoint(request, tmp_path):
    """Kind, model, tokenizer and folder of a tiny checkpoint."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    return request.param, *two_towers(request.param, folder), folder


def test_logits_of_a_checkpoint_are_its_own(checkpoint):
    kind, model, tokenizer, folder = checkpoint
    scorer = ClipScorer.from_pretrained(folder)
    assert scorer.statistics == ImageStatistics((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    assert scorer.name == "clip (checkpoint)"
    pixels = torch.rand(3, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    values = scorer.normalise(pixels)
    padding = {"padding": "max_length", "max_length": 12} if kind == "siglip" else {}
    for place, (found, own) in enumerate(
        zip(scorer(pixels, NAMES, batch_size=2), NAMES, strict=True)
    ):
        for logit, name in zip(found, own, strict=True):
            encoded = tokenizer([name], return_tensors="pt", **padding)
            # SigLIP was trained without masks, whatever its tokenizer gives.
            kept = ["input_ids", "attention_mask"][: 1 if kind == "siglip" else 2]
            inputs = {key: encoded[key] for key in kept}
            with torch.no_grad():
                expected = model(**inputs, pixel_values=values[place][None]).logits_per_image
            assert_close(logit, expected[0, 0], LOGITS)


def test_statistics_that_a_checkpoint_does_not_name_are_its_kinds(checkpoint):
    kind, _, _, folder = checkpoint
    (folder / "preprocessor_config.json").unlink()
    expected = SIGLIP_STATISTICS if kind == "siglip" else CLIP_STATISTICS
    assert ClipScorer.from_pretrained(folder).statistics == expected


def test_checkpoints_that_are_not_whole_are_refused(tmp_path):
    two_towers("clip", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if name != "logit_scale"}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"all weights of CLIPModel, .*lacks \['logit_scale'\]"):
        ClipScorer.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ValueError, match="whole and nothing but tensors"):
        ClipScorer.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="could not load the weights"):
        ClipScorer.from_pretrained(tmp_path)


def test_code_beside_a_checkpoint_is_not_run(tmp_path):
    two_towers("clip", tmp_path)
    trace = tmp_path / "code-was-run"
    (tmp_path / "evil.py").write_text(f"open({str(trace)!r}, 'w')\n")
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModel": "evil.M"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    ClipScorer.from_pretrained(tmp_path)
    assert not trace.exists()
