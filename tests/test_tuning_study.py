"""The study: no repeats, resuming, processes, masks unseen, and the command."""

import csv
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
import yaml
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from ovss.datamodules.dataset import PhotoDataset
from sqlalchemy.exc import SQLAlchemyError

from ovss.cli.main import main
from ovss.datamodules import Scenes
from ovss.preprocessing import InputSpec
from ovss.tuning.photos import WithoutMasks, gather_photos
from ovss.tuning.plots import as_complete
from ovss.tuning.report import running_reward, write_trials
from ovss.tuning.rewards import Points
from ovss.tuning.sampling import UntriedSampler, setting_of
from ovss.tuning.settings import RewardSettings, StudySettings
from ovss.tuning.space import Setting, settings_of
from ovss.tuning.storage import open_storage
from ovss.tuning.study import (
    make_pruner,
    open_study,
    ranking,
    run_trials,
)

ROOT = Path(__file__).parents[1]
CHOICES = {
    "layer": [0, 1, 2],
    "head": [0, 1, "mean"],
    "threshold": [0.1, 0.2, 0.3],
    "rounds": [1, 2],
    "patches": [0, 4],
}
SIZE = 54


def wanted_setting(setting):
    """A reward with one summit at layer 1, mean, 0.2, two rounds."""
    distance = abs(setting.layer - 1) + (setting.head != "mean") + (setting.rounds != 2)
    height = 100 - 10 * distance - round(100 * abs(setting.threshold - 0.2))
    return Points(height, 100, float(height))


def study_in(folder, kind="random", seed=0, reduction=1, storage=None, facts=None):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return open_study(
        open_storage(storage, folder),
        "tune",
        UntriedSampler(CHOICES, kind, seed),
        make_pruner(reduction),
        {"photos": 3} if facts is None else facts,
    )


MEMORY = "sqlite:///:memory:"


def objective(trial, setting):
    return rewarded(trial, wanted_setting(setting))


def rewarded(trial, points, measure="margin"):
    """As `make_objective`: the points stay with the trial."""
    trial.set_user_attr("points", points._asdict())
    return points.mean(measure)


def settings_in(study):
    return [setting_of(trial) for trial in study.get_trials(states=(TrialState.COMPLETE,))]


# ---- no repeats ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["random", "grid", "tpe"])
def test_the_whole_space_is_tried_once(tmp_path, kind):
    study = study_in(tmp_path, kind, storage=MEMORY)
    run_trials(study, objective, 1000)
    tried = settings_in(study)
    assert len(tried) == SIZE
    assert set(tried) == set(settings_of(CHOICES))
    assert len(study.trials) == SIZE
    assert setting_of(ranking(study)[0]) == Setting(1, "mean", 0.2, 2, 4)


def test_samplers_differ_and_are_seeded(tmp_path):
    def order(kind, seed):
        study = study_in(tmp_path, kind, seed, storage=MEMORY)
        run_trials(study, objective, 14)
        return settings_in(study)

    assert order("grid", 0) == settings_of(CHOICES)[:14]
    assert order("random", 0) == order("random", 0)
    assert order("random", 0) != order("random", 1)
    assert order("tpe", 0) == order("tpe", 0)
    assert order("tpe", 0)[:10] == order("random", 0)[:10]  # nothing to go by yet
    assert order("tpe", 0) != order("random", 0)
    with pytest.raises(ValueError, match=r"study\.sampler"):
        UntriedSampler(CHOICES, "annealing", 0)


def test_the_estimator_goes_where_rewards_are_high(tmp_path):
    def reward(kind, seed):
        study = study_in(tmp_path, kind, seed, storage=MEMORY)
        run_trials(study, objective, 20)
        return np.mean([trial.value for trial in study.trials[10:]])  # the first 10 are random

    gains = [reward("tpe", seed) - reward("random", seed) for seed in range(4)]
    assert min(gains) > 0.02


def test_a_failed_setting_is_tried_again(tmp_path):
    study = study_in(tmp_path, "grid", storage=MEMORY)
    broken = Setting(0, 0, 0.1, 1, 0)

    def objective_once(trial, setting):
        if setting == broken and trial.number == 0:
            raise RuntimeError("the lights went out")
        return objective(trial, setting)

    with pytest.raises(RuntimeError, match="lights"):
        run_trials(study, objective_once, 1000)
    run_trials(study, objective_once, 1000)
    assert sorted(settings_in(study), key=str) == sorted(settings_of(CHOICES), key=str)


@pytest.mark.parametrize("storage", [None, "journal.log"])
def test_a_study_goes_on_where_it_stopped(tmp_path, storage):
    storage = storage and str(tmp_path / storage)

    def stopping(trial, setting):
        if trial.number == 5:
            raise KeyboardInterrupt
        return objective(trial, setting)

    first = study_in(tmp_path, storage=storage)
    with pytest.raises(KeyboardInterrupt):
        run_trials(first, stopping, 12)
    assert len(settings_in(first)) == 5
    second = study_in(tmp_path, storage=storage)
    run_trials(second, objective, 12)
    tried = settings_in(second)
    assert len(tried) == len(set(tried)) == 12
    whole = study_in(tmp_path, storage=MEMORY)
    run_trials(whole, objective, 12)
    assert tried[:5] == settings_in(whole)[:5]
    run_trials(second, objective, 12)
    assert len(settings_in(second)) == 12  # nothing left to do


def test_a_study_made_otherwise_is_refused(tmp_path):
    study_in(tmp_path, facts={"photos": 3, "vlm": "demo"})
    with pytest.raises(ValueError, match=r"others: photos: 3 there, 4 here\. Give"):
        study_in(tmp_path, facts={"photos": 4, "vlm": "demo"})


WORKER = """
import sys, time
sys.path.insert(0, "tests")
from pathlib import Path
from test_tuning_study import objective, study_in
from ovss.tuning.study import run_trials

folder, storage, kind = sys.argv[1:]
study = study_in(Path(folder), kind, storage=storage or None)

def patient(trial, setting):
    # The first trial of each process waits for the other's, however slowly that starts.
    for _ in range(2000):
        if len({t.user_attrs.get("process") for t in study.trials} - {None}) == 2:
            break
        time.sleep(0.05)
    return objective(trial, setting)

run_trials(study, patient, 20)
"""


@pytest.mark.parametrize(
    ("kind", "journal"), [pytest.param("tpe", False, marks=pytest.mark.slow), ("random", True)]
)
def test_processes_share_a_study_without_repeats(tmp_path, kind, journal):
    storage = str(tmp_path / "study.log") if journal else ""
    command = [sys.executable, "-c", WORKER, str(tmp_path), storage, kind]
    workers = [
        subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=240)
        assert worker.returncode == 0, errors
    study = study_in(tmp_path, kind, storage=storage or None)
    tried = settings_in(study)
    assert len(tried) == len(set(tried)) == 20
    makers = {trial.user_attrs["process"] for trial in study.trials}
    assert len(makers) == 2


def test_trials_of_a_killed_process_are_given_up(tmp_path):
    study = study_in(tmp_path, "grid", storage=MEMORY)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    trial = study.ask(fixed_distributions=study.sampler.space)
    host = os.uname().nodename
    trial.set_user_attr("process", f"{host}:{dead.pid}")
    run_trials(study, objective, 1000)
    assert study.trials[0].state == TrialState.FAIL
    assert len(set(settings_in(study))) == SIZE


@pytest.mark.parametrize("storage", [MEMORY, "journal.log"])
def test_silent_trials_of_other_machines_are_given_up(tmp_path, storage):
    storage = storage if storage == MEMORY else str(tmp_path / storage)
    study = study_in(tmp_path, "grid", storage=storage)
    for seen in (time.time() - 3600, time.time()):
        trial = study.ask(fixed_distributions=study.sampler.space)
        trial.set_user_attr("process", "another:1")
        trial.set_user_attr("seen", seen)
    run_trials(study, objective, 1000)
    assert [trial.state for trial in study.trials[:2]] == [TrialState.FAIL, TrialState.RUNNING]


# ---- what may be wrong with a study -------------------------------------------------------------

STARTER = """
import sys
sys.path.insert(0, "tests")
from pathlib import Path
from test_tuning_study import study_in

sys.stdin.readline()
study_in(Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_processes_begin_a_new_study_at_once(tmp_path):
    command = [sys.executable, "-c", STARTER, str(tmp_path)]
    starters = [
        subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for starter in starters:
        starter.stdin.write("\n")
        starter.stdin.flush()
    for starter in starters:
        _, errors = starter.communicate(timeout=240)
        assert starter.returncode == 0, errors


@pytest.mark.parametrize(
    "message",
    [
        "(sqlite3.IntegrityError) UNIQUE constraint failed: alembic_version.version_num",
        "(sqlite3.OperationalError) table studies already exists",
        "(sqlite3.OperationalError) database is locked",
    ],
)
def test_tables_that_another_process_makes_are_waited_for(tmp_path, monkeypatch, message):
    attempts = []

    def racing(url, **kwargs):
        attempts.append(url)
        if len(attempts) < 3:
            raise SQLAlchemyError(message)
        return RDBStorage(url, **kwargs)

    monkeypatch.setattr("ovss.tuning.storage.RDBStorage", racing)
    assert isinstance(open_storage(None, tmp_path), RDBStorage)
    assert len(attempts) == 3
    monkeypatch.setattr("ovss.tuning.storage._MAKING_TABLES", -1.0)
    attempts.clear()
    with pytest.raises(ValueError, match=r"study\.storage"):
        open_storage(None, tmp_path)
    assert len(attempts) == 1


@pytest.mark.parametrize("half", [b'{"op_code":5,"work', b'{"op_code":5}', b"\xff\0"])
def test_half_a_line_at_the_end_of_a_journal_is_taken_off(tmp_path, caplog, half):
    journal = tmp_path / "journal.log"
    study = study_in(tmp_path, storage=str(journal))
    run_trials(study, objective, 5)
    tried = settings_in(study)
    with journal.open("ab") as file:
        file.write(half)
    study = study_in(tmp_path, storage=str(journal))
    assert settings_in(study) == tried
    run_trials(study, objective, 8)
    with journal.open("ab") as file:  # another process is killed while this one is at work
        file.write(half)
    run_trials(study, objective, 10)
    assert caplog.text.count(f"half a line off the end of {journal}") == 2
    again = settings_in(study_in(tmp_path, storage=str(journal)))
    assert again[:5] == tried
    assert len(set(again)) == 10


@pytest.mark.parametrize(
    "content", [b"not a journal\nat all\n", b"{}\n", b"[]\n", b"\xff\n\n", b'{"op_code":99}\n']
)
def test_a_journal_that_is_none_is_named(tmp_path, content):
    journal = tmp_path / "journal.log"
    journal.write_bytes(content)
    with pytest.raises(ValueError, match=r"journal\.log is damaged.*--study\.storage"):
        study_in(tmp_path, storage=str(journal))
    assert journal.read_bytes() == content


def edit(database, statement, *values):
    connection = sqlite3.connect(database)
    with connection:
        assert connection.execute(statement, values).rowcount
    connection.close()


@pytest.mark.parametrize("known", ["null", "7", '"text"', "{", ""])
def test_a_study_whose_facts_were_edited_says_what_to_do(tmp_path, known):
    run_trials(study_in(tmp_path), objective, 3)
    edit(tmp_path / "study.db", "UPDATE study_user_attributes SET value_json = ?", known)
    with pytest.raises(ValueError, match=r"'tune' .*edited.*--study\.name"):
        study_in(tmp_path)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE trial_user_attributes SET value_json = '7' WHERE key = 'points'",
        "UPDATE trial_user_attributes SET value_json = '{\"won\": 1}' WHERE key = 'points'",
        "UPDATE trial_user_attributes SET value_json = '{' WHERE key = 'points'",
        "UPDATE trial_user_attributes SET value_json = replace(value_json, '100', '\"x\"') "
        "WHERE key = 'points'",
        "DELETE FROM trial_user_attributes WHERE key = 'points'",
        "DELETE FROM trial_params WHERE param_name = 'rounds'",
        "UPDATE trial_params SET param_value = 99 WHERE param_name = 'rounds'",
        "UPDATE trial_params SET distribution_json = '{}'",
        "DROP TABLE trial_params",
    ],
)
def test_a_study_whose_trials_were_edited_says_what_to_do(tmp_path, statement):
    run_trials(study_in(tmp_path), objective, 3)
    edit(tmp_path / "study.db", statement)
    with pytest.raises(ValueError, match=r"'tune' .*edited.*--study\.name"):
        run_trials(study_in(tmp_path), objective, 4)


def test_trials_with_edited_signs_of_life_are_given_up_in_time(tmp_path):
    study = study_in(tmp_path, "grid", storage=MEMORY)
    for process in (f"{os.uname().nodename}:none", 7, None):
        trial = study.ask(fixed_distributions=study.sampler.space)
        trial.set_user_attr("process", process)
        trial.set_user_attr("seen", "never")
    run_trials(study, objective, 10)
    assert [trial.state for trial in study.trials[:3]] == [TrialState.RUNNING] * 3


# ---- stopping hopeless trials -------------------------------------------------------------------


def test_hopeless_trials_are_stopped(tmp_path):
    study = study_in(tmp_path, reduction=2, storage=MEMORY)
    steps = []

    def in_parts(trial, setting):
        points = wanted_setting(setting)
        for step in range(1, 5):
            steps.append(trial.number)
            if step < 4:
                trial.report(points.mean("points"), step)
                if trial.should_prune():
                    raise optuna.TrialPruned
        return rewarded(trial, points)

    run_trials(study, in_parts, SIZE)
    pruned = study.get_trials(states=(TrialState.PRUNED,))
    reached = [max(trial.intermediate_values) for trial in pruned]
    assert set(reached) == {1, 2}  # trials are stopped after 1, r, r^2, ... parts
    assert len(steps) < 0.75 * 4 * SIZE
    best = ranking(study)[0]
    assert setting_of(best) == Setting(1, "mean", 0.2, 2, 4)
    assert all(running_reward(trial) <= best.value for trial in pruned)
    copy = as_complete(study).get_trials(states=(TrialState.COMPLETE,))
    assert [(t.params, t.value) for t in copy] == [
        (t.params, running_reward(t)) for t in study.trials
    ]
    write_trials(tmp_path / "trials.csv", study, {best.number: 0.5})
    rows = list(csv.DictReader((tmp_path / "trials.csv").open()))
    assert len(rows) == SIZE
    assert [row["mIoU"] for row in rows if row["mIoU"]] == ["0.5"]
    assert sum(row["state"] == "pruned" for row in rows) == len(pruned)


def test_equal_rewards_are_ranked_by_margin_then_rounds(tmp_path):
    study = study_in(tmp_path, "grid", storage=MEMORY)

    def equal(trial, setting):
        return rewarded(trial, Points(5, 10, 0.5 if setting.layer == 1 else 0.1), "points")

    run_trials(study, equal, SIZE)
    first, *_ = ranking(study)
    assert setting_of(first)[:4] == (1, 0, 0.1, 1)


@pytest.mark.parametrize(
    "bad",
    [
        {"trials": 0},
        {"photos": 0},
        {"parts": 0},
        {"reduction": 0},
        {"memory_gb": -1},
        {"name": "a/b"},
    ],
)
def test_impossible_studies_are_refused(bad):
    (name,) = bad
    with pytest.raises(ValueError, match=rf"study\.{name}"):
        StudySettings(**bad)


@pytest.mark.parametrize("bad", [{"batch_size": 0}, {"prompt": "no braces"}])
def test_impossible_rewards_are_refused(bad):
    (name,) = bad
    with pytest.raises(ValueError, match=rf"reward\.{name}"):
        RewardSettings(**bad)


@pytest.mark.parametrize(
    "storage", ["postgresql://h/x", "sqlite:////no/such/x.db", "/proc/x/y.log"]
)
def test_storages_that_cannot_be_opened_are_named(tmp_path, storage):
    with pytest.raises(ValueError, match=rf"study\.storage.*{storage}"):
        open_storage(storage, tmp_path)


# ---- the command --------------------------------------------------------------------------------


@pytest.fixture
def arguments(tmp_path, scenes_root, tiny_blip_path, monkeypatch):
    """`tune` on a few scenes with a tiny model."""
    monkeypatch.setattr(sys, "argv", ["train_free_eval.py"])
    monkeypatch.setattr(Scenes, "tuning_split", "val")
    return [
        "--config=" + str(ROOT / "configs" / "demo.yaml"),
        f"--data.init_args.root={scenes_root}",
        "--data.init_args.num_workers=0",
        f"--model.vlm.init_args.name_or_path={tiny_blip_path}",
        f"--trainer.default_root_dir={tmp_path / 'run'}",
        "--space.layers=[3, 4]",
        "--space.heads=[0, mean]",
        "--space.thresholds=[0.1, 0.3]",
        "--space.rounds=[1, 2]",
        "--space.patches=[4]",
        "--study.trials=11",
        "--study.photos=4",
        "--study.parts=2",
    ]


def trials_of(folder):
    with (folder / "tune" / "trials.csv").open() as file:
        return list(csv.DictReader(file))


def test_tune_writes_an_overlay_that_test_takes(arguments, tmp_path, scenes_root, capsys):
    main(["tune", *arguments, "--study.reduction=1", "--validate=true"])
    folder = tmp_path / "run"
    rows = trials_of(folder)
    assert len(rows) == 11
    best = max(rows, key=lambda row: (float(row["reward"]), float(row["margin"])))
    assert float(best["reward"]) == float(best["margin"]) / int(best["pairs"])
    overlay = yaml.safe_load((folder / "tune" / "best.yaml").read_text())["model"]
    assert str(overlay["layer"]) == best["layer"]
    assert str(overlay["head"]) == best["head"]
    assert overlay["labeller"] == {"threshold": float(best["threshold"])}
    assert str(overlay["dropout"]["rounds"]) == best["rounds"]
    names = {"layer_head.png", "history.png", "importances.png", "reward_miou.png", "study.db"}
    assert names <= {file.name for file in (folder / "tune").iterdir()}
    printed = capsys.readouterr().out
    assert "rank correlation" in printed
    run = [*arguments[:5], f"--config={folder / 'tune' / 'best.yaml'}"]
    run += ["--data.init_args.limit=1", "--model.labeller.refine=null"]
    main(["test", *run])
    used = yaml.safe_load((folder / "config.yaml").read_text())["model"]
    assert (used["layer"], used["head"]) == (overlay["layer"], overlay["head"])
    assert used["labeller"]["threshold"] == overlay["labeller"]["threshold"]
    assert used["labeller"]["blur"] == 0.05  # what the overlay does not name stays
    assert used["dropout"]["rounds"] == overlay["dropout"]["rounds"]


def test_validation_scores_as_test_does(arguments, tmp_path, scenes_root, monkeypatch):
    import json

    plain = ["--model.labeller.refine=null"]
    search = ["--study.reduction=1", "--study.trials=2", "--validate=true"]
    reward = ["--reward.mask=map", "--reward.measure=points"]
    main(["tune", *arguments, *plain, *search, *reward])
    # The tuning photos alone, through `test`, with a setting that was tried.
    row = trials_of(tmp_path / "run")[1]
    assert float(row["reward"]) == int(row["won"]) / int(row["pairs"])
    spec = InputSpec(112, (0.5,) * 3, (0.5,) * 3)
    data = Scenes(scenes_root, num_workers=0, spec=spec)
    data.setup()
    seen = gathered_ids(data)
    find = Scenes.find

    def find_seen(self):
        split = find(self)
        return replace(split, samples=[s for s in split.samples if s.id in seen])

    monkeypatch.setattr(Scenes, "find", find_seen)
    overlay = tmp_path / "one.yaml"
    setting = Setting(
        int(row["layer"]),
        row["head"] if row["head"] == "mean" else int(row["head"]),
        float(row["threshold"]),
        int(row["rounds"]),
        int(row["patches"]),
    )
    overlay.write_text(yaml.safe_dump({"model": setting.overlay()}))
    other = f"--trainer.default_root_dir={tmp_path / 'other'}"
    main(["test", *arguments[:5], *plain, f"--config={overlay}", other])
    scores = json.loads((tmp_path / "other" / "scores.json").read_text())
    assert scores["photos"] == 4
    assert float(row["mIoU"]) == pytest.approx(scores["mIoU"], abs=1e-6)


def gathered_ids(data):
    from ovss.proposals import OracleProposer
    from ovss.vlm import BlipITM

    vlm = BlipITM.from_pretrained(ROOT / "tests" / "data" / "golden" / "blip_tiny_hf")
    found = gather_photos(
        data.predict_dataloader(), data.benchmark, OracleProposer(), vlm, 8, 4, seed=0
    )
    return set(found.ids)


def test_masks_are_not_seen(arguments, tmp_path, monkeypatch):
    arguments += ["--study.trials=5", "--study.reduction=1"]
    main(["tune", *arguments])
    before = trials_of(tmp_path / "run")
    original = PhotoDataset.__getitem__
    replaced = []

    def noisy(self, index):
        item = original(self, index)  # the image-level labels are the true ones
        noise = np.random.default_rng(index).integers(0, 13, item["mask"].shape)
        replaced.append(index)
        return {**item, "mask": item["mask"].new_tensor(noise)}

    monkeypatch.setattr(PhotoDataset, "__getitem__", noisy)
    main(["tune", *arguments, f"--trainer.default_root_dir={tmp_path / 'noise'}"])
    assert replaced
    assert trials_of(tmp_path / "noise") == before


def test_batches_have_no_masks_before_the_search_sees_them(scenes_root):
    data = Scenes(scenes_root, num_workers=0, spec=InputSpec(16, (0.5,) * 3, (0.5,) * 3))
    data.setup()
    loader = data.predict_dataloader()
    items = [loader.dataset[0], loader.dataset[1]]
    assert loader.collate_fn(items).masks is not None
    stripped = WithoutMasks(loader.collate_fn)(items)
    assert stripped.masks is None
    assert stripped.present == loader.collate_fn(items).present


def test_the_demo_tunes_on_photos_that_are_not_scored(tmp_path):
    from ovss.cli.tune import tune_with_trainer
    from ovss.tuning.space import SearchSpace

    class Stop(Exception):
        pass

    class Seen(Scenes):
        def prepare_data(self):
            raise Stop(self.split)

    with pytest.raises(Stop, match="dev"):
        tune_with_trainer(
            None, None, Seen(tmp_path), SearchSpace(), RewardSettings(), StudySettings(), False
        )


def test_data_and_packages_are_asked_for(arguments, capsys, monkeypatch):
    with pytest.raises(SystemExit):
        main(["tune", "--config=blip_large_flickr", *arguments[3:]])
    assert "got none with `data`; give one with --config" in capsys.readouterr().err
    monkeypatch.setattr("ovss.cli.tune.find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        main(["tune", *arguments])
    said = "run `pip install 'ovss[tune]'` (from a checkout: `pip install -e '.[tune]'`)"
    assert said in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_signals_keep_what_was_done(arguments, tmp_path, number, code):
    command = [sys.executable, "-c", "from ovss.cli.main import main; main()", "tune", *arguments]
    running = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    database = tmp_path / "run" / "tune" / "study.db"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if database.exists():
            study = study_names(database)
            if study and len(study[0].get_trials(states=(TrialState.COMPLETE,))) >= 2:
                break
        time.sleep(0.1)
    running.send_signal(number)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == code, errors
    assert len(trials_of(tmp_path / "run")) >= 2
    assert (tmp_path / "run" / "tune" / "best.yaml").exists()


def study_names(database):
    url = f"sqlite:///{database}"
    try:
        names = optuna.get_all_study_names(url)
    except Exception:  # the tables are being made
        return []
    return [optuna.load_study(study_name=name, storage=url) for name in names]
