"""Which folders are packages; everything else is in setup.cfg."""

from setuptools import find_packages, setup

setup(
    # The configurations lie beside the package, and inside it where it is installed.
    packages=[*find_packages(include=["ovss*", "datamodules*"]), "ovss.configs"],
    package_dir={"ovss.configs": "configs"},
)
