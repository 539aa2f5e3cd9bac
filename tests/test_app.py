"""The command `app`: what its page shows, and the page in a browser."""

import importlib.util
import os
import re
import shutil
import socket
import sys

import numpy as np
import pytest
from PIL import Image

from ovss.cli.app import draw_examples, sweep
from ovss.cli.app_page import MAX_UPLOAD, build_page, serve
from ovss.cli.app_segment import PhotoSegmenter
from ovss.cli.main import main
from ovss.segmentation import segment


@pytest.fixture(scope="module")
def segmenter():
    return PhotoSegmenter()


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    return draw_examples(tmp_path_factory.mktemp("examples"))


def test_the_page_shows_what_segment_finds(segmenter, examples, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train_free_eval.py"])
    for file, names in examples[:2]:
        own = tmp_path / names
        own.mkdir()
        shown = segmenter.segment(file, names, "demo", True, own)
        expected = segment(file, names.split(", "))
        with Image.open(shown.labels) as image:
            np.testing.assert_array_equal(np.asarray(image), expected.labels)
        with Image.open(shown.overlay) as image:
            np.testing.assert_array_equal(np.asarray(image), np.asarray(expected.overlay()))
        assert shown.note == expected.note
        captions = [caption for _, caption in shown.heatmaps]
        assert captions == [
            f"{name}, {which}"
            for name in names.split(", ")
            for which in ("round 0", "round 1", "round 2", "round 3", "sum")
        ]
        with Image.open(shown.heatmaps[6][0]) as image:
            heat = expected.heatmap_overlay(names.split(", ")[1], 1)
            np.testing.assert_array_equal(np.asarray(image), np.asarray(heat))


@pytest.mark.parametrize(
    ("names", "model", "message"),
    [
        (" , ", "demo", "Expected class names, but got none"),
        ("/etc/passwd.txt", "nothing", "Expected a model of demo, .*, but got 'nothing'"),
        ("sun, sun", "demo", "'sun' occurs twice"),
    ],
)
def test_what_the_page_refuses(segmenter, examples, names, model, message, tmp_path):
    """No file of names is read: whoever sees the page could read any text file by it."""
    with pytest.raises(ValueError, match=message):
        segmenter.segment(examples[0][0], names, model, True, tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_visitors_leave_is_deleted(tmp_path):
    for name in ("ours.png", "upload/old.png", "upload/new.png", "run/labels.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
        if name != "upload/new.png":
            os.utime(tmp_path / name, (1000, 1000))
    sweep(tmp_path, {tmp_path / "ours.png"}, 600)
    left = {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*.png")}
    assert left == {"ours.png", "upload/new.png"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--model", "nothing"], "`--model` to be one of demo, .*'nothing'"),
        (["--sharing", "true"], "settings of `--model.`, but got --sharing"),
        ([], r"Expected Gradio .* `pip install 'ovss\[app\]'`"),
    ],
)
def test_what_the_command_refuses(args, message, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)  # as if it were not installed
    with pytest.raises(SystemExit) as stop:
        main(["app", *args])
    assert stop.value.code == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.slow
def test_in_a_browser(segmenter, examples, tmp_path, monkeypatch):
    """Headless Chromium (`CHROMIUM`, or that of the path), with playwright's Python package."""
    browser = os.environ.get("CHROMIUM") or shutil.which("chromium")
    missing = [name for name in ("gradio", "playwright") if not importlib.util.find_spec(name)]
    if missing or not browser:
        pytest.skip(f"needs {', '.join(missing) or 'chromium'}")
    monkeypatch.setattr(sys, "argv", ["train_free_eval.py"])
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    from playwright.sync_api import sync_playwright

    photo, names = examples[1]
    page = build_page(segmenter, "demo", examples, tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve(page, "127.0.0.1", port, block=False)
    try:
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(
                executable_path=browser, args=["--no-sandbox"] if os.geteuid() == 0 else []
            )
            for width in (1440, 390):
                tab = chromium.new_page(viewport={"width": width, "height": 900})
                tab.set_default_timeout(120_000)
                asked = []
                tab.on("request", lambda request: asked.append(request.url))
                tab.goto(page.local_url)
                tab.locator("input[type=file]").first.set_input_files(photo)
                tab.get_by_label("names").fill(names)
                tab.get_by_role("button", name="Segment").click()
                tab.get_by_text("sun, sum").first.wait_for()
                with tab.expect_download() as download:
                    tab.get_by_text("Download the label map").click()
                with Image.open(download.value.path()) as image:
                    labels = np.asarray(image)
                np.testing.assert_array_equal(labels, segment(photo, names.split(", ")).labels)
                assert tab.evaluate("document.documentElement.scrollWidth") <= width
                if pictures := os.environ.get("OVSS_PICTURES"):
                    tab.screenshot(path=f"{pictures}/app{width}.png", full_page=True)
                elsewhere = [u for u in asked if not u.startswith(("data:", "blob:"))]
                assert all(url.startswith(page.local_url) for url in elsewhere)
                tab.close()
            chromium.close()
        import httpx

        for size, code in ((1000, 200), (MAX_UPLOAD + 1, 413)):
            files = {"files": ("a.png", bytes(size))}
            sent = httpx.post(f"{page.local_url}gradio_api/upload", files=files, timeout=60)
            assert sent.status_code == code
    finally:
        page.close()
