"""The `vocabulary` command's Lightning side: one pass over the photos for all vocabularies."""

from __future__ import annotations

import hashlib
import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, Trainer
from rich.console import Console
from rich.text import Text

from ovss.benchmark import Benchmark
from ovss.callbacks.recorder import run_folder, saved_by
from ovss.datamodules.specs import names_of_all, shipped_synonyms, with_prompts
from ovss.module import SegmentationModule
from ovss.report.vocabulary import scored_rows
from ovss.report.vocabulary_tables import remarks, rich_table, write_vocabulary_report
from ovss.runs.layout import RunLayout
from ovss.runs.run import read_run
from ovss.sweep_module import SweepModule
from ovss.utils.errors import ConfigurationError, configuration_at_fault
from ovss.utils.files import write_atomically
from ovss.vocabulary import Names, vocabularies, with_vocabulary

log = logging.getLogger(__name__)


def vocabulary_with_trainer(
    trainer: Trainer,
    module: SegmentationModule,
    datamodule: LightningDataModule | None,
    draws: int,
    seed: int,
    distractors: str,
    synonyms: Path | None,
) -> None:
    """Score a method with several vocabularies in one pass over the photos, and report the spread.

    Each vocabulary is a run with a folder of its own in the trainer's `vocabulary/`; those of the
    same names share one.

    Args:
        trainer: runs the pass.
        module: from the configuration.
        datamodule: from the configuration.
        draws: see `ovss.vocabulary.vocabularies`, as for `seed`.
        seed: of draws and distractors.
        distractors: numbers separated by commas.
        synonyms: a file of names; None for the one that ships for the benchmark, if any.

    Raises:
        ConfigurationError: an option that cannot be.
        ValueError: a package is missing.
    """
    if find_spec("matplotlib") is None:
        raise ValueError(
            "Expected matplotlib for `vocabulary`, but not installed; run "
            "`pip install 'ovss[tune]'` (from a checkout: `pip install -e '.[tune]'`)."
        )
    module.take_benchmark(datamodule)
    benchmark = module.benchmark
    segmenter, folder = module.segmenter, run_folder(trainer) / "vocabulary"
    from_a_file = not isinstance(getattr(segmenter, "vocabulary", ""), str)
    if benchmark.prompts_file is not None or benchmark.distractors or from_a_file:
        raise ConfigurationError(
            "Expected neither `prompts` nor `distractors` of the data, nor a file as the model's "
            "`vocabulary`, as this command has names of its own; give further ones with --synonyms."
        )
    cells: dict[str, SegmentationModule] = {}
    changes: dict[str, dict[str, Any]] = {}
    names: dict[str, Names] = {}
    run_of: dict[str, str] = {}  # the first vocabulary with these names
    first: dict[tuple[Names, Names], str] = {}
    with configuration_at_fault():
        known = vocabularies(
            benchmark,
            _synonyms(benchmark, synonyms),
            draws,
            _numbers(distractors),
            names_of_all(),
            seed,
            names_background="vocabulary" in segmenter.variable,
        )
    for vocabulary in known:
        name = vocabulary.name
        varied, named = with_vocabulary(segmenter, benchmark, vocabulary)
        names[name] = varied.names(named)
        run_of[name] = first.setdefault((named.prompts, names[name]), name)
        if run_of[name] == name:
            cells[name] = SegmentationModule(varied, named, module.on_error)
            changes[name] = _changes(folder / "prompts", named)
            if "vocabulary" in segmenter.variable:
                changes[name]["model.vocabulary"] = vocabulary.reference or "natural"
    log.info("%d vocabularies, %d of them distinct", len(names), len(cells))
    sweep = SweepModule(cells, folder, changes)
    trainer.test(sweep, datamodule=datamodule, verbose=False)
    if trainer.is_global_zero:
        _report(folder, names, run_of, seed, saved_by(sweep, RunLayout(folder / "names")))


def _report(
    folder: Path,
    names: dict[str, Names],
    run_of: dict[str, str],
    seed: int,
    saved: dict[str, Any],
) -> None:
    from ovss.report.vocabulary_plot import draw_dots

    runs = {name: read_run(folder / name) for name in run_of.values()}
    rows = scored_rows(names, {name: runs[own] for name, own in run_of.items()})
    write_vocabulary_report(folder, rows, saved, seed)
    draw_dots(rows, folder / "vocabulary.png")
    console = Console()
    console.print(rich_table(rows))
    for remark in remarks(rows, saved, seed):
        console.print(Text(remark), soft_wrap=True)
    console.print(Text(f"report: {folder / 'vocabulary.md'}"), soft_wrap=True)


def _synonyms(benchmark: Benchmark, path: Path | None) -> Names:
    path = shipped_synonyms(benchmark.key) if path is None else path
    return () if path is None else with_prompts(benchmark, path).prompts


def _numbers(text: str) -> list[int]:
    """Numbers separated by commas.

    Example:
        >>> _numbers("10, 50")
        [10, 50]
    """
    try:
        return [int(number) for number in text.split(",") if number.strip()]
    except ValueError:
        raise ConfigurationError(
            f"Expected `distractors` to be numbers separated by commas, but got {text!r}."
        ) from None


def _changes(folder: Path, benchmark: Benchmark) -> dict[str, Any]:
    """What the configuration of a run with these names has of its own; writes their file.

    It lies in a folder of its content's digest: other names never take the place of those that a
    finished run was made with.
    """
    changes: dict[str, Any] = {}
    if benchmark.prompts_file is not None:
        lines = ["; ".join(own) for own in benchmark.prompts[: benchmark.scored] if own]
        text = "".join(f"{line}\n" for line in lines)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        file = folder / digest / benchmark.prompts_file
        write_atomically(file, text)
        changes["data.init_args.prompts"] = str(file)
    if benchmark.distractors:
        changes["data.init_args.distractors"] = [*benchmark.classes[benchmark.scored :]]
    return changes
