"""Trains the demo's tiny BLIP-ITM on drawn scenes and their captions.

    make weights

runs it twice: from scratch, then 200 steps that sharpen the attention. The only supervision is a
caption, the names of the classes in a scene: no mask is used. The run is seeded and counted in
steps; the same command on the same machine, library versions and thread count gives the same
weights.
"""

import argparse
import json
import logging
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from multiprocessing import get_context
from pathlib import Path

import demo_vlm as vlm
import numpy as np
import tokenizers
import torch
import torch.nn.functional as F
import transformers
from numpy.typing import NDArray
from ovss.datamodules.scene_generator import CLASSES, classes_in, draw_scene
from ovss.datamodules.scene_generator.dataset import TRAIN_SEED
from torch import Tensor
from transformers import BlipForImageTextRetrieval

logger = logging.getLogger(__name__)

CAPTIONS_A_PHOTO = 6
_DRAW_CHUNK = 250


def parse_arguments() -> argparse.Namespace:
    """The command line; its defaults made the shipped weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("ovss/demo/blip"))
    parser.add_argument("--start", type=Path, help="weights to go on from, without local steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenes", type=int, default=20000, help="training scenes to draw")
    parser.add_argument("--steps", type=int, default=2200)
    parser.add_argument("--guided-steps", type=int, default=300, help="last, attention guided")
    parser.add_argument("--local-steps", type=int, default=250, help="first, with local ITC alone")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--heads", type=int, default=4, help="attention heads of the text encoder")
    parser.add_argument("--sharpness", type=float, default=2.0, help="see demo_vlm.Routing")
    parser.add_argument(
        "--erase",
        type=float,
        default=0.3,
        help="share of photos whose most telling patches are erased",
    )
    parser.add_argument("--opened", type=float, default=0.15, help="see demo_vlm.Routing")
    parser.add_argument("--threads", type=int, default=3, help="changes the last bits")
    return parser.parse_args()


def _draw(seeds: range) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    photos, present = [], []
    for seed in seeds:
        photo, mask = draw_scene(seed, vlm.IMAGE_SIZE)
        photos.append(photo)
        names = classes_in(mask)  # the caption; the mask goes no further
        present.append([name in names for name in CLASSES])
    return np.stack(photos), np.array(present)


def draw_training_set(count: int, workers: int) -> tuple[Tensor, Tensor]:
    """Photos `(N, 3, H, W)` uint8 and which classes their captions name, `(N, classes)` bool."""
    chunks = [
        range(TRAIN_SEED + first, TRAIN_SEED + min(first + _DRAW_CHUNK, count))
        for first in range(0, count, _DRAW_CHUNK)
    ]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        parts = list(pool.map(_draw, chunks))
    photos = torch.from_numpy(np.concatenate([photo for photo, _ in parts]))
    present = torch.from_numpy(np.concatenate([present for _, present in parts]))
    return photos.permute(0, 3, 1, 2).contiguous(), present


def normalise(photos: Tensor) -> Tensor:
    """From bytes to the values that the model takes."""
    return (photos.float() / 255 - vlm.PIXEL_MEAN) / vlm.PIXEL_STD


def erase_patches(pixels: Tensor, gone: Tensor) -> Tensor:
    """Sets patches to 0 in normalised pixels, as Salience DropOut does.

    Args:
        pixels: `(B, 3, H, W)`.
        gone: `(B, patches)` bool.
    """
    keep = (~gone).float().view(-1, 1, vlm.GRID, vlm.GRID)
    return pixels * F.interpolate(keep, scale_factor=vlm.PATCH_SIZE, mode="nearest")


def random_patches(batch: int, share: float, most: float = 0.7) -> Tensor:
    """`(B, patches)` bool: up to `most` of a photo's patches in `share` of the photos.

    Half of the photos lose single patches, the others squares of two by two.
    """
    amount = torch.rand(batch, 1, 1) * most * (torch.rand(batch, 1, 1) < share)
    fine = torch.rand(batch, vlm.GRID, vlm.GRID)
    coarse = torch.rand(batch, 1, vlm.GRID // 2, vlm.GRID // 2)
    coarse = F.interpolate(coarse, scale_factor=2, mode="nearest")[:, 0]
    return (torch.where(torch.rand(batch, 1, 1) < 0.5, fine, coarse) < amount).flatten(1)


def telling_patches(similarity: Tensor, present: Tensor) -> Tensor:
    """`(B, patches)` bool: the 4 to 50 patches that are most like the caption's words.

    Args:
        similarity: Of patches and words, `(B, patches, classes)`.
        present: Which classes the caption names, `(B, classes)` bool.
    """
    batch, patches, _ = similarity.shape
    strength = similarity.masked_fill(~present[:, None], -torch.inf).amax(-1)
    rank = strength.argsort(-1, descending=True).argsort(-1)
    return rank < torch.randint(4, patches // 5, (batch, 1))


def augment(photos: Tensor) -> Tensor:
    """Mirrors, shifts by up to 8 pixels, and changes contrast and tint at random."""
    batch, _, height, width = photos.shape
    pixels = normalise(photos)
    pixels = torch.where(torch.rand(batch, 1, 1, 1) < 0.5, pixels.flip(-1), pixels)
    contrast = 1 + 0.15 * (2 * torch.rand(batch, 1, 1, 1) - 1)
    pixels = pixels * contrast + 0.15 * (2 * torch.rand(batch, 3, 1, 1) - 1)
    down, right = (int(v) for v in torch.randint(0, 17, (2,)))
    return F.pad(pixels, (8, 8, 8, 8), mode="reflect")[
        :, :, down : down + height, right : right + width
    ]


def write_captions(present: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Six captions a photo, three that match and three that almost do.

    A caption names all classes of the photo, some of them, or one; each comes with a hard negative
    in which one class is swapped for one that is not there.

    Returns:
        Token ids `(B, 6, CAPTION_LENGTH)` and whether they match `(B, 6)`, 0 or 1.
    """
    ids = []
    for row in present.numpy():
        inside, outside = (
            rng.permutation(np.flatnonzero(row)),
            rng.permutation(np.flatnonzero(~row)),
        )
        some = inside[: rng.integers(1, len(inside) + 1)]
        captions = [inside, _swap_one(inside, outside[0], rng)]
        captions += [rng.permutation(some), _swap_one(some, outside[1], rng)]
        captions += [inside[-1:], outside[2:3]]
        ids.append([vlm.encode_caption([int(k) for k in caption]) for caption in captions])
    matches = torch.tensor([1, 0] * (CAPTIONS_A_PHOTO // 2)).expand(len(ids), -1)
    return torch.tensor(ids), matches


def _swap_one(classes: NDArray, other: int, rng: np.random.Generator) -> NDArray:
    swapped = classes.copy()
    swapped[rng.integers(len(classes))] = other
    return swapped


def batches(count: int, size: int, rng: np.random.Generator) -> Iterator[Tensor]:
    """Endless shuffled index batches."""
    while True:
        order = torch.from_numpy(rng.permutation(count))
        yield from order[: count // size * size].split(size)


def train(args: argparse.Namespace) -> tuple[BlipForImageTextRetrieval, dict[str, float]]:
    """Trains the model; returns it with the last figures of the training set."""
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    photos, present = draw_training_set(args.scenes, args.threads)
    logger.info("drew %d scenes", len(photos))
    if args.start is None:
        model = vlm.build_model(args.heads)
        vlm.initialise_vision(model, normalise(photos[:600]))
    else:
        model = BlipForImageTextRetrieval.from_pretrained(args.start, dtype=torch.float32).train()
    contrast, words = vlm.LocalContrast(), vlm.WordMatch()
    routing = vlm.Routing(args.opened, args.sharpness)
    erased = round(args.erase * args.batch_size)
    layers = model.config.text_config.num_hidden_layers

    named = [*model.named_parameters(), *contrast.named_parameters(), *words.named_parameters()]
    decayed = [p for n, p in named if p.ndim > 1 and "embedding" not in n]
    others = [p for n, p in named if p.ndim <= 1 or "embedding" in n]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": args.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=args.learning_rate,
        betas=(0.9, 0.98),
        fused=True,
    )

    def rate(step: int) -> float:
        """Warm-up over 100 steps, level, then a straight line to zero over the guided steps."""
        return min(1.0, (step + 1) / 100, (args.steps - step) / max(args.guided_steps, 1))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    figures: dict[str, float] = {}
    indices = batches(len(photos), args.batch_size, rng)
    start = time.perf_counter()
    for step in range(args.steps):
        index = next(indices)
        seen = present[index]
        pixels = augment(photos[index])
        ramp = min(1.0, step / 600) if args.start is None else 1.0
        pixels = erase_patches(pixels, random_patches(len(pixels), 0.6 * ramp))
        matching = args.start is not None or step >= args.local_steps
        with torch.autocast("cpu", torch.bfloat16):
            if matching and erased:
                with torch.no_grad():
                    image = model.vision_model(pixel_values=pixels[:erased]).last_hidden_state
                    before = contrast.similarity(model, image)
                telling = telling_patches(before, seen[:erased])
                pixels[:erased] = erase_patches(pixels[:erased], telling)
            image = model.vision_model(pixel_values=pixels).last_hidden_state
            similarity = contrast.similarity(model, image)
            losses = {"itc": contrast(similarity, seen.float())}
            if matching:
                ids, matches = write_captions(seen, rng)
                routing.begin(ids.flatten(1), similarity, seen, layers)
                with routing.attached(model):
                    logits = vlm.match_logits(model, image, ids).float()
                losses["itm"] = F.cross_entropy(logits.flatten(0, 1), matches.flatten())
                losses["word"] = words(routing.words, ids.flatten(1), seen.float())
                if step >= args.steps - args.guided_steps:
                    losses["attention"] = routing.divergence
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_([p for _, p in named], 1.0)
        optimizer.step()
        scheduler.step()
        now = {name: loss.item() for name, loss in losses.items()}
        if matching:
            now["accuracy"] = (logits.argmax(-1) == matches).float().mean().item()
        for name, value in now.items():
            figures[name] = 0.98 * figures.get(name, value) + 0.02 * value
        if (step + 1) % 100 == 0:
            text = " ".join(f"{name} {value:.4f}" for name, value in figures.items())
            logger.info("step %d, %.0f s: %s", step + 1, time.perf_counter() - start, text)
    figures["seconds"] = time.perf_counter() - start
    return model.eval(), figures


def processor_name() -> str:
    """The processor's name as Linux gives it, elsewhere as Python does."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def save(
    model: BlipForImageTextRetrieval, args: argparse.Namespace, figures: dict[str, float]
) -> None:
    """Writes weights (fp16), configuration, tokenizer, image statistics and the run's record."""
    args.out.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(args.out)
    vlm.build_tokenizer().save_pretrained(args.out)
    processor = {
        "do_normalize": True,
        "do_resize": True,
        "image_mean": [vlm.PIXEL_MEAN] * 3,
        "image_processor_type": "BlipImageProcessor",
        "image_std": [vlm.PIXEL_STD] * 3,
        "resample": 3,
        "size": {"height": vlm.IMAGE_SIZE, "width": vlm.IMAGE_SIZE},
    }
    settings = {name: value for name, value in vars(args).items() if name not in ("out", "start")}
    record = {
        "command": shlex.join(["python", "tools/train_demo_vlm.py", *sys.argv[1:]]),
        "date": date.today().isoformat(),
        "machine": f"{processor_name()}, {args.threads} threads",
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
    if args.start is not None:
        record["before"] = json.loads((args.start / "training.json").read_text())
    for name, content in (("preprocessor_config.json", processor), ("training.json", record)):
        (args.out / name).write_text(json.dumps(content, indent=2) + "\n")


def main() -> None:
    """Trains and saves."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    model, figures = train(args)
    save(model, args, figures)


if __name__ == "__main__":
    main()
