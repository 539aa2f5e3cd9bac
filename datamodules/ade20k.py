"""ADE20K with the 150 classes of its scene parsing challenge."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from ovss.benchmark import Benchmark, Protocol

from .base import BenchmarkDataModule
from .dataset import Split
from .download.archives import Archive
from .layouts import Encoding, Layout
from .masks import label_table
from .specs import check_choice, class_names, palette, prompt_names

TREE = """
ADEChallengeData2016/
  images/validation/ADE_val_<number>.jpg
  annotations/validation/ADE_val_<number>.png
"""

# Mask values: 0 other, 1..150 the classes.
LABELS = {
    "standard": label_table({0: 255, **{i: i - 1 for i in range(1, 151)}, 255: 255}),
    "released": label_table({**{i: i for i in range(151)}, 255: 255}),
}


@cache
def benchmark(protocol: Protocol) -> Benchmark:
    """150 classes; the released code also scores the pixels of no class, as background."""
    check_choice("protocol", protocol, ("standard", "released"))
    released = protocol == "released"
    blank = ((),) if released else ()
    return Benchmark(
        key="ade150",
        title=f"ADE20K ({'151 bins' if released else '150 classes'})",
        protocol=protocol,
        classes=(*(("background",) if released else ()), *class_names("ade150")),
        prompts=(*blank, *prompt_names("ade150")),
        released_prompts=(*blank, *prompt_names("ade150_released")),
        palette=(*(((0, 0, 0),) if released else ()), *palette("ade150")),
        background=0 if released else None,
        background_rule="few" if released else "never",
        normalise=False,
        expected=2000,
    )


class ADE20K(BenchmarkDataModule):
    """ADE20K, `validation`: 2,000 photos.

    Args:
        root: the folder that holds `ADEChallengeData2016`, or that folder itself.
        protocol: `standard` does not score pixels of no class; `released` scores them as
            background, 151 bins in all.
        kwargs: see `BenchmarkDataModule`.
    """

    archives = (
        Archive(
            name="ADEChallengeData2016.zip",
            url="http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
            digest="md5:7328b3957e407ddae1d3cbf487f149ef",
            members=(
                "ADEChallengeData2016/images/validation/*.jpg",
                "ADEChallengeData2016/annotations/validation/*.png",
            ),
            done=("ADEChallengeData2016/annotations/validation/*.png", 2000),
        ),
    )

    def __init__(self, root: str | Path, protocol: Protocol = "standard", **kwargs: Any) -> None:
        super().__init__(root, benchmark(protocol), **kwargs)
        self.layout = Layout(
            tree=TREE,
            base_folders=("ADEChallengeData2016", ".", "ade/ADEChallengeData2016"),
            photos=("images/validation",),
            suffix=".jpg",
            encodings=(Encoding(("annotations/validation",), ".png", LABELS[protocol]),),
        )

    def find(self) -> Split:
        """See `BenchmarkDataModule.find`."""
        return self.layout.find(self.benchmark.title, self.root, self.remedy)
