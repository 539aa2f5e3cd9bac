"""Reading a configuration, with errors that name the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ovss.utils.errors import ConfigurationError


def read_config(path: Path) -> dict[str, Any]:
    """The content of a configuration.

    Raises:
        ConfigurationError: no such file, or not YAML with sections in it.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"Expected a configuration at {path}, but got no file that can be read "
            f"({error.strerror}); `train_free_eval.py configs` lists the shipped ones."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"Expected {path} to be YAML, but got: {error}") from error
    if not isinstance(content, dict):
        got = "nothing" if content is None else repr(str(content)[:60])
        raise ConfigurationError(
            f"Expected {path} to have sections such as `model:` and `data:`, but got {got}."
        )
    return content


def has(section: Any, name: str) -> bool:
    """Whether a dotted name is in a section; a key may have dots itself.

    Example:
        >>> has({"model": {"dropout.rounds": 2}}, "model.dropout.rounds")
        True
    """
    return isinstance(section, dict) and any(
        name == key or (name.startswith(f"{key}.") and has(value, name.removeprefix(f"{key}.")))
        for key, value in section.items()
    )
