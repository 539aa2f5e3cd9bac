"""The command `ablate`: every combination of some settings, each as a run of its own."""

import csv
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from ovss.cli.ablate import cells_of
from ovss.cli.main import main
from ovss.report.ablation import read_ablation, write_ablation

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.fixture
def ablate(scenes_root, tiny_blip_path, tmp_path, monkeypatch):
    """Runs a command on two scenes."""
    monkeypatch.setattr(sys, "argv", ["train_free_eval.py"])

    def run(*options, command="ablate", config="demo.yaml", model=None):
        weights = model or [f"--model.vlm.init_args.name_or_path={tiny_blip_path}"]
        main(
            [
                command,
                f"--config={CONFIGS / config}",
                f"--data.init_args.root={scenes_root}",
                "--data.init_args.limit=2",
                "--data.init_args.num_workers=0",
                f"--trainer.default_root_dir={tmp_path / 'run'}",
                *weights,
                *options,
            ]
        )
        return tmp_path / "run" / "ablation"

    return run


@pytest.fixture
def refused(ablate, capsys):
    """Gives the message that a command line is refused with."""

    def run(*options, **kwargs):
        with pytest.raises(SystemExit) as exit:
            ablate(*options, **kwargs)
        assert exit.value.code == 2
        return capsys.readouterr().err

    return run


def test_every_combination_is_a_run_of_its_own(ablate, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    folder = ablate("--rounds=2,1", "--patches=4,8", "--blur=0", "--refine=null")
    names = {
        "rounds-1_blur-0_refine-null",  # a single round drops nothing
        "rounds-2_patches-4_blur-0_refine-null",
        "rounds-2_patches-8_blur-0_refine-null",
    }
    cells = {path.parent.name: path.parent for path in folder.glob("*/scores.json")}
    assert set(cells) == names
    out = capsys.readouterr().out
    assert "computed, of what 3 runs of their own would have: 8 of 10 rounds" in out
    assert "proposals oracle | 2 of 8 photos" in out

    rows = list(csv.DictReader((folder / "ablation.csv").open(encoding="utf-8")))
    scores = {
        name: json.loads((path / "scores.json").read_text())["mIoU"] for name, path in cells.items()
    }
    assert [float(row["mIoU"]) for row in rows] == sorted(scores.values(), reverse=True)
    assert {row["folder"]: float(row["mIoU"]) for row in rows} == scores
    assert f"{100 * max(scores.values()):.1f} | - | 2 |" in (folder / "ablation.md").read_text()
    assert (folder / "ablation.png").read_bytes().startswith(b"\x89PNG")

    # Its configuration is that of the run: `test` finds it finished, and elsewhere does the same.
    cell = cells["rounds-2_patches-8_blur-0_refine-null"]
    config = yaml.safe_load((cell / "config.yaml").read_text())
    assert config["model"]["dropout"] == {
        "rounds": 2,
        "patches": 8,
        "variant": "paper",
        "relevance": "gradcam",
    }
    assert config["trainer"]["default_root_dir"] == str(cell)
    main(["test", f"--config={cell / 'config.yaml'}"])
    assert "nothing was left to do" in capsys.readouterr().out
    elsewhere = tmp_path / "own"
    same = [f"--config={cell / 'config.yaml'}", f"--trainer.default_root_dir={elsewhere}"]
    main(["test", *same])
    for name in ("run.json", "scores.json", "photos.jsonl", "labels/val_00001.png"):
        assert (elsewhere / name).read_bytes() == (cell / name).read_bytes()


def test_methods_have_settings_of_their_own(ablate, refused):
    model = ["--config", str(CONFIGS / "model" / "demo_clip.yaml")]
    message = refused("--rounds=1,2", model=model)
    assert "Expected settings of maskclip that can be varied (vocabulary, refine, " in message
    assert "but got rounds" in message
    message = refused("--prob_thd=0.1,0.2")
    assert "of pnp-ovss that can be varied (rounds, patches, layer, " in message
    folder = ablate("--prob-thd=0,0.5", "--refine=pamr,null", model=model)
    assert {path.parent.name for path in folder.glob("*/scores.json")} == {
        f"refine-{refine}_prob_thd-{share}" for refine in ("pamr", "null") for share in ("0", "0.5")
    }


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "Expected a list of at least one setting, such as --rounds 1,2,4, but got none"),
        (["--rounds=1,,2"], "Expected `rounds` to be values separated by commas"),
        (["--blur=0,wide"], "Expected `blur` to be values separated by commas"),
        (["--threshold=0.1,0.10"], "Expected `threshold` to be values without repeats"),
        (["--threshold=0.1,3"], "Expected `threshold` to be in 0..1, but got 3"),
        (["--layer=4,99"], "Expected `layer` to be"),
        (["--refine=crf,crfs"], "Expected `refine` to be one of ['crf', 'pamr']"),
        (["--round=1,2"], "Did you mean --rounds"),
    ],
)
def test_what_cannot_be_is_said_before_photos_are_read(refused, tmp_path, options, expected):
    assert expected in refused(*options)
    assert not (tmp_path / "run").exists()


def test_ties_numbers_and_words(ablate, tmp_path, capsys, monkeypatch):
    folder = ablate("--refine=pamr,null", "--head=mean,2", "--rounds=1")
    capsys.readouterr()
    cells = {
        f"rounds-1_head-{head}_refine-{'null' if refine is None else refine}": {
            "head": head,
            "refine": refine,
        }
        for head in ("mean", 2)
        for refine in ("pamr", None)
    }
    rows = read_ablation(folder, cells)
    assert rows[0].gain is None
    for row in rows[1:]:
        assert row.gain.difference == pytest.approx(row.miou - rows[0].miou)
        assert row.gain.low <= row.gain.difference <= row.gain.high
    monkeypatch.setattr("ovss.report.ablation.find_spec", lambda name: None)
    files = write_ablation(tmp_path, rows)
    assert [file.name for file in files] == ["ablation.csv", "ablation.md"]
    lines = (tmp_path / "ablation.md").read_text().splitlines()
    assert lines[2] == "| head | refine | mIoU | behind the best | photos |"
    assert {tuple(line.split(" | ")[:2]) for line in lines[4:8]} == {
        ("| mean", "pamr"), ("| mean", "null"), ("| 2", "pamr"), ("| 2", "null"),
    }  # fmt: skip


def test_values_that_are_nearly_alike_are_cells_of_their_own():
    segmenter = SimpleNamespace(passes=1)
    cells = cells_of(segmenter, {"threshold": [0.1234561, 0.1234562], "blur": [0.0, 0.05]})
    assert len(cells) == 4
    assert "threshold-0.1234561_blur-0" in cells


def test_a_finished_ablation_says_no_saving_it_does_not_know(ablate, capsys):
    folder = ablate("--rounds=1", "--refine=null")
    for path in folder.glob("*/timing.json"):
        path.unlink()
    capsys.readouterr()
    ablate("--rounds=1", "--refine=null")
    assert "computed" not in capsys.readouterr().out
