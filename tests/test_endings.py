"""Readers that leave, folders that cannot be written to, requests that are tried again."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ovss.cli.console import _Once
from ovss.cli.main import main

ROOT = Path(__file__).parents[1]
NOWHERE = "/proc/ovss"  # nobody can make a folder there, root included


def run_without_reader(*args, stderr_too=False):
    """A command whose standard output nobody reads from its start on."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        return subprocess.run(
            [sys.executable, str(ROOT / "train_free_eval.py"), *args],
            stdout=writing,
            stderr=writing if stderr_too else subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            text=True,
            timeout=300,
        )
    finally:
        os.close(writing)


@pytest.mark.parametrize("args", [["configs"], ["--help"], ["--version"]])
def test_an_answer_that_nobody_reads_ends_quietly(args):
    done = run_without_reader(*args)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_mistake_is_one_whether_or_not_anybody_reads():
    done = run_without_reader("explode")
    assert done.returncode == 2
    assert "Expected a command" in done.stderr
    assert run_without_reader("explode", stderr_too=True).returncode == 2


def test_a_run_goes_on_when_nobody_reads(scenes_root, tmp_path):
    done = run_without_reader(
        "test",
        "--config=configs/demo.yaml",
        f"--data.init_args.root={scenes_root}",
        "--data.init_args.limit=2",
        "--data.init_args.num_workers=0",
        f"--trainer.default_root_dir={tmp_path}",
        stderr_too=True,
    )
    assert done.returncode == 0
    assert json.loads((tmp_path / "scores.json").read_text())["photos"] == 2
    assert (tmp_path / "report.html").is_file()


def test_segment_says_what_cannot_be_written_before_it_segments(scenes_root, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train_free_eval.py"])
    photos = scenes_root / "VOCdevkit" / "VOC2012" / "JPEGImages"
    with pytest.raises(SystemExit) as stop:
        main(["segment", str(photos), "--classes=sun", f"--output={NOWHERE}"])
    assert stop.value.code == 1
    said = capsys.readouterr().err
    assert "Expected a folder for results that can be written to, but got /proc/ovss (" in said
    assert "choose another `--output`" in said


def test_compare_says_what_cannot_be_written_before_it_compares(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["compare", str(tmp_path), str(tmp_path), f"--output={NOWHERE}/page.html"])
    assert stop.value.code == 1
    said = capsys.readouterr().err
    assert "Expected a folder for the report that can be written to, but got /proc/ovss (" in said
    assert "choose another `--output`" in said


def test_requests_that_are_tried_again_are_named_once(caplog):
    logger = logging.getLogger("a hub's")
    logger.addFilter(_Once())
    for file in ("config.json", "vocab.txt"):
        for attempt in (1, 2):
            logger.warning(f"'timed out' thrown while requesting HEAD {file}")
            logger.warning(f"Retrying in 1s [Retry {attempt}/5].")
    logger.warning("something else")
    assert caplog.messages == [
        "'timed out' thrown while requesting HEAD config.json", "something else",
    ]  # fmt: skip
