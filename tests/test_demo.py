"""`make demo`: which runs it does, and what its picture shows where."""

import runpy
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from ovss.datamodules import Scenes

ROOT = Path(__file__).parents[1]


def test_demo_draws_the_first_scenes_of_the_list(tmp_path, scenes_root, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    runs, picture = tmp_path / "runs" / "demo", tmp_path / "demo.png"
    options = f"--data {scenes_root} --runs {runs} --picture {picture} --limit 4"
    monkeypatch.setattr(sys, "argv", ["demo.py", *options.split()])
    tool = runpy.run_path(str(ROOT / "tools" / "demo.py"), run_name="__main__")

    assert sorted(folder.name for folder in runs.parent.iterdir()) == ["demo", "demo_one_round"]
    shown = capsys.readouterr().out
    assert all(label in shown for label in tool["DRAWN"])
    assert "attention alone" not in shown

    datamodule = Scenes(scenes_root)
    benchmark, panel, gap = datamodule.benchmark, tool["PANEL"], 4
    masks = [np.asarray(Image.open(s.mask)) for s in datamodule.find().samples[:4]]
    shown_masks = [mask for mask in masks if len(np.unique(mask)) > 2]
    assert shown_masks
    pixels = np.asarray(Image.open(picture)).astype(int)
    for number, mask in enumerate(shown_masks):
        left, top = number % 2 * (4 * (panel + gap) + 4 * gap), 24 + number // 2 * (panel + gap)
        truth = pixels[top : top + panel, left + panel + gap : left + 2 * panel + gap]
        # Grey is the photo; what has colour is a class, in the class's colour.
        rows = (np.arange(panel) + 0.5) * mask.shape[0] // panel
        labels = mask[np.ix_(rows.astype(int), rows.astype(int))]
        inside = np.zeros_like(labels, bool)
        for label in set(np.unique(labels)) - {0}:
            inner = _eroded(labels == label, 4)
            inside |= inner
            mean = truth[inner].mean(axis=0)
            nearest = min(
                range(1, len(benchmark.classes)),
                key=lambda k: np.abs(0.8 * np.array(benchmark.palette[k]) + 40 - mean).sum(),
            )
            assert nearest == label, benchmark.classes[label]
        outside = _eroded(labels == 0, 4)
        assert np.ptp(truth[outside], axis=1).max() <= 2
        assert np.ptp(truth[inside], axis=1).min() > 20


def _eroded(mask, steps):
    """The pixels of a mask at least `steps` away from its edge."""
    for _ in range(steps):
        padded = np.pad(mask, 1)
        mask = mask & padded[2:, 1:-1] & padded[:-2, 1:-1] & padded[1:-1, 2:] & padded[1:-1, :-2]
    return mask
