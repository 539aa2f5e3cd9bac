"""One photo must not take a run down: large photos, and photos that the method fails on."""

import json

import pytest
import torch
from lightning.pytorch import Trainer
from torch.nn.functional import interpolate

from ovss.benchmark import of_classes
from ovss.callbacks import OverlayWriter, ResultsWriter, RunFolder
from ovss.datamodules import Scenes
from ovss.labelling import Labeller
from ovss.module import SegmentationModule
from ovss.pnp import LONGEST_SIDE, LabelMaps
from ovss.preprocessing import InputSpec
from ovss.segmenter import Segmenter

BENCHMARK = of_classes(["cat", "dog"])


def label(size, labeller):
    """Labels of noise, by a class map that is hot on the left and one that is on the right."""
    maps = torch.tensor([[[4.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 4.0]]])
    generator = torch.Generator().manual_seed(0)
    photo = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
    return LabelMaps(labeller, "paper")([photo], [maps], [(1, 2)], BENCHMARK, 1)[0], photo, maps


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1), (40, 4096), (3000, 20)])
def test_no_matrix_grows_with_a_large_photo(size, monkeypatch):
    asked = []
    for name in ("upsampling", "blurring"):
        make = getattr(__import__("ovss.labelling").labelling, name)

        def spy(*arguments, make=make):
            asked.append(max(arguments[:2]))
            return make(*arguments)

        monkeypatch.setattr(f"ovss.labelling.{name}", spy)
    labels, *_ = label(size, Labeller())
    assert labels.shape == size
    assert max(asked) <= LONGEST_SIDE
    assert set(labels.unique().tolist()) <= {0, 1, 2}


def test_labels_of_a_large_photo_are_those_of_the_small_one_enlarged():
    labels, photo, maps = label((30, 2 * LONGEST_SIDE), Labeller(refine=None))
    small = interpolate(photo[None], (15, LONGEST_SIDE), mode="bilinear", antialias=True)[0]
    expected = Labeller(refine=None)(maps, small).repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(labels.long(), expected)
    assert len(labels.unique()) > 1


def test_a_photo_at_the_limit_is_labelled_as_it_is():
    labels, photo, maps = label((20, LONGEST_SIDE), Labeller(refine=None))
    assert torch.equal(labels, Labeller(refine=None)(maps, photo))


class Fragile(Segmenter):
    """All background; fails on some photos, and on any batch with one of them."""

    method, model = "fragile", "none"

    def __init__(self, bad):
        super().__init__("oracle")
        self.bad = set(bad)

    def input_spec(self, benchmark):
        return InputSpec(16, (0.0,) * 3, (1.0,) * 3)

    def forward(self, batch, benchmark, proposals):
        if self.bad & set(batch.ids):
            raise RuntimeError("no memory left")
        return [torch.zeros(photo.shape[-2:], dtype=torch.uint8) for photo in batch.photos]


@pytest.fixture
def go(tmp_path, scenes_root):
    def go(bad, on_error, batch_size=3):
        module = SegmentationModule(Fragile(bad), on_error=on_error)
        writers = [RunFolder(), ResultsWriter(show=False), OverlayWriter(first=8)]
        trainer = Trainer(
            logger=False,
            accelerator="cpu",
            callbacks=writers,
            default_root_dir=tmp_path,
            enable_progress_bar=False,
        )
        data = Scenes(scenes_root, num_workers=0, batch_size=batch_size)
        trainer.test(module, datamodule=data, verbose=False)
        return json.loads((tmp_path / "scores.json").read_text())

    return go


BAD = ["val_00001", "val_00006"]


def test_a_photo_that_the_method_fails_on_is_named_when_the_others_are_done(go, tmp_path):
    said = r"2 could not be read:\s+val_00001: segmenting it failed: no memory left"
    with pytest.raises(ValueError, match=said):
        go(BAD, "stop")
    assert len(list((tmp_path / "labels").glob("*.png"))) == 6
    assert go([], "stop")["photos"] == 8  # mended: the other two


def test_or_left_out(go, tmp_path):
    scores = go(BAD, "skip")
    assert (scores["photos"], scores["skipped"]) == (6, {"count": 2, "ids": BAD})
    assert len(list((tmp_path / "overlays").glob("*.png"))) == 6


def test_where_the_first_photo_fails_the_settings_are_at_fault(go, tmp_path):
    with pytest.raises(ValueError, match="val_00000: no memory left"):
        go([f"val_{number:05d}" for number in range(8)], "stop")
    assert not (tmp_path / "labels").exists()
