"""The VOC reader on what users have: broken files and odd photos."""

import shutil

import numpy as np
import pytest
from PIL import Image

from ovss.datamodules import VOC, DatasetNotFoundError
from ovss.preprocessing import InputSpec

SPEC = InputSpec(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture
def devkit(tmp_path):
    """Three photos of different sizes with all of VOC's labels."""
    folder = tmp_path / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, (height, width) in {"a": (12, 20), "b": (7, 3), "c": (1, 9)}.items():
        photo = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(photo).save(folder / "JPEGImages" / f"{name}.jpg")
        mask = rng.choice([*range(21), 255], (height, width)).astype(np.uint8)
        save_mask(folder, name, mask)
    (folder / "ImageSets" / "Segmentation" / "val.txt").write_text("c\na\nb\n")
    return folder


def save_mask(folder, name, values):
    image = Image.fromarray(values, mode="P")
    image.putpalette([c for i in range(256) for c in (i, i, 255 - i)])
    image.save(folder / "SegmentationClass" / f"{name}.png")


def items(root, **kwargs):
    data = VOC(root, limit=3, num_workers=0, spec=SPEC, **kwargs)
    data.setup()
    return data.dataset


@pytest.mark.parametrize("name", ["..", "../a", "/etc/a", "x/../a", "..\\a", "."])
def test_a_list_that_leads_out_of_the_folder_is_refused(devkit, name):
    listing = devkit / "ImageSets" / "Segmentation" / "val.txt"
    listing.write_text(f"c\n\n{name}\nb\n")
    with pytest.raises(ValueError, match=r"val\.txt, but got .* in line 3; take it out"):
        items(devkit)


@pytest.mark.parametrize("up", [0, 1, 2])
def test_any_of_the_three_roots(devkit, up):
    root = [devkit, devkit.parent, devkit.parent.parent][up]
    assert [items(root)[i]["id"] for i in range(3)] == ["c", "a", "b"]


@pytest.mark.parametrize(
    ("classes", "protocol", "table"),
    [
        ("voc21", "standard", {**{i: i for i in range(21)}, 255: 255}),
        ("voc21", "released", {**{i: i for i in range(21)}, 255: 0}),
        ("voc20", "standard", {0: 255, **{i: i - 1 for i in range(1, 21)}, 255: 255}),
    ],
)
def test_mask_values(devkit, classes, protocol, table):
    for item in items(devkit, classes=classes, protocol=protocol):
        raw = np.asarray(Image.open(devkit / "SegmentationClass" / f"{item['id']}.png"))
        expected = np.vectorize(table.get)(raw)
        assert np.array_equal(item["mask"].numpy(), expected)
        first = 0 if classes == "voc20" else 1
        assert item["present"] == tuple(
            sorted(v for v in set(expected.ravel().tolist()) if first <= v < 21)
        )
        if item["id"] == "a":
            break


def test_released_has_no_voc20(devkit):
    with pytest.raises(ValueError, match="use voc21"):
        VOC(devkit, classes="voc20", protocol="released")


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_photos_of_other_kinds_become_rgb(devkit, mode):
    photo = devkit / "JPEGImages" / "a.jpg"
    image = Image.open(photo).convert(mode)
    photo.unlink()
    image.save(photo, format="TIFF")
    item = items(devkit)[1]
    assert tuple(item["photo"].shape) == (3, 12, 20)
    assert np.array_equal(item["photo"].permute(1, 2, 0).numpy(), np.asarray(image.convert("RGB")))


def test_a_truncated_photo_is_named(devkit):
    photo = devkit / "JPEGImages" / "a.jpg"
    photo.write_bytes(photo.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"a\.jpg to be a readable photo"):
        items(devkit)[1]


def test_a_missing_mask_is_listed(devkit):
    (devkit / "SegmentationClass" / "b.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 files are missing[\s\S]*b\.png"):
        items(devkit)


def test_a_mask_of_another_size(devkit):
    save_mask(devkit, "a", np.zeros((20, 12), np.uint8))
    with pytest.raises(ValueError, match=r"a\.png.*12 x 20.*but got 20 x 12"):
        items(devkit)[1]


def test_an_unknown_label(devkit):
    save_mask(devkit, "a", np.full((12, 20), 21, np.uint8))
    with pytest.raises(ValueError, match=r"a\.png, but got \[21\]"):
        items(devkit)[1]


def test_a_mask_in_colours(devkit):
    Image.new("RGB", (20, 12)).save(devkit / "SegmentationClass" / "a.png")
    with pytest.raises(ValueError, match="mode RGB"):
        items(devkit)[1]


def test_a_wrong_root_shows_the_layout(tmp_path):
    expected = r"SegmentationClass/<id>\.png[\s\S]*prepare --config voc21 "
    with pytest.raises(DatasetNotFoundError, match=expected):
        items(tmp_path)


def test_a_part_must_be_asked_for(devkit):
    data = VOC(devkit, num_workers=0, spec=SPEC)
    with pytest.raises(ValueError, match=r"Expected 1449 photos.*found 3.*`limit`"):
        data.setup()


def test_non_ascii_paths(devkit, tmp_path):
    moved = tmp_path / "Bücher 图"
    shutil.move(devkit, moved)
    assert len(items(moved)) == 3
