"""BridgeTower with its image-text-matching head."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from ovss.captions import Caption
from ovss.vlm.attention import WORTHWHILE, use_onednn
from ovss.vlm.base import VLM, ImageStatistics, Tokens
from ovss.vlm.hooks import first_row, start_graph
from ovss.vlm.loading import (
    CLIP_STATISTICS,
    checkpoint_name,
    image_statistics,
    load_pretrained,
    new_grid,
    resize_positions,
)

ATTENTION = "ovss_recorded"
"""Name under which `recorded_attention` stands in transformers' `AttentionInterface`."""

_recording: ContextVar[tuple[dict[nn.Module, int], dict[int, Tensor]] | None] = ContextVar(
    "recording", default=None
)


class BridgeTowerITM(VLM):
    """`transformers.BridgeTowerForImageAndTextRetrieval` behind the method's interface.

    Two cross-modal streams run side by side over the last L layers of the text and the vision
    tower; the layers and heads here are those of the text stream's cross-attention to the image.
    The vision tower does not see the text, so its part is in `encode_image`; the image stream
    attends to the text, so it is in the matching.

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
        name: str = "bridgetower",
        statistics: ImageStatistics = CLIP_STATISTICS,
    ) -> None:
        super().__init__()
        from transformers import AttentionInterface

        AttentionInterface.register(ATTENTION, recorded_attention)
        self.model = model.eval().requires_grad_(False)
        self.model.set_attn_implementation(ATTENTION)
        self.tokenizer = tokenizer
        self.name = name
        self.statistics = statistics
        vision, text = model.config.vision_config, model.config.text_config
        self.image_size, self.patch_size = vision.image_size, vision.patch_size
        self.num_layers = model.config.num_hidden_layers
        self.num_heads = text.num_attention_heads
        if self.grid**2 >= WORTHWHILE:
            use_onednn(self.model.bridgetower)
        # RoBERTa counts positions from the padding index + 1.
        self.max_tokens = text.max_position_embeddings - text.pad_token_id - 1

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        image_size: int | None = None,
        revision: str | None = None,
    ) -> BridgeTowerITM:
        """Load a BridgeTower-ITM checkpoint.

        Args:
            name_or_path: hub id such as `BridgeTower/bridgetower-base-itm-mlm`, or a local folder.
            image_size: side of the square input in pixels, a multiple of the patch size; position
                embeddings are interpolated to it. Default: the checkpoint's own.
            revision: branch, tag or commit on the hub.

        Raises:
            FileNotFoundError: no such folder or model, or files missing.
            ValueError: another architecture, no matching head, or an impossible `image_size`.
        """
        model, tokenizer = load_pretrained(
            _architecture(), name_or_path, revision, "bridgetower", optional="itc_"
        )
        vision = model.config.vision_config
        grid = new_grid(vision, image_size)
        if grid is not None:
            embeddings = model.bridgetower.vision_model.visual.embeddings
            table = resize_positions(embeddings.position_embedding.weight, grid)
            embeddings.position_embedding = nn.Embedding.from_pretrained(table, freeze=True)
            embeddings.num_positions, embeddings.num_patches = len(table), len(table) - 1
            embeddings.position_ids = torch.arange(len(table))[None]
            vision.image_size = embeddings.image_size = image_size
        statistics = image_statistics(name_or_path, revision)
        return cls(model, tokenizer, checkpoint_name(name_or_path, revision), statistics)

    @torch.no_grad()
    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """What the cross-modal layers take from the vision tower: `(B, L, 1 + g*g, D)`.

        Entry l is the input of bridge l, in the cross-modal layers' width.
        """
        tower = self.model.bridgetower
        visual = tower.vision_model.visual
        kind = tower.token_type_embeddings.weight[1]
        blocks = visual.transformer.resblocks[: len(tower.text_model.encoder.layer)]
        hidden = visual.forward_pre(pixel_values)
        states: list[Tensor] = []
        for number, block in enumerate(blocks, start=self.num_layers - len(blocks)):
            hidden = block(hidden)
            if number >= 0:
                normed = visual.forward_post(hidden)
                states.append(tower.cross_modal_image_transform(normed) + kind)
        return torch.stack(states, 1)

    def _match(self, features: Tensor, tokens: Tokens) -> Tensor:
        tower = self.model.bridgetower
        mask = _additive_mask(tokens.attention_mask, features.dtype)
        kind = tower.token_type_embeddings.weight[0]
        text_states = [
            tower.cross_modal_text_transform(state) + kind
            for state in self._text_states(tokens, mask)[-self.num_layers :]
        ]
        # The image stream depends on the caption, so shared features need a row for each.
        image_states = features.expand(len(tokens.input_ids), *features.shape[1:]).unbind(1)
        text = tower.cross_modal_text_layernorm(text_states[0])
        image = tower.cross_modal_image_layernorm(image_states[0])
        # The matching head reads the first tokens alone: the last layer needs no other patch.
        with first_row(tower.cross_modal_image_layers[self.num_layers - 1].attention):
            for number in range(self.num_layers):
                if number > 0:
                    link = number - 1
                    text = tower.cross_modal_text_link_tower[link](text_states[number], text, mask)
                    image = tower.cross_modal_image_link_tower[link](
                        image_states[number], image, None
                    )
                text_layer = tower.cross_modal_text_layers[number]
                image_layer = tower.cross_modal_image_layers[number]
                text, image = (
                    text_layer(text, image, attention_mask=mask)[0],
                    image_layer(image, text, encoder_attention_mask=mask)[0],
                )
        return self.model.itm_score(tower.get_cls_features(text, image))

    def _text_states(self, tokens: Tokens, mask: Tensor) -> list[Tensor]:
        """Output `(B, T + 1, D)` of each layer of the text tower."""
        text_model = self.model.bridgetower.text_model
        hidden, states = text_model.embeddings(input_ids=tokens.input_ids), []
        for layer in text_model.encoder.layer:
            output = layer(hidden, mask)
            # transformers 5.0 returns a tuple here, later releases the tensor.
            hidden = output if isinstance(output, Tensor) else output[0]
            states.append(hidden)
        return states

    @contextmanager
    def _record_attention(self, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
        blocks = self.model.bridgetower.cross_modal_text_layers
        recorded: dict[int, Tensor] = {}
        token = _recording.set(
            ({blocks[layer].crossattention.self: layer for layer in layers}, recorded)
        )
        try:
            yield recorded
        finally:
            _recording.reset(token)

    @torch.no_grad()
    def embed_image(self, features: Tensor) -> Tensor:
        """See `VLM.embed_image`."""
        head = self._contrastive_head("itc_image_head")
        return nn.functional.normalize(head(features[:, -1, 0]), dim=-1)

    @torch.no_grad()
    def embed_text(self, captions: Sequence[Caption]) -> Tensor:
        """See `VLM.embed_text`."""
        head = self._contrastive_head("itc_text_head")
        tokens = self.tokenize(captions)
        mask = _additive_mask(tokens.attention_mask, next(self.parameters()).dtype)
        return nn.functional.normalize(head(self._text_states(tokens, mask)[-1][:, 0]), dim=-1)

    def _contrastive_head(self, name: str) -> nn.Module:
        head = getattr(self.model, name, None)
        if head is None:
            raise ValueError(
                f"Expected {self.name!r} to have contrastive heads for image-text similarity, but "
                "it has none; use `itm`, or take BridgeTower/bridgetower-large-itm-mlm-itc."
            )
        return head


def recorded_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention that hands the probabilities of the layers asked for to the recorder.

    There the arithmetic is that of transformers' eager attention, in eval mode, where dropout does
    nothing; in all other layers it is fused, so that no maps of all patches are made.

    Args:
        module: the attention layer.
        query: `(B, N, T, d)`.
        key: `(B, N, S, d)`.
        value: `(B, N, S, d)`.
        attention_mask: added to the scores; broadcasts to `(B, N, T, S)`.
        scaling: factor of the scores.

    Returns:
        The output `(B, T, N, d)`, and in the layers asked for the probabilities `(B, N, T, S)`.
    """
    recording = _recording.get()
    if recording is None or module not in recording[0]:
        context = scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, scale=scaling
        )
        return context.transpose(1, 2).contiguous(), None
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    probabilities = start_graph(scores.softmax(-1))
    recording[1][recording[0][module]] = probabilities
    return torch.matmul(probabilities, value).transpose(1, 2).contiguous(), probabilities


@lru_cache(maxsize=1)
def _architecture() -> Any:
    """The transformers class, with the contrastive heads that one published checkpoint adds."""
    from transformers import BridgeTowerForImageAndTextRetrieval

    class BridgeTowerForRetrieval(BridgeTowerForImageAndTextRetrieval):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            # The width stands only in the configuration of the checkpoint that has the heads,
            # which are named as in transformers.BridgeTowerForContrastiveLearning.
            width = getattr(config, "contrastive_hidden_size", 0)
            for name in ("itc_text_head", "itc_image_head") if width else ():
                head: OrderedDict[str, nn.Module] = OrderedDict()
                head["fc"] = nn.Linear(config.hidden_size, width)
                setattr(self, name, nn.Sequential(head))
            self.post_init()

    return BridgeTowerForRetrieval


def _additive_mask(attention_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """`(B, T)` of 1 and 0 -> `(B, 1, 1, T)` of 0 and the lowest number."""
    return (1 - attention_mask[:, None, None].to(dtype)) * torch.finfo(dtype).min
