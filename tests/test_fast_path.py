"""What is left out or done at once changes no result."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import BlipConfig, BlipForImageTextRetrieval

from ovss.batch_size import ON_CPU, fitting_batch, largest_batch
from ovss.callbacks import LoaderWatch
from ovss.captions import Caption
from ovss.labelling import Labeller
from ovss.utils.timing import StageTimes
from ovss.vlm import BlipITM, attention
from ovss.vlm.attention import FusedBlipAttention, OneDNNLinear, use_onednn

pytestmark = pytest.mark.numerical

CAPTIONS = [Caption.of(["cat", "dog"]), Caption.of(["bird"]), Caption.of(["dog", "bird", "cat"])]


@pytest.fixture(scope="module")
def photos(golden):
    return torch.cat([golden.pixels("voc", image) for image in range(3)])


def full_backward(model, pixels, ids, layer):
    """GradCAM as the released code gets it: eager, every parameter requires grad."""
    kept = []

    def retain(_, inputs):
        inputs[0].retain_grad()
        kept.append(inputs[0])

    handles = [
        block.crossattention.self.dropout.register_forward_pre_hook(retain)
        for block in model.text_encoder.encoder.layer
    ]
    image = model.vision_model(pixel_values=pixels).last_hidden_state
    hidden = model.text_encoder(
        input_ids=ids, attention_mask=torch.ones_like(ids), encoder_hidden_states=image
    ).last_hidden_state
    model.itm_head(hidden[:, 0])[:, 1].sum().backward()
    for handle in handles:
        handle.remove()
    return (kept[layer] * kept[layer].grad.clamp(min=0)).detach()


def test_fused_frozen_gradcam_equals_a_full_eager_backward():
    size = {"hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 3}
    text = {"vocab_size": 40, "num_hidden_layers": 3, "encoder_hidden_size": 48, "bos_token_id": 30}
    vision = {"image_size": 192, "num_hidden_layers": 3, "initializer_range": 0.2}
    config = BlipConfig(
        text_config={**size, **text, "initializer_range": 0.2}, vision_config={**size, **vision}
    )
    torch.manual_seed(0)
    model = BlipForImageTextRetrieval(config).eval()
    with torch.no_grad():  # initialised to zero
        model.vision_model.embeddings.position_embedding.normal_()
    pixels, ids = torch.randn(2, 3, 192, 192), torch.tensor([[31, 4, 5, 6]] * 2)
    expected = full_backward(model, pixels, ids, layer=1)
    vlm = BlipITM(model, SimpleNamespace(get_vocab=dict))
    first = vlm.model.vision_model.encoder.layers[0]
    assert isinstance(first.self_attn, FusedBlipAttention)
    assert isinstance(first.mlp.fc1, OneDNNLinear)
    assert model.config.vision_config.image_size**2 // 256 >= attention.WORTHWHILE
    tokens = SimpleNamespace(input_ids=ids, attention_mask=torch.ones_like(ids))
    with torch.inference_mode():
        seen = vlm.attend(vlm.encode_image(pixels), tokens, 1, 2)
    reference = expected[:, 2, 1:, 1:].unflatten(-1, (12, 12))
    scale = reference.max()
    torch.testing.assert_close(seen.maps / scale, reference / scale, atol=1e-5, rtol=0)
    assert reference.max() > 0


@pytest.mark.parametrize("layer", [0, 4])
def test_no_graph_before_the_chosen_layer(tiny_blip, photos, layer):
    blocks = tiny_blip.model.text_encoder.encoder.layer
    began = {}

    def note(number):
        def hook(_, inputs, output):
            began[number] = (output[0] if isinstance(output, tuple) else output).requires_grad

        return hook

    handles = [block.register_forward_hook(note(n)) for n, block in enumerate(blocks)]
    try:
        tiny_blip.gradcam(photos, CAPTIONS, layer, 0)
    finally:
        for handle in handles:
            handle.remove()
    assert began == {number: number >= layer for number in range(len(blocks))}


def test_the_best_channel_is_the_first_of_equals():
    torch.manual_seed(0)
    channels = torch.randint(0, 3, (5, 40, 30)).float()  # full of ties
    labeller = Labeller(threshold=0, blur=0, refine=None)
    labels = labeller(channels, torch.zeros(3, 40, 30, dtype=torch.uint8), background=False)
    assert np.array_equal(labels.numpy(), 1 + channels.numpy().argmax(0))


def test_onednn_is_the_linear_layer():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(40, 30), torch.nn.ModuleList([]))
    names, values = set(model.state_dict()), torch.randn(2, 50, 40)
    expected = values.double() @ model[0].weight.double().T + model[0].bias.double()
    use_onednn(model)
    use_onednn(model)  # a second call changes nothing
    assert isinstance(model[0], OneDNNLinear)
    assert set(model.state_dict()) == names
    with torch.inference_mode():
        inference = model[0](values)
        with torch.autocast("cpu", torch.bfloat16):
            assert model[0](values).dtype == torch.bfloat16
        half = model.half()[0](values.half())
    torch.testing.assert_close(inference.double(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(half.double(), expected, atol=1e-2, rtol=1e-2)
    model.float()
    model[0](values.requires_grad_()).sum().backward()
    torch.testing.assert_close(values.grad[0, 0], model[0].weight.sum(0), atol=1e-4, rtol=0)


def test_a_compiler_sees_a_plain_linear_layer():
    model = torch.nn.Sequential(torch.nn.Linear(40, 30)).requires_grad_(False)
    use_onednn(model)
    called = []

    def backend(graph, _):
        called.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    values = torch.randn(2, 40)
    torch.testing.assert_close(torch.compile(model, backend=backend)(values), model(values))
    assert len(called) == 1
    assert "mkldnn" not in called[0]


# ---- defaults that suit a person ---------------------------------------------------------------


@pytest.mark.parametrize(("limit", "expected"), [(0, 1), (1, 1), (2, 2), (12, 8), (1000, 32)])
def test_largest_batch(limit, expected):
    tried = []

    def fits(count):
        tried.append(count)
        if count > 2 * limit:
            raise torch.OutOfMemoryError
        return count <= limit

    assert largest_batch(fits) == expected
    assert max(tried) <= 32


def test_batch_size_on_a_cpu(tiny_blip):
    assert fitting_batch(tiny_blip, torch.device("cpu"), 4, 2) == ON_CPU
    large = torch.nn.Linear(10_000, 10_000, device="meta")
    assert fitting_batch(large, torch.device("cpu"), 4, 2) == 1


@pytest.mark.gpu
def test_fitting_batch_on_a_gpu(tiny_blip):
    device = torch.device("cuda")
    try:
        assert fitting_batch(tiny_blip, device, 4, 2) == 32  # of a model of a few thousand weights
    finally:
        tiny_blip.to("cpu")


class Clock:
    """Stands still but where the test moves it."""

    now = 0.0

    def perf_counter(self):
        return self.now


@pytest.mark.parametrize(("wait", "warned"), [(3.0, True), (0.1, False)])
def test_a_starved_model_is_told(monkeypatch, caplog, wait, warned):
    clock = Clock()
    monkeypatch.setattr("ovss.callbacks.loader.time", clock)
    watch, module = LoaderWatch(share=0.2, batches=3), SimpleNamespace(times=StageTimes())
    trainer = SimpleNamespace(datamodule=SimpleNamespace(num_workers=2))
    with caplog.at_level(logging.WARNING):
        watch.on_test_epoch_start(trainer, module)
        clock.now += 50  # the workers start: no fault of theirs
        for _ in range(8):
            watch.on_test_batch_start(trainer, module)
            clock.now += 1
            watch.on_test_batch_end(trainer, module)
            clock.now += wait
    assert len(caplog.records) == warned
    if warned:
        # 3 waits of 3 s in the 13 s from the first batch to the end of the fourth.
        assert "waited for it 69 % of the time (num_workers=2)" in caplog.text
    assert module.times.seconds["load"] == pytest.approx(50 + 7 * wait)


class Work(torch.nn.Module):
    """Takes some time by the clock, and may fail."""

    def __init__(self, clock, seconds):
        super().__init__()
        self.clock, self.seconds = clock, seconds

    def forward(self, fails=False):
        self.clock.now += self.seconds
        if fails:
            raise RuntimeError


def test_stages_nest_and_cost_nothing_where_nobody_measures(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("ovss.utils.timing.time", clock)
    vision, text, times = Work(clock, 2), Work(clock, 1), StageTimes()
    times.watch({"vision": vision, "text": text})
    vision()
    assert times.seconds == {}
    for _ in range(2):
        with times.measure("segment"):
            vision()
            text()
    with pytest.raises(RuntimeError), times.measure("segment"):
        vision(fails=True)
    assert times.seconds == {"segment": 8, "segment/vision": 6, "segment/text": 2}
    times.reset()
    assert times.seconds == {}
    times.watch({"vision": vision})  # anew, as in a run after one that failed
    with times.measure("segment"):
        vision()
    assert times.seconds == {"segment": 2, "segment/vision": 2}
    times.reset()
    times.unwatch()
    assert not vision._forward_hooks
    assert not vision._forward_pre_hooks
    with times.measure("segment"):
        vision()
    assert times.seconds == {"segment": 2}
