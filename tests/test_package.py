"""What is built from the sources and installed: the whole product, from any folder."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILD = """
import sys
from setuptools import build_meta
print(getattr(build_meta, f"build_{sys.argv[1]}")(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A copy of the tracked and new files: building leaves traces beside them."""
    folder = tmp_path_factory.mktemp("sources")
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True)
    if names.returncode:
        pytest.skip("not in a git checkout")  # as in an unpacked source distribution
    for name in filter(None, names.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    return folder


def build(kind, sources, folder):
    """The built file."""
    command = [sys.executable, "-c", BUILD, kind, str(folder)]
    done = subprocess.run(command, cwd=sources, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(sources, tmp_path_factory):
    return build("wheel", sources, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def ovss(wheel, tmp_path_factory):
    """Runs the command of an unpacked wheel in an empty folder."""
    home = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(home)
    environment = {**os.environ, "PYTHONPATH": str(home), "PYTHONSAFEPATH": "1"}

    def run(*args, cwd):
        return subprocess.run(
            [sys.executable, "-m", "ovss", *args],
            cwd=cwd, env=environment, capture_output=True, text=True,
        )  # fmt: skip

    run.home = home
    return run


def test_a_wheel_holds_the_data_and_the_command(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry,) = (name for name in names if name.endswith("entry_points.txt"))
        assert "ovss = ovss.cli.main:main" in archive.read(entry).decode()
        (metadata,) = (name for name in names if name.endswith("METADATA"))
        described = archive.read(metadata).decode()
    assert "## How it works" in described
    assert "](docs/images" not in described
    for folder, inside in (("configs", "ovss/configs"), ("datamodules/data", "datamodules/data")):
        for path in (ROOT / folder).rglob("*.*"):
            assert f"{inside}/{path.relative_to(ROOT / folder).as_posix()}" in names
    for path in (ROOT / "ovss").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert path.relative_to(ROOT).as_posix() in names


def test_a_source_distribution_holds_what_the_tests_need(sources, tmp_path):
    with tarfile.open(build("sdist", sources, tmp_path)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = ["Makefile", "constraints.txt", ".ci/run", "train_free_eval.py", "setup.py"]
    for folder in ("tests", "configs", "docs", "tools", "examples", "benchmarks", "datamodules"):
        wanted += [
            path.relative_to(sources).as_posix()
            for path in (sources / folder).rglob("*.*")
            if path.is_file()
        ]
    assert not set(wanted) - names


def test_the_installed_command_works_in_an_empty_folder(ovss, tmp_path, scenes_root):
    listed = ovss("configs", cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert "voc21 " in listed.stdout
    done = ovss(
        "test", "--config", "demo", f"--data.init_args.root={scenes_root}",
        "--data.init_args.limit=2", "--data.init_args.num_workers=0",
        "--model.dropout.rounds=1", "--trainer.default_root_dir=run", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert {"scores.json", "report.html", "labels"} <= {
        p.name for p in (tmp_path / "run").iterdir()
    }
    lost = ovss("test", "--config", "voc21", cwd=tmp_path)
    assert lost.returncode == 1
    assert "`ovss prepare --config voc21 --data.init_args.root" in lost.stderr


@pytest.mark.slow
def test_a_wheel_installs_into_a_fresh_environment(wheel, tmp_path, scenes_root):
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    pinned = ["--constraint", ROOT / "constraints.txt"]
    subprocess.run([python, "-m", "pip", "install", "-q", *pinned, "torch"], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", *pinned, wheel], check=True)
    empty = tmp_path / "empty"
    empty.mkdir()
    command = python.with_name("ovss")
    for args in (
        ["--help"],
        ["prepare", "--help"],
        ["test", "--config", "demo", "--data.init_args.limit=20"],
        ["segment", next(scenes_root.rglob("*.jpg")), "--classes", "sun, tree"],
    ):
        subprocess.run([command, *args], cwd=empty, check=True)
    assert (empty / "runs" / "demo" / "scores.json").exists()
