"""What a model is beside its weights, as far as it decides results."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def built_from(*parts: Any) -> str:
    """A short hash of what a model is built from beside its weights.

    Args:
        parts: models, whose configurations count, and tokenizers.
    """
    total = hashlib.sha256()
    for part in parts:
        if hasattr(part, "backend_tokenizer"):
            total.update(part.backend_tokenizer.to_str().encode())
        elif hasattr(part, "config"):
            own = part.config.to_dict()
            # Where it came from and who wrote it decide nothing.
            ignored = {"_name_or_path", "transformers_version", "dtype", "torch_dtype"}
            plain = {key: value for key, value in own.items() if key not in ignored}
            total.update(json.dumps(plain, sort_keys=True, default=str).encode())
    return total.hexdigest()[:16]
