"""Which folders are packages, and the README for an index page; everything else is in setup.cfg."""

import re
from pathlib import Path

from setuptools import find_packages, setup

readme = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")

setup(
    # The configurations lie beside the package, and inside it where it is installed.
    packages=[*find_packages(include=["ovss*", "datamodules*"]), "ovss.configs"],
    package_dir={"ovss.configs": "configs"},
    # An index page has the text alone: pictures of the repository would be broken there.
    long_description=re.sub(r"!\[[^\]]*\]\((?!http)[^)]*\)\n*", "", readme),
    long_description_content_type="text/markdown",
)
