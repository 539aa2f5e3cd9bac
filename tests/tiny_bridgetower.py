"""A random BridgeTower of a few thousand weights and its byte-level tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import AutoTokenizer, BridgeTowerConfig, BridgeTowerForImageAndTextRetrieval

MERGES = [
    ("Ġ", "c"), ("a", "t"), ("Ġc", "at"), ("Ġ", "d"), ("o", "g"), ("Ġd", "og"),
    ("o", "f"), ("Ġ", "p"), ("i", "c"),
]  # fmt: skip
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def byte_alphabet() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in kept]
    return [chr(byte) for byte in kept] + [chr(256 + i) for i in range(len(others))]


def write_tokenizer(folder: Path) -> None:
    """The files of a RoBERTa tokenizer, as published beside BridgeTower checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens = [*SPECIAL[:4], *byte_alphabet(), *(a + b for a, b in MERGES), SPECIAL[4]]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in MERGES), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    config = {"tokenizer_class": "RobertaTokenizer", "model_max_length": 60}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def tokenizer(folder: Path):
    """The tokenizer, from its files."""
    write_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


def bridgetower(
    seed: int = 0,
    width: int = 64,
    layers: int = 3,
    tower_layers: int = 4,
    image_size: int = 32,
    patch_size: int = 8,
    architecture=BridgeTowerForImageAndTextRetrieval,
    **options,
):
    """A random model whose weights are large enough for attention to differ between tokens."""
    torch.manual_seed(seed)
    config = BridgeTowerConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        initializer_factor=3.0,
        text_config={
            "vocab_size": 300,
            "hidden_size": width,
            "num_hidden_layers": tower_layers,
            "num_attention_heads": 4,
            "intermediate_size": 2 * width,
            "max_position_embeddings": 62,
            "initializer_factor": 3.0,
        },
        vision_config={
            "hidden_size": 64,
            "num_hidden_layers": tower_layers,
            "image_size": image_size,
            "patch_size": patch_size,
        },
        **options,
    )
    model = architecture(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:  # biases and norms start as 0 and 1, which hides mistakes
                parameter.add_(0.2 * torch.randn_like(parameter))
            if "position" in name or "token_type" in name:
                parameter.copy_(torch.randn_like(parameter))
    return model


def save(folder: Path, model) -> Path:
    """A checkpoint folder as on the hub."""
    model.save_pretrained(folder)
    write_tokenizer(folder)
    statistics = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
    (folder / "preprocessor_config.json").write_text(json.dumps(statistics), encoding="utf-8")
    return folder
