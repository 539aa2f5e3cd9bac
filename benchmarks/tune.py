"""Measure the annotation-free tuning on the demo: its speed, its reward, and what it finds.

    OMP_NUM_THREADS=1 python benchmarks/tune.py speed
    OMP_NUM_THREADS=1 python benchmarks/tune.py scorers
    python benchmarks/tune.py exhaustive --trials runs/demo/tune/trials.csv

`speed` times the search against the naive way: the same settings on the same photos, each with the
full passes over all photos (every round of Salience DropOut) and with the reward's texts and black
photo scored anew. `scorers` says how well each reward ranks settings by mIoU on the dev scenes.
`exhaustive` scores every setting of the default space on held-out scenes, through the whole
pipeline, and says where the search's choice is among them.
"""

from __future__ import annotations

import argparse
import csv
import logging
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import optuna
import torch
from torch.utils.data import DataLoader

from ovss.datamodules import Scenes
from ovss.module import PnPOVSS
from ovss.pnp import gradcam_rounds
from ovss.proposals import OracleProposer
from ovss.salience import SalienceDropout
from ovss.tuning.maps import MapStore
from ovss.tuning.masks import Mask, Masks, make_masks
from ovss.tuning.photos import TuningPhotos, chunked, gather_photos
from ovss.tuning.rewards import Measure, Negative, Reward, make_scorer
from ovss.tuning.sampling import UntriedSampler
from ovss.tuning.settings import RewardSettings, StudySettings
from ovss.tuning.space import SearchSpace, Setting, settings_of
from ovss.tuning.storage import open_storage
from ovss.tuning.study import make_objective, make_pruner, open_study, run_trials
from ovss.tuning.validation import rank_correlation, score_settings

Judge = Literal["itm", "itc", "clip"]

MEASURES: tuple[Measure, ...] = ("margin", "points")
REWARDS: tuple[tuple[Judge, Mask, Negative], ...] = (
    ("itm", "labels", "black"),
    ("itm", "labels", "complement"),
    ("itm", "map", "black"),
    ("itm", "map", "complement"),
    ("itc", "labels", "black"),
    ("itc", "labels", "complement"),
)


class Demo:
    """The demo's model and some photos of a split with two classes or more."""

    def __init__(self, root: Path, split: str, photos: int) -> None:
        self.module = PnPOVSS("demo", 0, 0)
        data = Scenes(root, split, num_workers=0)
        data.prepare_data()
        data.spec = self.module.input_spec(data.benchmark)
        data.setup()
        self.module.benchmark = data.benchmark
        self.loader: DataLoader = data.predict_dataloader()
        vlm = self.module.vlm
        self.photos: TuningPhotos = gather_photos(
            self.loader, data.benchmark, OracleProposer(), vlm, vlm.image_size, photos, 0
        )
        self.names = [[data.benchmark.prompts[k] for k in own] for own in self.photos.labels]

    def store(self) -> MapStore:
        """The maps of all layers and heads."""
        return MapStore(self.module.vlm, self.photos, self.names, SalienceDropout())

    def reward(self, scorer: Judge = "itm", negative: Negative = "black") -> Reward:
        """The reward, its black photo and texts scored."""
        names = [[synonyms[0] for synonyms in own] for own in self.names]
        return Reward(
            make_scorer(RewardSettings(scorer), self.module.vlm), self.photos, names, negative
        )

    def masks(self, kind: Mask = "labels") -> Masks:
        """What a setting keeps of a photo."""
        return make_masks(kind, self.module, self.photos, self.module.vlm.image_size)

    def score(self, store: MapStore, settings: Sequence[Setting]) -> list[float]:
        """The mIoU of settings on the photos."""
        return score_settings(self.module, self.loader, self.photos, store, settings)


def run_naively(demo: Demo, settings: Sequence[Setting]) -> float:
    """Processor seconds for some settings, each from scratch."""
    start = time.process_time()
    for setting in settings:
        reward, masks = demo.reward(), demo.masks()  # texts and black photo, again
        for chunk in chunked(len(demo.photos), 16):
            dropout = SalienceDropout(setting.rounds, setting.patches or 1)
            seen = gradcam_rounds(
                demo.module.vlm,
                demo.photos.pixel_values[chunk[0] : chunk[-1] + 1],
                [demo.names[p] for p in chunk],
                setting.layer,
                setting.head,
                dropout,
            )
            maps = [each.sum(0) for each in seen.maps]
            reward(chunk, masks(chunk, maps, setting))
    return time.process_time() - start


def run_search(
    demo: Demo, space: SearchSpace, trials: int, reduction: int
) -> tuple[float, Sequence]:
    """Processor seconds for a study from the first pass on, and its trials."""
    start = time.process_time()
    settings = StudySettings()
    sampler = UntriedSampler(space.choices(demo.module.vlm), "random", 0)
    with tempfile.TemporaryDirectory() as folder:
        study = open_study(
            open_storage(None, Path(folder)),
            "speed",
            sampler,
            make_pruner(reduction),
            {},
        )
        parts = chunked(len(demo.photos), -(-len(demo.photos) // settings.parts))
        objective = make_objective(demo.store(), demo.masks(), demo.reward(), parts)
        run_trials(study, objective, trials)
        return time.process_time() - start, study.trials


def speed(args: argparse.Namespace) -> None:
    """Trials a processor minute: the naive way, with kept maps, and with early stopping as well.

    Processor time, because a busy machine stretches the clock's for one and not the other.
    """
    demo = Demo(args.data, "dev", args.photos)
    print(f"{len(demo.photos)} photos, {sum(map(len, demo.names))} (photo, class) pairs\n")
    print("| space | naive | kept maps | ratio | and early stopping | ratio |")
    print("|---|---|---|---|---|---|")
    for title, space in (("default", SearchSpace()), ("one round", SearchSpace(rounds=[1]))):
        order = UntriedSampler(space.choices(demo.module.vlm), "random", 0).order
        naive = 60 * args.naive / run_naively(demo, order[: args.naive])
        rates: list[float] = []
        for reduction, count in ((1, 3 * args.naive), (StudySettings().reduction, args.trials)):
            seconds, trials = run_search(demo, space, count, reduction)
            rates.append(60 * len(trials) / seconds)
        print(
            f"| {title} | {naive:.1f} | {rates[0]:.1f} | {rates[0] / naive:.1f} "
            f"| {rates[1]:.1f} | {rates[1] / naive:.1f} |",
            flush=True,
        )


def scorers(args: argparse.Namespace) -> None:
    """How each reward ranks settings, and the mIoU of what it would choose."""
    demo = Demo(args.data, "dev", args.photos)
    store = demo.store()
    space = SearchSpace(args.layers, args.heads, [0.01, 0.02, 0.05, 0.1, 0.2, 0.3])
    chosen = sorted(settings_of(space.choices(demo.module.vlm)), key=lambda s: -s.rounds)
    mious = demo.score(store, chosen)
    print(f"{len(chosen)} settings, {len(demo.photos)} photos, best mIoU {100 * max(mious):.1f}\n")
    print("| scorer | mask | negative | measure | rank correlation | mIoU of its choice |")
    print("|---|---|---|---|---|---|")
    everyone = range(len(demo.photos))
    for scorer, mask, negative in REWARDS:
        reward, masks = demo.reward(scorer, negative), demo.masks(mask)
        points = [reward(everyone, masks(everyone, store(s, everyone), s)) for s in chosen]
        for measure in MEASURES:
            rho = rank_correlation([p.mean(measure) for p in points], mious)
            best = max(
                range(len(chosen)), key=lambda i: (points[i].mean(measure), points[i].margin)
            )
            row = f"{scorer} | {mask} | {negative} | {measure}"
            print(f"| {row} | {rho:.2f} | {100 * mious[best]:.1f} |", flush=True)


def exhaustive(args: argparse.Namespace) -> None:
    """The mIoU of every setting on held-out scenes, and of the search's choice among them."""
    found = None if args.trials is None else best_of(args.trials)
    demo = Demo(args.data, "val", args.photos)
    space = SearchSpace(args.layers, args.heads)
    # Most rounds first: their maps hold those of fewer rounds.
    order = sorted(settings_of(space.choices(demo.module.vlm)), key=lambda s: -s.rounds)
    if found is not None and found not in order:
        raise SystemExit(f"Expected the search's choice to be among the settings, but got {found}.")
    mious = demo.score(demo.store(), order)
    ranked = sorted(zip(mious, order, strict=True), key=lambda pair: -pair[0])
    report(ranked, found)


def report(ranked: list[tuple[float, Setting]], found: Setting | None) -> None:
    """Print the best settings and where the search's choice is."""
    print(f"{len(ranked)} settings, of the best mIoU:")
    for miou, setting in ranked[:5]:
        print(f"  {100 * miou:.2f}  {setting}")
    mious = np.array([miou for miou, _ in ranked])
    print(f"  median {100 * np.median(mious):.1f}, worst {100 * mious.min():.1f}")
    if found is not None:
        place = [setting for _, setting in ranked].index(found)
        print(
            f"  the search's choice {found}: {100 * mious[place]:.2f}, place {place + 1}, "
            f"{100 * (mious[0] - mious[place]):.2f} points below the best",
            flush=True,
        )


def best_of(trials: Path) -> Setting:
    """The setting of the best complete trial in a `trials.csv`."""
    with trials.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["state"] == "complete"]
    best = max(rows, key=lambda row: (float(row["reward"]), float(row["margin"])))
    return Setting(
        int(best["layer"]),
        as_head(best["head"]),
        float(best["threshold"]),
        int(best["rounds"]),
        int(best["patches"]),
    )


def as_head(text: str) -> int | str:
    """A head from the command line or a file."""
    return text if text == "mean" else int(text)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=["speed", "scorers", "exhaustive"])
    parser.add_argument("--data", type=Path, default=Path("data/scenes"))
    parser.add_argument("--photos", type=int, default=100)
    parser.add_argument("--naive", type=int, default=5, help="speed: trials run naively")
    parser.add_argument("--trials", default=None, help="speed: how many; exhaustive: a trials.csv")
    parser.add_argument("--layers", nargs="+", type=int, help="of these alone")
    parser.add_argument("--heads", nargs="+", type=as_head, help="of these alone")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(
        f"Python {platform.python_version()}, PyTorch {torch.__version__}, {cores} cores, "
        f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}\n"
    )
    if args.what == "speed":
        args.trials = int(args.trials or 100)
        speed(args)
    elif args.what == "scorers":
        scorers(args)
    else:
        args.trials = Path(args.trials) if args.trials else None
        exhaustive(args)


if __name__ == "__main__":
    main()
