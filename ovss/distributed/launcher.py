"""Processes that Lightning's script launcher starts, when no SLURM or torchrun does."""

from __future__ import annotations

from subprocess import Popen

from lightning.pytorch import Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment


def children_of(trainer: Trainer) -> list[Popen]:
    """Processes that Lightning's script launcher started from this one."""
    procs = getattr(trainer.strategy.launcher, "procs", [])
    return [process for process in procs if isinstance(process, Popen)]


def was_launched(trainer: Trainer) -> bool:
    """Whether Lightning's script launcher, in another process, started this one."""
    launcher = trainer.strategy.launcher
    environment = getattr(launcher, "cluster_environment", None)
    return isinstance(environment, LightningEnvironment) and trainer.local_rank > 0


def quiet_code(trainer: Trainer, code: int = 1) -> int:
    """The exit code, but 0 for a process whose starter reports for both.

    Lightning's launcher kills everything with SIGKILL when a process that it started ends with
    another code.
    """
    return 0 if was_launched(trainer) else code
