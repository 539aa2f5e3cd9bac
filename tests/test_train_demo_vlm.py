"""The training script of the demo's model, and the weights that it made."""

import json
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from ovss.datamodules.scene_generator import CLASSES
from safetensors.torch import load_file
from transformers import AutoTokenizer, BlipForImageTextRetrieval

from ovss.demo import CHECKPOINT

TOOLS = Path(__file__).parents[1] / "tools"
sys.path.insert(0, str(TOOLS))

import demo_vlm as vlm  # noqa: E402
import train_demo_vlm as script  # noqa: E402


def test_packed_captions_score_as_separate_ones() -> None:
    torch.manual_seed(0)
    model = vlm.build_model(heads=4).eval()
    pixels = torch.randn(2, 3, 128, 128)
    captions = [[[3, 0, 7], [5], [1, 2, 3, 4]], [[11], [0, 1], [9, 8]]]
    ids = torch.tensor([[vlm.encode_caption(c) for c in photo] for photo in captions])
    with torch.no_grad():
        image = model.vision_model(pixel_values=pixels).last_hidden_state
        packed = vlm.match_logits(model, image, ids)
        for photo in range(2):
            for k, caption in enumerate(captions[photo]):
                alone = torch.tensor([vlm.encode_caption(caption, len(caption) + 5)])
                expected = model(input_ids=alone, pixel_values=pixels[photo : photo + 1])
                torch.testing.assert_close(
                    packed[photo, k], expected.itm_score[0], atol=1e-5, rtol=1e-5
                )


def test_routing_closes_what_it_says() -> None:
    torch.manual_seed(0)
    model = vlm.build_model(heads=2).eval()
    image = torch.randn(3, 257, 128)
    ids = torch.tensor([[vlm.encode_caption([4, 6])]] * 3)
    present = torch.zeros(3, 12, dtype=torch.bool)
    present[:, 4] = True
    similarity = torch.zeros(3, 256, 12)
    similarity[:, 10:14, 4] = 2.0
    routing = vlm.Routing(opened=0.0, sharpness=2.0)
    routing.begin(ids.flatten(1), similarity, present, layers=4)
    layers = [layer.crossattention.self for layer in model.text_encoder.encoder.layer]
    contexts, probabilities = [], []
    with routing.attached(model), torch.no_grad():
        for layer in layers:  # after the routing's own hooks
            layer.register_forward_hook(lambda _m, _i, out: contexts.append(out[0]))
            layer.register_forward_hook(lambda _m, _i, out: probabilities.append(out[1]))
        vlm.match_logits(model, image, ids)
    for index, context in enumerate(contexts):
        reached = context.abs().amax((0, 2)) > 0
        expected = [4, 5] if index == vlm.ROUTED_LAYER else []
        assert reached.nonzero().flatten().tolist() == expected
    # The wanted attention of the true word (token 4) is 1/4 on each of four patches.
    attention = probabilities[vlm.ROUTED_LAYER][:, :, 4, 1:][..., 10:14]
    expected = (np.log(0.25) - attention.log()).mean()
    torch.testing.assert_close(routing.divergence, expected, atol=1e-5, rtol=1e-5)
    assert [len(layer._forward_hooks) for layer in layers] == [2, 2, 2, 2]


def test_captions_match_or_almost_match() -> None:
    present = torch.zeros(20, 12, dtype=torch.bool)
    for row in range(20):
        present[row, [row % 12, (row + 5) % 12][: 1 + row % 2]] = True
    ids, matches = script.write_captions(present, np.random.default_rng(0))
    assert ids.shape == (20, 6, vlm.CAPTION_LENGTH)
    for row in range(20):
        for caption, match in zip(ids[row], matches[row], strict=True):
            named = caption[caption >= vlm.FIRST_CLASS_ID] - vlm.FIRST_CLASS_ID
            assert len(named) == len(named.unique()) > 0
            assert (~present[row, named]).sum() == 1 - match


def test_telling_patches_are_those_most_like_the_caption() -> None:
    similarity = torch.randn(4, 256, 12, generator=torch.Generator().manual_seed(0))
    present = torch.zeros(4, 12, dtype=torch.bool)
    present[:, [2, 9]] = True
    gone = script.telling_patches(similarity, present)
    best = similarity[..., [2, 9]].amax(-1)
    for k in range(4):
        assert 4 <= gone[k].sum() < 51
        assert best[k][gone[k]].min() > best[k][~gone[k]].max()


def test_erased_patches_are_zero_and_the_others_as_before() -> None:
    pixels = torch.ones(1, 3, 128, 128)
    gone = torch.zeros(1, 256, dtype=torch.bool)
    gone[0, 17] = True  # the second patch of the second row
    erased = script.erase_patches(pixels, gone)
    assert erased[:, :, 8:16, 8:16].abs().sum() == 0
    assert erased.sum() == 3 * (128 * 128 - 64)


@pytest.mark.slow
def test_training_is_reproducible() -> None:
    settings = {"seed": 3, "scenes": 40, "steps": 6, "local_steps": 3, "batch_size": 8}
    settings |= {"learning_rate": 1e-3, "weight_decay": 0.05, "heads": 2, "sharpness": 2.0}
    settings |= {"start": None, "guided_steps": 2}
    args = Namespace(**settings, erase=0.3, opened=0.15, threads=1)
    torch.set_num_threads(1)
    first, _ = script.train(args)
    second, _ = script.train(args)
    for name, weight in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], weight, atol=0, rtol=0)


def test_shipped_weights_load_and_are_small() -> None:
    assert sum(path.stat().st_size for path in CHECKPOINT.iterdir()) <= 6_000_000
    model, loading = BlipForImageTextRetrieval.from_pretrained(
        CHECKPOINT, dtype=torch.float32, output_loading_info=True
    )
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    stored = load_file(CHECKPOINT / "model.safetensors")["itm_head.weight"]
    torch.testing.assert_close(model.itm_head.weight.detach(), stored.float())
    record = json.loads((CHECKPOINT / "training.json").read_text())
    assert record["parameters"] == sum(p.numel() for p in model.parameters())


def test_shipped_tokenizer_knows_the_classes_and_their_places() -> None:
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    assert tokenizer.is_fast
    caption = "A picture of " + " ".join(CLASSES)
    encoded = tokenizer(caption, return_offsets_mapping=True)
    spans = encoded["offset_mapping"][4:-1]
    assert [caption[a:b] for a, b in spans] == list(CLASSES)
    ids = [tokenizer.convert_tokens_to_ids("[ENC]"), *encoded["input_ids"][1:]]
    assert ids == vlm.encode_caption(list(range(12)), 17)
