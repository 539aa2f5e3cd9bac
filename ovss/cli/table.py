"""The command `table`: methods x benchmarks from any run folders."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from ovss.runs.layout import RunLayout
from ovss.utils.errors import ConfigurationError
from ovss.utils.text import PROGRAM


def main(args: Sequence[str]) -> None:
    """Run `table RUN...`: print the table, and write it in every format.

    Args:
        args: what follows the command.

    Raises:
        ConfigurationError: neither runs nor `--published`.
        OSError: a run is missing, or a file cannot be written.
        ValueError: a run cannot be read.
    """
    options = _parsed(args)
    if not options.runs and not options.published:
        raise ConfigurationError(
            "Expected folders of finished runs, but got none; give some, or --published alone for "
            "published numbers of all benchmarks."
        )
    run = RunLayout(options.html.parent) if options.html else None
    if run and options.html == run.report and run.scores.exists():
        raise ConfigurationError(
            "Expected --html to be a file of its own, but got the report of a run, "
            f"{options.html}; choose another."
        )
    from rich.console import Console
    from rich.text import Text

    from ovss.report.formats import print_matrix
    from ovss.report.matrix import read_matrix, write_matrix
    from ovss.utils.files import make_writable

    if options.output.suffix in (".md", ".csv", ".json", ".tex", ".html"):
        options.output = options.output.with_suffix("")
    for path, option in ((options.output, "--output"), (options.html, "--html")):
        if path is not None:
            make_writable(path.parent, "a folder for the table", option)
    matrix = read_matrix(
        options.runs, options.published, options.intervals, options.resamples, options.seed
    )
    console = Console()
    print_matrix(matrix, console)
    written = write_matrix(matrix, options.output, options.html)
    console.print(Text(f"written: {', '.join(map(str, written))}"), soft_wrap=True)


def _parsed(args: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        f"{PROGRAM} table",
        description="One table of finished runs: a row a method, a column a benchmark. Cells whose "
        "protocol, proposals or photos are not those of the rest of their column bear a mark, and "
        "a note says what differs.",
        allow_abbrev=False,
    )
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="folders of runs")
    parser.add_argument(
        "--output",
        type=_file,
        default=Path("runs/table"),
        metavar="FILE",
        help="without a suffix; .md, .csv, .json, .tex and .html are added (%(default)s)",
    )
    parser.add_argument(
        "--html", type=_file, metavar="FILE", help="where the page goes (beside the others)"
    )
    parser.add_argument("--published", action="store_true", help="with rows of published numbers")
    parser.add_argument(
        "--intervals",
        action="store_true",
        help="with 95 %% bootstrap intervals over photos; some seconds a run",
    )
    parser.add_argument(
        "--resamples", type=_whole(1), default=10_000, help="draws of the bootstrap (%(default)s)"
    )
    parser.add_argument("--seed", type=_whole(0), default=0, help="of the draws (%(default)s)")
    return parser.parse_args(args)


def _file(path: str) -> Path:
    """A file's path as it is typed."""
    if not (found := Path(path).expanduser()).name:
        raise argparse.ArgumentTypeError(f"Expected a file, but got {path!r}")
    return found


def _whole(least: int) -> Callable[[str], int]:
    """Reads whole numbers that are large enough."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"Expected a whole number from {least}, got {text!r}")
        return int(text)

    return read
