"""Signals at any moment and to any process, and loaders that cannot deliver: real processes."""

import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from forker import until
from ovss.datamodules.dataset import collate
from ovss.datamodules.sampler import PhotoLoader

from ovss.callbacks import LoaderWatch
from ovss.datamodules import Scenes
from ovss.preprocessing import InputSpec
from ovss.utils.signals import REQUEUE, stop

ROOT = Path(__file__).parents[1]
CODES = [(signal.SIGTERM, REQUEUE), (signal.SIGUSR1, REQUEUE), (signal.SIGINT, 130)]
SPEC = InputSpec(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
TWO = ["--trainer.devices=2", "--trainer.strategy=ddp"]


@pytest.fixture
def arguments(scenes_root, tiny_blip_path, tmp_path):
    return [
        *("test", f"--config={ROOT / 'configs' / 'demo.yaml'}"),
        f"--data.init_args.root={scenes_root}",
        "--data.init_args.num_workers=0",
        "--data.init_args.batch_size=1",
        f"--model.vlm.init_args.name_or_path={tiny_blip_path}",
        f"--trainer.default_root_dir={tmp_path / 'run'}",
    ]


@pytest.fixture
def launch(arguments, tmp_path):
    """Starts a command; nothing of it outlives the test."""
    started = []

    def launch(*more, before=()):
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(
                [*before, sys.executable, str(ROOT / "train_free_eval.py"), *arguments, *more],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
                # Who starts the tests in the background has Ctrl-C ignored.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        started.append(process)
        return process

    yield launch
    for process in started:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        process.wait()


def catches(pid, number=signal.SIGTERM):
    """Whether a process has a handler of its own for a signal."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def child_of(process):
    """The process that Lightning's launcher started, once it has begun its command."""
    found = []

    def begun():
        listed = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True)
        found[:] = [int(pid) for pid in listed.stdout.split() if catches(pid)]
        return found

    until(begun, timeout=180)
    return found[0]


def is_gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_for_photo(tmp_path):
    until(lambda: any((tmp_path / "run" / "labels").glob("*.png")), timeout=180)


# ---- while a command begins ----------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), CODES)
def test_a_signal_before_anything_is_loaded(launch, tmp_path, number, code):
    process = launch()
    until(lambda: catches(process.pid))
    process.send_signal(number)
    assert process.wait(120) == code
    assert "start the same command again to go on" in (tmp_path / "log").read_text()
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize(("number", "code"), CODES)
@pytest.mark.slow
def test_a_signal_to_either_process_before_the_first_photo(launch, number, code):
    for to_child in (True, False):
        process = launch(*TWO)
        child = child_of(process)
        os.kill(child if to_child else process.pid, number)
        assert process.wait(120) == code
        until(lambda pid=child: is_gone(pid))


def test_without_the_first_process_no_other_goes_on(launch):
    process = launch(*TWO)
    child = child_of(process)
    process.kill()
    process.wait()
    until(lambda: is_gone(child))


# ---- while photos are processed ------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), CODES)
@pytest.mark.slow
def test_a_signal_to_one_launched_process_stops_the_run(launch, tmp_path, number, code):
    process = launch(*TWO)
    child = child_of(process)
    wait_for_photo(tmp_path)
    os.kill(child, number)
    assert process.wait(120) == code, (tmp_path / "log").read_text()
    until(lambda: is_gone(child))
    log = (tmp_path / "log").read_text()
    assert "again" in log
    assert (f"Stopped on {number.name}" in log) == (code == REQUEUE)


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_signal_to_one_process_stops_the_others(forker, arguments, tmp_path, rank):
    ranks = forker.start_ranks(2, arguments, tmp_path / "logs")
    wait_for_photo(tmp_path)
    ranks[rank].kill(signal.SIGTERM)
    assert [each.wait(120) for each in ranks] == [REQUEUE, REQUEUE]
    assert "Stopped on SIGTERM" in ranks[0].output
    again = forker.start_ranks(2, arguments, tmp_path / "logs")
    assert [each.wait(120) for each in again] == [0, 0], again[0].output
    assert "photos are finished already" in again[0].output


# ---- loaders that cannot deliver -----------------------------------------------------------------


class Hanging(torch.utils.data.Dataset):
    """A disk that does not answer."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        threading.Event().wait()


OBSERVED = """
import os, subprocess, sys, time
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from ovss.distributed.watch import Watch

child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
observer = _ChildProcessObserver(os.getpid(), [child], sleep_period=1)
observer.start()
watch = Watch(children=lambda: [child], period=0.2)
time.sleep(0.6)
watch.close()  # so that this process ends by itself, unless Lightning's thread kills it
child.kill()
observer.join()
print("alive")
"""


def test_lightnings_own_observer_does_not_kill_the_first_process():
    done = subprocess.run([sys.executable, "-c", OBSERVED], stdout=subprocess.PIPE, check=False)
    assert (done.returncode, done.stdout) == (0, b"alive\n")


def test_a_signal_ends_the_wait_for_a_batch():
    stop.listen()
    try:
        loader = PhotoLoader(Hanging(), batch_size=1, num_workers=1)
        threading.Timer(1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        assert list(loader) == []
        assert stop.received == "SIGTERM"
    finally:
        stop.received = None
        stop.restore()


def test_full_shared_memory_is_an_error(scenes_root, monkeypatch):
    def fail(self):
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", fail)
    data = Scenes(scenes_root, num_workers=1, spec=SPEC, batch_size=2)
    data.setup()
    with pytest.raises(RuntimeError, match=r"/dev/shm, but it is full\. .*num_workers.*--shm-size"):
        list(data.test_dataloader())
    gc.collect()  # the error holds on to the loader, and its process to the forker's input
    monkeypatch.undo()
    assert collate([data.dataset[0]]).ids == ["val_00000"]


def test_shared_memory_is_looked_at(scenes_root, monkeypatch, caplog):
    data = Scenes(scenes_root, num_workers=3, spec=SPEC, batch_size=2)
    data.setup()
    (photo, mask, pixels) = (data.dataset[0][key] for key in ("photo", "mask", "pixel_values"))
    assert data.shared_memory() == 12 * (photo.nbytes + mask.nbytes + pixels.nbytes)
    trainer = SimpleNamespace(datamodule=data, is_global_zero=True, num_devices=2)
    LoaderWatch().on_test_epoch_start(trainer, None)
    assert "/dev/shm" not in caplog.text
    small = SimpleNamespace(f_bavail=16, f_frsize=65536)
    monkeypatch.setattr("ovss.callbacks.loader.os.statvfs", lambda path: small)
    monkeypatch.setattr(data, "shared_memory", lambda: 5 << 20)
    LoaderWatch().on_test_epoch_start(trainer, None)
    assert "may need 10 MiB in /dev/shm, which has 1 MiB free. Lower" in caplog.text


@pytest.mark.slow
@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare"
)
def test_a_run_with_little_shared_memory_ends(launch, tmp_path):
    small = 'mount -t tmpfs -o size=512k tmpfs /dev/shm && exec "$@"'
    process = launch(
        "--data.init_args.num_workers=1",
        "--data.init_args.batch_size=8",
        before=("unshare", "-m", "sh", "-c", small, "sh"),
    )
    assert process.wait(180) == 1
    log = (tmp_path / "log").read_text()
    assert "error: Expected room" in log
    assert "--shm-size" in log
