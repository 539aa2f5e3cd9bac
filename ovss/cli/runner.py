"""Runs of `test` one after another, each in a process of its own: what one does harms no other."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ovss.cli.console import LEVELS
from ovss.utils.errors import ConfigurationError
from ovss.utils.signals import AGAIN, INTERRUPTED, REQUEUE, STARTER, stop

log = logging.getLogger(__name__)

FOLDER = "trainer.default_root_dir"
"""The setting that this program gives each run itself."""


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


def only_options(parser: argparse.ArgumentParser, rest: Sequence[str]) -> None:
    """End the program where something on a command line is no option of a run.

    Args:
        parser: of the command.
        rest: what it did not take.

    Raises:
        ConfigurationError: the run folder is given.
    """
    for word in rest:
        if word.startswith(f"--{FOLDER}"):
            raise ConfigurationError(
                f"Expected `--output` to say where the run folders go, but got --{FOLDER}; each "
                "run has one of its own there."
            )
        if word.startswith("-") and not word.startswith(("--trainer.", "--data.", "--model.")):
            parser.error(f"unrecognized argument: {word}")
    if rest and not rest[0].startswith("-"):
        parser.error(f"unrecognized argument: {rest[0]}")


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
