"""The container recipes: what they copy is there, and their shell parses. Nothing is built."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "containers" / "Dockerfile").read_text(encoding="utf-8")
APPTAINER = (ROOT / "containers" / "apptainer.def").read_text(encoding="utf-8")

# An image's name with a version of three numbers: what it is does not move.
PINNED = r"[\w./-]+:\d+\.\d+\.\d+(-[\w.-]+)?"


def instructions():
    """The Dockerfile's instructions: names and arguments, lines joined, comments left out."""
    lines = [line for line in DOCKERFILE.splitlines() if not line.strip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]


def sections():
    """The Apptainer recipe's header under "" and its sections by name."""
    parts = re.split(r"^%(\w+)\n", APPTAINER, flags=re.M)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def copied():
    """What either recipe takes from the repository."""
    docker = [rest.split()[:-1] for name, rest in instructions() if name == "COPY"]
    apptainer = [[line.split()[0]] for line in sections()["files"].splitlines() if line.strip()]
    return {
        "Dockerfile": sorted(name for names in docker for name in names),
        "apptainer.def": sorted(name for names in apptainer for name in names),
    }


def test_both_copy_the_same_and_it_is_there():
    docker, apptainer = copied().values()
    assert docker == apptainer
    assert all((ROOT / name).exists() for name in docker)
    # What setup.py and setup.cfg read.
    assert {"setup.py", "setup.cfg", "pyproject.toml", "MANIFEST.in"} <= set(docker)
    assert {"README.md", "LICENSE", "ovss", "datamodules", "configs"} <= set(docker)


def test_base_images_are_pinned_and_the_same():
    (docker,) = [rest for name, rest in instructions() if name == "FROM"]
    (apptainer,) = re.findall(r"^From: (.+)$", sections()[""], re.M)
    assert docker == apptainer
    assert re.fullmatch(PINNED, docker)


def test_every_install_is_constrained():
    lines = DOCKERFILE.replace("\\\n", " ").splitlines() + APPTAINER.splitlines()
    installs = [line for line in lines if "pip install" in line]
    assert len(installs) == 4
    assert all("--constraint constraints.txt" in line for line in installs)


def test_the_command_is_the_entry_point():
    entry = dict(instructions())
    assert yaml.safe_load(entry["ENTRYPOINT"]) == ["ovss"]
    assert yaml.safe_load(entry["CMD"]) == ["--help"]
    assert sections()["runscript"].split() == ["exec", "ovss", '"$@"']
    assert entry["USER"] == "ovss"


def scripts():
    """Shell that the two recipes run."""
    for number, (name, rest) in enumerate(instructions()):
        if name == "RUN":
            yield f"Dockerfile-{number}", rest
    for name in ("post", "environment", "runscript", "test"):
        yield f"apptainer-{name}", sections()[name]


@pytest.mark.parametrize("script", [pytest.param(s, id=i) for i, s in scripts()])
def test_shell_parses(script):
    done = subprocess.run(["sh", "-n"], input=script, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_workflow_runs_what_a_change_must_pass():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    job = workflow["jobs"]["check"]
    assert job["strategy"]["matrix"]["python"] == ["3.10", "3.13"]
    steps = [step["run"] for step in job["steps"] if "run" in step]
    assert steps == [".ci/run"]
    assert "make docs" in (ROOT / ".ci" / "run").read_text()
