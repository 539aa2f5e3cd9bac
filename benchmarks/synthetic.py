"""What the benchmarks run on where nothing can be downloaded: random weights, drawn photos."""

from pathlib import Path

import numpy as np
import torch
from ovss.datamodules.specs import prompt_names
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BlipConfig, BlipForImageTextRetrieval, PreTrainedTokenizerFast

from ovss.vlm import BlipITM

# Width x height; the mean of VOC's photos is about 500 x 375, both ways up.
SIZES = ((500, 375), (375, 500), (500, 333), (500, 375), (333, 500), (480, 360))
PRESENT = (1, 2, 1, 3, 2, 1)
"""Classes in a photo, in turn; VOC's photos have 1.5 on average."""


def large_blip(image_size: int = 336, small: bool = False) -> BlipForImageTextRetrieval:
    """Draw a random BLIP-large; `small` is one of the same shape that runs in no time."""
    torch.manual_seed(0)
    text = {
        "vocab_size": 30524,
        "hidden_size": 768,
        "encoder_hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "bos_token_id": 30522,
    }
    vision = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": image_size,
        "patch_size": 16,
        "initializer_range": 0.02,
    }
    if small:
        text |= {"hidden_size": 48, "encoder_hidden_size": 32, "intermediate_size": 64}
        vision |= {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    return BlipForImageTextRetrieval(BlipConfig(text_config=text, vision_config=vision)).eval()


def tokenizer() -> PreTrainedTokenizerFast:
    """Make a fast tokenizer that knows the captions' words, with BERT's special tokens."""
    words = ["a", "picture", "of"]
    words += [word for names in prompt_names("voc20") for name in names for word in name.split()]
    vocabulary = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[ENC]": 30523}
    for word in dict.fromkeys(words):
        vocabulary[word] = 1000 + len(vocabulary)
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 101), ("[SEP]", 102)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]"}
    return PreTrainedTokenizerFast(tokenizer_object=core, sep_token="[SEP]", **special)


def vlm(image_size: int = 336, small: bool = False) -> BlipITM:
    """Put the random model behind the method's interface."""
    return BlipITM(large_blip(image_size, small), tokenizer(), "random BLIP-large")


def write_voc(root: Path, photos: int, seed: int = 0) -> None:
    """Write photos and masks in the VOC layout: smooth noise with a disc for each class.

    Args:
        root: folder that gets `VOCdevkit`.
        photos: how many.
        seed: of the drawing.
    """
    folder = root / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    names = []
    for number in range(photos):
        width, height = SIZES[number % len(SIZES)]
        coarse = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        photo = np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
        # Sensor noise: without it the bilateral lattice would have far fewer vertices.
        photo = photo + random.normal(0, 6, photo.shape)
        mask = np.zeros((height, width), np.uint8)
        y, x = np.ogrid[:height, :width]
        for label in random.choice(np.arange(1, 21), PRESENT[number % len(PRESENT)], False):
            centre = random.uniform(0.2, 0.8, 2) * (height, width)
            inside = np.hypot(y - centre[0], x - centre[1]) < random.uniform(0.1, 0.3) * height
            photo[inside] = 0.5 * photo[inside] + 0.5 * random.integers(0, 256, 3)
            mask[inside] = label
        name = f"synthetic_{number:05d}"
        image = Image.fromarray(photo.clip(0, 255).astype(np.uint8))
        image.save(folder / "JPEGImages" / f"{name}.jpg", quality=92)
        Image.fromarray(mask).save(folder / "SegmentationClass" / f"{name}.png")
        names.append(name)
    listing = folder / "ImageSets" / "Segmentation" / "val.txt"
    listing.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
