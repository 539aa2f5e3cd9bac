"""The training script of the demo's CLIP, and the weights that it made."""

import json
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from ovss.datamodules.scene_generator import CLASSES, classes_in, draw_scene
from ovss.datamodules.scene_generator.dataset import VAL_SEED
from transformers import AutoTokenizer, CLIPModel

from ovss.demo import CHECKPOINT, CLIP_CHECKPOINT

TOOLS = Path(__file__).parents[1] / "tools"
sys.path.insert(0, str(TOOLS))

import demo_clip as clip  # noqa: E402
import train_demo_clip as script  # noqa: E402


@pytest.fixture(scope="module")
def tokenizer():
    return clip.build_tokenizer()


@pytest.fixture(scope="module")
def shipped():
    return CLIPModel.from_pretrained(CLIP_CHECKPOINT), AutoTokenizer.from_pretrained(
        CLIP_CHECKPOINT
    )


def test_every_word_of_the_captions_is_one_token(tokenizer) -> None:
    for template in clip.TEMPLATES:
        text = clip.caption([2, 7], template)
        words = text.lower().replace(".", " .").replace("-", " - ").split()
        assert tokenizer.tokenize(text) == [f"{word}</w>" for word in words]
    # As OpenAI's: bytes first, the start and the end of a text last.
    vocabulary = tokenizer.get_vocab()
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert vocabulary["<|endoftext|>"] == len(vocabulary) - 1
    ids = tokenizer("a photo of a zebra")["input_ids"]  # a word in pieces
    assert ids[0] == len(vocabulary) - 2
    assert ids[-1] == len(vocabulary) - 1
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a photo of a zebra"


def test_captions_name_classes_that_are_there() -> None:
    present = torch.zeros(40, 12, dtype=torch.bool)
    for row in range(30):
        present[row, [row % 12, (row + 5) % 12, (row + 7) % 12][: 1 + row % 3]] = True
    texts, named = clip.write_captions(present, np.random.default_rng(0))
    for text, own, inside in zip(texts, named, present, strict=True):
        assert not (own & ~inside).any()
        assert bool(own.any()) == bool(inside.any())
        words = text.strip(".").split()
        assert [name in words for name in CLASSES] == own.tolist()
        assert (clip.NOTHING in text) == (not own.any())
    assert len({int(own.sum()) for own in named}) == 4


def test_what_is_true_of_another_photo_is_no_negative() -> None:
    generator = torch.Generator().manual_seed(0)
    images, texts = (
        torch.nn.functional.normalize(torch.randn(7, 5, generator=generator), dim=-1)
        for _ in range(2)
    )
    shown = [{0}, {0, 1}, {0, 1, 2}, {3}, {3}, set(), set()]
    said = [{0}, {1}, {0, 2}, {3}, {3}, set(), set()]
    present, named = (
        torch.tensor([[k in classes for k in range(4)] for classes in rows])
        for rows in (shown, said)
    )
    logits = (4 * images.double() @ texts.double().T).exp()
    total = 0.0
    for i in range(7):
        # Of a scene without classes only a caption without classes is true.
        true = [said[j] <= shown[i] if said[j] else not shown[i] for j in range(7)]
        captions = [j for j in range(7) if j == i or not true[j]]
        holds = [said[i] <= shown[j] if said[i] else not shown[j] for j in range(7)]
        photos = [j for j in range(7) if j == i or not holds[j]]
        total -= (logits[i, i] / logits[i, captions].sum()).log().item() / 14
        total -= (logits[i, i] / logits[photos, i].sum()).log().item() / 14
    loss = clip.contrast(images, texts, present, named, torch.tensor(4.0))
    assert loss.item() == pytest.approx(total, rel=1e-5)


def test_all_patches_give_the_models_own_features(tokenizer) -> None:
    torch.manual_seed(0)
    model = clip.build_model(tokenizer, layers=2).eval()
    pixels = torch.randn(2, 3, 128, 128)
    with torch.no_grad():
        own = torch.nn.functional.normalize(model.get_image_features(pixels).pooler_output, dim=-1)
        whole, _ = clip.image_features(model, pixels, 256)
        few, _ = clip.image_features(model, pixels, 40)
    torch.testing.assert_close(whole, own, atol=1e-5, rtol=1e-5)
    assert (few - own).abs().max() > 1e-3


def settings(steps):
    options = {"seed": 3, "scenes": 24, "empty": 4, "steps": steps, "whole_steps": 1, "kept": 64}
    options |= {"batch_size": 28, "learning_rate": 2e-3, "weight_decay": 0.05, "layers": 1}
    return Namespace(**options, threads=1)


def loss_of(model, tokenizer) -> float:
    """On the training scenes, whole and as they are."""
    draws = [(24, None, 0), (4, 0, 24)]
    parts = [script.draw_training_set(n, 1, 128, sprites, first) for n, sprites, first in draws]
    photos, present = (torch.cat(part) for part in zip(*parts, strict=True))
    texts, named = clip.write_captions(present, np.random.default_rng(0))
    with torch.no_grad():
        images, _ = clip.image_features(model, clip.normalise(photos), 256)
        features = clip.text_features(model, tokenizer, texts)
        return float(clip.contrast(images, features, present, named, torch.tensor(10.0)))


def test_training_lowers_the_loss(tokenizer) -> None:
    before, _ = script.train(settings(steps=0))
    after, figures = script.train(settings(steps=80))
    assert loss_of(after, tokenizer) < 0.85 * loss_of(before, tokenizer)
    assert max(figures["whole"], figures["values"]) < np.log(28)  # that of a guess


def test_training_is_reproducible() -> None:
    first, second = (script.train(settings(steps=5))[0].state_dict() for _ in range(2))
    for name, weight in first.items():
        torch.testing.assert_close(second[name], weight, atol=0, rtol=0)


def test_shipped_weights_load_and_are_small(shipped, tokenizer) -> None:
    files = [path for folder in (CHECKPOINT, CLIP_CHECKPOINT) for path in folder.iterdir()]
    assert sum(path.stat().st_size for path in files) <= 6_000_000
    model, own = shipped
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    _, loading = CLIPModel.from_pretrained(CLIP_CHECKPOINT, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert own.get_vocab() == tokenizer.get_vocab()
    for text in ("a photo of a tree and sun.", "a zebra"):
        assert own(text)["input_ids"] == tokenizer(text)["input_ids"]
    record = json.loads((CLIP_CHECKPOINT / "training.json").read_text())
    assert record["parameters"] == sum(p.numel() for p in model.parameters())


def test_shipped_weights_know_the_classes_of_held_out_scenes(shipped) -> None:
    model, own = shipped
    scenes = [draw_scene(VAL_SEED + number) for number in range(8)]
    pixels = torch.from_numpy(np.stack([photo for photo, _ in scenes])).permute(0, 3, 1, 2)
    texts = [f"a photo of a {name}." for name in CLASSES]
    with torch.no_grad():
        images, _ = clip.image_features(model, clip.normalise(pixels), 256)
        similarity = images @ clip.text_features(model, own, texts).T
    found = expected = 0
    for row, (_, mask) in zip(similarity, scenes, strict=True):
        inside = set(classes_in(mask))
        best = row.topk(len(inside)).indices.tolist()
        found += len(inside & {CLASSES[k] for k in best})
        expected += len(inside)
    assert found >= 0.8 * expected
