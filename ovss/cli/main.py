"""The command line's front door: quick answers first, then Lightning."""

from __future__ import annotations

import sys
from collections.abc import Sequence

# Little more than this is imported before `begin`, as Ctrl-C would be a traceback until then.
from ovss.cli.help import COMMANDS, HELP, SEGMENT_HELP
from ovss.utils.signals import stop

QUICK = ("app", "compare", "configs", "prepare", "reproduce", "suite", "table")
"""Commands that run no model themselves: modules of this package, called without LightningCLI."""


def main(args: Sequence[str] | None = None) -> None:
    """Run a command.

    Args:
        args: the command line without the program's name; default: `sys.argv`, of a process that
            is there for this command only.
    """
    # Before torch and the model are loaded, which takes seconds to minutes.
    stop.begin(own_process=args is None)
    from ovss.distributed import watch

    watch.watch_early()
    if args is None:
        from ovss.cli.pipes import outlive_readers
        from ovss.utils.cpus import begin_threads

        outlive_readers()
        begin_threads()
        _run(sys.argv[1:])
        return
    try:
        _run(list(args))
    finally:
        stop.end()
        watch.early.close()


def _run(args: list[str]) -> None:
    from ovss._version import __version__

    # Importing Lightning takes seconds: what needs no model is answered without it.
    if not args or args[0] in ("-h", "--help"):
        sys.stdout.write(HELP)
        return
    if args == ["--version"]:
        sys.stdout.write(f"ovss {__version__}\n")
        return
    if args[0] == "segment" and args[1:] in (["-h"], ["--help"]):
        sys.stdout.write(SEGMENT_HELP)
        return
    from importlib import import_module

    from ovss.cli.console import reporting_errors, silence_libraries
    from ovss.utils.errors import ConfigurationError

    with reporting_errors(args) as rest:
        command = rest[0] if rest else ""
        if command not in COMMANDS:
            raise ConfigurationError(_unknown_command(command))
        if command in QUICK:
            import_module(f"ovss.cli.{command}").main(rest[1:])
        else:
            from ovss.cli.config_file import take_configs
            from ovss.cli.option_names import check_options

            # What is wrong in a file, misspelt or missing is said now and not in seconds.
            check_options(command, *take_configs(rest[1:]))
            from ovss.cli.lightning_cli import EvaluationCLI

            sys.argv[1:] = args  # Lightning's launchers start the other processes with it
            silence_libraries()
            EvaluationCLI(rest)


def _unknown_command(command: str) -> str:
    import difflib

    from ovss.utils.text import PROGRAM

    similar = difflib.get_close_matches(command, COMMANDS, n=1)
    return (
        f"Expected a command of {', '.join(COMMANDS)}, but got {command!r}."
        + "".join(f" Did you mean {name}?" for name in similar)
        + f"\n`{PROGRAM} --help` lists the commands."
    )
