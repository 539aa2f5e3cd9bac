"""Pages that stand alone: no scripts, no network, light and dark, phone and desktop."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ovss.utils.text import counted, percent

# Embeddings, overrides and isolates turn around what follows, beyond the name that they are in.
_TURNING = {code: f"[U+{code:04X}]" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}


def _readable(value: Any) -> Any:
    """Text with the controls of its direction to be seen; all else as it is."""
    return value.translate(_TURNING) if isinstance(value, str) else value


# Classes, photos and folders may be called anything: all is escaped, nothing is marked safe.
TEMPLATES = Environment(
    loader=PackageLoader("ovss.report"),
    autoescape=True,
    finalize=_readable,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
TEMPLATES.filters.update(percent=percent, counted=counted)
