"""What the method and the scores need to know of a benchmark, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ovss.captions import normalise_names

Protocol = Literal["standard", "released"]
"""`standard`: the field's scoring (mmsegmentation's). `released`: the paper's own code's."""

BackgroundRule = Literal["always", "few", "never"]
"""When the method adds a background channel: always, when fewer than 3 classes are looked for
(the released code's rule for Pascal Context, ADE20K and COCO-Stuff), or never."""


@dataclass(frozen=True)
class Benchmark:
    """Classes of a benchmark and how they are scored.

    Attributes:
        key: short name, such as `voc21`.
        title: name for people, such as `Pascal VOC 2012 (21 classes)`.
        protocol: how masks become labels and how classes are averaged.
        classes: a name for each label 0..K-1, background included where it is scored.
        prompts: for each label the names to look for (synonyms); empty for labels that are never
            looked for, such as background.
        released_prompts: the same with the released code's spelling.
        palette: an RGB colour for each label.
        background: the background's label; None where there is none.
        background_rule: when the method adds a background channel.
        ignore_index: mask value that is not scored.
        rescale: the released code min-max scales this benchmark's maps (COCO).
        normalise: False where the released code feeds pixels in 0..1, resized bilinearly (ADE20K).
        expected: photos in the whole split; None where any number will do.
        prompts_file: name of the file of one's own that `prompts` come from; None for the usual
            ones.
        distractors: how many of `classes`, the last ones, are names of things that are in no photo;
            see `with_distractors`.
    """

    key: str
    title: str
    protocol: Protocol
    classes: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...]
    palette: tuple[tuple[int, int, int], ...]
    released_prompts: tuple[tuple[str, ...], ...] = ()
    background: int | None = None
    background_rule: BackgroundRule = "never"
    ignore_index: int = 255
    rescale: bool = False
    normalise: bool = True
    expected: int | None = None
    prompts_file: str | None = None
    distractors: int = 0

    def __post_init__(self) -> None:
        for name in ("prompts", "palette"):
            if len(getattr(self, name)) != len(self.classes):
                raise ValueError(
                    f"Expected `{name}` to have an entry for each of the {len(self.classes)} "
                    f"classes, but got {len(getattr(self, name))}."
                )
        if (self.background is None) != (self.background_rule == "never"):
            raise ValueError(
                "Expected `background` to be a label exactly where the background rule can add "
                f"one, but got background={self.background} with rule {self.background_rule!r}."
            )

    @property
    def searchable(self) -> tuple[int, ...]:
        """Labels that can be looked for."""
        return tuple(label for label, names in enumerate(self.prompts) if names)

    @property
    def scored(self) -> int:
        """How many of the classes, the first ones, have an IoU: all but the distractors."""
        return len(self.classes) - self.distractors

    def settings(self) -> dict[str, Any]:
        """What decides a label map or its score."""
        return {
            "key": self.key,
            "protocol": self.protocol,
            "classes": self.classes,
            "prompts": self.prompts,  # the names themselves, whatever their file is called
            "released_prompts": self.released_prompts,
            "background": self.background,
            "background_rule": self.background_rule,
            "ignore_index": self.ignore_index,
            "rescale": self.rescale,
            "normalise": self.normalise,
            # Only where there are any, so that folders of before go on being this run's.
            **({"distractors": self.distractors} if self.distractors else {}),
        }

    def has_background(self, looked_for: int) -> bool:
        """Whether a photo with that many classes to look for gets a background channel."""
        return self.background_rule == "always" or (
            self.background_rule == "few" and looked_for < 3
        )


class Unreadable(NamedTuple):
    """A photo that could not be read, nor its ground truth, or that the method failed on.

    Attributes:
        id: the photo's name.
        reason: what was wrong; where a file was, with its path.
    """

    id: str
    reason: str


class PhotoBatch(NamedTuple):
    """Some photos on their way through the method.

    Attributes:
        ids: a name for each photo, unique in its data set.
        photos: uint8 RGB, `(3, H_i, W_i)` each.
        pixel_values: resized and normalised for the model: `(B, 3, S, S)`, or `(3, h_i, w_i)` each
            where the method's `InputSpec` keeps the ratio.
        present: image-level labels of each photo, in ascending order; None where unknown.
        masks: ground truth `(H_i, W_i)` uint8 each; None where there is none.
        unreadable: photos that belong here but could not be read; the other fields are without
            them.
    """

    ids: Sequence[str]
    photos: Sequence[Tensor]
    pixel_values: Tensor | Sequence[Tensor]
    present: Sequence[tuple[int, ...]] | None = None
    masks: Sequence[Tensor] | None = None
    unreadable: Sequence[Unreadable] = ()

    @property
    def stacked(self) -> Tensor:
        """Pixels `(B, 3, S, S)` for a model that takes squares.

        Raises:
            ValueError: the photos keep their ratio.
        """
        if not isinstance(self.pixel_values, Tensor):
            raise ValueError(
                "Expected `pixel_values` of one size for this model, but got photos that keep "
                "their ratio; give the data module the model's own `spec`, or none."
            )
        return self.pixel_values

    @property
    def device(self) -> torch.device:
        """Where the pixels are."""
        return self.pixel_values[0].device if len(self.pixel_values) else torch.device("cpu")

    def take(self, rows: slice | list[int]) -> PhotoBatch:
        """Some of the photos, without what could not be read."""

        def of(values: Sequence[Any]) -> Sequence[Any]:
            return values[rows] if isinstance(rows, slice) else [values[row] for row in rows]

        pixels = self.pixel_values
        return PhotoBatch(
            of(self.ids),
            of(self.photos),
            pixels[rows] if isinstance(pixels, Tensor) else of(pixels),
            None if self.present is None else of(self.present),
            None if self.masks is None else of(self.masks),
        )

    def with_present(self, labels: Sequence[int]) -> PhotoBatch:
        """The same with `present` read off the masks, where there are masks and it is not given.

        Args:
            labels: those that can be present, such as `Benchmark.searchable`.
        """
        if self.present is not None or self.masks is None:
            return self
        there = [set(mask.unique().tolist()) for mask in self.masks]
        return self._replace(present=[tuple(sorted(each.intersection(labels))) for each in there])

    def named(self, ids: Sequence[str]) -> PhotoBatch:
        """The photos with these names, in their order."""
        if list(ids) == list(self.ids):  # nearly always: nothing is copied
            return self
        rows = {name: row for row, name in enumerate(self.ids)}
        return self.take([rows[name] for name in ids])


def of_classes(classes: Sequence[str], background: bool = True) -> Benchmark:
    """A benchmark of one's own: class names in label order, after a background at label 0.

    Args:
        classes: names to look for; synonyms of one class are separated by `;`.
        background: whether pixels may belong to none of them.

    Example:
        >>> of_classes(["cat", "dog; puppy"]).prompts
        ((), ('cat',), ('dog', 'puppy'))
    """
    synonyms = tuple(
        tuple(name.strip() for name in line.split(";") if name.strip()) for line in classes
    )
    normalise_names([name for names in synonyms for name in names])
    for line, names in zip(classes, synonyms, strict=True):
        if not names:
            raise ValueError(f"Expected class names, but got {line!r} among {list(classes)}.")
    blank: tuple[tuple[str, ...], ...] = ((),) if background else ()
    titles = tuple(names[0] for names in synonyms)
    return Benchmark(
        key="custom",
        title=f"{len(classes)} classes of one's own",
        protocol="standard",
        classes=("background", *titles) if background else titles,
        prompts=(*blank, *synonyms),
        palette=voc_palette(len(classes) + 1)[0 if background else 1 :],
        background=0 if background else None,
        background_rule="always" if background else "never",
    )


def with_distractors(benchmark: Benchmark, names: Sequence[str]) -> Benchmark:
    """The benchmark with further names to look for that are in no photo.

    They are labels after those of the classes. A pixel that gets one is missed for its true class;
    they have no IoU and no part in a mean.

    Args:
        benchmark: the classes.
        names: none of which is a class or one of its names.

    Raises:
        ValueError: a name that is there already, or more labels than a label map of bytes has.

    Example:
        >>> pets = with_distractors(of_classes(["cat", "dog"]), ["sky"])
        >>> pets.classes, pets.prompts[3], pets.scored
        (('background', 'cat', 'dog', 'sky'), ('sky',), 3)
    """
    names = normalise_names(names)
    own = {name.casefold() for each in (benchmark.classes, *benchmark.prompts) for name in each}
    known = [name for name in names if name.casefold() in own]
    if known:
        raise ValueError(
            f"Expected distractors that are no names of {benchmark.title}, but got {known[:5]}."
        )
    labels = range(len(benchmark.classes), len(benchmark.classes) + len(names))
    most = min(255, benchmark.ignore_index) if benchmark.ignore_index >= labels.start else 255
    if labels.stop > most:
        raise ValueError(
            f"Expected at most {most - labels.start} distractors beside the {labels.start} classes "
            f"of {benchmark.title}, as labels are bytes, but got {len(names)}."
        )
    released = benchmark.released_prompts
    colours = voc_palette(labels.stop + len(benchmark.palette))
    free = [colour for colour in colours[labels.start :] if colour not in benchmark.palette]
    return replace(
        benchmark,
        classes=(*benchmark.classes, *names),
        prompts=(*benchmark.prompts, *((name,) for name in names)),
        # The released code takes one word as one class.
        released_prompts=released and (*released, *(("".join(n.split()),) for n in names)),
        palette=(*benchmark.palette, *free[: len(names)]),
        distractors=benchmark.distractors + len(names),
    )


def voc_palette(count: int) -> tuple[tuple[int, int, int], ...]:
    """Pascal VOC's colours: the bits of the index, dealt to red, green and blue, high bits first.

    Example:
        >>> voc_palette(3)
        ((0, 0, 0), (128, 0, 0), (0, 128, 0))
    """

    def channel(index: int, shift: int) -> int:
        return sum((index >> (3 * bit + shift) & 1) << (7 - bit) for bit in range(3))

    return tuple((channel(i, 0), channel(i, 1), channel(i, 2)) for i in range(count))


COCO_ABSENT = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91})
"""COCO category ids in 1..182 that no annotation bears (cocostuff's labels.md)."""

COCO_THINGS, COCO_THINGS_AND_STUFF = 80, 171


def label_of_id(benchmark: Benchmark) -> dict[int, int]:
    """The number that released answers use for each class -> its label.

    Raises:
        ValueError: a COCO benchmark with another number of classes than COCO has.
    """
    labels = [label for label in benchmark.searchable if label < benchmark.scored]
    if not benchmark.key.startswith("coco"):
        return dict(enumerate(labels, start=1))
    if len(labels) not in (COCO_THINGS, COCO_THINGS_AND_STUFF):
        raise ValueError(
            f"Expected {COCO_THINGS} or {COCO_THINGS_AND_STUFF} classes in a COCO benchmark, but "
            f"{benchmark.key} has {len(labels)}; give a benchmark of other classes a `key` that "
            "does not begin with coco, or answers as lists of class names."
        )
    categories = [number for number in range(1, 183) if number not in COCO_ABSENT]
    return dict(zip(categories, labels, strict=False))
