"""The command line's front door: quick answers first, then Lightning."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ovss._version import __version__

HELP = """\
usage: train_free_eval.py COMMAND [--config YAML ...] [--option VALUE ...]

Training-free open-vocabulary semantic segmentation (PnP-OVSS), as a Lightning evaluation.

commands:
{commands}

examples:
  train_free_eval.py test --config configs/demo.yaml
  train_free_eval.py test --config configs/voc21.yaml --data.init_args.root /data
  train_free_eval.py segment photo.jpg --classes "cat, dog, grass"
  train_free_eval.py test --config configs/voc21.yaml --print_config

`train_free_eval.py COMMAND --help` lists a command's options; `--version` prints {version}.
"""

COMMANDS = {
    "test": "segment and score a benchmark",
    "predict": "segment a data set; score it where there is ground truth",
    "segment": "segment photos of your own with any class names",
}
"""Each command with what it does; `ovss.cli` runs them."""


def main(args: Sequence[str] | None = None) -> None:
    """Run a command.

    Args:
        args: the command line without the program's name; default: `sys.argv`.
    """
    args = list(sys.argv[1:] if args is None else args)
    # Importing Lightning takes seconds: what needs no model is answered without it.
    if not args or args[0] in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        lines = "\n".join(f"  {name:<{width}}  {what}" for name, what in COMMANDS.items())
        sys.stdout.write(HELP.format(commands=lines, version=__version__))
    elif args == ["--version"]:
        sys.stdout.write(f"ovss {__version__}\n")
    else:
        from ovss.cli import run

        run(args)
