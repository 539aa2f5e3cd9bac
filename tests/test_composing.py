"""Configurations over each other, the default model, and `model` with another class."""

import json
import re
import sys
from pathlib import Path

import pytest
import yaml

import ovss
from ovss.cli.lightning_cli import DEFAULT_VLM
from ovss.cli.main import main
from ovss.module import PnPOVSS

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"


class Louder(PnPOVSS):
    """Another shell: an argument more, and other defaults."""

    def __init__(self, vlm: ovss.vlm.VLM, loudness: int = 1, layer: int = 4, **kwargs) -> None:
        super().__init__(vlm, layer=layer, **kwargs)
        self.segmenter.model = f"{vlm.name} at {loudness}"


LOUDER = f"{Louder.__module__}.Louder"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a configuration; give its option."""
    monkeypatch.setattr(sys, "argv", ["train_free_eval.py"])

    def write(name, **sections):
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(sections))
        return f"--config={path}"

    return write


@pytest.fixture
def shown(capsys, monkeypatch):
    """The configuration that a command line comes to."""
    monkeypatch.setattr(sys, "argv", ["train_free_eval.py"])

    def shown(*args, command="test"):
        configs = [f"--config={CONFIGS / a}.yaml" if a[:1] not in "-" else a for a in args]
        photos = ["photo.jpg"] if command == "segment" else []
        with pytest.raises(SystemExit) as stop:
            main([command, *photos, *configs, "--print_config"])
        printed = capsys.readouterr()
        assert stop.value.code in (0, None), printed.err
        return yaml.safe_load(printed.out)

    return shown


@pytest.fixture
def few(tmp_path, scenes_root, tiny_blip_path):
    """Options for a run on two scenes with a tiny model."""
    return [
        f"--data.init_args.root={scenes_root}",
        "--data.init_args.limit=2",
        "--data.init_args.num_workers=0",
        f"--model.vlm.init_args.name_or_path={tiny_blip_path}",
        "--model.dropout.rounds=1",
        "--model.labeller.refine=null",
        f"--trainer.default_root_dir={tmp_path / 'run'}",
    ]


def test_a_class_that_an_option_names_leaves_nothing_of_the_one_before(shown):
    tower = "ovss.vlm.BridgeTowerITM.from_pretrained"
    option = f"--model.vlm.class_path={tower}"
    name = "--model.vlm.init_args.name_or_path=tower"
    for config in ("voc21", "demo"):
        vlm = shown(config, option, name)["model"]["vlm"]
        assert vlm["class_path"] == tower
        assert vlm["init_args"].get("name_or_path") == "tower"
        assert vlm["init_args"].get("image_size") is None
    louder = shown("demo", f"--model.class_path={LOUDER}", option, name)["model"]
    assert (louder["class_path"], louder["layer"]) == (LOUDER, 4)


def test_dotted_names_are_sections(shown, tmp_path):
    folder = tmp_path / "a: b"  # in the name of a file, no YAML
    folder.mkdir()
    (folder / "flat.yaml").write_text(f"model.class_path: {LOUDER}\nmodel.loudness: 3\n")
    model = shown("demo", f"--config={folder / 'flat.yaml'}")["model"]
    assert (model["class_path"], model["loudness"], model["layer"]) == (LOUDER, 3, 4)


@pytest.mark.parametrize("benchmark", ["voc21", "ade150", "folder"])
def test_the_default_model_is_the_papers(benchmark, shown):
    model = shown(benchmark)["model"]
    paper = yaml.safe_load((CONFIGS / "model" / "blip_large_flickr.yaml").read_text())["model"]
    assert paper == {"vlm": DEFAULT_VLM, "layer": 7, "head": 9}
    assert model["class_path"] == "ovss.PnPOVSS"
    assert model["vlm"]["class_path"] == paper["vlm"]["class_path"]
    assert model["vlm"]["init_args"] == {**paper["vlm"]["init_args"], "revision": None}
    assert (model["layer"], model["head"]) == (7, 9)
    assert model == {**shown(benchmark, "model/blip_large_flickr")["model"]}


def test_another_model_leaves_nothing_of_the_default(shown):
    model = shown("voc21", "model/bridgetower_large")["model"]
    own = {"name_or_path": "BridgeTower/bridgetower-large-itm-mlm", "image_size": None}
    assert model["vlm"] == {
        "class_path": "ovss.vlm.BridgeTowerITM.from_pretrained",
        "init_args": {**own, "revision": None},
    }
    assert shown("demo")["model"]["vlm"]["init_args"]["image_size"] is None


def test_a_section_of_another_class_leaves_nothing_of_the_first(shown, write):
    blip = {"class_path": "ovss.vlm.BlipITM.from_pretrained", "init_args": {"image_size": 224}}
    first = write("first", model={"vlm": blip, "layer": 3})
    second = write("second", model={"vlm": {"init_args": {"name_or_path": "somewhere"}}})
    third = write("third", model={"layer": 5})
    same = shown("voc21", first, second, third)["model"]
    expected = {"image_size": 224, "name_or_path": "somewhere", "revision": None}
    assert (same["vlm"]["init_args"], same["layer"]) == (expected, 5)
    tower = shown("voc21", first, second, "model/bridgetower_base")["model"]["vlm"]
    assert tower["init_args"]["image_size"] is None


def test_without_a_vlm_of_its_own_the_default_is_changed(shown, write):
    own = write("own", model={"vlm": {"init_args": {"name_or_path": "elsewhere"}}})
    for args in ([own], ["--model.vlm.init_args.name_or_path=elsewhere"]):
        found = shown("voc21", *args)["model"]["vlm"]["init_args"]
        assert found == {"name_or_path": "elsewhere", "image_size": 336, "revision": None}


def test_segment_uses_the_demos_settings_only_without_a_configuration(shown):
    demo = yaml.safe_load((CONFIGS / "demo.yaml").read_text())["model"]
    found = shown(command="segment")["model"]
    assert found["vlm"]["init_args"]["name_or_path"] == "demo"
    assert found["dropout"]["patches"] == demo["dropout"]["patches"]
    found = shown("model/blip_base_coco", command="segment")["model"]
    assert found["dropout"]["patches"] is None  # the variant's
    assert found["labeller"]["threshold"] == 0.15


def test_a_model_may_have_its_arguments_beside_or_below(shown, write):
    flat = {"layer": 3, "labeller": {"threshold": "25e-2"}, "dropout.rounds": 2}
    below = {"class_path": "ovss.PnPOVSS", "init_args": flat}
    assert shown("voc21", write("flat", model=flat)) == shown("voc21", write("below", model=below))
    options = ("--model.layer=3", "--model.labeller.threshold=0.25", "--model.dropout.rounds=2")
    assert shown("voc21", *options) == shown("voc21", write("flat", model=flat))


@pytest.mark.parametrize(
    "option",
    [
        ("--model.labeller.refine=null", ["labeller", "refine"], None),
        ("--model.proposals=itm", ["proposals"], "itm"),
        ("--model.dropout.rounds=1", ["dropout", "rounds"], 1),
        ("--model.loudness=3", ["loudness"], 3),
    ],
)
def test_another_class_has_options_of_its_own(option, shown, write):
    argument, path, value = option
    louder = write("louder", model={"class_path": LOUDER, "init_args": {"loudness": 2}})
    model = shown("demo", louder, argument)["model"]
    assert model["class_path"] == LOUDER
    assert model["layer"] == 4  # its own default: nothing of the demo's model is left
    for name in path:
        model = model[name]
    assert model == value


def test_a_later_section_belongs_to_the_class_before_it(shown, write):
    louder = write("louder", model={"class_path": LOUDER, "loudness": 2})
    later = write("later", model={"layer": 5})
    model = shown("voc21", louder, later)["model"]
    assert (model["class_path"], model["loudness"], model["layer"]) == (LOUDER, 2, 5)
    assert shown("voc21", f"--model.class_path={LOUDER}")["model"]["loudness"] == 1
    back = write("back", model={"class_path": "ovss.PnPOVSS"})
    assert "loudness" not in shown("voc21", louder, later, back)["model"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("ovss.Nothing", "cannot import ovss.Nothing"),
        ("nowhere.at.all", "cannot import nowhere.at.all"),
        ("torch.nn.Linear", "subclass of ovss.module.SegmentationModule, but got torch.nn.Linear"),
    ],
)
def test_a_class_that_is_no_shell_is_refused(path, message, write, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["test", f"--config={CONFIGS / 'voc21.yaml'}", write("x", model={"class_path": path})])
    assert stop.value.code == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize("louder", [False, True])
def test_a_saved_configuration_is_read_again_and_resumed(louder, write, few, tmp_path, capsys):
    vlm = {"class_path": "ovss.vlm.BlipITM.from_pretrained"}
    model = {"class_path": LOUDER, "init_args": {"vlm": vlm, "loudness": 7}}
    other = [write("louder", model=model)] if louder else []
    demo = f"--config={CONFIGS / 'demo.yaml'}"
    main(["test", demo, *other, *few])
    config = tmp_path / "run" / "config.yaml"
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert scores["model"].endswith(" at 7") == louder
    text = config.read_text()
    capsys.readouterr()
    main(["test", f"--config={config}"])
    assert "nothing was left to do" in capsys.readouterr().out
    assert config.read_text() == text
    main(["test", f"--config={config}", f"--trainer.default_root_dir={tmp_path / 'other'}"])
    assert (tmp_path / "other" / "scores.json").read_bytes() == (
        tmp_path / "run" / "scores.json"
    ).read_bytes()


def test_options_win_over_configurations_wherever_they_stand(shown, write):
    layer = write("layer", model={"layer": 5})
    assert shown("--model.layer=3", layer, "voc21")["model"]["layer"] == 3


def test_a_list_may_be_added_to(shown, write):
    one, two = (
        f"lightning.pytorch.callbacks.{name}" for name in ("Callback", "DeviceStatsMonitor")
    )
    first = write("first", trainer={"callbacks": [{"class_path": one}]})
    second = write("second", trainer={"callbacks+": {"class_path": two}})
    callbacks = shown("voc21", first, second)["trainer"]["callbacks"]
    assert [each["class_path"] for each in callbacks] == [one, two]
