"""The demo's tiny BLIP-ITM: its configuration, vocabulary, initial weights and training losses."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from demo_training import sine_positions, whitening
from ovss.datamodules.scene_generator import CLASSES
from torch import Tensor, nn
from transformers import BertTokenizer, BlipConfig, BlipForImageTextRetrieval

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

    Args:
        model: The model, changed in place.
        pixels: Some normalised photos, `(N, 3, H, W)`.
    """
    embeddings = model.vision_model.embeddings
    width = embeddings.embed_dim
    embeddings.position_embedding[:, 1:] = 0.7 * sine_positions(GRID, width)
    weight, bias = whitening(pixels, PATCH_SIZE, width)
    embeddings.patch_embedding.weight.copy_(weight)
    embeddings.patch_embedding.bias.copy_(bias)


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


class WordMatch(nn.Module):
    """Whether each class word of a caption is true, read from the word itself after `ROUTED_LAYER`.

    A caption that is a hard negative says which of its words is wrong, so this needs no more than
    the captions. It tells every word's cross-attention directly what the ITM loss tells it through
    [ENC] and two more layers, and saves the long plateau with which ITM alone begins.
    """

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(128, 1)

    def forward(self, hidden: Tensor, ids: Tensor, present: Tensor) -> Tensor:
        """The loss, from the words' states `(B, T, width)`, their ids `(B, T)` and the classes."""
        is_class = ids >= FIRST_CLASS_ID
        true = present.gather(1, (ids - FIRST_CLASS_ID).clamp_min(0))
        logits = self.head(hidden.float())[..., 0]
        return F.binary_cross_entropy_with_logits(logits[is_class], true[is_class])


class Routing:
    """Makes the evidence pass through the class words' cross-attention, in training only.

    A BLIP that is trained without it gathers evidence wherever it likes: in the words "a picture
    of", in every layer. GradCAM of a class word then has little to show.
    Two parts are switched off at random: the cross-attention of all other tokens and that of all
    other layers than `ROUTED_LAYER`. Besides, the attention of a word that
    is true is drawn towards the patches that the local contrast finds similar to the word.

    Args:
        opened: Share of the photos or steps in which each of the two parts is left on.
        sharpness: Power of the similarities that attention is drawn towards. The higher, the more
            attention keeps to the most telling patches.

    Attributes:
        divergence: KL divergence of the wanted attention from that of `ROUTED_LAYER` in the last
            pass, in nats.
        words: The words' states after `ROUTED_LAYER` in the last pass, `(B, T, width)`.
    """

    def __init__(self, opened: float, sharpness: float) -> None:
        self.opened = opened
        self.sharpness = sharpness
        self.divergence = torch.zeros(())
        self.words = self._wanted = self._guided = self._open_tokens = torch.empty(0)
        self._layers: set[int] = set()

    def begin(self, ids: Tensor, similarity: Tensor, present: Tensor, layers: int) -> None:
        """Draws what is off in this step.

        Args:
            ids: Token ids, `(B, T)`.
            similarity: Of patches and class words, `(B, patches, classes)`.
            present: Which classes the photo's caption names, `(B, classes)` bool.
            layers: Number of layers of the text encoder.
        """
        is_class = ids >= FIRST_CLASS_ID
        classes = (ids - FIRST_CLASS_ID).clamp_min(0)
        wanted = similarity.detach().clamp_min(0).transpose(1, 2) ** self.sharpness
        total = wanted.sum(-1, keepdim=True)
        found = present & (total[..., 0] > 0)
        wanted = wanted / total.clamp_min(1e-6)
        self._wanted = wanted.gather(1, classes[..., None].expand(-1, -1, wanted.shape[-1]))
        self._guided = is_class & found.gather(1, classes)

        opened = is_class | (torch.rand(len(ids), 1) < self.opened)
        self._open_tokens = opened.float()[..., None]
        every = bool(torch.rand(()) < self.opened)
        self._layers = set(range(layers)) if every else {ROUTED_LAYER}

    def _hook(self, layer: int, output: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        context, probabilities = output
        if layer not in self._layers:
            return context * 0, probabilities
        if layer == ROUTED_LAYER:
            attention = probabilities[..., 1:].float().transpose(1, 2)[self._guided]
            wanted = self._wanted[self._guided][:, None]
            entropy = torch.special.entr(wanted).sum(-1)
            cross = -(wanted * attention.clamp_min(1e-9).log()).sum(-1)
            self.divergence = (cross - entropy).mean()
        return context * self._open_tokens.to(context.dtype), probabilities

    def _keep_words(self, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        self.words = output

    @contextmanager
    def attached(self, model: BlipForImageTextRetrieval) -> Iterator[None]:
        """Listens to the cross-attention of every layer for as long as the context is open."""
        handles = [
            layer.crossattention.self.register_forward_hook(
                lambda _module, _inputs, output, index=index: self._hook(index, output)
            )
            for index, layer in enumerate(model.text_encoder.encoder.layer)
        ]
        routed = model.text_encoder.encoder.layer[ROUTED_LAYER]
        handles.append(routed.register_forward_hook(self._keep_words))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def match_logits(model: BlipForImageTextRetrieval, image: Tensor, ids: Tensor) -> Tensor:
    """ITM logits of several captions a photo in one pass.

    The captions of a photo are laid end to end; a block-diagonal self-attention keeps them apart,
    so the result equals separate calls while the photo's keys and values are computed once.

    Args:
        model: The model.
        image: The vision encoder's output, `(B, 1 + patches, width)`.
        ids: `(B, K, CAPTION_LENGTH)`.

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
    ).last_hidden_state
    return model.itm_head(hidden.view(batch, captions, length, -1)[:, :, 0])
