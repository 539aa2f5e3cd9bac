"""Work on several photos at a time on a CPU, each with one thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

_starting = threading.Lock()


def map_photos(function: Callable[[Item], Result], photos: Sequence[Item]) -> list[Result]:
    """Map a function that computes with PyTorch on the CPU over photos, as fast as threads allow.

    Photos in parallel with one intra-op thread each scale almost linearly, where many threads on
    one photo do not, and many threads on each of many photos at once are ruinous. No more threads
    run than the caller's own `torch.get_num_threads()`, which launchers set to a rank's share of
    the machine and data loaders to 1, and than the cores this process may use. Photos left over
    when the count does not divide, if at most half as many as threads, are quicker one after the
    other with all threads on each. The threads end with the call, so a
    process may fork between calls.

    The results do not depend on the number of threads.
    """
    intra_op = torch.get_num_threads()
    threads = min(intra_op, available_cores())
    left_over = len(photos) % threads
    count = len(photos) - left_over if 2 * left_over <= threads else len(photos)
    if threads == 1 or count < 2:
        return [function(photo) for photo in photos]
    with _pool(min(threads, count), intra_op) as pool:
        results = list(pool.map(function, photos[:count]))
    return results + [function(photo) for photo in photos[count:]]


def _pool(workers: int, intra_op: int) -> ThreadPoolExecutor:
    """Start threads that compute with one intra-op thread each."""
    started = threading.Barrier(workers + 1)

    def use_one_thread() -> None:
        # A thread takes PyTorch's global count over when it first asks, so ask before, not after.
        torch.get_num_threads()
        torch.set_num_threads(1)
        started.wait()

    # set_num_threads is the calling thread's own setting, but also the global one that threads yet
    # to be born begin with: put that back once all of ours have begun.
    with _starting:
        pool = ThreadPoolExecutor(workers, "ovss-crf", initializer=use_one_thread)
        for _ in range(workers):
            pool.submit(int)
        started.wait()
        torch.set_num_threads(intra_op)
    return pool


def available_cores() -> int:
    """The number of cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
