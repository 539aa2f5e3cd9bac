"""The configurations that come with the project, by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

_PACKAGE = Path(__file__).parents[1]

FOLDER = _PACKAGE / "configs" if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent / "configs"
"""Where they are: in an installed package, or beside it in a checkout."""

SHORT_NAMES = {"blip_base": "blip_base_flickr", "blip_large": "blip_large_flickr"}
"""Models that go by less than their whole name: the paper's fine-tuning of each size."""


def shipped_configs() -> dict[str, Path]:
    """Every shipped configuration by its name, such as `voc21` or `model/bridgetower_base`."""
    suites = shipped_suites().values()
    files = sorted(FOLDER.rglob("*.yaml"), key=lambda file: (len(file.parts), file))
    return _by_name([file for file in files if file not in suites])


def shipped_suites() -> dict[str, Path]:
    """The suites of runs by name, such as `suite/demo`; they are no configurations of a run."""
    return _by_name(sorted(FOLDER.glob("suite/*.yaml")))


def shipped_models() -> list[str]:
    """The names that `find_config` takes for a model, the demo's first."""
    configs = [name.removeprefix("model/") for name in shipped_configs() if "model/" in name]
    return ["demo", *configs]


def shipped_scripts() -> dict[str, Path]:
    """The scripts beside them by name, such as `cluster/slurm`."""
    return _by_name(sorted(FOLDER.rglob("*.sh")))


def _by_name(files: Sequence[Path]) -> dict[str, Path]:
    return {file.relative_to(FOLDER).with_suffix("").as_posix(): file for file in files}


def find_config(name: str | Path) -> Path:
    """A configuration: a file, or else the shipped one of that name.

    Args:
        name: a path; `voc21`, `configs/voc21.yaml` and, of `model/`, `bridgetower_base` alone name
            shipped ones from any folder; so do `bridgetower-base` and those of `SHORT_NAMES`.

    Returns:
        Its path, which exists only where such a file does.
    """
    path = Path(name)
    if path.is_file():
        return path
    if asked := _asked(path):
        shipped = shipped_configs()
        for own in (asked, f"model/{SHORT_NAMES.get(asked, asked)}"):
            if own in shipped:
                return shipped[own]
    return path


def find_suite(name: str | Path) -> Path:
    """A suite: a file, or else the shipped one of that name.

    Args:
        name: a path; `demo`, `suite/demo` and `configs/suite/demo.yaml` name a shipped one from
            any folder.

    Returns:
        Its path, which exists only where such a file does.
    """
    path = Path(name)
    own = f"suite/{_asked(path).removeprefix('suite/')}"
    return path if path.is_file() else shipped_suites().get(own, path)


def _asked(path: Path) -> str:
    """The name of what is shipped that a path could mean; empty where it can be none."""
    if path.suffix not in ("", ".yaml") or not path.name:
        return ""
    return path.with_suffix("").as_posix().removeprefix("configs/").replace("-", "_")


def shipped_section(name: str, section: str) -> dict[str, Any]:
    """A section of a shipped configuration."""
    return yaml.safe_load(find_config(name).read_text(encoding="utf-8"))[section]
