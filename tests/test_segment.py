"""`ovss.segment` and the `segment` command."""

import inspect
import io
import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovss.cli.config_file import read_model, take_configs
from ovss.cli.lightning_cli import EvaluationTrainer
from ovss.cli.main import main
from ovss.cli.segment import find_photos, output_names, read_classes
from ovss.demo import SETTINGS
from ovss.labelling import Labeller
from ovss.salience import SalienceDropout
from ovss.segmentation import MAX_SIDE, Segmentation, own_classes, segment
from ovss.utils.errors import ConfigurationError
from ovss.utils.shipped import find_config
from ovss.visualization.overlay import display_size, distinct_palette


@pytest.fixture(scope="module")
def photo():
    return np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)


@pytest.fixture(scope="module")
def result(tiny_blip, photo):
    return segment(
        photo,
        ["cat", "potted plant"],
        vlm=tiny_blip,
        layer=1,
        head=0,
        dropout=SalienceDropout(rounds=2, patches=4),
        labeller=Labeller(refine=None),
    )


def test_one_photo_needs_no_lightning(tmp_path):
    """In a fresh process: a notebook that segments a photo waits for no Trainer."""
    Image.new("RGB", (40, 30), "green").save(tmp_path / "photo.png")
    code = (
        "import sys\n"
        "from ovss import segment\n"
        f"segment({str(tmp_path / 'photo.png')!r}, ['tree'])\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(loaded & {'lightning', 'pytorch_lightning', 'torchmetrics', 'datamodules'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.fixture
def by_hand():
    """A segmentation that needs no model: left half cat, its first round hottest top left."""
    labels = np.zeros((40, 60), np.uint8)
    labels[:, :30] = 1
    rounds = np.zeros((2, 2, 2, 2), np.float32)
    rounds[0, 0] = [[4, 0], [0, 0]]
    rounds[1, 0] = [[0, 0], [0, 2]]
    photo = np.full((40, 60, 3), 100, np.uint8)
    palette = ((0, 0, 0), (200, 0, 0), (0, 90, 0))
    return Segmentation(photo, labels, ("background", "cat", "dog"), palette, rounds)


def test_every_view_of_a_result(by_hand):
    np.testing.assert_array_equal(by_hand.mask("cat"), by_hand.labels == 1)
    assert not by_hand.mask("dog").any()
    assert by_hand.searched == ("cat", "dog")
    assert by_hand.background == 0
    heat = by_hand.heatmap("cat", 0)
    assert heat.shape == (40, 60)
    corners = [heat[0, 0], heat[0, -1], heat[-1, 0], heat[-1, -1]]
    np.testing.assert_allclose(corners, [1, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(by_hand.heatmap("cat")[[0, -1], [0, -1]], [1, 0.5], atol=1e-6)
    assert not by_hand.heatmap("dog").any()
    assert by_hand.summary() == {
        "size": [40, 60],
        "classes": [
            {"label": 0, "name": "background", "colour": [0, 0, 0], "pixels": 1200},
            {"label": 1, "name": "cat", "colour": [200, 0, 0], "pixels": 1200},
            {"label": 2, "name": "dog", "colour": [0, 90, 0], "pixels": 0},
        ],
    }
    assert by_hand.heatmap_overlay("cat", 0).size == (720, 480)


def test_overlay_and_notebook_show_the_same(by_hand):
    overlay = by_hand.overlay()
    height, width = display_size(40, 60)
    assert overlay.width == width
    assert overlay.height > height  # the legend
    assert by_hand.overlay(legend=False).size == (width, height)
    plain = np.asarray(by_hand.overlay(opacity=0.5, names=False, legend=False))
    assert tuple(plain[height // 2, 10]) == (150, 50, 50)
    assert tuple(plain[height // 2, -10]) == (100, 100, 100)
    shown = Image.open(io.BytesIO(by_hand._repr_png_()))
    np.testing.assert_array_equal(np.asarray(shown), np.asarray(overlay))


def test_names_that_were_not_looked_for_are_refused(by_hand):
    with pytest.raises(ValueError, match="'horse'"):
        by_hand.mask("horse")
    with pytest.raises(ValueError, match="'background'"):
        by_hand.heatmap("background")


def test_segment_takes_any_kind_of_image(result, photo, tiny_blip, tmp_path):
    assert result.labels.shape == (60, 90)
    assert result.labels.dtype == np.uint8
    assert result.classes == ("background", "cat", "potted plant")
    assert result.palette == ((0, 0, 0), *distinct_palette(2))
    assert result.rounds.shape[:2] == (2, 2)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    for image in (Image.fromarray(photo), tmp_path / "photo.png", str(tmp_path / "photo.png")):
        again = segment(
            image,
            ["cat", "potted plant"],
            vlm=tiny_blip,
            layer=1,
            head=0,
            dropout=SalienceDropout(rounds=2, patches=4),
            labeller=Labeller(refine=None),
        )
        np.testing.assert_array_equal(again.labels, result.labels)


def test_several_photos_with_a_model_by_its_name(result, photo, tiny_blip, tiny_blip_path):
    settings = {
        "layer": 1,
        "head": 0,
        "dropout": SalienceDropout(rounds=2, patches=4),
        "labeller": Labeller(refine=None),
    }
    names = ["cat", "potted plant"]
    found = segment([photo, Image.fromarray(photo[:40])], names, model=tiny_blip_path, **settings)
    assert [each.labels.shape for each in found] == [(60, 90), (40, 90)]
    np.testing.assert_array_equal(found[0].labels, result.labels)
    np.testing.assert_array_equal(
        found[1].labels, segment(photo[:40], names, tiny_blip, **settings).labels
    )
    assert segment((), names) == []
    with pytest.raises(ValueError, match="either `vlm` or `model`, but got both"):
        segment(photo, names, tiny_blip, model=tiny_blip_path)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([], "1 to 254 class names, but got 0"),
        ("cat", "a list of class names, but got the string"),
        ([f"c{i}" for i in range(255)], "but got 255"),
        (["cat", " "], "but got ' '"),
    ],
)
def test_classes_that_cannot_be(classes, message):
    with pytest.raises(ValueError, match=message):
        own_classes(classes)


def test_names_given_twice_are_refused(tiny_blip, photo):
    with pytest.raises(ValueError, match="'Cat' occurs twice"):
        segment(photo, ["cat", "Cat"], vlm=tiny_blip, layer=1, head=0)


def test_classes_from_a_file(tmp_path):
    listing = tmp_path / "classes.txt"
    listing.write_bytes(b"\xef\xbb\xbfcat; kitten\r\n\r\n  dog, brown \n")
    assert read_classes(str(listing)) == ["cat; kitten", "dog, brown"]
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_classes("nowhere.txt")
    with pytest.raises(ValueError, match="--classes"):
        read_classes(" , ")


def test_photos_by_path_folder_and_pattern(tmp_path):
    for name in ("b.jpg", "a.PNG", "notes.txt", "deep/c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    b, folder, pattern = (str(tmp_path / each) for each in ("b.jpg", "", "**/*.jpg"))
    assert [f.name for f in find_photos([folder])] == ["a.PNG", "b.jpg"]
    assert [f.name for f in find_photos([b])] == ["b.jpg"]
    assert [f.name for f in find_photos([pattern])] == ["b.jpg", "c.jpg"]
    assert [f.name for f in find_photos([b, folder, pattern])] == ["b.jpg", "a.PNG", "c.jpg"]
    with pytest.raises(FileNotFoundError, match="found nothing"):
        find_photos([b, str(tmp_path / "*.webp")])
    address = "https://example.org/b.jpg?width=300"
    found = find_photos([folder, address, address])
    assert found[2:] == [address]
    assert output_names(found[:2]) == ["a", "b"]
    assert output_names(found)[2] == "example.org/b"


def test_results_of_long_names_can_be_written(tmp_path):
    stems = ["n" * 245, "n" * 246, "\u56fe" * 82, "n" * 236]
    names = output_names([Path(f"{stem}.jpg") for stem in stems])
    assert len(set(names)) == 4
    for name in names:
        (tmp_path / f"{name}_overlay.png").touch()
    assert output_names([Path(f"{'n' * 245}.jpg"), Path("a.jpg")]) == ["n" * 236, "a"]
    assert output_names([Path(f"{'n' * 236}.jpg")]) == ["n" * 236]


@pytest.fixture
def run(tiny_blip_path, tmp_path, monkeypatch):
    """Runs the command with the tiny model on a folder."""
    monkeypatch.setattr(sys, "argv", ["train_free_eval.py"])

    def segment_command(photos, *options):
        main(
            [
                "segment",
                str(photos),
                f"--model.vlm.init_args.name_or_path={tiny_blip_path}",
                "--model.labeller.refine=null",
                f"--output={tmp_path / 'out'}",
                *options,
            ]
        )
        return tmp_path / "out"

    return segment_command


def test_command_writes_overlays_labels_and_heatmaps(run, photo, tmp_path):
    file = tmp_path / "my photo.png"
    Image.fromarray(photo).save(file)
    out = run(file, "--classes=cat, potted plant", "--heatmaps=true", "--model.dropout.rounds=2")
    sidecar = json.loads((out / "my photo_labels.json").read_text())
    with Image.open(out / "my photo_labels.png") as image:
        assert image.mode == "P"
        labels = np.asarray(image)
        colours = np.asarray(image.convert("RGB"))
    assert list(labels.shape) == sidecar["size"] == [60, 90]
    assert [entry["name"] for entry in sidecar["classes"]] == ["background", "cat", "potted plant"]
    for entry in sidecar["classes"]:
        where = labels == entry["label"]
        assert where.sum() == entry["pixels"]
        assert (colours[where] == entry["colour"]).all()
    assert sidecar["settings"]["layer"] == 1
    assert sidecar["settings"]["proposals"] == {"kind": "all"}
    assert Image.open(out / "my photo_overlay.png").width == display_size(60, 90)[1]
    heatmaps = out / "my photo_heatmaps"
    assert sorted(f.name for f in heatmaps.iterdir()) == [
        f"{number:03d}_{name}_{which}.png"
        for number, name in enumerate(["cat", "potted_plant"])
        for which in ("round0", "round1", "sum")
    ] + ["rounds.npz"]
    with np.load(heatmaps / "rounds.npz") as arrays:
        assert arrays["rounds"].shape[:2] == (2, 2)
        assert list(arrays["classes"]) == ["cat", "potted plant"]


def test_a_broken_photo_does_not_stop_the_others(run, photo, tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.jpg").write_text("no photo")
    Image.fromarray(photo).save(folder / "b.png")
    with pytest.raises(SystemExit) as stop:
        run(folder, "--classes=cat", "--background=false")
    assert stop.value.code == 1
    message = capsys.readouterr().err
    assert "1 photo segmented" in message
    assert "Expected 2 readable photos, but could not read 1 of them:\n" in message
    assert message.count(str(folder / "a.jpg")) == 1
    written = sorted(f.name for f in (tmp_path / "out").iterdir())
    assert written == ["b_labels.json", "b_labels.png", "b_overlay.png"]
    sidecar = json.loads((tmp_path / "out" / "b_labels.json").read_text())
    assert [entry["name"] for entry in sidecar["classes"]] == ["cat"]


def test_words_that_the_model_does_not_know_are_named(tiny_blip, caplog, monkeypatch):
    from ovss.segmentation import warn_unknown_names

    monkeypatch.setattr(tiny_blip, "name", "demo")
    with caplog.at_level(logging.INFO):
        warn_unknown_names(tiny_blip, own_classes(["cat", "\u4e16"]))
    assert "\u4e16: unknown to this model" in caplog.text
    assert "cat: unknown" not in caplog.text
    assert "demo's words" in caplog.text
    assert "--model blip-large" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        warn_unknown_names(tiny_blip, own_classes(["cat", "dog"]))
    (only,) = caplog.messages  # all is known, but a photo is still none of the demo's scenes
    assert only.startswith(
        "demo model: knows drawn scenes only; for photos give --model blip-large"
    )


def test_pictures_of_the_demos_model_say_so(by_hand):
    noted = replace(by_hand, note="demo model: knows drawn scenes only")
    assert noted.summary() == {"note": noted.note, **by_hand.summary()}
    for legend in (True, False):
        plain, with_note = (np.asarray(e.overlay(legend=legend)) for e in (by_hand, noted))
        np.testing.assert_array_equal(with_note[: len(plain)], plain)
        line = with_note[len(plain) :]
        assert 20 <= len(line) <= 60
        assert (line.max(2) < 100).any()  # ink
    assert segment(by_hand.photo, ["sun"]).note == noted.note


def test_a_large_photo_is_labelled_at_max_side(tiny_blip, photo):
    settings = {"vlm": tiny_blip, "layer": 1, "head": 0, "labeller": Labeller(refine=None)}
    settings["dropout"] = SalienceDropout(rounds=1, patches=4)
    small, whole = (segment(photo, ["cat"], **settings, max_side=n) for n in (30, 90))
    assert small.labels.shape == whole.labels.shape == photo.shape[:2]
    np.testing.assert_array_equal(small.photo, photo)
    # What the model reads is the photo itself, so only the labels are coarse: blocks of 3 x 3.
    np.testing.assert_array_equal(small.rounds, whole.rounds)
    blocks = small.labels.reshape(20, 3, 30, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()
    assert (small.labels == whole.labels).mean() > 0.9
    with pytest.raises(ValueError, match="`max_side` to be at least 1, but got 0"):
        segment(photo, ["cat"], **settings, max_side=0)


def test_help_comes_at_once_and_leaves_out_no_option(capsys):
    main(["segment", "--help"])
    shown = capsys.readouterr().out
    options = set(inspect.signature(EvaluationTrainer.segment).parameters)
    for option in options - {"self", "photos", "model", "datamodule"}:
        assert f"  --{option.replace('_', '-')} " in shown
    assert f"(default: {MAX_SIDE})" in shown
    with pytest.raises(SystemExit):
        main(["segment", "--help", "-v"])
    whole = capsys.readouterr().out
    assert whole.index("--max_side") < whole.index("--model.layer") < whole.index("--data.help")
    assert len(whole[: whole.index("--max_side")].splitlines()) < 30


def test_a_model_goes_by_its_name(tmp_path):
    assert read_model("blip-large") == read_model("configs/model/blip_large_flickr.yaml")
    assert read_model("demo") == {"model": SETTINGS}
    assert find_config("blip_base").name == "blip_base_flickr.yaml"
    (configs, rest) = take_configs(["segment", "--model=clip", "x", "--model.layer=2"])
    assert configs[0].content["model"]["class_path"] == "ovss.DenseCLIPModule"
    assert rest == ["segment", "x", "--model.layer=2"]
    (tmp_path / "data.yaml").write_text("data: {}\n")
    for wrong in ("blip-huge", str(tmp_path / "data.yaml")):
        with pytest.raises(ConfigurationError, match=r"--model` to be one of demo, blip_base_coco"):
            read_model(wrong)


def test_several_photos_and_a_model_by_name(photo, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train_free_eval.py"])
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    for file in files:
        Image.fromarray(photo).save(file)
    out = tmp_path / "out"
    names = [str(file) for file in files]
    options = ["--classes=sun", "--model", "demo", "--max-side", "45", f"--output={out}"]
    main(["segment", *names, *options])
    assert len(list(out.glob("*_overlay.png"))) == 2
    sidecar = json.loads((out / "b_labels.json").read_text())
    assert sidecar["size"] == [60, 90]
    assert sidecar["note"].startswith("demo model")
