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
from pathlib import Path

import demo_vlm as vlm
import numpy as np
import torch
import torch.nn.functional as F
from demo_training import Figures, adamw, augment, batches, draw_training_set, record_of
from numpy.typing import NDArray
from torch import Tensor
from transformers import BlipForImageTextRetrieval

logger = logging.getLogger(__name__)

CAPTIONS_A_PHOTO = 6


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


def train(args: argparse.Namespace) -> tuple[BlipForImageTextRetrieval, dict[str, float]]:
    """Trains the model; returns it with the last figures of the training set."""
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    photos, present = draw_training_set(args.scenes, args.threads, vlm.IMAGE_SIZE)
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
    optimizer = adamw(named, args.learning_rate, args.weight_decay)

    def rate(step: int) -> float:
        """Warm-up over 100 steps, level, then a straight line to zero over the guided steps."""
        return min(1.0, (step + 1) / 100, (args.steps - step) / max(args.guided_steps, 1))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    indices = batches(len(photos), args.batch_size, rng)
    figures = Figures()
    for step in range(args.steps):
        index = next(indices)
        seen = present[index]
        pixels = augment(normalise(photos[index]))
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
        figures.add(step, now)
    return model.eval(), {**figures.values, "seconds": figures.seconds}


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
    record = record_of("train_demo_vlm.py", settings, model, figures)
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
