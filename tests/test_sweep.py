"""Several runs in one pass over the photos, each as it would have been alone."""

import json
from dataclasses import replace

import pytest
import torch
from lightning.pytorch import Trainer

from ovss.benchmark import of_classes
from ovss.callbacks import OverlayWriter, ReportWriter, ResultsWriter, RunFolder
from ovss.datamodules import Scenes
from ovss.dense_clip import DenseCLIP
from ovss.labelling import Labeller
from ovss.module import SegmentationModule
from ovss.pnp import PnP
from ovss.proposals import Proposal
from ovss.salience import SalienceDropout
from ovss.sharing import shared, sharing
from ovss.sweep_module import SweepModule

PHOTOS = 4
FILES = ("run.json", "scores.json", "per_class.csv", "photos.jsonl")


@pytest.fixture(scope="module")
def pnp(tiny_blip):
    dropout = SalienceDropout(rounds=3, patches=4)
    return PnP(tiny_blip, 4, 2, dropout, Labeller(refine=None), proposals="all")


@pytest.fixture
def go(tmp_path, scenes_root):
    """Run a module on four scenes in two batches."""

    def run(module, name="sweep", callbacks=(), method="test", limit=PHOTOS):
        trainer = Trainer(
            logger=False,
            accelerator="cpu",
            enable_progress_bar=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            default_root_dir=tmp_path / name,
            callbacks=[RunFolder(), ResultsWriter(show=False), *callbacks],
        )
        data = Scenes(scenes_root, batch_size=2, num_workers=0, limit=limit)
        quiet = {"verbose": False} if method == "test" else {"return_predictions": False}
        getattr(trainer, method)(module, datamodule=data, **quiet)
        return tmp_path / name

    return run


def sweep_of(segmenters, **settings):
    cells = {name: SegmentationModule(each, **settings) for name, each in segmenters.items()}
    return SweepModule(cells)


def contents(folder):
    """Every file of a run but how long it took."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    assert {path.name for path in files} >= set(FILES)
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files
        if path.name not in (".lock", "timing.json")
    }


def test_cells_are_runs_of_their_own(pnp, go):
    cells = {
        "r1": pnp.varied(rounds=1, refine="crf"),
        "r3": pnp.varied(threshold=0.4),
        "r3_crf": pnp.varied(refine="crf", blur=0.0),
        "r2": pnp.varied(rounds=2, refine="crf"),
        "other": pnp.varied(head="mean", layer=3),
    }
    module = sweep_of(cells)
    folder = go(module, callbacks=[OverlayWriter(first=1), ReportWriter()], limit=2)
    # Of 1 + 3 + 3 + 2 + 3 rounds the first 9 are in one pass.
    assert (module.done["rounds"], module.asked["rounds"]) == (6 * 2, 12 * 2)
    assert (module.done["image"], module.asked["image"]) == (2, 2 * 2)
    assert (module.done["lattice"], module.asked["lattice"]) == (2, 3 * 2)
    labels = set()
    for name, segmenter in cells.items():
        module, overlays = SegmentationModule(segmenter), OverlayWriter(first=1)
        ours, own = contents(folder / name), contents(go(module, name, [overlays], limit=2))
        assert b"runs that shared these seconds" in ours.pop("report.html")
        assert ours == own
        assert (folder / name / "overlays" / "val_00000.png").is_file()
        labels.add(ours["photos.jsonl"])
    assert len(labels) == len(cells)  # settings that give the same would prove nothing
    timing = json.loads((folder / "r1" / "timing.json").read_text())
    assert timing["sweep"]["cells"] == len(cells)
    assert timing["sweep"]["rounds"] == {"done": 12, "without_sharing": 24}


def test_the_released_code_rescales_several_rounds_alone(tiny_blip):
    benchmark = replace(of_classes(["cat", "dog"]), rescale=True)
    dropout = SalienceDropout(rounds=2, patches=4)
    pnp = PnP(tiny_blip, 4, 2, dropout, variant="released")
    pixels = torch.rand(1, 3, tiny_blip.image_size, tiny_blip.image_size)
    proposals = [Proposal((1, 2), (1.0, 1.0))]
    one = pnp.varied(rounds=1)
    alone = one.rounds(pixels, benchmark, proposals)
    with sharing() as values:
        several = pnp.rounds(pixels, benchmark, proposals)
        own = one.rounds(pixels, benchmark, proposals)
        assert torch.equal(own[0], alone[0])
        assert not torch.equal(several[0][:1], own[0])
        assert values.done["rounds"] == 3
        unscaled = replace(benchmark, rescale=False)
        assert len(pnp.rounds(pixels, unscaled, proposals)[0]) == 2
        assert torch.equal(one.rounds(pixels, unscaled, proposals)[0], alone[0])
    assert pnp.dropout.rounds == 2
    assert shared() is not values


def test_names_and_refinements_share_the_image_side_of_clip(go, tmp_path):
    clip = DenseCLIP.from_pretrained(
        "demo", "maskclip", residual=False, vocabulary="natural", short_side=128, crop=64, stride=32
    )
    names = tmp_path / "names.txt"
    benchmark = Scenes(tmp_path).benchmark
    names.write_text("\n".join(f"{name}; road" for name in benchmark.classes))
    cells = {
        "natural": clip,
        "own": clip.varied(vocabulary=str(names)),
        "pamr": clip.varied(refine="pamr"),
        "sure": clip.varied(prob_thd=0.5, refine="pamr"),
    }
    module = sweep_of(cells)
    folder = go(module)
    assert (module.done["image"], module.asked["image"]) == (PHOTOS, 4 * PHOTOS)
    for name, segmenter in cells.items():
        assert contents(folder / name) == contents(go(SegmentationModule(segmenter), name))
    assert len({contents(folder / name)["photos.jsonl"] for name in cells}) == len(cells)
    assert clip.label.refinement is None
    assert clip.vocabulary == "natural"


def test_what_a_cell_lacks_is_done_and_nothing_else(pnp, go):
    cells = {"r1": pnp.varied(rounds=1), "r3": pnp}
    module = sweep_of(cells)
    folder = go(module)
    before = {name: contents(folder / name) for name in cells}
    timing = (folder / "r1" / "timing.json").read_bytes()
    go(module)
    assert not module.asked
    assert {name: contents(folder / name) for name in cells} == before
    assert (folder / "r1" / "timing.json").read_bytes() == timing
    (folder / "r1" / "labels" / "val_00002.png").unlink()
    module = sweep_of({**cells, "r2": pnp.varied(rounds=2)})
    go(module)
    # The new cell does all; r1 the batch of the missing photo, from the new one's rounds.
    assert module.done["rounds"] == 2 * PHOTOS
    assert module.asked["rounds"] == 2 * PHOTOS + 2
    assert {name: contents(folder / name) for name in cells} == before
    own = go(SegmentationModule(pnp.varied(rounds=2)), "own")
    assert contents(folder / "r2") == contents(own)


def test_predict_gives_the_same_labels(pnp, go):
    folder = go(sweep_of({"r2": pnp.varied(rounds=2), "r3": pnp}), method="predict")
    assert contents(folder / "r3") == contents(go(SegmentationModule(pnp), "own"))


class Fussy(PnP):
    """Fails on a photo."""

    def label(self, batch, benchmark, proposals, rounds):
        if self.dropout.rounds == 1 and "val_00001" in batch.ids:
            raise ValueError("not this one")
        return super().label(batch, benchmark, proposals, rounds)


def test_a_photo_that_one_cell_fails_on_is_left_out_there(pnp, tiny_blip, go):
    dropout, labeller = SalienceDropout(rounds=2, patches=4), Labeller(refine=None)
    fussy = Fussy(tiny_blip, 4, 2, dropout, labeller, proposals="all")
    module = sweep_of({"r1": fussy.varied(rounds=1), "r2": fussy}, on_error="skip")
    folder = go(module)
    one, two = (json.loads((folder / name / "scores.json").read_text()) for name in ("r1", "r2"))
    assert one["photos"] == PHOTOS - 1
    assert one["skipped"]["ids"] == ["val_00001"]
    assert two["photos"] == PHOTOS
    assert "skipped" not in two
    alone = go(SegmentationModule(fussy.varied(rounds=1), on_error="skip"), "own")
    assert contents(folder / "r1") == contents(alone)


def test_a_folder_of_another_configuration_is_refused_before_any_photo(pnp, go):
    folder = go(sweep_of({"a": pnp.varied(rounds=1)}), limit=2)
    with pytest.raises(ValueError, match=r"model\.dropout\.rounds: 1 in the folder, 2 now"):
        go(sweep_of({"b": pnp, "a": pnp.varied(rounds=2)}), limit=2)
    assert not (folder / "b" / "labels").exists()
    go(sweep_of({"a": pnp.varied(rounds=1)}), limit=2)  # the locks are free


def test_cells_see_the_same_photos(pnp, golden_clip_path, tmp_path):
    clip = DenseCLIP.from_pretrained(golden_clip_path / "clip_tiny_hf", "sclip")
    module = sweep_of({"a": pnp, "b": clip})
    with pytest.raises(ValueError, match="Expected cells that see the same photos, but a wants"):
        module.input_spec(Scenes(tmp_path).benchmark)


@pytest.mark.parametrize("name", ["", "a/b", "..", "proposals"])
def test_names_that_no_folder_of_a_run_can_have(pnp, name):
    with pytest.raises(ValueError, match="Expected a cell's name to be a folder's"):
        sweep_of({name: pnp})


def test_a_method_says_what_can_be_varied(pnp):
    with pytest.raises(
        ValueError, match=r"of pnp-ovss that can be varied \(rounds, patches, layer"
    ):
        pnp.varied(prob_thd=0.1)
    with pytest.raises(ValueError, match="Expected `threshold` to be in"):
        pnp.varied(threshold=2)


def test_a_model_is_asked_once_about_a_photo(tiny_blip, go):
    dropout, labeller = SalienceDropout(rounds=1), Labeller(refine=None)
    pnp = PnP(tiny_blip, 4, 2, dropout, labeller, proposals="itm")
    asked = pnp.proposer
    module = sweep_of({"low": pnp, "high": pnp.varied(threshold=0.4)})
    folder = go(module, limit=2)
    assert (module.done["proposals"], module.asked["proposals"]) == (2, 4)
    assert [path.name[:4] for path in (folder / "proposals").iterdir()] == ["itm-"]
    assert all(cell.segmenter.proposer is asked for cell in module.cells.values())
    own = go(SegmentationModule(pnp.varied(threshold=0.4)), "own", limit=2)
    assert contents(folder / "high") == contents(own)


def test_a_failing_cell_does_not_keep_the_others_from_their_scores(pnp, go, tmp_path):
    class Fussy(PnP):
        def label(self, batch, *args, **kwargs):
            if "val_00001" in batch.ids and self.dropout.rounds == 2:
                raise ValueError("not this one")
            return super().label(batch, *args, **kwargs)

    fussy = Fussy(pnp.vlm, 4, 2, SalienceDropout(2, 4), Labeller(refine=None), proposals="all")
    with pytest.raises(ValueError, match=r"^r2: (?s:.)*val_00001: segmenting it failed: not this"):
        go(sweep_of({"r1": fussy.varied(rounds=1), "r2": fussy}), callbacks=[ReportWriter()])
    folder = tmp_path / "sweep"
    assert (folder / "r1" / "scores.json").is_file()
    assert (folder / "r1" / "report.html").is_file()
    assert not (folder / "r2" / "scores.json").exists()


def test_large_photos_share_their_lattice_and_memory_that_ran_out_is_let_go(pnp, monkeypatch):
    monkeypatch.setattr("ovss.pnp.LONGEST_SIDE", 16)
    benchmark = of_classes(["cat"])
    photo, maps = torch.zeros(3, 20, 30, dtype=torch.uint8), torch.rand(1, 4, 4)
    with sharing() as values:
        for threshold in (0.1, 0.2):
            cell = pnp.varied(threshold=threshold, refine="crf")
            cell.label_maps([photo], [maps], [(1,)], benchmark, 1)
        assert (values.done["lattice"], values.asked["lattice"]) == (1, 2)
        values.clear()
        assert not values._values
