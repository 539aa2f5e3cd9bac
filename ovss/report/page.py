"""Pages that stand alone: no scripts, no network, light and dark, phone and desktop."""

from jinja2 import Environment, PackageLoader, StrictUndefined

from ovss.utils.text import counted, percent

# Classes, photos and folders may be called anything: all is escaped, nothing is marked safe.
TEMPLATES = Environment(
    loader=PackageLoader("ovss.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
TEMPLATES.filters.update(percent=percent, counted=counted)
