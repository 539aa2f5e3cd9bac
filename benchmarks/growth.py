"""How the cost grows with photos, rounds and classes, on the demo's model.

    python benchmarks/growth.py                # a CPU: about three minutes
    python benchmarks/growth.py --device cuda

Small noise photos; processor time of one thread on a CPU, wall time on a GPU; the least of
`--repeats`, which go through all counts by turns. A cost that is linear has exponent 1: the slope
of its logarithm over the logarithm of the count, since the row above and fitted to all rows.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable

import torch

from ovss.labelling import Labeller
from ovss.pnp import gradcam_rounds
from ovss.salience import SalienceDropout
from ovss.vlm import BlipITM

NAMES = ("circle", "square", "tree", "car", "house", "boat", "star", "bird")


def slope(points: list[tuple[float, float]]) -> float:
    """Slope of the line of least squares."""
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def main() -> None:
    """Parse the command line and print three tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=int, nargs="+", default=[200, 400, 800])
    parser.add_argument("--rounds", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--classes", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--side", type=int, default=64, help="pixels of a photo, for the CRF")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    vlm = BlipITM.from_pretrained("demo").to(args.device)
    torch.manual_seed(0)
    pixels = torch.randn(args.batch, 3, vlm.image_size, vlm.image_size, device=args.device)
    photos = torch.randint(0, 256, (args.batch, 3, args.side, args.side), dtype=torch.uint8)
    clock = time.process_time if args.device == "cpu" else time.perf_counter

    def run(count: int, rounds: int, classes: int, label: bool = True) -> float:
        names, dropout = [(name,) for name in NAMES[:classes]], SalienceDropout(rounds, 4)
        start = clock()
        for done in range(0, count, args.batch):
            some = min(args.batch, count - done)
            seen = gradcam_rounds(vlm, pixels[:some], [names] * some, 1, "mean", dropout)
            maps = [dropout.combine(each) for each in seen.maps]
            if label:
                Labeller().batch(maps, list(photos[:some]), [True] * some)
        if args.device == "cuda":
            torch.cuda.synchronize()
        return clock() - start

    def table(what: str, counts: list[int], cost: Callable[[int], float]) -> None:
        turns = [[cost(count) for count in counts] for _ in range(args.repeats)]
        seconds = [min(times) for times in zip(*turns, strict=True)]
        print(f"\n| {what} | s | exponent since the row above |\n|---|---|---|")
        rows = [(math.log(c), math.log(t)) for c, t in zip(counts, seconds, strict=True)]
        for row, (count, least) in enumerate(zip(counts, seconds, strict=True)):
            since = f"{slope(rows[row - 1 : row + 1]):.2f}" if row else ""
            print(f"| {count} | {least:.2f} | {since} |")
        if len(rows) > 1:
            print(f"\nfitted to all rows: exponent {slope(rows):.2f}", flush=True)

    run(args.batch, 1, 1)
    table("photos (2 rounds, 2 classes)", args.photos, lambda count: run(count, 2, 2))
    few = 2 * args.batch
    table(
        f"rounds ({few} photos, 2 classes, class maps alone)",
        args.rounds,
        lambda rounds: run(few, rounds, 2, label=False),
    )
    table(f"classes ({few} photos, 2 rounds)", args.classes, lambda count: run(few, 2, count))


if __name__ == "__main__":
    main()
