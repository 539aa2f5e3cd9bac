"""The same scores, to the byte, on any number of processes: proved with real ones."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from forker import free_port, until
from hypothesis import given
from hypothesis import strategies as st
from ovss.datamodules.sampler import PhotoLoader, UnpaddedSampler, unfinished_batches

ROOT = Path(__file__).parents[1]
PHOTOS = 7
"""With two in a batch the last of five processes has none."""


@given(
    count=st.integers(0, 40),
    batch_size=st.integers(1, 9),
    world=st.integers(1, 7),
    finished=st.sets(st.integers(0, 39)),
)
def test_photos_are_dealt_once_in_whole_batches(count, batch_size, world, finished):
    shares = [
        list(UnpaddedSampler(range(count), batch_size, rank, world, finished))
        for rank in range(world)
    ]
    left = [list(batch) for batch in unfinished_batches(count, batch_size, finished)]
    dealt = sorted(index for share in shares for index in share)
    assert dealt == [index for batch in left for index in batch]
    assert set(range(count)) - finished <= set(dealt)
    # A DataLoader cuts a share into batches; they must be the ones of a single process.
    cut = [s[i : i + batch_size] for s in shares for i in range(0, len(s), batch_size)]
    assert sorted(cut) == left
    assert max(map(len, shares)) - min(map(len, shares)) <= batch_size


def test_an_empty_share_needs_batches():
    (empty,) = PhotoLoader([], batch_size=2, collate_fn=list)
    assert empty == []
    with pytest.raises(ValueError, match="Expected `batch_size` of a PhotoLoader"):
        iter(PhotoLoader([], batch_size=None, sampler=[]))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    from ovss.datamodules.scene_generator import write_scenes

    root = tmp_path_factory.mktemp("scenes")
    write_scenes(root, dev=2, val=PHOTOS)
    return root


@pytest.fixture(scope="module")
def arguments(scenes, tiny_blip_path):
    return [
        f"--config={ROOT / 'configs' / 'demo.yaml'}",
        f"--data.init_args.root={scenes}",
        "--data.init_args.num_workers=0",
        "--data.init_args.batch_size=2",
        f"--model.vlm.init_args.name_or_path={tiny_blip_path}",
    ]


def run_ranks(forker, world, arguments, folder, command="test"):
    run = folder / "run"
    args = [command, *arguments, f"--trainer.default_root_dir={run}"]
    ranks = forker.start_ranks(world, args, folder)
    codes = [rank.wait(120) for rank in ranks]
    assert codes == [0] * world, "\n".join(rank.output for rank in ranks)
    return run, "".join(rank.output for rank in ranks)


def results(run):
    names = ("scores.json", "per_class.csv", "photos.jsonl")
    return {name: (run / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def alone(forker, arguments, tmp_path_factory):
    """The run folder of a single process."""
    return run_ranks(forker, 1, arguments, tmp_path_factory.mktemp("alone"))[0]


def test_one_process_does_each_photo_once(alone):
    lines = [json.loads(line) for line in (alone / "photos.jsonl").open()]
    assert [line["id"] for line in lines] == [f"val_{i:05}" for i in range(PHOTOS)]
    assert json.loads((alone / "scores.json").read_text())["photos"] == PHOTOS


@pytest.mark.parametrize("world", [3, pytest.param(5, marks=pytest.mark.slow)])
def test_scores_do_not_depend_on_the_number_of_processes(forker, arguments, alone, tmp_path, world):
    run, output = run_ranks(forker, world, arguments, tmp_path)
    assert results(run) == results(alone)
    assert json.loads((run / "timing.json").read_text())["processes"] == world
    assert "sync_dist" not in output
    assert output.count("mIoU ") == 1  # the first process speaks for all


def test_cells_of_a_sweep_do_not_depend_on_the_number_of_processes(
    forker, arguments, alone, tmp_path
):
    options = [*arguments, "--rounds=4,1", "--refine=crf"]
    run, output = run_ranks(forker, 2, options, tmp_path, command="ablate")
    folder = run / "ablation"
    assert results(folder / "rounds-4_refine-crf") == results(alone)  # the configuration's own
    timing = json.loads((folder / "rounds-1_refine-crf" / "timing.json").read_text())
    assert timing["processes"] == 2
    assert timing["sweep"]["rounds"] == {"done": 4 * PHOTOS, "without_sharing": 5 * PHOTOS}
    assert output.count("best: rounds-") == 1  # the first process speaks for all


def test_predict_on_two_processes(forker, arguments, alone, tmp_path):
    run, _ = run_ranks(forker, 2, arguments, tmp_path, command="predict")
    assert results(run) == results(alone)


# ---- with the launchers that people use ---------------------------------------------------------


def launch(program, arguments, folder, log="log"):
    """Start a launcher; its output goes into a file."""
    with (folder / log).open("w") as file:
        return subprocess.Popen(
            [
                *(*program, str(ROOT / "train_free_eval.py"), "test", *arguments),
                f"--trainer.default_root_dir={folder / 'run'}",
            ],
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def test_when_a_process_is_killed_the_others_end(arguments, tmp_path):
    slow = [*arguments, "--data.init_args.batch_size=1"]
    two = ["--trainer.devices=2", "--trainer.strategy=ddp"]
    main = launch([sys.executable], [*slow, *two], tmp_path)
    until(lambda: any((tmp_path / "run" / "labels").glob("*.png")), timeout=180)
    child = int(subprocess.check_output(["pgrep", "-P", str(main.pid)], text=True).split()[0])
    os.kill(child, signal.SIGKILL)
    assert main.wait(60) == 1
    output = (tmp_path / "log").read_text()
    assert "was killed (SIGKILL)" in output
    assert "start the same command again" in output


@pytest.mark.slow
def test_when_the_first_process_is_killed_the_others_end(arguments, tmp_path):
    slow = [*arguments, "--data.init_args.batch_size=1"]
    two = ["--trainer.devices=2", "--trainer.strategy=ddp"]
    main = launch([sys.executable], [*slow, *two], tmp_path)
    until(lambda: any((tmp_path / "run" / "labels").glob("*.png")), timeout=180)
    child = int(subprocess.check_output(["pgrep", "-P", str(main.pid)], text=True).split()[0])
    main.kill()
    main.wait()
    until(lambda: not Path(f"/proc/{child}").exists(), timeout=15)
    assert "first process of the run" in (tmp_path / "log").read_text()


@pytest.mark.slow
def test_torchrun_with_two_nodes_of_two_processes(arguments, alone, tmp_path):
    port = free_port()
    together = ["--trainer.num_nodes=2", "--trainer.devices=2", "--trainer.strategy=ddp"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=2"]
    meeting = ["--master-addr=127.0.0.1", f"--master-port={port}"]
    nodes = [
        launch(
            [*torchrun, f"--node-rank={node}", *meeting],
            [*arguments, *together],
            tmp_path,
            log=f"log{node}",
        )
        for node in range(2)
    ]
    codes = [node.wait(180) for node in nodes]
    assert codes == [0, 0], (tmp_path / "log0").read_text()
    assert results(tmp_path / "run") == results(alone)
