"""Photo file -> pixels, where that is not plain."""

import numpy as np
import pytest
from PIL import Image

from ovss.preprocessing import read_photo
from ovss.segmentation import as_pixels

RAMP = np.arange(0, 65536, 1024, dtype=np.uint16).reshape(8, 8)


@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bits_of_grey_are_scaled(tmp_path, suffix, upright):
    path = tmp_path / f"photo.{suffix}"
    if suffix == "pgm":
        path.write_bytes(b"P5 8 8 65535\n" + RAMP.astype(">u2").tobytes())
    else:
        Image.fromarray(RAMP).save(path)
    expected = np.repeat((RAMP // 256).astype(np.uint8)[..., None], 3, 2)
    np.testing.assert_array_equal(read_photo(path, upright), expected)


def test_sixteen_bits_are_turned_upright(tmp_path):
    path = tmp_path / "photo.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its left side
    Image.fromarray(RAMP[:5]).save(path, exif=exif)
    expected = np.rot90(RAMP[:5] // 256, -1)
    np.testing.assert_array_equal(read_photo(path, upright=True)[..., 0], expected)
    np.testing.assert_array_equal(read_photo(path)[..., 0], RAMP[:5] // 256)


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_thirty_two_bits_of_grey_are_refused(tmp_path, kind):
    path = tmp_path / "photo.tif"
    Image.fromarray(RAMP.astype(kind)).save(path)
    with pytest.raises(ValueError, match=r"photo\.tif to have 8 or 16 bits a channel, .* 32"):
        read_photo(path)


def test_an_image_at_hand_is_scaled_likewise():
    pixels = as_pixels(Image.fromarray(RAMP))
    np.testing.assert_array_equal(pixels[..., 1], RAMP // 256)
