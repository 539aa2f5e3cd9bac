"""Reading a configuration, with errors that name the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ovss.manners import ConfigurationError


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
    if not isinstance(content or {}, dict):
        raise ConfigurationError(
            f"Expected {path} to have sections such as `model:` and `data:`, but got "
            f"{str(content)[:60]!r}."
        )
    return content or {}
