"""The command `configs`: the shipped configurations."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(args: Sequence[str]) -> None:
    """Run `configs`: every shipped YAML with the first line of its comment.

    Args:
        args: what follows the command.
    """
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
