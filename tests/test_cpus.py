"""Which CPUs a process may use, and how they are dealt to threads and loaders."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from ovss.datamodules import Scenes
from ovss.utils import cpus
from ovss.utils.cpus import SPIN, begin_threads, share_of_cpus, usable_cpus, use_threads


@pytest.fixture
def affinity(monkeypatch):
    monkeypatch.setattr(cpus, "_affinity", lambda: set(range(8)))
    monkeypatch.setattr(cpus, "_quotas", lambda groups, mount: iter(()))
    monkeypatch.delenv("SLURM_CPUS_ON_NODE", raising=False)


def quotas(tmp_path, groups, files):
    for name, text in files.items():
        path = tmp_path / "mount" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "cgroup").write_text(groups)
    return list(cpus._quotas(tmp_path / "cgroup", tmp_path / "mount"))


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "250000 100000\n"}, [2.5]),
        (
            "0::/job/step\n",
            {"job/cpu.max": "400000 100000\n", "job/step/cpu.max": "max 100000\n"},
            [4],
        ),
        # In a container: the path is the host's, and not there.
        ("0::/docker/0123\n", {"cpu.max": "100000 100000\n"}, [1]),
        ("0::/\n", {"cpu.max": "max 100000\n"}, []),
        (
            "3:cpu,cpuacct:/job\n2:memory:/job\n",
            {
                "cpu,cpuacct/job/cpu.cfs_quota_us": "300000\n",
                "cpu,cpuacct/job/cpu.cfs_period_us": "100000\n",
                "cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
                "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
                "memory/job/cpu.max": "100000 100000\n",
            },
            [3],
        ),
        ("0::/\n", {"cpu.max": "what is this\n"}, []),
    ],
)
def test_quotas(tmp_path, groups, files, expected):
    assert quotas(tmp_path, groups, files) == expected


def test_no_linux(tmp_path):
    assert list(cpus._quotas(tmp_path / "cgroup", tmp_path)) == []


def test_the_smallest_limit_counts(affinity, monkeypatch):
    assert usable_cpus() == 8
    monkeypatch.setattr(cpus, "_quotas", lambda groups, mount: iter((16.0, 2.5)))
    assert usable_cpus() == 3
    monkeypatch.setattr(cpus, "_quotas", lambda groups, mount: iter((0.1,)))
    assert usable_cpus() == 1


def test_this_machine():
    assert 1 <= usable_cpus() <= (os.cpu_count() or 1)


def test_ranks_share_a_node(affinity, monkeypatch):
    assert [share_of_cpus(ranks) for ranks in (1, 2, 3, 16)] == [8, 4, 2, 1]
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "32")  # each task is bound to eight of them
    assert share_of_cpus(4) == 8
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "8")
    assert share_of_cpus(4) == 2


@pytest.mark.parametrize(
    ("ranks", "device", "workers", "threads"),
    [(1, "cpu", 2, 6), (2, "cpu", 1, 3), (8, "cpu", 0, 1), (1, "cuda", 7, 1), (2, "cuda", 3, 1)],
)
def test_threads_and_loaders_together_are_the_share(
    affinity, monkeypatch, ranks, device, workers, threads
):
    data = Scenes("nowhere")
    data.trainer = SimpleNamespace(
        num_devices=ranks, strategy=SimpleNamespace(root_device=torch.device(device))
    )
    chosen = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setenv(cpus.CHOSEN_HERE, "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "99")  # Lightning's launcher's
    use_threads(ranks, data.num_workers)
    assert (data.num_workers, chosen) == (workers, [threads])
    assert os.environ["OMP_NUM_THREADS"] == str(threads)
    assert ranks * (workers + threads) <= 8


def test_a_number_that_was_given_stays(affinity, monkeypatch):
    assert Scenes("nowhere", num_workers=5).num_workers == 5
    environment = {"OMP_NUM_THREADS": "3"}
    begin_threads(environment)
    assert environment == {"OMP_NUM_THREADS": "3", **SPIN}
    monkeypatch.setattr(torch, "set_num_threads", None)
    monkeypatch.delenv(cpus.CHOSEN_HERE, raising=False)
    use_threads(1, 0)


@pytest.mark.parametrize("name", cpus.OWN_CHOICES)
def test_a_choice_of_how_to_wait_stays(name):
    environment = {name: "x"}
    begin_threads(environment)
    assert environment == {name: "x", cpus.CHOSEN_HERE: "1"}


def test_a_command_chooses_before_torch_is_imported():
    program = (
        "import os, sys\n"
        "from ovss.cli.main import main\n"
        "sys.argv[1:] = ['--version']\n"
        "main()\n"
        "assert 'torch' not in sys.modules\n"
        f"assert {SPIN!r}.items() <= os.environ.items()\n"
    )
    environment = {k: v for k, v in os.environ.items() if k not in cpus.OWN_CHOICES}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
