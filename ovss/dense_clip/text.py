"""CLIP's text encoder: names -> unit features, the mean over 80 templates."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.functional import normalize

from ovss.utils.files import check_regular, write_atomically
from ovss.utils.progress import Progress
from ovss.vlm.identity import built_from

log = logging.getLogger(__name__)

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
        self._folder: Path | None = None
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

    def keep_in(self, folder: Path) -> None:
        """Keep features in a folder, too, and take those that are there."""
        self._folder = folder

    def features(self, names: Sequence[str]) -> Tensor:
        """`(Q, E)` of all names; each is computed once and kept."""
        new = [name for name in dict.fromkeys(names) if name not in self._known]
        if new and self._folder is not None:
            self._known |= self._read(self._file(self._folder))
            new = [name for name in new if name not in self._known]
        device = self.projection.weight.device
        shown = len(new) >= WORTH_SHOWING and not _another_process_shows()
        progress = Progress("class names", len(new), unit="names", enabled=shown)
        with torch.no_grad(), progress:
            for name in new:
                self._known[name] = self(name).cpu()
                progress.advance()
        if new and self._folder is not None and not _another_process_shows():
            write_atomically(self._file(self._folder), save(self._known))
        return torch.stack([self._known[name] for name in names]).to(device)

    def _file(self, folder: Path) -> Path:
        """Where features of these weights, this tokenizer and these templates are."""
        total = hashlib.sha256(built_from(self.model, self.tokenizer).encode())
        total.update("\n".join(self.templates).encode())
        for weights in (*self.model.parameters(), self.projection.weight):
            total.update(weights.detach().float().cpu().contiguous().numpy().tobytes())
        return folder / f"{total.hexdigest()[:16]}.safetensors"

    def _read(self, file: Path) -> dict[str, Tensor]:
        """The kept features; none where the file is not as it was written."""
        if not file.exists():
            return {}
        try:
            check_regular(file)
            found = load(file.read_bytes())
        except (OSError, ValueError, SafetensorError) as error:
            log.warning("%s cannot be read (%s); its names are encoded anew.", file, error)
            return {}
        width = self.projection.out_features
        good = {
            name: feature
            for name, feature in found.items()
            if feature.shape == (width,) and abs(float(feature.norm()) - 1) < 1e-3
        }
        if len(good) < len(found):
            log.warning("%s holds what is no feature; it is left out.", file)
        return good


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
