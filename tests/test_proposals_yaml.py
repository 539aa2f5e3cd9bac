"""Overlays and proposals from YAML, through the command line, on a few drawn scenes."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from pathlib import Path

import pytest
import tiny_bridgetower
import yaml
from test_proposals_models import two_towers

from ovss.cli.main import main
from ovss.proposals import resolve

ROOT = Path(__file__).parents[1]
OVERLAYS = [  # those of other methods are in tests/test_dense_clip_runs.py
    path
    for path in sorted((ROOT / "configs" / "model").glob("*.yaml"))
    if "vlm" in yaml.safe_load(path.read_text())["model"]
]
CHEAP = [
    "--model.labeller.refine=null",
    "--model.dropout.rounds=1",
    "--data.init_args.limit=2",
    "--data.init_args.num_workers=0",
]


def run(tmp_path, scenes_root, *configs, arguments=()):
    """`test` with the configurations one over the other; the scores that it wrote."""
    files = [ROOT / "configs" / "demo.yaml", *configs]
    folder = tmp_path / "run"
    main(
        [
            "test",
            *(f"--config={path}" for path in files),
            f"--data.init_args.root={scenes_root}",
            f"--trainer.default_root_dir={folder}",
            *CHEAP,
            *arguments,
        ]
    )
    return json.loads((folder / "scores.json").read_text())


@pytest.fixture(scope="module")
def bridgetower_path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny-bridgetower"
    return tiny_bridgetower.save(folder, tiny_bridgetower.bridgetower(layers=6, tower_layers=6))


def test_there_is_an_overlay_for_every_published_checkpoint():
    assert [path.stem for path in OVERLAYS] == [
        "blip_base_coco",
        "blip_base_flickr",
        "blip_large_coco",
        "blip_large_flickr",
        "bridgetower_base",
        "bridgetower_large",
    ]
    large = yaml.safe_load((ROOT / "configs" / "model" / "blip_large_flickr.yaml").read_text())
    assert (large["model"]["layer"], large["model"]["head"]) == (7, 9)


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_overlays_run_over_a_benchmark(
    overlay, tmp_path, scenes_root, bridgetower_path, tiny_blip_path
):
    """The overlay as it is, but for the checkpoint, which is not downloaded."""
    settings = yaml.safe_load(overlay.read_text())["model"]
    path = bridgetower_path if "bridgetower" in overlay.stem else tiny_blip_path
    local = f"--model.vlm.init_args.name_or_path={path}"
    scores = run(tmp_path, scenes_root, overlay, arguments=[local])
    assert scores["model"] == path.name
    own = scores["settings"]
    assert (own["layer"], own["head"]) == (settings["layer"], settings["head"])
    assert scores["photos"] == 2


@pytest.mark.parametrize("kind", ["oracle", "all", "itm", "itc", "file", "clip"])
def test_every_kind_of_proposals_runs_from_yaml(kind, tmp_path, scenes_root, tiny_blip_path):
    proposals = kind
    if kind == "file":
        photos = (scenes_root / "VOCdevkit" / "VOC2012" / "JPEGImages").iterdir()
        answers = {path.stem: "[1: tree, 11: cat], [100%, 80%]" for path in photos}
        (tmp_path / "answers.json").write_text(json.dumps(answers))
        options = {"path": str(tmp_path / "answers.json"), "threshold": 70, "fallback": "first"}
        proposals = {"class_path": "ovss.proposals.FileProposer", "init_args": options}
    if kind == "clip":
        (tmp_path / "clip").mkdir()
        two_towers("clip", tmp_path / "clip")
        options = {"name_or_path": str(tmp_path / "clip"), "templates": ["a {}"], "top_k": 3}
        proposals = {"class_path": "ovss.proposals.ClipProposer", "init_args": options}
    overlay = tmp_path / "proposals.yaml"
    model = {
        "vlm": {"init_args": {"name_or_path": str(tiny_blip_path)}},
        "layer": 4,
        "head": 2,
        "proposals": proposals,
    }
    overlay.write_text(yaml.safe_dump({"model": model}))
    scores = run(tmp_path, scenes_root, overlay)
    assert scores["proposals"] == kind
    assert scores["photos"] == 2


def test_settings_of_proposers_from_yaml(tmp_path, scenes_root, tiny_blip_path):
    overlay = tmp_path / "proposals.yaml"
    proposals = {"class_path": "ovss.proposals.MatchProposer", "init_args": {"treshold": 0.3}}
    overlay.write_text(yaml.safe_dump({"model": {"proposals": proposals}}))
    path = f"--model.vlm.init_args.name_or_path={tiny_blip_path}"
    with pytest.raises(SystemExit):
        run(tmp_path, scenes_root, overlay, arguments=[path])


def test_the_pages_settings_exist():
    """Every YAML block of docs/proposals.md names a proposer and settings that it takes."""
    page = (ROOT / "docs" / "proposals.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    proposals = [yaml.safe_load(block)["model"]["proposals"] for block in blocks]
    assert resolve(proposals[0]).name == "itm"
    names = []
    for each in proposals[1:]:
        module, _, name = each["class_path"].rpartition(".")
        proposer = getattr(importlib.import_module(module), name)
        inspect.signature(proposer).bind(**each["init_args"])
        names.append(proposer.name)
        if proposer.name in ("itm", "itc"):  # the page shows their defaults
            assert proposer(**each["init_args"]).settings() == resolve(proposer.name).settings()
    assert names == ["itm", "itc", "file", "clip", "ask", "ask"]
