"""The paper's table in one command, on miniatures and with a tiny model."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import miniatures
import pytest
import yaml

from ovss.cli import reproduce, runner
from ovss.cli.main import main
from ovss.utils.signals import REQUEUE

ROOT = Path(__file__).parents[1]
BOTH = ("voc21", "ade150")
ANSWERS = {
    "voc_classification_noboundary.json": {
        "2007_000033": "[15: 'person', 2: 'bicycle'], [100%, 90]",
        "2007_000042": "[7: car], [70%]",  # not above 70: the first class is taken
        "2008_000002": "",
    },
    "ade20k.json": {  # another name that is taken
        "ADE_val_00000001": "[2: 'building;edifice', 3: 'sky'], [100%, 80%]",
        "ADE_val_00000002": "[5: 'tree'], [95%]",
        "ADE_val_00000003": "[3: 'sky', 5: 'tree', 10: 'grass'], [100%, 100%, 71%]",
    },
}


@pytest.fixture
def answers(tmp_path):
    """The folder of the authors' answers."""
    folder = tmp_path / "GPT4o_classification"
    folder.mkdir()
    for name, content in ANSWERS.items():
        (folder / name).write_text(json.dumps(content))
    return folder


@pytest.fixture
def options(tmp_path, answers, tiny_blip_path, monkeypatch):
    """Options for VOC and ADE20K with three photos each."""
    monkeypatch.setattr(sys, "argv", ["train_free_eval.py"])
    root = tmp_path / "data"
    for key in BOTH:
        miniatures.WRITERS[key](root)
    vlm = {"init_args": {"name_or_path": str(tiny_blip_path), "image_size": 112}}
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump({"model": {"vlm": vlm, "layer": 4, "head": 2}}))
    return [
        "reproduce",
        *("--benchmarks", *BOTH),
        f"--answers={answers}",
        f"--root={root}",
        f"--output={tmp_path / 'runs'}",
        f"--config={config}",
        "--data.init_args.limit=3",
        "--data.init_args.num_workers=0",
        "--trainer.accelerator=cpu",
    ]


@pytest.fixture
def pretended(monkeypatch):
    """In place of runs: notes their keys, writes a score, or fails as `codes` says."""
    codes, begun = {}, []

    def run(arguments):
        folder = Path(next(a for a in arguments if "default_root_dir" in a).partition("=")[2])
        begun.append(folder.name)
        code = codes.get(folder.name, 0)
        if not code:
            folder.mkdir(parents=True, exist_ok=True)
            scores = {"mIoU": 0.5, "photos": 3, "expected_photos": 3, "model": "tiny"}
            (folder / "scores.json").write_text(json.dumps(scores))
        return code

    monkeypatch.setattr(runner, "start", run)
    return codes, begun


def table(folder):
    rows = json.loads((folder / "reproduce.json").read_text())
    return {row.pop("benchmark"): row for row in rows}


def test_a_table_is_not_made_twice(
    options, tmp_path, capfd, monkeypatch, tiny_blip_path, runs_in_process
):
    runs = tmp_path / "runs"
    own_weights = tmp_path / tiny_blip_path.name
    shutil.copytree(tiny_blip_path, own_weights)
    options = [*options, f"--model.vlm.init_args.name_or_path={own_weights}"]
    main(options)
    printed = capfd.readouterr().out
    rows = table(runs)
    for key, paper in (("voc21", 51.3), ("ade150", 14.2)):
        scores = json.loads((runs / key / "scores.json").read_text())
        assert (scores["benchmark"], scores["protocol"], scores["variant"]) == (
            key,
            "released",
            "released",
        )
        asked = {"kind": "file", "threshold": 70, "fallback": "first"}.items()
        assert asked <= scores["settings"]["proposals"].items()
        assert (scores["photos"], scores["model"]) == (3, "blip_tiny_hf")
        assert rows[key]["mIoU"] == scores["mIoU"]
        assert rows[key]["paper"] == paper / 100
        assert f"{key:<14} {paper:>6} {100 * scores['mIoU']:>6.1f}  3 photos\n" in printed
        page = (runs / "reproduce.md").read_text()
        assert f"(`{key}`) | {paper} | {100 * scores['mIoU']:.1f} |" in page
    assert rows["pc60"]["problem"] == "not asked for"
    looked_for = [json.loads(line)["proposal"] for line in (runs / "voc21" / "photos.jsonl").open()]
    assert [sorted(labels) for labels in looked_for] == [[2, 15], [1], [1]]

    def refuse(arguments):
        raise AssertionError(arguments)

    monkeypatch.setattr(runner, "start", refuse)
    main([*options, "--data.init_args.batch_size=2"])
    assert table(runs) == rows
    # Something else was asked for: whether that is another result is the run's to say.
    with pytest.raises(AssertionError, match="rounds=2"):
        main([*options, "--model.dropout.rounds=2"])
    with pytest.raises(AssertionError, match="limit=2"):
        main([*options, "--data.init_args.limit=2"])
    # Likewise where a file holds something else, or was made by another version.
    one = [*options, "--benchmarks=voc21"]
    for path in (
        runs / "voc21" / "run.json",
        tmp_path / "GPT4o_classification" / "voc_classification_noboundary.json",
        own_weights / "config.json",
    ):
        text = path.read_text()
        path.write_text(text.replace('"ovss": "', '"ovss": "0.') + " ")
        with pytest.raises(AssertionError, match="voc21"):
            main(one)
        path.write_text(text)
        if path.parent != own_weights:
            main(one)


def test_a_run_that_fails_does_not_stop_the_others(options, tmp_path, capsys, pretended):
    codes, begun = pretended
    codes |= {"voc21": 1}
    with pytest.raises(SystemExit) as stop:
        main(options)
    assert stop.value.code == 1
    assert begun == ["voc21", "ade150"]
    printed = capsys.readouterr()
    assert "voc21            51.3      -  exit code 1\n" in printed.out
    assert "ade150           14.2   50.0  3 photos\n" in printed.out
    assert "but 1 failed:\n  voc21: exit code 1\n" in printed.err
    assert table(tmp_path / "runs")["voc21"]["problem"] == "exit code 1"
    codes["voc21"] = -signal.SIGKILL
    with pytest.raises(SystemExit):
        main(options)
    assert "voc21: was killed (SIGKILL)" in capsys.readouterr().err


@pytest.mark.parametrize("code", [REQUEUE, 130])
def test_a_run_that_was_stopped_stops_the_table(options, pretended, code):
    codes, begun = pretended
    codes |= {"voc21": code}
    with pytest.raises(SystemExit) as stop:
        main(options)
    assert stop.value.code == code
    assert begun == ["voc21"]


def test_what_is_missing_is_named_before_anything_runs(options, tmp_path, capsys, pretended):
    (
        tmp_path / "data" / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "val.txt"
    ).unlink()
    (tmp_path / "GPT4o_classification" / "ade20k.json").unlink()
    hub = "--model.vlm.init_args.name_or_path=Salesforce/blip-itm-large-flickr"
    with pytest.raises(SystemExit) as stop:
        main([*options, hub])
    assert stop.value.code == 1
    printed = capsys.readouterr().err
    root = tmp_path / "data"
    assert "- voc21: data: Expected Pascal VOC 2012 (21 classes)" in printed
    assert f"prepare --config voc21 --data.init_args.root {root}" in printed
    assert "- ade150: answers: Expected the authors' GPT-4o answers" in printed
    assert "git clone https://github.com/letitiabanana/PnP-OVSS" in printed
    assert "- voc21, ade150: weights: Expected Salesforce/blip-itm-large-flickr" in printed
    assert "`hf download Salesforce/blip-itm-large-flickr --revision 6df0d85" in printed
    assert "Complete are" not in printed
    assert not pretended[1]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("answers_of_one", "said"),
    [
        ({"2007_000033": ""}, "there is none for ['2007_000042', '2008_000002']"),
        ({**ANSWERS["voc_classification_noboundary.json"], "x": "[21: y], [99]"}, "but got 21"),
    ],
)
def test_answers_that_do_not_suffice(options, answers, capsys, pretended, answers_of_one, said):
    (answers / "voc_classification_noboundary.json").write_text(json.dumps(answers_of_one))
    with pytest.raises(SystemExit):
        main(options)
    printed = capsys.readouterr().err
    assert "- voc21: answers: " in printed
    assert said in printed
    assert "Complete are: --benchmarks ade150" in printed
    assert not pretended[1]


def test_weights_that_can_be_downloaded_are_no_obstacle(options, capsys, pretended, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    main([*options, "--model.vlm.init_args.name_or_path=some/checkpoint"])
    assert "some/checkpoint is downloaded when the first run begins" in capsys.readouterr().err
    assert pretended[1] == ["voc21", "ade150"]


def test_without_options_the_settings_are_the_papers(tmp_path):
    from ovss.cli.released import ParsedCLI, plan

    options, rest = reproduce._parsed([f"--root={tmp_path}", "--output=~/zz"])
    assert options.output == Path.home() / "zz"
    assert options.benchmarks == ["voc21", "pc60", "coco_object81", "coco_stuff171", "ade150"]
    for key in options.benchmarks:
        each = plan(key, options, rest)
        cli = ParsedCLI(each.arguments)
        model = cli.setting("model")
        assert model.vlm.init_args.name_or_path == "Salesforce/blip-itm-large-flickr"
        assert (model.vlm.init_args.image_size, model.layer, model.head) == (336, 7, 9)
        assert (model.variant, model.dropout.rounds) == ("released", 4)
        assert cli.data().benchmark.protocol == "released"
        assert cli.data().config == key
        assert len(each.problems) == 3


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--benchmarks", "voc20"], "invalid choice: 'voc20'"),
        (["--trainer.default_root_dir=x"], "Expected `--output`"),
        (["--trainer.default-root-dir", "x"], "Expected `--output`"),
        (["--devices=2"], "--devices"),
        (["voc21"], "voc21"),
        (["--trainer.devises=2"], "trainer.devises"),
        (["--model.variant=best"], "variant"),
        (["--model.variant=paper"], "`model.variant` of `reproduce` to stay the paper's"),
        (["--model.proposals=oracle"], "`model.proposals` of `reproduce`"),
        (["--model.proposals.init_args.threshold=50"], "`model.proposals` of `reproduce`"),
        (["--data.init_args.protocol=standard"], "`data.init_args.protocol` of `reproduce`"),
    ],
)
def test_mistakes_in_the_command_line(options, extra, said, capsys, pretended):
    with pytest.raises(SystemExit) as stop:
        main([*options, *extra])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err
    assert not pretended[1]


@pytest.mark.parametrize("name", ["WORLD_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_launchers_of_several_processes_are_refused(options, name, monkeypatch, capsys):
    monkeypatch.setenv(name, "2")
    with pytest.raises(SystemExit) as stop:
        main(options)
    assert stop.value.code == 2
    assert f"got {name}=2; leave torchrun or srun out" in capsys.readouterr().err


def test_help_needs_no_lightning():
    code = (
        "import sys; from ovss.cli.main import main\n"
        "try: main(['reproduce', '--help'])\n"
        "finally: assert not {'torch', 'lightning', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "--benchmarks KEY" in done.stdout
