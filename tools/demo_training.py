"""What the training of the demo's models has in common: scenes, first weights, the record."""

import logging
import platform
import shlex
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
import torch.nn.functional as F
import transformers
from numpy.typing import NDArray
from ovss.datamodules.scene_generator import CLASSES, classes_in, draw_scene
from ovss.datamodules.scene_generator.dataset import TRAIN_SEED
from torch import Tensor, nn

logger = logging.getLogger(__name__)

_DRAW_CHUNK = 250


# ---- scenes --------------------------------------------------------------------------------------


def _draw(
    seeds: range, size: int, sprites: int | None
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    photos, present = [], []
    for seed in seeds:
        photo, mask = draw_scene(seed, size, sprites)
        photos.append(photo)
        names = classes_in(mask)  # the caption; the mask goes no further
        present.append([name in names for name in CLASSES])
    return np.stack(photos), np.array(present)


def draw_training_set(
    count: int, workers: int, size: int, sprites: int | None = None, first: int = TRAIN_SEED
) -> tuple[Tensor, Tensor]:
    """Photos `(N, 3, H, W)` uint8 and which classes their captions name, `(N, classes)` bool.

    Args:
        count: Scenes to draw.
        workers: Processes that draw; with 1 it is this one.
        size: Height and width of a scene in pixels.
        sprites: See `draw_scene`.
        first: Seed of the first scene; the others count on.
    """
    chunks = [
        range(first + start, first + min(start + _DRAW_CHUNK, count))
        for start in range(0, count, _DRAW_CHUNK)
    ]
    draw = partial(_draw, size=size, sprites=sprites)
    if workers > 1:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            parts = list(pool.map(draw, chunks))
    else:
        parts = [draw(chunk) for chunk in chunks]
    photos = torch.from_numpy(np.concatenate([photo for photo, _ in parts]))
    present = torch.from_numpy(np.concatenate([present for _, present in parts]))
    return photos.permute(0, 3, 1, 2).contiguous(), present


def batches(count: int, size: int, rng: np.random.Generator) -> Iterator[Tensor]:
    """Endless shuffled index batches."""
    while True:
        order = torch.from_numpy(rng.permutation(count))
        yield from order[: count // size * size].split(size)


def augment(pixels: Tensor) -> Tensor:
    """Mirrors, shifts by up to 8 pixels, and changes contrast and tint at random.

    Args:
        pixels: Normalised, `(B, 3, H, W)`.
    """
    batch, _, height, width = pixels.shape
    pixels = torch.where(torch.rand(batch, 1, 1, 1) < 0.5, pixels.flip(-1), pixels)
    contrast = 1 + 0.15 * (2 * torch.rand(batch, 1, 1, 1) - 1)
    pixels = pixels * contrast + 0.15 * (2 * torch.rand(batch, 3, 1, 1) - 1)
    down, right = (int(v) for v in torch.randint(0, 17, (2,)))
    return F.pad(pixels, (8, 8, 8, 8), mode="reflect")[
        :, :, down : down + height, right : right + width
    ]


# ---- first weights: what the layers would learn first; given, it saves a few hundred steps -------


def sine_positions(grid: int, width: int) -> Tensor:
    """Position embeddings of patches, `(grid * grid, width)`: sines and cosines of both places."""
    frequency = 30.0 ** -(torch.arange(width // 4) / (width // 4))
    waves = torch.arange(grid)[:, None] * frequency
    waves = torch.cat([waves.sin(), waves.cos()], 1)
    rows = waves[:, None].expand(grid, grid, -1)
    columns = waves[None].expand(grid, grid, -1)
    return torch.cat([rows, columns], -1).reshape(grid * grid, width)


def whitening(pixels: Tensor, patch: int, width: int) -> tuple[Tensor, Tensor]:
    """A patch embedding whose outputs vary equally and independently over some photos.

    Args:
        pixels: Some normalised photos, `(N, 3, H, W)`.
        patch: Side of a patch.
        width: Outputs.

    Returns:
        Weight `(width, 3, patch, patch)` and bias `(width,)`.
    """
    patches = F.unfold(pixels, patch, stride=patch).transpose(1, 2).flatten(0, 1)
    centre = patches.mean(0)
    patches = patches - centre
    variance, axes = torch.linalg.eigh(patches.T @ patches / len(patches))
    weight = (axes[:, -width:] / torch.sqrt(variance[-width:] + 0.03)).T
    # A rotation spreads the strong components over all channels.
    weight = torch.linalg.qr(torch.randn(width, width))[0] @ weight
    return weight.view(width, 3, patch, patch), -weight @ centre


# ---- steps ---------------------------------------------------------------------------------------


def adamw(
    named: Iterable[tuple[str, nn.Parameter]], learning_rate: float, weight_decay: float
) -> torch.optim.AdamW:
    """AdamW that decays matrices, but neither embeddings nor what has one dimension or none."""
    named = list(named)
    decayed = [p for n, p in named if p.ndim > 1 and "embedding" not in n]
    others = [p for n, p in named if p.ndim <= 1 or "embedding" in n]
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), fused=True)


class Figures:
    """Running means of a training's figures, logged every 100 steps."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self._start = time.perf_counter()

    def add(self, step: int, now: dict[str, float]) -> None:
        """Takes in the figures of a step, counted from 0."""
        for name, value in now.items():
            self.values[name] = 0.98 * self.values.get(name, value) + 0.02 * value
        if (step + 1) % 100 == 0:
            text = " ".join(f"{name} {value:.4f}" for name, value in self.values.items())
            logger.info("step %d, %.0f s: %s", step + 1, self.seconds, text)

    @property
    def seconds(self) -> float:
        """Since the first step."""
        return time.perf_counter() - self._start


# ---- the record ----------------------------------------------------------------------------------


def _processor_name() -> str:
    """The processor's name as Linux gives it, elsewhere as Python does."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def record_of(
    script: str, settings: dict[str, Any], model: nn.Module, figures: dict[str, float]
) -> dict[str, Any]:
    """How weights were made, for the file `training.json` beside them.

    Args:
        script: The script's name.
        settings: Its command line.
        model: What it trained.
        figures: The last figures.
    """
    return {
        "command": shlex.join(["python", f"tools/{script}", *sys.argv[1:]]),
        "date": date.today().isoformat(),
        "machine": f"{_processor_name()}, {settings['threads']} threads",
        "settings": settings,
        "parameters": sum(p.numel() for p in model.parameters()),
        "training": {name: round(value, 4) for name, value in figures.items()},
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "tokenizers": tokenizers.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
