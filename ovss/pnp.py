"""PnP-OVSS whole: propose -> caption -> GradCAM -> Salience DropOut -> label maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from ovss.batch_size import fitting_batch
from ovss.benchmark import Benchmark, PhotoBatch
from ovss.captions import TEMPLATE, Caption
from ovss.labelling import Labeller
from ovss.maps import LONGEST_SIDE, bounded, enlarge_labels, shrink_photo
from ovss.preprocessing import InputSpec
from ovss.proposals import Proposal, Proposer
from ovss.salience import Rounds, SalienceDropout, Variant
from ovss.segmenter import Segmenter
from ovss.vlm import VLM

ClassNames = Sequence[tuple[str, ...]]
"""The classes to look for in a photo: for each its name and synonyms."""


class PnP(Segmenter):
    """Plug-and-play open-vocabulary segmentation with a frozen vision-language model.

    Args:
        vlm: the frozen model.
        layer: cross-attention layer, counted from 0.
        head: head of that layer, counted from 0, or `mean` over heads.
        dropout: Salience DropOut's settings.
        labeller: from class maps to label maps.
        proposals: which classes to look for in a photo: `oracle`, `all`, or another kind.
        variant: `paper`, or `released` for the released code's numerics.
        template: caption with `{}` for the class names.

    Raises:
        ValueError: a layer or head that the model does not have, or whose maps are always zero; or
            a template without exactly one `{}`.
    """

    method = "pnp-ovss"
    vlm: VLM

    def __init__(
        self,
        vlm: VLM,
        layer: int = 7,
        head: int | str = 9,
        dropout: SalienceDropout = SalienceDropout(),
        labeller: Labeller = Labeller(),
        proposals: str | Proposer = "oracle",
        variant: Variant = "paper",
        template: str = TEMPLATE,
    ) -> None:
        super().__init__(proposals)
        vlm.check_choice(layer, head)
        if dropout.variant not in ("paper", variant):
            raise ValueError(
                f"Expected `dropout.variant` to be that of the method, but got {dropout.variant!r} "
                f"with `variant` {variant!r}; give `variant` alone."
            )
        Caption.of(["class"], template)  # before photos are read
        self.vlm = vlm.requires_grad_(False)
        self.model = vlm.name
        self.layer = layer
        self.head = head
        self.dropout = replace(dropout, variant=variant)
        self.variant = variant
        self.template = template
        self.label_maps = LabelMaps(labeller, variant)
        self.eval()

    def input_spec(self, benchmark: Benchmark) -> InputSpec:
        """See `Segmenter.input_spec`."""
        if self.variant == "released" and not benchmark.normalise:
            return InputSpec(self.vlm.image_size, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear")
        statistics = self.vlm.statistics
        return InputSpec(self.vlm.image_size, statistics.mean, statistics.std)

    def settings(self) -> dict[str, Any]:
        """See `Segmenter.settings`."""
        return {
            **super().settings(),
            "variant": self.variant,
            "vlm": self.vlm.settings(),
            "layer": self.layer,
            "head": self.head,
            "template": self.template,
            "dropout": self.dropout.settings(),
            "labeller": asdict(self.label_maps.labeller),
        }

    def fitting_batch(self, device: torch.device) -> int:
        """See `Segmenter.fitting_batch`."""
        return fitting_batch(self.vlm, device, self.layer, self.head)

    def stages(self) -> dict[str, nn.Module]:
        """See `Segmenter.stages`."""
        return {**self.vlm.stages(), "label": self.label_maps}

    def forward(
        self, batch: PhotoBatch, benchmark: Benchmark, proposals: Sequence[Proposal]
    ) -> list[Tensor]:
        """See `Segmenter.forward`.

        A photo without proposed classes is all background or, where the benchmark has none, all of
        the class that the matching head likes best.
        """
        rounds = self.rounds(batch.stacked, benchmark, proposals)
        return self.label(batch, benchmark, proposals, rounds)

    def rounds(
        self, pixel_values: Tensor, benchmark: Benchmark, proposals: Sequence[Proposal]
    ) -> list[Tensor]:
        """For each photo `(rounds, K_i, g, g)`: class maps of each round of Salience DropOut."""
        names = [[self.names_of(label, benchmark) for label in p.labels] for p in proposals]
        return gradcam_rounds(
            self.vlm,
            pixel_values,
            names,
            self.layer,
            self.head,
            self.dropout,
            benchmark.rescale,
            self.template,
        ).maps

    def label(
        self,
        batch: PhotoBatch,
        benchmark: Benchmark,
        proposals: Sequence[Proposal],
        rounds: Sequence[Tensor],
    ) -> list[Tensor]:
        """For each photo `(H, W)`: benchmark labels from its rounds; see `forward`."""
        several = [photo for photo, proposal in enumerate(proposals) if proposal.labels]
        found = iter(
            self.label_maps(
                [batch.photos[photo] for photo in several],
                [self.dropout.combine(rounds[photo]) for photo in several],
                [proposals[photo].labels for photo in several],
                benchmark,
            )
        )
        labels = []
        for photo, proposal in enumerate(proposals):
            if proposal.labels:
                labels.append(next(found))
            else:
                own = self._label_without_proposal(batch.stacked[photo : photo + 1], benchmark)
                size = batch.photos[photo].shape[-2:]
                labels.append(torch.full(size, own, device=batch.device))
        return labels

    def names_of(self, label: int, benchmark: Benchmark) -> tuple[str, ...]:
        """What a class is called in captions: its name and synonyms."""
        if self.variant == "released":
            released = benchmark.released_prompts
            # The released code takes one word as one class, so it removes the blanks in names.
            return (
                released[label]
                if released
                else tuple("".join(name.split()) for name in benchmark.prompts[label][:1])
            )
        return benchmark.prompts[label]

    def _label_without_proposal(self, pixel_values: Tensor, benchmark: Benchmark) -> int:
        if benchmark.background is not None:
            return benchmark.background
        names = [self.names_of(label, benchmark)[0] for label in benchmark.searchable]
        features = self.vlm.encode_image(pixel_values)
        logits = [
            self.vlm.match(features, self.vlm.captions([name], self.template))[0, 1]
            for name in names
        ]
        return benchmark.searchable[int(torch.stack(logits).argmax())]


class LabelMaps(nn.Module):
    """Class maps of photos -> label maps with a benchmark's labels.

    Photos beyond `LONGEST_SIDE` are labelled at that size, with the CRF's distances in its pixels.

    Args:
        labeller: threshold, blur and CRF.
        variant: `released` rescales COCO's classes.
    """

    def __init__(self, labeller: Labeller, variant: Variant) -> None:
        super().__init__()
        self.labeller = labeller
        self.variant = variant

    def forward(
        self,
        photos: Sequence[Tensor],
        maps: Sequence[Tensor],
        labels: Sequence[Sequence[int]],
        benchmark: Benchmark,
        threshold: float | None = None,
    ) -> list[Tensor]:
        """For each photo `(H, W)`: benchmark labels from the maps of one class or more.

        Args:
            photos: `(3, H_i, W_i)` uint8 each.
            maps: `(K_i, g, g)` each.
            labels: the benchmark's labels of each photo's K_i classes.
            benchmark: the classes.
            threshold: in place of the labeller's.
        """
        labeller = self.labeller
        if threshold is not None:
            labeller = replace(labeller, threshold=threshold)
        sizes = [(photo.shape[-2], photo.shape[-1]) for photo in photos]
        bounds = [bounded(size, LONGEST_SIDE) for size in sizes]
        local = labeller.batch(
            maps,
            [
                photo if size == bound else shrink_photo(photo, bound)
                for photo, size, bound in zip(photos, sizes, bounds, strict=True)
            ],
            [benchmark.has_background(len(own)) for own in labels],
            rescale=benchmark.rescale and self.variant == "released",
        )
        background = benchmark.background if benchmark.background is not None else 0
        found = [
            torch.tensor([background, *own], device=indices.device)[indices]
            for own, indices in zip(labels, local, strict=True)
        ]
        return [
            own if size == bound else enlarge_labels(own.to(torch.uint8), size)
            for own, size, bound in zip(found, sizes, bounds, strict=True)
        ]


def gradcam_rounds(
    vlm: VLM,
    pixel_values: Tensor,
    classes: Sequence[ClassNames],
    layer: int,
    head: int | str,
    dropout: SalienceDropout,
    rescale: bool = False,
    template: str = TEMPLATE,
) -> Rounds:
    """The class maps of each round of Salience DropOut.

    A class with synonyms has all of them in the caption, and the elementwise maximum of their maps.
    A name that several classes share stands there once, and its map counts for each of them.

    Args:
        vlm: the frozen model.
        pixel_values: `(B, 3, S, S)`, normalised.
        classes: for each photo the classes to look for; none at all is allowed.
        layer: cross-attention layer, counted from 0.
        head: head, counted from 0, or `"mean"`.
        dropout: rounds and patches.
        rescale: the released code's scaling of COCO maps.
        template: caption with `{}` for the names.

    Returns:
        `Rounds` whose maps have a row for each class (not for each synonym).
    """
    captions: list[list[Caption]] = [
        vlm.captions(unique_names(own), template) if own else [] for own in classes
    ]
    rounds = dropout.gradcam_rounds(vlm, pixel_values, captions, layer, head, rescale)
    return rounds._replace(
        maps=[merge_synonyms(maps, own) for maps, own in zip(rounds.maps, classes, strict=True)]
    )


def unique_names(classes: ClassNames) -> list[str]:
    """The names of a photo's classes, each once.

    Example:
        >>> unique_names([("screen",), ("car", "auto"), ("screen",)])
        ['screen', 'car', 'auto']
    """
    return list(dict.fromkeys(name for names in classes for name in names))


def merge_synonyms(maps: Tensor, classes: ClassNames) -> Tensor:
    """`(rounds, names, g, g)` -> `(rounds, classes, g, g)`: the maximum over a class's names."""
    rows = {name: row for row, name in enumerate(unique_names(classes))}
    if all(len(names) == 1 for names in classes) and len(rows) == len(classes):
        return maps
    parts = [maps[:, [rows[name] for name in names]].amax(1) for names in classes]
    return torch.stack(parts, 1)
