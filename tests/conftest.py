"""What several tests use; everything is offline and small."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

# Nothing may be downloaded; a test that tries fails at once.
os.environ["HF_HUB_OFFLINE"] = "1"
# Tests run side by side: one thread each keeps them from fighting for the cores.
torch.set_num_threads(1)

GOLDEN = Path(__file__).parent / "data" / "golden"
"""Inputs and outputs recorded from the released code on a tiny random BLIP."""


class Golden:
    """The recorded files, read once."""

    cases = json.loads((GOLDEN / "golden.json").read_text(encoding="utf-8"))["cases"]
    coco_ids = json.loads((GOLDEN / "golden.json").read_text(encoding="utf-8"))["coco_ids"]
    sizes = ((120, 160), (133, 97), (90, 90), (64, 80))

    def __init__(self):
        self._files = {}

    def __getitem__(self, name):
        """An npz file by its name."""
        if name not in self._files:
            self._files[name] = np.load(GOLDEN / f"{name}.npz")
        return self._files[name]

    def pixels(self, dataset, image):
        """What the released code fed the model, `(1, 3, 112, 112)`."""
        kind = "pixels_ade20k" if dataset == "ade20k" else "pixels_norm"
        return torch.from_numpy(self["inputs"][f"{kind}_img{image}"])[None]


@pytest.fixture(scope="session")
def golden():
    return Golden()


@pytest.fixture(scope="session")
def golden_path():
    return GOLDEN


@pytest.fixture(scope="session")
def tiny_blip_path():
    return GOLDEN / "blip_tiny_hf"


@pytest.fixture(scope="session")
def tiny_blip(tiny_blip_path):
    from ovss.vlm import BlipITM

    return BlipITM.from_pretrained(tiny_blip_path)


@pytest.fixture(scope="session")
def scenes_root(tmp_path_factory):
    """Eight drawn scenes in the VOC layout."""
    from datamodules.drawing import write_benchmark

    root = tmp_path_factory.mktemp("scenes")
    write_benchmark(root, dev=2, val=8, workers=0)
    return root


@pytest.fixture(scope="module")
def forker():
    """Starts processes that have the packages imported already."""
    from forker import Forker

    forker = Forker()
    yield forker
    forker.close()
