"""A vision-language model by the name of its checkpoint alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ovss.vlm.base import VLM
from ovss.vlm.blip import BlipITM
from ovss.vlm.bridgetower import BridgeTowerITM
from ovss.vlm.loading import REVISIONS

PUBLISHED_SIZE, PAPERS_SIZE = 384, 336
"""Pixels on a side: of BLIP's published matching checkpoints, and what the paper reads them at."""


def load_vlm(name_or_path: str | Path, revision: str | None = None) -> VLM:
    """Load a checkpoint with the adapter of its architecture.

    A BLIP of 384 pixels, as published, is read at the paper's 336, as in `configs/model/`; other
    models at their own size. For another one use `from_pretrained` of the adapter.

    Args:
        name_or_path: hub id such as `Salesforce/blip-itm-large-flickr`, a local folder, or `demo`.
        revision: see `BlipITM.from_pretrained`.

    Raises:
        FileNotFoundError: no such folder or model, or files missing.
        ValueError: an architecture without adapter; else see `BlipITM.from_pretrained`.

    Example:
        >>> load_vlm("demo").name
        'demo'
    """
    config = {} if str(name_or_path) == "demo" else _config(str(name_or_path), revision)
    # Where there is no configuration BLIP's adapter says what is missing.
    kind = config.get("model_type", "blip")
    if kind == "bridgetower":
        return BridgeTowerITM.from_pretrained(name_or_path, revision=revision)
    if kind != "blip":
        raise ValueError(
            f"Expected a checkpoint of type 'blip' or 'bridgetower', but {str(name_or_path)!r} is "
            f"of type {kind!r}; docs/adding-a-vlm.md shows how to add one."
        )
    own = (config.get("vision_config") or {}).get("image_size")
    return BlipITM.from_pretrained(
        name_or_path, PAPERS_SIZE if own == PUBLISHED_SIZE else None, revision
    )


def _config(name: str, revision: str | None) -> dict[str, Any]:
    """A checkpoint's `config.json`; empty where there is none that can be read."""
    from transformers.utils import cached_file

    try:
        path = cached_file(name, "config.json", revision=revision or REVISIONS.get(name))
        config = json.loads(Path(str(path)).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}
