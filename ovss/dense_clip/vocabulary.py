"""The names that stand for each class: natural ones, a reference's, or a file of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from itertools import dropwhile
from pathlib import Path
from typing import NamedTuple

from ovss.benchmark import Benchmark
from ovss.utils.files import check_regular

REFERENCES = ("sclip", "clearclip", "proxyclip")
"""Whose class-name files are shipped; NACLIP has SCLIP's."""
BACKGROUND = "background"
"""What the background is called where nobody says otherwise."""


class Queries(NamedTuple):
    """What is looked for with a text embedding each.

    Attributes:
        names: of the Q queries.
        labels: the benchmark's label of each, ascending.
    """

    names: tuple[str, ...]
    labels: tuple[int, ...]

    def by_label(self, count: int) -> tuple[tuple[str, ...], ...]:
        """For each of so many labels its names."""
        own: list[list[str]] = [[] for _ in range(count)]
        for name, label in zip(self.names, self.labels, strict=True):
            own[label].append(name)
        return tuple(map(tuple, own))


Vocabulary = str | tuple[str, ...]
"""`natural`, a reference's name, or a line for each class."""


def read_vocabulary(vocabulary: str) -> Vocabulary:
    """A reference's name as it is, and the lines of a file.

    Lines at a file's beginning that are "#", alone or before a blank, are its comment.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no ordinary file.
    """
    if vocabulary in ("natural", *REFERENCES):
        return vocabulary
    path = Path(vocabulary).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected `vocabulary` to be natural, {', '.join(REFERENCES)} or a text file, but got "
            f"{vocabulary!r}, and there is no such file."
        )
    check_regular(path)
    return _without_comment(path.read_text("utf-8-sig"))


def queries_of(benchmark: Benchmark, vocabulary: Vocabulary) -> Queries:
    """The queries of a benchmark, synonyms of a class one after the other.

    A reference has names for its own benchmarks; for others, as a folder of one's own, it is
    `natural`. The background, where there is one, is a class with queries, too. The names of
    distractors are the benchmark's own whatever the vocabulary.

    Args:
        benchmark: the classes.
        vocabulary: `natural` for the data module's names, a reference's, or a line for each class
            in label order, synonyms separated by ";". The background's line may be missing.

    Raises:
        ValueError: another number of lines, an empty name, or two sources of names.
    """
    lines = _lines(benchmark, vocabulary)
    if lines is None:
        names = [list(own) or [BACKGROUND] for own in benchmark.prompts[: benchmark.scored]]
    else:
        if benchmark.prompts_file is not None:
            raise ValueError(
                f"Expected one list of class names, but got `prompts` {benchmark.prompts_file} and "
                f"`vocabulary` {_short(vocabulary)}; set `vocabulary` to natural for the prompts."
            )
        names = [[name.strip() for name in line.split(";")] for line in lines]
        named = sum(label < benchmark.scored for label in benchmark.searchable)
        without_background = len(names) == named < benchmark.scored
        # Where the first line is the background's, another one is missing.
        if without_background and names[0][0].casefold() != BACKGROUND:
            names.insert(0, [BACKGROUND])
        _check(names, benchmark, vocabulary)
    names += [list(own) for own in benchmark.prompts[benchmark.scored :]]
    pairs = [(name, label) for label, own in enumerate(names) for name in own]
    return Queries(tuple(name for name, _ in pairs), tuple(label for _, label in pairs))


def _lines(benchmark: Benchmark, vocabulary: Vocabulary) -> Sequence[str] | None:
    """A line for each class; None where the benchmark's own names are meant."""
    if not isinstance(vocabulary, str):
        return vocabulary
    return reference_lines(benchmark.key, vocabulary) if vocabulary in REFERENCES else None


def reference_lines(benchmark: str, reference: str) -> tuple[str, ...] | None:
    """A reference's line for each class of a benchmark, by its key; None where it has none."""
    for folder in (reference, "all"):
        file = files("ovss.dense_clip") / "data" / folder / f"{benchmark}.txt"
        if file.is_file():
            return _without_comment(file.read_text("utf-8"))
    return None


def _without_comment(text: str) -> tuple[str, ...]:
    lines = text.rstrip().splitlines()
    return tuple(dropwhile(lambda line: line == "#" or line.startswith("# "), lines))


def _short(vocabulary: Vocabulary) -> str:
    return vocabulary if isinstance(vocabulary, str) else "from a file"


def _check(names: list[list[str]], benchmark: Benchmark, vocabulary: Vocabulary) -> None:
    if len(names) != benchmark.scored:
        raise ValueError(
            f"Expected `vocabulary` {_short(vocabulary)} to have a line for each of the "
            f"{benchmark.scored} classes of {benchmark.title}, but got {len(names)}."
        )
    for own, title in zip(names, benchmark.classes, strict=False):
        if not all(own):
            raise ValueError(
                f"Expected names for {title!r} in `vocabulary` {_short(vocabulary)}, but got "
                f"{'; '.join(own)!r}; separate synonyms by single semicolons."
            )
