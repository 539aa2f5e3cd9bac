"""Overlays and COCO's formats, written while Lightning runs."""

import json

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import Logger
from PIL import Image
from pycocotools import mask as rle

from ovss.callbacks import CocoWriter, OverlayWriter, ReportWriter, ResultsWriter, RunFolder
from ovss.callbacks.overlays import overlay_of
from ovss.datamodules import Scenes
from ovss.labelling import Labeller
from ovss.module import PnPOVSS
from ovss.salience import SalienceDropout

PHOTOS = [f"val_{i:05d}" for i in range(5)]


class PictureLogger(Logger):
    """Keeps what it is given, as W&B's logger takes it."""

    def __init__(self):
        super().__init__()
        self.pictures, self.metrics = {}, {}

    name = version = "pictures"

    def log_image(self, key, images):
        self.pictures[key] = images

    def log_metrics(self, metrics, step=None):
        self.metrics |= metrics

    def log_hyperparams(self, *args, **kwargs):
        pass


@pytest.fixture
def run(tiny_blip, scenes_root, tmp_path):
    def run_with(*callbacks, command="test", logger=False, after=()):
        folder = tmp_path / "run"
        model = PnPOVSS(
            tiny_blip, 1, 0, SalienceDropout(rounds=1), Labeller(refine=None), proposals="oracle"
        )
        trainer = Trainer(
            accelerator="cpu",
            logger=logger,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            callbacks=[*callbacks, RunFolder(folder), ResultsWriter(show=False), *after],
        )
        data = Scenes(scenes_root, limit=5, batch_size=3, num_workers=0)
        if command == "test":
            trainer.test(model, datamodule=data, verbose=False)
        else:
            trainer.predict(model, datamodule=data, return_predictions=False)
        return folder, data

    return run_with


def labels_of(folder, photo):
    with Image.open(folder / "labels" / f"{photo}.png") as image:
        return np.asarray(image)


@pytest.mark.parametrize("command", ["test", "predict"])
def test_overlays_of_the_first_and_of_named_photos(run, command):
    folder, data = run(OverlayWriter(first=2, photos=[PHOTOS[4]]), command=command)
    overlays = sorted(file.stem for file in (folder / "overlays").iterdir())
    assert overlays == [PHOTOS[0], PHOTOS[1], PHOTOS[4]]
    photo = data.dataset[4]["photo"].numpy().transpose(1, 2, 0)
    expected = overlay_of(photo, labels_of(folder, PHOTOS[4]), data.benchmark)
    with Image.open(folder / "overlays" / f"{PHOTOS[4]}.png") as image:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(expected))


def test_random_overlays_are_the_same_for_a_seed_and_drawn_when_resumed(run):
    def names(**kwargs):
        folder, _ = run(OverlayWriter(**kwargs))
        found = {file.stem for file in (folder / "overlays").iterdir()}
        for file in (folder / "overlays").iterdir():
            file.unlink()
        return found

    first = names(random=3)
    assert len(first) == 3
    # The photos are finished now: what follows draws from the label maps on the disk.
    assert names(random=3) == first
    assert names(random=100) == set(PHOTOS)


def test_unknown_photos_are_named(run):
    with pytest.raises(ValueError, match="'val_00009'"):
        run(OverlayWriter(photos=["val_00009"]))


def test_coco_rle(run):
    folder, _ = run(CocoWriter())
    results = json.loads((folder / "coco_rle.json").read_text())
    for photo in PHOTOS:
        labels = labels_of(folder, photo)
        own = [entry for entry in results if entry["image_id"] == photo]
        assert [e["category_id"] for e in own] == [k for k in np.unique(labels) if k > 0]
        for entry in own:
            decoded = rle.decode(entry["segmentation"])
            np.testing.assert_array_equal(decoded, labels == entry["category_id"])


def test_coco_panoptic(run):
    folder, data = run(CocoWriter("panoptic"))
    content = json.loads((folder / "coco_panoptic.json").read_text())
    names = {entry["id"]: entry["name"] for entry in content["categories"]}
    assert names == dict(list(enumerate(data.benchmark.classes))[1:])
    assert [entry["image_id"] for entry in content["annotations"]] == PHOTOS
    for entry in content["annotations"]:
        labels = labels_of(folder, entry["image_id"])
        with Image.open(folder / "coco_panoptic" / entry["file_name"]) as image:
            pixels = np.asarray(image).astype(int)
        ids = pixels[..., 0] + 256 * pixels[..., 1] + 65536 * pixels[..., 2]
        for segment in entry["segments_info"]:
            np.testing.assert_array_equal(ids == segment["id"], labels == segment["category_id"])
            assert segment["area"] == (ids == segment["id"]).sum()
        listed = {0, *(segment["id"] for segment in entry["segments_info"])}
        assert set(np.unique(ids)) <= listed
    with pytest.raises(ValueError, match="'coco'"):
        CocoWriter("coco")


def test_loggers_get_scores_and_a_few_overlays(run, tmp_path):
    logger = PictureLogger()
    folder, data = run(OverlayWriter(logged=2), logger=logger)
    assert sorted(logger.pictures) == [f"overlays/{photo}" for photo in PHOTOS[:2]]
    score = json.loads((folder / "scores.json").read_text())["mIoU"]
    assert logger.metrics["mIoU"] == pytest.approx(score, abs=1e-6)
    assert not (folder / "overlays").exists()
    photo = data.dataset[0]["photo"].numpy().transpose(1, 2, 0)
    expected = overlay_of(photo, labels_of(folder, PHOTOS[0]), data.benchmark)
    (picture,) = logger.pictures[f"overlays/{PHOTOS[0]}"]
    np.testing.assert_array_equal(np.asarray(picture), np.asarray(expected))


def test_tensorboard_gets_pictures(run, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(OverlayWriter(logged=1), logger=TensorBoardLogger(tmp_path / "tb"))
    events = EventAccumulator(next((tmp_path / "tb").rglob("events*")).as_posix())
    events.Reload()
    assert events.Tags()["images"] == [f"overlays/{PHOTOS[0]}"]
    assert "mIoU" in events.Tags()["scalars"]


def test_the_report_comes_with_a_test(run):
    folder, data = run(after=[ReportWriter()])
    html = (folder / "report.html").read_text()
    assert f"on {data.benchmark.title}".replace("'", "&#39;") in html
    assert html.count("<img") == 3 * 3
    assert torch.__version__ in html
