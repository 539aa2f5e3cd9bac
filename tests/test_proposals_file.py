"""Answers from files: the released formats, names, and errors that name the photo."""

from __future__ import annotations

import json

import pytest
import torch

from ovss.benchmark import PhotoBatch, of_classes
from ovss.proposals import FileProposer, Proposal
from ovss.proposals.file import label_of_id, parse_answer

# fmt: off
VOC = [
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "table",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
]
# fmt: on


def propose(path, ids, benchmark, **options):
    batch = PhotoBatch(ids, [torch.zeros(3, 2, 2)] * len(ids), torch.zeros(len(ids), 3, 2, 2))
    return FileProposer(path, **options)(batch, benchmark, None)


def write(folder, content):
    path = folder / "answers.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("[1: 'aeroplane'], [100%]", [(1, 100)]),
        ("[19: train], [100%]", [(19, 100)]),
        ("[2: 'bicycle', 15: 'person'], [100, 100]", [(2, 100), (15, 100)]),
        ("[20: 'tvmonitor', 15: 'person'], [90, 10]", [(20, 90), (15, 10)]),
        ("[19: train, 15: person], \n[95%, 70]", [(19, 95), (15, 70)]),
        ("[2: 'building;edifice', 3: 'sky']\n\n[90%, 100%]", [(2, 90), (3, 100)]),
        ("[1: person]\n[87.5%]", [(1, 87.5)]),
        ("[13: 'horse', 15: 'person'], [horse: 95%, person: 90%]", [(13, 95), (15, 90)]),
        ("[59: pizza], [probability of class1 in percentage: 95]", [(59, 95)]),
        ("[1: a, 2: b], [80]", [(1, 80)]),
        ("[0: None], [100]", [(0, 100)]),
        ("[23: bear, 124: grass], [95% bear, 70% grass]", [(23, 95), (124, 70)]),
        ("[1: a, 2: b], [95% probability of a, 80% probability of class2]", [(1, 95), (2, 80)]),
        ("[21: cow, 124: grass, 169: tree], [95% 60%, 50%]", [(21, 95), (124, 50)]),
        ("[1: a], [80, 90]", [(1, 80)]),
        ("", []),
        (" \n", []),
        ("[], []", []),
    ],
)
def test_released_answers(answer, expected):
    assert parse_answer(answer) == expected


@pytest.mark.parametrize(
    "answer",
    ["I cannot tell.", "[1: a]", "[1: a], [x]", "[a], [100]", "[1: a], [50], [50]", "[1: a], []"],
)
def test_answers_that_cannot_be_read(answer):
    with pytest.raises(ValueError, match="expected"):
        parse_answer(answer)


def test_strictly_above_the_threshold_and_by_stem(tmp_path):
    path = write(
        tmp_path,
        {
            "2007_000033": "[15: 'person', 1: 'aeroplane', 2: 'bicycle'], [71, 100%, 70]",
            "2007_000042.jpg": "[19: train], [70%]",
            "2007_000061": "",
        },
    )
    ids = ["2007_000033.jpg", "2007_000042", "2007_000061"]
    with_background = of_classes(VOC)
    expected = [Proposal((15, 1), (0.71, 1.0)), Proposal((), ()), Proposal((), ())]
    assert propose(path, ids, with_background) == expected
    first = Proposal((1,), (0.0,))
    assert propose(path, ids, with_background, fallback="first") == [expected[0], first, first]
    # Without a background label the same positions are one label lower.
    plain = of_classes(VOC, background=False)
    assert propose(path, ids, plain, fallback="first")[:2] == [
        Proposal((14, 0), (0.71, 1.0)),
        Proposal((0,), (0.0,)),
    ]
    assert propose(path, ids[1:2], with_background, threshold=69) == [Proposal((19,), (0.7,))]


def test_odd_answers_are_read_as_far_as_they_can_be_and_counted(tmp_path):
    answers = {
        "none": "[0: None], [100]",
        "words": "[3: 'bird', 1: 'aeroplane'], [95% probability of bird, 80% of aeroplane]",
        "short": "[3: 'bird', 1: 'aeroplane'], [95%]",
        "long": "[3: 'bird'], [95%, 90%]",
        "twice": "[3: 'bird', 1: 'aeroplane', 3: 'bird'], [95%, 90%, 80%]",
        "before": "[3: 'bird'], [bird: 95%]",
        "plain": "[3: 'bird'], [70%]",
    }
    found = [(), (3, 1), (3,), (3,), (3, 1, 3), (3,), ()]
    proposer = FileProposer(write(tmp_path, answers))
    batch = PhotoBatch(list(answers), [torch.zeros(3, 2, 2)] * 7, torch.zeros(7, 3, 2, 2))
    benchmark = of_classes(VOC)
    assert [each.labels for each in proposer(batch, benchmark, None)] == found
    (remark,) = proposer.remarks()
    assert remark.startswith("answers.json: 4 of 7 answers are of an odd form")
    assert remark.endswith("the first is none's.")
    # What the released code falls back to when nothing is left.
    first = FileProposer(proposer.path, fallback="first")
    labels = [each.labels for each in first(batch, benchmark, None)]
    assert labels == [own or (1,) for own in found]
    plain = {"plain": answers["plain"], "listed": ["bird"], "blank": ""}
    assert FileProposer(write(tmp_path, plain)).remarks() == []


@pytest.mark.parametrize(("count", "background"), [(80, True), (171, False)])
def test_coco_counts_by_category_ids(tmp_path, count, background):
    from dataclasses import replace

    names = [f"class {number}" for number in range(count)]
    benchmark = replace(of_classes(names, background), key=f"coco_{count}")
    offset = 1 if background else 0
    # Spot checks from instances_val2017.json and cocostuff's labels.md.
    known = {1: 0, 11: 10, 13: 11, 25: 23, 27: 24, 44: 39, 46: 40, 67: 60, 70: 61, 90: 79}
    known |= {} if background else {92: 80, 124: 112, 182: 170}
    table = label_of_id(benchmark)
    assert {number: table[number] for number in known} == {
        number: label + offset for number, label in known.items()
    }
    assert sorted(table.values()) == [label + offset for label in range(count)]
    absent = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}
    assert not absent & set(table)
    path = write(tmp_path, {"000000000139": "[62: chair, 90: toothbrush], [100, 80]"})
    assert propose(path, ["000000000139"], benchmark) == [
        Proposal((56 + offset, 79 + offset), (1.0, 0.8))
    ]
    few = replace(of_classes(["cat"]), key="coco_few")
    with pytest.raises(ValueError, match="coco_few has 1"):
        label_of_id(few)


def test_lists_of_names(tmp_path):
    benchmark = of_classes(["cat", "dog; puppy", "potted plant"])
    path = write(tmp_path, {"a": ["Potted  Plant", "puppy"], "b": []})
    assert propose(path, ["a.png", "b"], benchmark) == [
        Proposal((3, 2), (1.0, 1.0)),
        Proposal((), ()),
    ]


def test_errors_name_the_photos(tmp_path):
    benchmark = of_classes(VOC)
    good = {"a": "[1: 'aeroplane'], [100%]"}
    with pytest.raises(ValueError, match=r"none for \['b', 'c'\] \(2 of 3.*look like \['a'\]"):
        propose(write(tmp_path, good), ["a", "b", "c"], benchmark)
    with pytest.raises(ValueError, match=r"1 of 2 answers.*\n  b: .*1\.\.20, but got 21"):
        propose(write(tmp_path, {**good, "b": "[21: 'x'], [100]"}), ["a"], benchmark)
    with pytest.raises(ValueError, match=r"\n  b: .*two lists in brackets, but got 'Sorry'"):
        propose(write(tmp_path, {**good, "b": "Sorry"}), ["a"], benchmark)
    with pytest.raises(ValueError, match=r"\n  b: .*'aeroplane'\.\.'tvmonitor', but got 'zebra'"):
        propose(write(tmp_path, {**good, "b": ["zebra"]}), ["a"], benchmark)
    # A class that is not kept anyway need not exist.
    path = write(tmp_path, {"a": "[1: 'aeroplane', 99: x], [100, 60]"})
    assert propose(path, ["a"], benchmark) == [Proposal((1,), (1.0,))]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{'a': 1}", "to be JSON, but it cannot be read: .*line 1"),
        ("[]", "a JSON object of answers"),
        ("{}", "a JSON object of answers"),
        ('{"a": 3}', "'a' has 3"),
        ('{"a": ["cat", 3]}', r"'a' has \['cat', 3\]"),
        ('{"a.jpg": "", "a.png": ""}', "several for 'a'"),
    ],
)
def test_malformed_files(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        FileProposer(write(tmp_path, content))


def test_missing_file_and_bad_settings(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no .*nothing\.json"):
        FileProposer(tmp_path / "nothing.json")
    path = write(tmp_path, {"a": ""})
    with pytest.raises(ValueError, match="percentage of at least 0 and below 100, but got 100"):
        FileProposer(path, threshold=100)
    with pytest.raises(ValueError, match="'none' or 'first', but got 'released'"):
        FileProposer(path, fallback="released")
