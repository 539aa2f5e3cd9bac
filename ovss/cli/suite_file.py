"""A suite's file: which runs it asks for."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ovss.cli.config_file import load_yaml, take_configs
from ovss.cli.option_names import check_options
from ovss.cli.runner import FOLDER
from ovss.runs.layout import RunLayout
from ovss.utils.errors import ConfigurationError
from ovss.utils.shipped import find_suite, shipped_suites

PARTS = ("runs", "methods", "benchmarks")
"""Sections with a list."""
SHARED = ("configs", "options")
"""What stands in a part, and at the top for all runs."""


class SuiteRun(NamedTuple):
    """A run of a suite.

    Attributes:
        title: what progress calls it.
        layout: its run folder.
        arguments: of the command line, from `test` on.
    """

    title: str
    layout: RunLayout
    arguments: list[str]


class Part(NamedTuple):
    """What a run, a method or a benchmark adds to the command line."""

    name: str
    configs: list[str]
    options: dict[str, Any]


class Suite(NamedTuple):
    """A suite.

    Attributes:
        output: the folder of the run folders and of the table.
        runs: in the order in which they are run.
    """

    output: Path
    runs: list[SuiteRun]


def read_suite(name: str | Path, output: Path | None = None, rest: Sequence[str] = ()) -> Suite:
    """Read a suite, and check the names in it and in its configurations.

    Args:
        name: a file, or the name of a shipped one.
        output: in place of the file's own.
        rest: options for all runs, over those in the file.

    Raises:
        ConfigurationError: no such file, or a mistake in it or in a configuration.
    """
    file = find_suite(name)
    content = _load(file)
    _check_keys(content, ("output", *SHARED, *PARTS), f"{file}")
    shared = _part({"name": "all", **{k: content[k] for k in SHARED if k in content}}, file, "")
    runs, methods, benchmarks = (
        [_part(e, file, k) for e in _list(content, k, file)] for k in PARTS
    )
    if bool(methods) != bool(benchmarks):
        raise ConfigurationError(
            f"Expected both `methods` and `benchmarks` in {file}, as each method is run on each "
            "benchmark, but got one of them; `runs` is a list of runs as they are."
        )
    asked = [(run.name, run.name, [shared, run]) for run in runs]
    asked += [
        # A method's configuration goes over its benchmark's.
        (f"{method.name} on {benchmark.name}", f"{method.name}-{benchmark.name}",
         [shared, benchmark, method])
        for method, benchmark in itertools.product(methods, benchmarks)
    ]  # fmt: skip
    if not asked:
        raise ConfigurationError(
            f"Expected `runs`, or `methods` and `benchmarks`, in {file}, but got no run."
        )
    # Some file systems do not tell capital letters from small ones.
    names = Counter(name.casefold() for _, name, _ in asked)
    if twice := sorted({name for _, name, _ in asked if names[name.casefold()] > 1}):
        raise ConfigurationError(
            f"Expected the runs of {file} to differ in their names, which are those of their "
            f"folders, but got {', '.join(twice)} more than once."
        )
    folder = output or Path(str(content.get("output") or f"runs/{file.stem}"))
    return Suite(folder, [_run(t, RunLayout(folder / n), p, rest, file) for t, n, p in asked])


def _load(file: Path) -> dict[str, Any]:
    try:
        content = load_yaml(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"Expected a suite at {file}, but got no file that can be read ({error.strerror}); "
            f"shipped are {', '.join(shipped_suites())}."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"Expected {file} to be YAML, but got: {error}") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"Expected {file} to have sections such as `runs:`.")
    return content


def _list(content: dict[str, Any], key: str, file: Path) -> list[Any]:
    entries = content.get(key) or []
    if not isinstance(entries, list):
        raise ConfigurationError(f"Expected `{key}` of {file} to be a list, but got {entries!r}.")
    return entries


def _part(entry: Any, file: Path, key: str) -> Part:
    """An entry of a list: a mapping, or the name of a configuration alone."""
    if isinstance(entry, str):
        entry = {"name": Path(entry).stem, "configs": [entry]}
    where = f"{file}" + (f", {key}" if key else "")
    if not isinstance(entry, dict) or "name" not in entry:
        raise ConfigurationError(
            f"Expected a configuration's name or a mapping with `name` in {where}, but got "
            f"{entry!r}."
        )
    name = entry["name"]
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.+-]*", name):
        raise ConfigurationError(
            f"Expected a name that can be a folder's in {where}: letters, digits and . + - _ "
            f"after a letter, but got {name!r}."
        )
    where += f": {name}" if key else ""
    _check_keys(entry, ("name", *SHARED), where)
    configs, options = entry.get("configs") or [], entry.get("options") or {}
    if not isinstance(configs, list) or not all(isinstance(each, str) for each in configs):
        raise ConfigurationError(
            f"Expected `configs` in {where} to be a list of names or files, but got {configs!r}."
        )
    if not isinstance(options, dict):
        raise ConfigurationError(
            f"Expected `options` in {where} to be a mapping, but got {options!r}."
        )
    for option in options:
        sections = ("trainer.", "data.", "model.")
        if not str(option).startswith(sections) or str(option).startswith(FOLDER):
            raise ConfigurationError(
                f"Expected an option of `test` by its whole name, such as `model.layer`, in "
                f"{where}, but got {option!r}"
                + ("; `output` says where run folders go." if option == FOLDER else ".")
            )
    return Part(name, [_config(each, file.parent) for each in configs], options)


def _check_keys(section: dict[str, Any], known: Sequence[str], where: str) -> None:
    if unknown := [key for key in section if key not in known]:
        raise ConfigurationError(
            f"Expected {', '.join(known)} in {where}, but got {', '.join(map(repr, unknown))}."
        )


def _config(name: str, folder: Path) -> str:
    """A configuration as `--config` takes it: beside the suite, or else as it is named."""
    own = folder / name
    return str(own) if own.is_file() else name


def _run(
    title: str, layout: RunLayout, parts: Sequence[Part], rest: Sequence[str], file: Path
) -> SuiteRun:
    if layout.folder in (layout.proposals, layout.text_features):
        raise ConfigurationError(
            f"Expected another name than {title} in {file}: that folder holds what runs share."
        )
    options: dict[str, Any] = {}
    for part in parts:
        options |= part.options
    arguments = [
        "test",
        *(f"--config={config}" for part in parts for config in part.configs),
        *(f"--{name}={_as_typed(value)}" for name, value in options.items()),
        f"--{FOLDER}={layout.folder}",
        *rest,
    ]
    try:
        check_options("test", *take_configs(arguments[1:]))
    except ConfigurationError as error:
        raise ConfigurationError(f"{title} of {file}: {error}") from error
    return SuiteRun(title, layout, arguments)


def _as_typed(value: Any) -> str:
    """An option's value as one types it.

    Example:
        >>> [_as_typed(value) for value in ("bf16-mixed", 2, 0.5, True, None, [1, 2])]
        ['bf16-mixed', '2', '0.5', 'true', 'null', '[1, 2]']
    """
    return value if isinstance(value, str) else json.dumps(value, default=str)
