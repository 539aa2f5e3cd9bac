"""Measure the annotation-free tuning on the demo: its speed, its reward, and what it finds.

    OMP_NUM_THREADS=1 python benchmarks/tune.py speed
    OMP_NUM_THREADS=1 python benchmarks/tune.py scorers
    OMP_NUM_THREADS=1 python benchmarks/tune.py exhaustive --trials runs/demo/tune/trials.csv

`speed` times the search against the naive way: the same settings on the same photos, each with the
full passes over all photos (every round of Salience DropOut) and with the reward's texts and black
photo scored anew. `scorers` says how well each reward ranks settings of one or two rounds by mIoU
on the dev scenes. `exhaustive` scores every setting of the default space on held-out scenes
(`--crf` of the best with the dense CRF as well) and says where the search's choice is among them.
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
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import torch
from torch.utils.data import DataLoader

from datamodules import Scenes
from ovss.labelling import Labeller
from ovss.method import look
from ovss.module import PnPOVSS
from ovss.proposals import OracleProposer
from ovss.salience import SalienceDropout
from ovss.segmentation import demo_vlm
from ovss.tuning.maps import MapStore
from ovss.tuning.photos import TuningPhotos, chunked, gather_photos
from ovss.tuning.rewards import Negative, Reward
from ovss.tuning.sampling import UntriedSampler
from ovss.tuning.scorers import make_scorer
from ovss.tuning.settings import StudySettings
from ovss.tuning.space import SearchSpace, Setting, settings_of
from ovss.tuning.study import make_objective, make_pruner, open_storage, open_study, run_trials
from ovss.tuning.validation import rank_correlation, score_settings


class Demo:
    """The demo's model and some photos of a split with two classes or more."""

    def __init__(self, root: Path, split: str, photos: int) -> None:
        self.module = PnPOVSS(demo_vlm(), 0, 0, labeller=Labeller(crf=None))
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

    def reward(self, scorer: str = "itm", negative: Negative = "black") -> Reward:
        """The reward, its black photo and texts scored."""
        names = [[synonyms[0] for synonyms in own] for own in self.names]
        return Reward(make_scorer(scorer, self.module.vlm), self.photos, names, negative)

    def score(self, store: MapStore, settings: Sequence[Setting]) -> list[float]:
        """The mIoU of settings on the photos."""
        return score_settings(self.module, self.loader, self.photos, store, settings)


def run_naively(demo: Demo, settings: Sequence[Setting]) -> float:
    """Processor seconds for some settings, each from scratch."""
    start = time.process_time()
    for setting in settings:
        reward = demo.reward()  # texts and black photo, again
        for chunk in chunked(len(demo.photos), 16):
            dropout = SalienceDropout(setting.rounds, setting.patches or 1)
            seen = look(
                demo.module.vlm,
                demo.photos.pixel_values[chunk[0] : chunk[-1] + 1],
                [demo.names[p] for p in chunk],
                setting.layer,
                setting.head,
                dropout,
            )
            reward(chunk, [maps.sum(0) for maps in seen.maps], setting.threshold)
    return time.process_time() - start


def run_search(demo: Demo, space: SearchSpace, trials: int, keep: float) -> tuple[float, Sequence]:
    """Processor seconds for a study from the first pass on, and its trials."""
    start = time.process_time()
    settings = StudySettings()
    sampler = UntriedSampler(space.choices(demo.module.vlm), "random", 0)
    with tempfile.TemporaryDirectory() as folder:
        study = open_study(
            open_storage(None, Path(folder)),
            "speed",
            sampler,
            make_pruner(keep, settings.warmup),
            {},
        )
        parts = chunked(len(demo.photos), -(-len(demo.photos) // settings.parts))
        run_trials(study, make_objective(demo.store(), demo.reward(), parts), trials)
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
        for keep, count in ((1.0, 3 * args.naive), (StudySettings().keep, args.trials)):
            seconds, trials = run_search(demo, space, count, keep)
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
    space = SearchSpace(thresholds=[0.1, 0.3, 0.5], rounds=[1, 2])
    chosen = settings_of(space.choices(demo.module.vlm))
    few = min(setting.patches for setting in chosen if setting.patches)
    chosen = [s for s in chosen if s.rounds == 1 or (s.head == "mean" and s.patches == few)]
    mious = demo.score(store, chosen)
    print(f"{len(chosen)} settings, {len(demo.photos)} photos, best mIoU {100 * max(mious):.1f}\n")
    print("| reward | rank correlation | mIoU of its choice |\n|---|---|---|")
    kinds: tuple[tuple[str, Negative], ...] = (
        ("itm", "black"),
        ("itm", "complement"),
        ("itc", "black"),
    )
    for scorer, negative in kinds:
        reward = demo.reward(scorer, negative)
        everyone = range(len(demo.photos))
        points = [reward(everyone, store(s, everyone), s.threshold) for s in chosen]
        rho = rank_correlation([p.share for p in points], mious)
        best = max(range(len(chosen)), key=lambda i: (points[i].share, points[i].margin))
        print(f"| {scorer}, {negative} | {rho:.2f} | {100 * mious[best]:.1f} |", flush=True)


def exhaustive(args: argparse.Namespace) -> None:
    """The mIoU of every setting on held-out scenes, and of the search's choice among them."""
    demo = Demo(args.data, "val", args.photos)
    store = demo.store()
    # Most rounds first: their maps hold those of fewer rounds.
    space = SearchSpace(args.layers, args.heads)
    order = sorted(settings_of(space.choices(demo.module.vlm)), key=lambda s: -s.rounds)
    plain = demo.score(store, order)
    ranked = sorted(zip(plain, order, strict=True), key=lambda pair: -pair[0])
    report("without CRF", ranked, args.trials)
    if args.crf:
        demo.module.labeller = replace(demo.module.labeller, crf=Labeller().crf)
        chosen = [setting for _, setting in ranked[: args.crf]]
        found = [] if args.trials is None else [best_of(args.trials)]
        chosen += [setting for setting in found if setting not in chosen]
        refined = demo.score(store, chosen)
        ranked = sorted(zip(refined, chosen, strict=True), key=lambda pair: -pair[0])
        report("with CRF", ranked, args.trials)


def report(title: str, ranked: list[tuple[float, Setting]], trials: Path | None) -> None:
    """Print the best settings and where the search's choice is."""
    print(f"\n{title}, {len(ranked)} settings")
    for miou, setting in ranked[:5]:
        print(f"  {100 * miou:.2f}  {setting}")
    mious = np.array([miou for miou, _ in ranked])
    print(f"  median {100 * np.median(mious):.1f}, worst {100 * mious.min():.1f}")
    if trials is not None:
        found = best_of(trials)
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
    parser.add_argument("--crf", type=int, default=0, help="so many of the best with the CRF, too")
    parser.add_argument("--layers", nargs="+", type=int, help="exhaustive: of these alone")
    parser.add_argument("--heads", nargs="+", type=as_head, help="exhaustive: of these alone")
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
