"""PnP-OVSS whole: propose -> caption -> GradCAM -> Salience DropOut -> label maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ovss.batch_size import fitting_batch
from ovss.benchmark import Benchmark, PhotoBatch, label_of_id
from ovss.captions import TEMPLATE, Caption
from ovss.labelling import Labeller
from ovss.maps import LONGEST_SIDE, bounded, enlarge_labels, shared_shrunk
from ovss.preprocessing import InputSpec
from ovss.proposals import Proposal, Proposer
from ovss.salience import Rounds, SalienceDropout, Variant
from ovss.segmenter import Segmenter
from ovss.sharing import shared
from ovss.vlm import VLM, load_vlm

ClassNames = Sequence[tuple[str, ...]]
"""The classes to look for in a photo: for each its name and synonyms."""


class PnP(Segmenter):
    """Plug-and-play open-vocabulary segmentation with a frozen vision-language model.

    Args:
        vlm: the frozen model, or what `ovss.vlm.load_vlm` loads it by.
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
    variable: ClassVar[Mapping[str, str]] = {
        "rounds": "dropout.rounds",
        "patches": "dropout.patches",
        "layer": "layer",
        "head": "head",
        "threshold": "labeller.threshold",
        "blur": "labeller.blur",
        "refine": "labeller.refine",
    }

    def __init__(
        self,
        vlm: VLM | str | Path,
        layer: int = 7,
        head: int | str = 9,
        dropout: SalienceDropout = SalienceDropout(),
        labeller: Labeller = Labeller(),
        proposals: str | Proposer = "oracle",
        variant: Variant = "paper",
        template: str = TEMPLATE,
    ) -> None:
        super().__init__(proposals)
        vlm = vlm if isinstance(vlm, VLM) else load_vlm(vlm)
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
            "labeller": self.label_maps.labeller.settings(),
        }

    def varied(self, **settings: Any) -> PnP:
        """See `Segmenter.varied`."""
        other = super().varied(**settings)

        def given(*names: str) -> dict[str, Any]:
            return {name: settings[name] for name in names if name in settings}

        other.layer = settings.get("layer", self.layer)
        other.head = settings.get("head", self.head)
        other.vlm.check_choice(other.layer, other.head)
        other.dropout = replace(self.dropout, **given("rounds", "patches"))
        labeller = replace(self.label_maps.labeller, **given("threshold", "blur", "refine"))
        other.label_maps = LabelMaps(labeller, self.variant)
        return other

    @property
    def passes(self) -> int:
        """See `Segmenter.passes`: the rounds."""
        return self.dropout.rounds

    def names(self, benchmark: Benchmark) -> tuple[tuple[str, ...], ...]:
        """See `Segmenter.names`."""
        return tuple(
            self.names_of(label, benchmark) if own else ()
            for label, own in enumerate(benchmark.prompts)
        )

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
        names = tuple(
            tuple(self.names_of(label, benchmark) for label in self.searched(p)) for p in proposals
        )
        rounds, choice = self.dropout.rounds, (self.layer, self.head)
        # A single round is the first of several, but where these are rescaled.
        rescaled = rounds > 1 and benchmark.rescale and self.variant == "released"
        maps = shared().once(
            lambda: gradcam_rounds(
                self.vlm,
                pixel_values,
                names,
                *choice,
                self.dropout,
                benchmark.rescale,
                self.template,
            ).maps,
            "rounds", self.vlm, pixel_values, names, choice, replace(self.dropout, rounds=1),
            rescaled, self.template,
            cost=rounds * len(names),
            enough=lambda maps: all(len(own) >= rounds for own in maps),
        )  # fmt: skip
        return [own[:rounds] for own in maps]

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
                [self.searched(proposals[photo]) for photo in several],
                benchmark,
                self.dropout.rounds,
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

    def searched(self, proposal: Proposal) -> tuple[int, ...]:
        """The labels to look for in a photo, in the order of their names in the caption.

        `released`: as they were proposed; of answers that is their order, and twice what they name
        twice. `paper`: ascending and once, so that the same classes give the same label map,
        whoever proposes them.
        """
        if self.variant == "released":
            return proposal.labels
        return tuple(sorted(set(proposal.labels)))

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

    Photos beyond `LONGEST_SIDE` are labelled at that size, with distances of the refinement in its
    pixels.

    Args:
        labeller: threshold, blur and refinement.
        variant: `released` rescales classes in some cases, and renumbers labels as the released
            code does; see `forward`.
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
        rounds: int,
        threshold: float | None = None,
    ) -> list[Tensor]:
        """For each photo `(H, W)`: benchmark labels from the maps of one class or more.

        The released code min-max scales each upsampled class where there are several: of COCO
        always, of other benchmarks where there is one round.

        Args:
            photos: `(3, H_i, W_i)` uint8 each.
            maps: `(K_i, g, g)` each.
            labels: the benchmark's labels of each photo's K_i classes.
            benchmark: the classes.
            rounds: how many rounds of Salience DropOut the maps are summed over.
            threshold: in place of the labeller's.
        """
        labeller, released = self.labeller, self.variant == "released"
        if threshold is not None:
            labeller = replace(labeller, threshold=threshold)
        sizes = [(photo.shape[-2], photo.shape[-1]) for photo in photos]
        bounds = [bounded(size, LONGEST_SIDE) for size in sizes]
        local = labeller.batch(
            maps,
            [
                photo if size == bound else shared_shrunk(photo, bound)
                for photo, size, bound in zip(photos, sizes, bounds, strict=True)
            ],
            [benchmark.has_background(len(own)) for own in labels],
            [released and len(own) > 1 and (benchmark.rescale or rounds == 1) for own in labels],
        )
        if released:
            labels = [renumbered(own, benchmark) for own in labels]
        background = benchmark.background if benchmark.background is not None else 0
        # The labels of all photos in one tensor: each is a wait for a GPU.
        longest = max(map(len, labels), default=0)
        rows = [[background, *own, *[background] * (longest - len(own))] for own in labels]
        table = torch.tensor(rows, device=photos[0].device) if rows else ()
        found = [own[indices] for own, indices in zip(table, local, strict=True)]
        return [
            own if size == bound else enlarge_labels(own.to(torch.uint8), size)
            for own, size, bound in zip(found, sizes, bounds, strict=True)
        ]


def renumbered(labels: Sequence[int], benchmark: Benchmark) -> list[int]:
    """The labels that the released code leaves in place of those of a photo's classes.

    It writes each class's number (COCO: category id) over the index of its channel, from the last
    channel to the first, in one array: where a number equals the index of an earlier channel, its
    pixels are written over again, as that channel's.

    Args:
        labels: of the photo's classes, in the order of the channels.
        benchmark: the classes.

    Example:
        >>> from ovss.benchmark import of_classes
        >>> fruit = of_classes(["apple", "pear", "plum", "fig"])
        >>> renumbered([1, 2], fruit), renumbered([4, 1], fruit)
        ([1, 2], [4, 4])
    """
    number_of = {label: number for number, label in label_of_id(benchmark).items()}
    first = int(benchmark.has_background(len(labels)))
    left = []
    for channel, label in enumerate(labels):
        for earlier in reversed(range(channel)):
            if number_of.get(label) == earlier + first:  # distractors have no number
                label = labels[earlier]
        left.append(label)
    return left


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
    A name that several classes share stands there once, and its map counts for each of them;
    `released`, which knows one name a class, has it there for each of them.

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
    names = [caption_names(own, dropout.variant) for own in classes]
    captions: list[list[Caption]] = [vlm.captions(own, template) if own else [] for own in names]
    rounds = dropout.gradcam_rounds(vlm, pixel_values, captions, layer, head, rescale)
    return rounds._replace(
        maps=[merge_synonyms(*parts) for parts in zip(rounds.maps, names, classes, strict=True)]
    )


def caption_names(classes: ClassNames, variant: Variant = "paper") -> list[str]:
    """The names of a photo's classes as its caption has them.

    Example:
        >>> caption_names([("screen",), ("car", "auto"), ("screen",)])
        ['screen', 'car', 'auto']
        >>> caption_names([("screen",), ("car",), ("screen",)], "released")
        ['screen', 'car', 'screen']
    """
    names = [name for own in classes for name in own]
    return names if variant == "released" else list(dict.fromkeys(names))


def merge_synonyms(maps: Tensor, names: Sequence[str], classes: ClassNames) -> Tensor:
    """`(rounds, names, g, g)` -> `(rounds, classes, g, g)`: the maximum over a class's names."""
    if [(name,) for name in names] == [tuple(own) for own in classes]:
        return maps
    rows = {name: row for row, name in enumerate(names)}
    return torch.stack([maps[:, [rows[name] for name in own]].amax(1) for own in classes], 1)
