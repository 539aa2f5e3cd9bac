"""BLIP with its image-text-matching head."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ovss.captions import Caption
from ovss.demo import CHECKPOINT as DEMO
from ovss.vlm.attention import speed_up_blip
from ovss.vlm.base import VLM, ImageStatistics, Tokens
from ovss.vlm.hooks import probabilities_from_hooks
from ovss.vlm.loading import (
    CLIP_STATISTICS,
    checkpoint_name,
    image_statistics,
    load_pretrained,
    new_grid,
    resize_positions,
)

log = logging.getLogger(__name__)

PUBLISHED_WIDTH, PUBLISHED_HEAD_WIDTH, PUBLISHED_EPS = 768, 64, 1e-6
"""Of BLIP's own configurations: the text encoder's width, the width of a head of either encoder,
and the vision encoder's layer-norm epsilon."""

LONGEST = 256
"""Tokens of a photo's captions in one sequence, whose self-attention grows with their square."""


class BlipITM(VLM):
    """`transformers.BlipForImageTextRetrieval` behind the method's interface.

    Args:
        model: the frozen model.
        tokenizer: its fast tokenizer.
        name: where the weights came from.
        statistics: pixel mean and standard deviation.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        name: str = "blip",
        statistics: ImageStatistics = CLIP_STATISTICS,
    ) -> None:
        super().__init__()
        speed_up_blip(model)
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name
        self.statistics = statistics
        vision, text = model.config.vision_config, model.config.text_config
        self.image_size, self.patch_size = vision.image_size, vision.patch_size
        self.num_layers, self.num_heads = text.num_hidden_layers, text.num_attention_heads
        self.max_tokens = text.max_position_embeddings
        encode = tokenizer.get_vocab().get("[ENC]")
        # Salesforce's published tokenizers know neither token; BLIP added [DEC], then [ENC].
        self.encode_token = text.bos_token_id + 1 if encode is None else encode
        if not 0 <= self.encode_token < text.vocab_size:
            raise ValueError(
                f"Expected an [ENC] token within the text encoder's {text.vocab_size} embeddings, "
                f"but got id {self.encode_token}; this is not a BLIP-ITM checkpoint."
            )

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        image_size: int | None = None,
        revision: str | None = None,
    ) -> BlipITM:
        """Load a BLIP-ITM checkpoint.

        Args:
            name_or_path: hub id such as `Salesforce/blip-itm-large-flickr`, a local folder, or
                `demo` for the tiny model that ships with the package.
            image_size: side of the square input in pixels, a multiple of the patch size; position
                embeddings are interpolated to it. Default: the checkpoint's own.
            revision: branch, tag or commit on the hub; default: the one in
                `ovss.vlm.loading.REVISIONS`, else the newest.

        Raises:
            FileNotFoundError: no such folder or model, or files missing.
            ValueError: another architecture, no matching head, an impossible `image_size`, or a
                number of attention heads that no published checkpoint was trained with.
        """
        from transformers import BlipForImageTextRetrieval

        name = checkpoint_name(name_or_path, revision)
        if str(name_or_path) == "demo":
            name_or_path = DEMO
        model, tokenizer = load_pretrained(
            BlipForImageTextRetrieval, name_or_path, revision, "blip"
        )
        check_published(model.config, name)
        vision = model.config.vision_config
        grid = new_grid(vision, image_size)
        if grid is not None:
            embeddings = model.vision_model.embeddings
            embeddings.position_embedding = resize_positions(embeddings.position_embedding, grid)
            vision.image_size = embeddings.image_size = image_size
        return cls(model, tokenizer, name, image_statistics(name_or_path, revision))

    def _prepare_ids(self, input_ids: Tensor) -> Tensor:
        # transformers leaves [CLS] in place; BLIP's matching head was trained on [ENC].
        return torch.cat(
            [torch.full_like(input_ids[:, :1], self.encode_token), input_ids[:, 1:]], 1
        )

    @torch.no_grad()
    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """See `VLM.encode_image`."""
        return self.model.vision_model(pixel_values=pixel_values).last_hidden_state

    def stages(self) -> dict[str, nn.Module]:
        """See `VLM.stages`."""
        return {"vision": self.model.vision_model, "text": self.model.text_encoder.encoder}

    def _match(self, features: Tensor, tokens: Tokens) -> Tensor:
        hidden = self._encode_text(tokens.input_ids, tokens.attention_mask, features)
        return self.model.itm_head(hidden[:, 0])

    def _encode_text(
        self, input_ids: Tensor, attention_mask: Tensor, features: Tensor | None = None
    ) -> Tensor:
        """Hidden states `(B, T, D)`, with or without a photo's features."""
        text = self.model.text_encoder
        embedded = text.embeddings(input_ids=input_ids)
        # The whole text encoder makes this mask only where something is masked, which a GPU would
        # have to finish its work to say.
        hidden = torch.finfo(embedded.dtype).min
        mask = torch.where(attention_mask.bool(), 0.0, hidden).to(embedded.dtype)
        return text.encoder(
            embedded, attention_mask=mask[:, None, None], encoder_hidden_states=features
        ).last_hidden_state

    @torch.no_grad()
    def match_each(self, features: Tensor, captions: Sequence[Sequence[Caption]]) -> list[Tensor]:
        """See `VLM.match_each`: a photo's captions share its keys and values.

        They stand behind each other in one sequence, each with positions of its own, and no token
        sees another caption's. Where they are too many for that, one photo is done after the other.
        """
        tokens = self.tokenize([caption for own in captions for caption in own])
        counts, length = [len(own) for own in captions], tokens.input_ids.shape[1]
        most, device = max(counts), tokens.input_ids.device
        if most * length > LONGEST:
            photos = zip(features.split(1), captions, strict=True)
            return [self._match(photo, self.tokenize(own)) for photo, own in photos]
        filled = (torch.arange(most) < torch.tensor(counts)[:, None]).to(device)
        ids = tokens.input_ids.new_zeros(len(counts), most, length)
        seen = torch.zeros(len(counts), most, length, dtype=torch.bool, device=device)
        ids[filled], seen[filled] = tokens.input_ids, tokens.attention_mask.bool()
        text = self.model.text_encoder
        embedded = text.embeddings(
            input_ids=ids.flatten(1), position_ids=torch.arange(length, device=device).repeat(most)
        )
        caption = torch.arange(most, device=device).repeat_interleave(length)
        visible = (caption[:, None] == caption) & seen.flatten(1)[:, None, :]
        mask = torch.where(visible, 0.0, torch.finfo(embedded.dtype).min).to(embedded.dtype)
        hidden = text.encoder(
            embedded, attention_mask=mask[:, None], encoder_hidden_states=features
        ).last_hidden_state
        first = hidden.view(len(counts), most, length, -1)[:, :, 0]
        return list(self.model.itm_head(first[filled]).split(counts))

    @torch.no_grad()
    def embed_image(self, features: Tensor) -> Tensor:
        """See `VLM.embed_image`."""
        return nn.functional.normalize(self.model.vision_proj(features[:, 0]), dim=-1)

    @torch.no_grad()
    def embed_text(self, captions: Sequence[Caption]) -> Tensor:
        """See `VLM.embed_text`."""
        tokens = self.tokenize(captions)
        # Contrastive training read [CLS]; [ENC] is for matching alone.
        first = torch.full_like(tokens.input_ids[:, :1], self.tokenizer.cls_token_id)
        hidden = self._encode_text(
            torch.cat([first, tokens.input_ids[:, 1:]], 1), tokens.attention_mask
        )
        return nn.functional.normalize(self.model.text_proj(hidden[:, 0]), dim=-1)

    def _record_attention(self, layers: Sequence[int]) -> Any:
        blocks = self.model.text_encoder.encoder.layer
        return probabilities_from_hooks(
            {layer: blocks[layer].crossattention.self.dropout for layer in layers}
        )


def check_published(config: Any, name: str) -> None:
    """Refuse a published BLIP with a configuration that gives silently wrong maps.

    Hub configurations once said 8 text heads for 12 (transformers issue 22625): the weights fit all
    the same. Models of another width are nobody's but their owner's, and not checked.

    Args:
        config: a `BlipConfig`.
        name: the checkpoint, for messages.

    Raises:
        ValueError: the width of a head is not 64.
    """
    if config.text_config.hidden_size != PUBLISHED_WIDTH:
        return
    for part in (config.text_config, config.vision_config):
        heads = part.hidden_size // PUBLISHED_HEAD_WIDTH
        if part.num_attention_heads != heads:
            section = "text_config" if part is config.text_config else "vision_config"
            raise ValueError(
                f"Expected `{section}.num_attention_heads` in config.json of {name} to be {heads} "
                f"({part.hidden_size} / {PUBLISHED_HEAD_WIDTH}, as BLIP was trained), but got "
                f"{part.num_attention_heads}: its maps would be wrong. Give a `revision` with the "
                "corrected configuration (docs/vlms.md has those that are known), or correct a "
                "local copy."
            )
    eps = config.vision_config.layer_norm_eps
    if eps != PUBLISHED_EPS:
        log.warning(
            "%s: `vision_config.layer_norm_eps` is %g where BLIP was trained with %g. On the "
            "recorded cases that moves match logits by 3e-5 and no label.",
            name,
            eps,
            PUBLISHED_EPS,
        )
