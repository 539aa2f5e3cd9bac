"""LightningCLI with this project's commands."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from ovss.callbacks import (
    LoaderWatch,
    OverlayWriter,
    PhotoProgress,
    ReportWriter,
    ResultsWriter,
    RunFolder,
)
from ovss.cli.ablate import ablate_with_trainer
from ovss.cli.config_file import DEFAULT_MODEL, Config, find_setting, take_configs
from ovss.cli.option_names import NO_DATA
from ovss.cli.parser import Parser
from ovss.cli.save_config import RunConfig
from ovss.cli.tune import tune_with_trainer, use_tuning_split
from ovss.cli.vocabulary import vocabulary_with_trainer
from ovss.demo import SETTINGS as DEMO
from ovss.distributed.launcher import children_of
from ovss.distributed.watch import watch_early
from ovss.module import PnPOVSS, SegmentationModule
from ovss.segmentation import MAX_SIDE
from ovss.segmenter import Segmenter
from ovss.tuning import RewardSettings, SearchSpace, StudySettings
from ovss.utils.cpus import use_threads
from ovss.utils.errors import ConfigurationError, configuration_at_fault
from ovss.utils.shipped import shipped_section
from ovss.utils.text import PROGRAM

_TRAINING = {
    "max_epochs", "min_epochs", "max_steps", "min_steps", "max_time",
    "limit_train_batches", "limit_val_batches", "overfit_batches", "val_check_interval",
    "check_val_every_n_epoch", "num_sanity_val_steps", "log_every_n_steps",
    "enable_checkpointing", "accumulate_grad_batches", "gradient_clip_val",
    "gradient_clip_algorithm", "reload_dataloaders_every_n_epochs", "sync_batchnorm",
    "model_registry",
}  # fmt: skip
"""Options of the Trainer that do nothing here: taken, but not in `--help` nor in config.yaml."""

MODEL_BASE = SegmentationModule
"""What `model.class_path` must be a subclass of."""

DEFAULT_VLM = shipped_section("model/blip_large_flickr", "model")["vlm"]
"""The paper's, for configurations without `vlm`."""


class EvaluationTrainer(Trainer):
    """Lightning's Trainer with the commands that it lacks."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As Lightning's, and processes that it will start are watched from their start on."""
        super().__init__(*args, **kwargs)
        watch_early(lambda: children_of(self))

    def segment(
        self,
        model: SegmentationModule,
        photos: list[str],
        classes: str | None = None,
        output: Path = Path("runs/segment"),
        background: bool = True,
        heatmaps: bool = False,
        max_side: int = MAX_SIDE,
        datamodule: LightningDataModule | None = None,
    ) -> None:
        """Segment photos of your own with any class names.

        Args:
            model: from the configuration; default: the demo's.
            photos: photos, folders, http or https addresses, or glob patterns in quotes.
            classes: names separated by commas, or a text file with one a line; synonyms of one
                class are separated by ";".
            output: folder for overlays and label maps.
            background: whether pixels may belong to none of the classes.
            heatmaps: also write what was found in each round of Salience DropOut, for each class;
                PnP-OVSS only.
            max_side: pixels of the longer side beyond which a photo is labelled at that size, and
                its labels enlarged to the photo's own.
            datamodule: not used.
        """
        from ovss.cli.segment import segment_files

        segmenter = model.segmenter.to(self.strategy.root_device)
        segment_files(segmenter, photos, classes, output, background, heatmaps, max_side)

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

    def ablate(
        self,
        model: SegmentationModule,
        datamodule: LightningDataModule | None = None,
        rounds: str = "",
        patches: str = "",
        layer: str = "",
        head: str = "",
        threshold: str = "",
        blur: str = "",
        refine: str = "",
        prob_thd: str = "",
    ) -> None:
        """Test every combination of some settings, in one pass over the photos.

        Args:
            model: from the configuration; what is not varied is its.
            datamodule: from the configuration.
            rounds: rounds of Salience DropOut, separated by commas: 1,2,3,4.
            patches: patches dropped after a round, counts or shares: 0.25,0.5.
            layer: cross-attention layers, counted from 0.
            head: their heads, counted from 0, or mean.
            threshold: the labeller's, in 0..1.
            blur: shares of the photo's longer side, in 0..1.
            refine: null, crf, pamr.
            prob_thd: of CLIP-based methods, in 0..1.
        """
        names = ("rounds", "patches", "layer", "head", "threshold", "blur", "refine", "prob_thd")
        values = (rounds, patches, layer, head, threshold, blur, refine, prob_thd)
        ablate_with_trainer(self, model, datamodule, dict(zip(names, values, strict=True)))

    def vocabulary(
        self,
        model: SegmentationModule,
        datamodule: LightningDataModule | None = None,
        draws: int = 5,
        seed: int = 0,
        distractors: str = "10,50",
        synonyms: Path | None = None,
    ) -> None:
        """Score a method with other names for the classes, to see how much it owes to them.

        Args:
            model: from the configuration.
            datamodule: from the configuration.
            draws: vocabularies of one synonym a class, drawn.
            seed: of the draws, and of which names are distractors.
            distractors: how many names of things that are in no photo to look for besides; several
                numbers, separated by commas, are a vocabulary each.
            synonyms: a text file with further names: a line for each class in label order, synonyms
                separated by ";". Default: the one that ships for the demo's scenes.
        """
        vocabulary_with_trainer(self, model, datamodule, draws, seed, distractors, synonyms)


class EvaluationCLI(LightningCLI):
    """`test`, `predict` and the commands of `EvaluationTrainer`."""

    def __init__(self, args: Sequence[str]) -> None:
        """Run a command.

        Args:
            args: the command line, without the program's name.
        """
        self._configs, rest = take_configs(args)
        if rest[:1] == ["segment"] and not self._configs:
            self._configs, _ = take_configs([f"--config={json.dumps({'model': DEMO})}"])
        self._shell = _shell_of(self._configs, rest)
        if rest[:1] == ["tune"] and not issubclass(self._shell, PnPOVSS):
            raise ConfigurationError(
                f"Expected {DEFAULT_MODEL} as `model.class_path` of `tune`, but got "
                f"{self._shell.__module__}.{self._shell.__qualname__}; other methods have "
                "`test`, `predict` and `segment`."
            )
        super().__init__(
            self._shell,
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
            save_config_callback=RunConfig,
            save_config_kwargs={"save_to_log_dir": False},
            auto_configure_optimizers=False,
            seed_everything_default=False,  # nothing is random
            args=rest,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Commands and the arguments that do not come from the command line."""
        # Weights are those of the VLM: Lightning's checkpoints would be unpickled on top.
        given = {"model", "dataloaders", "datamodule", "ckpt_path", "weights_only"}
        return {
            "test": given,
            "predict": given,
            "segment": {"model", "datamodule"},
            "tune": {"model", "datamodule"},
            "ablate": {"model", "datamodule"},
            "vocabulary": {"model", "datamodule"},
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
        parser.add_argument(
            "--model.class_path",
            type=str,
            default=DEFAULT_MODEL,
            help="The method's shell; the other options of `model` are its arguments.",
        )
        # Not instantiated by the parser, which would hand `class_path` on as an argument.
        parser.add_class_arguments(
            self._shell, "model", instantiate=False, fail_untyped=False, sub_configs=True
        )
        # Not where a configuration names a VLM, which would take over arguments of this one.
        named = any(find_setting(c.content, "model.vlm.class_path") for c in self._configs)
        if issubclass(self._shell, PnPOVSS) and not named:
            parser.set_defaults({"model.vlm": DEFAULT_VLM})
            parser._option_string_actions["--model.vlm"].required = False
        parser.add_lightning_class_args(
            self._datamodule_class, "data", subclass_mode=True, required=False
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """As Lightning does, under the name that one types."""
        return super().init_parser(**{"prog": PROGRAM, **kwargs})

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the configurations, in their order, and then the options."""
        assert isinstance(args, list)
        command, *options = args
        of_command = self._parser(command)
        assert isinstance(of_command, Parser)
        options = of_command.with_underscores(options)
        of_command.check_names(self._configs, options)
        configs = [f"--config={yaml.safe_dump(each.content)}" for each in self._configs]
        self.config = parser.parse_args([command, *configs, *options])

    def _check_data(self) -> None:
        """Look whether the data is there before the model is loaded, which takes minutes."""
        data = self._get(self.config, "data")
        if data is None and self.subcommand == "segment":
            return
        if data is None:
            self._parser(self.subcommand).error(NO_DATA.format(self.subcommand))
        datamodule = self._make_data(data)
        if self.subcommand == "tune":
            use_tuning_split(datamodule)
        check = getattr(datamodule, "check", None)
        if check is not None:
            check()

    def _make_data(self, data: Any) -> Any:
        """The data module of the configuration, for looking at the files."""
        parser = ArgumentParser()
        parser.add_subclass_arguments(LightningDataModule, "data")
        with configuration_at_fault():
            return parser.instantiate_classes(Namespace(data=data)).data

    def _check_trainer(self) -> None:
        """Refuse what the Trainer takes, or ends with a stack trace for, and cannot work here."""
        precision, devices = (
            self._get(self.config, f"trainer.{n}") for n in ("precision", "devices")
        )
        if str(precision) in ("64", "64-true", "16-true", "bf16-true"):
            raise ConfigurationError(
                f"Expected `trainer.precision` to be 32-true, bf16-mixed or 16-mixed, but got "
                f"{precision}: maps and CRF are computed in float32."
            )
        if self._get(self.config, "trainer.enable_progress_bar") is False:
            raise ConfigurationError(
                "Expected `trainer.enable_progress_bar` not to be given, but got false: this "
                "program's own progress is shown; -q shows none."
            )
        if str(devices).removeprefix("-").isdecimal() and int(devices) < -1:
            raise ConfigurationError(
                f"Expected `trainer.devices` to be auto, -1 for all GPUs, or a number of devices, "
                f"but got {devices}."
            )

    def instantiate_classes(self) -> None:
        """As Lightning does; a setting that is refused is a mistake in the configuration."""
        self._check_trainer()
        self._check_data()
        self.save_config_kwargs["test_parser"] = self._parser("test")
        try:
            with configuration_at_fault():
                super().instantiate_classes()
                arguments = vars(self.model)
                del arguments["class_path"]
                self.model = self._shell(**arguments)
                self._share_cpus()
        except (MisconfigurationException, TypeError) as error:
            # Lightning's word for a number of CPU devices that cannot be.
            if isinstance(error, TypeError) and not str(error).startswith("`devices`"):
                raise
            raise ConfigurationError(str(error)) from error

    def _share_cpus(self) -> None:
        """Deal the CPUs to the run's processes, their threads and loaders."""
        if self.datamodule is not None:
            self.datamodule.trainer = self.trainer  # how many loaders there are depends on it
        use_threads(self.trainer.num_devices, getattr(self.datamodule, "num_workers", 0))

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        if subcommand in ("test", "predict"):
            # The callbacks print and write; label maps of a whole data set do not fit in memory.
            kwargs["verbose" if subcommand == "test" else "return_predictions"] = False
        return kwargs


def load_segmenter(args: Sequence[str]) -> Segmenter:
    """The method of a configuration, on the device that the Trainer would take.

    Args:
        args: options as of the command `segment`.
    """

    class Loader(EvaluationCLI):
        def _run_subcommand(self, subcommand: str) -> None:
            """Nothing: only what `instantiate_classes` makes is wanted."""

    loaded = Loader(["segment", "photo", *args])
    return loaded.model.segmenter.to(loaded.trainer.strategy.root_device)


def _shell_of(configs: Sequence[Config], args: Sequence[str]) -> type[MODEL_BASE]:
    """The class that `model.class_path` names last: the parser has an option for each argument."""
    options = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    options.add_argument("--model.class_path", dest="chosen")
    named = [DEFAULT_MODEL, *(find_setting(c.content, "model.class_path") for c in configs)]
    named.append(options.parse_known_args(args)[0].chosen)
    path = str([name for name in named if name][-1])
    module, _, name = path.rpartition(".")
    try:
        chosen = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(
            f"Expected `model.class_path` to be a class, but cannot import {path}: {error}."
        ) from error
    if not (isinstance(chosen, type) and issubclass(chosen, MODEL_BASE)):
        raise ConfigurationError(
            f"Expected `model.class_path` to be a subclass of {MODEL_BASE.__module__}."
            f"{MODEL_BASE.__qualname__}, but got {path}."
        )
    return chosen
