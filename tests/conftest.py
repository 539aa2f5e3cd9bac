"""What several tests use; everything is offline and small."""

import json
import os
import sys
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

# Nothing may be downloaded; a test that tries fails at once.
os.environ["HF_HUB_OFFLINE"] = "1"
# How long an example takes is the machine's load.
hypothesis.settings.register_profile("ovss", deadline=None)
hypothesis.settings.load_profile("ovss")
# Tests run side by side: one thread each keeps them from fighting for the cores.
torch.set_num_threads(int(os.environ.get("OVSS_TEST_THREADS", "1")))

# How close float32 comes on any CPU. A sum of products is rounded in proportion to the largest
# values that go into it, in an order that the instruction set, the library and the number of
# threads choose. So what a model computes is compared in units of its largest value, whatever the
# size of a single entry, and these are three to four times the largest spread between 24 set-ups
# (8 instruction sets with 1, 2 and 4 threads; `python tools/instruction_sets.py spread`, AMD EPYC
# with AVX-512, 2026-11-24). float32's own spacing is 1.2e-7.
FEATURES = 4e-6
"""After 12 layers of a vision encoder; spread 1.2e-6."""
LOGITS = 3e-4
"""After 12 layers of a text encoder on these, where large terms cancel; spread 8.9e-5, mostly far
less (median 3.7e-6)."""
MAPS = 3e-4
"""GradCAM: a gradient back through those layers, times probabilities; spread 8.2e-5, median
1.2e-5."""


def assert_close(actual, expected, within):
    """No entry differs by more than a share of the largest entry.

    Args:
        actual: tensor or array.
        expected: the same shape.
        within: the share: `FEATURES`, `LOGITS` or `MAPS`.
    """
    actual, expected = torch.as_tensor(actual), torch.as_tensor(expected)
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(actual, expected, atol=within * largest, rtol=within)


def margin_of(salience, count):
    """How clear the choice of the `count` most salient patches is: a share of the largest.

    Sets of patches are only compared where it is above `MAPS`: below, rounding chooses.

    Args:
        salience: `(P,)`.
        count: how many are chosen; where fewer are positive, 0.
    """
    ranked = torch.as_tensor(salience).flatten().sort(descending=True).values
    if not ranked[count - 1] > 0:
        return 0.0
    return float((ranked[count - 1] - ranked[count]) / ranked[0])


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


def class_maps(dropout, vlm, pixels, captions, layer, head, rescale=False):
    """For each photo `(K_i, g, g)`: its class maps, summed over the rounds."""
    rounds = dropout.gradcam_rounds(vlm, pixels, captions, layer, head, rescale)
    return [dropout.combine(maps) for maps in rounds.maps]


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
def golden_clip_path():
    """Outputs recorded from the CLIP-based methods' own code on a tiny random CLIP and DINO."""
    return GOLDEN.with_name("golden_clip")


@pytest.fixture(scope="session")
def scenes_root(tmp_path_factory):
    """Eight drawn scenes in the VOC layout."""
    from ovss.datamodules.scene_generator import write_scenes

    root = tmp_path_factory.mktemp("scenes")
    write_scenes(root, dev=2, val=8)
    return root


@pytest.fixture
def runs_in_process(monkeypatch):
    """Runs of `reproduce` and `suite` take place here: a process of its own imports for seconds."""

    def start(arguments):
        from ovss.cli.lightning_cli import EvaluationCLI

        begun.append(arguments)
        try:
            EvaluationCLI(list(arguments))
        except (ValueError, OSError) as error:
            sys.stderr.write(f"error: {error}\n")
            return 1
        return 0

    begun = []
    monkeypatch.setattr("ovss.cli.runner.start", start)
    return begun


@pytest.fixture(scope="module")
def forker():
    """Starts processes that have the packages imported already."""
    from forker import Forker

    forker = Forker()
    yield forker
    forker.close()
