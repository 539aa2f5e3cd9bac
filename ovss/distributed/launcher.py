"""Processes that Lightning's script launcher starts, when no SLURM or torchrun does."""

from __future__ import annotations

import os
from subprocess import Popen

from lightning.pytorch import Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment

from ovss.utils.signals import stop


def children_of(trainer: Trainer) -> list[Popen]:
    """Processes that Lightning's script launcher started from this one."""
    procs = getattr(trainer.strategy.launcher, "procs", [])
    return [process for process in procs if isinstance(process, Popen)]


def was_launched(trainer: Trainer) -> bool:
    """Whether Lightning's script launcher, in another process, started this one."""
    environment = getattr(trainer.strategy.launcher, "cluster_environment", None)
    # The launcher says how many there are; who starts processes by hand gives LOCAL_RANK alone.
    return (
        isinstance(environment, LightningEnvironment)
        and trainer.local_rank > 0
        and "WORLD_SIZE" in os.environ
    )


def quiet_code(code: int = 1) -> int:
    """The exit code, but 0 for a process whose starter reports for both.

    Lightning's launcher kills everything with SIGKILL when a process that it started ends with
    another code.
    """
    return code if stop.starter is None else 0
