"""Time the whole pipeline, photo file to score, against the released code's way.

    python benchmarks/end_to_end.py                                   # a CPU: minutes
    python benchmarks/end_to_end.py --device cuda --photos 640 --batch 32 --precision bf16-mixed

Photos of VOC's sizes are drawn in VOC's layout, BLIP-large has random weights; nothing is
downloaded. Each run is a process of its own, the two pipelines by turns, so that whatever else the
machine does meets both; ratios are medians over such pairs. The time includes the data loader's
start and writing the label maps; building the model and one batch to warm up are left out.
`--json FILE` keeps everything; a row for docs/performance-history.md is printed last.
"""

import argparse
import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from arithmetic import ceilings, costs
from gradcam import peak_memory
from synthetic import PRESENT, SIZES, large_blip, vlm, write_voc

from ovss.cli.console import silence_libraries

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
PIPELINES = ("released", "ovss")
GRID_LAYER, GRID_HEAD = 7, 9


def clocks(device: str) -> tuple[float, float]:
    """Wall and processor seconds, once the device is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def run_ovss(args: argparse.Namespace, root: Path) -> dict:
    """Test with the Trainer, as `train_free_eval.py test` does."""
    from lightning.pytorch import Trainer

    from ovss.callbacks import LoaderWatch, RunFolder
    from ovss.datamodules import VOC
    from ovss.labelling import Labeller
    from ovss.module import PnPOVSS
    from ovss.salience import SalienceDropout

    class TimedRunFolder(RunFolder):
        def on_test_batch_end(self, trainer, pl_module, *rest, **options) -> None:
            with pl_module.times.measure("write"):
                super().on_test_batch_end(trainer, pl_module, *rest, **options)

    dropout = SalienceDropout(args.rounds, patches=10)
    module = PnPOVSS(vlm(args.image_size, args.small), GRID_LAYER, GRID_HEAD, dropout, Labeller())

    def test(photos: int) -> tuple[Path, float, float]:
        folder = Path(tempfile.mkdtemp(dir=root))
        trainer = Trainer(
            accelerator="gpu" if args.device == "cuda" else "cpu",
            devices=1,
            precision=args.precision,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=folder,
            callbacks=[LoaderWatch(), TimedRunFolder()],
        )
        data = VOC(root, limit=photos, batch_size=args.batch, num_workers=args.workers)
        wall, cpu = clocks(args.device)
        trainer.test(module, datamodule=data, verbose=False)
        ended = clocks(args.device)
        return folder, ended[0] - wall, ended[1] - cpu

    if not args.no_warm_up:
        test(min(args.batch, args.photos))
    folder, wall, cpu = test(args.photos)
    stages = dict(module.times.seconds)
    return {"wall": wall, "cpu": cpu, "stages": stages, "labels": str(folder / "labels")}


def run_released(args: argparse.Namespace, root: Path) -> dict:
    """Loop over the same loader's batches."""
    import numpy as np
    from PIL import Image
    from released import ReleasedPipeline, pydensecrf

    from ovss.datamodules import VOC
    from ovss.metrics import SegmentationScores
    from ovss.preprocessing import InputSpec
    from ovss.vlm.blip import CLIP_STATISTICS

    spec = InputSpec(args.image_size, CLIP_STATISTICS.mean, CLIP_STATISTICS.std)
    data = VOC(root, limit=args.photos, batch_size=args.batch, num_workers=args.workers, spec=spec)
    data.setup()
    half = {"bf16": torch.bfloat16, "16": torch.float16}.get(args.precision.split("-")[0])
    pipeline = ReleasedPipeline(
        large_blip(args.image_size, args.small).to(args.device),
        vlm(args.image_size, small=True),
        data.benchmark.prompts,
        GRID_LAYER,
        GRID_HEAD,
        args.rounds,
        precision=half,
    )
    folder = Path(tempfile.mkdtemp(dir=root)) / "labels"
    folder.mkdir()

    def test(stop_after: int | None) -> None:
        scores = SegmentationScores(len(data.benchmark.classes))
        batches = iter(data.test_dataloader())
        for _ in range(stop_after or len(data.test_dataloader())):
            with pipeline.times.measure("load"):
                batch = next(batches)
            labels = pipeline(batch)
            with pipeline.times.measure("score"):
                scores.update(labels, batch.masks)
            with pipeline.times.measure("write"):
                for name, label_map in zip(batch.ids, labels, strict=True):
                    Image.fromarray(label_map.numpy().astype(np.uint8)).save(folder / f"{name}.png")

    if not args.no_warm_up:
        test(stop_after=1)
    pipeline.times.reset()
    wall, cpu = clocks(args.device)
    test(stop_after=None)
    ended = clocks(args.device)
    return {
        "wall": ended[0] - wall,
        "cpu": ended[1] - cpu,
        "stages": dict(pipeline.times.seconds),
        "labels": str(folder),
        "crf": "DenseCRF" if pydensecrf is None else "pydensecrf",
    }


def in_process(args: argparse.Namespace, name: str, root: Path) -> dict:
    """Run one pipeline in a process of its own."""
    options = ("photos", "batch", "rounds", "image_size", "threads", "device", "precision")
    command = [sys.executable, __file__, "--only", name, "--root", str(root)]
    for option in (*options, "workers"):
        command += [f"--{option.replace('_', '-')}", str(getattr(args, option))]
    command += ["--small"] * args.small + ["--no-warm-up"] * args.no_warm_up
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"The run of {name!r} ended with exit code {done.returncode}.")
    return json.loads(done.stdout.splitlines()[-1])


def agreement(one: str, other: str) -> float:
    """Share of pixels with the same label in two folders of label maps."""
    import numpy as np
    from PIL import Image

    same = total = 0
    for path in sorted(Path(one).glob("*.png")):
        first, second = (np.asarray(Image.open(p)) for p in (path, Path(other) / path.name))
        same, total = same + int((first == second).sum()), total + first.size
    return same / total


def machine(args: argparse.Namespace) -> dict:
    """What the figures are of."""
    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        named = {key.strip(): value.strip() for key, value in lines.items()}
        cpu = f"{named.get('model name', cpu)} family {named.get('cpu family')}"
        cpu += f" model {named.get('model')}"
    return {
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "CPU",
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": args.threads,
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "command": " ".join(["python", "benchmarks/end_to_end.py", *sys.argv[1:]]),
    }


def report(args: argparse.Namespace, runs: dict[str, list[dict]], data: dict) -> None:
    """Print tables: pipelines, stages, ratios."""
    limits = data["ceilings"]
    print(
        f"\nmatrix product {limits['flops'] / 1e9:.0f} GFLOP/s, "
        f"copy {limits['bytes'] / 1e9:.1f} GB/s (read + write)\n"
    )
    print("| pipeline | photos/s | CPU s a photo | peak MiB |\n|---|---|---|---|")
    for name, each in runs.items():
        speed = statistics.median(args.photos / run["wall"] for run in each)
        cpu = statistics.median(run["cpu"] for run in each) / args.photos
        print(f"| {name} | {speed:.4g} | {cpu:.2f} | {max(r['peak'] for r in each):.0f} |")
    sizes = [SIZES[i % len(SIZES)] for i in range(args.photos)]
    channels = [1 + PRESENT[i % len(PRESENT)] for i in range(args.photos)]
    for name, each in runs.items():
        run = min(each, key=lambda run: run["wall"])
        model = costs(
            args.image_size,
            args.rounds,
            args.batch,
            args.small,
            sizes,
            channels,
            released=name == "released",
        )
        print(
            f"\n| stage of {name} | s a photo | share | GFLOP | MB | GFLOP/s | of the matrix "
            "product | GB/s | of the copy |\n|---|---|---|---|---|---|---|---|---|"
        )
        for stage, seconds in run["stages"].items():
            inner = stage.rpartition("/")[2]
            row = f"| {stage} | {seconds / args.photos:.4f} | {seconds / run['wall']:.1%} |"
            if inner in model and seconds > 0:
                flops, moved = model[inner]
                row += (
                    f" {flops / args.photos / 1e9:.3g} | {moved / args.photos / 1e6:.3g} |"
                    f" {flops / seconds / 1e9:.3g} | {flops / seconds / limits['flops']:.0%} |"
                    f" {moved / seconds / 1e9:.3g} | {moved / seconds / limits['bytes']:.0%} |"
                )
            else:
                row += " | | | | | |"
            print(row)
    if len(runs) == 2:
        theirs, ours = runs["released"], runs["ovss"]
        pairs = list(zip(theirs, ours, strict=True))
        data["ratio"] = statistics.median(a["wall"] / b["wall"] for a, b in pairs)
        data["cpu_ratio"] = statistics.median(a["cpu"] / b["cpu"] for a, b in pairs)
        data["memory_ratio"] = max(a["peak"] for a in theirs) / max(b["peak"] for b in ours)
        data["agreement"] = agreement(theirs[0]["labels"], ours[0]["labels"])
        print(
            f"\n{data['ratio']:.2f} times faster by the clock, {data['cpu_ratio']:.2f} times by "
            f"processor time, {data['memory_ratio']:.2f} times less memory; "
            f"{data['agreement']:.4%} of the pixels have the same label ({theirs[0]['crf']})"
        )


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=int, default=6)
    parser.add_argument("--batch", type=int, default=2, help="photos in a step")
    parser.add_argument("--pairs", type=int, default=2, help="runs of each pipeline")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--image-size", type=int, default=336, help="pixels, a multiple of 16")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--workers", type=int, default=1, help="loader processes")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=PRECISIONS, default="32-true")
    parser.add_argument("--pipelines", nargs="+", choices=PIPELINES, default=list(PIPELINES))
    parser.add_argument("--small", action="store_true", help="a tiny model, to try the script")
    parser.add_argument("--no-warm-up", action="store_true", help="where a batch takes minutes")
    parser.add_argument("--json", type=Path, help="write everything to this file")
    parser.add_argument("--only", choices=PIPELINES, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.only:
        # Hints on clusters and workers, and Lightning's deprecations, would hide a real warning.
        silence_libraries()
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        run = {"ovss": run_ovss, "released": run_released}[args.only]
        result = run(args, args.root)
        result["peak"] = peak_memory(args.device)
        print(json.dumps(result))
        return
    data: dict = {"machine": machine(args)}
    print(json.dumps(data["machine"], indent=2), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_voc(root, args.photos)
        runs: dict[str, list[dict]] = {name: [] for name in args.pipelines}
        data["ceilings"] = ceilings(args.device, args.precision)
        for _ in range(args.pairs):
            for name in runs:
                runs[name].append(in_process(args, name, root))
        data |= {"settings": {k: v for k, v in vars(args).items() if k not in ("json", "root")}}
        data["runs"] = runs
        report(args, runs, data)
    if args.json:
        args.json.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    speeds = [statistics.median(args.photos / r["wall"] for r in each) for each in runs.values()]
    columns = [
        time.strftime("%Y-%m-%d"),
        f"{data['machine']['device']}, {args.threads} threads, load {data['machine']['load']}",
        f"{args.precision}, {args.photos} photos, batch {args.batch}"
        * (f"{speed:.4g}" for speed in speeds),
        *(f"{data[key]:.2f}" for key in ("ratio", "cpu_ratio", "memory_ratio") if key in data),
    ]
    print("\n| " + " | ".join(columns) + " |")


if __name__ == "__main__":
    main()
