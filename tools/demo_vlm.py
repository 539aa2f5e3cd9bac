"""The demo's tiny BLIP-ITM: its configuration, vocabulary, initial weights and training losses."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertTokenizer, BlipConfig, BlipForImageTextRetrieval

from datamodules.drawing import CLASSES

IMAGE_SIZE = 128
PATCH_SIZE = 8
GRID = IMAGE_SIZE // PATCH_SIZE
PIXEL_MEAN, PIXEL_STD = 0.5, 0.25
ROUTED_LAYER = 1
"""The text layer whose cross-attention is trained to carry the evidence, counted from 0."""

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]")
VOCABULARY = {
    word: index
    for index, word in enumerate((*SPECIALS, "a", "picture", "of", "and", ".", ",", *CLASSES))
}
FIRST_CLASS_ID = VOCABULARY[CLASSES[0]]
CAPTION_LENGTH = 9
"""Tokens of the longest caption: [ENC] a picture of, four classes, [SEP]."""


def build_tokenizer() -> BertTokenizer:
    """A WordPiece tokenizer that knows the words of the captions and BLIP's two extra tokens."""
    return BertTokenizer(
        vocab=dict(VOCABULARY),
        do_lower_case=True,
        bos_token="[DEC]",
        additional_special_tokens=["[ENC]"],
    )


def build_model(heads: int) -> BlipForImageTextRetrieval:
    """A randomly initialised BLIP-ITM of about 1.5 million parameters.

    Args:
        heads: Attention heads of the text encoder.
    """
    # The usual 0.02 suits widths of 768; at width 128 it keeps every layer near zero for long.
    init = 0.06
    text = {
        "vocab_size": len(VOCABULARY),
        "hidden_size": 128,
        "encoder_hidden_size": 128,
        "intermediate_size": 384,
        "projection_dim": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": heads,
        "max_position_embeddings": 32,
        "bos_token_id": VOCABULARY["[DEC]"],
        "eos_token_id": VOCABULARY["[SEP]"],
        "sep_token_id": VOCABULARY["[SEP]"],
        "pad_token_id": VOCABULARY["[PAD]"],
        "is_decoder": True,
        "layer_norm_eps": 1e-6,
        "initializer_range": init,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    vision = {
        "hidden_size": 128,
        "intermediate_size": 384,
        "projection_dim": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH_SIZE,
        "initializer_range": init,
    }
    return BlipForImageTextRetrieval(
        BlipConfig(
            text_config=text,
            vision_config=vision,
            image_text_hidden_size=64,
            projection_dim=64,
            initializer_range=init,
        )
    )


@torch.no_grad()
def initialise_vision(model: BlipForImageTextRetrieval, pixels: Tensor) -> None:
    """Starts the vision encoder from sine positions and whitened patches.

    Both are what the layers would learn first; given, they save a few hundred steps.

    Args:
        model: The model, changed in place.
        pixels: Some normalised photos, `(N, 3, H, W)`.
    """
    embeddings = model.vision_model.embeddings
    width = embeddings.embed_dim
    frequency = 30.0 ** -(torch.arange(width // 4) / (width // 4))
    waves = torch.arange(GRID)[:, None] * frequency
    waves = torch.cat([waves.sin(), waves.cos()], 1)
    rows = waves[:, None].expand(GRID, GRID, -1)
    columns = waves[None].expand(GRID, GRID, -1)
    positions = torch.cat([rows, columns], -1).reshape(GRID * GRID, width)
    embeddings.position_embedding[:, 1:] = 0.7 * positions

    patches = F.unfold(pixels, PATCH_SIZE, stride=PATCH_SIZE).transpose(1, 2).flatten(0, 1)
    centre = patches.mean(0)
    patches = patches - centre
    variance, axes = torch.linalg.eigh(patches.T @ patches / len(patches))
    whitening = (axes[:, -width:] / torch.sqrt(variance[-width:] + 0.03)).T
    # A rotation spreads the strong components over all channels.
    whitening = torch.linalg.qr(torch.randn(width, width))[0] @ whitening
    embeddings.patch_embedding.weight.copy_(whitening.view(width, 3, PATCH_SIZE, PATCH_SIZE))
    embeddings.patch_embedding.bias.copy_(-whitening @ centre)


def encode_caption(classes: list[int], length: int = CAPTION_LENGTH) -> list[int]:
    """Token ids of "A picture of ..." for class indices, padded; [ENC] leads, as in BLIP."""
    prefix = [VOCABULARY[word] for word in ("[ENC]", "a", "picture", "of")]
    ids = [*prefix, *(FIRST_CLASS_ID + index for index in classes), VOCABULARY["[SEP]"]]
    return ids + [VOCABULARY["[PAD]"]] * (length - len(ids))


class LocalContrast(nn.Module):
    """Local image-text contrast: does any patch of the photo look like the word?

    The similarity of a word and a photo is the log-mean-exp over the photo's patches, compared
    with the caption by a sigmoid loss.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(-1.5))
        self.scale = nn.Parameter(torch.tensor(2.0))
        words = [[VOCABULARY["[CLS]"], *encode_caption([k], 6)[1:]] for k in range(len(CLASSES))]
        self.register_buffer("words", torch.tensor(words))

    def similarity(self, model: BlipForImageTextRetrieval, image: Tensor) -> Tensor:
        """`(B, patches, classes)` from the vision encoder's output `(B, 1 + patches, width)`."""
        encoder = model.text_encoder
        hidden = encoder.encoder(encoder.embeddings(input_ids=self.words)).last_hidden_state[:, 0]
        text = F.normalize(model.text_proj(hidden).float(), dim=-1)
        return model.vision_proj(image[:, 1:]).float() @ text.T

    def forward(self, similarity: Tensor, present: Tensor) -> Tensor:
        """The loss, from `(B, patches, classes)` and which classes are present `(B, classes)`."""
        pooled = torch.logsumexp(similarity * self.scale, 1) - math.log(similarity.shape[1])
        return F.binary_cross_entropy_with_logits(pooled + self.bias, present)


class Routing:
    """Makes the evidence pass through the class words' cross-attention, in training only.

    A BLIP that is trained without it gathers evidence wherever it likes: in the words "a picture
    of", in every layer, in the image's [CLS]. GradCAM of a class word then has little to show.
    Three parts are switched off at random: the cross-attention of all other tokens, that of all
    other layers than `ROUTED_LAYER`, and the image's [CLS]. Besides, the attention of class words
    is kept from collapsing onto few patches.

    Attributes:
        other_tokens: Share of the photos in which the other tokens attend to the photo, too.
        other_layers: Share of the steps in which the other layers attend to the photo, too.
        image_cls: Share of the photos whose [CLS] is visible.
        diffuse: KL divergence of attention from uniform, in nats, that is not penalised.
    """

    def __init__(
        self, diffuse: float, other_tokens: float, other_layers: float, image_cls: float
    ) -> None:
        self.diffuse = diffuse
        self.other_tokens = other_tokens
        self.other_layers = other_layers
        self.image_cls = image_cls
        self.concentration: list[Tensor] = []
        self._class_words = self._open_tokens = torch.empty(0)
        self._layers: set[int] = set()

    def begin(self, ids: Tensor, layers: int) -> Tensor:
        """Draws what is off in this step; returns the additive mask `(B, 1, 1, 1 + patches)`."""
        batch = len(ids)
        self.concentration = []
        self._class_words = (ids >= FIRST_CLASS_ID).float()
        opened = (torch.rand(batch, 1) < self.other_tokens).float()
        self._open_tokens = torch.maximum(self._class_words, opened)[..., None]
        every = bool(torch.rand(()) < self.other_layers)
        self._layers = set(range(layers)) if every else {ROUTED_LAYER}
        mask = torch.zeros(batch, 1, 1, 1 + GRID * GRID)
        mask[:, 0, 0, 0] = torch.where(torch.rand(batch) < self.image_cls, 0.0, -1e4)
        return mask

    def _hook(self, layer: int, output: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        context, probabilities = output
        if layer not in self._layers:
            return context * 0, probabilities
        p = probabilities.float().clamp_min(1e-9)
        divergence = (p * p.log()).sum(-1).mean(1) + math.log(p.shape[-1])
        excess = F.relu(divergence - self.diffuse) * self._class_words
        self.concentration.append(excess.sum() / self._class_words.sum())
        return context * self._open_tokens.to(context.dtype), probabilities

    @contextmanager
    def attached(self, model: BlipForImageTextRetrieval) -> Iterator[None]:
        """Listens to the cross-attention of every layer for as long as the context is open."""
        handles = [
            layer.crossattention.self.register_forward_hook(
                lambda _module, _inputs, output, index=index: self._hook(index, output)
            )
            for index, layer in enumerate(model.text_encoder.encoder.layer)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def match_logits(
    model: BlipForImageTextRetrieval, image: Tensor, ids: Tensor, image_mask: Tensor
) -> Tensor:
    """ITM logits of several captions a photo in one pass.

    The captions of a photo are laid end to end; a block-diagonal self-attention keeps them apart,
    so the result equals separate calls while the photo's keys and values are computed once.

    Args:
        model: The model.
        image: The vision encoder's output, `(B, 1 + patches, width)`.
        ids: `(B, K, CAPTION_LENGTH)`.
        image_mask: Additive, `(B, 1, 1, 1 + patches)`.

    Returns:
        `(B, K, 2)`.
    """
    batch, captions, length = ids.shape
    flat = ids.flatten(1)
    block = torch.arange(captions).repeat_interleave(length)
    visible = (block[:, None] == block[None])[None, None] & (flat != 0)[:, None, None]
    positions = torch.arange(length).repeat(captions).expand(batch, -1)
    hidden = model.text_encoder.embeddings(input_ids=flat, position_ids=positions)
    hidden = model.text_encoder.encoder(
        hidden,
        attention_mask=torch.where(visible, 0.0, -1e4),
        encoder_hidden_states=image,
        encoder_attention_mask=image_mask,
    ).last_hidden_state
    return model.itm_head(hidden.view(batch, captions, length, -1)[:, :, 0])
