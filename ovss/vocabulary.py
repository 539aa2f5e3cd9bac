"""Other names for a benchmark's classes, to see how much a score owes to them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from ovss.benchmark import Benchmark, with_distractors
from ovss.dense_clip.vocabulary import REFERENCES, queries_of, reference_lines
from ovss.segmenter import Segmenter

Names = tuple[tuple[str, ...], ...]
"""For each label the names to look for; none for labels that are never looked for."""


class Vocabulary(NamedTuple):
    """What the classes are called.

    Attributes:
        name: short, such as `draw-0`; a folder's name.
        prompts: see `Benchmark.prompts`.
        reference: whose list of names it is, for a method that looks for the background by names of
            its own; a key of `REFERENCES`. Else `prompts` are looked for.
        distractors: names of things that are in no photo.
    """

    name: str
    prompts: Names
    reference: str | None = None
    distractors: tuple[str, ...] = ()


def vocabularies(
    benchmark: Benchmark,
    synonyms: Names = (),
    draws: int = 5,
    distractors: Sequence[int] = (),
    others: Iterable[str] = (),
    seed: int = 0,
    names_background: bool = False,
) -> list[Vocabulary]:
    """The vocabularies that are known for a benchmark, its class names first.

    - `names`: the class names as they are.
    - `natural`: the benchmark's prompts.
    - `sclip`, `clearclip`, `proxyclip`: the field's lists, where there are any. Those that name the
      background by several names come with them and, as `sclip-no-background`, without.
    - `synonyms`: all names that are known for each class (`synonym_pools`).
    - `draw-0`, ...: one of these names a class, drawn.
    - `distractors-10`, ...: the class names and so many things that are in no photo.

    Draws depend on the seed and the names alone, not on their order or the machine: a name that
    becomes known changes draws of its class only. Fewer distractors are the first of more.

    Args:
        benchmark: the classes, with their natural names.
        synonyms: further names of each label.
        draws: how many.
        distractors: how many distractors, for each vocabulary of that kind.
        others: names that distractors are drawn from; see `distractors_of`.
        seed: of the draws.
        names_background: whether the method looks for the background by names of its own.

    Raises:
        ValueError: not enough distractors, or another number of `synonyms` than classes.
    """
    if draws < 0:
        raise ValueError(f"Expected `draws` to be at least 0, but got {draws}.")
    titles = tuple(
        (title,) if own else ()
        for title, own in zip(benchmark.classes, benchmark.prompts, strict=True)
    )
    found = [Vocabulary("names", titles), Vocabulary("natural", benchmark.prompts)]
    lists = _reference_names(benchmark)
    for reference, names in lists.items():
        prompts = tuple(own if titled else () for own, titled in zip(names, titles, strict=True))
        several = benchmark.background is not None and len(names[benchmark.background]) > 1
        if several and names_background:
            found.append(Vocabulary(reference, benchmark.prompts, reference))
            found.append(Vocabulary(f"{reference}-no-background", prompts))
        else:
            found.append(Vocabulary(reference, prompts))
    pools = synonym_pools(titles, [benchmark.prompts, *lists.values(), synonyms or titles])
    found.append(Vocabulary("synonyms", pools))
    for draw in range(draws):
        drawn = tuple(
            tuple(ranked(pool, f"{seed} draw {draw} {title}")[:1])
            for pool, title in zip(pools, benchmark.classes, strict=True)
        )
        found.append(Vocabulary(f"draw-{draw}", drawn))
    known = [
        name
        for names in (benchmark.prompts, *lists.values(), pools)
        for own in names
        for name in own
    ]
    strangers = ranked(distractors_of([*benchmark.classes, *known], others), f"{seed} distractors")
    for count in distractors:
        if not 0 <= count <= len(strangers):
            raise ValueError(
                f"Expected `distractors` to be 0 to {len(strangers)}, the names of other "
                f"benchmarks that are none of {benchmark.title}, but got {count}."
            )
        found.append(
            Vocabulary(f"distractors-{count}", titles, distractors=tuple(strangers[:count]))
        )
    return found


def synonym_pools(titles: Names, lists: Sequence[Names]) -> Names:
    """All names of each label; one that several classes have stays with none but its owner.

    Args:
        titles: of each label its class name, which is the class's own; none for labels that are
            never looked for.
        lists: names of each label.

    Example:
        >>> synonym_pools((("tv",), ("pc",)), [(("tv", "Screen"), ("pc", "screen", "computer"))])
        (('tv',), ('pc', 'computer'))
    """
    owner = {name.casefold(): label for label, own in enumerate(titles) for name in own}
    pools: list[dict[str, str]] = [{} for _ in titles]
    for names in (titles, *lists):
        for pool, title, own in zip(pools, titles, names, strict=True):
            for name in own if title else ():
                pool.setdefault(name.casefold(), name)
    classes = Counter(key for pool in pools for key in pool)
    return tuple(
        tuple(
            name
            for key, name in pool.items()
            if (owner[key] == label if key in owner else classes[key] == 1)
        )
        for label, pool in enumerate(pools)
    )


def distractors_of(known: Iterable[str], others: Iterable[str]) -> list[str]:
    """Names that, as far as the lists tell, are of things in none of a benchmark's photos.

    Left out is what is one of its names, stands in one as a word or has one as a word: of a
    benchmark with "tree" neither "palm tree" nor "trees" is a distractor, nor is "table" of one
    with "coffee table", nor "armchair" of one with "chair". Blanks and the plural make no
    difference.

    Args:
        known: all names of the benchmark.
        others: names of other benchmarks.

    Example:
        >>> distractors_of(["dining table", "fish"], ["table", "fishes", "starfish", "cat"])
        ['cat']
    """
    names = [_words(name) for name in dict.fromkeys(known)]
    joined = {"".join(words) for words in names}
    found: dict[str, str] = {}
    for other in others:
        words = _words(other)
        related = "".join(words) in joined or any(
            _contains(name, words)
            or _contains(words, name)
            or (len(name) == 1 and words[-1].endswith(name[0]))
            for name in names
        )
        if not related:
            found.setdefault("".join(words), other)
    return list(found.values())


def ranked(names: Iterable[str], seed: str) -> list[str]:
    """Names in an order that is drawn, whatever the order they come in.

    Example:
        >>> ranked(["cat", "dog", "cow"], "0") == ranked(["cow", "cat", "dog"], "0")
        True
    """
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}\n{name}".encode()).digest())


def with_vocabulary(
    segmenter: Segmenter, benchmark: Benchmark, vocabulary: Vocabulary
) -> tuple[Segmenter, Benchmark]:
    """The method and the benchmark with a vocabulary; the models are shared, not copied.

    Args:
        segmenter: the method.
        benchmark: what the vocabulary was made of.
        vocabulary: what is looked for.
    """
    if vocabulary.prompts != benchmark.prompts:
        benchmark = replace(
            benchmark,
            prompts=vocabulary.prompts,
            released_prompts=(),
            prompts_file=f"{vocabulary.name}.txt",
        )
    if vocabulary.distractors:
        benchmark = with_distractors(benchmark, vocabulary.distractors)
    own = {"vocabulary": vocabulary.reference or "natural"}
    varied = segmenter.varied(**own if "vocabulary" in segmenter.variable else {})
    return varied, benchmark


def _reference_names(benchmark: Benchmark) -> dict[str, Names]:
    """The field's lists that have a line for each class, the background's names among them."""
    found = {}
    named, scored = len(benchmark.searchable), benchmark.scored
    for reference in REFERENCES:
        lines = reference_lines(benchmark.key, reference)
        # Not those of COCO-Stuff's 183 bins (protocol `released`), of which 171 are classes.
        if lines is not None and (len(lines) == scored or len(lines) == named == scored - 1):
            found[reference] = queries_of(benchmark, reference).by_label(scored)
    return found


def _words(name: str) -> list[str]:
    """Words in lower case and without the endings of the plural.

    Example:
        >>> _words("Wine-glasses"), _words("horse"), _words("horses")
        (['win', 'gla'], ['hor'], ['hor'])
    """
    words = "".join(letter if letter.isalnum() else " " for letter in name.casefold()).split()
    return [word.rstrip("s").removesuffix("e").rstrip("s") or word for word in words]


def _contains(words: Sequence[str], part: Sequence[str]) -> bool:
    return any(words[i : i + len(part)] == part for i in range(len(words) - len(part) + 1))
