"""What the docs site needs beyond mkdocs.yml: pages outside docs/, and docstrings' examples.

mkdocs loads it as a hook and griffe, which reads the docstrings, as an extension.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "SECURITY.md": "SECURITY.md",
    "CHANGELOG.md": "CHANGELOG.md",
}
LINKED = ("configs/**/*.yaml", "configs/cluster/*", "examples/*", "tools/*.py", "containers/*")
"""What pages link to."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and the files that they link to, rather than keep copies."""
    named = dict(PAGES)
    for pattern in LINKED:
        for path in filter(Path.is_file, ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            named[name] = name
    for source, target in named.items():
        files.append(File.generated(config, target, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links within the repository into links within the site."""
    if page.file.src_uri.startswith("api/"):
        return markdown
    return markdown.replace("](docs/", "](").replace("](../", "](")


class Examples(griffe.Extension):
    """Reads `Example:` as `Examples:`, the only one of Google's two headings that griffe knows."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rename the heading in a docstring that has been read."""
        if obj.docstring is not None:
            obj.docstring.value = obj.docstring.value.replace("Example:\n", "Examples:\n")
