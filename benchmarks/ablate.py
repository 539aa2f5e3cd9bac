"""Time 24 settings in one pass against 24 runs, and check that they are the same to the byte.

    python benchmarks/ablate.py                       # the demo's model on its scenes
    python benchmarks/ablate.py --blip-large --photos 2     # random weights, drawn photos: minutes

The settings are `--rounds 1,2,3,4 --threshold 0.05,0.15,0.3 --refine null,crf`. Everything that a
command does is in the time but its start: making the model, and one warm-up photo. The pass is
timed before, amid and after the runs, so that whatever else the machine does meets both; its median
counts. The row printed last is for docs/performance.md: wall seconds, and their ratio of wall and
processor time. Nothing is downloaded.
"""

import argparse
import logging
import statistics
import tempfile
import time
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from synthetic import vlm, write_voc

from ovss.callbacks import ReportWriter, ResultsWriter, RunFolder
from ovss.cli.ablate import cells_of
from ovss.cli.console import silence_libraries
from ovss.datamodules import VOC, Scenes
from ovss.module import SegmentationModule
from ovss.pnp import PnP
from ovss.salience import SalienceDropout
from ovss.sweep_module import SweepModule

CHOICES = {"rounds": [1, 2, 3, 4], "threshold": [0.05, 0.15, 0.3], "refine": [None, "crf"]}
FILES = ("run.json", "scores.json", "per_class.csv", "photos.jsonl", "labels/*.png")


def main() -> None:
    """Run the sweep and the runs, and print the table's row."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--blip-large", action="store_true")
    parser.add_argument("--photos", type=int, default=24)
    parser.add_argument("--batch", type=int, help="default: what suits the model")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.getLogger("ovss").setLevel(logging.WARNING)
    silence_libraries()
    with tempfile.TemporaryDirectory() as name:
        compare(args, Path(name))


def compare(args: argparse.Namespace, root: Path) -> None:
    """Time both ways on one model."""
    if args.blip_large:
        write_voc(root / "data", args.photos)
        pnp = PnP(vlm(), dropout=SalienceDropout(patches=10))
    else:
        pnp = PnP("demo", 1, "mean", SalienceDropout(patches=6))
    cells = {name: pnp.varied(**own) for name, own in cells_of(pnp, CHOICES).items()}

    def test(module, folder: Path, photos: int = args.photos) -> tuple[float, float]:
        data = (VOC if args.blip_large else Scenes)(
            root / "data", limit=photos, batch_size=args.batch, num_workers=0
        )
        trainer = Trainer(
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=folder,
            callbacks=[RunFolder(), ResultsWriter(show=False), ReportWriter()],
        )
        data.prepare_data()
        wall, cpu = time.perf_counter(), time.process_time()
        trainer.test(module, datamodule=data, verbose=False)
        return time.perf_counter() - wall, time.process_time() - cpu

    test(SegmentationModule(pnp.varied()), root / "warm-up", 1)
    sweep = SweepModule({name: SegmentationModule(each) for name, each in cells.items()})
    passes: list[tuple[float, float]] = []

    def test_together() -> None:
        passes.append(test(sweep, root / f"sweep-{len(passes)}"))
        print(f"{len(cells)} settings in one pass: {passes[-1][0]:.1f} s", flush=True)

    test_together()
    alone = [0.0, 0.0]
    for number, (name, each) in enumerate(cells.items()):
        if number == len(cells) // 2:
            test_together()
        module = SegmentationModule(each)
        wall, cpu = test(module, root / "alone" / name)
        alone = [alone[0] + wall, alone[1] + cpu]
        stages = ", ".join(f"{key} {spent:.2f}" for key, spent in module.times.seconds.items())
        print(f"{name}: {wall:.1f} s ({stages})", flush=True)
        for pattern in FILES:
            files = sorted((root / "alone" / name).glob(pattern))
            assert files, pattern
            for file in files:
                ours = root / "sweep-0" / file.relative_to(root / "alone")
                assert ours.read_bytes() == file.read_bytes(), file
    test_together()
    together = [statistics.median(times) for times in zip(*passes, strict=True)]
    label = sum(cell.times.seconds["segment/label"] for cell in sweep.cells.values())
    whole = sum(cell.times.seconds["segment"] for cell in sweep.cells.values())
    print(f"{len(cells)} runs: {alone[0]:.1f} s, the same to the byte")
    print(f"of one pass: model {whole - label:.1f} s, label maps {label:.1f} s; {sweep.saved()}")
    model = "random BLIP-large" if args.blip_large else "demo"
    print(
        f"| {model} | {args.photos} | {together[0]:.1f} s | {alone[0]:.1f} s | "
        f"**{alone[0] / together[0]:.1f}** | {alone[1] / together[1]:.1f} |"
    )


if __name__ == "__main__":
    main()
