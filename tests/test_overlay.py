"""Overlays, pixel by pixel, on label maps that can be drawn by hand."""

import json
from importlib.resources import files

import numpy as np
import pytest
from PIL import Image

from ovss.visualization.name_placement import Box
from ovss.visualization.overlay import (
    VOID,
    blend,
    contours,
    contrast,
    display_size,
    distinct_palette,
    draw_heatmap,
    draw_legend,
    draw_overlay,
    palette_png,
    readable_on,
    resize_labels,
    write_names,
)

CLASSES = ("background", "cat", "dog")
PALETTE = ((0, 0, 0), (200, 0, 0), (0, 0, 100))


def halves(height=8, width=10):
    labels = np.full((height, width), 1, np.uint8)
    labels[:, width // 2 :] = 2
    return labels


def test_blend_by_hand():
    photo = np.full((2, 2, 3), 100, np.uint8)
    labels = np.array([[0, 1], [2, 255]], np.uint8)
    mixed = blend(photo, labels, PALETTE, background=0, opacity=0.5)
    expected = [[(100, 100, 100), (150, 50, 50)], [(50, 50, 100), (162, 162, 146)]]
    np.testing.assert_array_equal(mixed, expected)
    assert tuple(blend(photo, labels, PALETTE, None, 1.0)[0, 0]) == PALETTE[0]
    assert tuple(blend(photo, labels, PALETTE, None, 1.0)[1, 1]) == VOID


def test_contours_by_hand():
    labels = halves(3, 6)
    labels[2, 5] = 255  # no contour against pixels without a label
    expected = np.zeros((3, 6), bool)
    expected[:, 2] = True
    np.testing.assert_array_equal(contours(labels, 3), expected)
    expected[:, 1:4] = True
    np.testing.assert_array_equal(contours(labels, 3, width=3), expected)
    assert not contours(np.ones((4, 4), np.uint8)).any()


def test_overlay_is_blend_contour_and_legend():
    photo = np.random.default_rng(0).integers(0, 256, (40, 120, 3), np.uint8)
    labels = halves(40, 120)
    plain = draw_overlay(
        photo, labels, CLASSES, PALETTE, 0, names=False, legend=False, enlarge=False
    )
    expected = blend(photo, labels, PALETTE, 0)
    expected[:, 59] = 255
    np.testing.assert_array_equal(plain, expected)
    whole = np.asarray(draw_overlay(photo, labels, CLASSES, PALETTE, 0, names=False, enlarge=False))
    np.testing.assert_array_equal(whole[:40], expected)
    legend = draw_legend([("cat 50 %", PALETTE[1]), ("dog 50 %", PALETTE[2])], 120, 11)
    np.testing.assert_array_equal(whole[40:], legend)


def test_names_lie_on_their_regions_and_on_no_other():
    labels = halves(200, 400)
    image = Image.new("RGB", (400, 200))
    placed = write_names(image, labels, CLASSES, PALETTE, 0, 16)
    assert [label for label, _ in placed] == [1, 2]
    for label, box in placed:
        assert (labels[box.top : box.bottom, box.left : box.right] == label).all()
        inside = np.asarray(image)[box.top + 4 : box.bottom - 4, box.left : box.right]
        ink = readable_on(PALETTE[label])
        assert (inside == PALETTE[label]).all(-1).sum() > (inside == ink).all(-1).sum() > 10
    outside = np.asarray(image).copy()
    for _, box in placed:
        outside[box.top : box.bottom, box.left : box.right] = 0
    assert not outside.any()


def test_names_never_overlap_and_stay_inside():
    generator = np.random.default_rng(0)
    labels = np.kron(generator.integers(0, 30, (12, 16)), np.ones((20, 20))).astype(np.uint8)
    classes = [f"class number {i}" for i in range(30)]
    placed = write_names(
        Image.new("RGB", (320, 240)), labels, classes, distinct_palette(30), None, 11
    )
    boxes = [box for _, box in placed]
    assert len(boxes) >= 15
    assert all(0 <= b.left < b.right <= 320 and 0 <= b.top < b.bottom <= 240 for b in boxes)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_a_name_does_not_hide_a_small_region():
    labels = np.zeros((100, 200), np.uint8)
    labels[60:66, 90:96] = 1
    ((label, box),) = write_names(Image.new("RGB", (200, 100)), labels, CLASSES, PALETTE, 0, 14)
    assert label == 1
    assert not box.overlaps(Box(90, 60, 96, 66))
    assert 58 <= box.bottom <= 60  # right above it
    assert box.left <= 93 < box.right


def test_a_name_wider_than_the_picture_is_left_to_the_legend():
    labels = np.ones((30, 20), np.uint8)
    image = Image.new("RGB", (20, 30))
    assert write_names(image, labels, CLASSES, PALETTE, 0, 16) == []


@pytest.mark.parametrize("key", ["voc21"])
def test_ink_is_readable_on_every_colour(key):
    palette = json.loads(files("datamodules").joinpath(f"data/palettes/{key}.json").read_text())
    for colour in [*palette, *distinct_palette(60)]:
        assert contrast(readable_on(tuple(colour)), tuple(colour)) >= 4.5
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((119, 119, 119), (255, 255, 255)) == pytest.approx(4.48, abs=0.005)


def test_legend_wraps_and_marks_what_was_not_found():
    wide = draw_legend([("cat", (200, 0, 0)), ("dog", None)], 400, 12)
    narrow = draw_legend([("cat", (200, 0, 0)), ("dog", None)], 60, 12)
    assert wide.width == 400
    assert narrow.height > wide.height
    colours = {colour for _, colour in wide.getcolors(100_000)}
    assert (200, 0, 0) in colours
    one = draw_legend([("dog", None)], 400, 12)
    assert (200, 0, 0) not in {colour for _, colour in one.getcolors(100_000)}


def test_palette_png_keeps_labels_and_colours(tmp_path):
    labels = np.array([[0, 1], [2, 255]], np.uint8)
    palette_png(labels, PALETTE).save(tmp_path / "labels.png")
    with Image.open(tmp_path / "labels.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(image, labels)
        np.testing.assert_array_equal(
            image.convert("RGB"), [[PALETTE[0], PALETTE[1]], [PALETTE[2], VOID]]
        )


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((128, 128), (480, 480)),
        ((375, 500), (480, 640)),
        ((600, 900), (600, 900)),
        ((3000, 4000), (1200, 1600)),
        ((2, 4000), (1, 1600)),
    ],
)
def test_display_size(size, shown):
    assert display_size(*size) == shown


def test_resized_labels():
    labels = halves(4, 8)
    np.testing.assert_array_equal(resize_labels(labels, (12, 24)), halves(12, 24))
    np.testing.assert_array_equal(resize_labels(labels, (2, 4)), halves(2, 4))
    labels[0, 0] = 255
    assert set(np.unique(resize_labels(labels, (40, 80)))) == {1, 2, 255}


def test_heatmap_is_dark_where_cold_and_bright_where_hot():
    photo = np.full((1, 2, 3), 100, np.uint8)
    cold, hot = np.asarray(draw_heatmap(photo, np.array([[0.0, 1.0]], np.float32)))[0]
    assert tuple(cold) == (80, 80, 80)
    assert contrast(tuple(map(int, hot)), tuple(map(int, cold))) > 5


def test_refusals():
    photo = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match=r"photo's size \(4, 4\), but got \(4, 5\)"):
        draw_overlay(photo, np.zeros((4, 5), np.uint8), CLASSES, PALETTE)
    with pytest.raises(ValueError, match="`opacity`"):
        draw_overlay(photo, np.zeros((4, 4), np.uint8), CLASSES, PALETTE, opacity=1.5)
