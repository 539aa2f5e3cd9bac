"""What `--help` prints: every command with what it does."""

from __future__ import annotations

from ovss._version import __version__

COMMANDS = {
    "test": "segment and score a benchmark",
    "predict": "segment a data set; score it where there is ground truth",
    "segment": "segment photos of your own with any class names",
    "app": "the same on a page in the browser",
    "prepare": "download what a benchmark needs, and check every photo and mask",
    "reproduce": "the paper's table: its five benchmarks with its settings, beside its numbers",
    "suite": "many runs with one command, methods on benchmarks, and the table of their scores",
    "tune": "choose layer, head, threshold and dropout without segmentation labels",
    "ablate": "test every combination of some settings, at the price of one run",
    "vocabulary": "score a benchmark with other names for its classes, and the spread",
    "compare": "compare finished runs: differences, their uncertainty, and photos",
    "table": "one table of finished runs, methods x benchmarks, as Markdown, CSV, LaTeX and a page",
    "configs": "list the shipped configurations",
}
"""Each command with what it does."""

_WIDTH = max(map(len, COMMANDS))
_LINES = "\n".join(f"  {name:<{_WIDTH}}  {what}" for name, what in COMMANDS.items())

HELP = f"""\
usage: train_free_eval.py COMMAND [--config YAML ...] [--option VALUE ...]

Training-free open-vocabulary semantic segmentation (PnP-OVSS), as a Lightning evaluation.

commands:
{_LINES}

examples:
  train_free_eval.py test --config configs/demo.yaml
  train_free_eval.py prepare --config configs/voc21.yaml
  train_free_eval.py test --config configs/voc21.yaml --data.init_args.root /data
  train_free_eval.py test --config configs/voc21.yaml --config configs/model/blip_base_coco.yaml
  train_free_eval.py segment photo.jpg --classes "cat, dog, grass" --model blip-large
  train_free_eval.py suite configs/suite/demo.yaml
  train_free_eval.py compare runs/voc21 runs/voc21_no_crf
  train_free_eval.py table runs/voc21 runs/pc60 runs/sclip_voc21 --published
  train_free_eval.py test --config configs/voc21.yaml --print_config

options of every command:
  --help       list a command's options
  -q, -v       say less (no progress, no notes) or more (what the libraries say, too)
  --traceback  show the stack of an error

exit codes: 0 done, 1 an error that the message names, 2 a mistake in the command line or the
configuration, 75 stopped by a signal (start the same command again to go on), 130 stopped with
Ctrl-C (likewise).

This is ovss {__version__}; `--version` prints it.
"""

SEGMENT_HELP = """\
usage: train_free_eval.py segment PHOTO... --classes NAMES [--option VALUE ...]

Segment photos of your own with any class names.

  PHOTO...           photos, folders, http or https addresses, or glob patterns in quotes
  --classes NAMES    names separated by commas, or a text file with one a line; synonyms of one
                     class are separated by ";"
  --model NAME       blip-large (the paper's, 1.8 GB on the first use), another one that `configs`
                     lists under model/, or a YAML file (default: the demo's, which knows its own
                     drawn scenes only)
  --output FOLDER    for overlays and label maps (default: runs/segment)
  --background BOOL  whether pixels may belong to none of the classes (default: true)
  --heatmaps BOOL    also write what was found in each round of Salience DropOut, for each class;
                     PnP-OVSS only (default: false)
  --max-side PIXELS  beyond this longer side a photo is labelled at that size, and its labels are
                     enlarged to the photo's own (default: 1600)
  --config YAML      settings, also several times

Every setting of the method is an option, too, such as --model.layer or --trainer.accelerator;
`segment --help -v` lists them all.
"""
"""What `segment --help` prints, at once: the parser takes ten seconds to be made."""
