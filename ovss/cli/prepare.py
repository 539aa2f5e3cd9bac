"""The command `prepare`: the data section of a configuration, without a model."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from ovss.cli.config_file import take_configs
from ovss.utils.errors import ConfigurationError, configuration_at_fault
from ovss.utils.text import PROGRAM


def main(args: Sequence[str]) -> None:
    """Run `prepare --config YAML [--check] [--mirror URL] [--data.init_args.NAME VALUE ...]`.

    Args:
        args: what follows the command.

    Raises:
        ConfigurationError: no such configuration, or none with data.
        Exception: see `prepare.prepare`.
    """
    own = argparse.ArgumentParser(
        f"{PROGRAM} prepare",
        description="Download what evaluating a benchmark needs, and check every photo and mask.",
        epilog="Options of the data, such as --data.init_args.root FOLDER, override the "
        "configuration.",
        allow_abbrev=False,
    )
    # Read before, and here for `--help`.
    own.add_argument("--config", metavar="YAML", help="a file or the name of a shipped one: voc21")
    own.add_argument("--check", action="store_true", help="only check what is there, write nothing")
    own.add_argument("--mirror", metavar="URL", help="folder to get the archives from instead")
    configs, rest = take_configs(args)
    options, rest = own.parse_known_args(rest)
    # Lightning takes seconds to import, which `--help` need not wait for.
    from jsonargparse import ArgumentParser

    from ovss.datamodules.base import BenchmarkDataModule
    from ovss.datamodules.prepare import prepare

    sections = [config.content.get("data") for config in configs]
    parser = ArgumentParser(f"{PROGRAM} prepare", allow_abbrev=False)
    parser.add_subclass_arguments(BenchmarkDataModule, "data", required=True)
    given = [f"--data={json.dumps(section)}" for section in sections if section]
    if not given and not any(option.startswith("--data") for option in rest):
        named = ", ".join(config.name for config in configs) or "a configuration"
        raise ConfigurationError(
            f"Expected `data` in {named}, but there is none; give a benchmark's with --config "
            f"(`{PROGRAM} configs` lists them)."
        )
    settings = parser.parse_args([*given, *rest])
    with configuration_at_fault():
        datamodule = parser.instantiate_classes(settings).data
    found = prepare(datamodule, check=options.check, mirror=options.mirror)
    sys.stdout.write(f"{found}\n")
