"""Pictures of a study."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import optuna
from matplotlib.figure import Figure
from optuna.exceptions import ExperimentalWarning
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.study import Study
from optuna.trial import TrialState

from ovss.tuning.report import running_reward
from ovss.tuning.sampling import setting_of
from ovss.tuning.study import DONE

log = logging.getLogger(__name__)

_ENOUGH = 10
"""Trials below which importances say nothing."""


def draw_study(
    study: Study,
    choices: Mapping[str, Sequence[Any]],
    folder: Path,
    mious: Mapping[int, float],
) -> list[Path]:
    """Draw the layer x head heat map, the history, the importances and reward against mIoU.

    Args:
        study: with at least one complete trial.
        choices: the values of each part of a setting.
        folder: gets the PNGs.
        mious: trial number -> mIoU in 0..1, where it was measured.

    Returns:
        The files.
    """
    files = [_heat_map(study, choices, folder / "layer_head.png")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # Optuna's matplotlib plots
        backend = matplotlib.get_backend()
        matplotlib.use("Agg")  # Optuna draws through pyplot, which may want a display
        try:
            axes = optuna.visualization.matplotlib.plot_optimization_history(
                study, target_name="reward"
            )
            files.append(_save(axes.figure, folder / "history.png"))
            everyone = as_complete(study)
            rewards = [trial.value for trial in everyone.get_trials(deepcopy=False)]
            if len(rewards) >= _ENOUGH and len(set(rewards)) > 1:
                # Optuna's default evaluator wants scikit-learn.
                axes = optuna.visualization.matplotlib.plot_param_importances(
                    everyone, evaluator=PedAnovaImportanceEvaluator(), target_name="reward"
                )
                files.append(_save(axes.figure, folder / "importances.png"))
        finally:
            matplotlib.pyplot.close("all")
            matplotlib.use(backend)
    if mious:
        files.append(_scatter(study, mious, folder / "reward_miou.png"))
    return files


def as_complete(study: Study) -> Study:
    """A copy in memory in which stopped trials are complete, with their rewards so far.

    Optuna's importances count complete trials alone, and most are stopped early.
    """
    copy = optuna.create_study(direction="maximize")
    copy.add_trials(
        [
            optuna.trial.create_trial(
                params=trial.params,
                distributions=trial.distributions,
                value=running_reward(trial),
            )
            for trial in study.get_trials(deepcopy=False, states=DONE)
        ]
    )
    return copy


def heat(study: Study, choices: Mapping[str, Sequence[Any]]) -> np.ndarray:
    """`(layers, heads)`: the best reward of each pair, NaN where there was no trial.

    A stopped trial counts with its reward so far, but only where no complete one is.
    """
    best = np.full((2, len(choices["layer"]), len(choices["head"])), np.nan)
    for trial in study.get_trials(deepcopy=False, states=DONE):
        setting = setting_of(trial)
        if setting is not None:
            kind = int(trial.state == TrialState.COMPLETE)
            row = list(choices["layer"]).index(setting.layer)
            column = list(choices["head"]).index(setting.head)
            best[kind, row, column] = np.fmax(best[kind, row, column], running_reward(trial))
    return np.where(np.isnan(best[1]), best[0], best[1])


def _heat_map(study: Study, choices: Mapping[str, Sequence[Any]], path: Path) -> Path:
    rewards = 100 * heat(study, choices)
    rows, columns = rewards.shape
    figure = Figure(figsize=(1.6 + 0.55 * columns, 1.3 + 0.45 * rows), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(rewards, aspect="auto", cmap="viridis")
    axes.set_xticks(range(columns), [str(head) for head in choices["head"]])
    axes.set_yticks(range(rows), [str(layer) for layer in choices["layer"]])
    axes.set(xlabel="head", ylabel="layer", title="best reward, %")
    middle = (np.nanmin(rewards) + np.nanmax(rewards)) / 2
    for row, column in np.argwhere(~np.isnan(rewards)):
        value = rewards[row, column]
        colour = "black" if value > middle else "white"
        axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(image)
    return _save(figure, path)


def _scatter(study: Study, mious: Mapping[int, float], path: Path) -> Path:
    trials = [t for t in study.get_trials(deepcopy=False) if t.number in mious]
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.add_subplot()
    points = axes.scatter(
        [100 * (trial.value or 0.0) for trial in trials],
        [100 * mious[trial.number] for trial in trials],
        c=[trial.params["threshold"] for trial in trials],
        s=16,
    )
    axes.set(xlabel="reward, %", ylabel="mIoU, %")
    figure.colorbar(points, label="threshold")
    return _save(figure, path)


def _save(figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    return path
