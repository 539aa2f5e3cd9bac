"""Suites: what a file asks for, runs one after another, and going on where one was stopped."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from forker import until

from ovss.cli import runner, suite
from ovss.cli.main import main
from ovss.cli.suite_file import read_suite
from ovss.utils.shipped import find_config, find_suite, shipped_configs, shipped_suites
from ovss.utils.signals import REQUEUE

ROOT = Path(__file__).parents[1]
PRODUCT = {
    "output": "runs/table",
    "configs": ["demo"],
    "options": {"trainer.precision": None, "model.benchmark": None},
    "runs": ["model/demo_clip"],
    "methods": [
        {"name": "few", "options": {"model.dropout.rounds": 1}},
        {"name": "clip", "configs": ["beside.yaml"], "options": {"model.on_error": "stop"}},
    ],
    "benchmarks": [
        {"name": "val", "options": {"data.init_args.split": "val", "model.on_error": "skip"}},
        {"name": "dev", "options": {"data.init_args.split": "dev"}},
    ],
}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a suite; gives its file."""
    monkeypatch.setattr(sys, "argv", ["train_free_eval.py"])

    def write(**sections):
        path = tmp_path / "own.yaml"
        sections.setdefault("output", str(tmp_path / "runs"))
        path.write_text(yaml.safe_dump(sections, sort_keys=False))
        return str(path)

    return write


@pytest.fixture
def tables(monkeypatch):
    """In place of the table: the folders that it is of."""
    shown = []
    monkeypatch.setattr(
        suite, "show_table", lambda folders, output: shown.append((folders, output))
    )
    return shown


@pytest.fixture
def pretended(monkeypatch, tables):
    """In place of runs: notes their folders' names, and ends with the code of `codes`."""
    codes, begun = {}, []

    def start(arguments):
        folder = folder_of(arguments)
        begun.append(folder.name)
        code = codes.get(folder.name, 0)
        if not code:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "scores.json").write_text('{"mIoU": 0.5}')
        return code

    monkeypatch.setattr(runner, "start", start)
    return codes, begun


@pytest.fixture
def small(scenes_root, tiny_blip_path):
    """Sections of a suite of the demo on four scenes with a tiny model."""
    return {
        "configs": ["demo"],
        "options": {
            "data.init_args.root": str(scenes_root),
            "data.init_args.limit": 4,
            "data.init_args.num_workers": 0,
            "data.init_args.batch_size": 1,
            "model.vlm.init_args.name_or_path": str(tiny_blip_path),
            "model.labeller.refine": None,
        },
        "runs": [{"name": "one", "options": {"model.dropout.rounds": 1}}, {"name": "two"}],
    }


def folder_of(arguments):
    (folder,) = (each for each in arguments if each.startswith("--trainer.default_root_dir="))
    return Path(folder.partition("=")[2])


def ended(args, capsys):
    """The exit code of a command, and what it wrote to standard error."""
    with pytest.raises(SystemExit) as stop:
        main(args)
    return stop.value.code, capsys.readouterr().err


# ---- what a file asks for -------------------------------------------------------------------


def test_runs_and_products_as_commands(write, tmp_path):
    beside = tmp_path / "beside.yaml"
    beside.write_text((ROOT / "configs" / "model" / "demo_clip.yaml").read_text())
    file = write(**PRODUCT)
    found = read_suite(file, rest=["--trainer.devices=4"])
    shared = ["--trainer.precision=null", "--model.benchmark=null"]

    def command(name, *own):
        folder = f"--trainer.default_root_dir=runs/table/{name}"
        return ["test", "--config=demo", *own, folder, "--trainer.devices=4"]

    val, dev = "--data.init_args.split=val", "--data.init_args.split=dev"
    own = f"--config={beside}"
    assert found.output == Path("runs/table")
    assert [run.arguments for run in found.runs] == [
        command("demo_clip", "--config=model/demo_clip", *shared),
        command("few-val", *shared, val, "--model.on_error=skip", "--model.dropout.rounds=1"),
        command("few-dev", *shared, dev, "--model.dropout.rounds=1"),
        command("clip-val", own, *shared, val, "--model.on_error=skip", "--model.on_error=stop"),
        command("clip-dev", own, *shared, dev, "--model.on_error=stop"),
    ]
    assert [run.title for run in found.runs][:2] == ["demo_clip", "few on val"]
    assert read_suite(file, Path("there")).runs[1].layout.folder == Path("there/few-val")


def test_without_an_output_the_folder_is_the_files(write):
    assert read_suite(write(output=None, runs=["demo"])).output == Path("runs/suite_own")


def test_list_prints_a_command_a_line_and_runs_nothing(write, capsys, pretended):
    spaced = {"name": "spaced", "options": {"data.init_args.root": "a b", "model.layer": 2}}
    main(["suite", write(configs=["demo"], runs=["demo", spaced]), "--list", "--model.head=1"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    program, script, *arguments = shlex.split(lines[1])
    assert (program, script, arguments[0]) == ("python", "train_free_eval.py", "test")
    assert "--data.init_args.root=a b" in arguments
    assert arguments[-1] == "--model.head=1"
    assert not pretended[1]


BAD = {
    "no runs": ({}, "but got no run"),
    "an unknown section": ({"run": []}, "Expected output, configs, options, runs, methods"),
    "half a product": ({"methods": ["naclip"]}, "Expected both `methods` and `benchmarks`"),
    "no list": ({"runs": "demo"}, "`runs` of "),
    "no name": ({"runs": [{"configs": ["demo"]}]}, "a mapping with `name`"),
    "a number": ({"runs": [59]}, "but got 59"),
    "a name that leads elsewhere": ({"runs": [{"name": "../x"}]}, "but got '../x'"),
    "a name that is taken": (
        {"runs": [{"name": "proposals"}]},
        "another name than proposals",
    ),
    "an unknown key": ({"runs": [{"name": "a", "config": "demo"}]}, "runs: a, but got 'config'"),
    "one name twice": ({"runs": ["demo", {"name": "Demo"}]}, "but got Demo, demo more than once"),
    "configs of a word": ({"runs": [{"name": "a", "configs": "demo"}]}, "to be a list"),
    "options of a word": ({"runs": [{"name": "a", "options": "demo"}]}, "to be a mapping"),
    "a section": ({"runs": [{"name": "a", "options": {"model": {}}}]}, "such as `model.layer`"),
    "a folder": ({"options": {"trainer.default_root_dir": "x"}}, "`output` says where"),
    "no such config": ({"runs": ["demo", "nowhere"]}, "nowhere of "),
    "a suite for a config": ({"runs": ["suite/clip"]}, "got a suite of several runs"),
    "a table's name": ({"runs": [{"name": "Table.md"}]}, "Expected another name than Table.md"),
    "an output that is a list": ({"output": ["a"], "runs": ["demo"]}, "`output` of "),
    "a folder with dashes": ({"options": {"trainer.default-root-dir": "x"}}, "`output` says where"),
    "a whole section": ({"options": {"model": "naclip"}}, "such as `model.layer`"),
    "a line break": (
        {"runs": [{"name": "a", "configs": ["demo"], "options": {"model.template": "a\nb {}"}}]},
        "without line breaks for a of ",
    ),
    "a method with data": (
        {"methods": ["demo"], "benchmarks": ["voc21", "pc60"]},
        "Expected the method demo of ",
    ),
}


@pytest.mark.parametrize("mistake", BAD)
def test_mistakes_in_a_file(mistake, write, tmp_path, capsys, pretended):
    sections, said = BAD[mistake]
    code, printed = ended(["suite", write(**sections)], capsys)
    assert code == 2
    assert said in printed
    assert str(tmp_path / "own.yaml") in printed
    assert not pretended[1]


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--trainer.default_root_dir=x"], "Expected `--output`"),
        (["--trainer.default-root-dir", "x"], "Expected `--output`"),
        (["--model.layer=1", "2"], "unrecognized argument: 2"),
        (["--devices=2"], "--devices"),
        (["demo"], "demo"),
    ],
)
def test_mistakes_in_the_command_line(extra, said, write, capsys, pretended):
    code, printed = ended(["suite", write(runs=["demo"]), *extra], capsys)
    assert code == 2
    assert said in printed
    assert not pretended[1]


def test_options_of_runs_on_the_command_line(write, monkeypatch):
    file = write(configs=["demo"], runs=["demo"], options={"seed_everything": 3})
    rest = ["--model.sigma", "-1", "--seed_everything", "4", "--config", "model/demo_clip"]
    rest += ["--model", "naclip", "--model.vocabulary", "--a {}"]
    assert suite._parsed(["demo", *rest])[1] == rest
    (run,) = read_suite(file, rest=rest).runs
    assert "--seed_everything=3" in run.arguments
    assert run.arguments[-10:] == rest


def test_the_suite_stands_first(write, capsys, pretended):
    code, printed = ended(["suite", "--data.init_args.limit", "4", write(runs=["demo"])], capsys)
    assert code == 2
    assert "Expected SUITE first, but got --data.init_args.limit before 4" in printed
    main(["suite", "--data.init_args.limit=4", write(configs=["demo"], runs=["demo"])])
    assert pretended[1] == ["demo"]


def test_a_folder_at_home(write, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_suite(write(output="~/zz", runs=["demo"])).output == tmp_path / "zz"
    assert suite._parsed(["demo", "--output=~/zz"])[0].output == tmp_path / "zz"


def test_what_stands_later_wins_within_a_section_too(write):
    from ovss.cli.parsed import ParsedCLI

    def dropout(rounds):
        return {"model.dropout": {"rounds": rounds, "patches": 6}}

    file = write(
        configs=["demo"],
        options=dropout(2),
        methods=[{"name": "a", "options": dropout(5)}],
        benchmarks=[{"name": "b", "options": {"model.dropout.rounds": 3}}],
    )
    own = ParsedCLI(read_suite(file).runs[0].arguments).as_plain()["model"]["dropout"]
    assert (own["rounds"], own["patches"]) == (5, 6)


def test_the_text_of_a_configuration_may_be_long(write):
    text = "{model: {dropout: {rounds: 2}}}" + " " * 300
    texts = [text, "model.dropout.rounds: 3" + " " * 300]
    (run,) = read_suite(write(configs=["demo", *texts], runs=[{"name": "a"}])).runs
    assert run.arguments[2:4] == [f"--config={each}" for each in texts]


def test_photos_of_segment_have_no_name(capsys):
    code, printed = ended(["segment", "--photos", "x.png"], capsys)
    assert code == 2
    assert "Expected photos without a name before them, but got --photos" in printed


def test_data_that_is_missing_is_said_before_the_first_run(write, tmp_path, capsys, pretended):
    root = {"data.init_args.root": str(tmp_path)}
    file = write(
        options=root,
        runs=[{"name": "drawn", "configs": ["demo"]}],
        methods=["clip", "naclip"],
        benchmarks=["voc21"],
    )
    code, printed = ended(["suite", file], capsys)
    assert code == 1
    assert "Expected the data of 3 runs, but those of 2 are not all here; nothing" in printed
    said = "- clip on voc21, naclip on voc21: data: Expected Pascal VOC 2012 (21 classes) under"
    assert said in printed
    assert not pretended[1]


def test_a_table_that_fails_hides_no_run(write, capsys, pretended, monkeypatch):
    def fail(folders, output):
        raise OSError("no space")

    monkeypatch.setattr(suite, "show_table", fail)
    pretended[0]["a"] = 1
    code, printed = ended(
        ["suite", write(configs=["demo"], runs=[{"name": n} for n in "ab"])], capsys
    )
    assert code == 1
    assert "but 2 failed:\n  a: exit code 1\n" in printed
    assert "  the table: no space\n" in printed


def test_a_file_that_cannot_be_read(tmp_path, capsys):
    assert "Expected a suite at ., but got" in ended(["suite", ""], capsys)[1]
    code, printed = ended(["suite", str(tmp_path / "x.yaml")], capsys)
    assert code == 2
    assert "shipped are suite/clip, suite/demo" in printed
    (tmp_path / "x.yaml").write_text("runs: [")
    code, printed = ended(["suite", str(tmp_path / "x.yaml")], capsys)
    assert code == 2
    assert f"Expected {tmp_path / 'x.yaml'} to be YAML" in printed


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"model.layr": 1}, "wrong of {}: `test` does not accept --model.layr\nDid you mean"),
        (
            {"model.layer": "last"},
            "The mistake is in wrong of {}.\n",
        ),  # which Lightning's parser knows
    ],
)
def test_a_wrong_setting_is_said_before_the_first_run(option, said, write, capsys, pretended):
    file = write(configs=["demo"], runs=["demo", {"name": "wrong", "options": option}])
    code, printed = ended(["suite", file], capsys)
    assert code == 2
    assert said.format(file) in printed
    assert not pretended[1]


def test_help_and_mistakes_need_no_lightning(write):
    code = (
        "import sys; from ovss.cli.main import main\n"
        "for args in (['--help'], [sys.argv[1], '--list'], [sys.argv[1], '--devices']):\n"
        "    try: main(['suite', *args])\n"
        "    except SystemExit: pass\n"
        "assert not {'torch', 'lightning', 'transformers'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, write(runs=["voc21"])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "--list" in done.stdout


# ---- what is shipped ------------------------------------------------------------------------


@pytest.mark.parametrize("name", shipped_suites())
def test_shipped_suites(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert find_config(name) == Path(name)
    assert name not in shipped_configs()
    file = shipped_suites()[name]
    short = name.removeprefix("suite/")
    for own in (name, short, f"configs/{name}.yaml", file):
        assert find_suite(own) == file
    assert read_suite(short).output == Path(f"runs/suite_{short}")
    assert file.read_text().startswith("# ")


def test_the_demos_runs_are_as_the_parser_takes_them(monkeypatch):
    from ovss.cli.parsed import ParsedCLI

    monkeypatch.setattr(sys, "argv", ["train_free_eval.py"])
    models = [ParsedCLI(run.arguments).as_plain()["model"] for run in read_suite("demo").runs]
    methods = [model.get("method", "pnp-ovss") for model in models]
    assert methods == ["pnp-ovss"] * 3 + ["maskclip"] * 2 + ["sclip", "clearclip", "naclip"]
    assert [model["dropout"]["rounds"] for model in models[:3]] == [4, 1, 4]


def test_the_clip_suite_has_every_method_on_every_benchmark():
    from ovss.dense_clip import METHODS

    runs = read_suite("clip").runs
    benchmarks = {run.arguments[1] for run in runs}
    assert {run.arguments[2].partition("=")[2] for run in runs} == set(METHODS)
    assert len(benchmarks) == 8
    assert len(runs) == 8 * len(METHODS)


def test_a_suite_can_be_copied(tmp_path, capsys):
    main(["configs", "--copy", "suite/demo", str(tmp_path)])
    printed = capsys.readouterr()
    copy = tmp_path / "demo.yaml"
    assert printed.out == f"{copy}\n"
    assert f"Take it with `suite {copy}`; `suite suite/demo` is still the shipped" in printed.err
    assert [r.arguments for r in read_suite(copy).runs] == [
        r.arguments for r in read_suite("demo").runs
    ]


@pytest.mark.parametrize(("task", "code"), [("2", 0), ("2", REQUEUE), ("3", 2), ("7", 2)])
def test_the_clusters_script_does_one_line_of_the_list(task, code, tmp_path):
    """With other programs in place of srun and scontrol, and of Python but for the list."""
    programs = {
        "srun": f'#!/bin/sh\nprintf "%s\\n" "$@"\nexit {code}\n',
        "scontrol": '#!/bin/sh\necho scontrol "$@"\n',
        "python": "#!/bin/sh\n[ $4 = a-file ] || exit 9\n"
        'echo "ovss test --config=one"; echo "ovss test \'--config=two words\' --x=y"\n'
        'echo "ovss test --x=\'y"\n',
    }
    for name, content in programs.items():
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o755)
    job = {
        "SLURM_ARRAY_TASK_ID": task,
        "SLURM_ARRAY_JOB_ID": "33",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_NTASKS_PER_NODE": "4",
    }
    done = subprocess.run(
        ["bash", ROOT / "configs" / "cluster" / "suite.sh", "a-file", "--output", "there"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", **job},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    called = done.stdout.splitlines()
    if task == "3":  # a quotation that does not end
        assert not called
        return
    if task == "7":
        assert "the suite has no run 7" in done.stderr
        assert not called
        return
    job = ["--trainer.num_nodes", "2", "--trainer.devices", "4", "--trainer.strategy", "ddp"]
    # The run's own options stand last, where they win.
    start = ["python", "-m", "ovss", "test", *job, "--config=two words", "--x=y"]
    assert called[1:13] == start
    assert ("scontrol requeue 33_2" in called) == (code == REQUEUE)


# ---- runs -----------------------------------------------------------------------------------


def test_a_run_that_fails_does_not_stop_the_others(write, tmp_path, capsys, pretended, tables):
    codes, begun = pretended
    codes |= {"a": 1, "c": -signal.SIGKILL}
    file = write(configs=["demo"], runs=[{"name": name} for name in "abcd"])
    code, printed = ended(["suite", file], capsys)
    assert code == 1
    assert begun == list("abcd")
    runs = tmp_path / "runs"
    for line in (
        f"[1/4] a ({runs / 'a'})\n[1/4] a failed: exit code 1\n[2/4] b ({runs / 'b'})\n",
        "Expected 4 runs and their table, but 2 failed:\n  a: exit code 1\n    python train_fr",
        "  c: was killed (SIGKILL)\n",
        f"test --config=demo --trainer.default_root_dir={runs / 'c'}\n",
    ):
        assert line in printed
    assert tables == [([runs / "b", runs / "d"], runs)]
    codes.clear()
    main(["suite", file])
    assert tables[1] == ([runs / name for name in "abcd"], runs)


def test_a_run_without_scores_of_its_own_has_failed(write, tmp_path, capsys, monkeypatch, tables):
    monkeypatch.setattr(runner, "start", lambda arguments: 0)
    old = tmp_path / "runs" / "demo" / "scores.json"  # of another run, and read as its own
    old.parent.mkdir(parents=True)
    old.write_text('{"mIoU": 0.5}')
    code, printed = ended(["suite", write(runs=["demo"])], capsys)
    assert code == 1
    assert "demo: it wrote no scores into " in printed
    assert not tables


@pytest.mark.parametrize("code", [REQUEUE, 130])
def test_a_run_that_was_stopped_stops_the_suite(code, write, capsys, pretended, tables):
    codes, begun = pretended
    codes |= {"a": code}
    file = write(configs=["demo"], runs=[{"name": name} for name in "ab"])
    assert ended(["suite", file], capsys)[0] == code
    assert begun == ["a"]
    assert not tables


@pytest.mark.parametrize("name", ["WORLD_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_launchers_of_several_processes_are_refused(name, write, monkeypatch, capsys, pretended):
    monkeypatch.setenv(name, "2")
    file = write(runs=["demo"])
    code, printed = ended(["suite", file], capsys)
    assert code == 2
    assert f"Expected a single process for `suite`, but got {name}=2" in printed
    main(["suite", file, "--list"])  # which a job array asks for


def test_a_suite_that_is_killed_goes_on_where_it_was(
    write, small, tmp_path, capsys, forker, runs_in_process, tables
):
    file, runs = write(**small), tmp_path / "runs"
    begun = forker.start(["suite", file], tmp_path / "log", OMP_NUM_THREADS="1")
    until(lambda: list((runs / "one" / "labels").glob("*.png")))
    begun.kill(signal.SIGTERM)
    assert begun.wait() == REQUEUE, begun.output
    assert f"[1/2] one ({runs / 'one'})" in begun.output
    assert not (runs / "two").exists()
    before = {f: f.stat().st_mtime_ns for f in (runs / "one" / "labels").glob("*.png")}

    main(["suite", file])
    assert [folder_of(arguments).name for arguments in runs_in_process] == ["one", "two"]
    printed = capsys.readouterr().err
    assert f"{len(before)} of 4 photos are finished already" in printed
    assert {f: f.stat().st_mtime_ns for f in before} == before
    assert json.loads((runs / "one" / "scores.json").read_text())["photos"] == 4
    rounds = [
        json.loads((runs / name / "scores.json").read_text())["settings"]["dropout"]["rounds"]
        for name in ("one", "two")
    ]
    assert rounds == [1, 4]
    assert tables == [([runs / "one", runs / "two"], runs)]

    # What is finished is not run again, whatever decides no result.
    runs_in_process.clear()
    main(["suite", file, "--data.init_args.batch_size=2", "--trainer.accelerator=cpu"])
    assert not runs_in_process
    assert f"[2/2] two is finished already ({runs / 'two'})" in capsys.readouterr().err

    # An edited suite: the run itself refuses its folder, and the others go on.
    small["runs"][0]["options"]["model.dropout.rounds"] = 2
    code, printed = ended(["suite", write(**small)], capsys)
    assert code == 1
    assert "dropout.rounds: 1 in the folder, 2 now" in printed
    assert "but 1 failed:\n  one: exit code 1" in printed
    assert len(tables[-1][0]) == 1
    # Refused once, it is not taken for finished the next time.
    assert ended(["suite", write(**small)], capsys)[0] == 1


def test_what_else_is_asked_for_is_left_to_the_run(
    write, small, tmp_path, runs_in_process, tables, monkeypatch
):
    names = tmp_path / "names.txt"
    small["runs"] = [{"name": "one", "options": {"model.dropout.rounds": 1}}]
    small["options"]["data.init_args.limit"] = 2
    small["options"]["data.init_args.prompts"] = str(names)
    from ovss.datamodules import Scenes

    names.write_text("\n".join(Scenes(tmp_path).benchmark.classes))
    file = write(**small)
    main(["suite", file])
    main(["suite", file])
    assert len(runs_in_process) == 1
    names.touch()  # a file that the configuration names
    main(["suite", file])
    assert len(runs_in_process) == 2
    main(["suite", file])
    assert len(runs_in_process) == 2
    (tmp_path / "runs" / "one" / "config.yaml").touch()  # as a later start that was killed
    main(["suite", file])
    assert len(runs_in_process) == 3
    begun = []
    scores = tmp_path / "runs" / "one" / "scores.json"
    monkeypatch.setattr(runner, "start", lambda args: begun.append(args) or scores.touch() or 0)
    for option in (
        "--data.init_args.limit=3",
        "--trainer.callbacks=ovss.callbacks.CocoWriter",
        f"--data.init_args.root={tmp_path / 'elsewhere'}",
    ):
        main(["suite", file, option])
        assert option in begun.pop()
    # Its own data, which is not in this folder: a relative root is another one here.
    from ovss.cli.finished import finished
    from ovss.runs.layout import RunLayout

    layout = RunLayout(tmp_path / "runs" / "one")
    root = Path(small["options"]["data.init_args.root"])
    config = yaml.safe_load(layout.config.read_text())
    config["data"]["init_args"]["root"] = root.name
    layout.config.write_text(yaml.safe_dump(config))
    layout.scores.touch()
    assert finished(layout, config) is None
    monkeypatch.chdir(root.parent)
    assert finished(layout, config)
