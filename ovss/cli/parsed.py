"""A command line that is read, and of which nothing is made."""

from __future__ import annotations

from typing import Any

from ovss.cli.config_file import load_yaml
from ovss.cli.lightning_cli import EvaluationCLI


class ParsedCLI(EvaluationCLI):
    """A command line that is read, and of which nothing is made."""

    def instantiate_classes(self) -> None:
        """Refuse what cannot work."""
        self._check_trainer()

    def _run_subcommand(self, subcommand: str) -> None:
        pass

    def setting(self, name: str) -> Any:
        """The value of a setting, such as `model.vlm`."""
        return self._get(self.config, name)

    def data(self) -> Any:
        """The data module."""
        return self._make_data(self._get(self.config, "data"))

    def missing_data(self) -> list[str]:
        """What its data lacks, with the remedy; empty where it is there, or nobody can say."""
        try:
            if check := getattr(self.data(), "check", None):
                check()
        except (OSError, ValueError) as error:
            return [f"data: {error}"]
        return []

    def as_plain(self) -> dict[str, Any]:
        """The configuration as `config.yaml` has it."""
        text = self._parser(self.subcommand).dump(self.config[self.subcommand], skip_none=False)
        return load_yaml(text)
