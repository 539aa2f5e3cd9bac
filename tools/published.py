"""Writes the table of published numbers into docs/benchmarks.md: `python tools/published.py`."""

from __future__ import annotations

import re
from pathlib import Path

from ovss.report.formats import as_markdown
from ovss.report.matrix import read_matrix

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
BEGIN = "<!-- published.csv, written by tools/published.py -->\n"
END = "<!-- published.csv ends -->\n"


def renewed(text: str) -> str:
    """A page with the table as the data have it now."""
    table = as_markdown(read_matrix([], published=True))
    section = re.escape(BEGIN) + ".*" + re.escape(END)
    return re.sub(section, lambda _: f"{BEGIN}\n{table}\n{END}", text, flags=re.S)


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
