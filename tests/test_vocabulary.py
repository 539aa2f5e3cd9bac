"""Other names for the classes: which there are, how they are scored, and the command."""

import hashlib
import json
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ovss.datamodules.scene_generator import CLASSES
from ovss.datamodules.specs import names_of_all, shipped_synonyms, with_prompts
from PIL import Image

from ovss.benchmark import PhotoBatch, label_of_id, of_classes, with_distractors
from ovss.cli.main import main
from ovss.cli.vocabulary import _changes, _numbers
from ovss.datamodules import ADE20K, VOC, Cityscapes, COCOObject, COCOStuff, Folder, PascalContext
from ovss.dense_clip import DenseCLIP
from ovss.dense_clip.vocabulary import queries_of
from ovss.metrics import SegmentationScores, margins, mean_iou, sparse_counts
from ovss.pnp import renumbered
from ovss.proposals import OracleProposer
from ovss.report.bootstrap import paired_bootstrap
from ovss.runs.fingerprint import fingerprint_of
from ovss.vocabulary import Vocabulary, distractors_of, vocabularies, with_vocabulary

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


# ---- the command ---------------------------------------------------------------------------------

PHOTOS = 4


@pytest.fixture(scope="module")
def command(tmp_path_factory, scenes_root):
    """Run a command on four scenes, with the demo's CLIP or another configuration."""
    root = tmp_path_factory.mktemp("vocabulary")

    def command(name, folder, *options, configs=("demo", "demo_clip")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["train_free_eval.py"])
            main(
                [
                    name,
                    *(f"--config={config}" for config in configs),
                    f"--data.init_args.root={scenes_root}",
                    "--data.init_args.num_workers=0",
                    f"--data.init_args.limit={PHOTOS}",
                    f"--trainer.default_root_dir={root / folder}",
                    *options,
                ]
            )
        return root / folder

    return command


@pytest.fixture(scope="module")
def spread(command):
    """The command's folder."""
    return command("vocabulary", "clip", "--draws=2", "--distractors=0,3") / "vocabulary"


def contents(folder):
    """What a run says, and its label maps."""
    names = ("run.json", "scores.json", "per_class.csv", "photos.jsonl")
    files = [*(folder / name for name in names), *sorted((folder / "labels").iterdir())]
    assert len(files) == len(names) + PHOTOS
    return {path.name: path.read_bytes() for path in files}


@pytest.mark.parametrize("name", ["names", "draw-1", "distractors-3"])
def test_a_vocabularys_run_is_that_of_test(name, spread, command):
    # The class names are the demo's natural ones.
    configs = ("demo", "demo_clip") if name == "names" else (spread / name / "config.yaml",)
    alone = command("test", f"alone/{name}", configs=configs)
    assert contents(alone) == contents(spread / name)


def test_the_report(spread, capsys):
    data = json.loads((spread / "vocabulary.json").read_text())
    rows = {row["name"]: row for row in data["vocabularies"]}
    assert list(rows) == [
        "names", "natural", "synonyms", "draw-0", "draw-1", "distractors-0", "distractors-3",
    ]  # fmt: skip
    runs = {name for name, row in rows.items() if row["same_as"] is None}
    assert runs == {"names", "synonyms", "draw-0", "draw-1", "distractors-3"}
    assert {rows[name]["same_as"] for name in set(rows) - runs} == {"names"}
    scores = {name: json.loads((spread / name / "scores.json").read_text()) for name in runs}
    for name in runs:
        assert rows[name]["mIoU"] == pytest.approx(scores[name]["mIoU"], abs=1e-15)
    first = rows["names"]["mIoU"]
    assert "difference" not in rows["names"]
    for name in runs - {"names"}:
        row = rows[name]
        assert row["difference"] == pytest.approx(row["mIoU"] - first)
        assert row["low"] <= row["high"]
    assert (rows["natural"]["difference"], rows["natural"]["high"]) == (0.0, 0.0)
    drawn = [rows[name]["mIoU"] for name in ("draw-0", "draw-1")]
    spread_of_draws = data["draws"]
    assert spread_of_draws["mean"] == pytest.approx(statistics.mean(drawn))
    assert spread_of_draws["deviation"] == pytest.approx(statistics.stdev(drawn))
    assert (spread_of_draws["low"], spread_of_draws["high"]) == (min(drawn), max(drawn))
    # Each class's swing, from the runs' own tables.
    tables = {
        name: {row["name"]: row["IoU"] for row in run["classes"]} for name, run in scores.items()
    }
    for row in data["classes"]:
        iou = {name: table[row["name"]] for name, table in tables.items()}
        assert row["swing"] == pytest.approx(max(iou.values()) - min(iou.values()))
        assert iou[row["lowest"]] == min(iou.values())
        assert iou[row["highest"]] == max(iou.values())
    assert rows["synonyms"]["names"]["boat"] == ["boat", "sailing boat", "ship"]
    assert rows["synonyms"]["names"]["background"] == ["background"]
    assert data["sharing"]["image"] == {"done": PHOTOS, "without_sharing": 5 * PHOTOS}
    page = (spread / "vocabulary.md").read_text()
    assert page.startswith("scenes | protocol standard | method maskclip | model demo | ")
    assert " | proposals all | 4 of 8 photos\n" in page
    assert "| natural (same as names) | 13 |" in page
    assert f": {PHOTOS} passes of the image encoder in place of {5 * PHOTOS} in" in page
    table = (spread / "vocabulary.csv").read_text().splitlines()
    assert table[1] == f"names,,13,{first},,,"
    assert len(table) == 1 + len(rows)
    with Image.open(spread / "vocabulary.png") as picture:
        assert picture.size[0] == 900


def test_distractors_on_disk(spread, scenes_root):
    """From the label maps and masks alone, with NumPy."""
    scores = json.loads((spread / "distractors-3" / "scores.json").read_text())
    assert len(scores["distractors"]) == 3
    assert [row["name"] for row in scores["classes"]] == ["background", *CLASSES]
    matrix = np.zeros((256, 256), np.int64)
    masks = scenes_root / "VOCdevkit" / "VOC2012" / "SegmentationClass"
    for file in sorted((spread / "distractors-3" / "labels").iterdir()):
        found, true = (np.asarray(Image.open(path)) for path in (file, masks / file.name))
        np.add.at(matrix, (true, found), 1)
    page = (spread / "distractors-3" / "report.html").read_text()
    assert f"3: {', '.join(scores['distractors'])}<" in page
    assert matrix[:13, 13:16].sum() > 0  # else the test says nothing
    assert matrix[:, 16:].sum() == 0
    hits, unions = np.diag(matrix)[:13], (matrix.sum(0) + matrix.sum(1) - np.diag(matrix))[:13]
    iou = hits[unions > 0] / unions[unions > 0]
    assert scores["mIoU"] == pytest.approx(iou.mean(), abs=1e-12)
    data = json.loads((spread / "vocabulary.json").read_text())
    assert data["vocabularies"][-1]["distractors"] == dict(
        zip(scores["distractors"], matrix[:13, 13:16].sum(0).tolist(), strict=True)
    )


def test_further_draws_go_on_from_what_is_there(spread, command, capsys):
    written = {path: path.stat().st_mtime_ns for path in spread.glob("*/labels/*.png")}
    command("vocabulary", "clip", "--draws=3", "--distractors=3")
    assert {path: path.stat().st_mtime_ns for path in written} == written
    timing = json.loads((spread / "draw-2" / "timing.json").read_text())
    assert timing["sweep"]["image"] == {"done": PHOTOS, "without_sharing": PHOTOS}
    assert "3 draws, seed 0: mean" in capsys.readouterr().out


def test_pnp_looks_for_distractors_beside_the_oracles(command):
    options = ("--draws=0", "--distractors=2")
    folder = command("vocabulary", "pnp", *options, configs=("demo",)) / "vocabulary"
    lines = (folder / "distractors-2" / "photos.jsonl").read_text().splitlines()
    assert [json.loads(line)["proposal"][-2:] for line in lines] == [[13, 14]] * PHOTOS
    data = json.loads((folder / "vocabulary.json").read_text())
    rows = {row["name"]: row for row in data["vocabularies"]}
    assert list(rows) == ["names", "natural", "synonyms", "distractors-2"]
    assert rows["names"]["names"]["background"] == []
    assert rows["synonyms"]["names"]["cat"] == ["cat", "black cat", "kitten"]
    assert rows["names"]["mIoU"] > rows["distractors-2"]["mIoU"]
    # Captions differ, so that only the first round's image features are the same.
    assert data["sharing"]["image"] == {"done": PHOTOS, "without_sharing": 3 * PHOTOS}


def test_lists_of_the_field_are_those_of_the_method(golden_clip_path, tmp_path):
    """With the background's names a run has the fingerprint of one with the list itself."""
    voc21 = VOC(tmp_path, classes="voc21").benchmark
    clip = golden_clip_path / "clip_tiny_hf"
    sclip = DenseCLIP.from_pretrained(clip, "sclip", vocabulary="natural")
    listed = DenseCLIP.from_pretrained(clip, "sclip", vocabulary="sclip")
    found = by_name(voc21, draws=0, names_background=True)
    varied, named = with_vocabulary(sclip, voc21, found["sclip"])
    assert fingerprint_of(varied, named, "32-true") == fingerprint_of(listed, voc21, "32-true")
    assert len(varied.names(named)[0]) == 26
    without, named = with_vocabulary(listed, voc21, found["sclip-no-background"])
    assert without.names(named) == (("background",), *varied.names(voc21)[1:])
    assert (without.image, listed.vocabulary) == (listed.image, "sclip")
    names = tmp_path / "own.txt"
    names.write_text("\n".join("; ".join(own) for own in named.prompts[1:]))
    own = with_prompts(voc21, names)
    assert fingerprint_of(without, named, "32-true") == fingerprint_of(sclip, own, "32-true")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--distractors=9999"], "`distractors` to be 0 to "),
        (["--data.init_args.distractors=[sky]"], "neither `prompts` nor `distractors`"),
        ([f"--model.vocabulary={shipped_synonyms('scenes')}"], "nor a file as the model's"),
    ],
)
def test_what_cannot_be(options, message, command, capsys):
    with pytest.raises(SystemExit) as stop:
        command("vocabulary", "refused", *options)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_numbers_that_cannot_be():
    with pytest.raises(ValueError, match="numbers separated by commas, but got '10,ten'"):
        _numbers("10,ten")
    with pytest.raises(ValueError, match="`draws` to be at least 0, but got -1"):
        vocabularies(PETS, draws=-1)


def test_every_benchmark_has_vocabularies(tmp_path):
    others = names_of_all()
    for data in (
        PascalContext(tmp_path), ADE20K(tmp_path, protocol="released"), COCOObject(tmp_path),
        COCOStuff(tmp_path), COCOStuff(tmp_path, protocol="released"), Cityscapes(tmp_path),
    ):  # fmt: skip
        benchmark = data.benchmark
        found = by_name(benchmark, draws=2, distractors=(50,), others=others, names_background=True)
        # The field has no list for the 183 bins that the released code scores.
        assert ("clearclip" in found) == (len(benchmark.classes) != 183)
        for each in found.values():
            assert tuple(bool(own) for own in each.prompts) == tuple(map(bool, benchmark.prompts))
        assert len(with_distractors(benchmark, found["distractors-50"].distractors).classes) <= 255


def test_other_names_leave_the_file_of_a_finished_run_alone(tmp_path):

    pets = replace(of_classes(["cat", "dog"]), prompts_file="draw-0.txt")
    first, second = (
        _changes(tmp_path, replace(pets, prompts=((), (name,), ("dog",))))["data.init_args.prompts"]
        for name in ("cat", "tom")
    )
    assert first != second
    assert Path(first).name == Path(second).name == "draw-0.txt"
    assert Path(first).read_text() == "cat\ndog\n"


def test_distractors_have_colours_of_their_own():
    for background in (False, True):
        pets = with_distractors(
            of_classes(["cat", "dog"], background), [f"x{n}" for n in range(40)]
        )
        assert len(set(pets.palette)) == len(pets.palette) == len(pets.classes)
