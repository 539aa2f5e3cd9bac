"""The command `compare`: finished runs against the first of them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def main(args: Sequence[str]) -> None:
    """Run `compare RUN RUN...`: a table, and a report as HTML.

    Args:
        args: what follows the command.
    """
    parser = argparse.ArgumentParser(
        "train_free_eval.py compare",
        description="Compare runs of one benchmark with the first of them. Writes a table with "
        "differences of mIoU and 95 % paired bootstrap intervals over photos, and an HTML report.",
        allow_abbrev=False,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/compare.html"), help="the report (%(default)s)"
    )
    parser.add_argument(
        "--resamples", type=int, default=10_000, help="draws of the bootstrap (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draws (%(default)s)")
    options = parser.parse_args(args)
    from ovss.report.compare import compare_runs

    compare_runs(options.runs, options.output, options.resamples, options.seed)
