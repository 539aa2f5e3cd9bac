"""CLIP-based methods through `test`, `predict` and `segment`, as their configurations ship."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from miniatures import WRITERS
from PIL import Image

from ovss.cli.main import main
from ovss.dense_clip import METHODS, DenseCLIP

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
BENCHMARKS = (
    "voc21", "voc20", "pc60", "pc59", "ade150", "coco_object81", "coco_stuff171", "cityscapes19",
)  # fmt: skip
SMALL = ["--model.short_side=48", "--model.crop=32", "--model.stride=16"]


@pytest.fixture
def weights(golden_clip_path, monkeypatch):
    """Options that put tiny weights in place of a configuration's."""
    monkeypatch.setattr(sys, "argv", ["train_free_eval.py"])

    def weights(method):
        options = [f"--model.name_or_path={golden_clip_path / 'clip_tiny_hf'}"]
        options.append("--model.revision=null")
        if method == "proxyclip":
            options.append(f"--model.dino={golden_clip_path / 'dino_tiny_p8_hf'}")
        return options

    return weights


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Two benchmarks in miniature, one with background and one without."""
    found = {}
    for name in ("voc21", "cityscapes19"):
        found[name] = tmp_path_factory.mktemp(name)
        WRITERS[name](found[name])
    return found


@pytest.mark.parametrize("benchmark", ["voc21", "cityscapes19"])
@pytest.mark.parametrize("method", METHODS)
def test_test_and_predict(method, benchmark, roots, weights, tmp_path, capsys, monkeypatch):
    prepared = []
    prepare = DenseCLIP.prepare
    monkeypatch.setattr(
        DenseCLIP, "prepare", lambda self, of: (prepared.append(of.key), prepare(self, of))
    )

    def run(command, *options):
        folder = tmp_path / command
        main(
            [
                command,
                f"--config={CONFIGS / benchmark}.yaml",
                f"--config={CONFIGS / 'model' / method}.yaml",
                f"--data.init_args.root={roots[benchmark]}",
                "--data.init_args.limit=3",  # of 1,449 or 500
                "--data.init_args.num_workers=0",
                f"--trainer.default_root_dir={folder}",
                *weights(method),
                *SMALL,
                *options,
            ]
        )
        return folder

    tested = run("test")
    scores = json.loads((tested / "scores.json").read_text())
    assert (scores["method"], scores["photos"]) == (method, 3)
    assert scores["proposals"] == "all"
    assert "proposals all" in capsys.readouterr().out
    own = scores["settings"]
    assert own["residual"] == METHODS[method].residual
    assert own["inference"]["crop"] == 32
    assert mean_iou_of(tested) == scores["mIoU"]
    predicted = run("predict", "--data.init_args.batch_size=2")
    assert (predicted / "scores.json").read_bytes() == (tested / "scores.json").read_bytes()
    assert prepared == [benchmark, benchmark]
    if method == "naclip":
        run("test")
        assert len(prepared) == 2  # no name is encoded where no photo is left
        assert "nothing was left to do" in capsys.readouterr().out


def mean_iou_of(folder):
    """The mean of the IoUs on disk, over the classes that occur."""
    rows = (folder / "per_class.csv").read_text().splitlines()[1:]
    ious = [float(row.rsplit(",", 2)[1]) for row in rows if row.rsplit(",", 2)[1]]
    return pytest.approx(float(np.mean(ious)))


@pytest.mark.parametrize("method", METHODS)
def test_segment(method, weights, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.png")
    main(
        [
            "segment",
            str(tmp_path / "photo.png"),
            "--classes=cat, dog; puppy",
            f"--config={CONFIGS / 'model' / method}.yaml",
            f"--output={tmp_path / 'out'}",
            *weights(method),
            *SMALL,
        ]
    )
    sidecar = json.loads((tmp_path / "out" / "photo_labels.json").read_text())
    assert [each["name"] for each in sidecar["classes"]] == ["background", "cat", "dog"]
    labels = np.asarray(Image.open(tmp_path / "out" / "photo_labels.png"))
    assert labels.shape == (30, 50)
    assert sum(each["pixels"] for each in sidecar["classes"]) == 1500
    assert sidecar["settings"]["method"] == method


def test_proposals_of_other_kinds(roots, weights, golden_clip_path, tmp_path):
    answers = tmp_path / "answers.json"
    answers.write_text(json.dumps({"2007_000033": ["cat"], "2007_000042": ["dog", "sofa"]}))
    kinds = {
        "oracle": ["--model.proposals=oracle"],
        "file": [
            "--model.proposals=ovss.proposals.FileProposer",
            f"--model.proposals.init_args.path={answers}",
        ],
        # Its answers are kept by the pixels of each photo, which here have sizes of their own.
        "clip": [
            "--model.proposals=ovss.proposals.ClipProposer",
            f"--model.proposals.init_args.name_or_path={golden_clip_path / 'clip_tiny_hf'}",
            "--model.proposals.init_args.top_k=2",
            "--model.proposals.init_args.threshold=0",
            "--data.init_args.num_workers=1",
        ],
    }
    for kind, options in kinds.items():
        main(
            [
                "test",
                f"--config={CONFIGS / 'voc21.yaml'}",
                f"--config={CONFIGS / 'model' / 'sclip.yaml'}",
                f"--data.init_args.root={roots['voc21']}",
                "--data.init_args.limit=2",
                "--data.init_args.num_workers=0",
                f"--trainer.default_root_dir={tmp_path / kind}",
                *weights("sclip"),
                *SMALL,
                *options,
            ]
        )
        scores = json.loads((tmp_path / kind / "scores.json").read_text())
        assert scores["proposals"] == kind
        proposed = {
            line["id"]: line["proposal"]
            for line in map(json.loads, (tmp_path / kind / "photos.jsonl").open())
        }
        for photo, labels in proposed.items():
            own = np.unique(np.asarray(Image.open(tmp_path / kind / "labels" / f"{photo}.png")))
            assert set(own.tolist()) <= {0, *labels}
    assert {len(labels) for labels in proposed.values()} == {2}
    assert list((tmp_path / "proposals").glob("clip-*.jsonl"))
    found = np.asarray(Image.open(tmp_path / "file" / "labels" / "2007_000033.png"))
    assert set(np.unique(found)) <= {0, 8}


@pytest.mark.parametrize("number", range(6))
def test_configurations_go_with_benchmarks(number, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train_free_eval.py"])
    method = list(METHODS)[number]
    shipped = yaml.safe_load((CONFIGS / "model" / f"{method}.yaml").read_text())["model"]
    for benchmark in (*BENCHMARKS, "folder", "demo")[number::6]:
        configs = [f"--config={CONFIGS / name}.yaml" for name in (benchmark, f"model/{method}")]
        with pytest.raises(SystemExit) as stop:
            main(["test", *configs, "--print_config"])
        assert stop.value.code in (0, None)
        model = yaml.safe_load(capsys.readouterr().out)["model"]
        assert {name: model[name] for name in shipped} == shipped
        rest = {name: value for name, value in model.items() if name not in shipped}
        assert rest.pop("proposals") == "all"  # nothing of the benchmark's own model is left
        assert (rest.pop("on_error"), rest.pop("refine")) == ("stop", "default")
        assert set(rest.values()) == {None}


def test_two_processes_and_one(weights, forker, tmp_path, scenes_root):
    results = []
    for world in (1, 2):
        run = tmp_path / f"run{world}"
        arguments = [
            "test",
            f"--config={CONFIGS / 'demo.yaml'}",
            f"--config={CONFIGS / 'model' / 'sclip.yaml'}",
            f"--data.init_args.root={scenes_root}",
            "--data.init_args.num_workers=0",
            "--data.init_args.limit=5",
            "--data.init_args.batch_size=2",
            *weights("sclip"),
            *SMALL,
            f"--trainer.default_root_dir={run}",
        ]
        ranks = forker.start_ranks(world, arguments, tmp_path / f"logs{world}")
        codes = [rank.wait(120) for rank in ranks]
        assert codes == [0] * world, "\n".join(rank.output for rank in ranks)
        names = ("scores.json", "per_class.csv", "photos.jsonl")
        results.append([(run / name).read_bytes() for name in names])
    assert results[0] == results[1]


def test_what_cannot_be_is_a_mistake_in_the_configuration(roots, weights, capsys, tmp_path):
    for option, message in (
        ("--model.prob_thd=2", "`prob_thd` in 0..1, but got 2"),
        ("--model.vocabulary=nowhere.txt", "there is no such file"),
        ("--model.sigma=1", "options of sclip"),
        ("--model.refine=prams", "refine"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(
                [
                    "test",
                    f"--config={CONFIGS / 'voc21.yaml'}",
                    f"--config={CONFIGS / 'model' / 'sclip.yaml'}",
                    f"--data.init_args.root={roots['voc21']}",
                    "--data.init_args.limit=1",
                    f"--trainer.default_root_dir={tmp_path / 'run'}",
                    *weights("sclip"),
                    option,
                ]
            )
        assert stop.value.code in (1, 2)
        assert message in capsys.readouterr().err


def test_the_demos_clip_runs_beside_the_demo(tmp_path, scenes_root):
    """The shipped weights and settings; what they are worth is in the README's table."""
    folder = tmp_path / "run"
    main(
        [
            "test",
            "--config=demo",
            "--config=demo_clip",
            f"--data.init_args.root={scenes_root}",
            "--data.init_args.num_workers=0",
            f"--trainer.default_root_dir={folder}",
        ]
    )
    scores = json.loads((folder / "scores.json").read_text())
    assert (scores["method"], scores["model"], scores["proposals"]) == ("maskclip", "demo", "all")
    assert scores["mIoU"] > 0.15  # 0.30 on 400 scenes
