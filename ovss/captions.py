"""Class names -> a caption -> the tokens of each class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

TEMPLATE = "A picture of {}"
"""The paper's prompt; the class names stand where the braces are."""


@dataclass(frozen=True)
class Caption:
    """A text and where in it each class stands.

    Attributes:
        text: what the text encoder reads.
        classes: the class names, in the order of the text.
        spans: half-open character spans `(start, end)` of the classes in `text`.

    Example:
        >>> caption = Caption.of(["cat", "potted plant"])
        >>> caption.text
        'A picture of cat potted plant'
        >>> [caption.text[start:end] for start, end in caption.spans]
        ['cat', 'potted plant']
    """

    text: str
    classes: tuple[str, ...] = ()
    spans: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, classes: Sequence[str], template: str = TEMPLATE, separator: str = " ") -> Caption:
        """Write the class names into a template.

        Args:
            classes: names, each one or several words; surrounding and repeated blanks are dropped.
                A name may occur twice, as in answers that the released code takes as they are.
            template: text with one `{}` where the names go.
            separator: what stands between two names.

        Raises:
            ValueError: no class, an empty name, or a template without exactly one `{}`.
        """
        names = _single_blanks(classes)
        if not names:
            raise ValueError("Expected at least one class name, but got an empty list.")
        if template.count("{}") != 1:
            raise ValueError(
                f"Expected `template` to contain '{{}}' exactly once, but got {template!r}."
            )
        prefix, suffix = template.split("{}")
        starts = [len(prefix)]
        for name in names:
            starts.append(starts[-1] + len(name) + len(separator))
        spans = tuple(
            (start, start + len(name)) for start, name in zip(starts, names, strict=False)
        )
        return cls(prefix + separator.join(names) + suffix, names, spans)


def normalise_names(classes: Sequence[str]) -> tuple[str, ...]:
    """Class names with single blanks, checked.

    Raises:
        ValueError: a bare string, an empty name, or a name that occurs twice (case is ignored, as
            the text encoders ignore it).
    """
    names = _single_blanks(classes)
    seen: set[str] = set()
    for name in names:
        if name.casefold() in seen:
            raise ValueError(f"Expected distinct class names, but {name!r} occurs twice.")
        seen.add(name.casefold())
    return names


def _single_blanks(classes: Sequence[str]) -> tuple[str, ...]:
    if isinstance(classes, str):
        raise ValueError(
            f"Expected `classes` to be a list of names, but got the string {classes!r}; "
            f"write {[name.strip() for name in classes.split(',')]!r}."
        )
    names = tuple(" ".join(name.split()) for name in classes)
    if "" in names:
        raise ValueError(
            f"Expected class names, but the name at position {names.index('')} is empty."
        )
    return names


def class_tokens(
    caption: Caption, offsets: Sequence[tuple[int, int]]
) -> tuple[tuple[int, ...], ...]:
    """The positions of each class's tokens in the tokenised caption.

    A token belongs to a class when their character spans overlap, so any fast tokenizer and any
    name of several words or word pieces works.

    Args:
        caption: the text and its class spans.
        offsets: half-open character span of each token; special tokens have an empty one.

    Raises:
        ValueError: the tokenizer left nothing of a name (control characters, say).

    Example:
        >>> class_tokens(Caption.of(["cat"], "a {}"), [(0, 0), (0, 1), (2, 5), (0, 0)])
        ((2,),)
    """
    groups = []
    for name, (start, end) in zip(caption.classes, caption.spans, strict=True):
        tokens = tuple(i for i, (a, b) in enumerate(offsets) if a < b and a < end and b > start)
        if not tokens:
            raise ValueError(
                f"Expected the class name {name!r} to give at least one token, but the tokenizer "
                "drops it entirely; spell it in other characters."
            )
        groups.append(tokens)
    return tuple(groups)


def split_captions(
    classes: Sequence[str],
    length: Callable[[str], int],
    max_length: int,
    template: str = TEMPLATE,
    separator: str = " ",
) -> list[Caption]:
    """Captions that hold all classes within the text encoder's positions: one if it will do.

    Otherwise the captions share the classes evenly. Classes keep their order. Most photos need one
    caption; each further one costs a pass of the text encoder, and classes in different captions
    do not see each other.

    Args:
        classes: the names to cover.
        length: number of tokens of a text, special tokens included.
        max_length: positions of the text encoder.
        template: see `Caption.of`.
        separator: see `Caption.of`.

    Raises:
        ValueError: a single name does not fit.
    """
    whole = Caption.of(classes, template, separator)
    if length(whole.text) <= max_length:
        return [whole]
    names = whole.classes
    for count in range(2, len(names) + 1):
        bounds = [round(i * len(names) / count) for i in range(count + 1)]
        captions = [Caption.of(names[a:b], template, separator) for a, b in pairwise(bounds)]
        if all(length(caption.text) <= max_length for caption in captions):
            return captions
    lengths = [length(Caption.of([name], template).text) for name in names]
    longest = names[lengths.index(max(lengths))]
    raise ValueError(
        f"Expected every class name to fit into {max_length} tokens, but {longest!r} alone takes "
        f"{max(lengths)}; shorten it."
    )
