"""Data sets as other libraries and people have them: `datamodules.from_dataset`."""

import json
import re

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from ovss.datamodules.items import labels_of, photo_of, take, values_of
from ovss.datamodules.scene_generator import CLASSES
from PIL import Image

from ovss.benchmark import of_classes
from ovss.callbacks import ReportWriter, ResultsWriter, RunFolder
from ovss.datamodules import Scenes, from_dataset
from ovss.labelling import Labeller
from ovss.module import PnPOVSS
from ovss.runs.layout import RunLayout
from ovss.runs.photos import read_photos
from ovss.salience import SalienceDropout

NAMES = ["background", *CLASSES]
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
GREY = PIXELS[..., 0]
MASK = np.random.default_rng(1).integers(0, 3, (5, 7), np.uint8)


# ---- items ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "image",
    [
        PIXELS,
        PIXELS.transpose(2, 0, 1),
        torch.tensor(PIXELS),
        torch.tensor(PIXELS).permute(2, 0, 1),
        torch.tensor(PIXELS).permute(2, 0, 1) / 255,
        torch.tensor(PIXELS).permute(2, 0, 1).double() / 255,
        PIXELS.astype(np.float32) / 255,
        Image.fromarray(PIXELS),
    ],
)
def test_images_of_any_form(image):
    photo = photo_of(image)
    np.testing.assert_array_equal(photo, PIXELS)
    assert photo.dtype == np.uint8
    assert photo.flags.c_contiguous


@pytest.mark.parametrize(
    "image",
    [GREY, GREY[None], GREY[..., None], torch.tensor(GREY)[None] / 255, Image.fromarray(GREY)],
)
def test_grey_images(image):
    np.testing.assert_array_equal(photo_of(image), np.repeat(GREY[..., None], 3, 2))


def test_a_side_of_three_pixels():
    narrow = PIXELS[:3, :3]
    np.testing.assert_array_equal(photo_of(narrow), narrow)
    np.testing.assert_array_equal(photo_of(torch.tensor(narrow).permute(2, 0, 1)), narrow)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(4, 5, 7), r"1 or 3 channels, but got shape (4, 5, 7)"),
        (np.zeros(5, np.uint8), "1 or 3 channels, but got shape (5,)"),
        (torch.full((3, 5, 7), 200.0), "floats in 0..1, but got float32 in 0..200"),
        (torch.full((3, 5, 7), -0.5), "floats in 0..1, but got float32 in -0.5..0"),
        (torch.full((3, 5, 7), float("nan")), "floats in 0..1, but got float32 in nan..nan"),
        (torch.zeros(3, 5, 7, dtype=torch.int64), "but got int64 in 0..0"),
        ({"bytes": b""}, "but got a dict of 'bytes'"),
        (3, "but got int"),
    ],
)
def test_images_that_cannot_be_read(image, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        photo_of(image)


def palette_png(values):
    image = Image.fromarray(values)
    image.putpalette(list(range(256)) * 3)
    return image


@pytest.mark.parametrize(
    "mask",
    [
        MASK,
        MASK[None],
        MASK[..., None],
        torch.tensor(MASK, dtype=torch.int64),
        torch.tensor(MASK, dtype=torch.int32)[None],
        torch.tensor(MASK).float(),
        Image.fromarray(MASK),
        Image.fromarray(MASK.astype(np.int32)),
        palette_png(MASK),
    ],
)
def test_masks_of_any_form(mask):
    labels = labels_of(values_of(mask), {0: 255, 1: 0, 2: 1}, "a")
    np.testing.assert_array_equal(labels.mask, np.array([255, 0, 1], np.uint8)[MASK])
    assert labels.mask.dtype == np.uint8
    assert labels.present == (0, 1, 255)


def test_masks_on_the_disk(tmp_path):
    palette_png(MASK).save(tmp_path / "mask.png")
    Image.fromarray(PIXELS).save(tmp_path / "photo.png")
    np.testing.assert_array_equal(values_of(tmp_path / "mask.png"), MASK)
    np.testing.assert_array_equal(photo_of(str(tmp_path / "photo.png")), PIXELS)


def test_values_below_and_above_a_byte():
    values = np.array([[-1, 0], [65535, 7]])
    labels = labels_of(values, {-1: 255, 0: 2, 65535: 255, 7: 0}, "a")
    assert labels.mask.tolist() == [[255, 2], [255, 0]]
    with pytest.raises(ValueError, match=r"the values 0, 1, 255, but got -1, 7, 65535; say what"):
        labels_of(values, {0: 0, 1: 1, 255: 255}, "a")


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (Image.fromarray(PIXELS), "an image of mode RGB"),
        (torch.tensor(MASK) / 255, "whole numbers, but got shape (5, 7) of float32"),
        (torch.full((2, 2), float("nan")), "whole numbers"),
        (PIXELS, "shape (H, W) with labels as whole numbers, but got shape (5, 7, 3)"),
        (3, "but got int; name the field with `mask`"),
    ],
)
def test_masks_that_cannot_be_read(mask, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        values_of(mask)


def test_parts_of_an_item():
    assert take({"a": 1}, "a", "image", 0) == 1
    assert take((1, 2), 1, "image", 0) == 2
    assert take({"a": 1}, lambda item: item["a"] + 1, "image", 0) == 2
    assert take({"image": 1}, None, "mask", 1) is None
    assert take((1,), None, "mask", 1) is None
    assert [take(5, None, "image", 0), take(5, None, "mask", 1)] == [5, None]
    for item, field in (({"a": 1, "b": 2}, "c"), ((1, 2), 2), (5, "a")):
        with pytest.raises(ValueError, match=f"Expected {field!r} in "):
            take(item, field, "image", 0)


# ---- data sets -----------------------------------------------------------------------------------


class Items:
    """A map-style data set."""

    def __init__(self, make, count=8):
        self.make, self.count = make, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return self.make(index)


@pytest.fixture(scope="module")
def files(scenes_root):
    """The scenes' photos and masks as PIL images."""
    base = scenes_root / "VOCdevkit" / "VOC2012"

    def open_files(index):
        name = f"val_{index:05d}"
        photo = Image.open(base / "JPEGImages" / f"{name}.jpg")
        return photo, Image.open(base / "SegmentationClass" / f"{name}.png")

    return open_files


@pytest.fixture
def go(tiny_blip, tmp_path):
    """Test with a run folder; gives the module and the trainer's callbacks."""

    def run(data, name="run", command="test", proposals="oracle"):
        module = PnPOVSS(
            tiny_blip, 4, 2, SalienceDropout(rounds=1), Labeller(refine=None), proposals
        )
        folder = RunFolder()
        trainer = Trainer(
            logger=False,
            accelerator="cpu",
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path / name,
            callbacks=[folder, ResultsWriter(show=False), ReportWriter()],
        )
        quiet = {"verbose": False} if command == "test" else {"return_predictions": False}
        getattr(trainer, command)(module, datamodule=data, **quiet)
        return module, folder

    return run


def tensors(photo, mask):
    return torch.tensor(np.asarray(photo)).permute(2, 0, 1), torch.tensor(np.asarray(mask))


@pytest.mark.parametrize("form", ["torchgeo", "torchvision", "arrays"])
def test_scores_are_those_of_our_own_data_module(form, files, go, scenes_root, tmp_path):
    """Dicts of float tensors, tuples of PIL images, dicts of other names and label values."""
    ours, _ = go(Scenes(scenes_root, batch_size=3, num_workers=0), "ours")

    def make(index):
        photo, mask = files(index)
        if form == "torchvision":
            return photo, mask
        pixels, values = tensors(photo, mask)
        if form == "torchgeo":
            return {"image": pixels / 255, "mask": values.long()[None], "crs": "EPSG:4326"}
        return {
            "pixels": np.asarray(photo),
            "annotation": np.asarray(mask) + 100,
            "file": f"p{index}",
        }

    options = {}
    if form == "arrays":
        values = {100 + label: label for label in range(13)}
        options = {"image": "pixels", "mask": "annotation", "ids": "file", "labels": values}
    data = from_dataset(Items(make), NAMES, batch_size=3, num_workers=0, **options)
    theirs, _ = go(data, "theirs")
    for name, value in ours.results.items():
        torch.testing.assert_close(theirs.results[name], value, rtol=0, atol=0, equal_nan=True)
    ids = [photo.id for photo in read_photos(RunLayout(tmp_path / "theirs"))]
    assert ids == [f"p{i}" if form == "arrays" else f"{i:06d}" for i in range(8)]
    for index, name in enumerate(ids):
        np.testing.assert_array_equal(
            np.asarray(Image.open(tmp_path / "ours" / "labels" / f"val_{index:05d}.png")),
            np.asarray(Image.open(tmp_path / "theirs" / "labels" / f"{name}.png")),
        )
    assert (tmp_path / "theirs" / "report.html").read_text().count("<img") > 0


def test_a_run_is_taken_up(files, go, tmp_path):
    items = Items(files)
    first, _ = go(from_dataset(items, NAMES, batch_size=2, num_workers=0, limit=4))
    second, folder = go(from_dataset(items, NAMES, batch_size=2, num_workers=0))
    assert folder.done_before == 4
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert (scores["photos"], scores["expected_photos"]) == (8, 8)
    whole, _ = go(from_dataset(items, NAMES, batch_size=2, num_workers=0), "whole")
    assert float(second.results["mIoU"]) == float(whole.results["mIoU"])
    assert int(first.results["photos"]) == 4


def test_a_list_of_images_is_predicted_and_not_tested(files, go, tmp_path):
    images = [files(index)[0].copy() for index in range(3)]
    data = from_dataset(images, ["background", "sun", "tree; shrub"], num_workers=0)
    assert data.benchmark.prompts == ((), ("sun",), ("tree", "shrub"))
    module, _ = go(data, command="predict", proposals="all")
    assert module.results is None
    assert len(list((tmp_path / "run" / "labels").glob("*.png"))) == 3
    with pytest.raises(ValueError, match=r"have none; name it \(the `mask` of `ovss.datamodules"):
        go(data, "other", proposals="all")


def test_a_benchmark_of_ones_own_and_its_scoring(files, go):
    benchmark = of_classes(["cat", "dog"])
    data = from_dataset(
        Items(files), benchmark, num_workers=0, labels={**dict.fromkeys(range(13), 0)}
    )
    assert data.benchmark is benchmark
    module, _ = go(data)
    assert int(module.results["photos"]) == 8


def test_a_bad_item_is_named_and_does_not_stop_the_others(files, go, tmp_path):
    def make(index):
        photo, mask = files(index)
        return (photo, mask.crop((0, 0, 5, 6))) if index == 3 else (photo, mask)

    with pytest.raises(ValueError, match=r"000003: Expected the mask of 000003 .* but got 6 x 5"):
        go(from_dataset(Items(make), NAMES, batch_size=2, num_workers=0))
    assert len(list((tmp_path / "run" / "labels").glob("*.png"))) == 7


PAIR = (PIXELS, MASK)


@pytest.mark.parametrize(
    ("dataset", "classes", "options", "message"),
    [
        (iter([PAIR]), NAMES, {}, "a length and items by number, but got list_iterator"),
        ({"train": [PAIR]}, NAMES, {}, "but got dict; .* of several splits give one"),
        ([], NAMES, {}, "list is empty"),
        ([PAIR], "cat", {}, "1 to 255 names, but got 'cat'"),
        ([PAIR], [], {}, "1 to 255 names"),
        ([PAIR], ["cat", "cat"], {}, "'cat' occurs twice"),
        ([PAIR], ["cat", "dog"], {"labels": {0: 2}}, r"labels in 0\.\.1 or 255, but got \[2\]"),
        ([PAIR], ["cat", "dog"], {}, "values 0, 1, 255, but got 2"),
        ([PAIR, PAIR], NAMES, {"ids": ["a", "a"]}, "2 names, 1 of them different"),
        ([PAIR], NAMES, {"ids": ["a", "b"]}, "each of the 1 photos apart, but got 2"),
        ([{"pixels": PIXELS}], NAMES, {}, "an image in a dict of 'pixels', but found none"),
        ([{"image": PIXELS}], NAMES, {"mask": "label"}, "Expected 'label' in a dict of 'image'"),
    ],
)
def test_what_is_refused_before_a_photo_is_read(dataset, classes, options, message):
    with pytest.raises(ValueError, match=message):
        from_dataset(dataset, classes, **options).check()
