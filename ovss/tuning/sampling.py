"""Which setting a trial gets: one that no other trial has had."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from ovss.tuning.space import Setting, repair, settings_of


class UntriedSampler(BaseSampler):
    """Deals out the settings of a finite space without repeats, to any number of processes.

    All settings are put into one order that every process knows, and trial n starts looking at
    place n: numbers are unique in a study, so processes do not meet. `random` shuffles the order,
    `grid` leaves it, `tpe` asks Optuna's tree-structured Parzen estimator and takes the untried
    setting that has most in common with its answer, or the next of the shuffled order while it has
    none.

    Args:
        choices: the values of each part of a setting.
        kind: `random`, `grid` or `tpe`.
        seed: of the shuffling and of the estimator.

    Raises:
        ValueError: another kind.
    """

    def __init__(self, choices: Mapping[str, Sequence[Any]], kind: str, seed: int) -> None:
        if kind not in ("random", "grid", "tpe"):
            raise ValueError(f"Expected `study.sampler` to be random, grid or tpe, but got {kind}.")
        self.choices = choices
        self.kind = kind
        self.seed = seed
        self.order = settings_of(choices)
        if kind != "grid":
            shuffled = np.random.default_rng(seed).permutation(len(self.order))
            self.order = [self.order[place] for place in shuffled]
        self.space: dict[str, BaseDistribution] = {
            name: CategoricalDistribution(choices[name]) for name in Setting._fields
        }

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """All parts of a setting are chosen together."""
        return self.space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The next setting that no trial of the study has.

        Raises:
            RuntimeError: all of them are taken.
        """
        others = study.get_trials(deepcopy=False, states=TAKEN)
        taken = {setting for other in others if (setting := setting_of(other)) is not None}
        wanted = self._estimate(study, trial) if self.kind == "tpe" else None
        untried = [setting for setting in self.order if setting not in taken]
        if wanted is not None and untried:
            # The estimator likes what it knows: next to it there is something new.
            return max(untried, key=lambda s: sum(map(operator.eq, s, wanted)))._asdict()
        count = len(self.order)
        for step in range(count):
            setting = self.order[(trial.number + step) % count]
            if setting not in taken:
                return setting._asdict()
        raise RuntimeError("Expected an untried setting, but all of the space are taken.")

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Never asked for: every part is chosen in `sample_relative`."""
        raise ValueError(f"Expected one of {sorted(self.space)}, but got {param_name!r}.")

    def _estimate(self, study: Study, trial: FrozenTrial) -> Setting | None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # multivariate, constant_liar
            # A generator for each trial: a resumed study goes on as one that never stopped.
            guide = TPESampler(seed=self.seed + trial.number, multivariate=True, constant_liar=True)
            values = guide.sample_relative(study, trial, self.space)
        return repair(values, self.choices) if values else None


TAKEN = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
"""States of trials whose setting is done or being done; a failed one may be tried again."""


def setting_of(trial: FrozenTrial) -> Setting | None:
    """A trial's setting; None while it is being chosen."""
    if any(name not in trial.params for name in Setting._fields):
        return None
    return Setting(**{name: trial.params[name] for name in Setting._fields})
