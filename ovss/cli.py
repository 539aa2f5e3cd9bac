"""LightningCLI with this project's commands."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.cli import (
    ArgsType,
    LightningArgumentParser,
    LightningCLI,
    SaveConfigCallback,
)

from ovss.callbacks import PhotoProgress, ResultsWriter
from ovss.demo import SETTINGS
from ovss.module import PnPOVSS

log = logging.getLogger("ovss")


class EvaluationTrainer(Trainer):
    """Lightning's Trainer with the commands that it lacks."""

    def segment(
        self,
        model: PnPOVSS,
        photos: str,
        classes: str | None = None,
        output: Path = Path("runs/segment"),
        background: bool = True,
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
            datamodule: not used.
        """
        from ovss.segmentation import segment_files

        segment_files(model, photos, classes, output, background)


class Parser(LightningArgumentParser):
    """Lightning's parser, with photos as a positional argument and no guessing of option names."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

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
                "callbacks": [PhotoProgress(), ResultsWriter()],
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
        }

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """As Lightning does, but a command without data does not ask for it."""
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.set_defaults(
            {f"trainer.{k}": v for k, v in self.trainer_defaults.items() if k != "callbacks"}
        )
        parser.add_lightning_class_args(self._model_class, "model")
        parser.add_lightning_class_args(
            self._datamodule_class, "data", subclass_mode=True, required=False
        )

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        if subcommand in ("test", "predict"):
            if self.datamodule is None:
                raise ValueError(
                    f"Expected `data` in the configuration of `{subcommand}`, but got none; give "
                    "one of configs/*.yaml with --config."
                )
            # The callbacks print and write; label maps of a whole data set do not fit in memory.
            kwargs["verbose" if subcommand == "test" else "return_predictions"] = False
        return kwargs


def run(args: Sequence[str]) -> None:
    """Run a command; what a user can get wrong is said in one block, without a stack trace.

    Args:
        args: the command line, without the program's name; `--traceback` shows the stack.
    """
    args = list(args)
    traceback = "--traceback" in args
    if traceback:
        args.remove("--traceback")
    quieten()
    sys.argv[1:] = args  # Lightning's launchers start the other processes with it
    try:
        EvaluationCLI()
    except (ValueError, OSError, RuntimeError) as error:
        if traceback:
            raise
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)


def quieten() -> None:
    """Keep messages of the libraries that do not concern a user of this program."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in ("lightning.pytorch", "lightning.fabric", "httpx", "transformers"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # Lightning 2.6 with torch 2.13; https://github.com/Lightning-AI/pytorch-lightning (pytree).
    warnings.filterwarnings("ignore", message=".*LeafSpec.*deprecated.*")
    # Each process has its own share of the photos on purpose (datamodules.sampler).
    warnings.filterwarnings("ignore", message=".*is recommended to use a single device.*")
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
