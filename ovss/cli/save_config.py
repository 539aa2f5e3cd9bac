"""`config.yaml` of a run."""

from __future__ import annotations

from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback

from ovss.callbacks.recorder import runs_of
from ovss.sweep_module import SweepModule


class RunConfig(SaveConfigCallback):
    """Writes the resolved configuration of the newest start into the run's folder.

    Lightning's own writes into the folder of the first logger, which may be new for each start or
    none at all; it is told not to by `save_to_log_dir=False`.

    Of a sweep each cell gets its own, as of a `test` of the cell alone.

    Args:
        test_parser: knows the options of `test`.
        args: as Lightning's.
        kwargs: as Lightning's.
    """

    def __init__(
        self, *args: Any, test_parser: LightningArgumentParser | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.test_parser = test_parser

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write it; called on the first process alone."""
        for layout, _, cell in runs_of(trainer, pl_module):
            parser, config = self.parser, self.config
            if cell is not None and isinstance(pl_module, SweepModule):
                assert self.test_parser is not None
                parser = self.test_parser
                own = {"trainer.default_root_dir": str(layout.folder)}
                config = _for_test(self.config, {**own, **pl_module.changes.get(cell, {})})
            layout.folder.mkdir(parents=True, exist_ok=True)
            parser.save(config, layout.config, skip_none=False, overwrite=True, multifile=False)


def _for_test(config: Namespace, changes: dict[str, Any]) -> Namespace:
    """The sections that `test` has, changed by dotted name."""
    sections = ("seed_everything", "trainer", "model", "data")
    found = Namespace(**{name: config[name] for name in sections if name in config}).clone()
    for name, value in changes.items():
        found[name] = value
    return found
