"""How the command line speaks: how much, and what it says when something is wrong."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from ovss.utils.errors import LOADER_REMEDY, ConfigurationError
from ovss.utils.signals import INTERRUPTED, REQUEUE, stop

LEVELS = {"-q": logging.WARNING, "-v": logging.DEBUG}
"""The flags that say how much to say; without one, notes and warnings."""


class StderrHandler(logging.StreamHandler):
    """Writes to what `sys.stderr` is now: a progress bar replaces it to stay below the lines."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(logging.Formatter("%(message)s"))

    @property
    def stream(self) -> Any:
        """Standard error."""
        return sys.stderr


@contextmanager
def reporting_errors(args: Sequence[str]) -> Iterator[list[str]]:
    """Run a command: its notes at the level asked for, its errors in one readable block.

    What a user can get wrong (`ValueError`, `OSError`, `RuntimeError`) ends the program with exit
    code 1, or 2 for a `ConfigurationError`, and without a stack trace; anything else is a mistake
    of the program and shows one.

    Args:
        args: the command line.

    Yields:
        The command line without `-q`, `-v` and `--traceback`.
    """
    level = next((LEVELS[arg] for arg in args if arg in LEVELS), logging.INFO)
    logger = logging.getLogger("ovss")
    if not any(isinstance(handler, StderrHandler) for handler in logging.getLogger().handlers):
        logging.getLogger().addHandler(StderrHandler())
    logger.setLevel(level)
    try:
        yield [arg for arg in args if arg not in LEVELS and arg != "--traceback"]
    except (ValueError, OSError, RuntimeError) as error:
        if "--traceback" in args:
            raise
        if stop.received:  # whatever broke then broke because the run was being stopped
            sys.exit(REQUEUE)
        died = str(error).startswith("DataLoader worker")  # raised wherever the program is then
        remedy = f" Perhaps memory ran out. {LOADER_REMEDY}" if died else ""
        sys.stderr.write(f"error: {error or type(error).__name__}{remedy}\n")
        sys.exit(2 if isinstance(error, ConfigurationError) else 1)
    except KeyboardInterrupt:
        _stopped()
    except SystemExit as leaving:
        # Lightning turns Ctrl-C during a run into exit code 1, which here means an error.
        if isinstance(leaving.__context__, KeyboardInterrupt):
            _stopped()
        raise


def _stopped() -> NoReturn:
    sys.stderr.write("stopped; start the same command again to go on\n")
    sys.exit(INTERRUPTED)


class _Once(logging.Filter):
    """Lets pass the first of the hub's dozens of lines about requests that are tried again."""

    said = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is none of those, or the first."""
        if "[Retry " not in record.getMessage() and "thrown while" not in record.getMessage():
            return True
        first, self.said = not self.said, True
        return first


def silence_libraries() -> None:
    """Keep messages of the libraries that do not concern a user of this program; `-v` shows all."""
    # The hub's bars redraw themselves, which a log file keeps as a single endless line.
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if logging.getLogger("ovss").level == logging.DEBUG:
        return
    for name in ("lightning.pytorch", "lightning.fabric", "httpx", "transformers"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        # Lightning 2.6 with torch 2.13; https://github.com/Lightning-AI/pytorch-lightning (pytree).
        ".*LeafSpec.*deprecated.*",
        # Each process has its own share of the photos on purpose (datamodules.sampler).
        ".*is recommended to use a single device.*",
        # Said wherever Slurm is installed, also to who wants a single process (docs/cluster.md).
        ".*`srun` command is available.*",
    ):
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("huggingface_hub.utils._http").addFilter(_Once())
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    # It switches off the hub's, too: a download of gigabytes would look like a standstill.
    if "HF_HUB_DISABLE_PROGRESS_BARS" not in os.environ:
        from huggingface_hub.utils import enable_progress_bars

        enable_progress_bars()
