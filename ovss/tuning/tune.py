"""The `tune` command: photos, maps, reward, study, results."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optuna import logging as optuna_logging
from optuna.study import Study
from optuna.trial import Trial
from rich.console import Console
from torch.utils.data import DataLoader

from ovss.benchmark import Benchmark
from ovss.pnp import PnP
from ovss.tuning.facts import study_facts
from ovss.tuning.maps import MapStore
from ovss.tuning.masks import make_masks
from ovss.tuning.photos import TuningPhotos, chunked, gather_photos
from ovss.tuning.plots import draw_study
from ovss.tuning.report import best_table, write_best, write_trials
from ovss.tuning.rewards import Reward, make_scorer
from ovss.tuning.sampling import TAKEN, UntriedSampler, setting_of
from ovss.tuning.settings import RewardSettings, StudySettings
from ovss.tuning.space import SearchSpace, Setting
from ovss.tuning.storage import open_storage
from ovss.tuning.study import (
    DONE,
    leave_if_asked,
    make_objective,
    make_pruner,
    open_study,
    ranking,
    run_trials,
)
from ovss.tuning.validation import rank_correlation, score_settings
from ovss.utils.errors import configuration_at_fault
from ovss.utils.progress import Progress
from ovss.utils.signals import stop
from ovss.utils.text import counted, percent

log = logging.getLogger(__name__)


def tune(
    segmenter: PnP,
    benchmark: Benchmark,
    loader: DataLoader,
    folder: Path,
    space: SearchSpace,
    reward: RewardSettings,
    search: StudySettings,
    validate: bool = False,
    precision: str = "32-true",
) -> Study:
    """Search layer, head, threshold and Salience DropOut by the reward, and write what was found.

    Args:
        segmenter: the method, on the device to use.
        benchmark: the classes.
        loader: gives `PhotoBatch`; masks are taken out before the search sees a batch.
        folder: gets `study.db`, `best.yaml`, `trials.csv` and the pictures.
        space: what to choose from.
        reward: the reward model.
        search: how to search.
        validate: when the search is over, score the complete trials with the ground truth of the
            tuning photos and say how well the reward ranks them.
        precision: of the computation, for the study's facts.

    Returns:
        The study.

    Raises:
        ValueError: settings that cannot be, no photo to tune on, or a study made otherwise.
        Requeue: SIGTERM or SIGUSR1 came; what was found so far is written.
    """
    optuna_logging.set_verbosity(optuna_logging.WARNING)
    with configuration_at_fault():
        choices = space.choices(segmenter.vlm)
    sampler = UntriedSampler(choices, search.sampler, search.seed)
    pruner = make_pruner(search.reduction)
    scorer = make_scorer(reward, segmenter.vlm, segmenter.template)
    photos = gather_photos(
        loader,
        benchmark,
        segmenter.proposer,
        segmenter.vlm,
        scorer.size,
        search.photos,
        search.seed,
    )
    study = open_study(
        open_storage(search.storage, folder),
        search.name,
        sampler,
        pruner,
        study_facts(segmenter, benchmark, photos, scorer, reward, search, choices, precision),
    )
    stop.listen()
    mious: dict[int, float] = {}
    try:
        store = make_store(
            segmenter, benchmark, photos, loader.batch_size or 1, search.memory_gb, folder
        )
        main_names = [[names[0] for names in own] for own in store.names]
        masks = make_masks(reward.mask, segmenter, benchmark, photos, scorer.size)
        judge = Reward(scorer, photos, main_names, reward.negative, reward.batch_size)
        parts = chunked(len(photos), -(-len(photos) // search.parts))
        objective = make_objective(store, masks, judge, parts, reward.measure)
        search_with_progress(study, objective, search.trials, len(sampler.order))
        if validate:
            mious = validate_trials(segmenter, benchmark, loader, photos, store, study)
    finally:
        # After Ctrl-C and signals, too: what was found is written before the program ends.
        write_results(study, choices, folder, mious)
        stop.restore()
    return study


def search_with_progress(
    study: Study, objective: Callable[[Trial, Setting], float], trials: int, settings: int
) -> None:
    """Run trials, with a progress bar.

    Args:
        study: from `open_study`.
        objective: from `make_objective`.
        trials: of all processes and earlier runs together.
        settings: how many there are in the space.
    """
    wanted = min(trials, settings)
    log.info("%s in the space; %s wanted", counted(settings, "setting"), counted(wanted, "trial"))
    before = len(study.get_trials(deepcopy=False, states=DONE))
    with Progress("trials", max(wanted - before, 0), unit="trials") as progress:

        def show(study: Study) -> None:
            ranked = ranking(study)
            done = len(study.get_trials(deepcopy=False, states=DONE)) - before
            progress.what = f"trials, best {f'{percent(ranked[0].value)} %' if ranked else '-'}"
            progress.advance(done - progress.done)

        run_trials(study, objective, trials, show)


def stoppable(progress: Progress) -> Callable[[int], None]:
    """Advances a bar, and ends the program there if a signal asked for it."""

    def advance(done: int) -> None:
        progress.advance(done)
        leave_if_asked()

    return advance


def make_store(
    segmenter: PnP,
    benchmark: Benchmark,
    photos: TuningPhotos,
    batch_size: int,
    memory_gb: float,
    folder: Path,
) -> MapStore:
    """The class maps of the tuning photos, with a progress bar."""
    names = [[segmenter.names_of(label, benchmark) for label in labels] for labels in photos.labels]
    with Progress("maps of all layers and heads", len(photos)) as progress:
        return MapStore(
            segmenter.vlm,
            photos,
            names,
            segmenter.dropout,
            benchmark.rescale,
            segmenter.template,
            batch_size,
            int(memory_gb * 2**30),
            folder,
            stoppable(progress),
        )


def validate_trials(
    segmenter: PnP,
    benchmark: Benchmark,
    loader: DataLoader,
    photos: TuningPhotos,
    store: MapStore,
    study: Study,
) -> dict[int, float]:
    """The mIoU of each complete trial, by its number, and a line on how the reward ranks them."""
    trials = ranking(study)
    settings = [Setting(**trial.params) for trial in trials]
    with Progress("validate", len(settings), unit="settings") as progress:
        found = score_settings(
            segmenter, benchmark, loader, photos, store, settings, stoppable(progress)
        )
    rho = rank_correlation([trial.value or 0.0 for trial in trials], found)
    best = max(range(len(found)), key=found.__getitem__)
    Console().print(
        f"{counted(len(found), 'trial')}: Spearman's rank correlation of reward and mIoU "
        f"{rho:.2f}; mIoU of the chosen setting {percent(found[0])}, of the best trial "
        f"(#{trials[best].number}) {percent(found[best])}, on the "
        f"{counted(len(photos), 'tuning photo')}",
        soft_wrap=True,
    )
    return {trial.number: miou for trial, miou in zip(trials, found, strict=True)}


def write_results(
    study: Study, choices: dict[str, list[Any]], folder: Path, mious: dict[int, float]
) -> None:
    """Write `best.yaml`, `trials.csv` and the pictures, and print the best trials."""
    ranked = ranking(study)
    if not ranked:
        log.info("no trial is complete yet, so there is nothing to write")
        return
    setting = setting_of(ranked[0])
    if setting is not None:
        write_best(folder / "best.yaml", setting, study.user_attrs["facts"], ranked[0].value or 0.0)
    write_trials(folder / "trials.csv", study, mious)
    files = draw_study(study, choices, folder, mious)
    done = study.get_trials(deepcopy=False, states=DONE)
    taken = study.get_trials(deepcopy=False, states=TAKEN)
    console = Console()
    console.print(best_table(ranked, mious, study.user_attrs["facts"]["reward"]))
    console.print(
        f"{counted(len(ranked), 'trial')} complete, {len(done) - len(ranked)} stopped early"
        + (f", {len(taken) - len(done)} under way elsewhere" if len(taken) > len(done) else "")
        + f"; results in {folder}: best.yaml, trials.csv, {', '.join(f.name for f in files)}",
        soft_wrap=True,
    )
