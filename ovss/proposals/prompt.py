"""What a chat model is asked about a photo, and how its answer is read and written."""

from __future__ import annotations

import re
from typing import Any

from ovss.benchmark import Benchmark
from ovss.proposals.file import parse_answer

PROMPT = """\
These are classes of things, each with its number:
{classes}

Which of them can be seen in the photo, at least in part? Answer with two lists in brackets and with
nothing else: the number and the name of each class that you see, and then for each of these, in the
same order, how sure you are that it is there, in percent. An answer looks like this:
{example}
If you see none of them, answer [], []"""
"""`{classes}` stands for the numbered classes, `{example}` for an answer with two of them."""

Answer = list[tuple[int, float]]
"""Class numbers and percentages."""


def filled(prompt: str, benchmark: Benchmark, labels: dict[Any, int]) -> str:
    """A prompt with a benchmark's classes in it; `labels` has each class's number."""
    lines = [f"{number}: {'; '.join(benchmark.prompts[k])}" for number, k in labels.items()]
    two = [f"{number}: {benchmark.prompts[k][0]}" for number, k in labels.items()][-2:]
    example = f"[{', '.join(two)}], [{', '.join(['100%', '90%'][: len(two)])}]"
    return prompt.replace("{classes}", "\n".join(lines)).replace("{example}", example)


def parsed(text: str, labels: dict[Any, int]) -> Answer:
    """Class numbers and percentages of an answer; number 0 is no class, as in released answers.

    Raises:
        ValueError: it cannot be read, or names a class that does not exist.
    """
    if "[" not in text:  # a released answer may be empty; of a model that is asked it says nothing
        raise ValueError(f"expected two lists in brackets, but got {text[:80]!r}")
    answer = [(number, percent) for number, percent in parse_answer(text) if number != 0]
    for number, _ in answer:
        if number not in labels:
            raise ValueError(f"expected numbers of classes, but got {number} in {text[:80]!r}")
    return answer


def written(answer: Answer, benchmark: Benchmark, labels: dict[Any, int]) -> str:
    """An answer as files have it, whatever else the model said."""
    names = (benchmark.classes[labels[number]] for number, _ in answer)
    plain = (re.sub(r"[\[\],:]+", " ", name) for name in names)
    classes = (f"{number}: {name}" for (number, _), name in zip(answer, plain, strict=True))
    return f"[{', '.join(classes)}], [{', '.join(f'{percent:g}%' for _, percent in answer)}]"
