"""Proposals read from a file, such as the paper's GPT-4o answers."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Literal

from ovss.benchmark import Benchmark, PhotoBatch, label_of_id
from ovss.proposals.base import Proposal, Proposer
from ovss.vlm.base import VLM


class FileProposer(Proposer):
    """`file`: answers that were asked for beforehand, a JSON object keyed by photo.

    A value is either a list of class names, or a string as in the files that the paper's authors
    released: two bracketed lists, the classes and a percentage for each, such as
    `[2: 'bicycle', 15: 'person'], [100, 90%]`. The number before a name counts: it is the class's
    position from 1 on, or on COCO the category id, and 0 is no class; the name is not read. An
    empty string is an answer without classes. The order of an answer is that of its proposal.

    Args:
        path: the JSON file. Photos are found by the stem of their file name.
        threshold: keep classes whose percentage is above it (not equal); the authors took 70.
        fallback: what to propose when nothing is left: `none`, or `first`, the benchmark's first
            class, as the released code does.
    """

    name = "file"

    def __init__(
        self,
        path: str | Path,
        threshold: float = 70.0,
        fallback: Literal["none", "first"] = "none",
    ) -> None:
        if not 0 <= threshold < 100:
            raise ValueError(
                f"Expected `threshold` to be a percentage of at least 0 and below 100, but got "
                f"{threshold}."
            )
        if fallback not in ("none", "first"):
            raise ValueError(f"Expected `fallback` to be 'none' or 'first', but got {fallback!r}.")
        self.path = Path(path).expanduser()
        self.threshold = threshold
        self.fallback = fallback
        self._answers = _read(self.path)
        self._digest = hashlib.sha256(self.path.read_bytes()).hexdigest()[:16]
        self._known: tuple[Benchmark, dict[str, Proposal]] | None = None

    def __call__(self, batch: PhotoBatch, benchmark: Benchmark, vlm: VLM) -> list[Proposal]:
        """See `Proposer`.

        Raises:
            ValueError: an answer that cannot be read, an unknown class, or a photo without answer.
        """
        if self._known is None or self._known[0] != benchmark:
            self._known = (benchmark, self._proposals(benchmark))
        proposals = self._known[1]
        missing = [photo for photo in batch.ids if Path(photo).stem not in proposals]
        if missing:
            raise ValueError(
                f"Expected an answer for every photo in {self.path}, but there is none for "
                f"{missing[:5]} ({len(missing)} of {len(batch.ids)} in this batch); its ids look "
                f"like {list(proposals)[:2]}."
            )
        return [proposals[Path(photo).stem] for photo in batch.ids]

    def settings(self) -> dict[str, Any]:
        """See `Proposer.settings`."""
        own = {"threshold": self.threshold, "fallback": self.fallback}
        # The content and not the path decides what is proposed.
        return {"answers": f"a file with SHA-256 {self._digest}...", **own}

    def remarks(self) -> list[str]:
        """See `Proposer.remarks`."""
        odd = [p for p, a in self._answers.items() if isinstance(a, str) and is_odd(a)]
        if not odd:
            return []
        return [
            f"{self.path.name}: {len(odd)} of {len(self._answers)} answers are of an odd form, of "
            f"which what can be read was kept; the first is {odd[0]}'s."
        ]

    def _proposals(self, benchmark: Benchmark) -> dict[str, Proposal]:
        """Every answer of the file as a proposal, so that mistakes show before the first photo."""
        by_id, by_name = label_of_id(benchmark), label_of_name(benchmark)
        proposals, wrong = {}, []
        for photo, answer in self._answers.items():
            try:
                if isinstance(answer, str):
                    found = [
                        (_look_up(by_id, number), min(percent / 100, 1.0))
                        for number, percent in parse_answer(answer)
                        if percent > self.threshold and number != 0
                    ]
                else:
                    found = [(_look_up(by_name, _plain(name)), 1.0) for name in answer]
            except ValueError as error:
                wrong.append(f"{photo}: {error}")
                continue
            if not found and self.fallback == "first":
                found = [(benchmark.searchable[0], 0.0)]
            labels, scores = zip(*found, strict=True) if found else ((), ())
            proposals[photo] = Proposal(labels, scores)
        if wrong:
            listed = "\n  ".join(wrong[:5])
            raise ValueError(
                f"Expected {self.path} to hold classes of {benchmark.title}, but {len(wrong)} of "
                f"{len(self._answers)} answers cannot be read; correct them, or give the file that "
                f"belongs to this benchmark:\n  {listed}"
            )
        return proposals


def parse_answer(answer: str) -> list[tuple[int, float]]:
    """Class numbers and percentages of a released answer.

    What stands between the two lists (blanks, commas, line breaks) does not matter, nor do words
    around a percentage: it is the number after the last colon, where there is one. Where the lists
    differ in length the surplus is left out, as the released code does.

    Raises:
        ValueError: there are not two lists, or one without numbers.

    Example:
        >>> parse_answer("[2: 'bicycle', 15: person], [100, 90%]")
        [(2, 100.0), (15, 90.0)]
        >>> parse_answer("[13: 'horse']" + chr(10) + "[horse: 95%]")
        [(13, 95.0)]
        >>> parse_answer("[0: none, 3: car], [100, 95% car]")
        [(0, 100.0), (3, 95.0)]
        >>> parse_answer("")
        []
    """
    if not answer.strip():
        return []
    lists = _lists(answer)
    if lists is None:
        raise ValueError(f"expected two lists in brackets, but got {answer[:80]!r}")
    names, parts = lists
    if not names.strip():
        return []
    numbers = _numbers(names)
    if not numbers:
        raise ValueError(f"expected `number: name` in the first list, but got {answer[:80]!r}")
    percentages = []
    for part in parts or [""]:
        matched = re.fullmatch(r"(?:.*:)?\s*(\d+(?:\.\d+)?)\s*(?:%.*)?", part, re.DOTALL)
        if matched is None:
            raise ValueError(f"expected percentages in the second list, but got {answer[:80]!r}")
        percentages.append(float(matched[1]))
    return list(zip(numbers, percentages, strict=False))


def is_odd(answer: str) -> bool:
    """Whether a readable answer says more, less or something else than a percentage for each class.

    Class number 0, words after a percentage, or lists of different lengths.

    Example:
        >>> is_odd("[2: bicycle, 15: person], [100, 90%]"), is_odd("[3: car], [95% car]")
        (False, True)
    """
    lists = _lists(answer)
    if lists is None:
        return False
    numbers, parts = _numbers(lists[0]), lists[1]
    words = any(re.search(r"%\s*\S", part) for part in parts)
    return words or 0 in numbers or len(numbers) != len(parts)


def _lists(answer: str) -> tuple[str, list[str]] | None:
    """The list of classes, and the parts of that of percentages; None where there are not two."""
    lists = re.findall(r"\[([^\[\]]*)\]", answer)
    if len(lists) != 2:
        return None
    return lists[0], lists[1].split(",") if lists[1].strip() else []


def _numbers(names: str) -> list[int]:
    return [int(n) for n in re.findall(r"(?:^|,)\s*['\"]?(\d+)['\"]?\s*:", names)]


def label_of_name(benchmark: Benchmark) -> dict[Any, int]:
    """Class names and synonyms, any case -> label; the benchmark's own names win."""
    names: dict[Any, int] = {}
    for label in benchmark.searchable:
        names[_plain(benchmark.classes[label])] = label
    for label in benchmark.searchable:
        for synonym in benchmark.prompts[label]:
            names.setdefault(_plain(synonym), label)
    return names


def _plain(name: str) -> str:
    return " ".join(name.split()).casefold()


def _look_up(table: dict[Any, int], key: Any) -> int:
    if key not in table:
        choices = list(table)
        raise ValueError(f"expected a class in {choices[0]!r}..{choices[-1]!r}, but got {key!r}")
    return table[key]


def _read(path: Path) -> dict[str, Any]:
    """The file's answers by photo stem."""
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected a JSON file of class proposals, but there is no {path}; the paper's are in "
            "its repository's GPT4o_classification folder."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"Expected {path} to be JSON, but it cannot be read: {error}") from error
    expected = f"Expected {path} to be a JSON object of answers or lists of names by photo, but"
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{expected} got {str(content)[:80]}.")
    answers: dict[str, Any] = {}
    for photo, answer in content.items():
        listed = isinstance(answer, list) and all(isinstance(name, str) for name in answer)
        if not isinstance(answer, str) and not listed:
            raise ValueError(f"{expected} {photo!r} has {str(answer)[:80]}.")
        stem = Path(photo).stem
        if stem in answers:
            raise ValueError(f"{expected} there are several for {stem!r}.")
        answers[stem] = answer
    return answers
