"""Waits for a GPU, counted on the CPU: their number must not grow with the photos."""

import importlib.util
from pathlib import Path

import pytest
import torch

from ovss.benchmark import PhotoBatch, of_classes
from ovss.crf import DenseCRF
from ovss.dense_clip import DenseCLIP
from ovss.labelling import Labeller
from ovss.pnp import PnP
from ovss.proposals import Proposal
from ovss.salience import SalienceDropout

FILE = Path(__file__).parents[1] / "benchmarks" / "launches.py"


@pytest.fixture(scope="module")
def launches():
    spec = importlib.util.spec_from_file_location("launches", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def batch_of(count, side):
    return PhotoBatch(
        ids=[str(number) for number in range(count)],
        photos=[torch.full((3, 20, 30), 9 * number, dtype=torch.uint8) for number in range(count)],
        pixel_values=torch.randn(count, 3, side, side, generator=torch.manual_seed(0)),
    )


def test_what_is_counted(launches):
    mask = torch.tensor([True, False])

    def waiting():
        values = torch.arange(2.0)
        values[mask], values[0].item(), values.to("cpu"), values.nonzero(), bool(values[0])

    operations, waits, copies = launches.count(waiting)
    assert operations > 0
    assert waits == {
        "a mask as an index": 1,
        "item": 1,
        "to('cpu')": 1,
        "nonzero": 1,
        "__bool__": 1,
    }
    assert not copies


@pytest.mark.parametrize("kind", ["pnp", "maskclip"])
def test_waits_do_not_grow_with_the_photos(kind, launches, tiny_blip, golden_clip_path):
    benchmark = of_classes(["cat", "dog"])
    if kind == "pnp":
        method = PnP(tiny_blip, 4, 2, SalienceDropout(2, 4), Labeller(refine=None))
        side = tiny_blip.image_size
    else:
        method = DenseCLIP.from_pretrained(
            golden_clip_path / "clip_tiny_hf", "maskclip", vocabulary="natural", crop=0
        )
        side = 112
    seen = []
    for photos in (2, 2, 5):  # the first makes what is made once
        batch = batch_of(photos, side)
        proposals = [Proposal((1, 2), (1.0, 1.0))] * photos
        seen.append(launches.count(lambda b=batch, p=proposals: method(b, benchmark, p)))
    assert seen[1][1] == seen[2][1]
    assert sum(seen[1][1].values()) <= 2
    assert seen[1][2]["tensor"] == seen[2][2]["tensor"]


def test_the_crfs_waits_do_not_grow_with_the_photos(launches, monkeypatch):
    monkeypatch.setattr("ovss.crf.lattice._search_sorted", torch.searchsorted)  # as on a GPU
    seen = []
    for photos in (2, 5):
        batch = batch_of(photos, 8)
        shares = [torch.full((2, 20, 30), 0.5) for _ in range(photos)]
        seen.append(launches.count(lambda s=shares, b=batch: DenseCRF()._refine(s, b.photos)))
    assert seen[0][1] == seen[1][1]
