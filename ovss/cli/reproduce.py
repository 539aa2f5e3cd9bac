"""The command `reproduce`: the paper's table, ours beside its own."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ovss.cli.console import LEVELS
from ovss.cli.paper import PAPER, Row, heading, line_of, read_scores, write_table
from ovss.runs.layout import RunLayout
from ovss.utils.errors import ConfigurationError
from ovss.utils.signals import AGAIN, INTERRUPTED, REQUEUE, STARTER, stop
from ovss.utils.text import COMMAND, PROGRAM

log = logging.getLogger(__name__)


def main(args: Sequence[str]) -> None:
    """Run `reproduce [--benchmarks KEY ...] [--answers DIR] [--root DIR] [--config YAML ...]`.

    Args:
        args: what follows the command.

    Raises:
        ConfigurationError: a mistake in the command line.
        ValueError: something is missing on this machine, or a run has failed.
    """
    options, rest = _parsed(args)
    _refuse_launchers()
    from ovss.cli.released import Plan, missing, plan

    plans: list[Plan] = [plan(key, options, rest) for key in options.benchmarks]
    for note in dict.fromkeys(each.note for each in plans if each.note):
        log.info("%s", note)
    missing(plans)
    rows = {key: Row(key, None, "not asked for") for key in PAPER}
    rows |= {each.key: Row(each.key, None, "not run yet") for each in plans}
    sys.stdout.write(heading())
    for each in plans:
        rows[each.key] = _reproduce(each.key, each.layout, each.arguments, each.finished)
        sys.stdout.write(line_of(rows[each.key]))
        sys.stdout.flush()
        write_table(options.output, list(rows.values()))
    sys.stdout.write(f"the table is in {options.output / 'reproduce.md'}\n")
    failed = [rows[each.key] for each in plans if rows[each.key].problem]
    if failed:
        listed = "\n  ".join(f"{row.key}: {row.problem}" for row in failed)
        raise ValueError(
            f"Expected all benchmarks to be scored, but {len(failed)} failed:\n  {listed}\nTheir "
            "errors are above. Start the same command again to do these alone."
        )


def _parsed(args: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        f"{PROGRAM} reproduce",
        description="Run the paper's five benchmarks with the settings of its released code, and "
        "print our mIoU beside the paper's. What is missing is said before anything runs. The same "
        "command again goes on where it was stopped; what is finished is not run again.",
        epilog="Options of the runs, such as --trainer.devices 4 --trainer.strategy ddp, "
        "--data.init_args.batch_size 16 or --model.vlm.init_args.name_or_path FOLDER, are handed "
        "on to each.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--benchmarks",
        nargs="+",
        choices=PAPER,
        default=list(PAPER),
        metavar="KEY",
        help=f"some of {', '.join(PAPER)} (default: all)",
    )
    parser.add_argument(
        "--answers",
        type=Path,
        default=Path("data/PnP-OVSS/GPT4o_classification"),
        metavar="DIR",
        help="the authors' GPT-4o answers (%(default)s)",
    )
    parser.add_argument("--root", metavar="DIR", help="where the data sets are (data)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/reproduce"),
        metavar="DIR",
        help="a run folder for each benchmark, and the table (%(default)s)",
    )
    parser.add_argument(
        "--config", action="append", default=[], metavar="YAML", help="over the paper's model"
    )
    options, rest = parser.parse_known_args(args)
    for word in rest:
        if word.startswith("--trainer.default_root_dir"):
            raise ConfigurationError(
                "Expected `--output` to say where the run folders go, but got "
                "--trainer.default_root_dir; they are named after the benchmarks there."
            )
        if word.startswith("-") and not word.startswith(("--trainer.", "--data.", "--model.")):
            parser.error(f"unrecognized argument: {word}")
    if rest and not rest[0].startswith("-"):
        parser.error(f"unrecognized argument: {rest[0]}")
    return options, rest


def _refuse_launchers() -> None:
    """One process starts the runs one after another; each of them starts its own."""
    for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        if os.environ.get(name, "1") not in ("", "1"):
            raise ConfigurationError(
                f"Expected a single process for `reproduce`, but got {name}="
                f"{os.environ[name]}; leave torchrun or srun out and give --trainer.devices, or "
                "start the `test` commands that it prints under them."
            )


def _reproduce(
    key: str, layout: RunLayout, arguments: Sequence[str], finished: dict[str, Any] | None
) -> Row:
    """Score a benchmark, unless that is done."""
    if finished is not None:
        log.info("%s is finished already (%s)", key, layout.folder)
        return Row(key, finished)
    log.info("%s: %s %s", key, COMMAND, shlex.join(arguments))
    code = _run(arguments)
    if code in (REQUEUE, INTERRUPTED):
        raise SystemExit(code)  # the run has said why, and what to do
    if stop.received:  # when the run was about to end anyway
        log.warning("Stopped on %s; %s", stop.received, AGAIN)
        raise SystemExit(REQUEUE)
    if code:
        why = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
        return Row(key, None, why)
    try:
        return Row(key, read_scores(layout))
    except (OSError, ValueError) as error:
        return Row(key, None, f"no scores can be read ({error})")


def _run(arguments: Sequence[str]) -> int:
    """Run a command in a process of its own, to which signals go; gives its exit code."""
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
