"""CLIP's text encoder: names -> unit features, the mean over 80 templates."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ovss.utils.progress import Progress

TEMPLATES: tuple[str, ...] = tuple(
    (files("ovss.dense_clip") / "data" / "templates.txt").read_text("utf-8").splitlines()
)
"""CLIP's 80 prompts for ImageNet, which all the references use, with `{}` for the name."""


WORTH_SHOWING = 50
"""Names from which there is a progress bar: each is 80 texts, which take a CPU most of a second."""


class TextEncoder(nn.Module):
    """A name -> `(E,)` of unit length.

    Args:
        clip: a `transformers.CLIPModel`; its text side is shared, not copied.
        tokenizer: its tokenizer.
        templates: prompts with `{}` for the name.

    Raises:
        ValueError: a tokenizer of another model.
    """

    def __init__(self, clip: Any, tokenizer: Any, templates: Sequence[str] = TEMPLATES) -> None:
        super().__init__()
        self.model = clip.text_model
        self.projection = clip.text_projection
        self.tokenizer = tokenizer
        self.templates = tuple(templates)
        self._known: dict[str, Tensor] = {}
        _check_tokenizer(tokenizer, clip.config.text_config)

    def forward(self, name: str) -> Tensor:
        """The unit mean of the templates' unit embeddings, `(E,)` in float32."""
        # Once a run: half precision gains nothing here.
        with torch.autocast(self.projection.weight.device.type, enabled=False):
            embeddings = normalize(self.embeddings(name).float(), dim=-1)
            return normalize(embeddings.mean(0), dim=-1)

    def embeddings(self, name: str) -> Tensor:
        """`(80, E)`: what CLIP makes of a name in each template.

        Raises:
            ValueError: a name that is longer than CLIP's texts may be.
        """
        most = self.model.config.max_position_embeddings
        encoded = self.tokenizer(
            [template.format(name) for template in self.templates],
            padding=True,
            return_tensors="pt",
        )
        length = encoded["input_ids"].shape[1]
        if length > most:
            raise ValueError(
                f"Expected class names of at most {most} tokens in a prompt, but {name[:40]!r}... "
                f"has {length}; shorten it."
            )
        inputs = {
            key: encoded[key].to(self.projection.weight.device)
            for key in ("input_ids", "attention_mask")
        }
        return self.projection(self.model(**inputs).pooler_output)

    def features(self, names: Sequence[str]) -> Tensor:
        """`(Q, E)` of all names; each is computed once and kept."""
        new = [name for name in dict.fromkeys(names) if name not in self._known]
        device = self.projection.weight.device
        shown = len(new) >= WORTH_SHOWING and not _another_process_shows()
        progress = Progress("class names", len(new), unit="names", enabled=shown)
        with torch.no_grad(), progress:
            for name in new:
                self._known[name] = self(name).cpu()
                progress.advance()
        return torch.stack([self._known[name] for name in names]).to(device)


def _another_process_shows() -> bool:
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return distributed and torch.distributed.get_rank() > 0


def _check_tokenizer(tokenizer: Any, config: Any) -> None:
    """Refuse a tokenizer whose ids the text encoder does not know, or reads another end of."""
    # OpenAI's configurations say 2; transformers then takes the largest id for the end.
    end = config.vocab_size - 1 if config.eos_token_id == 2 else config.eos_token_id
    if len(tokenizer) > config.vocab_size or tokenizer.eos_token_id != end:
        raise ValueError(
            f"Expected a tokenizer of up to {config.vocab_size} tokens with {end} at the end of a "
            f"text, but got {len(tokenizer)} tokens and {tokenizer.eos_token_id}; take the one "
            "that was published with the weights."
        )
