"""PnP-OVSS: open-vocabulary segmentation from a frozen vision-language model.

Names are handed on lazily, so that `import ovss` and `--help` stay quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ovss._version import __version__

if TYPE_CHECKING:
    from ovss.dense_clip_module import DenseCLIPModule
    from ovss.module import PnPOVSS
    from ovss.segmentation import Segmentation, segment

_HOMES = {
    "DenseCLIPModule": "ovss.dense_clip_module",
    "PnPOVSS": "ovss.module",
    "Segmentation": "ovss.segmentation",
    "segment": "ovss.segmentation",
}

__all__ = ["DenseCLIPModule", "PnPOVSS", "Segmentation", "__version__", "segment"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ovss' has no attribute {name!r}")
