"""Oracle, all, selection, names, the cache and the proposals' own scores."""

from __future__ import annotations

import json
import zlib

import pytest
import torch
from torch import nn

from ovss.benchmark import Benchmark, PhotoBatch, of_classes
from ovss.proposals import (
    AllProposer,
    CachedProposer,
    ContrastiveProposer,
    MatchProposer,
    OracleProposer,
    Proposal,
    Proposer,
    resolve,
)
from ovss.proposals.base import select
from ovss.proposals.metrics import ProposalScores

BENCHMARK = of_classes(["cat", "dog; puppy", "potted plant"])


class Weights(nn.Module):
    """As much of a VLM as the cache looks at."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.full((3, 2), value))

    def settings(self) -> dict[str, object]:
        return {"name": "weights", "image_size": 4}


class Counting(Proposer):
    """Proposes by a photo's first pixel and counts how many photos it was asked about."""

    name, costly = "counting", True

    def __init__(self, threshold: float = 0.0) -> None:
        self.asked: list[str] = []
        self.threshold = threshold

    def __call__(self, batch, benchmark, vlm):
        self.asked += batch.ids
        assert len(batch.photos) == len(batch.pixel_values) == len(batch.ids)
        return [
            Proposal((1 + int(pixels[0, 0, 0]),), (0.1 + 1 / 3,)) for pixels in batch.pixel_values
        ]

    def settings(self):
        return {"threshold": self.threshold}


def photos(*values: float, present=None) -> PhotoBatch:
    return PhotoBatch(
        [f"photo{int(value)}" for value in values],
        [torch.zeros(3, 5, 6, dtype=torch.uint8) for _ in values],
        torch.stack([torch.full((3, 4, 4), float(value)) for value in values]),
        present,
    )


def test_oracle_and_all():
    batch = photos(0, 1, 2, present=[(0, 3, 1), (0,), (2, 3)])
    assert OracleProposer()(batch, BENCHMARK, Weights()) == [
        Proposal((1, 3), (1.0, 1.0)),
        Proposal((), ()),
        Proposal((2, 3), (1.0, 1.0)),
    ]
    everything = Proposal((1, 2, 3), (1.0, 1.0, 1.0))
    assert AllProposer()(batch, BENCHMARK, Weights()) == [everything] * 3
    with pytest.raises(ValueError, match="photos with ground truth for `proposals: oracle`"):
        OracleProposer()(photos(0), BENCHMARK, Weights())


@pytest.mark.parametrize(
    ("threshold", "top_k", "labels"),
    [(0.0, None, (2, 3, 5, 7)), (0.5, None, (3, 7)), (0.0, 2, (3, 7)), (0.2, 3, (2, 3, 7))],
)
def test_select_keeps_what_is_strictly_above(threshold, top_k, labels):
    scores = torch.tensor([0.5, 0.75, 0.5, 0.875])
    got = select(scores, (2, 3, 5, 7), threshold, top_k)
    assert got.labels == labels
    of_label = dict(zip((2, 3, 5, 7), scores.tolist(), strict=True))
    assert got.scores == tuple(of_label[label] for label in labels)


def test_resolve_knows_the_short_names():
    kinds = {
        "oracle": OracleProposer,
        "all": AllProposer,
        "itm": MatchProposer,
        "itc": ContrastiveProposer,
    }
    for name, kind in kinds.items():
        proposer = resolve(name)
        assert type(proposer) is kind
        assert proposer.name == name
        assert resolve(proposer) is proposer
    with pytest.raises(ValueError, match=r"'all', 'itc', 'itm', 'oracle'.*got 'gpt'.*class_path"):
        resolve("gpt")
    with pytest.raises(ValueError, match=r"`threshold` .* below 1, but got 70"):
        MatchProposer(threshold=70)
    with pytest.raises(ValueError, match=r"`top_k` to be at least 1 or None, but got 0"):
        ContrastiveProposer(top_k=0)


def test_scores_pool_over_photos_and_leave_background_out():
    scores = ProposalScores()
    scores.update(
        [Proposal((1, 2), (1.0, 1.0)), Proposal((), ())], [(0, 1, 3), (0, 2)], BENCHMARK.searchable
    )
    scores.update([Proposal((1, 2, 3), (1.0,) * 3)], [(2,)], BENCHMARK.searchable)
    got = {name: float(value) for name, value in scores.compute().items()}
    assert got == pytest.approx(
        {
            "precision": 2 / 5,
            "recall": 2 / 4,
            "proposed_per_photo": 5 / 3,
            "present_per_photo": 4 / 3,
        }
    )
    empty = ProposalScores()
    empty.update([Proposal((), ())], [(0,)], BENCHMARK.searchable)
    assert [float(value) for value in empty.compute().values()] == [0, 0, 0, 0]


def test_cache_asks_once_and_gives_the_same(tmp_path):
    asked = Counting()
    first = CachedProposer(asked, tmp_path / "proposals")
    vlm = Weights()
    expected = Counting()(photos(0, 1, 2), BENCHMARK, vlm)
    assert first(photos(0, 1), BENCHMARK, vlm) == expected[:2]
    assert first(photos(1, 0), BENCHMARK, vlm) == expected[1::-1]
    assert asked.asked == ["photo0", "photo1"]

    again = Counting()
    later = CachedProposer(again, tmp_path / "proposals")  # another run
    assert later(photos(0, 2, 1), BENCHMARK, Weights()) == expected[::2] + expected[1:2]
    assert again.asked == ["photo2"]
    assert (later.name, later.settings()) == ("counting", {"threshold": 0.0})


@pytest.mark.parametrize("change", ["settings", "classes", "weights", "pixels"])
def test_cache_asks_anew_when_something_changed(tmp_path, change):
    CachedProposer(Counting(), tmp_path)(photos(0), BENCHMARK, Weights())
    proposer = Counting(threshold=0.5 if change == "settings" else 0.0)
    batch = photos(0)
    if change == "pixels":
        batch.pixel_values[0, 2, 3, 3] += 1e-3
    benchmark: Benchmark = of_classes(["cat", "dog"]) if change == "classes" else BENCHMARK
    vlm = Weights(1e-3 if change == "weights" else 0.0)
    CachedProposer(proposer, tmp_path)(batch, benchmark, vlm)
    assert proposer.asked == ["photo0"]


def test_cache_survives_half_a_line_and_reads_all_ranks(tmp_path, caplog):
    CachedProposer(Counting(), tmp_path)(photos(0, 1), BENCHMARK, Weights())
    (own,) = tmp_path.iterdir()
    assert own.name.endswith(".rank0.jsonl")
    lines = own.read_text().splitlines()
    entries = [json.loads(line) for line in lines if line]
    assert [entry["id"] for entry in entries] == ["photo0", "photo1"]
    # Another process kept photo2; this one was killed in the middle of photo1.
    other = own.with_name(own.name.replace("rank0", "rank1"))
    pixels = json.loads(lines[2])["pixels"]
    other.write_text(lines[2] + "\n")
    own.write_text(lines[1] + "\n" + lines[2][:20])
    again = Counting()
    CachedProposer(again, tmp_path)(photos(0, 1), BENCHMARK, Weights())
    assert again.asked == []
    assert f"1 line of {own} cannot be trusted" in caplog.text
    assert pixels == json.loads(other.read_text())["pixels"]
    CachedProposer(again, tmp_path)(photos(2), BENCHMARK, Weights())
    assert json.loads(own.read_text().splitlines()[-1])["id"] == "photo2"


@pytest.mark.parametrize("rows", [slice(1, None), [2, 0], []])
def test_rows_of_a_batch(rows):
    batch = photos(0, 1, 2, present=[(0, 3), (1,), (2,)])
    places = list(range(3))[rows] if isinstance(rows, slice) else rows
    taken = batch.take(rows)
    assert list(taken.ids) == [f"photo{place}" for place in places]
    assert [int(pixels[0, 0, 0]) for pixels in taken.pixel_values] == places
    assert [id(photo) for photo in taken.photos] == [id(batch.photos[place]) for place in places]
    assert list(taken.present) == [batch.present[place] for place in places]
    assert taken.masks is None
    masks = [torch.full((5, 6), place) for place in range(3)]
    kept = batch._replace(masks=masks).take(rows).masks
    assert [int(mask[0, 0]) for mask in kept] == places


def line_of(**changes):
    """A line of the cache for photo0 with a checksum that holds, whatever it says."""
    entry = {"id": "photo0", "pixels": 0, "labels": [1], "scores": [0.5], **changes}
    return json.dumps({**entry, "crc": zlib.crc32(json.dumps(entry).encode())})


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": [0]},  # background is not looked for
        {"labels": [77]},
        {"labels": [-1]},
        {"labels": [1, 2]},
        {"labels": "1"},
        {"labels": [True]},
        {"labels": [1.0]},
        {"scores": [float("nan")]},
        {"scores": [float("inf")]},
        {"scores": [-0.1]},
        {"scores": [1.5]},
        {"scores": ["0.5"]},
        {"scores": None},
        {"id": ["photo0"]},
        {"pixels": "0"},
    ],
)
def test_cache_asks_anew_where_an_answer_cannot_be(tmp_path, caplog, changes):
    expected = CachedProposer(Counting(), tmp_path)(photos(0), BENCHMARK, Weights())
    (own,) = tmp_path.iterdir()
    pixels = json.loads(own.read_text())["pixels"]
    own.write_text(line_of(**{"pixels": pixels, **changes}) + "\n")
    again = Counting()
    assert CachedProposer(again, tmp_path)(photos(0), BENCHMARK, Weights()) == expected
    assert again.asked == ["photo0"]
    assert f"1 line of {own} cannot be trusted" in caplog.text


def test_cache_writes_through_no_link(tmp_path):
    CachedProposer(Counting(), tmp_path)(photos(0), BENCHMARK, Weights())
    (own,) = tmp_path.iterdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    own.unlink()
    own.symlink_to(elsewhere)
    with pytest.raises(ValueError, match=f"Expected {own} not to be a link"):
        CachedProposer(Counting(), tmp_path)(photos(0), BENCHMARK, Weights())
    assert elsewhere.read_text() == "mine"


def test_cache_takes_only_lines_as_they_were_written_and_says_so_once_a_file(tmp_path, caplog):
    expected = CachedProposer(Counting(), tmp_path)(photos(0, 1, 2), BENCHMARK, Weights())
    (own,) = tmp_path.iterdir()
    lines = own.read_bytes().split(b"\n")[1:4]
    changed = lines[1].replace(b"[2]", b"[1]")
    assert changed != lines[1]
    bytes_of_another_kind = lines[2].replace(b"photo2", b"phot\xff2")
    without_checksum = lines[0].partition(b', "crc"')[0] + b"}"
    rest = [b"[" * 100_000, b"null", b"3", b'"text"', b"{}", b"\0" * 40]
    own.write_bytes(b"\n".join([changed, bytes_of_another_kind, without_checksum, *rest]) + b"\r\n")
    again = Counting()
    cached = CachedProposer(again, tmp_path)
    assert cached(photos(0, 1, 2), BENCHMARK, Weights()) == expected
    assert again.asked == ["photo0", "photo1", "photo2"]
    (record,) = caplog.records
    assert f"9 lines of {own} cannot be trusted" in record.getMessage()
    caplog.clear()
    # What was asked anew stands behind the bad lines.
    assert CachedProposer(again, tmp_path)(photos(0, 1, 2), BENCHMARK, Weights()) == expected
    assert len(again.asked) == 3
