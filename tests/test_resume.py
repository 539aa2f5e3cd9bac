"""Runs that are cut short, and what may be wrong with their files and data."""

import json
import os
import pickle
import resource
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import ovss.datamodules.dataset
import pytest
import torch
from forker import until
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from PIL import Image, PngImagePlugin
from test_security import Payload

from ovss.benchmark import PhotoBatch, of_classes
from ovss.callbacks import ResultsWriter, RunFolder
from ovss.callbacks.photo_writer import PhotoWriter
from ovss.datamodules import Scenes
from ovss.labelling import Labeller
from ovss.module import PnPOVSS
from ovss.preprocessing import read_photo
from ovss.runs.folder import LabelMap, RunFiles
from ovss.runs.layout import RunLayout
from ovss.runs.photos import photo_line, read_photos
from ovss.salience import SalienceDropout
from ovss.utils.signals import REQUEUE

ROOT = Path(__file__).parents[1]
FAST = {
    "layer": 4,
    "head": 2,
    "dropout": SalienceDropout(rounds=1, patches=4),
    "labeller": Labeller(refine=None),
}


class Counter(PnPOVSS):
    """Notes which photos went through the method."""

    def forward(self, batch):
        self.seen = [*getattr(self, "seen", []), *batch.ids]
        return super().forward(batch)


@pytest.fixture
def go(tmp_path, tiny_blip, scenes_root):
    """Test on eight scenes, four batches, with a run folder; gives the module."""

    def run(
        root=scenes_root,
        folder=tmp_path / "run",
        method="test",
        workers=0,
        callbacks=(),
        **settings,
    ):
        module = Counter(tiny_blip, **{**FAST, **settings})
        trainer = Trainer(
            logger=False,
            accelerator="cpu",
            enable_progress_bar=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            default_root_dir=folder,
            callbacks=[RunFolder(), ResultsWriter(show=False), *callbacks],
        )
        data = Scenes(root, batch_size=2, num_workers=workers)
        quiet = {"verbose": False} if method == "test" else {"return_predictions": False}
        getattr(trainer, method)(module, datamodule=data, **quiet)
        return module

    return run


def results(folder):
    names = ("scores.json", "per_class.csv", "photos.jsonl")
    return {name: (folder / name).read_bytes() for name in names}


def ids(*numbers):
    return [f"val_{number:05}" for number in numbers]


# ---- taking up what is missing -------------------------------------------------------------------


def test_finished_photos_are_not_done_again(go, tmp_path):
    assert go().seen == ids(*range(8))
    before = results(tmp_path / "run")
    timing = (tmp_path / "run" / "timing.json").read_text()
    assert json.loads(timing)["photos"] == 8
    assert not hasattr(go(), "seen")
    assert results(tmp_path / "run") == before
    assert (tmp_path / "run" / "timing.json").read_text() == timing
    (tmp_path / "run" / "labels" / "val_00002.png").unlink()
    go()
    assert json.loads((tmp_path / "run" / "timing.json").read_text())["photos"] == 2


def test_strays_among_the_parts_do_not_keep_a_run_from_its_scores(go, tmp_path):
    go()
    before = results(tmp_path / "run")
    parts = tmp_path / "run" / "parts"
    parts.write_text("a file in place of the folder")
    go()
    assert not parts.exists()
    for folder in ("0.jsonl", "0.jsonl.unfinished", "notes"):
        (parts / folder / "within").mkdir(parents=True)
    (parts / "7.jsonl").write_text("not JSON")
    (parts / ".DS_Store").write_bytes(b"\0")
    go()
    assert results(tmp_path / "run") == before
    assert sorted(path.name for path in parts.iterdir()) == [".DS_Store", "notes"]


def test_a_batch_is_done_as_a_whole(go, tmp_path):
    go()
    before = results(tmp_path / "run")
    (tmp_path / "run" / "labels" / "val_00002.png").unlink()
    assert go().seen == ids(2, 3)
    assert results(tmp_path / "run") == before


def truncate(path):
    path.write_bytes(path.read_bytes()[:-30])


def empty(path):
    path.write_bytes(b"")


def take_anothers(path):
    shutil.copy(path.with_name("val_00007.png"), path)


def save_again(path):
    """The same pixels without the text chunk: nobody knows where they come from."""
    with Image.open(path) as image:
        image.load()
    image.info = {}
    image.save(path)


def edit(path):
    """Other pixels under the same text chunk."""
    with Image.open(path) as image:
        image.load()
        text = image.info["ovss"]
    labels = np.asarray(image).copy()
    labels[0, 0] ^= 1
    changed = Image.fromarray(labels)
    changed.putpalette(image.getpalette())
    information = PngImagePlugin.PngInfo()
    information.add_text("ovss", text)
    changed.save(path, pnginfo=information)


@pytest.mark.parametrize("damage", [truncate, empty, take_anothers, save_again, edit])
def test_a_damaged_or_foreign_label_map_is_done_again(go, tmp_path, damage, caplog):
    go()
    before = results(tmp_path / "run")
    damage(tmp_path / "run" / "labels" / "val_00000.png")
    assert go().seen == ids(0, 1)
    assert "1 file in" in caplog.text
    assert results(tmp_path / "run") == before


def test_label_maps_are_the_predictions_in_the_benchmarks_colours(go, tmp_path, scenes_root):
    go()
    lines = [json.loads(line) for line in (tmp_path / "run" / "photos.jsonl").open()]
    masks = scenes_root / "VOCdevkit" / "VOC2012" / "SegmentationClass"
    palette = Scenes(scenes_root).benchmark.palette
    for line in lines:
        with Image.open(tmp_path / "run" / "labels" / f"{line['id']}.png") as image:
            labels = np.asarray(image)
            colours = np.asarray(image.convert("RGB"))
        assert np.array_equal(colours, np.asarray(palette, np.uint8)[labels])
        mask = np.asarray(Image.open(masks / f"{line['id']}.png"))
        assert line["size"] == list(mask.shape)
        expected = [
            [t, p, int(((mask == t) & (labels == p)).sum())] for t in range(13) for p in range(13)
        ]
        assert line["counts"] == [row for row in expected if row[2]]
        assert set(np.unique(labels)) <= {0, *line["proposal"]}


def test_what_predict_did_is_scored_by_test(go, tmp_path):
    go(method="predict")
    before = results(tmp_path / "run")
    assert not hasattr(go(method="test"), "seen")
    assert results(tmp_path / "run") == before


class IndexWriter(BasePredictionWriter):
    """Someone's writer, for which Lightning asks the loader what it gave out."""

    def write_on_batch_end(self, *args):
        pass


def test_a_finished_run_can_be_predicted_again(go, tmp_path):
    go()
    before = results(tmp_path / "run")
    assert not hasattr(go(method="predict", callbacks=[IndexWriter("batch")]), "seen")
    assert results(tmp_path / "run") == before


def test_nothing_is_written_without_the_callback(tmp_path, tiny_blip, scenes_root):
    folder = tmp_path / "run"
    Trainer(
        logger=False,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_checkpointing=False,
        default_root_dir=folder,
    ).test(
        PnPOVSS(tiny_blip, **FAST),
        datamodule=Scenes(scenes_root, limit=2, num_workers=0),
        verbose=False,
    )
    assert not folder.exists()


# ---- whose folder it is --------------------------------------------------------------------------


def test_a_folder_of_another_configuration_is_refused(go, tmp_path):
    go()
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match="made with another one") as refused:
        go(labeller=Labeller(threshold=0.5))
    named = [line.strip() for line in str(refused.value).splitlines()[1:-1]]
    assert named[0] == "model.labeller.threshold: 0.15 in the folder, 0.5 now"
    assert named[1].startswith("model.labeller.refine: null in the folder, {")
    assert len(named) == 2
    after = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    assert after == before


def test_other_weights_are_another_configuration(go, tmp_path, tiny_blip):
    go()
    weight = next(tiny_blip.parameters())
    with torch.no_grad():
        weight.view(-1)[0] += 1e-6
    try:
        with pytest.raises(ValueError, match=r"weights: .* in the folder"):
            go()
    finally:
        with torch.no_grad():
            weight.view(-1)[0] -= 1e-6


@pytest.mark.parametrize(("format", "age"), [(None, "older"), (1, "older"), (99, "newer")])
def test_a_folder_of_another_format_is_refused(go, tmp_path, format, age):
    (tmp_path / "run").mkdir()
    said = {"fingerprint": {}} if format is None else {"format": format, "fingerprint": {}}
    (tmp_path / "run" / "run.json").write_text(json.dumps(said))
    with pytest.raises(ValueError, match=f"by an? {age} version of ovss; choose another"):
        go()


def test_a_run_file_that_says_nothing_is_refused(go, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("[]")
    with pytest.raises(ValueError, match=r"run\.json to say which configuration"):
        go()


@pytest.mark.parametrize(
    ("name", "leads_to"),
    [
        *((name, kind) for name in (".lock", "config.yaml") for kind in ("file", "nothing")),
        *((name, "folder") for name in ("labels", "labels/city", "overlays", "coco_panoptic")),
        ("parts", "folder"),
    ],
)
def test_a_link_in_a_run_folder_is_not_followed(tmp_path, name, leads_to):
    target, link = tmp_path / "precious", tmp_path / "run" / name
    if leads_to == "file":
        target.write_text("precious")
    elif leads_to == "folder":
        target.mkdir()
        (target / "0.jsonl").write_text("precious")
    link.parent.mkdir(parents=True)
    link.symlink_to(target)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=f"{link} not to be a link, .*precious; remove it"):
        RunFiles(RunLayout(tmp_path / "run"), [(0, 0, 0)]).lock()
    assert sorted(tmp_path.rglob("*")) == before
    assert leads_to != "file" or target.read_text() == "precious"


def test_files_that_are_replaced_as_a_whole_may_be_links(go, tmp_path):
    """As data managers such as git-annex and DVC keep them; what they lead to stays as it is."""
    go()
    before = results(tmp_path / "run")
    store = tmp_path / "store"
    store.mkdir()
    for path in (tmp_path / "run" / "labels" / "val_00002.png", tmp_path / "run" / "scores.json"):
        path.rename(store / path.name)
        path.symlink_to(store / path.name)
    (store / "scores.json").write_text("precious")
    damaged = (store / "val_00002.png").read_bytes()[:100]
    (store / "val_00002.png").write_bytes(damaged)
    assert go().seen == ids(2, 3)
    assert results(tmp_path / "run") == before
    assert (store / "scores.json").read_text() == "precious"
    assert (store / "val_00002.png").read_bytes() == damaged


def test_a_lock_that_is_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / ".lock")
    with pytest.raises(ValueError, match=r"\.lock to be a file, but it is a pipe"):
        RunFiles(RunLayout(tmp_path), [(0, 0, 0)]).lock()


def test_two_runs_in_one_folder(go, tmp_path):
    other = RunFiles(RunLayout(tmp_path / "run"), [(0, 0, 0)])
    other.lock()
    with pytest.raises(ValueError, match=f"only run in .*process {os.getpid()} on .* is at work"):
        go()
    other.unlock()
    assert go().seen == ids(*range(8))


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("../escape", "leads to another folder"),
        ("a/../../b", "leads to another folder"),
        (".", "leads to another folder"),
        ("/etc/passwd", "is empty or has an empty part"),
        ("a//b", "is empty or has an empty part"),
        ("", "is empty or has an empty part"),
        ("a\\b", "has a backslash"),
        ("a\0b", "has a line break or another control character"),
        ("a\nb", "has a line break or another control character"),
        ("a\x85b", "has a line break or another control character"),
        ("a\u2028b", "has a line break or another control character"),
        ("a\udcffb", "is not UTF-8"),
        ("a" * 252, "takes 256 bytes of 255 with .png"),
        ("\u56fe" * 84, "takes 256 bytes of 255 with .png"),
    ],
)
def test_a_photo_name_cannot_lead_out_of_the_folder(tmp_path, name, problem):
    with pytest.raises(ValueError, match=f"path inside the run folder, .*, which {problem}"):
        RunLayout(tmp_path).label_map(name)


@pytest.mark.parametrize(
    "name",
    [
        "Screenshot at 9.41\u202fPM",
        "no\u00a0break",
        "zero\u200djoiner \u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "\u200fright to left",
        "n" * 245,
        "n" * 251,
        "\u56fe" * 83,
        "city/" * 20 + "n" * 200,
    ],
)
def test_ordinary_photo_names_work(tmp_path, name):
    layout = RunLayout(tmp_path)
    files = RunFiles(layout, [(0, 0, 0), (9, 9, 9)])
    files.write(name, LabelMap(np.ones((2, 3), np.uint8), (1,), (0.5,)))
    assert files.finished([name]) == {name}
    layout.parts.mkdir()
    layout.part(0).write_text(photo_line(name, (2, 3), (1,), None) + "\n")
    files.merge_parts(1, [name])
    assert [photo.id for photo in read_photos(layout)] == [name]


def test_a_photo_name_may_have_folders(tmp_path):
    files = RunFiles(RunLayout(tmp_path), [(0, 0, 0), (9, 9, 9)])
    labels = np.array([[0, 1, 1]], np.uint8)
    files.write("frankfurt/Bücher 图 <b>", LabelMap(labels, (1,), (0.5,)))
    found = files.read("frankfurt/Bücher 图 <b>")
    assert np.array_equal(found.labels, labels)
    assert found[1:] == ((1,), (0.5,))
    assert (tmp_path / "labels" / "frankfurt" / "Bücher 图 <b>.png").is_file()


def test_a_checkpoint_in_a_run_folder_is_not_loaded(go, tmp_path, monkeypatch, tiny_blip):
    """Lightning looks for one in the folder when SLURM has started it."""
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("SLURM_JOB_NAME", "job")
    for name in ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"):
        monkeypatch.setenv(name, "0")
    trace, path = tmp_path / "code-was-run", tmp_path / "run" / "hpc_ckpt_1.ckpt"
    path.parent.mkdir()
    weights = {f"segmenter.vlm.{k}": v + 1 for k, v in tiny_blip.state_dict().items()}
    content = {"state_dict": weights, "pytorch-lightning_version": "2.5.0", "loops": {}}
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"a checkpoint of Lightning's on top; .*hpc_ckpt_\*"):
        go()
    torch.save({**content, "evil": Payload(trace)}, path)
    with pytest.raises(pickle.UnpicklingError):
        go()
    assert not trace.exists()


# ---- bad photos ----------------------------------------------------------------------------------


@pytest.fixture
def damaged(tmp_path, scenes_root):
    """The scenes, with two photos cut short."""
    root = tmp_path / "scenes"
    shutil.copytree(scenes_root, root)
    for name in ids(1, 6):
        path = root / "VOCdevkit" / "VOC2012" / "JPEGImages" / f"{name}.jpg"
        path.write_bytes(path.read_bytes()[:200])
    return root


def test_bad_photos_stop_the_run_at_its_end(go, damaged, scenes_root, tmp_path):
    with pytest.raises(ValueError, match=r"2 could not be read:\s+val_00001: .*\s+val_00006: "):
        go(damaged)
    assert not (tmp_path / "run" / "scores.json").exists()
    assert len(list((tmp_path / "run" / "labels").glob("*.png"))) == 6
    go(folder=tmp_path / "whole")
    assert go(scenes_root).seen == ids(0, 1, 6, 7)  # mended: only their batches are left
    assert results(tmp_path / "run") == results(tmp_path / "whole")


def test_bad_photos_can_be_skipped(go, damaged, tmp_path):
    go(damaged, on_error="skip")
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert scores["photos"] == 6
    assert scores["skipped"] == {"count": 2, "ids": ids(1, 6)}
    before = results(tmp_path / "run")
    go(damaged, on_error="skip")
    assert results(tmp_path / "run") == before


def test_a_batch_without_a_single_good_photo(go, damaged, tmp_path):
    path = damaged / "VOCdevkit" / "VOC2012" / "JPEGImages" / "val_00000.jpg"
    path.write_bytes(b"")
    go(damaged, on_error="skip")
    assert json.loads((tmp_path / "run" / "scores.json").read_text())["skipped"]["count"] == 3


# ---- the machine ---------------------------------------------------------------------------------


def test_a_full_disk_leaves_nothing_half_written(go, tmp_path):
    go(folder=tmp_path / "whole")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    smallest = min(p.stat().st_size for p in (tmp_path / "whole" / "labels").iterdir())
    (tmp_path / "run").mkdir()
    shutil.copy(tmp_path / "whole" / "run.json", tmp_path / "run")
    # Writing beyond the limit fails as on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (smallest - 1, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            go()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [p for p in (tmp_path / "run" / "labels").rglob("*") if p.is_file()] == []
    assert go().seen == ids(*range(8))
    assert results(tmp_path / "run") == results(tmp_path / "whole")


def test_a_folder_that_cannot_be_written_to(go):
    with pytest.raises(OSError, match=r"run folder that can be written to.*/proc/ovss"):
        go(folder=Path("/proc/ovss"))


def test_a_killed_loader_process_ends_the_run(go, tmp_path, monkeypatch):
    here = os.getpid()

    def die(path, upright=False):
        if Path(path).stem == "val_00005" and os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return read_photo(path, upright)

    monkeypatch.setattr(ovss.datamodules.dataset, "read_photo", die)
    with pytest.raises(RuntimeError, match=r"DataLoader worker .* (killed|exited)"):
        go(workers=1)
    monkeypatch.undo()
    go(folder=tmp_path / "whole")
    assert set(ids(4, 5, 6, 7)) <= set(go().seen)
    assert results(tmp_path / "run") == results(tmp_path / "whole")


def test_a_run_that_fails_while_it_ends_lets_go_of_its_folder(go, monkeypatch):
    def fail(writer):
        raise RuntimeError("DataLoader worker is killed")

    with monkeypatch.context() as patched:
        patched.setattr(PhotoWriter, "close", fail)
        with pytest.raises(RuntimeError, match="is killed"):
            go()
    assert go().results is not None


class SmallGPU(PnPOVSS):
    """Has room for one photo."""

    def _segment(self, batch):
        if len(batch.ids) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super()._segment(batch)


def test_out_of_gpu_memory_halves_the_batch(tiny_blip, caplog):
    settings = {**FAST, "proposals": "all", "benchmark": of_classes(["cat", "dog"])}
    batch = PhotoBatch(
        ids=["a", "b", "c"],
        photos=[torch.randint(0, 256, (3, 8, 9 + i), dtype=torch.uint8) for i in range(3)],
        pixel_values=torch.randn(3, 3, tiny_blip.image_size, tiny_blip.image_size),
    )
    small, large = SmallGPU(tiny_blip, **settings), PnPOVSS(tiny_blip, **settings)
    # Halves of three are single photos; a batch of three may round differently.
    alone = [
        large(PhotoBatch([batch.ids[i]], [batch.photos[i]], batch.pixel_values[i : i + 1]))[0]
        for i in range(3)
    ]
    for _ in range(2):
        for halved, single in zip(small(batch), alone, strict=True):
            assert halved.id == single.id
            assert torch.equal(halved.labels, single.labels)
    assert caplog.text.count("Out of GPU memory") == 1


def test_a_photo_too_large_for_the_gpu_is_an_error(tiny_blip, monkeypatch):
    def never(self, batch):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(PnPOVSS, "_segment", never)
    module = PnPOVSS(tiny_blip, **FAST, benchmark=of_classes(["cat"]))
    with pytest.raises(torch.OutOfMemoryError):
        module(PhotoBatch(["a"], [torch.zeros(3, 4, 4)], torch.zeros(1, 3, 4, 4)))


# ---- signals, with real processes ----------------------------------------------------------------


@pytest.fixture(scope="module")
def start(forker, scenes_root, tiny_blip_path):
    """Starts a run of eight batches in a process of its own."""

    def start(folder, command="test", *options):
        return forker.start(
            [
                command,
                *options,
                f"--config={ROOT / 'configs' / 'demo.yaml'}",
                f"--data.init_args.root={scenes_root}",
                "--data.init_args.num_workers=1",
                "--data.init_args.batch_size=1",
                f"--model.vlm.init_args.name_or_path={tiny_blip_path}",
                f"--trainer.default_root_dir={folder}",
            ],
            folder.with_suffix(".log"),
        )

    return start


@pytest.fixture(scope="module")
def uninterrupted(start, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    run = start(folder)
    assert run.wait(120) == 0, run.output
    return results(folder)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, REQUEUE),
        (signal.SIGUSR1, REQUEUE),
        (signal.SIGINT, 130),
        (signal.SIGKILL, -signal.SIGKILL),
    ],
)
def test_a_stopped_run_is_taken_up(start, uninterrupted, tmp_path, number, code):
    run = tmp_path / "run"
    first = start(run)
    until(lambda: any((run / "labels").glob("*.png")), timeout=120)
    first.kill(number)
    assert first.wait(60) == code, first.output
    if code == REQUEUE:
        assert f"Stopped on {number.name}" in first.output
    elif code == 130:
        assert "stopped; start the same command again to go on" in first.output
        assert "Traceback" not in first.output
    done = len(list((run / "labels").glob("*.png")))
    assert 1 <= done < 8
    assert not (run / "scores.json").exists()
    second = start(run)
    assert second.wait(120) == 0, second.output
    assert f"{done} of 8 photos are finished already" in second.output
    assert results(run) == uninterrupted


def test_a_stopped_sweep_is_taken_up(start, uninterrupted, tmp_path):
    run = tmp_path / "run"
    cells = [run / "ablation" / name for name in ("rounds-1", "rounds-4")]
    first = start(run, "ablate", "--rounds=1,4")
    until(lambda: any((cells[0] / "labels").glob("*.png")), timeout=120)
    first.kill(signal.SIGTERM)
    assert first.wait(60) == REQUEUE, first.output
    assert f"Stopped on SIGTERM; finished photos are kept in {run / 'ablation'}" in first.output
    done = [sorted(path.name for path in (cell / "labels").glob("*.png")) for cell in cells]
    assert done[0] == done[1]
    assert 1 <= len(done[0]) < 8
    second = start(run, "ablate", "--rounds=1,4")
    assert second.wait(120) == 0, second.output
    assert f"{len(done[0])} of 8 photos are finished already" in second.output
    assert results(cells[1]) == uninterrupted


def test_settings_that_do_not_decide_the_result_are_free(go, tmp_path):
    """Another batch size takes the folder up (`Scenes` of the fixture has 2 in a batch)."""
    module = go()
    fingerprint = json.loads((tmp_path / "run" / "run.json").read_text())["fingerprint"]
    assert {"batch_size", "root", "devices", "num_workers"}.isdisjoint(fingerprint)
    assert fingerprint["benchmark"]["classes"] == list(module.benchmark.classes)
    other = replace(module.benchmark, classes=("x", *module.benchmark.classes[1:]))
    with pytest.raises(
        ValueError, match=r'benchmark\.classes\[0\]: "background" in the folder, "x" now'
    ):
        go(benchmark=other)
