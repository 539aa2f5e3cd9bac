import pytest
import torch
from transformers import BlipConfig, BlipForImageTextRetrieval

from ovss.vlm import attention


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
    attention.fuse_blip_vision(model)
    attention.fuse_blip_vision(model)  # a second call changes nothing
    layer = model.vision_model.encoder.layers[0]
    assert isinstance(layer.self_attn, attention.FusedBlipAttention) == fused
    assert set(model.state_dict()) == names
    actual = model.vision_model(pixel_values=pixels).last_hidden_state
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
