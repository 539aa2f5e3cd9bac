"""What a stranger's files may not do."""

import ast
import json
import os
import pickle
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from ovss.datamodules.masks import Sample, read_png
from PIL import Image

import ovss
from ovss import datamodules
from ovss.preprocessing import read_photo
from ovss.runs.folder import LabelMap, RunFiles
from ovss.runs.layout import RunLayout
from ovss.runs.photos import read_labels
from ovss.vlm import BlipITM
from ovss.vlm.scoring import ClipScorer


class Payload:
    """Runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.fixture
def checkpoint(tmp_path, tiny_blip_path):
    """The tiny checkpoint without its weights."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_blip_path, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    return folder


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_malicious_pickle_is_refused(checkpoint, tmp_path, how):
    trace = tmp_path / "code-was-run"
    path = checkpoint / "pytorch_model.bin"
    if how == "torch":
        torch.save({"weight": Payload(trace)}, path)
    else:
        path.write_bytes(pickle.dumps({"weight": Payload(trace)}))
    with pytest.raises((ValueError, OSError, pickle.UnpicklingError)):
        BlipITM.from_pretrained(checkpoint)
    assert not trace.exists()


def test_plain_torch_weights_are_read(checkpoint, tiny_blip):
    torch.save(tiny_blip.model.state_dict(), checkpoint / "pytorch_model.bin")
    loaded = BlipITM.from_pretrained(checkpoint)
    for name, weight in tiny_blip.state_dict().items():
        assert torch.equal(weight, loaded.state_dict()[name]), name


def test_code_beside_a_checkpoint_is_not_run(tmp_path, tiny_blip_path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_blip_path, folder)
    trace = tmp_path / "code-was-run"
    (folder / "evil.py").write_text(f"open({str(trace)!r}, 'w')\n")
    config = folder / "config.json"
    auto_map = '{"auto_map": {"AutoConfig": "evil.Config", "AutoTokenizer": ["evil.T", "evil.T"]},'
    config.write_text(config.read_text().replace("{", auto_map, 1))
    BlipITM.from_pretrained(folder)
    assert not trace.exists()


@pytest.mark.parametrize("loader", [BlipITM, ClipScorer])
def test_a_model_type_of_its_own_is_refused_unasked(loader, tmp_path, tiny_blip_path, monkeypatch):
    """In a terminal, transformers would ask whether to run the checkpoint's code."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_blip_path, folder)
    trace = tmp_path / "code-was-run"
    (folder / "evil.py").write_text(f"open({str(trace)!r}, 'w')\n")
    own = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "AutoTokenizer": "evil.T"}
    content = {"model_type": "evil", "auto_map": own, "architectures": ["Model"]}
    (folder / "config.json").write_text(json.dumps(content))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("It asks."))
    with pytest.raises(FileNotFoundError, match="custom code"):
        loader.from_pretrained(folder)
    assert not trace.exists()


def test_every_load_from_the_hub_says_that_no_code_is_run():
    """All `from_pretrained` but this project's own, which end in `load_checkpoint`."""
    own = {"BlipITM", "BridgeTowerITM", "ClipScorer", "DenseCLIP", "Embedding"}
    said = []
    for package in (ovss, datamodules):
        for file in sorted(Path(package.__file__).parent.rglob("*.py")):
            for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
                    continue
                if call.func.attr not in ("from_pretrained", "from_config"):
                    continue
                if ast.unparse(call.func.value).rpartition(".")[2] in own:
                    continue
                options = {option.arg: ast.unparse(option.value) for option in call.keywords}
                said.append(f"{file.name}: {options.get('trust_remote_code')}")
    assert said == ["loading.py: False"] * 3


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    Image.new("L", (64, 64)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64 // 2 - 1)  # Pillow refuses twice that
    with pytest.raises(ValueError, match="decompression bomb"):
        read_photo(path)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_photo_starts_no_program(tmp_path, monkeypatch, suffix):
    """Pillow has Ghostscript draw an EPS, whatever the file is called."""
    trace, programs = tmp_path / "program-was-run", tmp_path / "bin"
    programs.mkdir()
    (programs / "gs").write_text(f"#!/bin/sh\ntouch {trace}\n")
    (programs / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    path = tmp_path / f"photo{suffix}"
    Image.new("RGB", (4, 4)).save(path, "eps")
    with pytest.raises(ValueError, match=r"readable photo, .* \(none of JPEG, PNG, "):
        read_photo(path)
    with pytest.raises(ValueError, match="readable mask"):
        read_png(Sample("photo", path, path))
    assert not trace.exists()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM"])
def test_a_photo_may_have_any_common_format(tmp_path, kind):
    path = tmp_path / "photo.jpg"
    grey = Image.new("L", (5, 3), 64)
    frames = {"save_all": True, "append_images": [Image.new("L", (5, 3), 200)]}
    grey.convert("P" if kind == "GIF" else "RGB").save(
        path, kind, **(frames if kind == "GIF" else {})
    )
    assert np.abs(read_photo(path).astype(int) - 64).max() <= 2
    assert read_photo(path).shape == (3, 5, 3)


@pytest.fixture(params=["pipe", "socket", "device", "folder"])
def special(request, tmp_path):
    """Not a file, and its kind."""
    path = tmp_path / "special.png"
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))  # the name stays
    elif request.param == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    return path, request.param


def test_what_is_no_file_is_not_waited_for(special, tmp_path):
    path, kind = special
    message = f"special.png to be a file, but it is a {kind}; remove it"
    with pytest.raises(ValueError, match=message):
        read_photo(path)
    with pytest.raises(ValueError, match=message):
        read_png(Sample("photo", path, path))
    with pytest.raises(ValueError, match=message):
        read_labels(path)


@pytest.mark.parametrize("special", ["pipe", "socket", "device"], indirect=True)
def test_a_label_map_that_is_no_file_is_done_again(special, tmp_path):
    path, _ = special
    layout = RunLayout(tmp_path / "run")
    layout.labels.mkdir(parents=True)
    path.rename(layout.label_map("one"))
    files = RunFiles(layout, [(0, 0, 0), (9, 9, 9)])
    assert files.finished(["one"]) == set()
    files.write("one", LabelMap(np.ones((2, 3), np.uint8), (1,), (0.5,)))
    assert files.finished(["one"]) == {"one"}
