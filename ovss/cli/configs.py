"""The command `configs`: the shipped configurations and suites."""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from ovss.utils.errors import ConfigurationError
from ovss.utils.shipped import find_config, shipped_configs, shipped_scripts, shipped_suites
from ovss.utils.text import PROGRAM

log = logging.getLogger(__name__)


def main(args: Sequence[str]) -> None:
    """Run `configs`: every shipped configuration and suite with the first line of its comment.

    Args:
        args: what follows the command.

    Raises:
        ConfigurationError: nothing shipped has that name, or a file is in the way of its copy.
    """
    parser = argparse.ArgumentParser(
        f"{PROGRAM} configs",
        description="List the shipped configurations. `--config NAME` takes them by name, with "
        "every command and from any folder; `suite NAME` takes those under suite/.",
    )
    parser.add_argument(
        "--copy",
        nargs=2,
        metavar=("NAME", "FOLDER"),
        help="write one out, to change it; also one of the scripts "
        + " and ".join(shipped_scripts()),
    )
    copy = parser.parse_args(args).copy
    if copy:
        _copy(*copy)
        return
    first_lines = {
        name: file.read_text(encoding="utf-8").partition("\n")[0]
        for name, file in {**shipped_configs(), **shipped_suites()}.items()
    }
    width = max(map(len, first_lines), default=0)
    for name, first in first_lines.items():
        what = first.lstrip("# ") if first.startswith("#") else ""
        sys.stdout.write(f"{name:<{width}}  {what}".rstrip() + "\n")


def _copy(name: str, folder: str) -> None:
    script = shipped_scripts().get(name.removesuffix(".sh"))
    suite = shipped_suites().get(name.removesuffix(".yaml"))
    source = script or suite or find_config(name)
    if source not in (script, suite, *shipped_configs().values()):
        raise ConfigurationError(
            f"Expected the name of a shipped configuration, but got {name!r}; `{PROGRAM} configs` "
            "lists them."
        )
    target = Path(folder) / source.name
    if target.exists():
        raise ConfigurationError(f"Expected to write {target}, but there is one; remove it.")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    sys.stdout.write(f"{target}\n")
    if script:
        target.chmod(0o755)  # which a wheel need not keep
        return
    named = {**shipped_configs(), **shipped_suites()}
    own = next(own for own, file in named.items() if file == source)
    taken = "suite" if suite else "--config"
    log.info("Take it with `%s %s`; `%s %s` is still the shipped one.", taken, target, taken, own)
