"""The CPUs that a process may use, and threads that share them without burning them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, MutableMapping
from pathlib import Path

SPIN = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}
"""How long OpenMP threads spin for work before they sleep: rounds of GNU's libgomp, which PyTorch's
wheels for Linux have (by default 300,000), and milliseconds of LLVM's and Intel's (200). Whoever
else is at work on these CPUs waits as long (docs/performance.md)."""

OWN_CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
"""Variables by which a user has chosen how to wait."""

CHOSEN_HERE = "OVSS_THREADS"
"""Set where the number of threads is ours to choose; launched processes inherit it."""


def begin_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Choose how OpenMP threads wait, before torch is imported; a user's own choice stays.

    Args:
        environment: of the process, which those that it starts inherit.
    """
    if not any(name in environment for name in OWN_CHOICES):
        environment.update(SPIN)
    if "OMP_NUM_THREADS" not in environment:
        environment[CHOSEN_HERE] = "1"


def use_threads(ranks: int, workers: int) -> None:
    """Have PyTorch compute with this process's share of the CPUs, less one for each loader process.

    Nothing is changed where the user gave a number of threads, or where the program is not ours.

    Args:
        ranks: processes of the run on this node.
        workers: loader processes of this one.
    """
    import torch

    if CHOSEN_HERE in os.environ:
        threads = max(1, share_of_cpus(ranks) - workers)
        torch.set_num_threads(threads)
        os.environ["OMP_NUM_THREADS"] = str(threads)  # or Lightning's launcher would choose


def share_of_cpus(ranks: int = 1) -> int:
    """CPUs for one of a node's processes, at least one.

    Args:
        ranks: processes of the run on this node.
    """
    usable = usable_cpus()
    # SLURM may have bound each of them to CPUs of its own.
    bound = len(_affinity()) < int(os.environ.get("SLURM_CPUS_ON_NODE") or 0)
    return max(1, usable if bound else usable // max(1, ranks))


def usable_cpus() -> int:
    """CPUs that this process may use: its affinity, and the quota of its control groups."""
    quotas = [math.ceil(quota) for quota in _quotas(Path("/proc/self/cgroup"), _MOUNT)]
    return max(1, min([len(_affinity()), *quotas]))


_MOUNT = Path("/sys/fs/cgroup")


def _affinity() -> set[int]:
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _quotas(groups: Path, mount: Path) -> Iterator[float]:
    """The quotas in CPUs of a process's control groups and of those that they are in.

    Args:
        groups: `/proc/PID/cgroup`.
        mount: where the hierarchies are.
    """
    try:
        lines = groups.read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # In a container the path may be the host's, and its own group what is mounted.
        top = mount / controllers if controllers else mount
        own = top / path.lstrip("/")
        for folder in (own, *own.parents):
            yield from _quota(folder)
            if folder == top:
                break


def _quota(folder: Path) -> Iterator[float]:
    """The quota of a control group, if it has one: of version 2 or of version 1."""
    names = (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
    for files in names:
        try:
            words = " ".join((folder / name).read_text() for name in files).split()
            quota, period = map(float, words)
        except (OSError, ValueError):  # not there, or "max"
            continue
        if quota > 0 and period > 0:
            yield quota / period
