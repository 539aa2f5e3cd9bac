"""LightningCLI with this project's commands."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.cli import (
    ArgsType,
    LightningArgumentParser,
    LightningCLI,
    SaveConfigCallback,
)
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from ovss.callbacks import (
    LoaderWatch,
    OverlayWriter,
    PhotoProgress,
    ReportWriter,
    ResultsWriter,
    RunFolder,
)
from ovss.cli.config_file import has, read_config
from ovss.cli.console import manners, quieten
from ovss.cli.main import COMMANDS
from ovss.cli.tune import tune_with_trainer, use_tuning_split
from ovss.demo import SETTINGS
from ovss.module import PnPOVSS
from ovss.tuning import RewardSettings, SearchSpace, StudySettings
from ovss.utils.errors import ConfigurationError, configuration_at_fault

_TRAINING = {
    "max_epochs", "min_epochs", "max_steps", "min_steps", "max_time",
    "limit_train_batches", "limit_val_batches", "overfit_batches", "val_check_interval",
    "check_val_every_n_epoch", "num_sanity_val_steps", "log_every_n_steps",
    "enable_checkpointing", "accumulate_grad_batches", "gradient_clip_val",
    "gradient_clip_algorithm", "reload_dataloaders_every_n_epochs", "sync_batchnorm",
    "model_registry",
}  # fmt: skip
"""Options of the Trainer that do nothing here: taken, but not in `--help` nor in config.yaml."""


class EvaluationTrainer(Trainer):
    """Lightning's Trainer with the commands that it lacks."""

    def segment(
        self,
        model: PnPOVSS,
        photos: str,
        classes: str | None = None,
        output: Path = Path("runs/segment"),
        background: bool = True,
        heatmaps: bool = False,
        datamodule: LightningDataModule | None = None,
    ) -> None:
        """Segment photos of your own with any class names.

        Args:
            model: from the configuration; default: the demo's.
            photos: a photo, a folder, or a glob pattern in quotes.
            classes: names separated by commas, or a text file with one a line; synonyms of one
                class are separated by ";".
            output: folder for overlays and label maps.
            background: whether pixels may belong to none of the classes.
            heatmaps: also write what was found in each round of Salience DropOut, for each class.
            datamodule: not used.
        """
        from ovss.cli.segment import segment_files

        segment_files(model.segmenter, photos, classes, output, background, heatmaps)

    def tune(
        self,
        model: PnPOVSS,
        datamodule: LightningDataModule | None = None,
        space: SearchSpace = SearchSpace(),
        reward: RewardSettings = RewardSettings(),
        study: StudySettings = StudySettings(),
        validate: bool = False,
    ) -> None:
        """Choose layer, head, threshold and dropout without segmentation labels.

        Args:
            model: from the configuration.
            datamodule: from the configuration; its masks are not read.
            space: what to choose from.
            reward: how a setting is judged.
            study: how to search.
            validate: afterwards, score the trials where there is ground truth, to see how well the
                reward ranks them.
        """
        tune_with_trainer(self, model, datamodule, space, reward, study, validate)


class Parser(LightningArgumentParser):
    """Lightning's parser, with photos as a positional argument and no guessing of option names."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})
        self.configs: dict[str, Any] = {}
        """Content of the configurations that were given, by file."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong, and what may have been meant, without the list of all options."""
        if not self.exit_on_error:
            super().error(message, ex)
        command = self.prog.partition(" ")[2].rpartition(" ")[2]
        # The parser of all commands misses the arguments of one under `command.name`.
        missing = re.search(r"required: (\w+)\.(.+)", message)
        if missing:
            command = missing[1]
            message = f"Expected `{missing[2]}`, but got none."
            if missing[2] == "model.vlm":
                message = (
                    f"Expected a configuration for `{command}`, but got none with `model.vlm`; "
                    "give one with --config (`train_free_eval.py configs` lists them)."
                )
        chosen = re.search(r"argument subcommand: invalid choice: '(.*?)'", message)
        if chosen:
            message = f"Expected a command of {', '.join(COMMANDS)}, but got {chosen[1]!r}."
            for similar in difflib.get_close_matches(chosen[1], COMMANDS, n=1):
                message += f" Did you mean {similar}?"
        unknown = re.search(r"does not accept option '(.+)'", message)
        if unknown:
            files = [file for file, content in self.configs.items() if has(content, unknown[1])]
            message += f" of {', '.join(files)}" if files else ""
        sys.stderr.write(f"error: {message}\n")
        options = {option.rpartition(".")[2]: option for option in self._option_string_actions}
        for word in re.findall(r"--[\w.]+", message.partition("unrecognized arguments:")[2]):
            last = word.lstrip("-").rpartition(".")[2]
            near = difflib.get_close_matches(last, [o.lstrip("-") for o in options], n=1)
            if near:
                meant = options.get(near[0]) or options[f"--{near[0]}"]
                sys.stderr.write(f"Did you mean {meant} instead of {word}?\n")
        about = f"{command} --help` lists the options" if command else "--help` lists the commands"
        sys.stderr.write(f"`train_free_eval.py {about}.\n")
        sys.exit(2)

    def add_method_arguments(self, *args: Any, **kwargs: Any) -> list[str]:
        """Required arguments of a command are positional."""
        return super().add_method_arguments(*args, **{"as_positional": True, **kwargs})


class EvaluationCLI(LightningCLI):
    """`test`, `predict` and the commands of `EvaluationTrainer`."""

    def __init__(self, args: ArgsType = None) -> None:
        super().__init__(
            PnPOVSS,
            LightningDataModule,
            subclass_mode_data=True,
            trainer_class=EvaluationTrainer,
            trainer_defaults={
                "callbacks": [
                    PhotoProgress(),
                    LoaderWatch(),
                    RunFolder(),
                    ResultsWriter(),
                    OverlayWriter(logged=4),
                    ReportWriter(),
                ],
                "logger": False,
                "enable_checkpointing": False,
                "enable_model_summary": False,
                "use_distributed_sampler": False,
            },
            parser_class=Parser,
            parser_kwargs={
                "segment": {"default_config_files": [str(SETTINGS)]},
            },
            save_config_callback=SaveConfigCallback,
            # A run folder keeps the configuration of its newest run.
            save_config_kwargs={"overwrite": True},
            auto_configure_optimizers=False,
            seed_everything_default=False,  # nothing is random
            args=args,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Commands and the arguments that do not come from the command line."""
        return {
            "test": {"model", "dataloaders", "datamodule"},
            "predict": {"model", "dataloaders", "datamodule"},
            "segment": {"model", "datamodule"},
            "tune": {"model", "datamodule"},
        }

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """As Lightning does, but a command without data does not ask for it."""
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.set_defaults(
            {f"trainer.{k}": v for k, v in self.trainer_defaults.items() if k != "callbacks"}
        )
        for action in parser._actions:
            if action.dest.removeprefix("trainer.") in _TRAINING:
                action.help = argparse.SUPPRESS
        parser.add_lightning_class_args(self._model_class, "model")
        parser.add_lightning_class_args(
            self._datamodule_class, "data", subclass_mode=True, required=False
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Read the configurations once before, as the parser does not say which has a mistake."""
        if isinstance(args, list) and isinstance(parser, Parser):
            own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
            own.add_argument("-c", "--config", action="append", default=[], nargs="?")
            for config in own.parse_known_args(args)[0].config:
                # The parser also takes JSON, and YAML such as "model.layer: 3".
                if config and config.lstrip()[:1] != "{" and ": " not in config:
                    parser.configs[config] = read_config(Path(config))
        super().parse_arguments(parser, args)

    def _check_data(self) -> None:
        """Look whether the data is there before the model is loaded, which takes minutes."""
        data = self._get(self.config, "data")
        if data is None:
            return
        parser = ArgumentParser()
        parser.add_subclass_arguments(LightningDataModule, "data")
        with configuration_at_fault():
            datamodule = parser.instantiate_classes(Namespace(data=data)).data
        if self.subcommand == "tune":
            use_tuning_split(datamodule)
        check = getattr(datamodule, "check", None)
        if check is not None:
            check()

    def instantiate_classes(self) -> None:
        """As Lightning does; a setting that is refused is a mistake in the configuration."""
        self._check_data()
        try:
            with configuration_at_fault():
                super().instantiate_classes()
        except MisconfigurationException as error:
            raise ConfigurationError(str(error)) from error

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        if subcommand in ("test", "predict"):
            if self.datamodule is None:
                raise ConfigurationError(
                    f"Expected `data` in the configuration of `{subcommand}`, but got none; give "
                    "one of configs/*.yaml with --config."
                )
            # The callbacks print and write; label maps of a whole data set do not fit in memory.
            kwargs["verbose" if subcommand == "test" else "return_predictions"] = False
        return kwargs


def run(args: Sequence[str]) -> None:
    """Run a command; see `ovss.cli.console.manners` for how it speaks.

    Args:
        args: the command line, without the program's name.
    """
    sys.argv[1:] = args  # Lightning's launchers start the other processes with it
    with manners(args) as rest:
        quieten()
        if rest[:1] == ["completion"]:
            CompletionCLI(rest[1:])
        else:
            EvaluationCLI(rest)


class CompletionCLI(EvaluationCLI):
    """Prints a completion script of `EvaluationCLI` instead of running it."""

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Write the script for the shell that `args` names, and stop."""
        shells = ("bash", "zsh", "tcsh")
        shell = args[0] if isinstance(args, list) and len(args) == 1 else None
        if shell not in shells:
            raise ConfigurationError(f"Expected `completion` with one of {shells}, but got {args}.")
        if find_spec("shtab") is None:
            raise ValueError(
                "Expected the package shtab for completion scripts, but it is not installed; "
                "run `pip install shtab`."
            )
        parser.prog = "train_free_eval.py"
        if hasattr(parser, "get_completion_script"):  # jsonargparse >= 4.46
            sys.stdout.write(parser.get_completion_script(f"shtab-{shell}") + "\n")
            sys.exit(0)
        parser.parse_args([f"--print_shtab={shell}"])
