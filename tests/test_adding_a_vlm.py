"""docs/adding-a-vlm.md works as it is written: its adapter, its configuration and its test."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from conftest import class_maps

from ovss.captions import Caption
from ovss.cli.main import main
from ovss.salience import SalienceDropout

ROOT = Path(__file__).parents[1]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The page's files, written to a folder on the path under the names that they bear."""
    page = (ROOT / "docs" / "adding-a-vlm.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", page, re.DOTALL)
    assert [name for name, _ in blocks] == ["toy.py", "toy.yaml", "test_toy.py"]
    for name, text in blocks:
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in ("toy", "test_toy"):
        sys.modules.pop(name, None)


def test_the_pages_test_passes_and_can_fail(files):
    importlib.import_module("test_toy").test_gradcam_equals_full_backward()
    sys.modules.pop("toy")
    sys.modules.pop("test_toy")
    text = (files / "toy.py").read_text()
    # Reading the wrong layer's attention must show.
    wrong = text.replace("self.model.looking[i].dropout", "self.model.looking[1 - i].dropout")
    assert wrong != text
    (files / "toy.py").write_text(wrong)
    importlib.invalidate_caches()
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        with pytest.raises(AssertionError):
            importlib.import_module("test_toy").test_gradcam_equals_full_backward()
    finally:
        sys.dont_write_bytecode = before


def test_the_toy_serves_the_whole_interface(files):
    vlm = importlib.import_module("toy").ToyITM.from_pretrained()
    assert vlm.layers == range(1)
    photos = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    captions = [Caption.of(["cat", "dog"]), Caption.of(["potted plant"])]
    maps = class_maps(SalienceDropout(rounds=2, patches=5), vlm, photos, captions, 0, "mean")
    assert [each.shape for each in maps] == [(2, 8, 8), (1, 8, 8)]
    shared = vlm.match(vlm.encode_image(photos[:1]), captions)
    assert shared.shape == (2, 2)
    with pytest.raises(ValueError, match="ToyITM has none; use `itm`"):
        vlm.embed_image(vlm.encode_image(photos))


def test_the_configuration_runs_over_the_demo(files, scenes_root):
    main(
        [
            "test",
            f"--config={ROOT / 'configs' / 'demo.yaml'}",
            f"--config={files / 'toy.yaml'}",
            f"--data.init_args.root={scenes_root}",
            "--data.init_args.limit=2",
            "--data.init_args.num_workers=0",
            "--model.labeller.refine=null",
            f"--trainer.default_root_dir={files / 'run'}",
        ]
    )
    scores = json.loads((files / "run" / "scores.json").read_text())
    settings = scores["settings"]
    assert (scores["model"], settings["layer"], settings["head"]) == ("toy", 0, 0)
