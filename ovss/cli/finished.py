"""Whether a run is finished, without starting it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ovss._version import __version__
from ovss.cli.config_file import find_setting, load_yaml
from ovss.runs.fingerprint import flat
from ovss.runs.layout import RunLayout
from ovss.runs.run import read_results
from ovss.utils.files import check_regular

ASKED = (
    "model",
    "data",
    "trainer.precision",
    "trainer.callbacks",
    "trainer.logger",
    "trainer.limit_test_batches",
)
"""Sections and settings that decide what a run leaves; the others of the Trainer say how."""

NO_EFFECT = ("data.init_args.batch_size", "data.init_args.num_workers")
"""Settings of these that do not."""

ROOT = "data.init_args.root"


def finished(
    layout: RunLayout, config: dict[str, Any], settled: Collection[str] = ()
) -> dict[str, Any] | None:
    """The scores of a run that has come to its end with a configuration.

    None where anything differs: the run itself knows whether that matters, once it is started, but
    has to load the model for it.

    Args:
        layout: its folder.
        config: what is asked for, as in `config.yaml`.
        settled: dotted names of settings that may differ, or name a file that is newer.
    """
    try:
        scores, fingerprint = read_results(layout)
        check_regular(layout.config)
        before = _asked(load_yaml(layout.config.read_text(encoding="utf-8")), settled)
        now = _asked(config, settled)
        limit = find_setting(config, "data.init_args.limit")
        whole = scores["expected_photos"]
        done = scores["photos"] + scores.get("skipped", {}).get("count", 0)
        same = (
            before == now
            and fingerprint["ovss"] == __version__
            # Of a later start that did not come to its end there is the configuration alone.
            and layout.config.stat().st_mtime <= layout.scores.stat().st_mtime
            and not _newer(_files(now, config), layout.scores)
            and (ROOT in settled or _is_here(find_setting(config, ROOT)))
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError):
        return None
    return scores if same and done == min(whole, limit or whole) else None


def _asked(config: dict[str, Any], settled: Collection[str]) -> dict[str, Any]:
    """What a configuration asks for, by dotted name."""
    return {
        name: value
        for name, value in flat(config).items()
        if any(f"{name}.".startswith(f"{asked}.") for asked in ASKED)
        and name not in (*NO_EFFECT, *settled)
    }


def _files(settings: Mapping[str, Any], config: dict[str, Any]) -> Iterator[Path]:
    """The files, and the folders' files, that settings name: weights, answers, classes."""
    root = Path(str(find_setting(config, ROOT) or ""))
    for name, value in settings.items():
        # Other data may have come into the data's own folder.
        if not isinstance(value, str) or not value or name == ROOT:
            continue
        for path in (Path(value).expanduser(), root / value):
            yield from path.iterdir() if path.is_dir() else [path] if path.is_file() else []


def _is_here(root: Any) -> bool:
    """Whether a root can be that of a run: a relative one is another in another folder."""
    path = Path(str(root or ""))
    return path.is_absolute() or path.is_dir()


def _newer(files: Iterator[Path], scores: Path) -> bool:
    """Whether a file came there, or changed, after the scores."""
    # Not the time of modification, which copying may keep.
    return max((file.stat().st_ctime for file in files), default=0) > scores.stat().st_mtime
