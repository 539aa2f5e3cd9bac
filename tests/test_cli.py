"""The command line, in this process: Lightning takes seconds to import."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ovss.cli.main import main
from ovss.utils.progress import Progress

ROOT = Path(__file__).parents[1]
NO_MODEL = ["--model.vlm.init_args.name_or_path=/nowhere/model"]
"""For what is refused before a model is loaded."""


@pytest.fixture
def arguments(tmp_path, scenes_root, tiny_blip_path, monkeypatch):
    """`test` on a few scenes with a tiny model."""
    monkeypatch.setattr(sys, "argv", ["train_free_eval.py"])
    return [
        "--config=" + str(ROOT / "configs" / "demo.yaml"),
        f"--data.init_args.root={scenes_root}",
        "--data.init_args.limit=3",
        "--data.init_args.num_workers=0",
        f"--model.vlm.init_args.name_or_path={tiny_blip_path}",
        f"--trainer.default_root_dir={tmp_path / 'run'}",
    ]


def test_test_writes_scores_and_configuration(arguments, tmp_path, capsys):
    options = ("--model.labeller.threshold=0.2", "--model.labeller.refine=null")
    main(["test", *arguments, *options, "--trainer.max_epochs=1"])  # not listed, but taken
    folder = tmp_path / "run"
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["photos"] == 3
    assert {"benchmark", "protocol", "method", "variant", "model", "proposals"} <= set(scores)
    ious = [row["IoU"] for row in scores["classes"] if row["IoU"] is not None]
    assert scores["mIoU"] == pytest.approx(sum(ious) / len(ious))
    with (folder / "per_class.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [row["name"] for row in scores["classes"]]
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["model"]["labeller"]["threshold"] == 0.2
    assert config["model"]["labeller"]["refine"] is None
    line = capsys.readouterr().out
    assert f"mIoU {100 * scores['mIoU']:.1f}" in line
    assert "protocol standard" in line
    assert "3 photos" in line


def test_a_finished_run_says_that_nothing_was_left(arguments, tmp_path, capsys, monkeypatch):
    main(["test", *arguments])
    assert "3 photos done, " in capsys.readouterr().out
    begun = []
    monkeypatch.setattr(
        "ovss.callbacks.progress.Progress",
        lambda what, total, **settings: (
            begun.append((what, total, settings["before"])) or Progress(what, total, **settings)
        ),
    )
    main(["test", *arguments])
    printed = capsys.readouterr().out
    assert f"nothing was left to do; results in {tmp_path / 'run'}" in printed
    assert "photos done" not in printed
    main(["predict", *arguments])  # whose loop asks the loader more than that of `test`
    assert begun == [("test", 3, 3), ("predict", 3, 3)]


@pytest.mark.parametrize(
    ("extra", "photos"),
    [("--trainer.limit_test_batches=3", 6), ("--data.init_args.limit=4", 4), ("-q", 8)],
)
def test_a_score_says_how_many_photos_it_saw(arguments, tmp_path, extra, photos, capsys):
    arguments.remove("--data.init_args.limit=3")
    main(["test", *arguments, "--data.init_args.batch_size=2", extra])
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert (scores["photos"], scores["expected_photos"]) == (photos, 8)
    said = "8 photos" if photos == 8 else f"{photos} of 8 photos"
    assert f"| {said}\n" in capsys.readouterr().out
    page = re.sub("<[^>]*>", " ", (tmp_path / "run" / "report.html").read_text())
    assert re.search(rf"(?<!of ){said}\b", page)


def test_scores_name_ones_own_prompts(arguments, tmp_path, capsys):
    names = tmp_path / "mine.txt"
    names.write_text("".join(f"thing {number}\n" for number in range(12)))
    main(["test", *arguments, f"--data.init_args.prompts={names}"])
    folder = tmp_path / "run"
    assert json.loads((folder / "scores.json").read_text())["prompts"] == "mine.txt"
    assert "prompts mine.txt" in capsys.readouterr().out
    # The names decide the result, not what their file is called.
    other = names.rename(tmp_path / "other.txt")
    main(["test", *arguments, f"--data.init_args.prompts={other}"])
    assert "nothing was left to do" in capsys.readouterr().out


def test_predict_scores_the_same(arguments, tmp_path):
    main(["test", *arguments])
    tested = (tmp_path / "run" / "scores.json").read_bytes()
    other = tmp_path / "other"
    main(["predict", *arguments, f"--trainer.default_root_dir={other}"])
    assert (other / "scores.json").read_bytes() == tested


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        (["--model.dropout.round=3"], "round"),
        (["--model.labeller.threshold=high"], "threshold"),
        (["--config=missing.yaml"], "missing.yaml"),
    ],
)
def test_unknown_keys_and_values_are_named(arguments, extra, named, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["test", *arguments, *extra])
    assert stop.value.code != 0
    assert named in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "message", "code"),
    [
        (["--model.layer=11"], "always zero", 2),
        (["--model.labeller.threshold=3"], "Expected `threshold` to be in 0..1", 2),
        (["--model.proposals=psychic"], "psychic", 2),
        (["--data.init_args.batch_size=0"], "error: Expected `batch_size` to be at least 1", 2),
        (["--trainer.devices=0"], "devices", 2),  # what Lightning refuses
        (["--trainer.devices=-1"], "`devices`", 2),  # there are no GPUs to take all of
        (["--trainer.devices=-2", *NO_MODEL], "Expected `trainer.devices` to be auto", 2),
        (["--trainer.precision=16-true", *NO_MODEL], "32-true, bf16-mixed or 16-mixed", 2),
        (["--trainer.precision=bf16-true", *NO_MODEL], "32-true, bf16-mixed or 16-mixed", 2),
        (["--trainer.precision=64-true", *NO_MODEL], "32-true, bf16-mixed or 16-mixed", 2),
        (["--trainer.precision=64", *NO_MODEL], "32-true, bf16-mixed or 16-mixed", 2),
        (["--trainer.enable_progress_bar=false", *NO_MODEL], "-q shows none", 2),
        (["--model.template=a photo"], "Expected `template` to contain '{}' exactly once", 2),
        (["--model.labeller.blur=1e6"], "Expected `blur` to be in 0..1", 2),
        (["--model.labeller.refine=sharp"], "Expected `refine` to be one of ['crf', 'pamr']", 2),
        (
            ["--model.labeller.refine=ovss.refine.PAMR", "--model.labeller.refine.steps=0"],
            "Expected `steps` to be 1 or more, but got 0",
            2,
        ),
        (["--model.labeller.crf=null"], "It is --model.labeller.refine now.", 2),
        (["--config={model: {labeller: {crf: {iterations: 3}}}}"], "model.labeller.refine now.", 2),
        (["--data.init_args.root=/nowhere"], "ImageSets/Segmentation/val.txt", 1),
        (["--model.vlm.init_args.name_or_path=/nowhere/model"], "there is no folder", 1),
    ],
)
def test_errors_are_one_block_without_a_stack_trace(
    arguments, extra, message, code, capsys, monkeypatch
):
    monkeypatch.setattr("ovss.datamodules.Scenes.prepare_data", lambda self: None)
    with pytest.raises(SystemExit) as stop:
        main(["test", *arguments, "--trainer.accelerator=cpu", *extra])
    printed = capsys.readouterr().err
    assert stop.value.code == code
    assert message in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("command", ["test", "predict"])
def test_missing_data_is_noticed_before_the_model_is_loaded(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train_free_eval.py"])
    config = f"--config={ROOT / 'configs' / 'voc21.yaml'}"
    with pytest.raises(SystemExit) as stop:
        main(
            [
                command,
                config,
                f"--data.init_args.root={tmp_path}",
                "--model.vlm.init_args.name_or_path=/nowhere/model",
            ]
        )
    printed = capsys.readouterr().err
    assert stop.value.code == 1
    assert "Expected Pascal VOC 2012" in printed
    assert "/nowhere/model" not in printed


@pytest.mark.parametrize(("command", "split"), [("test", "val"), ("tune", "dev")])
def test_the_split_that_will_be_used_is_checked(command, split, arguments, monkeypatch, capsys):
    def check(self):
        raise ValueError(f"checked {self.split}")

    monkeypatch.setattr("ovss.datamodules.Scenes.check", check)
    with pytest.raises(SystemExit):
        main([command, *arguments])
    assert capsys.readouterr().err == f"error: checked {split}\n"


def test_scenes_may_be_missing_as_they_are_drawn(arguments, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("ovss.datamodules.scene_generator.write_scenes", drawn.append)
    with pytest.raises(SystemExit):
        main(["test", *arguments, f"--data.init_args.root={tmp_path}"])
    assert drawn == [tmp_path]


def test_help_and_version_need_neither_lightning_nor_torch():
    code = (
        "import sys; from ovss.cli.main import main; main(['--help']); main(['--version']);"
        "assert not {'torch', 'lightning', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "segment" in done.stdout


def test_scores_name_what_they_depend_on(arguments, tmp_path):
    main(["test", *arguments, "--model.dropout.rounds=1", "--model.labeller.refine=null"])
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    settings = scores["settings"]
    assert settings["dropout"] == {"rounds": 1, "patches": 6, "relevance": "gradcam"}
    assert settings["labeller"] == {"threshold": 0.01, "blur": 0.05, "refine": None}
    assert settings["proposals"] == {"kind": "oracle"}
    assert {"vlm", "layer", "head", "template"} <= set(settings)
