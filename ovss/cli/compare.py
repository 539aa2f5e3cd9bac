"""The command `compare`: finished runs against the first of them."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ovss.cli.config_file import load_yaml
from ovss.utils.text import PROGRAM

if TYPE_CHECKING:
    from ovss.report.gallery import Photos
    from ovss.runs.run import Run

log = logging.getLogger(__name__)


def main(args: Sequence[str]) -> None:
    """Run `compare RUN RUN...`: a table, and a report as HTML.

    Args:
        args: what follows the command.
    """
    parser = argparse.ArgumentParser(
        f"{PROGRAM} compare",
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

    compare_runs(options.runs, options.output, options.resamples, options.seed, open_photos)


def open_photos(run: Run) -> Photos | None:
    """The photos and ground truth that a run's `config.yaml` names; None where they are not here.

    A run folder is data, and may be anybody's: only this project's own data modules are made from
    it, with arguments that are numbers or texts. They read, and draw or download nothing.
    """
    from ovss import datamodules
    from ovss.preprocessing import InputSpec
    from ovss.utils.files import check_regular

    try:
        check_regular(run.layout.config)
        section = load_yaml(run.layout.config.read_text(encoding="utf-8"))["data"]
        package, _, name = section["class_path"].rpartition(".")
        arguments = section.get("init_args") or {}
        known: list[str] = vars(datamodules)["__all__"]
        if package not in ("ovss.datamodules", "datamodules") or name not in known:
            raise ValueError(f"{section['class_path']!r} is none of this project's data modules")
        for key, value in arguments.items():
            if not isinstance(value, (str, int, float, type(None))):
                raise ValueError(f"`{key}` is neither a number nor a text")
        module: Any = getattr(datamodules, name)(**arguments)
        module.spec = InputSpec(16, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # no model reads them
        module.setup("test")
        return module.dataset
    except (
        OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, yaml.YAMLError
    ) as error:  # fmt: skip
        log.info("Photos are left out: %s has no data that can be read (%s).", run.folder, error)
        return None
