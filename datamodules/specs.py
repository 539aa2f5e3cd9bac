"""The benchmarks' specs, from data files."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files

from ovss.benchmark import Benchmark, Protocol


def read_lines(name: str) -> tuple[str, ...]:
    """Lines of a file under `datamodules/data/`."""
    text = files("datamodules").joinpath("data", name).read_text(encoding="utf-8")
    return tuple(text.splitlines())


def read_palette(name: str) -> tuple[tuple[int, int, int], ...]:
    """RGB colours from a JSON file under `datamodules/data/palettes/`."""
    text = files("datamodules").joinpath("data", "palettes", name).read_text(encoding="utf-8")
    return tuple((int(r), int(g), int(b)) for r, g, b in json.loads(text))


def parse_prompts(lines: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """One class a line, synonyms separated by `;`; an empty line is a class never looked for."""
    return tuple(tuple(name.strip() for name in line.split(";") if name.strip()) for line in lines)


@cache
def voc(key: str, protocol: Protocol) -> Benchmark:
    """Pascal VOC 2012: `voc21` with background, `voc20` without.

    Raises:
        ValueError: an unknown key, or a protocol the released code does not have for it.
    """
    if key not in ("voc21", "voc20"):
        raise ValueError(f"Expected `classes` to be 'voc21' or 'voc20', but got {key!r}.")
    if key == "voc20" and protocol == "released":
        raise ValueError(
            "Expected protocol 'standard' for voc20, but got 'released': the released code scores "
            "VOC with background; use voc21."
        )
    with_background = key == "voc21"
    blank = ((),) if with_background else ()
    return Benchmark(
        key=key,
        title=f"Pascal VOC 2012 ({key[3:]} classes)",
        protocol=protocol,
        classes=read_lines(f"classes/{key}.txt"),
        prompts=(*blank, *parse_prompts(read_lines("prompts/voc20.txt"))),
        released_prompts=(*blank, *parse_prompts(read_lines("prompts/voc20_released.txt"))),
        palette=read_palette(f"{key}.json"),
        background=0 if with_background else None,
        background_rule="always" if with_background else "never",
        expected=1449,
    )


def scenes() -> Benchmark:
    """The demo's drawn scenes."""
    from datamodules.drawing import CLASSES

    return Benchmark(
        key="scenes",
        title="Scenes (drawn, 13 classes)",
        protocol="standard",
        classes=("background", *CLASSES),
        prompts=((), *((name,) for name in CLASSES)),
        palette=read_palette("voc21.json")[: len(CLASSES) + 1],
        background=0,
        background_rule="always",
    )
