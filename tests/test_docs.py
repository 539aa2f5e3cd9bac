"""Every command and code block of README.md and docs/*.md does what it says.

```bash and ```python blocks are run, in order, in a folder with the shipped configurations and a
few drawn scenes. A block whose first line is a comment with a file's name (`# toy.yaml`) is written
to that file instead. A block after a comment `<!-- not run: reason -->` (a download, a cluster) is
only parsed: Python must compile, and what follows `train_free_eval.py` must be a command line that
the parser takes. Commands of `make` must be targets of the Makefile; they run these tests
themselves.
"""

import ast
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from pkgutil import resolve_name
from typing import NamedTuple

import pytest
import yaml

from ovss.cli.main import COMMANDS, QUICK, main
from ovss.utils.errors import ConfigurationError

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    page
    for page in (ROOT / "README.md", ROOT / "SECURITY.md", *(ROOT / "docs").glob("*.md"))
    if page.exists()
)
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))


class Block(NamedTuple):
    line: int
    language: str
    code: str
    run: bool


def blocks_of(text):
    """The fenced bash and python blocks of a page."""
    blocks, skipped, start, language, code = [], False, None, "", []
    for number, line in enumerate(text.splitlines(), 1):
        if start is None:
            fence = re.match(r"```(\w*)\s*$", line)
            if fence:
                start, language, code = number, fence[1], []
            elif line.strip():
                skipped = bool(re.match(r"<!-- not run: .+ -->$", line.strip()))
        elif line.strip() == "```":
            if language in ("bash", "python", "yaml"):
                blocks.append(Block(start, language, "\n".join(code) + "\n", not skipped))
            start, skipped = None, False
        else:
            code.append(line)
    assert start is None, f"the block from line {start} has no end"
    return blocks


def commands_of(code):
    """The command lines of a bash block as lists of words; comments are left out."""
    joined = code.replace("\\\n", " ")
    words = [shlex.split(line, comments=True) for line in joined.splitlines()]
    return [line for line in words if line]


def arguments_of(words):
    """What follows `train_free_eval.py` in a command line; None where it is not in it."""
    names = [number for number, word in enumerate(words) if Path(word).name == "train_free_eval.py"]
    return words[names[0] + 1 :] if names else None


def parse(arguments):
    """Have the parser read a command line without making anything."""
    from ovss.cli.lightning_cli import EvaluationCLI

    class ParseOnly(EvaluationCLI):
        def instantiate_classes(self):
            pass

        def _run_subcommand(self, subcommand):
            pass

    if arguments and arguments[0] in COMMANDS and arguments[0] not in QUICK:
        ParseOnly([word for word in arguments if word not in ("-q", "-v", "--traceback")])
    else:
        assert arguments[0] in COMMANDS or arguments[0].startswith("-"), arguments


def check_command(words):
    """A command line of a block that is not run."""
    words = [w for n, w in enumerate(words) if "=" not in w or (n > 0 and words[n - 1][0] == "-")]
    arguments = arguments_of(words)
    if arguments is not None:
        parse(arguments)
    elif words and words[0] == "make":
        assert set(words[1:]) <= TARGETS, words
    elif words and Path(words[0]).name in ("python", "python3") and words[1] != "-m":
        assert (ROOT / words[1]).is_file(), words


def run_command(words):
    """A command line of a block that is run."""
    arguments = arguments_of(words)
    if arguments is not None:
        try:
            main(arguments)
        except SystemExit as stop:
            if stop.code:
                raise
    elif words[0] == "make":
        assert set(words[1:]) <= TARGETS, words
    elif Path(words[0]).name in ("python", "python3"):
        subprocess.run([sys.executable, *words[1:]], check=True, timeout=300)
    else:
        subprocess.run(words, check=True, timeout=60)


@pytest.fixture
def folder(tmp_path, scenes_root, monkeypatch):
    """What a clone has, with a few scenes drawn."""
    for name in ("configs", "examples", "tools", "train_free_eval.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "scenes").symlink_to(scenes_root)
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train_free_eval.py"])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_blocks_of(page, folder):
    namespace = {"__name__": "__main__"}
    for block in blocks_of(page.read_text(encoding="utf-8")):
        where = f"{page.name}:{block.line}"
        name = re.match(r"# ([\w-]+\.(?:py|yaml))\n", block.code)
        if name:
            (folder / name[1]).write_text(block.code, encoding="utf-8")
            continue
        if block.language == "yaml":
            yaml.safe_load(block.code)
            continue
        if block.language == "python":
            code = compile(block.code, where, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            if block.run:
                exec(code, namespace)
            continue
        for words in commands_of(block.code):
            try:
                (run_command if block.run else check_command)(words)
            except (Exception, SystemExit) as error:
                raise AssertionError(f"{where}: {shlex.join(words)}") from error


def test_the_readmes_lightning_is_a_script_where_nothing_was_drawn(tmp_path):
    """As people run it: in a file, without `if __name__ == "__main__"`, in an empty folder."""
    blocks = blocks_of((ROOT / "README.md").read_text(encoding="utf-8"))
    (code,) = [block.code for block in blocks if "import Trainer" in block.code]
    (tmp_path / "script.py").write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert 0 < float(done.stdout.split()[-1]) <= 1
    assert len(list((tmp_path / "data").rglob("val_*.jpg"))) == 400


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_of(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_blocks_are_found_and_marked():
    text = (
        "```bash\na\n```\n\n<!-- not run: why -->\n```python\nb\n```\n```yaml\nc\n```\n"
        "<!-- not run: why -->\ntext\n```python\nd\n```\n"
    )
    assert blocks_of(text) == [
        (1, "bash", "a\n", True),
        (6, "python", "b\n", False),
        (9, "yaml", "c\n", True),
        (14, "python", "d\n", True),
    ]
    assert commands_of("a 'b c' \\\n  d # e\n\n# f\ng\n") == [["a", "b c", "d"], ["g"]]


@pytest.mark.parametrize(
    "line",
    [
        "python train_free_eval.py test --config configs/demo.yaml --model.layr 3",
        "python train_free_eval.py test --config configs/nowhere.yaml",
        "python train_free_eval.py explode",
        "make nonsense",
        "python tools/nowhere.py",
    ],
)
def test_a_wrong_command_would_be_noticed(line, folder):
    with pytest.raises((AssertionError, SystemExit, ConfigurationError)):
        check_command(shlex.split(line))


def test_foreign_lightning(folder, capsys):
    runpy.run_path(str(ROOT / "examples" / "foreign_lightning.py"), run_name="__main__")
    assert "mIoU" in capsys.readouterr().out


def test_notebook_runs_from_top_to_bottom(folder, capsys):
    notebook = json.loads((ROOT / "examples" / "quickstart.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["outputs"] for cell in cells] == [[]] * len(cells), "clear the outputs"
    namespace, shown = {}, []
    for cell in cells:
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "cell", "exec"), namespace)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), namespace)
            shown.append(value)
    # What a notebook draws by itself: the overlay, the evidence, the overlay after one round.
    pictures = [value._repr_png_() for value in shown if value is not None]
    assert [data[:4] for data in pictures] == [b"\x89PNG"] * 3
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines if line.startswith("round")] == [
        f"round {number}" for number in range(4)
    ]
    found = [float(line.split()[-1]) for line in lines if "IoU" in line]
    assert len(found) == len(namespace["names"])
    assert min(found) > 0.3


def pages_of(nav):
    """The files that mkdocs.yml's `nav` names, in order."""
    return [
        page
        for entry in nav
        for value in entry.values()
        for page in ([value] if isinstance(value, str) else pages_of(value))
    ]


def test_the_site_has_every_page():
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    docs = ROOT / "docs"
    there = {page.relative_to(docs).as_posix() for page in docs.rglob("*.md")}
    outside = {"index.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"}
    assert sorted(pages_of(settings["nav"])) == sorted(there | outside)


def test_what_the_site_says_of_the_code_is_there():
    pages = (ROOT / "docs" / "api").glob("*.md")
    names = [
        name
        for page in pages
        for name in re.findall(r"^::: ([\w.]+)$", page.read_text(encoding="utf-8"), re.M)
    ]
    assert "ovss.segmentation.segment" in names
    for name in names:
        assert resolve_name(name).__doc__, name


def test_citation_is_whole():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["license"] == "Apache-2.0"
    assert citation["preferred-citation"]["identifiers"][0]["value"] == "arXiv:2311.17095"
