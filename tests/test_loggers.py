"""Lightning's loggers beside a run: the folder stays the run's own, also after a kill."""

import csv
import json
import signal
import struct
from pathlib import Path

import pytest
import yaml
from forker import until

ROOT = Path(__file__).parents[1]


def read_csv(folder):
    (versions,) = folder.iterdir()
    last = max(versions.iterdir())
    with (last / "metrics.csv").open() as file:
        metrics = {k: float(v) for row in csv.DictReader(file) for k, v in row.items() if v}
    return metrics, flat(yaml.safe_load((last / "hparams.yaml").read_text())), None, None


def read_tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (versions,) = folder.iterdir()
    last = max(versions.iterdir())
    events = EventAccumulator(str(last))
    events.Reload()
    tags = events.Tags()
    metrics = {name: events.Scalars(name)[-1].value for name in tags["scalars"]}
    settings = flat(yaml.safe_load((last / "hparams.yaml").read_text()))
    return metrics, settings, sorted(tags["images"]), None


def read_wandb(folder):
    from wandb.proto.wandb_internal_pb2 import Record

    last = max((folder / "wandb").glob("offline-run-*"), key=lambda path: path.stat().st_mtime)
    (file,) = last.glob("*.wandb")
    metrics, settings = {}, {}
    for data in leveldb_records(file.read_bytes()[7:], 32768 - 7):
        record = Record.FromString(data)
        for item in record.history.item:
            metrics[item.nested_key[0]] = json.loads(item.value_json)
        for item in record.config.update:
            settings[item.key] = json.loads(item.value_json)
    pictures = sorted(name for name in metrics if name.startswith("overlays/"))
    return metrics, flat(settings), pictures, (last / "files" / "report.html").read_text()


def leveldb_records(data, left):
    """Records of a log in LevelDB's format, of whose first block so many bytes are left."""
    record = b""
    while data:
        if left < 7:  # no header fits: the block ends with padding
            data, left = data[left:], 32768
            continue
        length, kind = struct.unpack("<4xHB", data[:7])
        record += data[7 : 7 + length]
        data, left = data[7 + length :], left - 7 - length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def read_mlflow(uri):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    (experiment,) = [e for e in client.search_experiments() if e.name == "lightning_logs"]
    run = client.search_runs([experiment.experiment_id], order_by=["start_time DESC"])[0]
    pictures = [
        file.path.removesuffix(".png")
        for file in client.list_artifacts(run.info.run_id, "overlays")
    ]
    artifacts = Path(run.info.artifact_uri.removeprefix("file://"))
    report = (artifacts / "report.html").read_text()
    return run.data.metrics, run.data.params, sorted(pictures), report


def flat(settings, name=""):
    """As MLflow has them: names joined by slashes, values as text."""
    if not isinstance(settings, dict):
        return {name: str(settings)}
    rows = [flat(value, f"{name}/{key}" if name else key) for key, value in settings.items()]
    return {key: value for row in rows for key, value in row.items()}


def save_dir(folder):
    return [f"--trainer.logger.save_dir={folder}"]


def artifact_location(folder):
    return [
        f"--trainer.logger.tracking_uri=sqlite:///{folder}.db",
        f"--trainer.logger.artifact_location={folder}",
    ]


LOGGERS = {
    "csv": ("CSVLogger", save_dir, read_csv),
    "tensorboard": ("TensorBoardLogger", save_dir, read_tensorboard),
    "wandb": ("WandbLogger", save_dir, read_wandb),
    "mlflow-files": ("MLFlowLogger", save_dir, lambda folder: read_mlflow(f"file:{folder}")),
    "mlflow-sqlite": (
        "MLFlowLogger",
        artifact_location,
        lambda folder: read_mlflow(f"sqlite:///{folder}.db"),
    ),
}


@pytest.mark.parametrize(
    "kind", ["csv", *(pytest.param(kind, marks=pytest.mark.slow) for kind in [*LOGGERS][1:])]
)
def test_a_killed_run_is_taken_up_whatever_the_logger(
    kind, forker, tmp_path, scenes_root, tiny_blip_path, monkeypatch
):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # to write and to read
    logger, options, read = LOGGERS[kind]
    folder, logs = tmp_path / "run", tmp_path / "logs"

    def start():
        return forker.start(
            [
                "test",
                f"--config={ROOT / 'configs' / 'demo.yaml'}",
                f"--data.init_args.root={scenes_root}",
                "--data.init_args.num_workers=1",
                "--data.init_args.batch_size=1",
                f"--model.vlm.init_args.name_or_path={tiny_blip_path}",
                f"--trainer.default_root_dir={folder}",
                f"--trainer.logger={logger}",
                *options(logs),
            ],
            tmp_path / "log",
            WANDB_MODE="offline",
            MLFLOW_ALLOW_FILE_STORE="true",
        )

    first = start()
    until(lambda: any((folder / "labels").glob("*.png")), timeout=120)
    first.kill(signal.SIGKILL)
    assert first.wait(60) == -signal.SIGKILL
    done = len(list((folder / "labels").glob("*.png")))
    assert 1 <= done < 8
    second = start()
    assert second.wait(120) == 0, second.output
    assert f"{done} of 8 photos are finished already" in second.output

    scores = json.loads((folder / "scores.json").read_text())
    assert scores["photos"] == 8
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["trainer"]["logger"]["class_path"].endswith(logger)
    assert not list(logs.rglob("config.yaml"))
    metrics, settings, pictures, report = read(logs)
    assert metrics["mIoU"] == pytest.approx(scores["mIoU"], abs=1e-6)
    per_class = {n.removeprefix("IoU/"): v for n, v in metrics.items() if n.startswith("IoU/")}
    counting = {each["name"]: each["IoU"] for each in scores["classes"] if each["IoU"] is not None}
    assert len(counting) < len(scores["classes"])
    assert per_class == pytest.approx(counting, abs=1e-6)
    expected = flat({k: scores[k] for k in ("benchmark", "method", "model", "settings")})
    assert expected.items() <= settings.items()
    if pictures is not None:
        assert pictures == [f"overlays/val_0000{i}" for i in range(4)]
    if report is not None:
        assert report == (folder / "report.html").read_text()
