"""Threads for the dense CRF on a CPU: a photo each, or several on one photo."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from ovss.utils.cpus import usable_cpus

Item = TypeVar("Item")
Result = TypeVar("Result")

# More threads on one photo have too little to do between two waits for each other.
_MAX_THREADS_PER_PHOTO = 4

_starting = threading.Lock()


class ThreadPool:
    """Threads that share the work on one photo; by default the calling thread alone.

    They wait for each other asleep. PyTorch's own intra-op threads spin, and where something else
    has the cores (a data loader, another rank) each of the CRF's many short operations then waits
    for the scheduler: 9 s for a photo that takes one thread 0.2 s.
    """

    def __init__(self, executor: ThreadPoolExecutor | None = None, size: int = 1) -> None:
        self._executor = executor
        self.size = size

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Apply a function to every item; the calling thread takes part."""
        first, *others = items
        if self._executor is None:
            return [function(first), *(function(item) for item in others)]
        futures = [self._executor.submit(function, item) for item in others]
        return [function(first), *(future.result() for future in futures)]


SINGLE_THREADED = ThreadPool()


def map_photos(
    function: Callable[[Item, ThreadPool], Result], photos: Sequence[Item]
) -> list[Result]:
    """Map a function that computes with PyTorch on the CPU over photos, as fast as threads allow.

    Photos in parallel with one intra-op thread each scale almost linearly, where many threads on
    one photo do not. A photo that is alone, or the one left over, gets up to four. No more threads
    run than the caller's `torch.get_num_threads()`, which launchers set to a rank's share of the
    machine and data loaders to 1, and than the cores this process may use. The threads end with
    the call, so a process may fork between calls.

    Args:
        function: takes a photo and the threads to compute it with. Its result must not depend on
            how many they are.
        photos: any objects.
    """
    intra_op = torch.get_num_threads()
    if intra_op == 1:
        return [function(photo, SINGLE_THREADED) for photo in photos]
    # Threads of their own even for a single photo: in the caller's, PyTorch's own would spin.
    threads = min(intra_op, usable_cpus())
    lone = len(photos) % threads == 1 or threads == 1
    together = photos[:-1] if lone else photos
    shared = min(threads, _MAX_THREADS_PER_PHOTO) if lone else 1
    with _start_threads(min(threads, max(len(together), shared)), intra_op) as executor:
        results = list(executor.map(lambda photo: function(photo, SINGLE_THREADED), together))
        if lone:
            pool = ThreadPool(executor, shared) if shared > 1 else SINGLE_THREADED
            results.append(executor.submit(function, photos[-1], pool).result())
    return results


def _start_threads(workers: int, intra_op: int) -> ThreadPoolExecutor:
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
        executor = ThreadPoolExecutor(workers, "ovss-crf", initializer=use_one_thread)
        for _ in range(workers):
            executor.submit(int)
        started.wait()
        torch.set_num_threads(intra_op)
    return executor
