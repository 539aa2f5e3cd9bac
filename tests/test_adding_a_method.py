"""docs/adding-a-method.md works as it is written, over all that stands around a method."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

from ovss.benchmark import PhotoBatch, of_classes
from ovss.callbacks import RunFolder
from ovss.cli.main import main
from ovss.datamodules import Scenes
from ovss.proposals import Proposal, Proposer

ROOT = Path(__file__).parents[1]


@pytest.fixture
def stripes(tmp_path, monkeypatch):
    """The page's module, and its configuration beside it."""
    page = (ROOT / "docs" / "adding-a-method.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n# stripes\.py\n(.*?)```", page, re.DOTALL)
    (configuration,) = re.findall(r"```yaml\n# stripes\.yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "stripes.py").write_text(code, encoding="utf-8")
    (tmp_path / "stripes.yaml").write_text(configuration, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("stripes")
    sys.modules.pop("stripes", None)


def test_a_method_in_pure_pytorch(stripes):
    benchmark = of_classes(["cat", "dog", "tree"])
    photos = [torch.zeros(3, 2, 6, dtype=torch.uint8), torch.zeros(3, 1, 4, dtype=torch.uint8)]
    batch = PhotoBatch(["a", "b"], photos, torch.zeros(2, 3, 16, 16), present=[(1, 3), ()])
    segmenter = stripes.Stripes(reverse=True)
    first, second = segmenter(batch, benchmark, segmenter.propose(batch, benchmark))
    assert first.tolist() == [[3, 3, 3, 1, 1, 1]] * 2
    assert second.tolist() == [[0] * 4]


def test_proposals_that_ask_a_model_need_one(stripes):
    segmenter, benchmark = stripes.Stripes("itm"), of_classes(["cat"])
    batch = PhotoBatch(["a"], [torch.zeros(3, 2, 6, dtype=torch.uint8)], torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match="`proposals: itm`, but stripes has none"):
        segmenter.propose(batch, benchmark)


class Costly(Proposer):
    """Asks a model of its own, as CLIP's proposer does."""

    name, costly, asked = "costly", True, 0

    def __call__(self, batch, benchmark, vlm):
        self.asked += len(batch.ids)
        return [Proposal((1,), (1.0,)) for _ in batch.ids]


def test_costly_proposals_are_kept_without_a_vlm(stripes, scenes_root, tmp_path):
    proposer = Costly()
    for run in ("one/run", "one/again", "two/run"):
        trainer = Trainer(
            logger=False,
            accelerator="cpu",
            callbacks=[RunFolder(tmp_path / run)],
            enable_progress_bar=False,
        )
        module = stripes.StripesModule(proposer)
        trainer.test(module, datamodule=Scenes(scenes_root, limit=2, num_workers=0), verbose=False)
        assert module.segmenter.proposer is proposer  # the next run keeps its own elsewhere
    assert proposer.asked == 4  # once beside each folder


def test_segment_is_for_any_method_and_tune_for_pnp_ovss(stripes, tmp_path, capsys):
    Image.new("RGB", (6, 2)).save(tmp_path / "photo.png")
    config, out = f"--config={tmp_path / 'stripes.yaml'}", tmp_path / "out"
    photo = ["segment", str(tmp_path / "photo.png"), "--classes=cat, dog", config]
    main([*photo, f"--output={out}"])
    assert np.asarray(Image.open(out / "photo_labels.png")).tolist() == [[1, 1, 1, 2, 2, 2]] * 2
    sidecar = json.loads((out / "photo_labels.json").read_text())
    assert sidecar["settings"]["method"] == "stripes"
    for command, message in (
        ([*photo, "--heatmaps=true"], "Expected a method with heat maps"),
        (["tune", config], "but got stripes.StripesModule; other methods have"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(command)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err


def test_it_is_scored_reported_and_resumed_like_any_other(stripes, scenes_root, tmp_path, capsys):
    def go(name, *options):
        main(
            [
                "test",
                f"--config={ROOT / 'configs' / 'demo.yaml'}",
                f"--config={tmp_path / 'stripes.yaml'}",
                f"--data.init_args.root={scenes_root}",
                "--data.init_args.limit=3",
                "--data.init_args.num_workers=0",
                f"--trainer.default_root_dir={tmp_path / name}",
                *options,
            ]
        )
        return json.loads((tmp_path / name / "scores.json").read_text())

    scores = go("run")
    assert (scores["method"], scores["model"], scores["photos"]) == ("stripes", "none", 3)
    assert scores["settings"] == {
        "method": "stripes",
        "proposals": {"kind": "oracle"},
        "reverse": False,
    }
    assert "variant" not in scores
    printed = capsys.readouterr().out
    assert "| method stripes | model none | proposals oracle | 3 of " in printed
    first = np.asarray(Image.open(tmp_path / "run" / "labels" / "val_00000.png"))
    assert (first == first[0]).all()  # stripes
    assert "stripes" in (tmp_path / "run" / "report.html").read_text()
    assert go("run") == scores
    assert "nothing was left to do" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        go("run", "--model.reverse=true")
    assert "model.reverse: false in the folder, true now" in capsys.readouterr().err
    go("other", "--model.reverse=true")
    runs = [str(tmp_path / name) for name in ("run", "other")]
    main(["compare", *runs, f"--output={tmp_path / 'page.html'}", "--resamples=10"])
    assert "reverse" in capsys.readouterr().out
