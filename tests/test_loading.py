"""Checkpoints from a folder and from the hub's cache, whole and broken."""

import json
import pickle
import re
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BlipConfig, CLIPConfig

from ovss.captions import Caption
from ovss.module import PnPOVSS
from ovss.vlm import BlipITM, load_vlm
from ovss.vlm.blip import CLIP_STATISTICS, check_published
from ovss.vlm.loading import REVISIONS, load_checkpoint

CAPTIONS = [Caption.of(["cat", "dog"])]
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")
FIRST, SECOND = "1" * 40, "2" * 40  # commits


@pytest.fixture
def weights(tiny_blip_path):
    return load_file(tiny_blip_path / "model.safetensors")


@pytest.fixture
def folder(tiny_blip_path, tmp_path):
    """Makes a copy of the tiny checkpoint without some of its files."""

    def make(*without, at="blip"):
        kept = [path for path in tiny_blip_path.iterdir() if path.name not in without]
        target = tmp_path / at
        target.mkdir(parents=True)
        for path in kept:
            shutil.copy(path, target)
        return target

    return make


def match_logit(vlm):
    pixels = torch.randn(1, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    return vlm.match(vlm.encode_image(pixels), CAPTIONS)


def edit_config(path, **changes):
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **changes}))


def test_weights_as_a_pickle(tiny_blip, folder, weights):
    path = folder("model.safetensors")
    torch.save(weights, path / "pytorch_model.bin")
    loaded = BlipITM.from_pretrained(path)
    assert torch.equal(match_logit(loaded), match_logit(tiny_blip))
    assert loaded.name == "blip"


def test_safetensors_are_preferred(tiny_blip, folder, weights):
    path = folder()
    torch.save({k: torch.zeros_like(v) for k, v in weights.items()}, path / "pytorch_model.bin")
    assert torch.equal(match_logit(BlipITM.from_pretrained(path)), match_logit(tiny_blip))


class RunsCode:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (type(self.path).touch, (self.path,))


@pytest.mark.parametrize("container", ["zip", "legacy", "plain"])
def test_a_pickle_that_runs_code_is_refused(folder, weights, tmp_path, container):
    path, witness = folder("model.safetensors"), tmp_path / "it-ran"
    content = {**weights, "extra": RunsCode(witness)}
    if container == "plain":
        (path / "pytorch_model.bin").write_bytes(pickle.dumps(content, protocol=2))
    else:
        zipped = container == "zip"
        torch.save(content, path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"nothing but tensors.*from a source that you trust"):
        BlipITM.from_pretrained(path)
    assert not witness.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_damaged_weights_are_refused(folder, weights, name):
    path = folder("model.safetensors")
    save = save_file if name == "model.safetensors" else torch.save
    save(weights, path / name)
    (path / name).write_bytes((path / name).read_bytes()[:100_000])
    with pytest.raises(ValueError, match=r"the weights of '.*blip' to be whole.*fetch them again"):
        BlipITM.from_pretrained(path)


def test_half_precision_weights_are_widened(folder, weights):
    path = folder("model.safetensors")
    half = {name: w.half() if w.is_floating_point() else w for name, w in weights.items()}
    save_file(half, path / "model.safetensors", metadata={"format": "pt"})
    edit_config(path, dtype="float16")
    loaded = BlipITM.from_pretrained(path)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded.model.itm_head.weight, half["itm_head.weight"].float())


def test_frozen_and_in_eval_mode(tiny_blip):
    assert not any(p.requires_grad for p in tiny_blip.parameters())
    assert not any(module.training for module in tiny_blip.model.modules())


def test_facts_of_the_checkpoint(tiny_blip):
    assert (tiny_blip.image_size, tiny_blip.patch_size, tiny_blip.grid) == (112, 16, 7)
    assert (tiny_blip.num_layers, tiny_blip.num_heads, tiny_blip.max_tokens) == (12, 12, 512)
    assert tiny_blip.layers == range(11)
    assert tiny_blip.name == "blip_tiny_hf"


def test_pixel_statistics_are_the_checkpoints(tiny_blip, folder):
    assert tiny_blip.statistics == CLIP_STATISTICS  # where the file is missing
    path = folder()
    statistics = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (path / "preprocessor_config.json").write_text(json.dumps(statistics))
    loaded = BlipITM.from_pretrained(path).statistics
    assert (loaded.mean, loaded.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@pytest.mark.parametrize(
    "name", ["nowhere", "./nowhere", "/nowhere", "~/nowhere", "a/b/c", "tests/conftest.py/x"]
)
def test_a_missing_folder(name):
    message = rf"Expected a hub id or a folder with config\.json.*there is no folder {name}\."
    with pytest.raises(FileNotFoundError, match=message):
        BlipITM.from_pretrained(name)


@pytest.mark.parametrize(
    ("without", "message"),
    [
        (["config.json"], "could not read the configuration of"),
        (["model.safetensors"], "could not load the weights of"),
        (TOKENIZER, r"has no vocabulary \(tokenizer.json or vocab.txt\)"),
        (TOKENIZER[::2], "has no vocabulary"),  # all but its configuration
    ],
)
def test_missing_files(folder, without, message):
    with pytest.raises(FileNotFoundError, match=f"the tokenizer's files, but .*{message}") as lack:
        BlipITM.from_pretrained(folder(*without))
    assert "hub cannot be reached" not in str(lack.value)


@pytest.mark.parametrize("config", [BertConfig(), CLIPConfig()])
def test_another_architecture(folder, config):
    path = folder()
    config.save_pretrained(path)
    message = (
        "Expected a 'blip' checkpoint for BlipForImageTextRetrieval, but '.*blip' is of type "
        f"'{config.model_type}'"
    )
    with pytest.raises(ValueError, match=message):
        BlipITM.from_pretrained(path)


@pytest.mark.parametrize("value", ["many", None, 0, -3, 2.5, 10**7, float("nan"), [1], True])
@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("text_config", "hidden_size"),
        ("text_config", "num_attention_heads"),
        ("text_config", "num_hidden_layers"),
        ("text_config", "vocab_size"),
        ("vision_config", "patch_size"),
        ("vision_config", "image_size"),
    ],
)
def test_bad_numbers_in_the_configuration_are_named(folder, section, key, value):
    path = folder()
    config = json.loads((path / "config.json").read_text())
    edit_config(path, **{section: {**config[section], key: value}})
    with pytest.raises(ValueError, match=key):
        BlipITM.from_pretrained(path)


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("text_config", "layer_norm_eps", float("nan"), "`text_config.layer_norm_eps`.* finite"),
        ("text_config", "num_attention_heads", 7, "blip' to describe .*attention heads"),
        ("vision_config", "num_attention_heads", 7, "blip' to describe .*num_heads"),
    ],
)
def test_numbers_that_do_not_go_together_are_named(folder, section, key, value, message):
    path = folder()
    config = json.loads((path / "config.json").read_text())
    edit_config(path, **{section: {**config[section], key: value}})
    with pytest.raises(ValueError, match=message):
        BlipITM.from_pretrained(path)


def test_a_checkpoint_without_matching_head(folder, weights):
    path = folder("model.safetensors")
    kept = {name: w for name, w in weights.items() if not name.startswith("itm_head")}
    save_file(kept, path / "model.safetensors", metadata={"format": "pt"})
    message = r"lacks \['itm_head.bias', 'itm_head.weight'\] \(2 in all\).*take an ITM one"
    with pytest.raises(ValueError, match=message):
        BlipITM.from_pretrained(path)


def test_weights_of_another_shape(folder, weights):
    path = folder("model.safetensors")
    weights["itm_head.weight"] = torch.zeros(3, 48)
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks .*itm_head\.weight.*\(1 in all\)"):
        BlipITM.from_pretrained(path)


@pytest.fixture
def hub(tiny_blip_path, folder, weights, tmp_path, monkeypatch):
    """A hub cache with two commits of `some/blip`, and nothing else to be had."""
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    model = cache / "models--some--blip"
    folder(at=model / "snapshots" / FIRST)
    second = folder("model.safetensors", at=model / "snapshots" / SECOND)
    # The second commit ships a pickle and another head.
    weights["itm_head.bias"] = weights["itm_head.bias"] + 1
    torch.save(weights, second / "pytorch_model.bin")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(FIRST)
    (model / "refs" / "v2").write_text(SECOND)


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(("revision", "shift"), [(None, 0), (FIRST, 0), ("v2", 1), (SECOND, 1)])
def test_a_hub_id_at_a_revision_offline(tiny_blip, revision, shift):
    loaded = BlipITM.from_pretrained("some/blip", revision=revision)
    torch.testing.assert_close(match_logit(loaded), match_logit(tiny_blip) + shift)
    assert loaded.name == ("some/blip" if revision is None else f"some/blip@{revision}")


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        ("some/blip", "v3", "configuration of 'some/blip' at revision v3"),
        ("some/other", None, "configuration of 'some/other'"),
    ],
)
def test_a_hub_id_that_cannot_be_had(name, revision, message):
    with pytest.raises(FileNotFoundError, match=re.escape(message)) as refused:
        BlipITM.from_pretrained(name, revision=revision)
    assert "give a local folder with these files as `name_or_path`" in str(refused.value)


@pytest.mark.usefixtures("hub")
def test_a_model_by_its_name_alone(tiny_blip, tiny_blip_path):
    for name in ("some/blip", str(tiny_blip_path), tiny_blip_path):
        vlm = load_vlm(name)
        assert torch.equal(match_logit(vlm), match_logit(tiny_blip))
        assert vlm.image_size == 112
    assert load_vlm("some/blip", "v2").name == "some/blip@v2"
    module = PnPOVSS("some/blip", layer=4, head=2)
    assert torch.equal(match_logit(module.segmenter.vlm), match_logit(tiny_blip))
    assert module.segmenter.settings()["vlm"]["name"] == "some/blip"


def test_a_published_size_is_read_at_the_papers(tiny_blip_path, tmp_path):
    published = BlipITM.from_pretrained(tiny_blip_path, 384)
    published.model.save_pretrained(tmp_path / "published")
    published.tokenizer.save_pretrained(tmp_path / "published")
    assert BlipITM.from_pretrained(tmp_path / "published").image_size == 384
    assert load_vlm(tmp_path / "published").image_size == 336


def test_a_name_that_is_no_model_of_ours(folder):
    path = folder()
    edit_config(path, model_type="clip")
    with pytest.raises(ValueError, match=r"type 'blip' or 'bridgetower', but .* of type 'clip'"):
        load_vlm(path)
    for name in ("nowhere", "./nowhere", "no/where"):
        with pytest.raises(FileNotFoundError, match=r"hub id or a folder with config\.json"):
            load_vlm(name)


def published_config(**sections):
    """BLIP-ITM large's configuration with some parts changed; nothing is built from it."""
    text = {"hidden_size": 768, "num_attention_heads": 12, **sections.get("text_config", {})}
    vision = {"hidden_size": 1024, "num_attention_heads": 16, "layer_norm_eps": 1e-6}
    return BlipConfig(
        text_config=text, vision_config={**vision, **sections.get("vision_config", {})}
    )


def test_published_checkpoints_with_wrong_heads_are_refused(caplog):
    check_published(published_config(), "blip")
    assert caplog.text == ""
    message = (
        r"`text_config.num_attention_heads` .* of blip to be 12 \(768 / 64.*but got 8.*revisio"
    )
    with pytest.raises(ValueError, match=message):
        check_published(published_config(text_config={"num_attention_heads": 8}), "blip")
    with pytest.raises(ValueError, match=r"`vision_config.num_attention_heads` .* to be 16"):
        check_published(published_config(vision_config={"num_attention_heads": 12}), "blip")
    # Of another width there is no original.
    own = {"hidden_size": 48, "num_attention_heads": 12}
    check_published(published_config(text_config=own, vision_config={"layer_norm_eps": 1.0}), "own")
    assert caplog.text == ""


def test_another_epsilon_than_the_originals_is_named(caplog):
    check_published(published_config(vision_config={"layer_norm_eps": 1e-5}), "blip")
    assert "blip: `vision_config.layer_norm_eps` is 1e-05 where BLIP was trained with 1e-06" in (
        caplog.text
    )


def test_a_checkpoint_is_checked_when_it_is_loaded(folder, monkeypatch):
    monkeypatch.setattr("ovss.vlm.blip.PUBLISHED_WIDTH", 48)  # as the tiny one's
    with pytest.raises(ValueError, match=r"to be 0 \(48 / 64"):
        BlipITM.from_pretrained(folder())


@pytest.mark.parametrize(("given", "asked"), [(None, "pinned"), ("main", "main")])
def test_known_revisions_are_pinned(monkeypatch, given, asked):
    revisions = []

    def refuse(name, revision=None, **_):
        revisions.append(revision)
        raise OSError("no network in tests")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", refuse)
    for name, pinned in REVISIONS.items():
        assert re.fullmatch("[0-9a-f]{40}", pinned)
        with pytest.raises(FileNotFoundError, match="no network in tests"):
            BlipITM.from_pretrained(name, revision=given)
        assert revisions[-1] == (pinned if asked == "pinned" else asked)
    with pytest.raises(FileNotFoundError):
        BlipITM.from_pretrained("someone/else", revision=given)
    assert revisions[-1] == given


@pytest.mark.parametrize(
    "change",
    [
        lambda path: edit_config(path, text_config={**text_config(path), "hidden_act": "relu"}),
        lambda path: rewrite(path / "preprocessor_config.json", image_mean=[0.1, 0.2, 0.3]),
        lambda path: swap(path / "tokenizer.json", '"cat"', '"dog"'),
    ],
)
def test_settings_tell_models_of_the_same_weights_apart(folder, change):
    """Of two folders of one name: what is not in the weights' file decides maps, too."""
    first, second = (BlipITM.from_pretrained(folder(at=f"{i}/blip")).settings() for i in range(2))
    assert first == second
    path = folder(at="2/blip")
    change(path)
    assert BlipITM.from_pretrained(path).settings() != first


def text_config(path):
    return json.loads((path / "config.json").read_text())["text_config"]


def rewrite(path, **changes):
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, **changes}))


def swap(path, one, other):
    text = path.read_text()
    assert one in text
    assert other in text
    path.write_text(text.replace(one, "~").replace(other, one).replace("~", other))


def test_a_pinned_revision_is_that_of_every_part(monkeypatch):
    asked = []

    def answer(what, result):
        def load(name, revision=None, **_):
            asked.append((what, revision))
            return result

        return load

    config = BlipConfig()
    model = SimpleNamespace(eval=lambda: model, requires_grad_=lambda on: model)
    loaded = (model, {"missing_keys": []})
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", answer("config", config))
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", answer("tokens", [1, 2]))
    architecture = SimpleNamespace(__name__="Blip", from_pretrained=answer("weights", loaded))
    name = "Salesforce/blip-itm-large-flickr"
    with pytest.raises(AttributeError):  # the list is no tokenizer
        load_checkpoint({"blip": architecture}, name, None)
    assert asked == [(part, REVISIONS[name]) for part in ("config", "weights", "tokens")]
