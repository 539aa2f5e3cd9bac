"""BLIP's attention in cheaper ways against transformers' own."""

import copy

import pytest
import torch
from transformers import BlipConfig, BlipForImageTextRetrieval

from ovss.vlm import attention

pytestmark = pytest.mark.numerical


@pytest.mark.parametrize(("image_size", "fused"), [(64, False), (192, True)])
def test_fused_vision_encoder_equals_transformers(image_size, fused):
    torch.manual_seed(0)
    size = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2}
    config = BlipConfig(
        text_config={**size, "num_attention_heads": 2, "vocab_size": 20, "encoder_hidden_size": 48},
        vision_config={
            **size,
            "num_attention_heads": 3,
            "image_size": image_size,
            "patch_size": 16,
            "initializer_range": 0.3,
        },
    )
    model = BlipForImageTextRetrieval(config).eval().requires_grad_(False)
    pixels = torch.randn(2, 3, image_size, image_size)
    expected = model.vision_model(pixel_values=pixels).last_hidden_state
    names = set(model.state_dict())
    attention.speed_up_blip(model)
    attention.speed_up_blip(model)  # a second call changes nothing
    layer = model.vision_model.encoder.layers[0]
    assert isinstance(layer.self_attn, attention.FusedBlipAttention) == fused
    assert set(model.state_dict()) == names
    actual = model.vision_model(pixel_values=pixels).last_hidden_state
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("photos", "tokens", "folded"),
    [(1, 3, True), (1, 4, False), (2, 7, True), (2, 8, False), (2, 40, False)],
)
def test_folded_cross_attention_equals_transformers(photos, tokens, folded):
    torch.manual_seed(0)
    size = {"num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 8}
    model = BlipForImageTextRetrieval(
        BlipConfig(
            text_config={**size, "hidden_size": 48, "vocab_size": 20},
            vision_config={**size, "hidden_size": 33},
        )
    )
    theirs = model.text_encoder.encoder.layer[0].crossattention.self.double().eval()
    for parameter in theirs.parameters():  # biases start as 0, which hides mistakes
        parameter.data.normal_(0, 0.3)
    ours = attention.FoldedBlipCrossAttention(copy.deepcopy(theirs))
    assert set(ours.state_dict()) == set(theirs.state_dict())
    projected = []
    ours.key.register_forward_hook(lambda *_: projected.append(True))
    text = torch.randn(2, tokens, 48, dtype=torch.float64, requires_grad=True)
    image = torch.randn(photos, 50, 33, dtype=torch.float64)
    results = []
    for module, features in ((theirs, image.expand(2, -1, -1)), (ours, image)):
        seen = []
        # As in GradCAM, what follows depends on the probabilities that the dropout was given.
        handle = module.dropout.register_forward_hook(lambda *a, seen=seen: seen.append(a[2]))
        context = module(text, attention_mask=None, encoder_hidden_states=features)[0]
        handle.remove()
        gradients = torch.autograd.grad(context.sin().sum(), [seen[0], text])
        results.append((context, seen[0], *gradients))
    assert bool(projected) != folded
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-12, rtol=1e-9)
