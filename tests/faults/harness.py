"""Kills demo runs at random moments, resumes them, and looks for what was lost.

    python tests/faults/harness.py --kills 20

For 1 and for 2 processes: an uninterrupted run first, then as many runs as asked for that are
killed with SIGKILL at a random moment (all processes at once, as when a node dies) and resumed.
Every resumed `scores.json` and `photos.jsonl` must equal the uninterrupted one to the byte.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def start(folder, data, photos, processes, model):
    """Start the demo in a process group of its own; the caller waits or kills."""
    command = [
        *(sys.executable, str(ROOT / "train_free_eval.py"), "test", "-q"),
        f"--config={ROOT / 'configs' / 'demo.yaml'}",
        f"--data.init_args.root={data}",
        f"--data.init_args.limit={photos}",
        "--data.init_args.batch_size=4",
        "--data.init_args.num_workers=0",
        f"--trainer.default_root_dir={folder}",
        f"--trainer.devices={processes}",
        *([f"--model.vlm.init_args.name_or_path={model}"] if model else []),
        *(["--trainer.strategy=ddp"] if processes > 1 else []),
    ]
    with (folder.parent / f"{folder.name}.log").open("a") as log:
        return subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )


def finish(process, folder):
    """Wait for a run that must succeed; its results."""
    if process.wait() != 0:
        log = (folder.parent / f"{folder.name}.log").read_text()
        raise SystemExit(f"A run failed with {process.returncode}:\n{log[-2000:]}")
    return {name: (folder / name).read_bytes() for name in ("scores.json", "photos.jsonl")}


def wait_for_work(folder, process):
    """Return when the run has claimed its folder."""
    while not (folder / "run.json").exists() and process.poll() is None:
        time.sleep(0.01)


def finished(folder):
    """Label maps with their time of writing."""
    return {p.stem: p.stat().st_mtime_ns for p in (folder / "labels").glob("*.png")}


def torture(work, data, processes, options, generator):
    """Kill and resume runs; counts of kills, photos lost and photos done twice."""
    whole = work / f"whole{processes}"
    process = start(whole, data, options.photos, processes, options.model)
    wait_for_work(whole, process)
    began = time.monotonic()
    expected = finish(process, whole)
    length = time.monotonic() - began
    kills = different = lost = twice = in_progress = 0
    attempt = 0
    while kills < options.kills:
        attempt += 1
        folder = work / f"run{processes}_{attempt}"
        process = start(folder, data, options.photos, processes, options.model)
        try:
            # From when the folder is claimed to the writing of results; imports are harmless.
            wait_for_work(folder, process)
            process.wait(generator.uniform(0, length))
            continue  # it was done before the kill
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        kills += 1
        before = finished(folder)
        in_progress += 0 < len(before) < options.photos
        results = finish(start(folder, data, options.photos, processes, options.model), folder)
        after = finished(folder)
        different += results != expected
        lost += options.photos - len(results["photos.jsonl"].splitlines())
        twice += sum(after[name] != moment for name, moment in before.items())
    print(
        f"{processes} process{'es' if processes > 1 else ''}: {kills} kills within "
        f"{length:.0f} s ({in_progress} with some photos done), {lost} photos lost, {twice} of "
        f"{kills * options.photos} done twice, {different} resumed results differ",
        flush=True,
    )
    return lost + different


def main():
    """Run it; the exit code says whether anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="for each number of processes")
    parser.add_argument("--photos", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--model", help="another checkpoint than the demo's")
    options = parser.parse_args()
    generator = random.Random(options.seed)
    sys.path.insert(0, str(ROOT))
    from datamodules.scene_generator import write_scenes

    with tempfile.TemporaryDirectory() as work:
        data = Path(work) / "scenes"
        write_scenes(data, dev=2, val=options.photos, workers=0)
        worst = [torture(Path(work), data, n, options, generator) for n in options.processes]
    raise SystemExit(1 if any(worst) else 0)


if __name__ == "__main__":
    main()
