"""Time `ovss.crf.DenseCRF` against pydensecrf, pair by pair.

    pip install pydensecrf2 scikit-image    # pydensecrf2 needs gcc; the photo is scikit-image's
    python benchmarks/crf.py --threads 1 2 --photos 1 8
    python benchmarks/crf.py --memory
    python benchmarks/crf.py --device cuda  # the GPU, without pydensecrf

A pair is one run of each, one after the other, so that whatever else the machine does meets both;
the ratio is the median over pairs, the milliseconds are the least of all runs. The spatial lattice
is cached after the first photo of a size, as it is on a data set; pydensecrf has no such cache.
"""

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ovss.crf import DenseCRF

SIZES = ((500, 375), (640, 480))
CLASSES = (3, 6, 21)


def read_photo(path: str | None, width: int, height: int) -> torch.Tensor:
    """Read a photo, cut to the aspect ratio and resized, `(3, height, width)` uint8."""
    if path is None:
        import skimage

        path = str(Path(skimage.__file__).parent / "data" / "astronaut.png")
    photo = Image.open(path).convert("RGB")
    scale = min(photo.width / width, photo.height / height)
    box = (0, 0, round(width * scale), round(height * scale))
    resized = photo.resize((width, height), Image.Resampling.LANCZOS, box=box)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous()


def make_probabilities(classes: int, width: int, height: int, seed: int = 0) -> torch.Tensor:
    """Make smooth random class probabilities `(classes, height, width)`, as upsampled maps are."""
    coarse = 3 * torch.randn(1, classes, 12, 16, generator=torch.Generator().manual_seed(seed))
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return fine[0].softmax(0)


def run_pydensecrf(probabilities: torch.Tensor, photo: torch.Tensor) -> np.ndarray:
    """Refine with pydensecrf: Q `(C, H, W)`."""
    import pydensecrf.densecrf as pydensecrf

    classes, height, width = probabilities.shape
    crf = pydensecrf.DenseCRF2D(width, height, classes)
    unary = -np.log(np.clip(probabilities.numpy(), 1e-5, 1.0)).reshape(classes, -1)
    crf.setUnaryEnergy(np.ascontiguousarray(unary))
    crf.addPairwiseGaussian(sxy=3, compat=7)
    image = np.ascontiguousarray(photo.permute(1, 2, 0).numpy())
    crf.addPairwiseBilateral(sxy=50, srgb=5, rgbim=image, compat=10)
    return np.array(crf.inference(10)).reshape(classes, height, width)


def seconds(function, clock=time.perf_counter) -> float:
    """Time one call."""
    start = clock()
    function()
    return clock() - start


def compare(args: argparse.Namespace) -> None:
    """Print one row for each size, number of classes, number of threads and photos in a call."""
    print("| size | C | threads | photos | pydensecrf ms | DenseCRF ms | ratio | same labels |")
    print("|---|---|---|---|---|---|---|---|")
    crf = DenseCRF()
    clock = time.process_time if args.cpu_time else time.perf_counter
    for width, height in args.sizes:
        photo = read_photo(args.photo, width, height)
        for classes in args.classes:
            maps = [make_probabilities(classes, width, height, seed) for seed in range(8)]
            same = np.mean(
                crf(maps[0], photo).argmax(0).numpy() == run_pydensecrf(maps[0], photo).argmax(0)
            )
            for threads in args.threads:
                torch.set_num_threads(threads)
                for count in args.photos:
                    ours, theirs, ratios = [], [], []
                    for _ in range(args.repeats):
                        theirs.append(seconds(partial(run_pydensecrf, maps[0], photo), clock))
                        run = partial(crf, maps[:count], [photo] * count)
                        ours.append(seconds(run, clock) / count)
                        ratios.append(theirs[-1] / ours[-1])
                    print(
                        f"| {width} x {height} | {classes} | {threads} | {count} "
                        f"| {1e3 * min(theirs):.0f} | {1e3 * min(ours):.0f} "
                        f"| {statistics.median(ratios):.2f} | {same:.6f} |",
                        flush=True,
                    )


def measure_memory(args: argparse.Namespace) -> None:
    """Print the growth of the peak resident memory during the first photo, in fresh processes."""
    print("| size | C | pydensecrf MB | DenseCRF MB |\n|---|---|---|---|")
    for width, height in args.sizes:
        for classes in args.classes:
            used = []
            for library in ("pydensecrf", "ovss"):
                command = [sys.executable, __file__, "--only", library, "--photo", args.photo or ""]
                command += ["--sizes", f"{width}x{height}", "--classes", str(classes)]
                result = subprocess.run(command, check=True, capture_output=True, text=True)
                used.append(float(result.stdout))
            print(f"| {width} x {height} | {classes} | {used[0]:.0f} | {used[1]:.0f} |", flush=True)


def print_own_memory(args: argparse.Namespace) -> None:
    """Run one library on one photo and print by how many MB the process grew."""
    ((width, height),), (classes,) = args.sizes, args.classes
    torch.set_num_threads(1)
    run = DenseCRF() if args.only == "ovss" else run_pydensecrf
    run(make_probabilities(2, 8, 8), read_photo(args.photo, 8, 8))  # imports and thread pools
    photo = read_photo(args.photo, width, height)
    probabilities = make_probabilities(classes, width, height)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run(probabilities, photo)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def time_on_gpu(args: argparse.Namespace) -> None:
    """Print milliseconds a photo with photos and probabilities already on the device."""
    print(
        f"{torch.cuda.get_device_name()}\n\n| size | C | photos | ms a photo |\n|---|---|---|---|"
    )
    crf = DenseCRF()
    for width, height in args.sizes:
        photo = read_photo(args.photo, width, height).cuda()
        for classes in args.classes:
            for count in (1, 8, 32):
                maps = [make_probabilities(classes, width, height, i).cuda() for i in range(count)]

                def run(maps=maps, photo=photo, count=count) -> None:
                    crf(maps, [photo] * count)
                    torch.cuda.synchronize()

                run()
                least = min(seconds(run) for _ in range(args.repeats))
                print(f"| {width} x {height} | {classes} | {count} | {1e3 * least / count:.2f} |")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photo", help="default: scikit-image's astronaut")
    parser.add_argument(
        "--sizes",
        nargs="+",
        type=lambda text: tuple(int(side) for side in text.split("x")),
        default=SIZES,
        metavar="WxH",
    )
    parser.add_argument("--classes", nargs="+", type=int, default=CLASSES)
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--photos", nargs="+", type=int, default=[1], help="photos in a call")
    parser.add_argument("--repeats", type=int, default=5, help="pairs")
    parser.add_argument(
        "--cpu-time", action="store_true", help="processor time: for one thread on a busy machine"
    )
    parser.add_argument("--memory", action="store_true", help="measure peak memory instead")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--only", choices=["pydensecrf", "ovss"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.photo = args.photo or None
    if args.only:
        print_own_memory(args)
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(
        f"Python {platform.python_version()}, PyTorch {torch.__version__}, "
        f"{torch.backends.cpu.get_cpu_capability()}, {cores} cores, "
        f"load {os.getloadavg()[0]:.1f}\n"
    )
    if args.device == "cuda":
        time_on_gpu(args)
    elif args.memory:
        measure_memory(args)
    else:
        compare(args)


if __name__ == "__main__":
    main()
