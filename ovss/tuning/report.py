"""What a study found, as files and as a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from rich.table import Table

from ovss.tuning.rewards import Points
from ovss.tuning.sampling import setting_of
from ovss.tuning.space import Setting
from ovss.tuning.study import DONE
from ovss.utils.files import write_atomically
from ovss.utils.text import percent


def write_best(path: Path, setting: Setting, facts: Mapping[str, Any], reward: float) -> None:
    """Write the overlay that other commands take with `--config`, after their own."""
    text = yaml.safe_dump({"model": setting.overlay()}, sort_keys=False)
    origin = (
        f"benchmark {facts['benchmark']['key']}, vlm {facts['model']['vlm']['name']}, "
        f"reward {facts['reward']}, photos {facts['photos']}"
    )
    write_atomically(
        path,
        f"# Found by `tune` without segmentation labels: reward {percent(reward)} %.\n"
        f"# {origin}\n{text}",
    )


def write_trials(path: Path, study: Study, mious: Mapping[int, float]) -> None:
    """Write all trials that count as CSV, in the order they were made.

    Args:
        path: the file.
        study: the study.
        mious: trial number -> mIoU in 0..1, where it was measured.
    """
    text = io.StringIO()
    columns = ["trial", "state", *Setting._fields, "reward", *Points._fields]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, "mIoU"] if mious else columns)
    for trial in study.get_trials(deepcopy=False, states=DONE):
        setting = setting_of(trial)
        if setting is None:
            continue
        points = trial.user_attrs.get("points", {})
        row = [trial.number, trial.state.name.lower(), *setting, running_reward(trial)]
        row += [points.get(key, "") for key in Points._fields]
        writer.writerow([*row, mious.get(trial.number, "")] if mious else row)
    write_atomically(path, text.getvalue())


def running_reward(trial: FrozenTrial) -> float:
    """A complete trial's reward; a stopped one's at the photos it got to."""
    if trial.state == TrialState.COMPLETE and trial.value is not None:
        return trial.value
    return trial.intermediate_values[max(trial.intermediate_values)]


def best_table(
    ranked: list[FrozenTrial], mious: Mapping[int, float], reward: str, count: int = 10
) -> Table:
    """The best trials with their rewards in percent; `reward` says what was rewarded."""
    table = Table(title=f"best trials; reward, %: {reward}")
    for column in ("trial", *Setting._fields, "reward"):
        table.add_column(column, justify="right")
    if mious:
        table.add_column("mIoU", justify="right")
    for trial in ranked[:count]:
        setting = setting_of(trial)
        if setting is not None:
            row = [str(trial.number), *(str(value) for value in setting), percent(trial.value)]
            table.add_row(*row, *([percent(mious.get(trial.number))] if mious else []))
    return table
