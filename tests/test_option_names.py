"""What is refused before Lightning is imported is what its parser would refuse."""

import argparse

import pytest

from ovss.cli import option_names
from ovss.cli.config_file import Config
from ovss.cli.lightning_cli import EvaluationCLI
from ovss.cli.main import main
from ovss.cli.option_names import COMMANDS, check_options, known_names
from ovss.utils.errors import ConfigurationError

DATA = Config("mine.yaml", {"data": {"class_path": "ovss.datamodules.Scenes"}})


def parser_of(command, shell):
    found = []

    class Peek(EvaluationCLI):
        def parse_arguments(self, parser, args):
            found.append(self._parser(command))
            raise InterruptedError

    with pytest.raises(InterruptedError):
        Peek([command, f"--model.class_path={shell}"])
    return found[0]


@pytest.mark.parametrize(
    ("command", "shell"),
    [*((command, "ovss.PnPOVSS") for command in COMMANDS), ("test", "ovss.DenseCLIPModule")],
)
def test_the_names_are_the_parsers(command, shell):
    actions = parser_of(command, shell)._actions
    known = {each.dest for each in actions if each.default is not argparse.SUPPRESS}
    assert known_names(command, shell) == known


def test_every_command_of_lightnings_parser_has_a_row():
    assert set(COMMANDS) == set(EvaluationCLI.subcommands())


@pytest.mark.parametrize(
    "args",
    [
        ["--model.layer", "3", "--model.dropout={rounds: 2}", "--trainer.max_epochs=3"],
        ["--data.help", "--model.vlm.init_args.image_size=3", "--trainer.callbacks+=x"],
        ["--model.labeller.refine.init_args.sigma=3", "--print_config=skip_null", "--help"],
        ["photo.jpg", "--", "-v"],
    ],
)
def test_what_the_parser_takes_is_taken(args):
    check_options("test", [DATA], args)


def test_dashes_within_a_name():
    check_options("segment", [], ["--max-side=3"])
    with pytest.raises(ConfigurationError, match=r"accept --max_sidee\nDid you mean --max_side "):
        check_options("segment", [], ["--max-sidee=3"])


def test_where_names_are_not_known_the_parser_decides(monkeypatch):
    mine = Config("mine.yaml", {"model": {"class_path": "mine.Method"}})
    check_options("test", [mine], ["--model.layr=3"])
    monkeypatch.setattr(option_names, "_trainer_options", list)
    check_options("test", [DATA], ["--model.layr=3"])


@pytest.mark.parametrize("args", [["--config=demo", "--model.layr=3"], [], ["--model.layer=3"]])
def test_both_say_the_same(args, capsys, monkeypatch):
    said = []
    for trainer in (option_names._trainer_options(), []):
        monkeypatch.setattr(option_names, "_trainer_options", lambda found=trainer: found)
        with pytest.raises(SystemExit) as stop:
            main(["test", *args])
        assert stop.value.code == 2
        said.append(capsys.readouterr().err)
    assert said[0] == said[1]
    assert said[0].startswith("error: ")
