"""The command `suite`: many runs with one command, and the table of their scores."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ovss.cli import runner
from ovss.cli.suite_file import SuiteRun, read_suite
from ovss.utils.shipped import shipped_suites
from ovss.utils.text import COMMAND, PROGRAM

log = logging.getLogger(__name__)


def main(args: Sequence[str]) -> None:
    """Run `suite SUITE [--list] [--output DIR] [--OPTION VALUE ...]`.

    Args:
        args: what follows the command.

    Raises:
        ConfigurationError: a mistake in the command line, the suite or a configuration.
        ValueError: a run has failed.
    """
    options, rest = _parsed(args)
    suite = read_suite(options.suite, options.output, rest)
    if options.list:
        sys.stdout.writelines(f"{_command(run)}\n" for run in suite.runs)
        return
    runner.refuse_launchers("suite")
    configs = [_configuration(run, options.suite) for run in suite.runs]
    done, failed = [], []
    for number, (run, config) in enumerate(zip(suite.runs, configs, strict=True), 1):
        place = f"[{number}/{len(suite.runs)}] {run.title}"
        if problem := _do(run, config, place):
            log.warning("%s failed: %s", place, problem)
            failed.append(f"{run.title}: {problem}\n    {_command(run)}")
        else:
            done.append(run.layout.folder)
    if done:
        show_table(done, suite.output)
    if failed:
        listed = "\n  ".join(failed)
        raise ValueError(
            f"Expected all {len(suite.runs)} runs to be finished, but {len(failed)} failed:\n"
            f"  {listed}\nTheir errors are above. Start the same command again to do these alone."
        )


def _parsed(args: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        f"{PROGRAM} suite",
        description="Run `test` for each run that a YAML file lists, and for each of its methods "
        "on each of its benchmarks; then print and write the table of their scores. A run that "
        "fails does not stop the others. The same command again does what is missing.",
        epilog="Options of the runs, such as --trainer.devices 4 or --data.init_args.root /data, "
        "are handed on to each.",
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
        type=Path,
        metavar="DIR",
        help="a run folder for each run, and the table (default: the file's `output`)",
    )
    options, rest = parser.parse_known_args(args)
    runner.only_options(parser, rest)
    return options, rest


def _command(run: SuiteRun) -> str:
    return f"{COMMAND} {shlex.join(run.arguments)}"


def _configuration(run: SuiteRun, suite: str) -> dict[str, Any]:
    """What a run asks for, as in `config.yaml`; said before the first run where it is wrong."""
    from ovss.cli.parsed import ParsedCLI

    try:
        return ParsedCLI(run.arguments).as_plain()
    except (Exception, SystemExit):
        log.error("The mistake is in %s of %s.", run.title, suite)
        raise


def _do(run: SuiteRun, config: dict[str, Any], place: str) -> str:
    """Run it, unless it is finished; gives why it failed, in a few words."""
    from ovss.cli.finished import finished
    from ovss.runs.scores import read_scores

    if finished(run.layout, config) is not None:
        log.info("%s is finished already (%s)", place, run.layout.folder)
        return ""
    log.info("%s (%s)", place, run.layout.folder)
    if problem := runner.run(run.arguments):
        return problem
    try:
        read_scores(run.layout)
    except (OSError, ValueError) as error:
        return f"no scores can be read ({error})"
    return ""


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
