"""Other names for the classes: which there are, how they are scored, and the command."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from ovss.benchmark import label_of_id, of_classes, with_distractors
from ovss.datamodules import VOC, COCOStuff, Folder
from ovss.dense_clip.vocabulary import queries_of
from ovss.metrics import SegmentationScores, margins, mean_iou, sparse_counts
from ovss.pnp import renumbered
from ovss.proposals import OracleProposer
from ovss.report.bootstrap import paired_bootstrap
from ovss.vocabulary import Vocabulary, distractors_of, vocabularies

PETS = replace(of_classes(["cat; kitty", "dog", "tv"]), key="pets")


def by_name(*args, **kwargs):
    return {each.name: each for each in vocabularies(*args, **kwargs)}


def test_class_names_synonyms_and_draws():
    more = ((), ("kitten", "Cat"), ("hound", "telly"), ("telly", "screen"))
    found = by_name(PETS, more, draws=40, distractors=())
    assert found["names"].prompts == ((), ("cat",), ("dog",), ("tv",))
    assert found["natural"].prompts == PETS.prompts
    # "Cat" is "cat"; "telly" could be a dog.
    pools = ((), ("cat", "kitty", "kitten"), ("dog", "hound"), ("tv", "screen"))
    assert found["synonyms"].prompts == pools
    assert not {"sclip", "clearclip", "proxyclip"} & set(found)
    drawn = [found[f"draw-{number}"].prompts for number in range(40)]
    for label in (1, 2, 3):
        assert {names[label] for names in drawn} == {(name,) for name in pools[label]}
    assert {names[0] for names in drawn} == {()}


def test_a_draw_is_the_smallest_hash():
    (drawn,) = by_name(PETS, draws=1, distractors=(), seed=7)["draw-0"].prompts[1]
    names = ("kitty", "cat")
    expected = min(names, key=lambda n: hashlib.sha256(f"7 draw 0 cat\n{n}".encode()).digest())
    assert drawn == expected
    turned = replace(PETS, prompts=((), names, ("dog",), ("tv",)))
    assert by_name(turned, draws=9)["draw-8"] == by_name(PETS, draws=9)["draw-8"]
    other = [by_name(PETS, draws=9, seed=seed) for seed in (0, 1)]
    assert any(other[0][f"draw-{n}"] != other[1][f"draw-{n}"] for n in range(9))


@pytest.mark.parametrize(
    ("other", "kept"),
    [
        ("dining table", False), ("DiningTable", False), ("table", False), ("tables", False),
        ("coffee table", False), ("tablecloth", True), ("timetable", False), ("bus", True),
        ("horses", False), ("horse rider", False), ("house", True),
    ],
)  # fmt: skip
def test_distractors_are_no_names_of_the_benchmark(other, kept):
    assert distractors_of(["dining table", "horse", "table"], [other]) == [other] * kept


def test_distractors_are_drawn_and_nested():
    others = [f"thing {letter}" for letter in "abcdefgh"] + ["cats", "kitty cat", "smart tv"]
    found = by_name(PETS, distractors=(0, 3, 8), others=others)
    few, many = (found[f"distractors-{count}"].distractors for count in (3, 8))
    assert many[:3] == few
    assert sorted(many) == others[:8]
    assert found["distractors-0"].distractors == ()
    again = by_name(PETS, distractors=(3,), others=others[::-1])
    assert again["distractors-3"].distractors == few
    with pytest.raises(ValueError, match=r"`distractors` to be 0 to 8, .* but got 9"):
        vocabularies(PETS, distractors=(9,), others=others)


def test_lists_of_the_field_with_and_without_their_background(tmp_path):
    voc21 = VOC(tmp_path, classes="voc21").benchmark
    found = by_name(voc21, draws=0, names_background=True)
    assert found["names"].prompts[20] == ("tvmonitor",)
    assert found["natural"].prompts[20] == ("television",)
    assert found["sclip"] == Vocabulary("sclip", voc21.prompts, "sclip")
    alone = found["sclip-no-background"]
    queries = queries_of(voc21, "sclip")
    assert queries.labels.count(0) == 26
    assert (alone.prompts[0], alone.reference) == ((), None)
    assert [name for own in alone.prompts for name in own] == list(queries.names[26:])
    # ClearCLIP's list has one name for the background, so there is one row.
    assert found["clearclip"].reference is None
    assert "clearclip-no-background" not in found
    assert found["synonyms"].prompts[4] == ("boat", "ship")
    # A method that does not name the background has the lists without it.
    own = by_name(voc21, draws=0)
    assert own["sclip"] == Vocabulary("sclip", alone.prompts)
    assert "sclip-no-background" not in own
    everything = [*voc21.classes, "sky", "wardrobe", "sidewalk"]
    (stranger,) = by_name(voc21, distractors=(1,), others=everything)["distractors-1"].distractors
    assert stranger == "sidewalk"  # the others are names of the background in the field's lists


def test_distractors_are_wrong_and_have_no_iou():
    pets = with_distractors(PETS, ["sky", "sea"])
    assert pets.searchable == (1, 2, 3, 4, 5)
    assert pets.palette[:4] == PETS.palette
    true = torch.tensor([[0, 0, 1, 1], [2, 2, 255, 3]], dtype=torch.uint8)
    predicted = torch.tensor([[0, 4, 1, 5], [2, 1, 4, 3]], dtype=torch.uint8)
    for protocol in ("standard", "released"):
        scores = SegmentationScores(pets.scored, 255, protocol, pets.distractors)
        scores.update(predicted, true)
        found = scores.compute()
        # cat: 1 right, 2 true, 2 predicted
        assert found["IoU"].tolist() == [1 / 2, 1 / 3, 1 / 2, 1]
        assert float(found["mIoU"]) == pytest.approx(np.mean([1 / 2, 1 / 3, 1 / 2, 1]))
        assert float(found["pixel_accuracy"]) == 4 / 7
        assert float(found["mean_accuracy"]) == np.mean([1 / 2, 1 / 2, 1 / 2, 1])
        counts = sparse_counts(predicted, true, 6, 255)
        assert float(mean_iou(margins([counts], 4, 2).sum(0), protocol)) == float(found["mIoU"])
    without = sparse_counts(torch.where(predicted > 3, 0, predicted), true, 4, 255)
    result = paired_bootstrap([without], [counts], 4, "released", 10, distractors=2)
    assert result.difference == pytest.approx(
        float(found["mIoU"]) - np.mean([2 / 3, 1 / 3, 0.5, 1])
    )
    with pytest.raises(ValueError, match=r"Expected labels in 0..3"):
        margins([counts], 4)


def test_distractors_in_queries_proposals_and_files(tmp_path):
    pets = with_distractors(PETS, ["sky", "sea"])
    lines = ("background; wall", "cat", "dog", "telly")
    names = ("background", "wall", "cat", "dog", "telly", "sky", "sea")
    assert queries_of(pets, lines) == (names, (0, 0, 1, 2, 3, 4, 5))
    assert queries_of(pets, lines[1:]).labels == (0, 1, 2, 3, 4, 5)
    assert queries_of(pets, "natural").names == (
        "background",
        "cat",
        "kitty",
        *names[3:4],
        "tv",
        *names[5:],
    )
    from ovss.benchmark import PhotoBatch

    batch = PhotoBatch(["one"], [torch.zeros(3, 1, 1)], torch.zeros(1, 3, 1, 1), [(0, 3)])
    (proposal,) = OracleProposer()(batch, pets, None)
    assert proposal.labels == (3, 4, 5)
    assert label_of_id(pets) == label_of_id(PETS)
    assert renumbered([3, 4], pets) == [3, 4]
    (tmp_path / "photos").mkdir()
    (tmp_path / "classes.txt").write_text("background\ncat\ndog\n")
    data = Folder(tmp_path, masks=None, distractors=["sky"])
    assert data.benchmark.classes == ("background", "cat", "dog", "sky")
    assert "distractors" not in PETS.settings()  # folders of before stay this run's
    assert pets.settings()["distractors"] == 2


def test_what_cannot_be_a_distractor(tmp_path):
    with pytest.raises(ValueError, match=r"no names of .*, but got \['Kitty'\]"):
        with_distractors(PETS, ["Kitty", "sky"])
    with pytest.raises(ValueError, match="'sky' occurs twice"):
        with_distractors(PETS, ["sky", "sky"])
    stuff = COCOStuff(tmp_path).benchmark
    assert len(with_distractors(stuff, [f"x{n}" for n in range(84)]).classes) == 255
    with pytest.raises(ValueError, match=r"at most 84 distractors beside the 171 classes"):
        with_distractors(stuff, [f"x{n}" for n in range(85)])
