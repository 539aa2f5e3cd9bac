"""The command `suite`: many runs with one command, and the table of their scores."""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ovss.cli import runner
from ovss.cli.suite_file import Suite, SuiteRun, read_suite
from ovss.utils.shipped import shipped_suites
from ovss.utils.text import COMMAND, PROGRAM

log = logging.getLogger(__name__)


def main(args: Sequence[str]) -> None:
    """Run `suite SUITE [--list] [--output DIR] [--OPTION VALUE ...]`.

    Args:
        args: what follows the command.

    Raises:
        ConfigurationError: a mistake in the command line, the suite or a configuration.
        ValueError: data is missing, or a run has failed.
    """
    options, rest = _parsed(args)
    suite = read_suite(options.suite, options.output, rest)
    if options.list:
        sys.stdout.writelines(f"{_command(run)}\n" for run in suite.runs)
        return
    runner.refuse_launchers("suite")
    scored, failed = [], []
    for number, (run, done) in enumerate(zip(suite.runs, _done(suite, options.suite), strict=True)):
        place = f"[{number + 1}/{len(suite.runs)}] {run.title}"
        _, problem = runner.scores_of(place, run.layout, run.arguments, done)
        if problem:
            log.warning("%s failed: %s", place, problem)
            failed.append(f"{run.title}: {problem}\n    {_command(run)}")
        else:
            scored.append(run.layout.folder)
    if scored:
        try:
            show_table(scored, suite.output)
        except (OSError, ValueError) as error:
            failed.append(f"the table: {error}")
    if failed:
        listed = "\n  ".join(failed)
        raise ValueError(
            f"Expected {len(suite.runs)} runs and their table, but {len(failed)} failed:\n"
            f"  {listed}\nTheir errors are above. Start the same command again to do these alone."
        )


def _parsed(args: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        f"{PROGRAM} suite",
        description="Run `test` for each run that a YAML file lists, and for each of its methods "
        "on each of its benchmarks; then print and write the table of their scores. A run that "
        "fails does not stop the others. The same command again does what is missing.",
        epilog="Options of the runs, such as --trainer.devices 4 or --data.init_args.root /data, "
        "stand after SUITE and are handed on to each.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "suite", metavar="SUITE", help=f"a file, or one of {', '.join(shipped_suites())}"
    )
    parser.add_argument(
        "--list",
        action="store_true",
        help="run nothing; print a command a line, as for the job array of a scheduler",
    )
    parser.add_argument(
        "--output",
        type=runner.folder,
        metavar="DIR",
        help="a run folder for each run, and the table (default: the file's `output`)",
    )
    options, rest = parser.parse_known_args(args)
    before = args[: args.index(options.suite)]
    if before and before[-1] in rest and "=" not in before[-1]:
        parser.error(f"Expected SUITE first, but got {before[-1]} before {options.suite}")
    runner.only_options(parser, rest)
    return options, rest


def _command(run: SuiteRun) -> str:
    return f"{COMMAND} {shlex.join(run.arguments)}"


def _done(suite: Suite, name: str) -> list[dict[str, Any] | None]:
    """The scores of each run that is finished; what is wrong with another is said now.

    Raises:
        ConfigurationError: a mistake in a configuration.
        ValueError: data is missing.
    """
    from ovss.cli.finished import finished
    from ovss.cli.parsed import ParsedCLI

    done: list[dict[str, Any] | None] = []
    problems: dict[str, list[str]] = {}
    looked: dict[str, list[str]] = {}  # runs share their data
    for run in suite.runs:
        try:
            cli = ParsedCLI(run.arguments)
            config = cli.as_plain()
        except (Exception, SystemExit):
            log.error("The mistake is in %s of %s.", run.title, name)
            raise
        done.append(finished(run.layout, config))
        problems[run.title] = []
        if done[-1] is None:
            data = json.dumps(config["data"], sort_keys=True, default=str)
            if data not in looked:
                looked[data] = cli.missing_data()
            problems[run.title] = looked[data]
    runner.refuse_missing(problems, f"the data of {len(suite.runs)} runs")
    return done


def show_table(folders: Sequence[Path], output: Path) -> None:
    """Print the runs' table and write it beside them.

    Args:
        folders: of finished runs.
        output: the folder for it.
    """
    from rich.console import Console
    from rich.text import Text

    from ovss.report.formats import print_matrix
    from ovss.report.matrix import read_matrix, write_matrix

    console = Console()
    matrix = read_matrix(folders)
    print_matrix(matrix, console)
    files = write_matrix(matrix, output / "table")
    console.print(Text(f"written: {', '.join(map(str, files))}"), soft_wrap=True)
