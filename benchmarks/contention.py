"""Photos a second of the demo with an idle machine and beside neighbours that keep CPUs busy.

    python benchmarks/contention.py --neighbours 6

Runs `test` on the demo's scenes in a process of its own, by turns as PyTorch's threads wait by
default, as the command has them wait (`ovss.utils.cpus.SPIN`), and in other ways that are named.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from ovss.report.environment import environment
from ovss.utils.cpus import OWN_CHOICES, SPIN, usable_cpus

DEFAULT = {"GOMP_SPINCOUNT": "300000"}
"""libgomp's own, given so that the command does not choose."""


def photos_per_second(waiting, args, folder):
    """Of one run of `test`."""
    own = {name: value for name, value in os.environ.items() if name not in OWN_CHOICES}
    command = [
        sys.executable, "-m", "ovss", "test", "--config", "demo", "-q",
        f"--data.init_args.root={args.root}",
        f"--data.init_args.limit={args.photos}",
        f"--trainer.default_root_dir={folder}",
        *args.option,
    ]  # fmt: skip
    subprocess.run(command, env={**own, **waiting}, check=True, stdout=subprocess.DEVNULL)
    return json.loads((folder / "timing.json").read_text())["photos_per_second"]


def spin():
    """A neighbour."""
    while True:
        pass


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path("data/scenes"))
    parser.add_argument("--photos", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way (%(default)s)")
    parser.add_argument("--neighbours", type=int, default=3 * usable_cpus())
    parser.add_argument("--spincounts", type=int, nargs="*", default=[], help="other ways")
    parser.add_argument("--option", action="append", default=[], help="of `test`")
    args = parser.parse_args()
    ways = {"PyTorch's default": DEFAULT, "as the command has it": SPIN}
    ways |= {f"GOMP_SPINCOUNT={count}": {"GOMP_SPINCOUNT": str(count)} for count in args.spincounts}
    print(f"{environment()['processor']}; {args.photos} photos of the demo, medians")
    print("| neighbours | way | photos a second | ratio |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as work:
        for neighbours in (0, args.neighbours):
            busy = [multiprocessing.Process(target=spin, daemon=True) for _ in range(neighbours)]
            for process in busy:
                process.start()
            speeds = {name: [] for name in ways}
            for turn in range(args.rounds):
                for number, (name, waiting) in enumerate(ways.items()):
                    folder = Path(work, f"{neighbours}-{turn}-{number}")
                    speeds[name].append(photos_per_second(waiting, args, folder))
            for process in busy:
                process.kill()
            first = statistics.median(speeds["PyTorch's default"])
            for name, found in speeds.items():
                speed = statistics.median(found)
                print(f"| {neighbours} | {name} | {speed:.2f} | {speed / first:.2f} |", flush=True)


if __name__ == "__main__":
    main()
