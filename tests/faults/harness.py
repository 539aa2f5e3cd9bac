"""Kills demo runs at random moments, resumes them, and looks for what was lost.

    python tests/faults/harness.py --kills 20
    python tests/faults/harness.py --mixed 60

For 1 and for 2 processes: an uninterrupted run first, then as many runs as asked for that are
killed with SIGKILL at a random moment (all processes at once, as when a node dies) and resumed.
Every resumed `scores.json` and `photos.jsonl` must equal the uninterrupted one to the byte.

With `--mixed`: two processes get signals of every kind, together or one alone, three in four times
while photos are being processed and else while the processes begin. A run that does not end within
two minutes counts as a hang, a process that is left 20 s later as an orphan.
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


def alive(session):
    """Processes of a session that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, _, rest = stat.read_text().partition(" ")
        except (FileNotFoundError, ProcessLookupError):
            continue
        state, _, _, of = rest.rpartition(")")[2].split()[:4]
        if int(of) == session and state != "Z":
            found.append(int(pid))
    return sorted(found)


def catches(pid):
    """Whether a process has begun its command: it has a handler for SIGTERM."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def wait_until(condition, seconds):
    """Whether it became true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


MIXED = [
    # The signal, who gets it, and the exit code that it gives the first process.
    (signal.SIGTERM, "all", 75),
    (signal.SIGTERM, "first", 75),
    (signal.SIGTERM, "other", 75),
    (signal.SIGUSR1, "other", 75),
    (signal.SIGKILL, "first", -signal.SIGKILL),
    (signal.SIGKILL, "other", 1),
    (signal.SIGINT, "all", 130),
]


def torture_mixed(work, data, options, generator):
    """Signals of every kind to two processes; counts of what went wrong."""
    whole = work / "whole_mixed"
    expected = finish(start(whole, data, options.photos, 1, options.model), whole)
    kills = busy = hangs = orphans = lost = different = folders = 0
    codes = []
    folder = None
    while kills < options.mixed:
        if folder is None:
            folders += 1
            folder = work / f"mixed{folders}"
        before = finished(folder)
        process = start(folder, data, options.photos, 2, options.model)
        session = process.pid

        def ended(process=process):
            return process.poll() is not None

        def begun(session=session):
            return len(alive(session)) > 1 and all(map(catches, alive(session)))

        wait_until(lambda: begun() or ended(), 120)
        if kills % 4 == 3:
            wait_until(ended, generator.uniform(0, 6))
        else:
            wait_until(lambda: len(finished(folder)) > len(before) or ended(), 120)
            wait_until(ended, generator.uniform(0, 1))
        pids = alive(session)
        at_work = len(finished(folder)) > len(before)
        number, whose, code = MIXED[kills % len(MIXED)]
        if ended() or len(pids) < 2:  # done before the kill
            finish(process, folder)
            pids = []
        for pid in {"all": pids, "first": pids[:1], "other": pids[1:]}[whose]:
            os.kill(pid, number)
        if pids:
            kills += 1
            busy += at_work
            if not wait_until(ended, 120):
                hangs += 1
            elif process.returncode == 0 and (folder / "scores.json").exists():
                pass  # all photos were done when the signal came
            elif process.returncode != code:
                codes.append(f"{signal.Signals(number).name} to {whose}: {process.returncode}")
            if not wait_until(lambda: not alive(session), 20):
                orphans += 1
                os.killpg(session, signal.SIGKILL)
            process.wait()
        after = finished(folder)
        lost += sum(after.get(name) != moment for name, moment in before.items())
        if not pids or kills == options.mixed:
            results = finish(start(folder, data, options.photos, 2, options.model), folder)
            lost += options.photos - len(results["photos.jsonl"].splitlines())
            different += results != expected
            folder = None
    print(
        f"2 processes, mixed: {kills} kills ({busy} while photos were processed) of {folders} "
        f"runs of {options.photos} photos: {lost} photos lost, {hangs} hangs, {orphans} orphans, "
        f"{different} results differ; {len(codes)} unexpected exit codes {codes}",
        flush=True,
    )
    return lost + hangs + orphans + different + len(codes)


def main():
    """Run it; the exit code says whether anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="for each number of processes")
    parser.add_argument("--mixed", type=int, default=0, help="kills of every kind, instead")
    parser.add_argument("--photos", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--model", help="another checkpoint than the demo's")
    options = parser.parse_args()
    generator = random.Random(options.seed)
    sys.path.insert(0, str(ROOT))
    from ovss.datamodules.scene_generator import write_scenes

    with tempfile.TemporaryDirectory() as work:
        data = Path(work) / "scenes"
        write_scenes(data, dev=2, val=options.photos)
        if options.mixed:
            raise SystemExit(1 if torture_mixed(Path(work), data, options, generator) else 0)
        worst = [torture(Path(work), data, n, options, generator) for n in options.processes]
    raise SystemExit(1 if any(worst) else 0)


if __name__ == "__main__":
    main()
