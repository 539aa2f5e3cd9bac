"""Lightning's parser, with errors and help that fit on a screen."""

from __future__ import annotations

import argparse
import difflib
import inspect
import pydoc
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NoReturn

import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from ovss.cli.config_file import Config, find_setting, load_yaml, options_of, unknown_settings
from ovss.utils.text import PROGRAM

RENAMED = {"model.labeller.crf": "model.labeller.refine"}
"""Settings of before, and what they are called now."""


class Parser(LightningArgumentParser):
    """Lightning's parser, with photos as a positional argument and no guessing of option names."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._own: Any = None  # the group of the command's own options
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def add_method_arguments(self, *args: Any, **kwargs: Any) -> list[str]:
        """Required arguments of a command are positional; of lists, one word an entry."""
        before = len(self._actions)
        names = super().add_method_arguments(*args, **{"as_positional": True, **kwargs})
        for action in self._actions[before:]:
            if not action.option_strings and getattr(action, "_typehint", None) == list[str]:
                # The parser would want the list in one word, `[a,b]`.
                action.nargs, action.metavar = "+", action.dest
                action._typehint = str  # type: ignore[attr-defined]
        self._own = self._action_groups[-1]
        return names

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """The command's own options first: those of the trainer alone fill five screens."""
        groups, usage = self._action_groups, self.usage
        if self._own is not None:
            self._action_groups = [self._own, *(each for each in groups if each is not self._own)]
            words = [f"{a.dest} [{a.dest} ...]" for a in self._actions if not a.option_strings]
            self.usage = " ".join(["%(prog)s", "[--option VALUE ...]", *words])
        try:
            return super().format_help(*args, **kwargs)
        finally:
            self._action_groups, self.usage = groups, usage

    def with_underscores(self, args: Sequence[str]) -> list[str]:
        """A command line whose options are written as the parser knows them: `--max-side`, too."""
        spelt = []
        for arg in args:
            name, equals, value = arg.partition("=")
            known = name.startswith("--") and f"--{name[2:].replace('-', '_')}"
            if known and known in self._option_string_actions:
                name = known
            spelt.append(f"{name}{equals}{value}")
        return spelt

    def check_names(self, configs: Sequence[Config], args: Sequence[str]) -> None:
        """End the program where a setting does not exist, and guess what was meant.

        The parser would not say in which file it is.

        Args:
            configs: the configurations.
            args: the options of the command line.
        """
        known = {each.dest for each in self._actions if each.default is not argparse.SUPPRESS}
        for file, content in configs:
            for name in unknown_settings(content, known):
                self.error(
                    f"`{self._command}` does not accept option '{name}' of {file}"
                    + _did_you_mean(name, known, "")
                )
        options = [arg.partition("=")[0] for arg in args if arg.startswith("--")]
        names = {o[2:]: None for o in options if o not in self._option_string_actions and o != "--"}
        unknown = list(unknown_settings(names, known))
        if unknown:
            listed = ", ".join(f"--{name}" for name in unknown)
            guesses = "".join(_did_you_mean(name, known, "--") for name in unknown)
            self.error(f"`{self._command}` does not accept {listed}{guesses}")
        # Before the parser, which takes such a mapping for text and shows it whole.
        proposals = [find_setting(content, "model.proposals") for _, content in configs]
        proposals += [value for name, value in options_of(args) if name == "model.proposals"]
        for class_path, wrong in _unknown_arguments(proposals):
            self.error(f"`{class_path}` does not accept {', '.join(map(repr, wrong))}")

    def validate(self, namespace: Namespace, *args: Any, **kwargs: Any) -> None:
        """As jsonargparse does, but an argument that is missing is named by its command."""
        try:
            super().validate(namespace, *args, **kwargs)
        except TypeError:
            command = namespace.get("subcommand")
            for action in self._actions:
                if command and isinstance(action, argparse._SubParsersAction):
                    action.choices[command].check_required(namespace[command])
            raise

    def check_required(self, namespace: Namespace) -> None:
        """End the program where an argument that is required has no value."""
        for action in self._actions:
            if action.required and namespace.get(action.dest) is None:
                self.error(f"Expected `{action.dest}`, but got none.")

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong without the list of all options, and end the program."""
        if not self.exit_on_error:
            super().error(message, ex)
        # Without the value of a setting of several types, in which a key or a password may be.
        message = re.sub(r"\n\s*Given value type:.*", "", message, flags=re.DOTALL)
        command = self._command
        about = f"{command} --help` lists the options" if command else "--help` lists the commands"
        sys.stderr.write(f"error: {message}\n`{PROGRAM} {about}.\n")
        sys.exit(2)

    @property
    def _command(self) -> str:
        return self.prog.partition(" ")[2].rpartition(" ")[2]


def _unknown_arguments(value: Any) -> Iterator[tuple[str, list[str]]]:
    """Class paths in a value with the names in their `init_args` that the classes do not have."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = load_yaml(value)
        except yaml.YAMLError:
            return
    if isinstance(value, list):
        for each in value:
            yield from _unknown_arguments(each)
    if not isinstance(value, dict):
        return
    arguments = value.get("init_args")
    if isinstance(arguments, dict) and "class_path" in value:
        try:
            has = inspect.signature(pydoc.locate(str(value["class_path"]))).parameters  # type: ignore[arg-type]
        except (pydoc.ErrorDuringImport, TypeError, ValueError):  # the parser says what is wrong
            return
        wrong = [str(name) for name in arguments if name not in has]
        if wrong and not any(each.kind is each.VAR_KEYWORD for each in has.values()):
            yield str(value["class_path"]), wrong
    yield from _unknown_arguments(list(value.values()))


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
