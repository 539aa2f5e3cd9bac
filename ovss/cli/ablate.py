"""The `ablate` command: every combination of some settings, in one pass over the photos."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningDataModule, Trainer
from rich.console import Console
from rich.text import Text

from ovss.callbacks.recorder import run_folder, saved_by
from ovss.module import SegmentationModule
from ovss.report.ablation import ablation_table, read_ablation, write_ablation
from ovss.report.tables import headline
from ovss.segmenter import Segmenter
from ovss.sweep_module import SweepModule
from ovss.utils.errors import ConfigurationError, configuration_at_fault
from ovss.utils.text import counted

log = logging.getLogger(__name__)


_SHARES = ("threshold", "blur", "prob_thd")


def ablate_with_trainer(
    trainer: Trainer,
    module: SegmentationModule,
    datamodule: LightningDataModule | None,
    lists: Mapping[str, str],
) -> None:
    """Test every combination of some settings, and write what they do to the score.

    Args:
        trainer: its folder gets `ablation/`, with a run folder for each combination.
        module: from the configuration; what is not varied is its.
        datamodule: from the configuration.
        lists: name of a setting -> its values, separated by commas; empty for the module's own.

    Raises:
        ConfigurationError: no list, or a setting that the method does not have.
    """
    segmenter, folder = module.segmenter, run_folder(trainer) / "ablation"
    with configuration_at_fault():
        choices = {name: values_of(name, text) for name, text in lists.items() if text}
        cells = cells_of(segmenter, choices)
        sweep = SweepModule(
            {
                name: SegmentationModule(
                    segmenter.varied(**settings), module.given_benchmark, module.on_error
                )
                for name, settings in cells.items()
            },
            folder,
            {
                name: {f"model.{segmenter.variable[key]}": own for key, own in settings.items()}
                for name, settings in cells.items()
            },
        )
    log.info("%s in one pass over the photos", counted(len(cells), "setting"))
    trainer.test(sweep, datamodule=datamodule, verbose=False)
    if trainer.is_global_zero:
        show_ablation(folder, cells, sweep)


def values_of(name: str, text: str) -> list[Any]:
    """The values of a setting, each as YAML has it.

    Raises:
        ConfigurationError: an empty one, or the same one twice.

    Example:
        >>> values_of("refine", "null,crf"), values_of("blur", "0, 0.05"), values_of("head", "mean")
        ([None, 'crf'], [0.0, 0.05], ['mean'])
    """
    parts = [part.strip() for part in text.split(",")]
    try:
        # 0 as the parser of `test` has it, 0.0: the same fingerprint.
        read = float if name in _SHARES else yaml.safe_load
        values = [read(part) for part in parts]
    except (ValueError, yaml.YAMLError):
        values = []
    kinds = (str, int, float, type(None))
    if not values or "" in parts or not all(isinstance(value, kinds) for value in values):
        raise ConfigurationError(
            f"Expected `{name}` to be values separated by commas, such as 1,2,4, but got {text!r}."
        )
    if len(set(values)) < len(values):
        raise ConfigurationError(f"Expected `{name}` to be values without repeats, but got {text}.")
    return values


def cells_of(segmenter: Segmenter, choices: Mapping[str, list[Any]]) -> dict[str, dict[str, Any]]:
    """Every combination of some values, by the name of its run folder.

    A single round of Salience DropOut drops nothing: it stands once, with the first `patches`.

    Raises:
        ConfigurationError: nothing to vary.

    Example:
        >>> from types import SimpleNamespace
        >>> list(cells_of(SimpleNamespace(passes=4), {"rounds": [1, 2], "patches": [4, 8]}))
        ['rounds-1', 'rounds-2_patches-4', 'rounds-2_patches-8']
    """
    if not choices:
        raise ConfigurationError(
            "Expected a list of at least one setting, such as --rounds 1,2,4, but got none."
        )
    cells: dict[str, dict[str, Any]] = {}
    for values in itertools.product(*choices.values()):
        settings = dict(zip(choices, values, strict=True))
        named = dict(settings)
        if "patches" in settings and settings.get("rounds", segmenter.passes) == 1:
            settings["patches"] = choices["patches"][0]
            del named["patches"]
        cells.setdefault("_".join(f"{key}-{_word(own)}" for key, own in named.items()), settings)
    return cells


def _word(value: Any) -> str:
    """A value as it is given and as a folder's name may have it."""
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return "null" if value is None else str(value)


def show_ablation(folder: Path, cells: Mapping[str, Mapping[str, Any]], sweep: SweepModule) -> None:
    """Write the files, and print the table with what sharing saved."""
    rows = read_ablation(folder, cells)
    files = write_ablation(folder, rows)
    console = Console()
    console.print(ablation_table(rows))
    best = rows[0].run
    console.print(Text(f"best: {best.name}: {headline(best.scores)}", style="bold"), soft_wrap=True)
    if line := saved_line(saved_by(sweep, best.layout)):
        console.print(Text(line), soft_wrap=True)
    listed = ", ".join(file.name for file in files)
    console.print(Text(f"results in {folder}: {listed}, and a run folder each"), soft_wrap=True)


def saved_line(saved: Mapping[str, Any]) -> str:
    """What sharing saved, from `SweepModule.saved`; empty where it saved nothing."""
    counts = {kind: saved[kind] for kind in _KINDS if kind in saved}
    parts = [
        f"{count['done']} of {count['without_sharing']} {_KINDS[kind]}"
        for kind, count in counts.items()
        if count["without_sharing"] > count["done"]
    ]
    if not parts:
        return ""
    runs = counted(saved["cells"], "run")
    return f"computed, of what {runs} of their own would have: {', '.join(parts)}"


_KINDS = {"rounds": "rounds", "image": "image features", "lattice": "CRF lattices"}
"""What is worth saying; the counts are of photos."""
