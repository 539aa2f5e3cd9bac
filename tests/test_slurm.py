"""The shipped SLURM script on a real SLURM: controller, node and munge on loopback.

Debian and Ubuntu: `apt-get install slurm-wlm munge`. Needs root, as slurmd does.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from forker import free_port, until

ROOT = Path(__file__).parents[1]
PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch")
PATH = f"{os.environ['PATH']}:/usr/sbin"
MISSING = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"no SLURM here: {MISSING} not installed"),
    pytest.mark.skipif(not MISSING and os.geteuid() != 0, reason="slurmd needs root"),
]

CONFIGURATION = """\
ClusterName=ovss
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
SlurmctldPort={port1}
SlurmdPort={port2}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
KillWait=20
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Cluster:
    """Talks to the running SLURM."""

    def __init__(self, folder):
        self.env = {**os.environ, "PATH": PATH, "SLURM_CONF": str(folder / "slurm.conf")}

    def call(self, *command):
        return subprocess.run(
            command, env=self.env, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
        ).stdout.strip()

    def state(self, job):
        """The job's state, such as RUNNING, and how often it was started again."""
        fields = dict(
            pair.split("=", 1)
            for pair in self.call("scontrol", "show", "job", job).split()
            if "=" in pair
        )
        return fields["JobState"], int(fields["Restarts"]), fields["ExitCode"]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm")
    # munge wants a path that nobody else can write to.
    for path in (folder, *folder.parents[:2]):
        path.chmod(0o755)
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "slurm.conf").write_text(
        CONFIGURATION.format(
            host=socket.gethostname().split(".")[0],
            folder=folder,
            port1=free_port(),
            port2=free_port(),
            cores=os.cpu_count(),
        )
    )
    cluster = Cluster(folder)
    files = {name: folder / f"munge.{name}" for name in ("key", "log", "pid", "seed")}
    munge = [f"--{name}-file={path}" for name, path in files.items()]
    daemons = []
    try:
        for command in (
            ["munged", "--foreground", "--force", f"--socket={folder}/munge.sock", *munge],
            ["slurmctld", "-D", "-i"],
            ["slurmd", "-D"],
        ):
            log = (folder / f"{command[0]}.out").open("w")
            daemons.append(subprocess.Popen(command, env=cluster.env, stdout=log, stderr=log))
            time.sleep(2)
        until(lambda: cluster.call("sinfo", "--noheader", "-o", "%t") == "idle", timeout=30)
        yield cluster
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(30)


@pytest.fixture(scope="module")
def options(tmp_path_factory, tiny_blip_path):
    from ovss.datamodules.scene_generator import write_scenes

    root = tmp_path_factory.mktemp("scenes")
    write_scenes(root, dev=2, val=12)
    return [
        f"--data.init_args.root={root}",
        "--data.init_args.num_workers=1",
        "--data.init_args.batch_size=1",
        f"--model.vlm.init_args.name_or_path={tiny_blip_path}",
    ]


def submit(slurm, options, folder, log):
    """The shipped script with two tasks on one node without GPUs."""
    return slurm.call(
        *("sbatch", "--parsable", "--nodes=1", "--ntasks-per-node=2", "--cpus-per-task=1"),
        *("--gpus-per-node=0", f"--output={log}"),
        f"--export=ALL,PYTHON={sys.executable},OMP_NUM_THREADS=1",
        *("configs/cluster/slurm.sh", "configs/demo.yaml", str(folder), *options),
    )


def test_a_job_stopped_by_a_signal_is_requeued_and_finishes(slurm, options, tmp_path):
    subprocess.run(
        [
            *(sys.executable, "train_free_eval.py", "test", "--config=configs/demo.yaml"),
            *(*options, f"--trainer.default_root_dir={tmp_path / 'alone'}"),
        ],
        cwd=ROOT,
        check=True,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    run, log = tmp_path / "run", tmp_path / "job.log"
    job = submit(slurm, options, run, log)
    until(lambda: any((run / "labels").glob("*.png")), timeout=120)
    slurm.call("scancel", "--signal=USR1", job)
    until(lambda: slurm.state(job)[:2] == ("PENDING", 1), timeout=60)
    assert "Stopped on SIGUSR1" in log.read_text()
    assert not (run / "scores.json").exists()
    # SLURM lets a requeued job wait for two minutes. This one may start soon, but not while the
    # credential of its first start is being revoked.
    slurm.call("scontrol", "update", f"JobId={job}", "StartTime=now+5")
    until(lambda: slurm.state(job)[0] not in ("PENDING", "CONFIGURING"), timeout=180)
    until(lambda: slurm.state(job)[0] not in ("RUNNING", "COMPLETING"), timeout=180)
    assert slurm.state(job) == ("COMPLETED", 1, "0:0"), log.read_text()
    assert "photos are finished already" in log.read_text()
    for name in ("scores.json", "photos.jsonl", "per_class.csv"):
        assert (run / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    assert json.loads((run / "timing.json").read_text())["processes"] == 2
