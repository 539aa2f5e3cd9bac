"""What a stranger's files may not do."""

import pickle
import shutil

import pytest
import torch
from PIL import Image

from ovss.preprocessing import read_photo
from ovss.vlm import BlipITM


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


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    Image.new("L", (64, 64)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64 // 2 - 1)  # Pillow refuses twice that
    with pytest.raises(ValueError, match="decompression bomb"):
        read_photo(path)
