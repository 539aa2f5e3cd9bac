"""`table`: any runs in one table, published numbers beside them, and its files."""

import base64
import csv
import hashlib
import io
import json
import os
import re
import runpy
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from test_report import HOSTILE, Checker, write_run

from ovss import datamodules
from ovss.cli.main import main
from ovss.report.apart import in_short
from ovss.report.bootstrap import bootstrap_interval
from ovss.report.cells import _letter
from ovss.report.departures import departures
from ovss.report.formats import as_csv, as_latex, as_markdown, as_page, print_matrix
from ovss.report.matrix import read_matrix, write_matrix
from ovss.report.page import TEMPLATES
from ovss.report.published import published_beside, read_published
from ovss.runs.photos import counts_of
from ovss.runs.run import read_run

ROOT = Path(__file__).parents[1]


def cells_of(matrix):
    """Each row as its name, its settings, and its scores with their marks."""
    return [
        (
            row.title,
            row.settings,
            {key: " ".join([cell.written, *cell.marks]) for key, cell in row.cells.items()},
        )
        for row in matrix.rows
    ]


@pytest.fixture
def make(tmp_path):
    """Writes a run whose score is `mIoU`."""

    def write(name, benchmark, mIoU=0.5, settings=None, fingerprint=None, **scores):
        folder = write_run(
            tmp_path / name, [1, 2], settings, benchmark=benchmark, mIoU=mIoU, **scores
        )
        if fingerprint:
            said = json.loads((folder / "run.json").read_text()) | {"fingerprint": fingerprint}
            (folder / "run.json").write_text(json.dumps(said))
        return folder

    return write


CLIP = {"method": "sclip", "model": "clip"}


# ---- rows, columns, marks ------------------------------------------------------------------------


def test_a_row_is_a_method_and_a_column_a_benchmark(make):
    folders = [
        make("a", "voc21", 0.513),
        make("b", "ade150", 0.142),
        make("c", "voc21", 0.596, **CLIP),
        make("d", "pc60", None, **CLIP),
    ]
    matrix = read_matrix(folders)
    assert [column.benchmark for column in matrix.columns] == ["voc21", "ade150", "pc60"]
    assert cells_of(matrix) == [
        ("pnp-ovss, tiny & small", "", {"voc21": "51.3", "ade150": "14.2"}),
        ("sclip, clip", "", {"voc21": "59.6", "pc60": "-"}),
    ]
    assert matrix.notes == ()
    alike = "voc21, ade150, pc60: protocol standard, proposals all, 2 photos"
    assert matrix.described == [alike]


def test_what_is_unlike_its_column_is_marked_and_explained(make):
    whole = {"photos": 1449, "expected_photos": 1449}
    folders = [
        make("odd", "voc21", 0.1, proposals="oracle", **whole),
        make("usual", "voc21", 0.2, **CLIP, **whole),
        make("other", "voc21", 0.3, method="naclip", **whole),
        make("part", "voc21", 0.4, method="clip", photos=300, expected_photos=1449),
        make("more", "voc21", 0.5, method="x", protocol="released", prompts="mine.txt", **whole),
        make("old", "voc21", 0.6, method="y", fingerprint={"ovss": "0.0.1"}, **whole),
        make("alone", "pc60", 0.7, proposals="oracle"),
    ]
    matrix = read_matrix(folders)
    assert [row[2] for row in cells_of(matrix)] == [
        {"voc21": "10.0 a", "pc60": "70.0"},
        {"voc21": "20.0"},
        {"voc21": "30.0"},
        {"voc21": "40.0 b"},
        {"voc21": "50.0 c"},
        {"voc21": "60.0 d"},
    ]
    assert matrix.notes == (
        ("a", "proposals oracle instead of all"),
        ("b", "300 of 1449 photos instead of 1449 photos"),
        ("c", "protocol released instead of standard; prompts mine.txt instead of the usual"),
        ("d", "ovss 0.0.1 instead of unknown"),
    )
    assert matrix.described == [
        "voc21: protocol standard, proposals all, 1449 photos",
        "pc60: protocol standard, proposals oracle, 2 photos",
    ]


def test_of_conditions_that_are_as_common_the_first_runs_are_the_columns(make):
    folders = [make("a", "voc21", proposals="oracle"), make("b", "voc21", **CLIP)]
    for order in (folders, folders[::-1]):
        matrix = read_matrix(order)
        assert [row.cells["voc21"].marks for row in matrix.rows] == [(), ("a",)]


def test_other_answers_of_one_kind_of_proposals_are_marked(make):
    def proposals(answers):
        return {"proposals": {"kind": "file", "answers": answers, "threshold": 70}}

    kind = {"proposals": "file"}
    matrix = read_matrix(
        [
            make("a", "voc21", settings=proposals("x"), **kind),
            make("b", "pc60", settings=proposals("y"), **kind),
            make("c", "voc21", settings=proposals("z" * 70), **kind, **CLIP),
        ]
    )
    # A benchmark's answers are its own: they make no other row.
    assert [len(row.cells) for row in matrix.rows] == [2, 1]
    ((mark, text),) = matrix.notes
    assert matrix.rows[1].cells["voc21"].marks == (mark,)
    assert text == f"proposals.answers {'z' * 57}... instead of x"


def test_other_settings_weights_and_precisions_are_other_rows(make):
    base = {"variant": "paper", "dropout": {"rounds": 4}}
    print32 = {"weights": "w", "precision": "32-true"}
    matrix = read_matrix(
        [
            make("a", "voc21", 0.1, base, print32),
            make("b", "voc21", 0.2, {**base, "variant": "released"}, print32),
            make("c", "pc60", 0.3, base, print32),
            make("d", "pc60", 0.4, {**base, "dropout": {"rounds": 1}}, print32),
            make("e", "pc60", 0.5, base, {**print32, "precision": "bf16-mixed"}),
            make("f", "pc60", 0.6, base, {**print32, "weights": "v"}),
        ]
    )
    common = ["variant paper", "dropout.rounds 4", "precision 32-true", "weights w"]

    def but(index, text):
        return ", ".join([*common[:index], text, *common[index + 1 :]])

    assert [row[1:] for row in cells_of(matrix)] == [
        (", ".join(common), {"voc21": "10.0", "pc60": "30.0"}),
        (but(0, "variant released"), {"voc21": "20.0"}),
        (but(1, "dropout.rounds 1"), {"pc60": "40.0"}),
        (but(2, "precision bf16-mixed"), {"pc60": "50.0"}),
        (but(3, "weights v"), {"pc60": "60.0"}),
    ]


def test_another_model_is_no_difference_of_settings(make):
    """Its name and its hashes differ, of course; that its layer does is worth saying."""
    rows = []
    for name, layer in (("base", 3), ("large", 7)):
        vlm = {"name": name, "built_from": f"hash of {name}"}
        settings = {"vlm": vlm, "layer": layer, "head": 9}
        rows.append(make(name, "voc21", 0.5, settings, {"weights": name * 2}, model=name))
    found = read_matrix(rows).rows
    assert [(row.model, row.settings) for row in found] == [
        ("base", "layer 3"),
        ("large", "layer 7"),
    ]
    # Where the name is the same the hashes are all there is.
    rows.append(make("again", "voc21", 0.5, settings, {"weights": "others"}, model="large"))
    assert [row.settings for row in read_matrix(rows).rows] == [
        "layer 3",
        "layer 7, weights largelarge",
        "layer 7, weights others",
    ]


def test_settings_in_short():
    assert in_short(dict.fromkeys("abcdef", "1")) == "a 1, b 1, c 1, d 1 and 2 more"


@pytest.mark.parametrize(
    ("differing", "told"),
    [
        ([{"proposals": "oracle"}, {}], ["proposals oracle", "proposals all"]),
        ([{"protocol": "released"}, {}], ["protocol released", "protocol standard"]),
        ([{"photos": 3, "expected_photos": 9}, {}], ["photos 3", "photos all"]),
        ([{}, {"prompts": "mine.txt"}], ["prompts the usual", "prompts mine.txt"]),
    ],
)
def test_runs_that_would_share_a_cell_have_a_row_each(make, differing, told):
    folders = [make(f"r{n}", "voc21", n / 10, **own) for n, own in enumerate(differing)]
    folders += [make(f"s{n}", "pc60", n / 5, **own) for n, own in enumerate(differing)]
    # The only one on its benchmark, which is like none, or like one of the others.
    folders.append(make("t", "ade150", 0.9, **differing[1]))
    rows = cells_of(read_matrix(folders))
    assert [row[1] for row in rows] == told
    assert [sorted(row[2]) for row in rows] == [["pc60", "voc21"], ["ade150", "pc60", "voc21"]]
    assert [row[2]["voc21"][:4].strip() for row in rows] == ["0.0", "10.0"]


def test_runs_that_are_alike_in_everything_are_told_apart_by_their_folders(make):
    folders = [make(name, "voc21", 0.5) for name in ("a", "b", "c")]
    matrix = read_matrix([*folders, folders[0]])  # given twice: counted once
    assert [row.settings for row in matrix.rows] == [f"run {folder}" for folder in folders]
    assert matrix.notes == ()


def test_intervals_are_the_bootstraps(make):
    folder = make("a", "voc21")
    (row,) = read_matrix([folder], intervals=True, resamples=200, seed=3).rows
    run = read_run(folder)
    expected = bootstrap_interval(counts_of(run.scored), 3, "standard", 200, 3)
    assert row.cells["voc21"].interval == expected
    assert expected[0] < expected[1]
    scores = json.loads((folder / "scores.json").read_text())
    (folder / "scores.json").write_text(json.dumps(scores | {"photos": 7}))
    with pytest.raises(ValueError, match=r"photos\.jsonl to have the 7 photos .* but got 2"):
        read_matrix([folder], intervals=True, resamples=200)


def test_letters():
    assert [_letter(n) for n in (0, 25, 26, 51, 52, 701, 702)] == [
        "a", "z", "aa", "az", "ba", "zz", "aaa",
    ]  # fmt: skip


# ---- published numbers ---------------------------------------------------------------------------


def test_published_numbers_are_whole():
    numbers = read_published()
    known = {"voc21", "voc20", "pc60", "pc59", "coco_object81", "coco_stuff171"}
    assert {each.benchmark for each in numbers} == known | {"ade150", "cityscapes19"}
    once = Counter((each.method, each.backbone, each.benchmark) for each in numbers)
    assert set(once.values()) == {1}
    methods = {"", "pnp-ovss", "clip", "maskclip", "sclip", "clearclip", "naclip", "proxyclip"}
    assert {each.key for each in numbers} == methods
    assert {each.protocol for each in numbers} == {"", "standard", "released"}
    assert {each.proposals for each in numbers} == {"", "all", "oracle", "file"}
    for each in numbers:
        assert each.source, each
        assert 0 < each.mIoU < 1, each
        assert each.written == f"{100 * each.mIoU:.{len(each.written.partition('.')[2])}f}"
    packaged = Path(datamodules.__file__).parent / "data" / "published.csv"
    assert packaged.read_text(encoding="utf-8").count("\n") == len(numbers) + 1


@pytest.mark.parametrize(
    ("method", "backbone", "written"),
    [  # VOC21, VOC20, PC60, PC59, COCO-Object, COCO-Stuff, ADE20K, Cityscapes
        ("PnP-OVSS", "BLIP", "51.3 - 28.0 - 36.2 17.9 14.2 -"),
        ("NACLIP", "ViT-B/16", "64.07 83.03 34.99 38.35 36.19 25.69 19.05 38.27"),
        ("SCLIP, repository", "ViT-B/16", "59.63 81.54 31.74 34.46 33.52 22.77 16.45 32.34"),
        ("ProxyCLIP", "ViT-B/16, DINO ViT-B/8", "61.3 80.3 35.3 39.1 37.5 26.5 20.2 38.1"),
        ("ClearCLIP", "ViT-B/16", "51.8 80.9 32.6 35.9 33.0 23.9 16.7 30.0"),
        ("MaskCLIP, reduced", "ViT-L/14", "- 65.1 - 26.5 - 17.6 15.1 21.2"),
        ("CorrCLIP", "ViT-L/14, SAM 2", "76.7 91.5 44.9 50.8 49.4 34.0 30.7 51.1"),
    ],
)
def test_published_rows(method, backbone, written):
    matrix = read_matrix([], published=True)
    keys = [column.benchmark for column in matrix.columns]
    assert keys == [
        "voc21", "voc20", "pc60", "pc59", "coco_object81", "coco_stuff171", "ade150",
        "cityscapes19",
    ]  # fmt: skip
    (found,) = [row for row in matrix.rows if (row.method, row.model) == (method, backbone)]
    cells = [found.cells[key].written if key in found.cells else "-" for key in keys]
    assert " ".join(cells) == written


def test_published_rows_stand_beside_runs(make):
    runs = [make("a", "voc21", 0.5), make("b", "scenes", 0.6)]
    matrix = read_matrix(runs, published=True)
    assert [column.benchmark for column in matrix.columns] == ["voc21", "scenes"]
    assert cells_of(matrix)[0] == (
        "pnp-ovss, tiny & small",
        "",
        {"voc21": "50.0", "scenes": "60.0"},
    )
    notes = dict(matrix.notes)
    paper = next(row for row in matrix.rows if row.method == "PnP-OVSS")
    assert paper.cells.keys() == {"voc21"}
    assert "arXiv 2311.17095 v4" in notes[paper.marks[0]]
    assert "GPT-4o" in notes[paper.marks[0]]
    (mark,) = paper.cells["voc21"].marks
    assert notes[mark] == "protocol released instead of standard; proposals file instead of all"
    second = next(row for row in matrix.rows if row.method == "Trident")
    assert "second-hand" in notes[second.marks[0]]
    # Every published number has its source, beside itself or beside its row's name.
    for row in matrix.rows[1:]:
        for cell in row.cells.values():
            assert any(notes[m].startswith("published: ") for m in (*row.marks, *cell.marks))
    # Two sources in one row: each beside its number.
    both = read_matrix([make("c", "voc20")], published=True)
    assert next(row for row in both.rows if row.method == "ProxyCLIP").marks != ()
    everything = read_matrix([], published=True)
    proxy = next(row for row in everything.rows if row.method == "ProxyCLIP")
    assert proxy.marks == ()
    assert proxy.cells["voc21"].marks != proxy.cells["voc20"].marks


def test_the_documentations_table_is_the_datas():
    tool = runpy.run_path(str(ROOT / "tools" / "published.py"))
    page = tool["PAGE"].read_text(encoding="utf-8")
    assert "| PnP-OVSS, BLIP <sup>" in page
    assert tool["renewed"](page) == page, "run `python tools/published.py`"
    assert tool["renewed"](page.replace("51.3", "51.4")) == page


# ---- formats -------------------------------------------------------------------------------------


@pytest.fixture
def two(make):
    """A table of two methods, one of them with a mark, and a report to link to."""
    folders = [
        make("plain", "voc21", 0.51349, {"layer": 1}),
        make("other", "voc21", 0.25, {"layer": 2}),
        make("sclip", "voc21", 0.4, proposals="oracle", **CLIP),
        make("sclip2", "coco_stuff171", None, **CLIP),
    ]
    (folders[0] / "report.html").write_text("a report")
    return read_matrix(folders, intervals=True, resamples=50)


def interval(cell, to):
    return f"({100 * cell.interval[0]:.1f}{to}{100 * cell.interval[1]:.1f})"


def test_markdown(two):
    lines = as_markdown(two).splitlines()
    own = [interval(row.cells["voc21"], " .. ") for row in two.rows]
    stuff = interval(two.rows[2].cells["coco_stuff171"], " .. ")
    assert lines[:5] == [
        "| method | settings | voc21 | coco_stuff171 |",
        "|---|---|---:|---:|",
        f"| pnp-ovss, tiny & small | layer 1 | 51.3 {own[0]} |  |",
        f"| pnp-ovss, tiny & small | layer 2 | 25.0 {own[1]} |  |",
        f"| sclip, clip |  | 40.0 {own[2]} <sup>a</sup> | - {stuff} |",
    ]
    assert lines[-1] == "<sup>a</sup> proposals oracle instead of all"


def test_csv(two):
    first, *_, last = csv.DictReader(io.StringIO(as_csv(two)))
    assert (first["method"], first["model"], first["settings"]) == (
        "pnp-ovss", "tiny & small", "layer 1",
    )  # fmt: skip
    low, high = two.rows[0].cells["voc21"].interval
    assert first["voc21"] == "51.35"
    assert (first["voc21 low"], first["voc21 high"]) == (f"{100 * low:.2f}", f"{100 * high:.2f}")
    assert first["coco_stuff171"] == first["coco_stuff171 conditions"] == ""
    assert last["voc21 conditions"].startswith("protocol standard, proposals oracle, ")
    assert "2 photos" in last["voc21 conditions"]
    assert last["coco_stuff171"] == ""
    published = csv.DictReader(io.StringIO(as_csv(read_matrix([], published=True))))
    assert next(published)["voc21"] == "18.8"  # as it was published


def test_json(two, tmp_path):
    files = write_matrix(two, tmp_path / "out" / "all.v1")
    assert [file.name for file in files] == [
        f"all.v1.{kind}" for kind in ("md", "csv", "json", "tex", "html")
    ]
    data = json.loads(files[2].read_text(encoding="utf-8"))
    assert [column["benchmark"] for column in data["columns"]] == ["voc21", "coco_stuff171"]
    assert data["columns"][0]["conditions"]["protocol"] == "standard"
    first, _, last = data["rows"]
    assert (first["method"], first["settings"]) == ("pnp-ovss", {"layer": "1"})
    assert first["cells"]["voc21"]["mIoU"] == 0.51349
    assert first["cells"]["voc21"]["interval"] == list(two.rows[0].cells["voc21"].interval)
    assert first["cells"]["voc21"]["run"] == str(tmp_path / "plain")
    assert "notes" not in first["cells"]["voc21"]
    assert last["cells"]["voc21"]["notes"] == ["proposals oracle instead of all"]
    assert last["cells"]["coco_stuff171"]["mIoU"] is None


def check_latex(text, columns):
    """Its environments are closed in order, its rows have as many cells, and nothing is raw."""
    opened = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert not opened
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    for row in rows:
        assert len(re.findall(r"(?<!\\)&", row)) == columns - 1, row
    assert f"\\begin{{tabular}}{{l{'r' * (columns - 1)}}}" in text
    depth = 0
    for found in re.finditer(r"\\.|[{}]", text):
        depth += {"{": 1, "}": -1}.get(found[0], 0)
        assert depth >= 0
    assert depth == 0
    plain = re.sub(r"\\.", "", "\n".join(text.splitlines()[1:]))
    assert not set("#$%_^~<>") & set(plain)
    assert all(line in text for line in (r"\toprule", r"\midrule", r"\bottomrule"))
    return rows


def test_latex(two):
    rows = check_latex(as_latex(two), 3)
    own = interval(two.rows[2].cells["voc21"], "--")
    stuff = interval(two.rows[2].cells["coco_stuff171"], "--")
    assert rows[0] == r"method & voc21 & coco\_stuff171 \\"
    assert rows[3] == rf"sclip, clip & 40.0 {own}\textsuperscript{{a}} & - {stuff} \\"
    assert rows[1].startswith(r"pnp-ovss, tiny \& small, layer 1 & 51.3 (")


EVIL = "[x] \\cmd{y} $a_1^2$ 100% #1 ~ | `c` *b*\n<script>alert(1)</script> \u202e"


def test_hostile_names_have_no_meaning_in_any_format(make, tmp_path):
    evil = HOSTILE % "_"
    folder = make(f"run #1 {evil}", EVIL, method=f"=1+1 {EVIL}", model=f"m {evil}", prompts=EVIL)
    (folder / "report.html").write_text("a report")
    other = make("other", EVIL, method="javascript:alert(1)")
    matrix = read_matrix([other, folder])
    markdown = as_markdown(matrix)
    # The table, a blank line, what it is of, and a note for each score.
    assert len(markdown.splitlines()) == 4 + 1 + 2 + len(matrix.notes)
    assert "<script" not in markdown.replace(r"\<script", "")
    assert len(re.findall(r"(?<!\\)\|", markdown.splitlines()[3])) == 3
    rows = list(csv.reader(io.StringIO(as_csv(matrix))))
    assert rows[2][0].startswith("'=1+1")
    assert not [cell for row in rows for cell in row if cell.startswith(tuple("=+-@"))]
    rows = check_latex(as_latex(matrix), 2)
    assert not [row for row in rows if row.startswith("[")]
    star = as_latex(read_matrix([make("star", "voc21", method="*")]))
    assert "\n{*}, tiny" in star
    assert r"\caption{mIoU in percent.}" in star
    html = as_page(matrix, tmp_path / "page")
    checked = Checker(html)
    words = "".join(checked.text)
    assert "<script>alert(1)</script>" in words
    assert "\u202e" not in html
    links = [attributes["href"] for tag, attributes in checked.tags if tag == "a"]
    assert [unquote(link) for link in links] == [f"../{folder.name}/report.html"]
    assert Counter(tag for tag, _ in checked.tags)["script"] == 1
    allowed = {"class", "data-value", "scope", "href", "lang", "charset", "name", "content", "rel"}
    attributes = {name for _, found in checked.tags for name in found}
    assert attributes <= allowed | {"http-equiv"}


def test_the_page_stands_alone_and_runs_its_own_script_only(two, tmp_path):
    html = as_page(two, tmp_path)
    checked = Checker(html)
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(a["content"] for _, a in checked.tags if "http-equiv" in a)
    assert policy.startswith("default-src 'none'")
    assert policy.endswith(f"script-src 'sha256-{digest}'")
    assert "src=" not in html
    assert "url(" not in html
    links = [attributes["href"] for tag, attributes in checked.tags if tag == "a"]
    assert links == ["plain/report.html"]  # the others have no report
    values = [a["data-value"] for tag, a in checked.tags if tag == "td" and "data-value" in a]
    assert values == ["0.51349", "0.25", "0.4", ""]
    elsewhere = tmp_path / "site" / "index.html"
    assert write_matrix(two, tmp_path / "t", elsewhere)[-1] == elsewhere
    assert 'href="../plain/report.html"' in elsewhere.read_text()
    assert not (tmp_path / "t.html").exists()


def test_other_pages_allow_no_script():
    html = TEMPLATES.from_string('{% extends "base.html" %}').render()
    assert "script-src" not in html


@pytest.mark.parametrize("terminal", [True, False])
def test_the_terminal_never_breaks_a_score(two, terminal):
    text = io.StringIO()
    print_matrix(two, Console(file=text, width=30, force_terminal=terminal, no_color=True))
    printed = text.getvalue()
    for row in two.rows:
        for cell in row.cells.values():
            assert f"{cell.written} {interval(cell, ' .. ')}" in printed
    assert "a proposals oracle instead of all" in printed
    if not terminal:
        assert "pnp-ovss, tiny & small" in printed


# ---- the command ---------------------------------------------------------------------------------


def test_the_command(make, tmp_path, capsys):
    runs = [make("a", "voc21", 0.513), make("b", "voc21", 0.4, **CLIP)]
    page = tmp_path / "site" / "index.html"
    options = [f"--output={tmp_path / 'out' / 'table'}", f"--html={page}", "--published", "-q"]
    main(["table", *map(str, runs), "--intervals", "--resamples=20", *options])
    printed = capsys.readouterr().out
    assert "51.3 (" in printed
    assert "second-hand" in printed
    names = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert names == ["table.csv", "table.json", "table.md", "table.tex"]
    assert page.is_file()
    assert f"{tmp_path / 'out' / 'table.md'}, " in printed


def test_where_the_table_goes(make, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    run = make("a", "voc21")
    main(["table", str(run), "--output=~/t.tex", "-q"])
    names = [f"t.{kind}" for kind in ("csv", "html", "json", "md", "tex")]
    assert sorted(file.name for file in (tmp_path / "home").glob("t.*")) == names
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--output=", "argument --output: Expected a file, but got ''"),
        ("--html=", "argument --html: Expected a file, but got ''"),
        ("--html=a/report.html", "but got the report of a run, a/report.html"),
        ("--seed=-1", "argument --seed: Expected a whole number from 0, got '-1'"),
        ("--resamples=0", "argument --resamples: Expected a whole number from 1, got '0'"),
    ],
)
def test_options_that_cannot_be(make, tmp_path, monkeypatch, capsys, option, said):
    monkeypatch.chdir(tmp_path)
    make("a", "voc21")
    with pytest.raises(SystemExit) as stop:
        main(["table", "a", option])
    assert stop.value.code == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing", "finished run with scores.json in {}, but there is none"),
        ("unfinished", "finished run with scores.json in {}, but there is none"),
        ("damaged", "to be as this version's `test` writes them, but got KeyError('mIoU')"),
        ("older", "to be a run folder of format 2, but it is of format 1"),
        ("photos", "to be as this version's `test` writes them, but got JSONDecodeError"),
    ],
)
def test_a_run_that_cannot_be_read_is_named(make, tmp_path, capsys, name, said):
    folder = tmp_path / name
    if name != "missing":
        make(name, "voc21")
    if name == "unfinished":
        (folder / "scores.json").unlink()
    elif name == "damaged":
        scores = json.loads((folder / "scores.json").read_text())
        del scores["mIoU"]
        (folder / "scores.json").write_text(json.dumps(scores))
    elif name == "photos":
        (folder / "photos.jsonl").write_text('{"id": ')
    elif name == "older":
        (folder / "run.json").write_text(json.dumps({"format": 1, "fingerprint": {}}))
    with pytest.raises(SystemExit) as stop:
        main(["table", str(make("good", "voc21")), str(folder), f"--output={tmp_path / 't'}"])
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert str(folder) in error
    assert said.format(folder) in error
    assert not list(tmp_path.glob("t.*"))


def test_no_runs_are_a_mistake(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["table"])
    assert stop.value.code == 2
    assert "folders of finished runs, but got none" in capsys.readouterr().err
    with pytest.raises(ValueError, match="at least one run"):
        read_matrix([])
    assert not list(tmp_path.iterdir())


# ---- a browser -----------------------------------------------------------------------------------

_CLICKS = """
const names = () => [...document.querySelectorAll("tbody th")].map((th) => th.dataset.value);
const seen = [];
for (const column of [1, 1, 0, 0]) {
  document.querySelectorAll("thead button")[column].click();
  seen.push(names());
}
document.title = JSON.stringify(seen);
"""


def browse(tmp_path, page, *options):
    """What headless Chromium writes to standard output; a message in its console is an error."""
    browser = os.environ.get("CHROMIUM") or shutil.which("chromium")
    assert browser, "Expected Debian's chromium; `apt-get install chromium`."
    done = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", "--hide-scrollbars", f"--user-data-dir={tmp_path / 'profile'}",
            "--enable-logging=stderr", "--v=0", *options, page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_page_sorts(make, tmp_path):
    folders = [
        make("a", "voc21", 0.09, method="b"),
        make("b", "voc21", None, method="d"),
        make("c", "voc21", 0.5, method="a"),
        make("d", "voc21", 0.1, method="c"),
    ]
    html = as_page(read_matrix(folders), tmp_path)
    digest = base64.b64encode(hashlib.sha256(_CLICKS.encode()).digest()).decode()
    html = html.replace("script-src ", f"script-src 'sha256-{digest}' ")
    page = tmp_path / "page.html"
    page.write_text(html.replace("</body>", f"<script>{_CLICKS}</script></body>"))
    shown = browse(tmp_path, page, "--dump-dom")
    seen = json.loads(re.search("<title>(.*?)</title>", shown)[1])
    orders = ["".join(name[0] for name in names) for names in seen]
    # The largest first, then the smallest, one without a number last; then names in either order.
    assert orders == ["acbd", "bcad", "abcd", "dcba"]
    assert len(re.findall("<th[^>]* aria-sort=", shown)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_the_page_opens_in_a_browser(two, tmp_path, width, scheme):
    page = tmp_path / "page.html"
    page.write_text(as_page(read_matrix([], published=True), tmp_path))
    # A window cannot be narrower than 500 pixels, a frame can.
    frame = tmp_path / "frame.html"
    frame.write_text(
        f"<body style='margin:0'><iframe style='border:0;width:{width}px;height:2400px' "
        f"src='{page.as_uri()}'></iframe></body>"
    )
    shot = tmp_path / "shot.png"
    dark = ["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
    window = f"--window-size={max(width, 500)},2400"
    browse(tmp_path, frame, window, f"--screenshot={shot}", *dark)
    pixels = np.asarray(Image.open(shot).convert("RGB"))[:, :width]
    paper = pixels[2, 2].astype(int)
    assert (paper.mean() < 60) == (scheme == "dark")
    ink = np.abs(pixels.astype(int) - paper).sum(-1) > 300
    assert ink.sum() > 5000  # text that stands out
    # Nothing sticks out on the right: the page's margin is one colour.
    assert len(np.unique(pixels[:, -8:].reshape(-1, 3), axis=0)) == 1


# ---- what is never silently mixed ----------------------------------------------------------------


def test_other_photos_of_as_many_are_marked(make):
    folders = [
        make("dev", "scenes"),
        make("val", "scenes", **CLIP),
        make("more", "scenes", method="x"),
    ]
    lines = [json.loads(line) for line in (folders[1] / "photos.jsonl").read_text().splitlines()]
    text = "".join(json.dumps({**line, "id": "other " + line["id"]}) + "\n" for line in lines)
    (folders[1] / "photos.jsonl").write_text(text)
    assert read_matrix(folders).notes == (("a", "another photo set"),)


def test_other_class_names_are_marked(make):
    names = [{"classes": ["a", "b"], "prompts": [["a"], ["b"]]}] * 2 + [{"classes": ["a", "c"]}]
    folders = [
        make(str(number), "folder", method=f"m{number}", fingerprint={"benchmark": own})
        for number, own in enumerate(names)
    ]
    assert read_matrix(folders).notes == (("a", "other class names"),)


def test_each_condition_is_that_of_most_runs(make):
    kinds = [
        ("standard", "all"),
        ("standard", "oracle"),
        ("standard", "itm"),
        ("released", "all"),
        ("released", "all"),
    ]
    folders = [
        make(str(number), "voc21", method=f"m{number}", protocol=protocol, proposals=proposals)
        for number, (protocol, proposals) in enumerate(kinds)
    ]
    (column,) = read_matrix(folders).columns
    assert (column.conditions["protocol"], column.conditions["proposals"]) == ("standard", "all")


def test_a_row_holds_runs_of_its_own_proposals_alone(make):
    runs = [
        ("a", "voc21", "oracle"),
        ("b", "voc21", "all"),
        ("c", "pc60", "itm"),
        ("d", "pc60", "all"),
    ]
    matrix = read_matrix([make(name, key, proposals=kind) for name, key, kind in runs])
    rows = {row.settings: [cell.folder.name for cell in row.cells.values()] for row in matrix.rows}
    assert rows == {"proposals oracle": ["a"], "proposals all": ["b", "d"], "proposals itm": ["c"]}


def test_published_numbers_are_of_all_photos_and_may_be_of_an_unknown_protocol(make):
    matrix = read_matrix([make("a", "voc21", photos=10, expected_photos=1449)], published=True)
    notes = dict(matrix.notes)
    by_name = {row.title: row for row in matrix.rows}
    said = {
        name: [notes[mark] for mark in (*by_name[name].marks, *by_name[name].cells["voc21"].marks)]
        for name in ("SCLIP, repository, ViT-B/16", "LaVG")
    }
    assert "all photos instead of 10 of 1449 photos" in said["SCLIP, repository, ViT-B/16"]
    assert any("protocol not known" in text for text in said["LaVG"])


def test_settings_that_are_not_the_methods_own_are_named(make):
    settings = {
        "residual": False, "vocabulary": "natural", "refine": {"kind": "pamr"},
        "inference": {"short_side": 112}, "by_benchmark": {},
    }  # fmt: skip
    model = "openai/clip-vit-base-patch16"
    scores = {"method": "sclip", "model": model, "benchmark": "voc21", "protocol": "standard"}
    (line, *_) = published_beside(
        {**scores, "proposals": "all", "photos": 1449, "settings": settings}
    )
    for text in ("residual false", "vocabulary natural", "refine pamr", "short_side 112"):
        assert f"{text} and not the method's own" in line
    folder = make("a", "voc21", settings=settings, method="sclip", model=model)
    assert (
        "residual false"
        in read_matrix([folder, make("b", "voc21", method="clip")]).rows[0].settings
    )


def test_a_settings_own_benchmark_decides_whether_it_departs():
    given = {"logit_scale": 65.0}
    settings = {
        "residual": True, "vocabulary": "sclip", "refine": None,
        "inference": given, "by_benchmark": {"voc21": {"prob_thd": 0.1}},
    }  # fmt: skip
    assert departures("sclip", settings, "voc21") == {}
    assert departures("sclip", settings, "voc20") == {"logit_scale": "65.0"}
    pamr = {"kind": "pamr", "steps": 3, "dilations": [8, 16]}
    naclip = {"residual": False, "vocabulary": "sclip", "sigma": 5.0, "refine": pamr}
    assert departures("naclip", naclip, "voc21") == {"refine.steps": "3"}


def test_distractors_are_named_beside_published_numbers(make):
    scores = {
        "benchmark": "voc21", "method": "sclip", "model": "openai/clip-vit-base-patch16",
        "distractors": ["sky", "sea"],
    }  # fmt: skip
    matrix = read_matrix([make("a", mIoU=0.5, **scores)], published=True)
    (row,) = [row for row in matrix.rows if row.method == "SCLIP, repository"]
    (mark,) = row.cells["voc21"].marks
    assert dict(matrix.notes)[mark] == "distractors none instead of 2"
    own = {"refine": None, "residual": True, "vocabulary": "sclip"}
    lines = published_beside(
        {**scores, "protocol": "standard", "proposals": "all", "photos": 1449, "settings": own}
    )
    assert lines
    assert all(line.endswith("; differs: 2 distractors") for line in lines)
