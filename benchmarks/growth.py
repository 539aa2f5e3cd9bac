"""How the cost grows with photos, rounds and classes, on the demo's model.

    python benchmarks/growth.py --photos 200 400 800
    python benchmarks/growth.py --device cuda --photos 200 400 800

Noise photos; processor time on a CPU, wall time on a GPU; the least of `--repeats`. A cost that is
linear has exponent 1: the slope of its logarithm over the logarithm of the count.
"""

import argparse
import math
import time
from collections.abc import Callable

import torch

from ovss.labelling import Labeller
from ovss.method import look
from ovss.salience import SalienceDropout
from ovss.vlm import BlipITM

NAMES = ("circle", "square", "tree", "car", "house", "boat", "star", "bird")


def main() -> None:
    """Parse the command line and print three tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=int, nargs="+", default=[200, 400, 800])
    parser.add_argument("--rounds", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--classes", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    vlm = BlipITM.from_pretrained("demo").to(args.device)
    torch.manual_seed(0)
    pixels = torch.randn(args.batch, 3, vlm.image_size, vlm.image_size, device=args.device)
    photos = torch.randint(0, 256, (args.batch, 3, 128, 128), dtype=torch.uint8)
    clock = time.process_time if args.device == "cpu" else time.perf_counter

    def run(count: int, rounds: int, classes: int) -> float:
        names, dropout = [(name,) for name in NAMES[:classes]], SalienceDropout(rounds, 4)
        start = clock()
        for done in range(0, count, args.batch):
            some = min(args.batch, count - done)
            seen = look(vlm, pixels[:some], [names] * some, 1, "mean", dropout)
            maps = [dropout.combine(each) for each in seen.maps]
            Labeller().batch(maps, list(photos[:some]), [True] * some)
        if args.device == "cuda":
            torch.cuda.synchronize()
        return clock() - start

    def table(what: str, counts: list[int], cost: Callable[[int], float]) -> None:
        print(f"\n| {what} | s | exponent since the row above |\n|---|---|---|")
        before = None
        for count in counts:
            seconds = min(cost(count) for _ in range(args.repeats))
            exponent = ""
            if before is not None:
                exponent = f"{math.log(seconds / before[1]) / math.log(count / before[0]):.2f}"
            print(f"| {count} | {seconds:.2f} | {exponent} |", flush=True)
            before = (count, seconds)

    run(args.batch, 1, 1)
    table("photos (2 rounds, 2 classes)", args.photos, lambda count: run(count, 2, 2))
    few = 2 * args.batch
    table(f"rounds ({few} photos, 2 classes)", args.rounds, lambda rounds: run(few, rounds, 2))
    table(f"classes ({few} photos, 2 rounds)", args.classes, lambda count: run(few, 2, count))


if __name__ == "__main__":
    main()
