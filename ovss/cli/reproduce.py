"""The command `reproduce`: the paper's table, ours beside its own."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from ovss.cli import runner
from ovss.cli.paper import PAPER, Row, heading, line_of, write_table
from ovss.utils.text import PROGRAM

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
    runner.refuse_launchers("reproduce")
    from ovss.cli.released import Plan, plan

    plans: list[Plan] = [plan(key, options, rest) for key in options.benchmarks]
    for note in dict.fromkeys(each.note for each in plans if each.note):
        log.info("%s", note)
    runner.refuse_missing(
        {each.key: each.problems for each in plans},
        f"data, answers and weights of {len(plans)} benchmarks",
        "--benchmarks",
    )
    rows = {key: Row(key, None, "not asked for") for key in PAPER}
    rows |= {each.key: Row(each.key, None, "not run yet") for each in plans}
    sys.stdout.write(heading())
    for each in plans:
        scored = runner.scores_of(each.key, each.layout, each.arguments, each.finished)
        rows[each.key] = Row(each.key, *scored)
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
        type=runner.folder,
        default=Path("runs/reproduce"),
        metavar="DIR",
        help="a run folder for each benchmark, and the table (%(default)s)",
    )
    parser.add_argument(
        "--config", action="append", default=[], metavar="YAML", help="over the paper's model"
    )
    options, rest = parser.parse_known_args(args)
    runner.only_options(parser, rest)
    return options, rest
