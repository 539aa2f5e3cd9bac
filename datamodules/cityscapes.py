"""Cityscapes with its 19 evaluated classes."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from ovss.benchmark import Benchmark, Protocol
from ovss.utils.text import COMMAND

from .base import BenchmarkDataModule
from .dataset import Split
from .download.archives import Archive
from .layouts import Encoding, Layout
from .masks import label_table
from .specs import class_names, palette, prompt_names, refuse_released

TREE = """
leftImg8bit/val/<city>/<city>_<sequence>_<frame>_leftImg8bit.png
gtFine/val/<city>/<city>_<sequence>_<frame>_gtFine_labelIds.png
  or ..._gtFine_labelTrainIds.png
"""
EVALUATED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The `labelIds` of the 19 classes in order (cityscapesscripts/helpers/labels.py)."""

LABEL_IDS = label_table(
    {
        **dict.fromkeys((*range(34), 255), 255),
        **{label_id: label for label, label_id in enumerate(EVALUATED)},
    }
)
TRAIN_IDS = label_table({**{i: i for i in range(19)}, 255: 255})


@cache
def benchmark(protocol: Protocol) -> Benchmark:
    """19 classes, no background."""
    refuse_released("cityscapes19", protocol, "the released code does not have Cityscapes.")
    return Benchmark(
        key="cityscapes19",
        title="Cityscapes (19 classes)",
        protocol=protocol,
        classes=class_names("cityscapes19"),
        prompts=prompt_names("cityscapes19"),
        palette=palette("cityscapes19"),
        expected=500,
    )


def _members(archive: str, folder: str, files: str) -> Archive:
    return Archive(
        name=archive,
        url="",
        members=(f"{folder}/val/*/{files}",),
        done=(f"{folder}/val/*/{files}", 500),
    )


class Cityscapes(BenchmarkDataModule):
    """Cityscapes, `val`: 500 photos of 2048 x 1024 pixels.

    Args:
        root: the folder that holds `leftImg8bit` and `gtFine`.
        protocol: only `standard`.
        kwargs: see `BenchmarkDataModule`.
    """

    archives = (
        _members("leftImg8bit_trainvaltest.zip", "leftImg8bit", "*_leftImg8bit.png"),
        _members("gtFine_trainvaltest.zip", "gtFine", "*_gtFine_labelIds.png"),
    )
    layout = Layout(
        tree=TREE,
        base_folders=(".", "cityscapes"),
        photos=("leftImg8bit/val",),
        suffix="_leftImg8bit.png",
        encodings=(
            Encoding(("gtFine/val",), "_gtFine_labelIds.png", LABEL_IDS),
            Encoding(("gtFine/val",), "_gtFine_labelTrainIds.png", TRAIN_IDS),
        ),
        nested=True,
    )

    def __init__(self, root: str | Path, protocol: Protocol = "standard", **kwargs: Any) -> None:
        super().__init__(root, benchmark(protocol), **kwargs)

    @property
    def remedy(self) -> str:
        """How to get the archives, which need a registration."""
        return (
            "Register at https://www.cityscapes-dataset.com/register/, download "
            "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from "
            f"https://www.cityscapes-dataset.com/downloads/ into {self.root}, and run "
            f"`{COMMAND} prepare --config cityscapes19 --data.init_args.root {self.root}`."
        )

    def find(self) -> Split:
        """See `BenchmarkDataModule.find`."""
        return self.layout.find(self.benchmark.title, self.root, self.remedy)
