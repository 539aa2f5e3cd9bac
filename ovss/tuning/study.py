"""An Optuna study that can be stopped, resumed and shared by processes."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.pruners import BasePruner, NopPruner, SuccessiveHalvingPruner
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from ovss.tuning.facts import difference
from ovss.tuning.maps import MapStore
from ovss.tuning.masks import Masks
from ovss.tuning.rewards import Measure, Points, Reward
from ovss.tuning.sampling import TAKEN, UntriedSampler, setting_of
from ovss.tuning.space import Setting
from ovss.utils.signals import REQUEUE, Requeue, stop

log = logging.getLogger(__name__)

DONE = (TrialState.COMPLETE, TrialState.PRUNED)
"""States of trials that count."""

_CHOOSING = 30.0
"""Seconds after which a trial without a setting belongs to a process that died."""

_SILENT = 1800.0
"""Seconds without a finished part of the photos after which a trial counts as cut off; processes of
this machine are asked for. Optuna's own heartbeats will not do: only databases have them, only
`Study.optimize` keeps them up (`ask` warns of it), and a trial that was cut off before its first
one counts as under way for ever."""


def make_pruner(reduction: int) -> BasePruner:
    """Successive halving: at 1, r, r^2, ... parts of the photos the best 1 in r trials go on.

    Asynchronous (https://arxiv.org/abs/1810.05934): a trial is compared with those that got there
    before it, so that no process waits for another.

    Args:
        reduction: r, at least 2; 1 stops no trial.
    """
    if reduction == 1:
        return NopPruner()
    return SuccessiveHalvingPruner(min_resource=1, reduction_factor=reduction)


def open_study(
    storage: BaseStorage,
    name: str,
    sampler: UntriedSampler,
    pruner: BasePruner,
    facts: Mapping[str, Any],
) -> Study:
    """Create a study, or go on with the one of that name.

    Args:
        storage: where it is.
        name: its name.
        sampler: of this process.
        pruner: of this process.
        facts: what the reward depends on, JSON-ready; kept with the study.

    Raises:
        ValueError: the study was made with other facts, so its rewards cannot be compared; or it
            was changed by other hands.
    """
    try:
        study, known = _load(storage, name, sampler, pruner)
    except (ValueError, LookupError, TypeError, SQLAlchemyError, StorageInternalError) as error:
        raise ValueError(
            f"Expected the study {name!r} to be as `tune` left it, but it is damaged or was edited "
            f"({error}). Put a copy of it back, give another --study.name or run folder, or delete "
            "the study."
        ) from error
    if known is None:
        study.set_user_attr("facts", facts)
    elif known != facts:
        raise ValueError(
            f"Expected the study {name!r} to have been made with the same settings, but got "
            f"others: {difference(known, facts)}. Give another --study.name or run folder, or "
            "delete the study."
        )
    return study


def _load(
    storage: BaseStorage, name: str, sampler: UntriedSampler, pruner: BasePruner
) -> tuple[Study, dict[str, Any] | None]:
    """A study, checked trial by trial, and its facts; None where it is new."""
    study = optuna.create_study(
        storage=storage,
        sampler=sampler,
        pruner=pruner,
        study_name=name,
        direction="maximize",
        load_if_exists=True,
    )
    trials = study.get_trials(deepcopy=False)
    known = study.user_attrs.get("facts")  # after the trials: other processes set them before one
    if not isinstance(known, dict) and (known is not None or trials):
        raise ValueError(f"`facts` is {known!r}")
    for trial in trials:
        if trial.state in DONE and setting_of(trial) is None:
            raise ValueError(f"trial {trial.number} has no setting")
        points = trial.user_attrs.get("points")
        if trial.state == TrialState.COMPLETE and not _are_points(points):
            raise ValueError(f"`points` of trial {trial.number} is {points!r}")
    return study, known


def _are_points(data: Any) -> bool:
    return (
        isinstance(data, dict)
        and set(data) == set(Points._fields)
        and all(isinstance(value, (int, float)) for value in data.values())
    )


def run_trials(
    study: Study,
    objective: Callable[[Trial, Setting], float],
    trials: int,
    progress: Callable[[Study], None] = lambda study: None,
) -> None:
    """Add trials until the study has `trials` of them, or the space is used up.

    Ctrl-C gives up the trial under way and keeps all others.

    Args:
        study: from `open_study`.
        objective: reward of a setting, see `make_objective`; may raise `TrialPruned`.
        trials: of all processes and earlier runs together.
        progress: told after every trial.
    """
    sampler = study.sampler
    if not isinstance(sampler, UntriedSampler):
        raise ValueError(f"Expected the study to have an UntriedSampler, but got {sampler!r}.")
    _give_up_dead(study)
    wanted = min(trials, len(sampler.order))
    while len(study.get_trials(deepcopy=False, states=TAKEN)) < wanted:
        try:
            trial = study.ask(fixed_distributions=sampler.space)
        except RuntimeError:
            break  # the others took the last settings
        try:
            trial.set_user_attr("process", _process())
            if not _is_first(study, trial, wanted):
                study.tell(trial, state=TrialState.FAIL)
                continue
            setting = Setting(**trial.params)
            study.tell(trial, objective(trial, setting))
        except optuna.TrialPruned:
            study.tell(trial, state=TrialState.PRUNED)
        except BaseException:
            study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
            raise
        progress(study)


def make_objective(
    store: MapStore,
    masks: Masks,
    reward: Reward,
    parts: Sequence[Sequence[int]],
    measure: Measure = "margin",
) -> Callable[[Trial, Setting], float]:
    """Reward of a setting, part by part of the photos, so that a hopeless one can be stopped.

    Its `Points` are kept with the trial.
    """

    def objective(trial: Trial, setting: Setting) -> float:
        total = Points(0, 0, 0.0)
        for step, photos in enumerate(parts, 1):
            total += reward(photos, masks(photos, store(setting, photos), setting))
            leave_if_asked()
            trial.set_user_attr("seen", time.time())
            if step < len(parts):
                trial.report(total.mean(measure), step)
                if trial.should_prune():
                    raise optuna.TrialPruned
        trial.set_user_attr("points", total._asdict())
        return total.mean(measure)

    return objective


def leave_if_asked() -> None:
    """End the program if SIGTERM or SIGUSR1 came.

    Raises:
        Requeue: with the exit code that asks to be started again.
    """
    if stop.received:
        log.warning(
            "Stopped on %s; finished trials are kept. Start the same command again to go on.",
            stop.received,
        )
        raise Requeue(REQUEUE)


def ranking(study: Study) -> list[FrozenTrial]:
    """Complete trials, best first.

    Equal rewards are ranked by margin, then by fewer rounds, then by age.
    """

    def key(trial: FrozenTrial) -> tuple[float, float, int, int]:
        points = trial.user_attrs["points"]
        margin = points["margin"] / max(points["pairs"], 1)
        return (-(trial.value or 0.0), -margin, trial.params["rounds"], trial.number)

    return sorted(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)), key=key)


def _is_first(study: Study, trial: Trial, wanted: int) -> bool:
    """Whether no trial with a lower number has the same setting, and there is room for this one.

    As in Lamport's bakery, a trial waits for those with lower numbers that are still choosing.
    """
    own = Setting(**trial.params)
    while True:
        lower = [
            other
            for other in study.get_trials(deepcopy=False, states=TAKEN)
            if other.number < trial.number
        ]
        if len(lower) >= wanted:
            return False
        settings = [setting_of(other) for other in lower]
        if own in settings:
            return False
        choosing = [
            other
            for other, setting in zip(lower, settings, strict=True)
            if setting is None
            and other.datetime_start is not None
            and time.time() - other.datetime_start.timestamp() < _CHOOSING
        ]
        if not choosing:
            return True
        time.sleep(0.05)


def _process() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _give_up_dead(study: Study) -> None:
    """Mark trials whose process no longer runs, or gave no sign for long, as failed."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        host, _, pid = str(trial.user_attrs.get("process", "")).rpartition(":")
        started = trial.datetime_start
        seen = trial.user_attrs.get("seen")
        if not isinstance(seen, (int, float)):  # none yet, or edited
            seen = 0.0 if started is None else started.timestamp()
        dead = host == socket.gethostname() and pid.isdecimal() and not _alive(int(pid))
        if dead or time.time() - seen > _SILENT:
            log.info("trial %d was cut off; its setting may be tried again", trial.number)
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def _alive(pid: int) -> bool:
    if os.name != "posix":
        return True  # signal 0 asks nothing there
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
