"""The examples of other people's code and data, each in a process of its own."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def example(tmp_path):
    def run(name, *args):
        done = subprocess.run(
            [sys.executable, str(ROOT / "examples" / name), *args],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def score(printed):
    """The number after each `mIoU`."""
    return [float(part.split()[0]) for part in printed.split("mIoU ")[1:]]


def test_data_as_torchgeo_and_torchvision_have_it(example):
    printed = example("foreign_data.py")
    geo, vision = score(printed)
    assert geo == vision > 0.5
    assert "['000000', '000001']" in printed


@pytest.mark.slow
def test_data_of_hugging_face(example):
    printed = example("hugging_face.py")
    assert score(printed) == score(example("foreign_data.py"))[:1]
    assert "scene0 ... mIoU" in printed


@pytest.mark.slow
def test_an_evaluation_composed_by_hydra(example, tmp_path):
    first = example("hydra_eval.py", "data.limit=4")
    folder = tmp_path / "runs" / "hydra"
    assert json.loads((folder / "scores.json").read_text())["photos"] == 4
    second = example("hydra_eval.py")  # the other four, into the same folder
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["photos"] == 8
    assert json.loads((folder / "timing.json").read_text())["photos"] == 4
    assert score(first) != score(second) == [round(scores["mIoU"], 3)]
    with (folder / "logs" / "lightning_logs" / "version_1" / "metrics.csv").open() as file:
        logged = {key: value for row in csv.DictReader(file) for key, value in row.items() if value}
    assert float(logged["mIoU"]) == pytest.approx(scores["mIoU"], abs=1e-6)
    assert (folder / "report.html").is_file()
    example("hydra_eval.py", "trainer.devices=2", "trainer.strategy=ddp", "run_folder=runs/two")
    for name in ("scores.json", "photos.jsonl"):
        assert (folder / name).read_bytes() == (tmp_path / "runs" / "two" / name).read_bytes()
    other = example("hydra_eval.py", "model.layer=2", "run_folder=runs/other", "data.limit=2")
    assert json.loads((tmp_path / "runs/other/scores.json").read_text())["settings"]["layer"] == 2
    assert "in runs/other" in other
