"""Weights from a hub id or a local folder, with errors that name what was expected."""

from __future__ import annotations

import json
import logging
import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ovss.vlm.base import ImageStatistics

log = logging.getLogger(__name__)

CLIP_STATISTICS = ImageStatistics(
    (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
)
"""The statistics of CLIP, which BLIP and BridgeTower were trained with, too."""


REVISIONS = {
    "Salesforce/blip-itm-base-coco": "e53efa8c21a31de017ae583d8bfe42dfa9ada8cb",
    "Salesforce/blip-itm-large-coco": "8a0f749d3412b349b49d2a582fc13719d1c87999",
    "Salesforce/blip-itm-large-flickr": "6df0d85f8fd97df11ec109039692a09a7988ef03",
}
"""Commits on the hub that are taken where no `revision` is given: those that corrected the number
of text heads in BLIP's configurations. `main` takes the newest."""


SIZES = {"Salesforce/blip-itm-large-flickr": "1.8 GB"}
"""What is fetched of the paper's model; the hub's bar shows it of the others."""


def load_pretrained(
    architecture: Any,
    name_or_path: str | Path,
    revision: str | None,
    model_type: str,
    optional: str | None = None,
) -> tuple[Any, Any]:
    """`load_checkpoint` of a VLM with a matching head and a fast tokenizer.

    Args:
        architecture: the transformers class.
        name_or_path: hub id or local folder.
        revision: branch, tag or commit on the hub; default: that of `REVISIONS`, or the newest.
        model_type: what `config.json` must say.
        optional: see `load_checkpoint`.

    Raises:
        FileNotFoundError: see `load_checkpoint`.
        ValueError: see `load_checkpoint`, or a tokenizer that cannot map tokens to characters.
    """
    model, tokenizer = load_checkpoint(
        {model_type: architecture},
        name_or_path,
        revision,
        optional,
        option="--model.vlm.init_args.name_or_path",
        advice="It needs an image-text-matching head: captioning and question-answering "
        "checkpoints do not work; take an ITM one.",
    )
    if not tokenizer.is_fast:
        raise ValueError(
            f"Expected a fast tokenizer (tokenizer.json) beside {str(name_or_path)!r}, but got "
            f"{type(tokenizer).__name__}, which cannot map tokens to characters."
        )
    return model, tokenizer


def load_checkpoint(
    architectures: Mapping[str, Any],
    name_or_path: str | Path,
    revision: str | None,
    optional: str | None = None,
    option: str = "",
    advice: str = "",
) -> tuple[Any, Any]:
    """`load_model`, and its tokenizer.

    Args:
        architectures: see `load_model`, as for the others.
        name_or_path: hub id or local folder.
        revision: branch, tag or commit on the hub.
        optional: start of the names of modules that may be missing.
        option: how the command line names `name_or_path`, for errors.
        advice: what to take instead of a checkpoint that lacks weights, for errors.

    Raises:
        FileNotFoundError: see `load_model`, or no tokenizer.
        ValueError: see `load_model`.
    """
    from transformers import AutoTokenizer

    name = str(name_or_path)
    revision = revision or REVISIONS.get(name)
    files = ", and the tokenizer's files"
    model = load_model(architectures, name, revision, optional, option, advice, files)
    expected, remedy = _expected(architectures, files), _remedy(name, option)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"Expected {expected}, but could not load the tokenizer of {name!r}: {error}{remedy}"
        ) from error
    # transformers makes up a tokenizer of special tokens alone where the files are missing.
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise FileNotFoundError(
            f"Expected {expected}, but {name!r} has no vocabulary (tokenizer.json or vocab.txt)."
        )
    return model, tokenizer


def load_model(
    architectures: Mapping[str, Any],
    name_or_path: str | Path,
    revision: str | None,
    optional: str | None = None,
    option: str = "",
    advice: str = "",
    files: str = "",
    **kwargs: Any,
) -> Any:
    """A frozen transformers model in float32 and eval mode.

    safetensors are taken where there are any, else `pytorch_model.bin` through torch's
    `weights_only` loader; code from the hub is never run.

    Args:
        architectures: transformers classes by what `config.json` says under `model_type`.
        name_or_path: hub id or local folder.
        revision: branch, tag or commit on the hub; default: that of `REVISIONS`, or the newest.
        optional: start of the names of modules that are set to None where the checkpoint lacks
            their weights.
        option: how the command line names `name_or_path`, for errors.
        advice: what to take instead of a checkpoint that lacks weights, for errors.
        files: what else should be there, for errors.
        kwargs: arguments of the class beside its configuration.

    Raises:
        FileNotFoundError: the folder is missing or lacks files, or the hub has no such model.
        ValueError: a checkpoint of another architecture, without some of the weights, damaged, or
            with anything but tensors in it.
    """
    from safetensors import SafetensorError
    from transformers import AutoConfig

    name = str(name_or_path)
    revision = revision or REVISIONS.get(name)
    if not Path(name).is_dir():
        size = f"{SIZES[name]} " if name in SIZES else ""
        log.info("loading %s (%sfrom the hub on the first use)", name, size)
    classes = " or ".join(architecture.__name__ for architecture in architectures.values())
    expected, remedy = _expected(architectures, files), _remedy(name, option)
    if not Path(name).is_dir() and (name.startswith((".", "/", "~")) or name.count("/") != 1):
        raise FileNotFoundError(f"Expected {expected}, but there is no folder {name}.")
    try:
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"Expected {expected}, but could not read the configuration of {name!r}"
            f"{f' at revision {revision}' if revision else ''}: {error}{remedy}"
        ) from error
    except Exception as error:  # transformers' own checks of types are no `ValueError`
        raise ValueError(
            f"Expected {name!r} to have a whole config.json, but transformers refuses it: "
            f"{' '.join(str(error).split())}"
        ) from error
    if config.model_type not in architectures:
        raise ValueError(
            f"Expected a {' or '.join(map(repr, architectures))} checkpoint for {classes}, but "
            f"{name!r} is of type {config.model_type!r}."
        )
    _check_numbers(config.to_dict(), name)
    architecture = architectures[config.model_type]
    try:
        model, info = architecture.from_pretrained(
            name,
            revision=revision,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are named below
            **kwargs,
        )
    except OSError as error:
        raise FileNotFoundError(
            f"Expected {expected}, but could not load the weights of {name!r}: {error}{remedy}"
        ) from error
    except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"Expected config.json of {name!r} to describe a {architecture.__name__}, but none can "
            f"be built from it: {error}"
        ) from error
    except (SafetensorError, pickle.UnpicklingError, RuntimeError) as error:
        raise ValueError(
            f"Expected the weights of {name!r} to be whole and nothing but tensors, but reading "
            f"them failed ({str(error).split('. ')[0]}); fetch them again, as safetensors and "
            "from a source that you trust."
        ) from error
    missing = sorted(key for key in info["missing_keys"] if not key.endswith("position_ids"))
    if optional:
        for module in {key.split(".")[0] for key in missing if key.startswith(optional)}:
            setattr(model, module, None)
        missing = [key for key in missing if not key.startswith(optional)]
    mismatched = sorted(str(key) for key in info.get("mismatched_keys", ()))
    if missing or mismatched:
        raise ValueError(
            f"Expected the checkpoint {name!r} to hold all weights of {architecture.__name__}, but "
            f"it lacks {(missing + mismatched)[:5]} ({len(missing) + len(mismatched)} in all)."
            f"{f' {advice}' if advice else ''}"
        )
    return model.eval().requires_grad_(False)


def _expected(architectures: Mapping[str, Any], files: str) -> str:
    classes = " or ".join(architecture.__name__ for architecture in architectures.values())
    return (
        f"a hub id or a folder with config.json ({classes}), model.safetensors or "
        f"pytorch_model.bin{files}"
    )


def _remedy(name: str, option: str) -> str:
    if Path(name).is_dir():
        return ""
    return (
        "\nWhere the hub cannot be reached, give a local folder with these files as "
        f"`name_or_path`{f' (`{option} FOLDER`)' if option else ''}."
    )


_COUNTS = {
    "encoder_hidden_size", "hidden_size", "image_size", "image_text_hidden_size",
    "intermediate_size", "max_position_embeddings", "num_attention_heads", "num_hidden_layers",
    "patch_size", "projection_dim", "vocab_size",
}  # fmt: skip
"""Keys of a `config.json` that are counts; those of real models are far below a million."""


def _check_numbers(config: Mapping[str, Any], name: str, section: str = "") -> None:
    """Refuse numbers with which a model is built wrongly, or not at all."""
    for key, value in config.items():
        if isinstance(value, dict):
            _check_numbers(value, name, f"{section}{key}.")
        elif key in _COUNTS and (
            isinstance(value, list) or (isinstance(value, int) and not 1 <= value <= 1_000_000)
        ):
            raise ValueError(
                f"Expected `{section}{key}` in config.json of {name!r} to be in 1..1000000, but "
                f"got {value}."
            )
        elif isinstance(value, float) and not math.isfinite(value):
            raise ValueError(
                f"Expected `{section}{key}` in config.json of {name!r} to be finite, but got "
                f"{value}."
            )


def preprocessor_config(name_or_path: str | Path, revision: str | None) -> dict[str, Any]:
    """The checkpoint's `preprocessor_config.json`; empty where there is none."""
    from transformers.utils import cached_file

    path = cached_file(
        str(name_or_path),
        "preprocessor_config.json",
        revision=revision or REVISIONS.get(str(name_or_path)),
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return json.loads(Path(path).read_text(encoding="utf-8")) if path else {}


def image_statistics(
    name_or_path: str | Path, revision: str | None, default: ImageStatistics = CLIP_STATISTICS
) -> ImageStatistics:
    """The checkpoint's pixel statistics; the default where it names none."""
    config = preprocessor_config(name_or_path, revision)
    return ImageStatistics(
        tuple(config.get("image_mean", default.mean)),
        tuple(config.get("image_std", default.std)),
    )


def new_grid(vision: Any, image_size: int | None) -> int | None:
    """Patches a side at another image size; None where it is the checkpoint's own.

    Args:
        vision: the checkpoint's vision config, with `image_size` and `patch_size`.
        image_size: side of the square input in pixels; None for the checkpoint's own.

    Raises:
        ValueError: it is no multiple of the patch size.
    """
    if image_size is None or image_size == vision.image_size:
        return None
    if image_size < vision.patch_size or image_size % vision.patch_size:
        raise ValueError(
            f"Expected `image_size` to be a multiple of the patch size {vision.patch_size}, but "
            f"got {image_size}."
        )
    return image_size // vision.patch_size


def resize_positions(positions: Tensor, grid: int) -> nn.Parameter:
    """Position embeddings `(1 + n*n, D)` or `(1, 1 + n*n, D)` on another square patch grid.

    Bicubic, `align_corners=False`, the [CLS] position kept, as in BLIP's own code.
    """
    batched = positions.dim() == 3
    table = positions if batched else positions[None]
    old = round((table.shape[1] - 1) ** 0.5)
    if old == grid:
        return nn.Parameter(positions.detach(), requires_grad=False)
    patches = table[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    patches = nn.functional.interpolate(
        patches.float(), size=(grid, grid), mode="bicubic", align_corners=False
    )
    patches = patches.permute(0, 2, 3, 1).flatten(1, 2).to(table.dtype)
    resized = torch.cat([table[:, :1], patches], 1).detach()
    return nn.Parameter(resized if batched else resized[0], requires_grad=False)


def checkpoint_name(name_or_path: str | Path, revision: str | None) -> str:
    """What reports call a checkpoint: the hub id and revision, or the local folder's name."""
    path = Path(name_or_path).expanduser()
    name = path.resolve().name if path.is_dir() else str(name_or_path)
    return f"{name}@{revision}" if revision else name
