"""What a run ran on, and how to run it again."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ovss._version import __version__

_LIBRARIES = ("torch", "lightning", "transformers", "torchmetrics", "albumentations", "numpy")


def environment() -> dict[str, str]:
    """Versions and machine, in words."""
    import torch

    found = {"ovss": __version__, "Python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    found["system"] = f"{platform.system()} {platform.machine()}"
    found["processor"] = f"{_processor()}, {os.cpu_count()} cores"
    if torch.cuda.is_available():
        found["GPU"] = f"{torch.cuda.get_device_name()}, {torch.cuda.device_count()} in all"
    return found


def command() -> str:
    """The command line of this process, to be pasted into a shell."""
    program = Path(sys.argv[0]).name if sys.argv[0] else "python"
    return shlex.join((["python"] if program.endswith(".py") else []) + [program, *sys.argv[1:]])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
