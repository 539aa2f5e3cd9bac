"""The report, `compare` and the files they read."""

import base64
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from jinja2 import UndefinedError
from PIL import Image

from ovss.benchmark import Benchmark
from ovss.cli.compare import open_photos
from ovss.cli.main import main
from ovss.report.bootstrap import paired_bootstrap
from ovss.report.compare import _cells, _page, compare_rows
from ovss.report.gallery import data_uri
from ovss.report.page import TEMPLATES
from ovss.report.single import write_report
from ovss.report.statistics import largest_confusions, proposal_quality, telling_photos
from ovss.report.tables import headline
from ovss.runs.layout import FORMAT, RunLayout
from ovss.runs.photos import PhotoRecord
from ovss.runs.run import read_run
from ovss.runs.scores import write_scores
from ovss.utils.text import percent
from ovss.visualization.overlay import palette_png

CLASSES = ("background", "cat", "<b>dog</b> & \"co\"")  # fmt: skip
PALETTE = ((0, 0, 0), (200, 60, 0), (0, 90, 200))
BENCHMARK = Benchmark(
    key="two",
    title="Two <i>classes</i>",
    protocol="standard",
    classes=CLASSES,
    prompts=((), ("cat",), ("dog",)),
    palette=PALETTE,
    background=0,
    background_rule="always",
)


class Drawn:
    """A data set of squares: the item's truth is known."""

    benchmark = BENCHMARK

    def __init__(self, photos=9):
        self.photos = photos

    def __len__(self):
        return self.photos

    def __getitem__(self, index):
        mask = np.zeros((40, 60), np.uint8)
        mask[5:35, 5:25] = 1
        mask[5:35, 35:55] = 2
        photo = np.random.default_rng(index).integers(0, 256, (3, 40, 60), np.uint8)
        name = "<script>alert(1)</script>" if index == 0 else f"photo{index}"
        return {"id": name, "photo": torch.from_numpy(photo), "mask": torch.from_numpy(mask)}


def predicted(truth, wrong):
    """The truth with the first `wrong` columns of the cat called dog."""
    labels = truth.copy()
    labels[:, 5 : 5 + wrong][labels[:, 5 : 5 + wrong] == 1] = 2
    return labels


def write_run(folder, wrongs, settings=None, data=None, **scores):
    """A run's folder as `test` writes it, over `Drawn`."""
    folder.mkdir(parents=True)
    matrix, lines = np.zeros((3, 3), int), []
    data = data or Drawn(len(wrongs))
    for index, wrong in enumerate(wrongs):
        item = data[index]
        truth = item["mask"].numpy()
        labels = predicted(truth, wrong)
        name = item["id"]
        (folder / "labels" / name).parent.mkdir(parents=True, exist_ok=True)
        palette_png(labels, PALETTE).save(folder / "labels" / f"{name}.png")
        counts = np.zeros((3, 3), int)
        np.add.at(counts, (truth.ravel(), labels.ravel()), 1)
        matrix += counts
        rows = [[int(i), int(j), int(counts[i, j])] for i, j in np.argwhere(counts)]
        lines.append({"id": name, "size": [40, 60], "proposal": [1, 2], "counts": rows})
    union = matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
    iou = matrix.diagonal() / union
    content = {
        "benchmark": "two", "protocol": "standard", "method": "pnp-ovss", "variant": "paper",
        "model": "tiny & small", "proposals": "all", "photos": len(wrongs),
        "settings": {"vlm": {"name": "tiny & small", "image_size": 32}, **(settings or {})},
        "proposals_precision": 0.75, "proposals_recall": 1.0,
        "mIoU": iou.mean(), "pixel_accuracy": 0.5, "mean_accuracy": 0.5, "fw_IoU": 0.5,
        "classes": [
            {"name": n, "IoU": i, "accuracy": i} for n, i in zip(data.benchmark.classes, iou)
        ],
    } | scores  # fmt: skip
    (folder / "run.json").write_text(json.dumps({"format": FORMAT, "fingerprint": {}}))
    (folder / "scores.json").write_text(json.dumps(content))
    (folder / "photos.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    stages = {"propose": 1.0, "segment": 7.0, "segment/vision": 4.0, "segment/label": 1.0}
    timing = {"seconds": 10.0, "photos_per_second": 0.9, "stages": stages, "processes": 1}
    (folder / "timing.json").write_text(json.dumps(timing))
    return folder


@pytest.fixture
def run_folder(tmp_path):
    return write_run(tmp_path / "run", range(0, 18, 2))


class Checker(HTMLParser):
    """Collects tags and text, and checks that tags are closed in order."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(html)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "br", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


# ---- statistics --------------------------------------------------------------------------------


def test_largest_confusions_by_hand():
    confusion = np.array([[5, 3, 0], [7, 1, 2], [0, 0, 9]])
    found = largest_confusions(confusion, 2)
    assert found == [(1, 0, 7, 0.7), (0, 1, 3, 3 / 8)]
    assert len(largest_confusions(confusion)) == 3
    assert largest_confusions(np.diag([1, 2, 3])) == []


def test_proposal_quality_by_hand():
    photos = [
        PhotoRecord(0, "a", (1, 2), np.array([[0, 0, 5], [1, 1, 5]])),
        PhotoRecord(1, "b", (2,), np.array([[1, 0, 5], [2, 2, 5], [3, 0, 5]])),
        PhotoRecord(2, "c", (1,), None),
    ]
    quality = proposal_quality(photos, {1, 2, 3})
    assert (quality.looked_for, quality.present) == (1.5, 2.0)
    assert quality.missed == [(1, 1), (3, 1)]
    assert quality.invented == [(2, 1)]


def test_telling_photos():
    scores = np.array([0.5, np.nan, 0.9, 0.1, 0.7, 0.3, 0.2, 0.8, 0.4, 0.6])
    assert telling_photos(scores, 2) == {"best": [2, 7], "median": [9, 0], "worst": [6, 3]}
    assert telling_photos(np.array([0.5])) == {"best": [0]}
    assert telling_photos(np.array([0.5, 0.7])) == {"best": [1], "worst": [0]}
    assert telling_photos(np.array([])) == {}


# ---- pages -------------------------------------------------------------------------------------

MACROS = TEMPLATES.get_template("macros.html").module
HOSTILE = """'"><script>alert("x")<%sscript> & <b onclick=x>"""


class Hostile(Drawn):
    """`Drawn` with names that want to be markup."""

    benchmark = replace(
        BENCHMARK,
        title=f"title {HOSTILE % '/'}",
        classes=("background", *(f"{name} {HOSTILE % '/'}" for name in ("cat", "dog"))),
    )

    def __getitem__(self, index):
        return {**super().__getitem__(index), "id": f"photo{index} {HOSTILE % '/'}"}


def hostile_run(folder, name, wrongs):
    """A run whose settings, stages and folder are called like that, too."""
    evil = HOSTILE % "/"
    path = write_run(
        folder / f"{name} {HOSTILE % '_'}",  # a folder's name has no slash
        wrongs,
        {
            "vlm": f"{name} {evil}",
            f"setting {evil}": name,
            "variant": f"variant {evil}",
            f"own {evil}": f"value {evil}",
        },
        Hostile(len(wrongs)),
        benchmark=f"key {evil}",
        proposals=f"proposals {evil}",
    )
    timing = json.loads((path / "timing.json").read_text())
    timing["stages"][f"stage {evil}"] = 1.0
    (path / "timing.json").write_text(json.dumps(timing))
    return path


def check_hostile(html, named):
    """No name is markup, and each of `named` is there to read."""
    checked = Checker(html)
    assert {tag for tag, _ in checked.tags} <= {
        "html", "head", "meta", "title", "link", "style", "body", "main", "section", "h1", "h2",
        "h3", "p", "br", "div", "span", "b", "i", "table", "thead", "tbody", "tr", "th", "td",
        "wbr", "figure", "figcaption", "img", "small", "pre", "dl", "dt", "dd", "caption",
        "details", "summary",
    }  # fmt: skip
    assert {name for _, attributes in checked.tags for name in attributes} <= {
        "lang", "charset", "name", "content", "http-equiv", "rel", "href", "class", "style",
        "alt", "src", "scope",
    }  # fmt: skip
    words = "".join(checked.text)
    for name in named:
        assert name in words
    return checked


def test_report_escapes_hostile_names(tmp_path, monkeypatch):
    evil = HOSTILE % "/"
    monkeypatch.setattr("sys.argv", ["ovss", "test", "--x=<script>alert(1)</script>"])
    run = read_run(hostile_run(tmp_path, "run", [4, 8, 12]))
    html = write_report(run, Hostile.benchmark, Hostile(3)).read_text(encoding="utf-8")
    kinds = ("title", "cat", "dog", "variant", "own", "value", "stage", "photo0", "photo1")
    checked = check_hostile(html, [f"{kind} {evil}" for kind in kinds])
    words = " ".join("".join(checked.text).split())
    assert f"Proposals of the kind proposals {evil}, against" in words
    assert "Looked for in vain most: none." in words
    assert "'--x=<script>alert(1)</script>'" in words


@pytest.mark.parametrize("shown", [True, False])
def test_compare_escapes_hostile_names(tmp_path, shown):
    runs = [hostile_run(tmp_path, *run) for run in (("one", [4, 8, 12]), ("four", [2, 2, 2]))]
    rows = compare_rows([read_run(folder) for folder in runs], resamples=10)
    named = [f"{kind} {HOSTILE % '/'}" for kind in ("key", "setting", "cat", "dog", "photo2")]
    named += [f"{title} {HOSTILE % '_'}" for title in ("one", "four")]
    checked = check_hostile(_page(rows, Hostile(3) if shown else None, 10), named)
    pictured = {attributes["alt"] for tag, attributes in checked.tags if tag == "img"}
    kinds = ("photo", "ground truth", *named[-2:]) if shown else ()
    photos = [f"photo{number} {HOSTILE % '/'}" for number in range(3)]
    assert pictured == {f"{photo}: {kind}" for photo in photos for kind in kinds}


def test_sections_with_nothing_to_say_are_left_out(tmp_path):
    def headings(folder):
        html = write_report(read_run(folder), BENCHMARK).read_text()
        return re.findall("<h2>(.*?)</h2>", html)

    folder = write_run(tmp_path / "run", [1, 2])
    assert headings(folder) == [
        "Classes", "Confusions", "Class proposals", "Time", "To run it again"
    ]  # fmt: skip
    (folder / "timing.json").unlink()
    assert headings(folder) == ["Classes", "Confusions", "Class proposals", "To run it again"]
    right = write_run(tmp_path / "right", [0, 0])
    assert "Confusions" not in headings(right)
    lines = [json.loads(line) for line in (folder / "photos.jsonl").read_text().splitlines()]
    for line in lines:
        del line["counts"]
    (folder / "photos.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert headings(folder) == ["Classes", "To run it again"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"seconds": 1',
        b"\xff\xfe",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"seconds": "fast", "photos_per_second": 1, "stages": {}}',
        b'{"seconds": 1, "photos_per_second": NaN, "stages": {}}',
        b'{"seconds": 1, "photos_per_second": 1, "stages": {"load": 1e999}}',
        b'{"seconds": 1, "photos_per_second": 1, "stages": {"load": null}}',
        b'{"seconds": 1, "photos_per_second": 1, "stages": [["load", 1]]}',
        b'{"seconds": 1, "photos_per_second": 1, "stages": {}, "processes": "two"}',
    ],
)
def test_a_damaged_timing_file_costs_its_section_alone(run_folder, caplog, content):
    (run_folder / "timing.json").write_bytes(content)
    html = write_report(read_run(run_folder), BENCHMARK).read_text()
    assert "<h2>Time</h2>" not in html
    assert "<h2>Classes</h2>" in html
    (record,) = caplog.records
    assert str(run_folder / "timing.json") in record.getMessage()


def test_parts_of_a_page_escape_what_they_show():
    evil = '"><script>x</script>'
    template = TEMPLATES.from_string(
        """
        {% extends "base.html" %}
        {% from "macros.html" import bars, facts, gallery, matrix, settings, table %}
        {% block title %}{{ evil }}{% endblock %}
        {% block content %}
        {{ table(evil, [evil, "n"], [[evil, 1]], numbers=1) }}
        {{ bars([(evil, 0.25, "25"), ("other", -0.5, "-50")]) }}
        {{ matrix(evil, [evil], [[0.5]]) }}
        {{ facts([(evil, evil)]) }}
        {{ settings([(evil, evil)]) }}
        {{ gallery([{"photo": evil, "pictures": [(evil, evil)], "caption": evil,
            "legend": [(evil, [evil])]}]) }}
        {% endblock %}
        """
    )
    checked = Checker(template.render(evil=evil))
    assert not [tag for tag, _ in checked.tags if tag == "script"]
    # title, heading, table's caption and two cells, bar, matrix' caption and twice in it, fact and
    # setting with their values, picture, caption, legend
    assert checked.text.count(evil) == 16
    attributes = [value for _, found in checked.tags for value in found.values()]
    assert attributes.count(evil) == 1  # src
    assert attributes.count(f"{evil}: {evil}") == 1  # alt
    assert f"background:rgb({evil})" in attributes


def test_names_cannot_turn_around_what_follows():
    turning = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    html = MACROS.facts([(f"photo_{turning}gpj.exe", "<b>\u0634\u0627\u0631\u0639\u200f")])
    assert not set(turning) & set(html)
    assert "[U+202E][U+2066]" in html
    assert "&lt;b&gt;\u0634\u0627\u0631\u0639\u200f" in html  # right to left by itself


def test_per_class_table_starts_no_formula(tmp_path):
    names = ["=cmd|' /C calc'!A0", "+1", "-1", "@sum", "cat", "a=b", "'quoted'"]
    classes = [{"name": name, "IoU": 0.5, "accuracy": None} for name in names]
    write_scores(RunLayout(tmp_path), {"classes": classes})
    with (tmp_path / "per_class.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [*("'" + name for name in names[:4]), *names[4:]]
    assert {(row["IoU"], row["accuracy"]) for row in rows} == {("0.5", "")}
    kept = json.loads((tmp_path / "scores.json").read_text())["classes"]
    assert [each["name"] for each in kept] == names


def test_long_names_in_tables_break_after_underscores():
    html = MACROS.table("", ["a_<b>"], [["__c"], [1]], numbers=0)
    assert '<th scope="col">a_<wbr>&lt;b&gt;</th>' in html
    assert "<td>_<wbr>_<wbr>c</td>" in html
    assert "<td>1</td>" in html


@pytest.mark.parametrize("name", ["run.html", "compare.html", "macros.html"])
def test_what_a_template_is_not_given_is_an_error(name):
    with pytest.raises(UndefinedError):
        TEMPLATES.from_string("{{ missing }}").render()
    if name == "macros.html":
        with pytest.raises(UndefinedError):
            MACROS.gallery([{"pictures": [], "legend": []}])
    else:
        with pytest.raises(UndefinedError):
            TEMPLATES.get_template(name).render()


def test_bars_have_the_lengths_of_their_values():
    def drawn(*rows):
        return re.findall(r"left:([\d.]+)%;width:([\d.]+)%", MACROS.bars(rows))

    assert drawn(("a", 0.25, ""), ("b", 1.0, "")) == [("0.00", "25.00"), ("0.00", "100.00")]
    assert drawn(("a", 0.5, ""), ("b", -0.5, "")) == [("50.00", "25.00"), ("25.00", "25.00")]


def test_pictures_in_a_page_are_whole_up_to_640_pixels_and_small():
    noise = np.random.default_rng(0).integers(0, 256, (2000, 3000, 3), np.uint8)
    uri = data_uri(Image.fromarray(noise))
    assert len(uri) < 400_000  # the worst that a compression can meet
    for size, shown in (((3000, 2000), (640, 427)), ((500, 375), (500, 375))):
        uri = data_uri(Image.fromarray(noise[: size[1], : size[0]]))
        data = base64.b64decode(uri.removeprefix("data:image/webp;base64,"))
        assert Image.open(io.BytesIO(data)).size == shown


def test_report_shows_everything(run_folder):
    path = write_report(read_run(run_folder), BENCHMARK, Drawn())
    html = path.read_text(encoding="utf-8")
    checked = Checker(html)
    words = " ".join(checked.text)
    score = json.loads((run_folder / "scores.json").read_text())["mIoU"]
    assert f"mIoU {percent(score)} on Two <i>classes</i>" in words
    for expected in (*CLASSES, "tiny & small", "standard", "taken for", "Best", "Median", "Worst"):
        assert expected in words
    assert "<script>alert(1)</script>" in words  # the best photo's name, as text
    # photo 8 has 16 of 20 columns of the cat taken for dog
    assert "photo8: mIoU " + percent((1 + 4 / 20 + 20 / 36) / 3) in words
    tags = [tag for tag, _ in checked.tags]
    assert "script" not in tags
    # Each picture says whose it is, is in the page once, and opens.
    alts = [attributes["alt"] for tag, attributes in checked.tags if tag == "img"]
    assert len(alts) == len(set(alts)) == tags.count("summary") == 9 * 3
    assert {"photo8: photo", "photo8: ground truth", "photo8: prediction"} < set(alts)
    assert tags.count("caption") == tags.count("table") == 2
    scopes = [attributes.get("scope") for tag, attributes in checked.tags if tag == "th"]
    assert scopes == ["col"] * 4 + ["col"] * 3 + ["row"] * 3
    # nothing from outside
    for tag, attributes in checked.tags:
        for name in ("src", "href"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, attributes)
    assert "url(" not in html
    assert len(html) < 1_200_000  # of noise, which packs worst
    assert "everything else" in words
    # 10 s: each is shown once, that of a stage in another one there.
    times = [float(seconds) for seconds in re.findall(r"([\d.]+) s\b", words)]
    assert sorted(times) == [1.0, 1.0, 2.0, 2.0, 4.0]
    assert "precision" in words


def test_report_without_photos_or_ground_truth_is_still_a_report(run_folder):
    html = write_report(read_run(run_folder), BENCHMARK).read_text()
    assert "<img" not in html
    shutil.rmtree(run_folder / "labels")
    assert "<img" not in write_report(read_run(run_folder), BENCHMARK, Drawn()).read_text()


def test_photos_that_were_skipped_do_not_shift_the_gallery(run_folder):
    lines = (run_folder / "photos.jsonl").read_text().splitlines(keepends=True)
    (run_folder / "photos.jsonl").write_text("".join(lines[2:]))
    html = write_report(read_run(run_folder), BENCHMARK, Drawn()).read_text()
    assert html.count("<img") == 6 * 3
    assert "photo2: mIoU" in html


@pytest.mark.parametrize(("format", "age"), [(1, "older"), (99, "newer")])
def test_a_run_of_another_format_is_refused(run_folder, format, age):
    said = {"format": format, "fingerprint": {}}
    (run_folder / "run.json").write_text(json.dumps(said))
    with pytest.raises(ValueError, match=f"format {format}, written by an? {age} version"):
        read_run(run_folder)


def test_a_folder_that_is_no_run_is_refused(tmp_path, run_folder):
    with pytest.raises(FileNotFoundError, match=r"scores\.json"):
        read_run(tmp_path)
    (run_folder / "photos.jsonl").write_text('{"id": "a"}\n')
    with pytest.raises(ValueError, match="run it again"):
        read_run(run_folder)


def test_headline_names_what_a_score_is_comparable_with(run_folder):
    line = headline(json.loads((run_folder / "scores.json").read_text()))
    for word in ("two", "standard", "paper", "tiny & small", "all", "| 9 photos"):
        assert word in line
    assert "prompts" not in line
    assert "| prompts mine.txt |" in headline(
        {**json.loads((run_folder / "scores.json").read_text()), "prompts": "mine.txt"}
    )


def test_a_score_of_a_part_says_so(tmp_path):
    folder = write_run(tmp_path / "part", [1], expected_photos=1449)
    assert headline(read_run(folder).scores).endswith("1 of 1449 photos")
    html = write_report(read_run(folder), BENCHMARK, Drawn()).read_text()
    assert "<dt>scored</dt><dd>1 of 1449 photos</dd>" in html
    assert "<dt>vlm.image size</dt><dd>32</dd>" in html
    assert "(1 photos)" not in html
    whole = write_run(tmp_path / "whole", [1, 2], expected_photos=2)
    assert headline(read_run(whole).scores).endswith("| 2 photos")


# ---- compare -----------------------------------------------------------------------------------


@pytest.fixture
def two_runs(tmp_path):
    return [
        write_run(tmp_path / "one", [8, 8, 8, 8, 9, 10], {"dropout": {"rounds": 1}}),
        write_run(tmp_path / "four", [2, 3, 4, 8, 9, 0], {"dropout": {"rounds": 4}}),
    ]


def test_compare_rows(two_runs):
    runs = [read_run(folder) for folder in two_runs]
    one, four = compare_rows(runs, resamples=200)
    assert [one.title, four.title] == ["one", "four"]
    for row in (one, four):
        assert row.miou == pytest.approx(row.run.scores["mIoU"])
        np.testing.assert_allclose(row.iou, [c["IoU"] for c in row.run.scores["classes"]])
    counts = [[photo.counts for photo in run.photos] for run in runs]
    assert four.gain == paired_bootstrap(*counts, 3, resamples=200)
    assert four.gain.low > 0
    assert [line[:3] for line in _cells([one, four])] == [
        ["pnp-ovss, tiny & small", "one", "dropout.rounds 1"],
        ["pnp-ovss, tiny & small", "four", "dropout.rounds 4"],
    ]


def test_settings_of_one_last_name_are_told_apart(tmp_path):
    runs = []
    for own, other in ((0.15, 0.5), (0.3, 0.7)):
        settings = {"labeller": {"threshold": own}, "proposals": {"threshold": other, "top_k": 1}}
        runs.append(read_run(write_run(tmp_path / str(own), [1, 2], settings)))
    settings = [cells[2] for cells in _cells(compare_rows(runs, resamples=1))]
    assert settings == [
        "labeller.threshold 0.15, proposals.threshold 0.5",
        "labeller.threshold 0.3, proposals.threshold 0.7",
    ]


def test_settings_of_other_methods_are_not_compared(tmp_path):
    """Two methods share few settings: what they have in common is which classes they look for."""
    runs = []
    for method, kind, own in (
        ("pnp-ovss", "oracle", {"layer": 7, "dropout": {"rounds": 4}}),
        ("sclip", "all", {"residual": True, "refine": None}),
        ("sclip", "all", {"residual": True, "refine": {"kind": "pamr", "steps": 10}}),
    ):
        settings = {"proposals": {"kind": kind}, **own}
        name = str(len(runs))
        runs.append(read_run(write_run(tmp_path / name, [1, 2], settings, method=method)))
    assert [cells[:3:2] for cells in _cells(compare_rows(runs, resamples=1))] == [
        ["pnp-ovss, tiny & small", "proposals oracle"],
        ["sclip, tiny & small", "proposals all, refine None"],
        ["sclip, tiny & small", "proposals all, refine pamr"],
    ]


def test_a_report_names_published_numbers_and_what_differs(tmp_path):
    model = "openai/clip-vit-base-patch16@57c216476eefef5ab752ec549e440a49ae4ae5f3"
    own = {
        "benchmark": "voc21", "method": "naclip", "model": model, "proposals": "oracle",
        "expected_photos": 1449, "prompts": "mine.txt",
    }  # fmt: skip
    run = read_run(write_run(tmp_path / "run", [1, 2], {"refine": {"kind": "pamr"}}, **own))
    words = " ".join(" ".join(Checker(write_report(run, BENCHMARK).read_text()).text).split())
    assert f"naclip , {model}" in words
    rest = "proposals oracle instead of all; {}prompts mine.txt; 2 of 1449 photos"
    with_pamr, without = re.findall(r"published: (\S+) .*?differs: (.*?photos)", words)
    assert with_pamr == ("64.07", rest.format(""))
    assert without == ("58.9", rest.format("refine pamr instead of none; "))
    other = read_run(write_run(tmp_path / "other", [1], benchmark="voc20"))
    assert "published" not in write_report(other, BENCHMARK).read_text()


def test_compare_takes_the_photos_that_all_have(two_runs, caplog):
    lines = (two_runs[1] / "photos.jsonl").read_text().splitlines(keepends=True)
    (two_runs[1] / "photos.jsonl").write_text("".join(lines[4:0:-1]))
    rows = compare_rows([read_run(folder) for folder in two_runs], resamples=50)
    assert [photo.id for photo in rows[0].run.photos] == [f"photo{i}" for i in range(1, 5)]
    assert [photo.id for photo in rows[1].run.photos] == [f"photo{i}" for i in range(1, 5)]
    assert "4 photos of 6" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol": "released"}, "one protocol"),
        ({"benchmark": "voc21"}, "one benchmark"),
        ({"classes": []}, "same classes"),
    ],
)
def test_what_cannot_be_compared_is_refused(two_runs, change, message):
    file = two_runs[1] / "scores.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        compare_rows([read_run(folder) for folder in two_runs])


def test_compare_command_needs_no_model(two_runs, tmp_path, capsys):
    output = tmp_path / "page.html"
    main(["compare", *map(str, two_runs), f"--output={output}", "--resamples=100", "-q"])
    printed = capsys.readouterr().out
    assert "dropout.rounds" in printed
    assert str(output) in printed.replace("\n", "")
    checked = Checker(output.read_text())
    words = " ".join(checked.text)
    assert "four is " in words
    assert "better than one." in words
    assert "photo5" in words  # no data: the photos that differ most as a table


def test_compare_shows_the_photos_where_the_data_is_at_hand(tmp_path, scenes_root):
    from ovss.datamodules import Scenes
    from ovss.preprocessing import InputSpec

    data = Scenes(scenes_root, limit=3, spec=InputSpec(16, (0, 0, 0), (1, 1, 1)))
    data.setup("test")
    benchmark = data.benchmark
    for name, wrong in (("a", 0), ("b", 1)):
        folder = tmp_path / name
        (folder / "labels").mkdir(parents=True)
        lines = []
        for index in range(3):
            item = data.dataset[index]
            truth = item["mask"].numpy()
            labels = np.zeros_like(truth) if wrong else truth
            palette_png(labels, benchmark.palette).save(folder / "labels" / f"{item['id']}.png")
            rows = [
                [int(i), int(j), int(((truth == i) & (labels == j)).sum())]
                for i, j in sorted({*zip(truth.ravel().tolist(), labels.ravel().tolist())})
            ]
            lines.append(json.dumps({"id": item["id"], "proposal": [], "counts": rows}))
        (folder / "photos.jsonl").write_text("\n".join(lines))
        (folder / "run.json").write_text(json.dumps({"format": FORMAT, "fingerprint": {}}))
        content = {"benchmark": "scenes", "protocol": "standard", "settings": {}, "photos": 3}
        content |= {"method": "pnp-ovss", "model": "demo", "proposals": "all", "mIoU": 0.5}
        content["classes"] = [{"name": name} for name in benchmark.classes]
        (folder / "scores.json").write_text(json.dumps(content))
        section = {"class_path": "ovss.datamodules.Scenes", "init_args": {"root": str(scenes_root)}}
        (folder / "config.yaml").write_text(json.dumps({"data": section}))
    output = tmp_path / "page.html"
    runs = [str(tmp_path / "a"), str(tmp_path / "b")]
    main(["compare", *runs, f"--output={output}", "--resamples=10"])
    html = output.read_text()
    assert html.count("<img") == 3 * 4
    assert "(-" in html


def test_a_run_folder_starts_nothing(two_runs, tmp_path, capsys, monkeypatch):
    """Only this project's own data modules are made from the `config.yaml` of a run folder."""
    called = tmp_path / "called"
    touch = {"class_path": "os.system", "init_args": {"command": f"touch {called}"}}
    ours = "ovss.datamodules"
    own = f"{ours}.Scenes"
    monkeypatch.setitem(sys.modules, "evil", SimpleNamespace(Scenes=lambda **_: called.touch()))
    os.mkfifo(tmp_path / "pipe")
    for section in (
        touch,
        {"class_path": "pathlib.Path.touch", "init_args": {"self": str(called)}},
        {
            "class_path": f"{ours}.prepare.prepare",
            "init_args": {"datamodule": str(called)},
        },
        {"class_path": "ovss.datamodules.os.system", "init_args": {"command": f"touch {called}"}},
        {"class_path": ["os.system"]},
        {"class_path": "evil.Scenes"},
        {"class_path": "ovss.datamodules.evil.Scenes"},
        {"class_path": "ovss.datamodules..Scenes"},
        {"class_path": "ovss.datamodules.__class__"},
        {
            "class_path": "ovss.datamodules.DatasetNotFoundError",
            "init_args": dict.fromkeys("nrt", ""),
        },
        {"class_path": "ovss.datamodules.BenchmarkDataModule", "init_args": {"root": "."}},
        {"class_path": own, "init_args": {"root": str(tmp_path / "new")}},  # draws nothing
        {"class_path": own, "init_args": {"root": touch}},
        {"class_path": own, "init_args": {"root": ".", "spec": touch}},
        {"class_path": own, "init_args": {"root": ".", "limit": [touch]}},
        {"class_path": own, "init_args": {"__class__": touch, "self": "."}},
        {"class_path": own, "init_args": [touch]},
        {"class_path": own, "init_args": {"root": ".", "prompts": str(tmp_path / "pipe")}},
        {
            "class_path": "ovss.datamodules.Folder",
            "init_args": {"root": ".", "classes": "/dev/zero"},
        },
        [touch],
        None,
    ):
        (two_runs[0] / "config.yaml").write_text(json.dumps({"data": section}))
        assert open_photos(read_run(two_runs[0])) is None
        assert not called.exists()
        assert not (tmp_path / "new").exists()
    for text in (
        f"data: !!python/object/apply:os.system ['touch {called}']",
        "data: " + "[" * 5000,
        "data: \x00",
        "[]",
    ):
        (two_runs[0] / "config.yaml").write_text(text)
        assert open_photos(read_run(two_runs[0])) is None
    main(["compare", *map(str, two_runs), f"--output={tmp_path / 'page.html'}", "-q"])
    (two_runs[0] / "config.yaml").unlink()
    (tmp_path / "pipe").rename(two_runs[0] / "config.yaml")
    assert open_photos(read_run(two_runs[0])) is None
    assert not called.exists()


@pytest.mark.parametrize(
    "content",
    [
        "data: &a {init_args: [*a]}",
        "".join(
            f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else 'x'] * 9)}]\n" for n in range(20)
        ),
        "[" * 100_000,
        "data: {class_path: ovss.datamodules.Scenes, class_path: ovss.datamodules.VOC}",
    ],
)
def test_a_hostile_configuration_costs_compare_its_photos_alone(two_runs, tmp_path, content):
    (two_runs[0] / "config.yaml").write_text(content)
    output = tmp_path / "page.html"
    main(["compare", *map(str, two_runs), f"--output={output}", "--resamples=10", "-q"])
    assert "<img" not in output.read_text()


def test_compare_draws_bars_to_the_largest_difference(two_runs, tmp_path):
    output = tmp_path / "page.html"
    main(["compare", *map(str, two_runs), f"--output={output}", "--resamples=100", "-q"])
    html = output.read_text()
    rows = compare_rows([read_run(folder) for folder in two_runs], resamples=100)
    change = rows[1].iou - rows[0].iou
    widths = [float(w) for w in re.findall(r"width:([\d.]+)%", html)]
    full = 50 if (change < 0).any() else 100
    expected = full * np.abs(np.sort(change)[::-1]) / np.abs(change).max()
    np.testing.assert_allclose(widths, expected, atol=0.006)
    assert "<td>dropout.rounds 4</td>" in html
    assert re.search(r"figure small \{[^}]*overflow-wrap: anywhere", html)


def compare_page(tmp_path):
    """Runs with long names, with photos."""
    names = ("three_rounds_of_salience_dropout", "a_single_round_without_any_crf")
    wrongs = ([8, 8, 8], [2, 3, 9])
    folders = [write_run(tmp_path / n, w) for n, w in zip(names, wrongs, strict=True)]
    rows = compare_rows([read_run(folder) for folder in folders], resamples=10)
    path = tmp_path / "compare.html"
    path.write_text(_page(rows, Drawn(), 10))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["report", "compare"])
@pytest.mark.parametrize("width", [390, 1440])
def test_page_opens_in_a_browser(run_folder, tmp_path, width, kind):
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    assert browser, "Expected Debian's chromium; `apt-get install chromium`."
    if kind == "report":
        path = write_report(read_run(run_folder), BENCHMARK, Drawn())
    else:
        path = compare_page(tmp_path)
    # A window cannot be narrower than 500 pixels, a frame can. It reports what it finds.
    frame = tmp_path / "frame.html"
    frame.write_text(
        f"<body style='margin:0'><iframe style='border:0;width:{width}px;height:3000px' "
        f"src='{path.as_uri()}'></iframe></body>"
    )
    shot = tmp_path / "shot.png"
    done = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", "--hide-scrollbars", f"--user-data-dir={tmp_path / 'profile'}",
            "--enable-logging=stderr", "--v=0", f"--window-size={max(width, 500)},3000",
            f"--screenshot={shot}", frame.as_uri(),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr, done.stderr
    pixels = np.asarray(Image.open(shot).convert("RGB"))[:, :width]
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 1000  # photos, bars and text
    # Nothing sticks out on the right: the page's margin is one colour.
    margin = pixels[:, -8:].reshape(-1, 3)
    assert len(np.unique(margin, axis=0)) == 1
