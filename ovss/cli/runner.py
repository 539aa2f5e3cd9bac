"""Runs of `test` one after another, each in a process of its own: what one does harms no other."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ovss.cli.console import LEVELS
from ovss.runs.layout import RunLayout
from ovss.utils.errors import ConfigurationError
from ovss.utils.signals import AGAIN, INTERRUPTED, REQUEUE, STARTER, stop

log = logging.getLogger(__name__)

FOLDER = "trainer.default_root_dir"
"""The setting that this program gives each run itself."""
SECTIONS = ("trainer.", "data.", "model.")
WHOLE = ("config", "model", "data", "seed_everything")
"""Options of a run: those that begin so, and those that are called so."""


def refuse_launchers(command: str) -> None:
    """Refuse to be one of several processes: each run starts its own.

    Args:
        command: what was started.

    Raises:
        ConfigurationError: torchrun or srun started several.
    """
    for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        if os.environ.get(name, "1") not in ("", "1"):
            raise ConfigurationError(
                f"Expected a single process for `{command}`, but got {name}={os.environ[name]}; "
                "leave torchrun or srun out and give --trainer.devices, or start the `test` "
                "commands that it prints under them."
            )


def folder(path: str) -> Path:
    """A folder as it is typed: of a run, Lightning expands `~` itself."""
    return Path(path).expanduser()


def is_option(name: str) -> bool:
    """Whether runs have an option of a name.

    Example:
        >>> [is_option(name) for name in ("model.layer", "seed_everything", "devices")]
        [True, True, False]
    """
    return name.replace("-", "_") in WHOLE or name.startswith(SECTIONS)


def is_folder(name: str) -> bool:
    """Whether an option is the run folder's."""
    return name.replace("-", "_").startswith(FOLDER)


def only_options(parser: argparse.ArgumentParser, rest: Sequence[str]) -> None:
    """End the program where something on a command line is no option of a run.

    Args:
        parser: of the command.
        rest: what it did not take.

    Raises:
        ConfigurationError: the run folder is given.
    """
    value_follows = False
    for word in rest:
        name, equals, _ = word.partition("=")
        if is_folder(name.removeprefix("--")):
            raise ConfigurationError(
                f"Expected `--output` to say where the run folders go, but got {name}; each run "
                "has one of its own there."
            )
        if name == "-c" or (name.startswith("--") and is_option(name[2:])):
            value_follows = not equals
        elif value_follows and (" " in word or not word.startswith("--")):  # it may be -1
            value_follows = False
        else:
            parser.error(f"unrecognized argument: {word}")


def refuse_missing(problems: Mapping[str, Sequence[str]], what: str, option: str = "") -> None:
    """Say what runs lack, before anything that takes long.

    Args:
        problems: of each run, with their remedies; empty of one that is complete or done.
        what: is expected.
        option: that asks for some of them alone.

    Raises:
        ValueError: something is missing.
    """
    # What several runs lack is said once.
    named: dict[str, list[str]] = {}
    for name, each in problems.items():
        for problem in each:
            named.setdefault(problem, []).append(name)
    if not named:
        return
    listed = "\n".join(f"- {', '.join(names)}: {problem}" for problem, names in named.items())
    complete = [name for name, each in problems.items() if not each]
    advice = f"\nComplete are: {option} {' '.join(complete)}" if complete and option else ""
    raise ValueError(
        f"Expected {what}, but those of {len(problems) - len(complete)} are not all here; nothing "
        f"was run.\n{listed}{advice}"
    )


def scores_of(
    title: str, layout: RunLayout, arguments: Sequence[str], done: dict[str, Any] | None
) -> tuple[dict[str, Any] | None, str]:
    """The scores of a run, for which it is run unless it is finished.

    Args:
        title: what progress calls it.
        layout: its folder.
        arguments: of the command line, from `test` on.
        done: its scores, if it is finished.

    Returns:
        The scores, None where it failed; and why it did, in a few words.

    Raises:
        SystemExit: see `run`.
    """
    if done is not None:
        log.info("%s is finished already (%s)", title, layout.folder)
        return done, ""
    from ovss.runs.scores import read_scores

    log.info("%s (%s)", title, layout.folder)
    before = _written(layout.scores)
    if problem := run(arguments):
        return None, problem
    if _written(layout.scores) == before:  # not those that an earlier run left there
        return None, f"it wrote no scores into {layout.folder}"
    try:
        return read_scores(layout), ""
    except (OSError, ValueError) as error:
        return None, f"no scores can be read ({error})"


def _written(file: Path) -> tuple[int, int] | None:
    """What tells a file from one written in its place; None where there is none."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def run(arguments: Sequence[str]) -> str:
    """Run a command in a process of its own, to which signals go.

    Args:
        arguments: of the command line, from `test` on.

    Returns:
        Why it failed, in a few words; empty if it did not.

    Raises:
        SystemExit: the run was stopped, and with it what started it; the code is the run's.
    """
    code = start(arguments)
    if code in (REQUEUE, INTERRUPTED):
        raise SystemExit(code)  # the run has said why, and what to do
    if stop.received:  # when the run was about to end anyway
        log.warning("Stopped on %s; %s", stop.received, AGAIN)
        raise SystemExit(REQUEUE)
    if code < 0:
        return f"was killed ({signal.Signals(-code).name})"
    return f"exit code {code}" if code else ""


def start(arguments: Sequence[str]) -> int:
    """Start a command in a process of its own and wait for it; gives its exit code."""
    level = logging.getLogger("ovss").level
    flags = [flag for flag, own in LEVELS.items() if own == level]
    command = [sys.executable, "-m", "ovss", *arguments, *flags]
    # The run is the first process of its own, not one that Lightning's launcher started.
    environment = {name: value for name, value in os.environ.items() if name != STARTER}
    # Found from any folder, and also where it is not installed.
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    sys.stdout.flush()
    children: list[subprocess.Popen] = []
    stop.listen(lambda: children)
    try:
        child = subprocess.Popen(command, env=environment)
        children.append(child)
        if stop.received:  # just before
            child.terminate()
        return _wait(child)
    finally:
        stop.restore()


def _wait(child: subprocess.Popen) -> int:
    try:
        return child.wait()
    except KeyboardInterrupt:
        # A terminal sends Ctrl-C to both, `kill` to this one alone.
        try:
            child.wait(_OWN_CTRL_C)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGINT)
        child.wait()
        raise


_OWN_CTRL_C = 2.0
"""Seconds in which a run that got Ctrl-C itself is expected to end."""
