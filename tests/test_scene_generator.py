"""The demo's drawn scenes: what a scene shows, and the files of the data set."""

import hashlib
import logging
from pathlib import Path

import numpy as np
import pytest
from ovss.datamodules.scene_generator import CLASSES, classes_in, dataset, draw_scene, write_scenes
from ovss.datamodules.scene_generator.sprites import draw_sprite
from PIL import Image

# The first colours of PASCAL VOC's palette as its development kit prints them.
VOC_COLOURS = [
    (0, 0, 0),
    (128, 0, 0),
    (0, 128, 0),
    (128, 128, 0),
    (0, 0, 128),
    (128, 0, 128),
    (0, 128, 128),
    (128, 128, 128),
    (64, 0, 0),
    (192, 0, 0),
    (64, 128, 0),
    (192, 128, 0),
    (64, 0, 128),
]


def digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_scene_is_decided_by_its_seed() -> None:
    photo, mask = draw_scene(7)
    again, mask_again = draw_scene(7)
    other, _ = draw_scene(8)
    assert photo.dtype == mask.dtype == np.uint8
    assert photo.shape == (128, 128, 3)
    assert mask.shape == (128, 128)
    np.testing.assert_array_equal(photo, again)
    np.testing.assert_array_equal(mask, mask_again)
    assert (photo != other).mean() > 0.5


def test_scenes_show_every_class_and_up_to_four_at_once() -> None:
    masks = [draw_scene(seed)[1] for seed in range(150)]
    counts = [len(np.unique(mask)) - 1 for mask in masks]
    assert set(counts) == {1, 2, 3, 4}
    assert set(np.unique(masks)) == set(range(13))
    # A class that is named in the caption is large enough to be seen: 8 x 8 pixels at least.
    for mask in masks:
        areas = np.bincount(mask.ravel())[1:]
        assert areas[areas > 0].min() >= 64


def test_classes_in_names_the_values_of_a_mask() -> None:
    mask = np.zeros((4, 4), np.uint8)
    assert classes_in(mask) == ()
    mask[0, 0], mask[3, 3] = 12, 1
    assert classes_in(mask) == ("tree", "butterfly")


@pytest.mark.parametrize("name", CLASSES)
def test_sprite_fills_its_square_and_is_clear_outside(name: str) -> None:
    colour, alpha = draw_sprite(name, 60, np.random.default_rng(3))
    assert colour.shape == (60, 60, 3)
    assert alpha.shape == (60, 60)
    assert alpha.min() == 0
    assert alpha.max() == 1
    assert 0.3 < (alpha > 0.5).mean() < 0.85
    np.testing.assert_array_equal(colour[alpha == 0], 0)


def test_other_sizes() -> None:
    photo, mask = draw_scene(1, size=96)
    assert photo.shape == (96, 96, 3)
    assert mask.max() > 0
    with pytest.raises(ValueError, match="at least 64 pixels, but got 32"):
        draw_scene(1, size=32)


def test_data_set_has_the_layout_of_voc(tmp_path: Path) -> None:
    folder = write_scenes(tmp_path, dev=2, val=3)
    assert folder == tmp_path / "VOCdevkit" / "VOC2012"
    lists = folder / "ImageSets" / "Segmentation"
    assert (lists / "dev.txt").read_text() == "dev_00000\ndev_00001\n"
    names = (lists / "val.txt").read_text().split()
    assert names == ["val_00000", "val_00001", "val_00002"]
    for index, name in enumerate(names):
        photo, mask = draw_scene(dataset.VAL_SEED + index)
        png = Image.open(folder / "SegmentationClass" / f"{name}.png")
        assert png.mode == "P"
        np.testing.assert_array_equal(np.asarray(png), mask)
        palette = png.getpalette()
        assert palette is not None
        assert [tuple(palette[3 * k : 3 * k + 3]) for k in range(13)] == VOC_COLOURS
        jpeg = np.asarray(Image.open(folder / "JPEGImages" / f"{name}.jpg"))
        assert np.abs(jpeg.astype(int) - photo).mean() < 4
    assert len(list(folder.rglob("*.jpg"))) == len(list(folder.rglob("*.png"))) == 5
    assert list(tmp_path.iterdir()) == [tmp_path / "VOCdevkit"]
    assert list((tmp_path / "VOCdevkit").iterdir()) == [folder]


def test_the_same_bytes_each_time(tmp_path: Path) -> None:
    once, again = (write_scenes(tmp_path / name, dev=3, val=5) for name in "ab")
    assert digests(once) == digests(again)


def test_splits_share_no_seed_with_each_other_or_the_training_scenes() -> None:
    starts = [dataset.TRAIN_SEED, dataset.DEV_SEED, dataset.VAL_SEED]
    assert np.diff(starts).min() >= 1_000_000


def test_drawing_says_how_much_and_where(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="ovss.datamodules"):
        write_scenes(tmp_path / "typo", dev=1, val=2)
    assert caplog.messages == [f"drawing 3 scenes into {tmp_path / 'typo'}"]


def test_data_set_is_not_drawn_over_another(tmp_path: Path) -> None:
    folder = write_scenes(tmp_path, dev=1, val=1)
    before = digests(folder)
    with pytest.raises(FileExistsError, match="delete it to draw anew"):
        write_scenes(tmp_path, dev=2, val=2)
    assert digests(folder) == before


def test_interrupted_drawing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(seed: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        if seed == dataset.VAL_SEED:
            raise KeyboardInterrupt
        return draw_scene(seed, size)

    monkeypatch.setattr(dataset, "draw_scene", fail)
    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path, dev=1, val=1)
    assert list(tmp_path.iterdir()) == []


def test_the_number_of_classes_can_be_chosen():
    for seed in range(5):
        assert not draw_scene(seed, sprites=0)[1].any()
        assert len(classes_in(draw_scene(seed, sprites=1)[1])) == 1
    with pytest.raises(ValueError, match="Expected `sprites` to be 0 to 4, but got 5"):
        draw_scene(0, sprites=5)
