"""Configurations: read with errors that name the file, and made to compose."""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from yaml.error import MarkedYAMLError

from ovss.utils.errors import ConfigurationError
from ovss.utils.shipped import find_config, find_suite, shipped_models
from ovss.utils.text import PROGRAM

MOST_VALUES = 100_000
"""In a configuration, aliases written out. The largest that is shipped has some hundred."""

DEFAULT_MODEL = "ovss.PnPOVSS"
"""The class of a `model` section that names none, nor does one before it."""


class Config(NamedTuple):
    """A configuration: its file, or its text where that was given in place of one."""

    name: str
    content: dict[str, Any]


def take_configs(args: Sequence[str]) -> tuple[list[Config], list[str]]:
    """Read what `--config` and `--model` name, so that they compose.

    Args:
        args: a command line.

    Returns:
        The configurations, each to be merged over those before it, and the command line without
        them.

    Raises:
        ConfigurationError: see `read_config` and `read_model`.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    # In one list: what stands later wins.
    parser.add_argument(
        "-c", "--config", action="append", default=[], type=lambda name: (name, read_config)
    )
    parser.add_argument(
        "--model", action="append", dest="config", type=lambda name: (name, read_model)
    )
    options, rest = parser.parse_known_args(args)
    configs = [Config(name, read(name)) for name, read in options.config]
    # A class that an option names takes the place of a section's as one in a file does.
    classes = {name: value for name, value in options_of(rest) if name.endswith("class_path")}
    if classes:
        configs.append(Config("the command line", nested(classes)))
    chosen = DEFAULT_MODEL
    for config in configs:
        if isinstance(config.content.get("model"), dict):
            chosen = config.content["model"].setdefault("class_path", chosen)
    for earlier, later in itertools.combinations(configs, 2):
        drop_replaced(earlier.content, later.content)
    return configs, rest


def read_config(config: str) -> dict[str, Any]:
    """The content of a configuration.

    Args:
        config: a file, the name of a shipped one (`ovss.utils.shipped.find_config`), or the
            content itself: JSON, or YAML such as "model.layer: 3".

    Raises:
        ConfigurationError: no such file, or not YAML with sections in it.
    """
    try:
        content = load_yaml(config if is_text(config) else _find(config).read_text("utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"Expected a configuration at {config}, but got no file that can be read "
            f"({error.strerror}); `{PROGRAM} configs` lists the shipped ones, which go by name."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"Expected {config} to be YAML, but got: {error}") from error
    if not isinstance(content, dict):
        got = "nothing" if content is None else repr(str(content)[:60])
        raise ConfigurationError(
            f"Expected {config} to have sections such as `model:` and `data:`, but got {got}."
        )
    if not content.keys().isdisjoint(("runs", "methods")):
        raise ConfigurationError(
            f"Expected a configuration at {config}, but got a suite of several runs; `{PROGRAM} "
            f"suite {config}` does them."
        )
    content = nested(content)
    # The command line has an option for each argument of the model's class (`--model.layer`), so
    # they stand beside `class_path` in its parser; a file may have them in `init_args`, too, as
    # every other class has.
    model = content.get("model")
    if isinstance(model, dict) and isinstance(model.get("init_args"), dict):
        model |= model.pop("init_args")
    return content


def is_text(config: str) -> bool:
    """Whether it is a configuration itself, and no file's name.

    Example:
        >>> [is_text(config) for config in ("model.layer: 3", "{}", "voc21")]
        [True, True, False]
    """
    if config.lstrip()[:1] == "{":
        return True
    # `Path.is_file` fails with what is too long for a name.
    return ": " in config and not os.path.isfile(config)  # noqa: PTH113


def _find(config: str) -> Path:
    path = find_config(config)
    return path if path.is_file() else find_suite(config)  # of which more can be said


def read_model(name: str) -> dict[str, Any]:
    """The `model` section of a configuration, and nothing else of it.

    Args:
        name: see `ovss.utils.shipped.find_config`.

    Raises:
        ConfigurationError: no such file, or not one with a `model` section; see `read_config`.
    """
    section = read_config(name).get("model") if find_config(name).is_file() else None
    if not isinstance(section, dict):
        raise ConfigurationError(
            f"Expected `--model` to be one of {', '.join(shipped_models())}, or a YAML file with a "
            f"`model:` section, but got {name}."
        )
    return {"model": section}


def load_yaml(text: str) -> Any:
    """What a text in YAML says, of plain types.

    Raises:
        yaml.YAMLError: no YAML, a repeated key, a value within itself, or aliases that stand for
            more than `MOST_VALUES`; with the line.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _count_values(node, {})
        return loader.construct_document(node)
    except RecursionError as error:
        raise yaml.YAMLError("nested too deeply") from error
    except ValueError as error:  # a date without such a day, an integer of thousands of digits
        raise yaml.YAMLError(str(error)) from error
    finally:
        loader.dispose()


def _count_values(node: yaml.Node, counts: dict[int, int]) -> int:
    """How many values a node stands for with aliases written out; 0 marks those under way."""
    if id(node) not in counts:
        counts[id(node)] = 0
        count = 1
        if isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    continue
                if key.value in lines:
                    raise MarkedYAMLError(
                        None,
                        None,
                        f"`{key.value}` stands here again, after line {lines[key.value]}",
                        key.start_mark,
                    )
                lines[key.value] = key.start_mark.line + 1
            count += sum(_count_values(each, counts) for pair in node.value for each in pair)
        elif isinstance(node, yaml.SequenceNode):
            count += sum(_count_values(each, counts) for each in node.value)
        if count > MOST_VALUES:
            problem = f"aliases make this more than {MOST_VALUES:,} values"
            raise MarkedYAMLError(None, None, problem, node.start_mark)
        counts[id(node)] = count
    if not counts[id(node)]:
        raise MarkedYAMLError(None, None, "this is within itself", node.start_mark)
    return counts[id(node)]


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with dotted names as sections.

    Example:
        >>> nested({"model.layer": 3, "model": {"dropout.rounds": 2}})
        {'model': {'layer': 3, 'dropout': {'rounds': 2}}}
    """
    found: dict[str, Any] = {}
    for name, value in settings.items():
        value = nested(value) if isinstance(value, dict) else value
        first, _, rest = str(name).partition(".")
        if rest:
            value = nested({rest: value})
        if isinstance(value, dict) and isinstance(found.get(first), dict):
            found[first] = {**found[first], **value}
        else:
            found[first] = value
    return found


def options_of(args: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The options of a command line with their values."""
    for arg, following in itertools.pairwise([*args, ""]):
        name, equals, value = arg.partition("=")
        if name.startswith("--") and " " not in name:  # else it is a value, as argparse has it
            yield name[2:], value if equals else following


def drop_replaced(earlier: dict[str, Any], later: Mapping[str, Any]) -> None:
    """Remove sections from a configuration that another one gives to another class.

    The parser would keep arguments of the class before where the new one has them, too.

    Args:
        earlier: changed in place.
        later: what is merged over it.

    Example:
        >>> earlier = {"vlm": {"class_path": "A", "init_args": {"image_size": 336}}, "layer": 7}
        >>> drop_replaced(earlier, {"vlm": {"class_path": "B"}})
        >>> earlier
        {'layer': 7}
    """
    for key, section in later.items():
        replaced = earlier.get(key)
        if not isinstance(section, dict) or not isinstance(replaced, dict):
            continue
        if section.get("class_path", replaced.get("class_path")) != replaced.get("class_path"):
            del earlier[key]
        else:
            drop_replaced(replaced, section)


def find_setting(section: Any, name: str) -> Any:
    """The value of a dotted name, None where it is not; a key may have dots itself.

    Example:
        >>> find_setting({"model": {"dropout.rounds": 2}}, "model.dropout.rounds")
        2
    """
    if not isinstance(section, dict):
        return None
    for key, value in section.items():
        if key == name:
            return value
        if name.startswith(f"{key}."):
            return find_setting(value, name.removeprefix(f"{key}."))
    return None


def unknown_settings(
    section: Mapping[str, Any], known: Collection[str], prefix: str = ""
) -> Iterator[str]:
    """The dotted names in a configuration that a command does not know.

    Args:
        section: the configuration.
        known: the command's settings. What is below one of them is left to its type.
        prefix: of the section's names.

    Example:
        >>> list(unknown_settings({"model": {"layer": 1, "layr": 2}}, {"model.layer"}))
        ['model.layr']
    """
    for key, value in section.items():
        name = f"{prefix}{key}".removesuffix("+")  # a key such as `callbacks+` adds to a list
        if any(name == setting or name.startswith(f"{setting}.") for setting in known):
            continue
        if isinstance(value, dict) and value:
            yield from unknown_settings(value, known, f"{name}.")
        elif not any(setting.startswith(f"{name}.") for setting in known):
            yield name
