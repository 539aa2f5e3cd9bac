"""The demo's tiny CLIP: its configuration, tokenizer, first weights, captions and training loss."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from demo_training import sine_positions, whitening
from ovss.datamodules.scene_generator import CLASSES
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from ovss.dense_clip.text import TEMPLATES

IMAGE_SIZE = 128
PATCH_SIZE = 8
GRID = IMAGE_SIZE // PATCH_SIZE
PIXEL_MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
PIXEL_STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
"""CLIP's own."""

NOTHING = "background"
"""What the caption of a scene without any class names."""


def caption(classes: Sequence[int], template: str) -> str:
    """A prompt that names classes, or `NOTHING`.

    Example:
        >>> caption([0, 6], "a photo of a {}.")
        'a photo of a tree and sun.'
    """
    return template.format(" and ".join(CLASSES[k] for k in classes) or NOTHING)


def learn_merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, the most frequent pair first, until each word is one token.

    Unlike those of `tokenizers`, they are the same in every run: of equally frequent pairs the
    last in the alphabet is merged.
    """
    pieces = [(*word[:-1], f"{word[-1]}</w>") for word in sorted(set(words))]
    merges: list[tuple[str, str]] = []
    while True:
        pairs = Counter(pair for word in pieces for pair in pairwise(word))
        if not pairs:
            return merges
        merges.append(max(pairs, key=lambda pair: (pairs[pair], pair)))
        pieces = [_merged(word, merges[-1]) for word in pieces]


def _merged(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """A word's pieces with each occurrence of a pair as one piece."""
    found: list[str] = []
    for piece in word:
        if found and (found[-1], piece) == pair:
            found[-1] += piece
        else:
            found.append(piece)
    return tuple(found)


def build_tokenizer() -> CLIPTokenizer:
    """CLIP's byte-pair encoding, with merges that make each of the captions' words one token.

    Ids are in CLIP's order: bytes, bytes at the end of a word, merges, start and end of a text.
    """
    words = re.findall("[a-z]+", " ".join((*TEMPLATES, *CLASSES, NOTHING, "and")).lower())
    merges = learn_merges(words)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    ends = (f"{letter}</w>" for letter in alphabet)
    tokens = (*alphabet, *ends, *map("".join, merges), "<|startoftext|>", "<|endoftext|>")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)


def build_model(tokenizer: CLIPTokenizer, layers: int) -> CLIPModel:
    """A randomly initialised CLIP of about 0.7 million parameters.

    Args:
        tokenizer: Its tokenizer.
        layers: Of the image encoder.
    """
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 77,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH_SIZE,
    }
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=64)
    return CLIPModel(config)


@torch.no_grad()
def initialise_vision(model: CLIPModel, pixels: Tensor) -> None:
    """Starts the image encoder from sine positions, whitened patches, and attention to likeness.

    Args:
        model: The model, changed in place.
        pixels: Some normalised photos, `(N, 3, H, W)`.
    """
    embeddings = model.vision_model.embeddings
    weight, bias = whitening(pixels, PATCH_SIZE, embeddings.embed_dim)
    embeddings.patch_embedding.weight.copy_(weight)
    # CLIP's patch embedding has no bias; the positions take it up.
    positions = 0.7 * sine_positions(GRID, embeddings.embed_dim) + bias
    embeddings.position_embedding.weight[1:] = positions
    for layer in model.vision_model.encoder.layers:
        attention = layer.self_attn
        attention.k_proj.weight.mul_(2)
        attention.q_proj.weight.copy_(attention.k_proj.weight)


def normalise(photos: Tensor) -> Tensor:
    """From bytes to the values that the model takes."""
    return (photos.float() / 255 - PIXEL_MEAN) / PIXEL_STD


def image_features(model: CLIPModel, pixels: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """Unit features of photos `(B, E)`, seen through some of their patches.

    Leaving out patches in training makes a step as many times cheaper, and the evidence for a
    class does not depend on its most telling patch alone (FLIP, Li et al. 2023).

    Args:
        model: The model.
        pixels: `(B, 3, H, W)`, normalised.
        kept: How many patches stay, by chance.

    Returns:
        CLIP's own features, and those of what [CLS] gathers in the last layer alone, without
        residual connections and MLP: a mean of the patches' values, which dense methods read.
    """
    vision = model.vision_model
    tokens = vision.embeddings(pixels)
    order = torch.rand(len(tokens), tokens.shape[1] - 1).argsort(1)[:, :kept, None]
    patches = tokens[:, 1:].gather(1, order.expand(-1, -1, tokens.shape[-1]))
    hidden = vision.pre_layrnorm(torch.cat([tokens[:, :1], patches], 1))
    *layers, last = vision.encoder.layers
    for layer in layers:
        out = layer(hidden, None)
        hidden = out[0] if isinstance(out, tuple) else out
    gathered = last.self_attn(last.layer_norm1(hidden))[0][:, 0]
    whole = hidden[:, 0] + gathered
    whole = whole + last.mlp(last.layer_norm2(whole))

    def project(states: Tensor) -> Tensor:
        return F.normalize(model.visual_projection(vision.post_layernorm(states)).float(), dim=-1)

    return project(whole), project(gathered)


def text_features(model: CLIPModel, tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    """Unit features of texts, `(B, E)`."""
    inputs = tokenizer(list(texts), padding=True, return_tensors="pt")
    return F.normalize(model.get_text_features(**inputs).pooler_output.float(), dim=-1)


def write_captions(present: Tensor, rng: np.random.Generator) -> tuple[list[str], Tensor]:
    """A caption for each photo: one of its classes, some, or all, in a prompt of any kind.

    Args:
        present: Which classes each photo shows, `(B, classes)` bool.
        rng: Where the randomness comes from.

    Returns:
        The captions, and which classes they name, `(B, classes)` bool.
    """
    texts, named = [], torch.zeros_like(present)
    for row, inside in enumerate(present.numpy()):
        classes = rng.permutation(np.flatnonzero(inside))
        classes = classes[: rng.integers(1, len(classes) + 1) if len(classes) else 0]
        texts.append(caption([int(k) for k in classes], TEMPLATES[rng.integers(len(TEMPLATES))]))
        named[row, classes] = True
    return texts, named


def contrast(
    images: Tensor, texts: Tensor, present: Tensor, named: Tensor, scale: Tensor
) -> Tensor:
    """CLIP's loss (InfoNCE, both ways), in which what is true of another photo is no negative.

    Args:
        images: Unit features of the photos, `(B, E)`.
        texts: Unit features of their captions, `(B, E)`.
        present: Which classes each photo shows, `(B, classes)` bool.
        named: Which classes each caption names, `(B, classes)` bool.
        scale: What cosines are multiplied with.
    """
    # A caption without any class is true of a photo without any.
    missing = named.float() @ (~present).float().T  # (captions, photos)
    neither = (~named.any(1))[:, None] & (~present.any(1))[None]
    true = torch.where(named.any(1)[:, None], missing == 0, neither).T
    own = torch.arange(len(images))
    others = true & (own[:, None] != own)
    logits = (scale * images @ texts.T).masked_fill(others, -torch.inf)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
