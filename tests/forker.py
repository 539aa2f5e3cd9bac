"""Runs the command line in processes of their own without importing Lightning for each.

This file is a program: it imports everything once and forks for each command that it reads.
`Forker` is the side of the tests.
"""

import contextlib
import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


class Run:
    """A command that was started."""

    def __init__(self, forker, pid, log):
        self.forker, self.pid, self.log = forker, pid, log

    def kill(self, number):
        os.kill(self.pid, number)

    def wait(self, timeout=60):
        """Its exit code; negative for a signal."""
        return self.forker.ask({"do": "wait", "pid": self.pid, "timeout": timeout})

    @property
    def output(self):
        return self.log.read_text()


class Forker:
    """Starts commands in processes that are forked from one program."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )

    def ask(self, job, patience=120):
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], patience)[0]:
            raise TimeoutError(f"No answer to {job}")
        answer = json.loads(self.process.stdout.readline())
        if answer is None:
            raise TimeoutError(f"Still running after {job}")
        return answer

    def start(self, args, log, **env):
        """Start a command line; `env` is added to the environment."""
        job = {"do": "start", "args": [str(a) for a in args], "log": str(log), "env": env}
        return Run(self, self.ask(job), Path(log))

    def start_ranks(self, world, args, folder, **env):
        """Start a command line on several processes that meet over loopback."""
        folder.mkdir(parents=True, exist_ok=True)
        if world == 1:
            return [self.start(args, folder / "log0", **env)]
        return [
            self.start(
                [*args, f"--trainer.devices={world}", "--trainer.strategy=ddp"],
                folder / f"log{rank}",
                LOCAL_RANK=str(rank),
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=port,
                **env,
            )
            for port in [free_port()]
            for rank in range(world)
        ]

    def close(self):
        self.process.stdin.close()
        self.process.wait(30)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def until(condition, timeout=60):
    """Wait for something to become true."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("It did not become true")
        time.sleep(0.01)


def wait_for(pid, timeout):
    """The exit code of a child; None if it takes too long."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    return None


def answer(value):
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def serve():
    """Read jobs until there are no more; returns in a forked process with its command line."""
    for line in sys.stdin:
        job = json.loads(line)
        if job["do"] == "wait":
            answer(wait_for(job["pid"], job["timeout"]))
            continue
        pid = os.fork()
        if pid == 0:
            log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.environ.update(job["env"])
            # Who starts the tests in the background has Ctrl-C ignored, and children inherit it.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            return job["args"]
        answer(pid)
    return None


def warm_up():
    """Import everything that a run does, and fill the caches of the parser and of regular ones."""
    from ovss.cli.main import main
    from ovss.vlm import BlipITM

    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        main(["test", f"--config={ROOT / 'configs' / 'demo.yaml'}", "--print_config"])
    BlipITM.from_pretrained(ROOT / "tests" / "data" / "golden" / "blip_tiny_hf")
    return main


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.argv[0] = str(ROOT / "train_free_eval.py")
    main = warm_up()
    arguments = serve()
    if arguments is not None:
        main(arguments)
