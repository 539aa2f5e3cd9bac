"""The whole command line through each shipped configuration, on each benchmark in miniature."""

import json
import sys
from pathlib import Path

import miniatures
import numpy as np
import pytest
import yaml
from PIL import Image
from test_datamodules import CASES

from ovss.cli.main import main
from ovss.cli.prepare import main as prepare

# pycocotools' compiled code does not know NumPy 2's `copy` keyword yet.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CONFIGS = Path(__file__).parents[1] / "configs"

RUNS = {
    "voc21": ("voc21", "standard"),
    "voc20": ("voc20", "standard"),
    "pc60 json": ("pc60", "standard"),
    "pc59 json": ("pc59", "standard"),
    "ade150": ("ade150", "standard"),
    "coco_object81": ("coco_object81", "standard"),
    "coco_stuff171": ("coco_stuff171", "standard"),
    "cityscapes19": ("cityscapes19", "standard"),
    "folder": ("folder", "standard"),
    "voc21 released": ("voc21", "released"),
    "pc60 released": ("pc60", "released"),
    "ade150 released": ("ade150", "released"),
    "coco_stuff171 released": ("coco_stuff171", "released"),
}
"""Cases of test_datamodules with their configuration and protocol."""


def mean_iou(predictions, truths, protocol):
    """From scratch, class by class."""
    predicted = np.concatenate([p[t != 255] for p, t in zip(predictions, truths, strict=True)])
    truth = np.concatenate([t[t != 255] for t in truths])
    ious = []
    for label in np.union1d(predicted, truth) if protocol == "standard" else np.unique(truth):
        union = ((predicted == label) | (truth == label)).sum()
        ious.append(((predicted == label) & (truth == label)).sum() / union)
    return np.mean(ious)


@pytest.fixture
def evaluate(tmp_path, tiny_blip_path, monkeypatch):
    """`test` with a shipped configuration, but for the model's weights and tiny settings."""
    monkeypatch.setattr(sys, "argv", ["train_free_eval.py"])

    def run(config, *extra):
        main(
            [
                "test",
                f"--config={CONFIGS / config}.yaml",
                f"--data.init_args.root={tmp_path / 'data'}",
                "--data.init_args.limit=2",
                "--data.init_args.num_workers=0",
                f"--model.vlm.init_args.name_or_path={tiny_blip_path}",
                "--model.vlm.init_args.image_size=112",
                "--model.dropout.rounds=1",
                "--model.labeller.refine=null",
                f"--trainer.default_root_dir={tmp_path / 'run'}",
                *extra,
            ]
        )
        return json.loads((tmp_path / "run" / "scores.json").read_text())

    return run


@pytest.mark.parametrize("case", RUNS)
def test_each_configuration(case, evaluate, tmp_path):
    config, protocol = RUNS[case]
    _, _, write, table = CASES[case]
    truth = write(tmp_path / "data")
    # A folder of one's own has no protocol to choose.
    choice = [f"--data.init_args.protocol={protocol}"] if config != "folder" else []
    scores = evaluate(config, *choice)
    assert (scores["benchmark"], scores["protocol"], scores["photos"]) == (config, protocol, 2)
    evaluated = list(truth)[:2]
    truths = [np.vectorize(table.get)(truth[photo_id]) for photo_id in evaluated]
    labels = tmp_path / "run" / "labels"
    predictions = [np.asarray(Image.open(labels / f"{photo_id}.png")) for photo_id in evaluated]
    assert scores["mIoU"] == pytest.approx(mean_iou(predictions, truths, protocol), abs=1e-12)


def test_released_coco_object(evaluate, tmp_path):
    miniatures.coco_instances(tmp_path / "data")
    scores = evaluate(
        "coco_object81", "--data.init_args.protocol=released", "--model.variant=released"
    )
    assert scores["protocol"] == "released"
    assert len(scores["classes"]) == 91


@pytest.mark.parametrize("config", miniatures.WRITERS)
def test_prepare_of_each_configuration(config, tmp_path, capsys):
    miniatures.WRITERS[config](tmp_path)
    prepare(
        [
            f"--config={CONFIGS / config}.yaml",
            "--check",
            f"--data.init_args.root={tmp_path}",
            "--data.init_args.limit=3",
        ]
    )
    assert "3 photos in" in capsys.readouterr().out


def test_prepare_without_data(tmp_path):
    path = tmp_path / "model.yaml"
    path.write_text("model:\n  layer: 1\n")
    with pytest.raises(ValueError, match=r"`data` in .*model\.yaml"):
        prepare([f"--config={path}"])
    with pytest.raises(ValueError, match=r"nothing\.yaml, but got no file"):
        prepare([f"--config={tmp_path / 'nothing.yaml'}"])


@pytest.mark.parametrize("config", miniatures.WRITERS)
def test_configurations_repeat_no_defaults(config):
    """The paper's model is the default; a benchmark's configuration says where and what."""
    content = yaml.safe_load((CONFIGS / f"{config}.yaml").read_text())
    assert content["trainer"] == {"default_root_dir": f"runs/{config}"}
    assert set(content["data"]["init_args"]) <= {"root", "classes"}
    own = {"model": {"proposals": "all"}} if config == "folder" else {}
    assert content == {"trainer": content["trainer"], "data": content["data"], **own}
