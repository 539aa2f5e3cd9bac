"""What half precision costs, on the demo's scenes.

    python benchmarks/agreement.py --scenes 100
    python benchmarks/agreement.py --scenes 400 --device cuda

Every setting labels the same scenes with the demo's model and the settings that it ships with; the
table has its mIoU, the share of pixels with the label of the first row, and the time of its class
maps (labelling takes as long for all). Scenes are drawn into `data/scenes` on first use.
"""

import argparse
import time
from contextlib import nullcontext
from dataclasses import replace

import torch

from ovss.datamodules import Scenes
from ovss.metrics import SegmentationScores
from ovss.pnp import gradcam_rounds
from ovss.preprocessing import InputSpec
from ovss.salience import SalienceDropout
from ovss.segmentation import demo_settings
from ovss.vlm import BlipITM


def settings(usual: SalienceDropout) -> dict[str, tuple[SalienceDropout, torch.dtype | None]]:
    """Name the rows: dropout and the dtype of an autocast."""
    return {
        "float32": (usual, None),
        "bfloat16 autocast": (usual, torch.bfloat16),
        "float16 autocast": (usual, torch.float16),
        "rounds=1": (replace(usual, rounds=1), None),
    }


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--root", default="data/scenes")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--no-crf", action="store_true", help="labels without the CRF")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    vlm = BlipITM.from_pretrained("demo").to(args.device)
    shipped = demo_settings()
    layer, head, usual, labeller = (shipped[k] for k in ("layer", "head", "dropout", "labeller"))
    labeller = replace(labeller, refine=None) if args.no_crf else labeller
    rows = settings(usual)
    spec = InputSpec(vlm.image_size, vlm.statistics.mean, vlm.statistics.std)
    data = Scenes(args.root, limit=args.scenes, batch_size=args.batch, num_workers=0, spec=spec)
    data.prepare_data()
    data.setup()
    benchmark = data.benchmark
    scores = {name: SegmentationScores(len(benchmark.classes)) for name in rows}
    seconds, same, pixels = dict.fromkeys(rows, 0.0), dict.fromkeys(rows, 0), 0
    clock = time.process_time if args.device == "cpu" else time.perf_counter
    for batch in data.test_dataloader():
        names = [[benchmark.prompts[label] for label in own] for own in batch.present]
        inputs = batch.pixel_values.to(args.device)
        expected: list[torch.Tensor] = []
        for setting, (dropout, dtype) in rows.items():
            start = clock()
            with torch.autocast(args.device, dtype) if dtype else nullcontext():
                rounds = gradcam_rounds(vlm, inputs, names, layer, head, dropout)
                maps = [dropout.combine(each) for each in rounds.maps]
            if args.device == "cuda":
                torch.cuda.synchronize()
            seconds[setting] += clock() - start
            found = labeller.batch(maps, batch.photos, [True] * len(maps))
            tables = [torch.tensor([0, *own]) for own in batch.present]
            labels = [table[each.cpu()] for table, each in zip(tables, found, strict=True)]
            expected = expected or labels
            for one, other in zip(labels, expected, strict=True):
                same[setting] += int((one == other).sum())
            scores[setting].update(labels, batch.masks)
        pixels += sum(each.numel() for each in expected)
    count = len(data.dataset)
    kind = "processor ms" if args.device == "cpu" else "ms"
    print(
        f"{count} scenes, {args.threads} threads, batch {args.batch}, {args.device}; "
        f"layer {layer}, head {head}, {usual.rounds} rounds of {usual.patches} patches, threshold "
        f"{labeller.threshold}, CRF {'off' if args.no_crf else 'on'}\n"
    )
    print(f"| setting | mIoU | same label as float32 | {kind} a scene |\n|---|---|---|---|")
    for setting in rows:
        print(
            f"| {setting} | {100 * float(scores[setting].compute()['mIoU']):.2f} "
            f"| {same[setting] / pixels:.3%} | {1e3 * seconds[setting] / count:.1f} |"
        )


if __name__ == "__main__":
    main()
