"""Photo -> pixels, where that is not plain: files, addresses, arrays and tensors."""

import http.server
import io
import logging
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from ovss.pixels import as_pixels
from ovss.preprocessing import read_photo
from ovss.utils.fetch import fetch

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


PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (PIXELS, PIXELS),
        (PIXELS / 255, PIXELS),
        (PIXELS.astype(np.float32)[..., 0] / 255, PIXELS[..., :1].repeat(3, 2)),
        (torch.from_numpy(PIXELS.transpose(2, 0, 1).copy()), PIXELS),
        (torch.from_numpy(PIXELS.transpose(2, 0, 1) / 255).float().requires_grad_(), PIXELS),
        (torch.from_numpy(PIXELS[None, ..., 0].copy()), PIXELS[..., :1].repeat(3, 2)),
        (torch.from_numpy(PIXELS[..., 0].copy()), PIXELS[..., :1].repeat(3, 2)),
    ],
)
def test_arrays_and_tensors(image, expected):
    np.testing.assert_array_equal(as_pixels(image), expected)


def test_half_precision_is_no_other_range():
    grey = torch.full((3, 4, 6), 0.5, dtype=torch.bfloat16)
    assert (as_pixels(grey) == 128).all()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (PIXELS.transpose(2, 0, 1), r"shape \(H, W, 3\) .* got shape \(3, 5, 7\) and type uint8"),
        (
            torch.zeros(5, 7, 3),
            r"shape \(3, H, W\) .* got shape \(5, 7, 3\) and type torch.float",
        ),
        (torch.zeros(1, 3, 5, 7), r"got shape \(1, 3, 5, 7\)"),
        (PIXELS.astype(int), "and type int64"),
        (PIXELS[:0], r"got shape \(0, 7, 3\)"),
        (PIXELS.astype(float), "floats in 0..1, but got .* to 2.*divide"),
        (torch.full((3, 2, 2), torch.nan), "floats in 0..1, but got nan"),
    ],
)
def test_arrays_that_cannot_be_a_photo(image, message):
    with pytest.raises(ValueError, match=message):
        as_pixels(image)


def test_an_image_at_hand_is_turned_upright():
    image = Image.fromarray(PIXELS)
    image.getexif()[0x0112] = 6
    np.testing.assert_array_equal(as_pixels(image), np.rot90(PIXELS, -1))


def test_of_several_frames_the_first_is_taken_and_said_so(tmp_path, caplog):
    frames = [Image.new("L", (4, 3), grey) for grey in (10, 200)]
    for name, more in (("one.gif", []), ("two.gif", frames[1:])):
        frames[0].save(tmp_path / name, save_all=True, append_images=more)
        with caplog.at_level(logging.INFO):
            assert (as_pixels(tmp_path / name) == 10).all()
    assert caplog.messages == [
        f"{tmp_path / 'two.gif'} has several frames; the first one is taken."
    ]


# ---- addresses ---------------------------------------------------------------------------------


@pytest.fixture
def server():
    """A web server: its address, and what it answers with by path."""
    data = io.BytesIO()
    Image.fromarray(PIXELS).save(data, "png")
    content = {"/photo": data.getvalue(), "/page": b"<html>no photo</html>"}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path.startswith("/to/"):
                self.send_response(302)
                self.send_header("Location", self.path.removeprefix("/to/"))
                self.end_headers()
            elif self.path == "/slow":
                self.send_response(200)
                self.end_headers()
                for _ in range(40):
                    self.wfile.write(b"x")
                    time.sleep(0.05)
            elif self.path in content:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(content[self.path])
            else:
                self.send_error(404)

        def log_message(self, *args):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()


def test_a_photo_from_the_web(server):
    np.testing.assert_array_equal(as_pixels(f"{server}/photo"), PIXELS)
    np.testing.assert_array_equal(as_pixels(f"{server}/to//photo"), PIXELS)
    with pytest.raises(ValueError, match=r"/page to be a readable photo.*none of JPEG"):
        as_pixels(f"{server}/page")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/nothing", "404 Not Found.*give the file"),
        ("/to/file:///etc/hostname", "not allowed"),
        ("/to/ftp://127.0.0.1/photo", "unknown url type: ftp"),
        ("/to//to//to//to//to//to//to//to//to//to//to//to//photo", "30[0-9] "),
    ],
)
def test_addresses_that_give_no_photo(server, path, message):
    with pytest.raises(OSError, match=message):
        as_pixels(f"{server}{path}")


def test_what_is_fetched_is_bounded(server):
    with pytest.raises(OSError, match="larger than 0 MB"):
        fetch(f"{server}/photo", limit=20)
    with pytest.raises(OSError, match="more than 0 s"):
        fetch(f"{server}/slow", timeout=0.2)
    with pytest.raises(ValueError, match="http or https"):
        fetch("file:///etc/hostname")
