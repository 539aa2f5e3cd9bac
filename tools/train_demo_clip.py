"""Trains the demo's tiny CLIP on drawn scenes and their captions.

    make weights

runs it, too. The only supervision is a caption, the names of the classes in a scene, or that there
are none: no mask is used. The run is seeded and counted in steps; the same command on the same
machine, library versions and thread count gives the same weights.
"""

import argparse
import json
import logging
from pathlib import Path

import demo_clip as clip
import numpy as np
import torch
from demo_training import Figures, adamw, augment, batches, draw_training_set, record_of
from ovss.datamodules.scene_generator.dataset import TRAIN_SEED
from transformers import CLIPModel

logger = logging.getLogger(__name__)


def parse_arguments() -> argparse.Namespace:
    """The command line; its defaults made the shipped weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("ovss/demo/clip"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenes", type=int, default=12000, help="training scenes to draw")
    parser.add_argument("--empty", type=int, default=900, help="scenes without any class, besides")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--whole-steps", type=int, default=100, help="last, with all patches")
    parser.add_argument("--kept", type=int, default=96, help="patches seen before, of 256")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--layers", type=int, default=3, help="of the image encoder")
    parser.add_argument("--threads", type=int, default=1, help="changes the last bits")
    return parser.parse_args()


def train(args: argparse.Namespace) -> tuple[CLIPModel, dict[str, float]]:
    """Trains the model; returns it with the last figures of the training set."""
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    parts = [
        draw_training_set(args.scenes, args.threads, clip.IMAGE_SIZE),
        draw_training_set(
            args.empty, args.threads, clip.IMAGE_SIZE, sprites=0, first=TRAIN_SEED + args.scenes
        ),
    ]
    photos, present = (torch.cat(part) for part in zip(*parts, strict=True))
    logger.info("drew %d scenes", len(photos))
    tokenizer = clip.build_tokenizer()
    model = clip.build_model(tokenizer, args.layers)
    clip.initialise_vision(model, clip.normalise(photos[:600]))
    optimizer = adamw(model.named_parameters(), args.learning_rate, args.weight_decay)

    def rate(step: int) -> float:
        """Warm-up over the first tenth, up to 100 steps; over all steps, half a cosine to zero."""
        warm_up = min(1.0, (step + 1) / max(1, min(100, args.steps // 10)))
        return warm_up * (1 + np.cos(np.pi * step / max(1, args.steps))) / 2

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    indices = batches(len(photos), args.batch_size, rng)
    figures = Figures()
    for step in range(args.steps):
        index = next(indices)
        pixels = augment(clip.normalise(photos[index]))
        texts, named = clip.write_captions(present[index], rng)
        kept = args.kept if step < args.steps - args.whole_steps else clip.GRID**2
        with torch.autocast("cpu", torch.bfloat16):
            views = clip.image_features(model, pixels, kept)
            captions = clip.text_features(model, tokenizer, texts)
        scale = model.logit_scale.exp()
        losses = {
            name: clip.contrast(images, captions, present[index], named, scale)
            for name, images in zip(("whole", "values"), views, strict=True)
        }
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=np.log(100))  # as CLIP's
        now = {name: loss.item() for name, loss in losses.items()}
        figures.add(step, {**now, "scale": scale.item()})
    return model.eval(), {**figures.values, "seconds": figures.seconds}


def save(model: CLIPModel, args: argparse.Namespace, figures: dict[str, float]) -> None:
    """Writes weights (fp16), configuration, tokenizer, image statistics and the run's record."""
    args.out.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(args.out)
    # Loaded, they are float32 again.
    config = json.loads((args.out / "config.json").read_text()) | {"dtype": "float32"}
    clip.build_tokenizer().save_pretrained(args.out)
    processor = {
        "crop_size": {"height": clip.IMAGE_SIZE, "width": clip.IMAGE_SIZE},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": clip.PIXEL_MEAN.flatten().tolist(),
        "image_processor_type": "CLIPImageProcessor",
        "image_std": clip.PIXEL_STD.flatten().tolist(),
        "resample": 3,
        "size": {"shortest_edge": clip.IMAGE_SIZE},
    }
    settings = {name: value for name, value in vars(args).items() if name != "out"}
    record = record_of("train_demo_clip.py", settings, model, figures)
    files = {"config": config, "preprocessor_config": processor, "training": record}
    for name, content in files.items():
        (args.out / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")


def main() -> None:
    """Trains and saves."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    model, figures = train(args)
    save(model, args, figures)


if __name__ == "__main__":
    main()
