"""The command line's front door: quick answers first, then Lightning."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ovss._version import __version__

HELP = """\
usage: train_free_eval.py COMMAND [--config YAML ...] [--option VALUE ...]

Training-free open-vocabulary semantic segmentation (PnP-OVSS), as a Lightning evaluation.

commands:
{commands}

examples:
  train_free_eval.py test --config configs/demo.yaml
  train_free_eval.py prepare --config configs/voc21.yaml
  train_free_eval.py test --config configs/voc21.yaml --data.init_args.root /data
  train_free_eval.py segment photo.jpg --classes "cat, dog, grass"
  train_free_eval.py compare runs/voc21 runs/voc21_no_crf
  train_free_eval.py test --config configs/voc21.yaml --print_config

options of every command:
  --help       list a command's options
  -q, -v       say less (no progress, no notes) or more (what the libraries say, too)
  --traceback  show the stack of an error

exit codes: 0 done, 1 an error that the message names, 2 a mistake in the command line or the
configuration, 75 stopped by a signal (start the same command again to go on), 130 stopped with
Ctrl-C (likewise).

This is ovss {version}; `--version` prints it.
"""

COMMANDS = {
    "test": "segment and score a benchmark",
    "predict": "segment a data set; score it where there is ground truth",
    "segment": "segment photos of your own with any class names",
    "prepare": "download what a benchmark needs, and check every photo and mask",
    "tune": "choose layer, head, threshold and dropout without segmentation labels",
    "compare": "compare finished runs: differences, their uncertainty, and photos",
    "configs": "list the shipped configurations",
    "completion": "print a completion script for bash, zsh or tcsh",
}
"""Each command with what it does; `ovss.cli.lightning_cli` runs those that are not in `QUICK`."""


def compare(args: Sequence[str]) -> None:
    """`compare RUN RUN...`: a table, and a report as HTML."""
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


def configs(args: Sequence[str]) -> None:
    """`configs`: every shipped YAML with the first line of its comment."""
    argparse.ArgumentParser(
        "train_free_eval.py configs", description="List the shipped configurations."
    ).parse_args(args)
    home = Path(__file__).parents[2]
    files = sorted((home / "configs").rglob("*.yaml"), key=lambda f: (len(f.parts), f))
    lines = []
    for file in files:
        first = file.read_text(encoding="utf-8").partition("\n")[0]
        what = first.lstrip("# ") if first.startswith("#") else ""
        lines.append((file.relative_to(home).as_posix(), what))
    width = max((len(name) for name, _ in lines), default=0)
    sys.stdout.writelines(f"{name:<{width}}  {what}".rstrip() + "\n" for name, what in lines)


def prepare(args: Sequence[str]) -> None:
    """`prepare --config YAML`: see `ovss.cli.prepare`."""
    from ovss.cli.prepare import main as prepare_data

    prepare_data(args)


QUICK: dict[str, Callable[[Sequence[str]], None]] = {
    "compare": compare,
    "configs": configs,
    "prepare": prepare,
}
"""Commands that need no model."""


def main(args: Sequence[str] | None = None) -> None:
    """Run a command.

    Args:
        args: the command line without the program's name; default: `sys.argv`.
    """
    args = list(sys.argv[1:] if args is None else args)
    # Importing Lightning takes seconds: what needs no model is answered without it.
    if not args or args[0] in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        lines = "\n".join(f"  {name:<{width}}  {what}" for name, what in COMMANDS.items())
        sys.stdout.write(HELP.format(commands=lines, version=__version__))
    elif args == ["--version"]:
        sys.stdout.write(f"ovss {__version__}\n")
    elif (command := next((arg for arg in args if arg[0:1] != "-"), "")) in QUICK:
        from ovss.cli.console import manners

        with manners(args) as rest:
            rest.remove(command)
            QUICK[command](rest)
    else:
        from ovss.cli.lightning_cli import run

        run(args)
