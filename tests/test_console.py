"""How the command line speaks: levels, errors, exit codes and lists."""

import io
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub.utils import are_progress_bars_disabled
from rich.console import Console

from ovss.cli.config_file import read_config
from ovss.cli.console import reporting_errors, silence_libraries
from ovss.cli.main import COMMANDS, QUICK, main
from ovss.utils import progress
from ovss.utils.errors import ConfigurationError, configuration_at_fault
from ovss.utils.progress import Progress
from ovss.utils.shipped import find_config, shipped_configs, shipped_suites
from ovss.utils.text import PROGRAM
from ovss.vlm import BlipITM

ROOT = Path(__file__).parents[1]


def code_of(error, *flags):
    with pytest.raises(SystemExit) as stop, reporting_errors(["test", *flags]):
        raise error
    return stop.value.code


def test_what_a_user_can_get_wrong_is_one_block(capsys):
    assert code_of(ValueError("Expected a, but got b.")) == 1
    assert capsys.readouterr().err == "error: Expected a, but got b.\n"
    assert code_of(FileNotFoundError("nothing there")) == 1
    assert code_of(ConfigurationError("Expected a, but got b.")) == 2
    assert code_of(KeyboardInterrupt()) == 130
    with pytest.raises(ValueError, match="shown"), reporting_errors(["test", "--traceback"]):
        raise ValueError("shown")
    with pytest.raises(KeyError), reporting_errors([]):
        raise KeyError("a mistake of the program's own")


def test_what_a_setting_may_be_instead_is_left_out():
    """The parser lists all types of a setting around what the class that was meant says."""

    def refuse(reason):
        raise ValueError("Does not validate against any of the Union subtypes\n...") from reason

    with pytest.raises(ConfigurationError, match=r"^Expected a\.$"), configuration_at_fault():
        refuse(ValueError("Expected a."))
    with pytest.raises(FileNotFoundError, match="nothing there"), configuration_at_fault():
        refuse(FileNotFoundError("nothing there"))
    with pytest.raises(ConfigurationError, match="Does not validate"), configuration_at_fault():
        refuse(None)
    listing = (
        "Does not validate against any of the Union subtypes\nSubtypes: [...]\nErrors:\n"
        "  - Expected a <class 'str'>\n  - Expected b:\n      one.\n"
        "Given value type: <class 'Namespace'>\nGiven value: Namespace(password='secret')"
    )
    other = ValueError("Expected a <class 'str'>. Got value: Namespace(password='secret')")
    with pytest.raises(ConfigurationError) as raised, configuration_at_fault():
        raise ValueError(listing) from other
    assert str(raised.value).split() == ["Expected", "b:", "one."]


@pytest.mark.parametrize(
    ("flag", "level"), [("-q", logging.WARNING), ("-v", logging.DEBUG), ("--x", logging.INFO)]
)
def test_levels(flag, level):
    with reporting_errors(["segment", flag, "photo.jpg"]) as rest:
        assert logging.getLogger("ovss").level == level
    assert rest == [arg for arg in ("segment", flag, "photo.jpg") if arg not in ("-q", "-v")]


def test_notes_go_to_standard_error_once(capsys):
    for _ in range(2):
        with reporting_errors([]):
            logging.getLogger("ovss.somewhere").info("a note")
    assert capsys.readouterr().err == "a note\na note\n"


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["configs"], 0),
        (["prepare", "--help"], 0),
        (["compare", "--help"], 0),
        (["reproduce", "--help"], 0),
        (["table", "--help"], 0),
        (["tets"], 2),
        (["test", "--config", "nothing"], 2),
        (["prepare", "--config", "nothing"], 2),
        (["test"], 2),
        (["test", "--config", "demo", "--model.layr=3"], 2),
    ],
)
def test_quick_answers_import_no_lightning(args, code):
    program = (
        "import sys; from ovss.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: assert not {'lightning', 'transformers', 'torch'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *args], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    assert done.stdout or code


def test_help_leaves_out_what_only_training_needs(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train_free_eval.py"])
    with pytest.raises(SystemExit) as stop:
        main(["test", "--help"])
    assert stop.value.code in (0, None)
    shown = capsys.readouterr().out
    for option in ("limit_test_batches", "devices", "precision", "fast_dev_run", "detect_anomaly"):
        assert f"--trainer.{option} " in shown
    for option in ("max_epochs", "limit_train_batches", "gradient_clip_val"):
        assert f"--trainer.{option}" not in shown


def test_only_the_command_line_knows_the_data_modules():
    """Arrows run one way: `ovss` imports `datamodules` in its cli alone."""
    knowing = {
        path.relative_to(ROOT / "ovss").parent.as_posix()
        for path in (ROOT / "ovss").rglob("*.py")
        if re.search(r"^\s*(from|import) .*\bdatamodules\b", path.read_text(encoding="utf-8"), re.M)
    }
    assert knowing == {"cli", "."}  # `ovss/datamodules.py` is their name


BOTH_NAMES = """
import ovss.datamodules as ours, datamodules as bare
from ovss.datamodules.download.archives import Archive
from datamodules.download.archives import Archive as same
assert ours is bare and Archive is same and ours.VOC is bare.VOC
assert ours.VOC.__module__ == "ovss.datamodules.voc"
"""


@pytest.mark.parametrize("bare_first", [False, True])
def test_data_modules_are_the_same_under_both_names(bare_first):
    first = "import datamodules.voc\n" if bare_first else ""
    subprocess.run([sys.executable, "-c", first + BOTH_NAMES], cwd=ROOT, check=True)


def test_another_projects_datamodules_hide_nothing(tmp_path):
    (tmp_path / "datamodules").mkdir()
    (tmp_path / "datamodules" / "__init__.py").write_text("theirs = True\n")
    code = (
        "import datamodules; assert datamodules.theirs\n"
        "from ovss.datamodules import Scenes; from ovss.datamodules.voc import VOC\n"
        "from ovss.cli.main import main; main(['prepare', '--config', 'demo', '--check',"
        " '--data.init_args.root', 'nowhere'])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert f"Expected Scenes (drawn, 13 classes) under {tmp_path / 'nowhere'}" in done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_of_the_project_takes_the_bare_name():
    found = [
        path.relative_to(ROOT).as_posix()
        for folder in ("ovss", "datamodules", "tests", "tools", "benchmarks", "examples")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"^\s*(from|import) datamodules\b", path.read_text(encoding="utf-8"), re.M)
        and path.name != "test_console.py"
    ]
    assert found == ["ovss/datamodules.py"]  # for type checkers


def test_help_lists_every_command(capsys):
    main([])
    shown = capsys.readouterr().out
    for name, what in COMMANDS.items():
        assert name in shown
        assert what in shown
    assert set(QUICK) <= set(COMMANDS)


def test_compare_says_what_it_wants(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["compare", "nowhere", "neither", "-q"])
    assert stop.value.code == 1
    assert "scores.json" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["compare"])
    assert stop.value.code == 2


@pytest.mark.parametrize("option", ["--ckpt_path=x.ckpt", "--weights_only=false"])
@pytest.mark.parametrize("command", ["test", "predict"])
def test_checkpoints_of_lightning_are_no_option(monkeypatch, capsys, command, option):
    """They would be unpickled."""
    monkeypatch.setattr(sys, "argv", ["train_free_eval.py"])
    with pytest.raises(SystemExit) as stop:
        main([command, "--config=configs/demo.yaml", option])
    assert stop.value.code == 2
    assert option.partition("=")[0] in capsys.readouterr().err


def test_a_misspelt_option_is_guessed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train_free_eval.py"])
    with pytest.raises(SystemExit) as stop:
        main(["segment", "photo.jpg", "--layr=3"])
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert "Did you mean --model.layer instead of --layr?" in message
    assert len(message.splitlines()) == 3


@pytest.mark.parametrize(
    ("args", "message", "hint"),
    [
        (
            ["test"],
            "Expected a configuration for `test`, but got none with `data`; give one with "
            "--config, such as --config voc21 (`train_free_eval.py configs` lists them).",
            "test --help` lists the options",
        ),
        (["segment"], "Expected `photos`, but got none.", "segment --help` lists the options"),
        (
            ["tset"],
            f"Expected a command of {', '.join(COMMANDS)}, but got 'tset'. Did you mean test?",
            "`train_free_eval.py --help` lists the commands",
        ),
        (["xyzzy"], "but got 'xyzzy'.", "`train_free_eval.py --help` lists the commands"),
    ],
)
def test_what_is_missing_is_named(args, message, hint, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train_free_eval.py"])
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 2
    first, second = capsys.readouterr().err.splitlines()
    assert message in first
    assert hint in second
    assert second.count("train_free_eval.py") == 1


BOMB = "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else 'x'] * 9)}]\n" for n in range(20)
).encode()
"""Each line is nine of the line before it."""


@pytest.mark.parametrize("command", ["test", "prepare"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"model:\n  layer: [1\n", "to be YAML, but got: .*line 2"),
        (b"model:\n  layer: 1\n  head: 2\n  layer: 3\n", "`layer` .* after line 2.*line 4"),
        (b"a: &a\n  b: *a\n", "this is within itself.*line 1"),
        (BOMB, "aliases make this more than 100,000 values.*line 6"),
        (b"[" * 100_000, "nested too deeply"),
        (b"a: 2001-99-99\n", "month must be in"),
        (b"\xff\xfe", "to be YAML, but got: 'utf-8'"),
        (b"just text", "to have sections such as `model:` and `data:`, but got 'just text'"),
        (b"# nothing yet\n", "to have sections such as `model:` and `data:`, but got nothing"),
        (None, "but got no file that can be read .*`train_free_eval.py configs` lists"),
    ],
)
def test_a_configuration_with_a_mistake_is_named(
    command, content, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(sys, "argv", ["train_free_eval.py"])
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SystemExit) as stop:
        main([command, f"--config={path}"])
    assert stop.value.code == 2
    printed = capsys.readouterr().err
    assert str(path) in printed
    assert re.search(message, printed, re.DOTALL)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("model:\n  layer: 1\n  modell.layer: 3\n", "model.modell.layer"),
        ("modell:\n  layer: 3\n", "modell.layer"),
    ],
)
def test_the_file_of_an_unknown_setting_is_named(content, name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train_free_eval.py"])
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(SystemExit) as stop:
        main(["test", f"--config={ROOT / 'configs' / 'demo.yaml'}", f"--config={path}"])
    assert stop.value.code == 2
    first = capsys.readouterr().err.splitlines()[0]
    assert first.endswith(f"does not accept option '{name}' of {path}")


def test_aliases_and_merges_are_taken(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("one: &one\n  a: 1\n  b: 2\ntwo:\n  <<: *one\n  b: 3\nthree: [*one, *one]\n")
    one = {"a": 1, "b": 2}
    expected = {"one": one, "two": {"a": 1, "b": 3}, "three": [one, one]}
    assert read_config(str(path)) == expected


def test_a_configuration_may_stand_on_the_command_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train_free_eval.py"])
    demo = f"--config={ROOT / 'configs' / 'demo.yaml'}"
    for own in ('{"model": {"layer": 1}}', "model.layer: 1"):
        with pytest.raises(SystemExit) as stop:
            main(["test", demo, f"--config={own}", "--print_config"])
        assert stop.value.code in (0, None)
        assert "\n  layer: 1\n" in capsys.readouterr().out


# ---- progress ----------------------------------------------------------------------------------


def test_a_log_file_gets_a_line_an_interval_without_control_codes(monkeypatch, caplog):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    console = Console(file=io.StringIO(), force_terminal=False)
    with caplog.at_level(logging.INFO), Progress("test", 100, console=console) as shown:
        for _ in range(20):
            now[0] += 10
            shown.advance(3)
    assert caplog.messages == [
        "test: 18 of 100 photos, 3.3 s/photo, 5 min left",
        "test: 36 of 100 photos, 3.3 s/photo, 4 min left",
        "test: 54 of 100 photos, 3.3 s/photo, 3 min left",
    ]
    assert console.file.getvalue() == ""


def test_what_was_done_before_is_no_part_of_the_rate():
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with Progress("test", 400, console=console, before=390) as shown:
        shown.advance(5)
    assert shown.line(10.0) == "test: 395 of 400 photos, 2.0 s/photo, 10 s left"
    assert "395/400" in console.file.getvalue()


def test_a_terminal_gets_a_bar_with_rate_and_counts():
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with Progress("segment", 7, unit="photos", console=console) as shown:
        shown.advance(5)
        shown.advance(5)
    assert shown.done == 7
    drawn = console.file.getvalue()
    assert "7/7" in drawn
    assert "photos/s" in drawn


def test_a_download_of_weights_shows_a_bar_in_a_terminal(monkeypatch):
    """Transformers switches the hub's bars off with its own."""
    monkeypatch.setattr(logging.getLogger("ovss"), "level", logging.INFO)
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS")  # and again afterwards
    for terminal in (True, False):
        monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
        silence_libraries()
        assert are_progress_bars_disabled() is not terminal


def test_what_is_loaded_is_said_before(caplog):
    with caplog.at_level(logging.INFO), pytest.raises(FileNotFoundError):
        BlipITM.from_pretrained("Salesforce/blip-itm-large-flickr")
    said = "loading Salesforce/blip-itm-large-flickr (1.8 GB from the hub on the first use)"
    assert caplog.messages[0] == said


def test_silence(caplog):
    console = Console(file=io.StringIO(), force_terminal=True)
    with caplog.at_level(logging.INFO), Progress("x", None, enabled=False, console=console) as p:
        p.advance(2)
    assert (p.done, console.file.getvalue(), caplog.messages) == (2, "", [])
    assert p.line(1.0) == "x: 2 photos, 2.0 photos/s"


def test_an_interrupt_that_lightning_turned_into_exit_code_1_is_130(capsys):
    def as_lightning_does():
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    with pytest.raises(SystemExit) as leaving, reporting_errors([]):
        as_lightning_does()
    assert leaving.value.code == 130
    assert "start the same command again" in capsys.readouterr().err


def test_other_exits_keep_their_code():
    with pytest.raises(SystemExit) as leaving, reporting_errors([]):
        sys.exit(75)
    assert leaving.value.code == 75


def test_shipped_configurations_go_by_name_from_any_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shipped = shipped_configs()
    assert set(shipped) == {
        path.relative_to(ROOT / "configs").with_suffix("").as_posix()
        for path in (ROOT / "configs").rglob("*.yaml")
        if path.parent.name != "suite"
    }
    for name in ("voc21", "configs/voc21.yaml", "voc21.yaml"):
        assert find_config(name) == shipped["voc21"]
    for name in ("bridgetower_base", "model/bridgetower_base"):
        assert find_config(name) == shipped["model/bridgetower_base"]
    # One's own file comes first, and what is neither is left for the error that names it.
    (tmp_path / "voc21").write_text("data: {}\n")
    assert find_config("voc21") == Path("voc21")
    assert find_config("nothing") == Path("nothing")
    main(["configs"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [*shipped, *shipped_suites()]
    for line in lines:
        assert len(line.split(maxsplit=1)) == 2, f"{line} starts with no comment"


def test_help_calls_the_program_by_its_name(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["somewhere/__main__.py"])
    main(["segment", "--help"])
    assert capsys.readouterr().out.startswith(f"usage: {PROGRAM} segment ")
    with pytest.raises(SystemExit):
        main(["test", "--help"])
    assert capsys.readouterr().out.startswith(f"usage: {PROGRAM} [options] test ")


def test_a_shipped_configuration_can_be_copied_once(tmp_path, capsys):
    main(["configs", "--copy", "ade150", str(tmp_path / "own")])
    copy = tmp_path / "own" / "ade150.yaml"
    printed = capsys.readouterr()
    assert printed.out == f"{copy}\n"
    assert f"Take it with `--config {copy}`; `--config ade150` is still the sh" in printed.err
    assert find_config(copy) == copy
    assert copy.read_bytes() == (ROOT / "configs" / "ade150.yaml").read_bytes()
    for name, message in (("ade150", "there is one; remove it"), ("ade", "but got 'ade'; `")):
        with pytest.raises(SystemExit) as end:
            main(["configs", "--copy", name, str(tmp_path / "own")])
        assert end.value.code == 2
        assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize("name", ["slurm", "suite", "torchrun"])
def test_the_clusters_scripts_can_be_copied(tmp_path, capsys, name):
    main(["configs", "--copy", f"cluster/{name}", str(tmp_path)])
    copy = tmp_path / f"{name}.sh"
    assert capsys.readouterr().out == f"{copy}\n"
    assert os.access(copy, os.X_OK)
    assert "train_free_eval" not in copy.read_text()


def test_torchruns_script_starts_the_package(tmp_path):
    """With what it would call in place of Python."""
    calls = tmp_path / "python"
    calls.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    calls.chmod(0o755)
    script = str(ROOT / "configs" / "cluster" / "torchrun.sh")
    called = subprocess.run(
        ["bash", script, "voc21", "run", "--data.init_args.limit=2"],
        env={**os.environ, "PYTHON": str(calls)}, capture_output=True, text=True, check=True,
    ).stdout.split("\n")  # fmt: skip
    at = called.index("ovss")
    assert called[:2] == ["-m", "torch.distributed.run"]
    assert called[at - 1 : at + 4] == ["-m", "ovss", "test", "--config", "voc21"]
    assert called[-2] == "--data.init_args.limit=2"
