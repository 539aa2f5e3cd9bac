"""What the benchmarks' specs are made of: data files and prompt names."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.resources import files
from itertools import zip_longest
from pathlib import Path

from ovss.benchmark import Benchmark, Protocol
from ovss.utils.files import check_regular

Palette = tuple[tuple[int, int, int], ...]
Names = tuple[tuple[str, ...], ...]


def read_data(name: str) -> str:
    """Text of a file under `datamodules/data/`."""
    return (files(__package__) / "data" / name).read_text(encoding="utf-8")


def class_names(key: str) -> tuple[str, ...]:
    """The classes of a benchmark in label order."""
    return tuple(read_data(f"classes/{key}.txt").splitlines())


def palette(key: str) -> Palette:
    """An RGB colour for each label, as mmsegmentation paints it."""
    return tuple(
        (int(r), int(g), int(b)) for r, g, b in json.loads(read_data(f"palettes/{key}.json"))
    )


def label_map(name: str) -> dict[int, int]:
    """A map from ids in an annotation format to labels."""
    return {int(key): label for key, label in json.loads(read_data(f"maps/{name}.json")).items()}


def prompt_names(name: str) -> Names:
    """Names to look for: a class a line (background has none), synonyms separated by `;`."""
    return tuple(split_synonyms(line) for line in read_data(f"prompts/{name}.txt").splitlines())


def names_of_all() -> list[str]:
    """The natural names of all benchmarks' classes, each once, in the alphabet's order."""
    folder = files(__package__) / "data" / "prompts"
    stems = [each.name.removesuffix(".txt") for each in folder.iterdir()]
    natural = [stem for stem in stems if not stem.endswith("_released")]
    return sorted({name for stem in natural for own in prompt_names(stem) for name in own})


def shipped_synonyms(key: str) -> Path | None:
    """The file of synonyms that ships for a benchmark, in the form of `with_prompts`."""
    path = Path(__file__).parent / "data" / "synonyms" / f"{key}.txt"
    return path if path.is_file() else None


def split_synonyms(line: str) -> tuple[str, ...]:
    """The names in a line.

    Example:
        >>> split_synonyms("sofa; couch ")
        ('sofa', 'couch')
    """
    return tuple(" ".join(name.split()) for name in line.split(";"))


def refuse_released(key: str, protocol: Protocol, reason: str) -> None:
    """Say why a benchmark has no `released` protocol.

    Raises:
        ValueError: `protocol` is not `standard`.
    """
    if protocol != "standard":
        raise ValueError(
            f"Expected `protocol` to be 'standard' for {key}, but got {protocol!r}: {reason}"
        )


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse an unknown value of an argument.

    Raises:
        ValueError: with the choices.
    """
    if value not in choices:
        raise ValueError(
            f"Expected `{name}` to be {' or '.join(map(repr, choices))}, but got {value!r}."
        )


def with_prompts(benchmark: Benchmark, path: str | Path) -> Benchmark:
    """The benchmark with names to look for from one's own file.

    The file has a line for each class in label order, synonyms separated by `;`. The background
    has no line, or a first line `background`.

    Args:
        benchmark: whose classes are named.
        path: UTF-8 text.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another number of lines, an empty name, or a name twice; says file and line.
    """
    lines = read_text_lines(path)
    labels = benchmark.searchable
    first = 1
    if len(lines) == len(labels) + 1 and lines[0].strip().lower() == "background":
        lines, first = lines[1:], 2
    named: dict[str, int] = {}
    prompts: list[tuple[str, ...]] = [()] * len(benchmark.classes)
    for number, (line, label) in enumerate(zip_longest(lines, labels), start=first):
        if line is None or label is None:
            wanted = benchmark.classes[label] if label is not None else "the end of the file"
            raise ValueError(
                f"Expected {path} to have a line for each of the {len(labels)} classes of "
                f"{benchmark.title}, but got {len(lines)} lines; line {number} should be {wanted}."
            )
        names = split_synonyms(line)
        for name in names:
            if not name:
                raise ValueError(
                    f"Expected names for {benchmark.classes[label]!r} in {path}, line {number}, "
                    f"but got {line!r}; separate synonyms by single semicolons."
                )
            if name.casefold() in named:
                raise ValueError(
                    f"Expected distinct names in {path}, but {name!r} in line {number} is already "
                    f"in line {named[name.casefold()]}."
                )
            named[name.casefold()] = number
        prompts[label] = names
    return replace(
        benchmark, prompts=tuple(prompts), released_prompts=(), prompts_file=Path(path).name
    )


def read_text_lines(path: str | Path) -> list[str]:
    """Lines of a user's text file, blank ones at its end left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not UTF-8 text, or a pipe, socket or device.
    """
    path = Path(path).expanduser()
    try:
        if not path.is_dir():
            check_regular(path)
        text = path.read_text(encoding="utf-8-sig")  # Windows editors put a mark in front
    except (FileNotFoundError, IsADirectoryError):
        raise FileNotFoundError(f"Expected a text file at {path}, but there is none.") from None
    except UnicodeDecodeError as error:
        raise ValueError(
            f"Expected {path} to be UTF-8 text, but byte {error.start} is not; save it as UTF-8."
        ) from None
    return text.rstrip().splitlines()
