"""The `tune` command's Lightning side: device, precision and data."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING

from lightning.pytorch import LightningDataModule, Trainer

from ovss.callbacks.recorder import run_folder
from ovss.tuning.settings import RewardSettings, StudySettings
from ovss.tuning.space import SearchSpace
from ovss.utils.errors import ConfigurationError

if TYPE_CHECKING:
    from ovss.module import PnPOVSS

log = logging.getLogger(__name__)


def tune_with_trainer(
    trainer: Trainer,
    module: PnPOVSS,
    datamodule: LightningDataModule | None,
    space: SearchSpace,
    reward: RewardSettings,
    study: StudySettings,
    validate: bool,
) -> None:
    """Tune on a data module's photos, on the trainer's first device and in its precision.

    A data module with a `tuning_split`, as `datamodules.Scenes` has, is switched to it, so that the
    photos that are scored later stay unseen. Its `spec` is set to what the module under test wants.

    Args:
        trainer: gives the device, the precision and the folder; results go into its folder
            of the study's name.
        module: from the configuration.
        datamodule: from the configuration.
        space: see `ovss.tuning.tune.tune`, as for what follows.
        reward: how a setting is judged.
        study: how to search.
        validate: whether to score the trials afterwards.

    Raises:
        ValueError: no data, a package is missing, or see `ovss.tuning.tune.tune`.
    """
    missing = [name for name in ("optuna", "matplotlib") if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"Expected {' and '.join(missing)} for `tune`, but not installed; run "
            "`pip install 'ovss[tune]'` (from a checkout: `pip install -e '.[tune]'`)."
        )
    if datamodule is None:
        raise ConfigurationError(
            "Expected `data` in the configuration of `tune`, but got none; give one of "
            "the shipped ones with --config, such as --config demo."
        )
    from ovss.tuning.tune import tune

    split = use_tuning_split(datamodule)
    if split is not None:
        log.info("tuning on the split %s", split)
    datamodule.prepare_data()
    benchmark = datamodule.benchmark  # type: ignore[attr-defined]
    if getattr(datamodule, "spec", None) is None:
        datamodule.spec = module.input_spec(benchmark)  # type: ignore[attr-defined]
    datamodule.setup("predict")
    if trainer.num_devices * trainer.num_nodes > 1:
        log.warning(
            "`tune` uses one device; to use more, start it several times with one --study.storage."
        )
    module.to(trainer.strategy.root_device)
    with trainer.precision_plugin.forward_context():
        tune(
            module.segmenter,
            benchmark,
            datamodule.predict_dataloader(),
            run_folder(trainer) / study.name,
            space,
            reward,
            study,
            validate,
            str(trainer.precision),
        )


def use_tuning_split(datamodule: LightningDataModule) -> str | None:
    """Switch a data module to its `tuning_split`, where it has one, and give that."""
    split = getattr(datamodule, "tuning_split", None)
    if split is not None:
        datamodule.split = split  # type: ignore[attr-defined]
    return split
