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

from ovss.cli.config_file import is_text, load_yaml, read_config, take_configs
from ovss.cli.option_names import check_options
from ovss.cli.runner import FOLDER, folder, is_folder, is_option
from ovss.runs.layout import RunLayout
from ovss.utils.errors import ConfigurationError
from ovss.utils.shipped import find_suite, shipped_suites

PARTS = ("runs", "methods", "benchmarks")
"""Sections with a list."""
SHARED = ("configs", "options")
"""What stands in a part, and at the top for all runs."""
SECTIONS = ("config", "model", "data")
"""Options of `test` that no part has: `configs` are for these."""


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
    shared = Part("", *_settings(content, f"{file}", file.parent))
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
    own = content.get("output") or f"runs/suite_{file.stem}"
    if not isinstance(own, str):
        raise ConfigurationError(f"Expected `output` of {file} to be a folder, but got {own!r}.")
    output = output or folder(own)
    found = [_run(t, RunLayout(output / n), p, rest, file) for t, n, p in asked]
    for method, config in ((m, c) for m in methods for c in m.configs):
        if "data" in read_config(config):
            raise ConfigurationError(
                f"Expected the method {method.name} of {file} to leave `data` to the benchmarks, "
                f"but {config} has some; take a configuration without, or list its runs in `runs`."
            )
    return Suite(output, found)


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
    if not isinstance(entry, dict) or "name" not in entry:
        raise ConfigurationError(
            f"Expected a configuration's name or a mapping with `name` in {file}, {key}, but got "
            f"{entry!r}."
        )
    name = entry["name"]
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.+-]*", name):
        raise ConfigurationError(
            f"Expected a name that can be a folder's in {file}, {key}: letters, digits and . + - _ "
            f"after a letter, but got {name!r}."
        )
    where = f"{file}, {key}: {name}"
    _check_keys(entry, ("name", *SHARED), where)
    return Part(name, *_settings(entry, where, file.parent))


def _settings(
    section: dict[str, Any], where: str, folder: Path
) -> tuple[list[str], dict[str, Any]]:
    """The configurations and options of a part, or of the whole file."""
    configs, options = section.get("configs") or [], section.get("options") or {}
    if not isinstance(configs, list) or not all(isinstance(each, str) for each in configs):
        raise ConfigurationError(
            f"Expected `configs` in {where} to be a list of names or files, but got {configs!r}."
        )
    if not isinstance(options, dict):
        raise ConfigurationError(
            f"Expected `options` in {where} to be a mapping, but got {options!r}."
        )
    for option in options:
        name = str(option)
        if is_folder(name) or name in SECTIONS or not is_option(name):
            raise ConfigurationError(
                f"Expected an option of `test` by its whole name, such as `model.layer`, in "
                f"{where}, but got {option!r}"
                + ("; `output` says where run folders go." if is_folder(name) else ".")
            )
    return [_config(each, folder) for each in configs], options


def _check_keys(section: dict[str, Any], known: Sequence[str], where: str) -> None:
    if unknown := [key for key in section if key not in known]:
        raise ConfigurationError(
            f"Expected {', '.join(known)} in {where}, but got {', '.join(map(repr, unknown))}."
        )


def _config(name: str, folder: Path) -> str:
    """A configuration as `--config` takes it: beside the suite, or else as it is named."""
    own = folder / name
    return str(own) if not is_text(name) and own.is_file() else name


def _run(
    title: str, layout: RunLayout, parts: Sequence[Part], rest: Sequence[str], file: Path
) -> SuiteRun:
    name = layout.folder.name.casefold()
    if name in (layout.proposals.name, layout.text_features.name) or name.startswith("table."):
        raise ConfigurationError(
            f"Expected another name than {title} in {file}: what runs share, or their table, is "
            "called so."
        )
    # All options of each part in turn: a section that stands later replaces what is in it.
    arguments = [
        "test",
        *(f"--config={config}" for part in parts for config in part.configs),
        *(f"--{name}={_as_typed(value)}" for part in parts for name, value in part.options.items()),
        f"--{FOLDER}={layout.folder}",
        *rest,
    ]
    if broken := [each for each in arguments if "\n" in each]:
        raise ConfigurationError(
            f"Expected options without line breaks for {title} of {file}, as its command is one "
            f"line of a list, but got {broken[0]!r}; give them in a file of `configs`."
        )
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
