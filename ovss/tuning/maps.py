"""Class maps of the tuning photos for any setting, each computed once."""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ovss.captions import TEMPLATE
from ovss.pnp import ClassNames, caption_names, gradcam_rounds, merge_synonyms
from ovss.salience import SalienceDropout
from ovss.tuning.photos import TuningPhotos, chunked
from ovss.tuning.space import Setting
from ovss.vlm.base import VLM


class MapStore:
    """The first round of all layers and heads from one pass a photo; later rounds as asked for.

    Args:
        vlm: the frozen model.
        photos: the photos.
        names: for each photo, its classes' names.
        dropout: variant and relevance; its rounds and patches are the settings'.
        rescale: see `ovss.pnp.gradcam_rounds`.
        template: caption with `{}` for the names.
        batch_size: photos in a pass.
        memory: bytes that the first round's maps may take; above it they go to a file that is
            mapped into memory and vanishes with the process.
        folder: where that file goes; default: the system's folder for temporary files.
        progress: told after every batch how many photos it had.

    Raises:
        ValueError: maps without the gradient weight, which one pass for all layers cannot give.
    """

    def __init__(
        self,
        vlm: VLM,
        photos: TuningPhotos,
        names: Sequence[ClassNames],
        dropout: SalienceDropout,
        rescale: bool = False,
        template: str = TEMPLATE,
        batch_size: int = 16,
        memory: int = 2 << 30,
        folder: Path | None = None,
        progress: Callable[[int], None] = lambda photos: None,
    ) -> None:
        if dropout.relevance != "gradcam":
            raise ValueError(
                f"Expected `dropout.relevance` to be 'gradcam' for tuning, but got "
                f"{dropout.relevance!r}."
            )
        self.vlm = vlm
        self.photos = photos
        self.names = list(names)
        self.dropout = dropout
        self.rescale = rescale
        self.template = template
        self.batch_size = batch_size
        self.passes = 0
        """Forward and backward passes so far, counted in photos."""
        counts = [len(classes) for classes in self.names]
        self._starts = [0, *np.cumsum(counts).tolist()]
        shape = (self._starts[-1], len(vlm.layers), vlm.num_heads + 1, vlm.grid, vlm.grid)
        self._first = _array(shape, memory, folder)
        self._later: OrderedDict[tuple[int, int | str, int | float, int], Tensor] = OrderedDict()
        self._later_bytes, self._memory = 0, memory
        for chunk in chunked(len(photos), batch_size):
            self._first_round(chunk)
            progress(len(chunk))

    @property
    def mapped(self) -> bool:
        """Whether the first round's maps are in a file."""
        return isinstance(self._first, np.memmap)

    def __call__(self, setting: Setting, photos: Sequence[int]) -> list[Tensor]:
        """For each photo `(K_i, g, g)`: its class maps, summed over the rounds.

        Args:
            setting: its threshold is not used here.
            photos: places in `TuningPhotos`.
        """
        if setting.rounds == 1:
            layer = list(self.vlm.layers).index(setting.layer)
            head = self.vlm.num_heads if setting.head == "mean" else int(setting.head)
            parts = [
                self._first[self._starts[p] : self._starts[p + 1], layer, head] for p in photos
            ]
            rounds = [torch.from_numpy(np.array(part))[None] for part in parts]
        else:
            rounds = self._several(setting, photos)
        return [self.dropout.combine(maps) for maps in rounds]

    def _first_round(self, chunk: Sequence[int]) -> None:
        """Fill in the first round of some photos."""
        names = {p: caption_names(self.names[p], self.dropout.variant) for p in chunk}
        captions = [self.vlm.captions(names[p], self.template) for p in chunk]
        owners = [row for row, own in enumerate(captions) for _ in own]
        tokens = self.vlm.tokenize([caption for own in captions for caption in own])
        pixels = self.photos.pixel_values[chunk[0] : chunk[-1] + 1].to(self.vlm.device)
        features = self.vlm.encode_image(pixels)[torch.tensor(owners, device=pixels.device)]
        maps = self.vlm.attend_all(features, tokens).maps
        # The mean over heads comes before the maximum over synonyms, as in `VLM.attend`.
        maps = torch.cat([maps, maps.mean(1, keepdim=True)], 1)
        pooled = torch.einsum("bkt,lnbtyx->bklnyx", self.dropout.pooling(tokens), maps)
        self.passes += len(chunk)
        for row, photo in enumerate(chunk):
            own = [caption for caption, owner in enumerate(owners) if owner == row]
            groups = [tokens.groups[caption] for caption in own]
            parts = [pooled[c, : len(g)] for c, g in zip(own, groups, strict=True)]
            class_maps = torch.cat(parts).permute(1, 2, 0, 3, 4)
            merged = merge_synonyms(class_maps.flatten(0, 1), names[photo], self.names[photo])
            merged = merged.unflatten(0, class_maps.shape[:2]).permute(2, 0, 1, 3, 4)
            self._first[self._starts[photo] : self._starts[photo + 1]] = (
                merged.float().cpu().numpy()
            )

    def _several(self, setting: Setting, photos: Sequence[int]) -> list[Tensor]:
        """`(rounds, K_i, g, g)` each, from the cache or from passes."""
        keys = {p: (setting.layer, setting.head, setting.patches, p) for p in photos}
        missing = [
            p
            for p, key in keys.items()
            if key not in self._later or len(self._later[key]) < setting.rounds
        ]
        for chunk in chunked(len(missing), self.batch_size):
            some = [missing[i] for i in chunk]
            dropout = replace(self.dropout, rounds=setting.rounds, patches=setting.patches)
            seen = gradcam_rounds(
                self.vlm,
                self.photos.pixel_values[some].to(self.vlm.device),
                [self.names[p] for p in some],
                setting.layer,
                setting.head,
                dropout,
                self.rescale,
                self.template,
            )
            self.passes += len(some) * setting.rounds
            for p, maps in zip(some, seen.maps, strict=True):
                self._keep(keys[p], maps.float().cpu())
        found = []
        for key in keys.values():
            self._later.move_to_end(key)
            # The first rounds of a longer run are those of a shorter one.
            found.append(self._later[key][: setting.rounds])
        self._shrink()
        return found

    def _keep(self, key: tuple[int, int | str, int | float, int], maps: Tensor) -> None:
        old = self._later.pop(key, None)
        self._later_bytes += maps.nbytes - (0 if old is None else old.nbytes)
        self._later[key] = maps

    def _shrink(self) -> None:
        """Forget what was not asked for the longest, above the memory limit."""
        while self._later_bytes > self._memory and self._later:
            _, maps = self._later.popitem(last=False)
            self._later_bytes -= maps.nbytes


def _array(shape: tuple[int, ...], memory: int, folder: Path | None) -> np.ndarray:
    """Zeros in memory or, above so many bytes, in a file."""
    if 4 * int(np.prod(shape)) <= memory:
        return np.zeros(shape, np.float32)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        # The mapping outlives the file's name and handle; the space is freed with it.
        return np.memmap(file, np.float32, "w+", shape=shape)
