"""The `tune` command: photos, maps, reward, study, results."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna import logging as optuna_logging
from optuna.study import Study
from rich.console import Console
from torch.utils.data import DataLoader

from ovss.progress import Progress
from ovss.report import percent
from ovss.tuning.maps import MapStore
from ovss.tuning.masks import make_masks
from ovss.tuning.photos import TuningPhotos, chunked, gather_photos
from ovss.tuning.plots import draw_study
from ovss.tuning.progress import TrialProgress
from ovss.tuning.report import best_table, write_best, write_trials
from ovss.tuning.rewards import Reward
from ovss.tuning.sampling import TAKEN, UntriedSampler, setting_of
from ovss.tuning.scorers import Scorer, make_scorer
from ovss.tuning.settings import RewardSettings, StudySettings
from ovss.tuning.space import SearchSpace, Setting
from ovss.tuning.study import (
    DONE,
    make_objective,
    make_pruner,
    open_storage,
    open_study,
    ranking,
    run_trials,
)
from ovss.tuning.validation import rank_correlation, score_settings

if TYPE_CHECKING:
    from ovss.module import PnPOVSS

log = logging.getLogger(__name__)


def tune(
    module: PnPOVSS,
    loader: DataLoader,
    folder: Path,
    space: SearchSpace,
    reward: RewardSettings,
    search: StudySettings,
    validate: bool = False,
) -> Study:
    """Search layer, head, threshold and Salience DropOut by the reward, and write what was found.

    Args:
        module: with its VLM on the device to use and its benchmark set.
        loader: gives `PhotoBatch`; masks are taken out before the search sees a batch.
        folder: gets `study.db`, `best.yaml`, `trials.csv` and the pictures.
        space: what to choose from.
        reward: the reward model.
        search: how to search.
        validate: when the search is over, score the complete trials with the ground truth of the
            tuning photos and say how well the reward ranks them.

    Returns:
        The study.

    Raises:
        ValueError: settings that cannot be, no photo to tune on, or a study made otherwise.
    """
    optuna_logging.set_verbosity(optuna_logging.WARNING)
    choices = space.choices(module.vlm)
    sampler = UntriedSampler(choices, search.sampler, search.seed)
    pruner = make_pruner(search.reduction)
    scorer = make_scorer(reward.scorer, module.vlm, reward.model, module.template, reward.prompt)
    photos = gather_photos(
        loader,
        module.benchmark,
        module.proposer,
        module.vlm,
        scorer.size,
        search.photos,
        search.seed,
    )
    study = open_study(
        open_storage(search.storage, folder),
        search.name,
        sampler,
        pruner,
        describe(module, photos, scorer, reward, choices),
    )
    store = make_store(module, photos, loader.batch_size or 1, search.memory_gb, folder)
    main_names = [[names[0] for names in own] for own in store.names]
    masks = make_masks(reward.mask, module, photos, scorer.size)
    judge = Reward(scorer, photos, main_names, reward.negative, reward.batch_size)
    parts = chunked(len(photos), -(-len(photos) // search.parts))
    wanted = min(search.trials, len(sampler.order))
    log.info("%d settings in the space; %d trials wanted", len(sampler.order), wanted)
    before = len(study.get_trials(deepcopy=False, states=DONE))
    mious: dict[int, float] = {}
    try:
        progress = TrialProgress(max(wanted - before, 0))
        with progress:

            def show(study: Study) -> None:
                ranked = ranking(study)
                done = len(study.get_trials(deepcopy=False, states=DONE)) - before
                progress.show(done, f"{percent(ranked[0].value)} %" if ranked else "-")

            objective = make_objective(store, masks, judge, parts, reward.measure)
            run_trials(study, objective, search.trials, reward.measure, show)
        if validate:
            mious = validate_trials(module, loader, photos, store, study)
    finally:
        # After Ctrl-C, too: what was found so far is written before the program ends.
        write_results(study, choices, folder, mious)
    return study


def make_store(
    module: PnPOVSS, photos: TuningPhotos, batch_size: int, memory_gb: float, folder: Path
) -> MapStore:
    """The class maps of the tuning photos, with a progress bar."""
    names = [[module.names_of(label) for label in labels] for labels in photos.labels]
    with Progress("maps of all layers and heads", len(photos)) as progress:
        return MapStore(
            module.vlm,
            photos,
            names,
            module.dropout,
            module.benchmark.rescale,
            module.template,
            batch_size,
            int(memory_gb * 2**30),
            folder,
            progress.advance,
        )


def describe(
    module: PnPOVSS,
    photos: TuningPhotos,
    scorer: Scorer,
    reward: RewardSettings,
    choices: dict[str, list[Any]],
) -> dict[str, Any]:
    """What a reward is only comparable with, JSON-ready."""
    named = [[module.names_of(label) for label in labels] for labels in photos.labels]
    prompt = f", prompt {reward.prompt!r}" if reward.scorer == "clip" else ""
    return {
        "benchmark": module.benchmark.key,
        "variant": module.variant,
        "vlm": module.vlm.name,
        "image_size": module.vlm.image_size,
        "proposals": module.proposer.name,
        "reward": f"{reward.measure} of {scorer.name}, {reward.mask} against {reward.negative}"
        + prompt,
        "labeller": None if reward.mask == "map" else repr(replace(module.labeller, threshold=0)),
        "template": module.template,
        "photos": len(photos),
        "photos_and_classes": hashlib.sha256(
            repr(list(zip(photos.ids, named, strict=True))).encode()
        ).hexdigest()[:16],
        "drop": module.dropout.drop,
        "stop_below": module.dropout.stop_below,
        "space": choices,
    }


def validate_trials(
    module: PnPOVSS,
    loader: DataLoader,
    photos: TuningPhotos,
    store: MapStore,
    study: Study,
) -> dict[int, float]:
    """The mIoU of each complete trial, by its number, and a line on how the reward ranks them."""
    trials = ranking(study)
    settings = [Setting(**trial.params) for trial in trials]
    with Progress("validate", len(settings), unit="settings") as progress:
        found = score_settings(module, loader, photos, store, settings, progress.advance)
    rho = rank_correlation([trial.value or 0.0 for trial in trials], found)
    best = max(range(len(found)), key=found.__getitem__)
    Console().print(
        f"{len(found)} trials: Spearman's rank correlation of reward and mIoU {rho:.2f}; mIoU of "
        f"the chosen setting {percent(found[0])}, of the best trial (#{trials[best].number}) "
        f"{percent(found[best])}, on the {len(photos)} tuning photos",
        soft_wrap=True,
    )
    return {trial.number: miou for trial, miou in zip(trials, found, strict=True)}


def write_results(
    study: Study, choices: dict[str, list[Any]], folder: Path, mious: dict[int, float]
) -> None:
    """Write `best.yaml`, `trials.csv` and the pictures, and print the best trials."""
    ranked = ranking(study)
    if not ranked:
        log.info("no trial is complete yet; nothing is written")
        return
    setting = setting_of(ranked[0])
    if setting is not None:
        write_best(folder / "best.yaml", setting, study.user_attrs["facts"], ranked[0].value or 0.0)
    write_trials(folder / "trials.csv", study, mious)
    files = draw_study(study, choices, folder, mious)
    done = study.get_trials(deepcopy=False, states=DONE)
    taken = study.get_trials(deepcopy=False, states=TAKEN)
    console = Console()
    console.print(best_table(ranked, mious))
    console.print(
        f"{len(ranked)} trials complete, {len(done) - len(ranked)} stopped early"
        + (f", {len(taken) - len(done)} under way elsewhere" if len(taken) > len(done) else "")
        + f"; results in {folder}: best.yaml, trials.csv, {', '.join(f.name for f in files)}",
        soft_wrap=True,
    )
