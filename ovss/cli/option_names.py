"""What is wrong with a command line, as far as it can be said before Lightning is imported."""

from __future__ import annotations

import ast
import difflib
import functools
import importlib.util
from collections.abc import Collection, Sequence
from pathlib import Path

from ovss.cli.config_file import DEFAULT_MODEL, Config, find_setting, options_of, unknown_settings
from ovss.utils.errors import ConfigurationError
from ovss.utils.text import PROGRAM

RENAMED = {"model.labeller.crf": "model.labeller.refine"}
"""Settings of before, and what they are called now."""

_EVERY_METHOD = "benchmark class_path on_error proposals"

SHELLS = {
    DEFAULT_MODEL: f"{_EVERY_METHOD} dropout.patches dropout.relevance dropout.rounds "
    "dropout.variant head labeller.blur labeller.refine labeller.threshold layer template variant "
    "vlm",
    "ovss.DenseCLIPModule": f"{_EVERY_METHOD} area_thd beta crop dino dino_revision gamma "
    "logit_scale method name_or_path prob_thd refine residual revision short_side sigma stride "
    "vocabulary",
}
"""The settings of `model` by its `class_path`; those below one of them are left to its type."""

COMMANDS = {
    "test": "verbose",
    "predict": "return_predictions",
    "segment": "background classes heatmaps max_side output photos",
    "tune": "reward.batch_size reward.mask reward.measure reward.model reward.negative "
    "reward.prompt reward.scorer space.heads space.layers space.patches space.rounds "
    "space.thresholds study.memory_gb study.name study.parts study.photos study.reduction "
    "study.sampler study.seed study.storage study.trials validate",
    "ablate": "rounds patches layer head threshold blur refine prob_thd",
    "vocabulary": "draws seed distractors synonyms",
}
"""The options of a command that no other has."""

NO_DATA = (
    "Expected a configuration for `{}`, but got none with `data`; give one with --config, such as "
    f"--config voc21 (`{PROGRAM} configs` lists them)."
)
"""What is said where a command has no photos."""


def known_names(command: str, shell: str) -> set[str] | None:
    """The settings that a command's parser will have, by dotted name.

    They are written down here, as importing the classes takes seconds; a test compares them with
    the parser's.

    Args:
        command: a key of `COMMANDS`.
        shell: a key of `SHELLS`.

    Returns:
        None where that is not known: another command, somebody's own method, another Lightning.
    """
    trainer = _trainer_options()
    if command not in COMMANDS or shell not in SHELLS or not trainer:
        return None
    model = {f"model.{name}" for name in SHELLS[shell].split()}
    shared = {"config", "data", "seed_everything"}
    return {*shared, *COMMANDS[command].split(), *model, *(f"trainer.{each}" for each in trainer)}


@functools.cache
def _trainer_options() -> list[str]:
    """The arguments of the Trainer of the Lightning that is installed, read off its source."""
    package = importlib.util.find_spec("lightning")
    for folder in (package and package.submodule_search_locations) or ():
        try:
            source = Path(folder, "pytorch", "trainer", "trainer.py").read_text(encoding="utf-8")
            classes = [each for each in ast.parse(source).body if isinstance(each, ast.ClassDef)]
        except (OSError, ValueError, SyntaxError):
            continue
        for each in (each for owner in classes if owner.name == "Trainer" for each in owner.body):
            if isinstance(each, ast.FunctionDef) and each.name == "__init__":
                return [argument.arg for argument in (*each.args.args[1:], *each.args.kwonlyargs)]
    return []


def check_options(command: str, configs: Sequence[Config], args: Sequence[str]) -> None:
    """Refuse what the command's parser would refuse, as it does: a misspelt name, or no data.

    Args:
        command: the command.
        configs: its configurations.
        args: its options.

    Raises:
        ConfigurationError: names the setting, its file, and what was perhaps meant; or asks for
            data.
    """
    shell = DEFAULT_MODEL
    for config in configs:
        shell = find_setting(config.content, "model.class_path") or shell
    known = known_names(command, str(shell))
    names = [name.replace("-", "_") for name, _ in options_of(args) if name]
    if command == "segment" and "photos" in names:
        raise ConfigurationError(
            "Expected photos without a name before them, but got --photos; give them first: "
            f"`{PROGRAM} segment x.png --classes ...`."
        )
    if known is None:
        return
    # Of a class path, such as `--data.help`, or the parser's own.
    own = {each for each in names if each.endswith(".help") or each in ("help", "print_config")}
    problem = wrong_names(command, known, configs, [each for each in names if each not in own])
    given = any(find_setting(each.content, "data") for each in configs)
    if not (problem or own or given or command == "segment" or any(n[:4] == "data" for n in names)):
        problem = NO_DATA.format(command)
    if problem:
        raise ConfigurationError(f"{problem}\n`{PROGRAM} {command} --help` lists the options.")


def wrong_names(
    command: str, known: Collection[str], configs: Sequence[Config], options: Sequence[str]
) -> str:
    """What is said of names that a command does not know; empty where it knows all.

    Args:
        command: the command.
        known: its settings.
        configs: its configurations.
        options: the names on the command line.
    """
    for file, content in configs:
        for name in unknown_settings(content, known):
            return f"`{command}` does not accept option '{name}' of {file}" + _did_you_mean(
                name, known, ""
            )
    unknown = list(unknown_settings(dict.fromkeys(options), known))
    if not unknown:
        return ""
    listed = ", ".join(f"--{name}" for name in unknown)
    guesses = "".join(_did_you_mean(name, known, "--") for name in unknown)
    return f"`{command}` does not accept {listed}{guesses}"


def _did_you_mean(name: str, known: Collection[str], dashes: str) -> str:
    """What a setting is called now, or one whose last name is most like its, as a line."""
    for old, new in RENAMED.items():
        if f"{name}.".startswith(f"{old}.") and new in known:
            return f"\nIt is {dashes}{new} now."
    ends: dict[str, list[str]] = {}
    for setting in sorted(known):
        ends.setdefault(setting.rpartition(".")[2], []).append(setting)
    near = difflib.get_close_matches(name.rpartition(".")[2], ends, n=1)
    # A command's own option may end like one of the model's: the whole name decides.
    meant = [difflib.get_close_matches(name, ends[end], n=1, cutoff=0)[0] for end in near]
    return "".join(f"\nDid you mean {dashes}{own} instead of {dashes}{name}?" for own in meant)
