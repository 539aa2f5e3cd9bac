"""What `reproduce` runs for a benchmark, and what of it is missing on this machine."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ovss.benchmark import PhotoBatch
from ovss.cli.config_file import find_setting
from ovss.cli.finished import finished
from ovss.cli.paper import PAPER
from ovss.cli.parsed import ParsedCLI
from ovss.proposals import FileProposer
from ovss.runs.layout import RunLayout
from ovss.utils.errors import ConfigurationError
from ovss.utils.text import PROGRAM
from ovss.vlm.loading import REVISIONS

ANSWERS: dict[str, Any] = {"threshold": 70, "fallback": "first"}
"""The released code's: what is above 70 %, and where nothing is, the first class."""

REPOSITORY = "https://github.com/letitiabanana/PnP-OVSS"
COMMIT = "e439962"

SETTLED = ("data.init_args.root", "model.proposals.init_args.path")
"""What does not keep a run from being finished: where the data is; the answers are compared."""


class Plan(NamedTuple):
    """A benchmark's run.

    Attributes:
        key: the benchmark.
        layout: its run folder.
        arguments: of the command line, from `test` on.
        finished: its scores, if it is done.
        problems: what is missing, each with the remedy.
        note: what is fetched before the run begins.
    """

    key: str
    layout: RunLayout
    arguments: list[str]
    finished: dict[str, Any] | None
    problems: list[str]
    note: str = ""


def plan(key: str, options: argparse.Namespace, rest: Sequence[str]) -> Plan:
    """What is to be run for a benchmark.

    Args:
        key: the benchmark.
        options: of `reproduce`.
        rest: options that are handed on.

    Raises:
        ConfigurationError: a setting that is wrong, or one of the paper's that is changed.
        SystemExit: a setting that does not exist.
    """
    answers = _answers(options.answers, PAPER[key].answers)
    layout = RunLayout(options.output / key)
    proposals = {
        "class_path": "ovss.proposals.FileProposer",
        "init_args": {"path": str(answers), **ANSWERS},
    }
    settings = {
        "model": {"variant": "released", "proposals": proposals},
        "data": {"init_args": {"protocol": "released"}},
    }
    arguments = [
        "test",
        f"--config={key}",
        "--config=model/blip_large_flickr",
        *(f"--config={config}" for config in options.config),
        f"--config={json.dumps(settings)}",
        f"--trainer.default_root_dir={layout.folder}",
        *([] if options.root is None else [f"--data.init_args.root={options.root}"]),
        *rest,
    ]
    cli = ParsedCLI(arguments)
    _check_paper(cli, settings)
    scores = finished(layout, cli.as_plain(), SETTLED)
    if scores and _same_answers(answers, scores):
        return Plan(key, layout, arguments, scores, [])
    problem, note = _weights(cli.setting("model.vlm"))
    problems = [*filter(None, [problem]), *_problems(cli, answers)]
    return Plan(key, layout, arguments, None, problems, note)


def _answers(folder: Path, name: str) -> Path:
    """The file of a benchmark's answers: as released, or under its short name."""
    released = folder / f"{name}_classification_noboundary.json"
    short = folder / f"{name}.json"
    return short if short.is_file() and not released.is_file() else released


def _check_paper(cli: ParsedCLI, settings: dict[str, Any]) -> None:
    """Refuse what would make the table's first lines untrue."""
    now = cli.as_plain()
    for name in ("model.variant", "model.proposals", "data.init_args.protocol"):
        if find_setting(now, name) != find_setting(settings, name):
            raise ConfigurationError(
                f"Expected `{name}` of `reproduce` to stay the paper's, as the table says that it "
                f"is, but got another; `{PROGRAM} test` takes any."
            )


def _same_answers(answers: Path, scores: dict[str, Any]) -> bool:
    """Whether the file holds what it did; one that is gone cannot say anything else."""
    if not answers.is_file():
        return True
    try:
        now = FileProposer(answers, **ANSWERS).settings()
        return now.items() <= scores["settings"]["proposals"].items()
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def _problems(cli: ParsedCLI, answers: Path) -> list[str]:
    found: list[str] = []
    photos, benchmark = None, None
    try:
        datamodule = cli.data()
        benchmark = datamodule.benchmark
        photos = [sample.id for sample in datamodule.find_whole().samples]
    except (OSError, ValueError) as error:
        found.append(f"data: {error}")
    if not answers.is_file():
        found.append(
            f"answers: Expected the authors' GPT-4o answers in {answers.parent}, but there are "
            f"none. Fetch them with `git clone {REPOSITORY} data/PnP-OVSS && git -C "
            f"data/PnP-OVSS checkout {COMMIT}`, or give their folder with --answers."
        )
    elif photos is not None and benchmark is not None:
        try:
            batch = PhotoBatch(photos, [], torch.empty(0))
            FileProposer(answers, **ANSWERS)(batch, benchmark, None)  # type: ignore[arg-type]
        except (OSError, ValueError) as error:
            found.append(f"answers: {error}")
    return found


def _weights(vlm: Any) -> tuple[str, str]:
    """Why the model's weights cannot be had, or that they are downloaded first; empty if not so."""
    from huggingface_hub import constants, try_to_load_from_cache

    arguments = vlm.get("init_args") or {}
    name = str(arguments.get("name_or_path", "demo"))
    revision = arguments.get("revision") or REVISIONS.get(name)
    if name == "demo" or Path(name).is_dir():
        return "", ""
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        problem = f"Expected a hub id or a folder with weights, but there is no folder {name}."
        return f"weights: {problem}", ""
    weights = ("model.safetensors", "pytorch_model.bin")
    cached = [try_to_load_from_cache(name, file, revision=revision) for file in weights]
    if any(isinstance(path, str) for path in cached):
        return "", ""
    command = f"hf download {name}" + (f" --revision {revision}" if revision else "")
    if constants.HF_HUB_OFFLINE:
        problem = (
            f"Expected {name} in the hub's cache, as HF_HUB_OFFLINE is set, but it is not there. "
            f"Fetch it with `{command}` without that, or give a folder with "
            "--model.vlm.init_args.name_or_path."
        )
        return f"weights: {problem}", ""
    return "", f"{name} is downloaded when the first run begins, or now by `{command}`"
