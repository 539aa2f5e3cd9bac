"""Asking a chat model for classes, against a server on loopback that answers as it is told."""

from __future__ import annotations

import base64
import io
import json
import logging
import multiprocessing
import re
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from ovss.benchmark import PhotoBatch, of_classes
from ovss.cli.main import main
from ovss.proposals import AskProposer, FileProposer, Proposal
from ovss.proposals.answers import AnswerFile
from ovss.proposals.chat import EndpointError

ROOT = Path(__file__).parents[1]
KEY = "sk-verysecret0123456789"
BENCHMARK = of_classes(["cat", "dog; puppy", "potted plant"])


class Server:
    """Answers requests with what `answers` gives, in turn, and after that with the last of it.

    An answer is a text, or a function of the handler that writes a response.
    """

    def __init__(self):
        self.answers = ["[1: cat, 3: potted plant], [100%, 90%]"]
        self.requests, self.times, self.headers = [], [], []
        server, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with lock:
                    number = min(len(server.requests), len(server.answers) - 1)
                    server.requests.append(json.loads(body))
                    server.times.append(time.monotonic())
                    server.headers.append(self.headers)
                answer = server.answers[number]
                answer(self) if callable(answer) else good(answer)(self)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def send(handler, code, body, kind="application/json", **headers):
    handler.send_response(code)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(body)))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def good(text, finish="stop", usage=True, **message):
    choice = {"message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    if usage:
        body["usage"] = {"prompt_tokens": 100, "completion_tokens": 7, "total_tokens": 107}
    return lambda handler: send(handler, 200, json.dumps(body).encode())


def failing(code, message, **headers):
    body = json.dumps({"error": {"message": message}}).encode()
    return lambda handler: send(handler, code, body, **headers)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = Server()
    yield server
    server.close()


@pytest.fixture
def asker(server, tmp_path):
    def make(**options):
        options = {
            "model": "stub",
            "base_url": server.url,
            "api_key_env": "OPENAI_API_KEY",
            "folder": tmp_path / "answers",
            "retries": 0,
            **options,
        }
        return AskProposer(**options)

    return make


def batch_of(*ids, size=(6, 9)):
    photos = [torch.full((3, *size), 10 * n, dtype=torch.uint8) for n, _ in enumerate(ids)]
    return PhotoBatch(ids, photos, torch.zeros(len(ids), 3, 2, 2))


def ask(proposer, *ids):
    return proposer(batch_of(*ids), BENCHMARK, None)


BOTH = Proposal((1, 3), (1.0, 0.9))

# ---- what is asked, and what becomes of the answer -----------------------------------------------


def test_the_request_has_prompt_photo_and_key(asker, server):
    server.answers = ["[3: potted plant, 1: cat, 2: dog], [90%, 100, 70%]"]
    proposer = asker(longest_side=40)
    photo = torch.zeros(3, 100, 50, dtype=torch.uint8)
    photo[0] = 200
    batch = PhotoBatch(["a"], [photo], torch.zeros(1, 3, 2, 2))
    # Strictly above 70, in the order of the answer.
    assert proposer(batch, BENCHMARK, None) == [Proposal((3, 1), (0.9, 1.0))]
    (request,) = server.requests
    assert (request["model"], request["temperature"]) == ("stub", 0)
    text, image = request["messages"][0]["content"]
    assert "\n1: cat\n2: dog; puppy\n3: potted plant\n" in text["text"]
    assert "\n[2: dog, 3: potted plant], [100%, 90%]\n" in text["text"]
    kind, _, data = image["image_url"]["url"].partition(",")
    assert kind == "data:image/jpeg;base64"
    sent = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    assert sent.shape == (40, 20, 3)
    assert np.abs(sent.astype(int) - (200, 0, 0)).max() <= 2  # JPEG
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"


def test_coco_is_asked_for_by_category_ids(asker, server):
    from ovss.datamodules import COCOObject

    server.answers = ["[90: toothbrush], [100%]"]
    benchmark = COCOObject("nowhere").benchmark
    (proposal,) = asker()(batch_of("a"), benchmark, None)
    assert [benchmark.classes[label] for label in proposal.labels] == ["toothbrush"]
    assert "\n13: stop sign\n" in server.requests[0]["messages"][0]["content"][0]["text"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[], []", Proposal((), ())),
        ("I see:\n[1: cat]\n[95%]\n", Proposal((1,), (0.95,))),
        ("[1: cat], [140%]", Proposal((1,), (1.0,))),
        ("[0: none], [100%]", Proposal((), ())),
        ("[1: cat], ['95%']", Proposal((1,), (0.95,))),
        ("[1: cat], [0.95]", Proposal((1,), (0.95,))),
        ("<think>[2: dog]? [90%]? No.</think>\n[1: cat], [95%]", Proposal((1,), (0.95,))),
        ("[2: dog, 1: cat, 2: puppy], [90, 80, 71]", Proposal((2, 1, 2), (0.9, 0.8, 0.71))),
    ],
)
def test_answers_that_can_be_read(asker, server, text, expected):
    server.answers = [text]
    assert ask(asker(), "a") == [expected]


def test_a_server_without_key_usage_and_reason(asker, server):
    server.answers = [good("[1: cat], [100%]", finish=None, usage=False)]
    proposer = asker(temperature=None, api_key_env=None)
    assert ask(proposer, "a") == [Proposal((1,), (1.0,))]
    assert "temperature" not in server.requests[0]
    assert server.headers[0]["Authorization"] == "Bearer none"
    assert proposer.finish("cpu")["tokens_in"] == 0


def test_settings_name_what_the_answers_depend_on(asker):
    settings = asker(threshold=50).settings()
    assert {"model": "stub", "threshold": 50}.items() <= settings.items()
    own = {"model", "base_url", "prompt", "threshold", "temperature", "longest_side"}
    assert set(settings) == own


# ---- the file of answers -------------------------------------------------------------------------


def test_nothing_is_asked_twice_and_the_file_is_one_for_file_proposer(asker, server, tmp_path):
    assert ask(asker(), "a", "b.c") == [BOTH, BOTH]
    assert len(server.requests) == 2
    server.answers = ["[2: dog], [71%]"]
    assert ask(asker(), "b.c", "d", "a") == [BOTH, Proposal((2,), (0.71,)), BOTH]
    assert len(server.requests) == 3
    assert ask(asker(threshold=95), "a") == [Proposal((1,), (1.0,))]  # of the same answers
    assert len(server.requests) == 3
    (path,) = (tmp_path / "answers").glob("custom-stub-*.json")
    assert json.loads(path.read_text()) == {
        "a": "[1: cat, 3: potted plant], [100%, 90%]",
        "b.c": "[1: cat, 3: potted plant], [100%, 90%]",
        "d": "[2: dog], [71%]",
    }
    assert FileProposer(path)(batch_of("a", "d"), BENCHMARK, None) == [
        BOTH,
        Proposal((2,), (0.71,)),
    ]


@pytest.mark.parametrize("change", [{"prompt": "Classes: {classes}"}, {"longest_side": 9}])
def test_other_settings_have_a_file_of_their_own(asker, server, tmp_path, change):
    ask(asker(), "a")
    ask(asker(**change), "a")
    assert len(server.requests) == 2
    assert len(list((tmp_path / "answers").glob("*.json"))) == 2


def test_the_same_model_at_another_server_is_asked_anew(asker, server, tmp_path):
    ask(asker(), "a")
    ask(asker(base_url=server.url.replace("/v1", "/other/v1")), "a")
    assert len(server.requests) == 2
    assert len(list((tmp_path / "answers").glob("*.json"))) == 2


def test_what_was_answered_before_a_failure_is_kept(asker, server):
    server.answers = ["[1: cat], [100%]", "[1: cat], [100%]", failing(401, "no")]
    with pytest.raises(EndpointError, match="OPENAI_API_KEY"):
        ask(asker(parallel=1), "a", "b", "c", "d", "e")
    assert len(server.requests) == 3  # not the two after it: the endpoint does not serve
    server.answers = ["[2: dog], [100%]"]
    assert [p.labels for p in ask(asker(), "a", "b", "c")] == [(1,), (1,), (2,)]
    assert len(server.requests) == 4


def add_some(path, name):
    for number in range(25):
        AnswerFile(path).add({f"{name}{number}": "[1: cat], [100%]"})


def test_processes_do_not_lose_each_others_answers(tmp_path):
    path = tmp_path / "answers.json"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=add_some, args=(path, name)) for name in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert sorted(AnswerFile(path).read()) == sorted(f"{n}{i}" for n in "ab" for i in range(25))


def test_a_damaged_file_is_refused_and_a_damaged_answer_asked_for_anew(
    asker, server, tmp_path, caplog
):
    ask(asker(), "a")
    (path,) = (tmp_path / "answers").glob("*.json")
    path.write_text(json.dumps({"a": "[9: unicorn], [100%]", "b": "[2: dog], [80%]"}))
    assert ask(asker(), "a", "b") == [BOTH, Proposal((2,), (0.8,))]
    assert "a is asked about anew" in caplog.text
    for content in ("{", '{"a": 3}', "[]"):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"a JSON object of answers by photo.*delete it"):
            ask(asker(), "a")
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="not to be a link"):
        ask(asker(), "a")


# ---- servers that answer badly, late or not at all -----------------------------------------------


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("Sorry, I cannot help.", "'Sorry, I cannot help.'"),
        ("", "two lists in brackets, but got ''"),
        ("[9: unicorn], [100%]", "numbers of classes, but got 9"),
        ("[1: cat, 2: dog], [95%]", "a percentage for each class, but got"),
        ("[1: cat], [95%, 90%]", "a percentage for each class, but got"),
        ("<think>[1: cat], [95%]</think>", "two lists in brackets, but got ''"),
        (good("[1: cat], [10", finish="length"), "it ends early"),
        (good(None, finish="content_filter"), "it ends early"),
        (good(None, refusal="I must not."), "'I must not.'"),
        (failing(400, "no such pictures"), "no such pictures.*takes photos"),
    ],
)
def test_unreadable_and_refused_answers_are_asked_for_once_more(asker, server, answer, said):
    server.answers = [answer, "[1: cat], [100%]"]
    assert ask(asker(), "a") == [Proposal((1,), (1.0,))]
    server.answers = [*server.answers, answer]
    proposer = asker(parallel=1)
    for _ in range(2):  # the second time as the shell does, without asking again
        with pytest.raises(ValueError, match=rf"(?s)'stub'.*\n    b: .*{said}.*on_error skip"):
            ask(proposer, "b")
    assert len(server.requests) == 4


def test_a_photo_without_answer_does_not_cost_those_of_the_others(asker, server):
    server.answers = ["[1: cat], [100%]", "no", "no", "[2: dog], [100%]"]
    proposer = asker(parallel=1)
    with pytest.raises(ValueError, match="1 photo got none:\n    b: "):
        ask(proposer, "a", "b", "c")
    assert [p.labels for p in ask(proposer, "a", "c")] == [(1,), (2,)]
    assert len(server.requests) == 4


def test_a_failing_server_is_tried_again(asker, server):
    server.answers = [failing(500, "oops"), failing(503, "oops"), "[1: cat], [100%]"]
    assert ask(asker(retries=2), "a") == [Proposal((1,), (1.0,))]
    server.answers = [failing(500, "out of memory")]
    with pytest.raises(EndpointError, match=f"{server.url}.*out of memory.*server's log"):
        ask(asker(), "b")


def test_a_busy_server_is_left_alone_for_as_long_as_it_says(asker, server):
    server.answers = [failing(429, "slow down", Retry_After="1"), "[1: cat], [100%]"]
    assert ask(asker(retries=1), "a") == [Proposal((1,), (1.0,))]
    assert server.times[1] - server.times[0] >= 1  # half a second without the header
    server.answers = [failing(429, "no quota")]
    with pytest.raises(EndpointError, match=f"{server.url}.*no quota.*lower `parallel`"):
        ask(asker(), "b")


def test_a_slow_server(asker, server):
    patience = threading.Event()
    server.answers = [lambda handler: patience.wait(30)]
    try:
        with pytest.raises(EndpointError, match=rf"{server.url}.*within 0\.2 s.*raise `timeout`"):
            ask(asker(timeout=0.2), "a")
    finally:
        patience.set()


def test_a_server_that_is_not_there(asker):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/v1"
    said = rf"{url}.*cannot reach it in 2 attempts \(.*refused.*check `base_url`"
    with pytest.raises(EndpointError, match=said):
        ask(asker(base_url=url, retries=1), "a")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"<html>Welcome</html>", "text/html"),
        (b"{half", "application/json"),
        (b"[]", "application/json"),
        (b'{"choices": []}', "application/json"),
        (b'{"choices": [{}]}', "application/json"),
        (b"{}", "application/json"),
        (b"null", "application/json"),
    ],
)
def test_a_server_that_speaks_another_protocol(asker, server, body, kind):
    server.answers = [lambda handler: send(handler, 200, body, kind)]
    with pytest.raises(EndpointError, match=rf"{server.url}.*chat completions do.*/v1"):
        ask(asker(), "a")


def test_a_model_that_is_not_there(asker, server):
    server.answers = [failing(404, "no model stub")]
    with pytest.raises(EndpointError, match=r"no model stub.*check `base_url`.*and `model`"):
        ask(asker(), "a")


# ---- settings, and the key -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threshold": 100}, "a percentage of at least 0 and below 100"),
        ({"prompt": "What is it?"}, r"to contain '\{classes\}'"),
        ({"longest_side": 0}, "`longest_side` to be at least 1"),
        ({"parallel": 0}, "`parallel` to be at least 1"),
        ({"timeout": 0}, "`timeout` to be positive"),
        ({"timeout": float("nan")}, "`timeout` to be positive"),
        ({"retries": -1}, "`retries` to be a whole number of at least 0"),
        ({"retries": 1.5}, "`retries` to be a whole number of at least 0"),
        ({"prices": (2.5, -10)}, "`prices` to be at least 0"),
        ({"prices": (float("nan"), 1)}, "`prices` to be at least 0"),
        ({"model": " "}, "`model` to be a model's name"),
        ({"base_url": "localhost:8000"}, "`base_url` to be an address"),
        ({"base_url": f"http://me:{KEY}@localhost/v1"}, "without user, password"),
        ({"base_url": f"http://localhost/v1?key={KEY}"}, "without user, password, query"),
        ({"base_url": f"me:{KEY}@localhost/v1"}, "without user, password"),
        ({"base_url": f"http://localhost/v1#{KEY}"}, "password, query and fragment"),
        ({"base_url": f"http://me:{KEY}"}, "`base_url` to be an address"),
        ({"api_key_env": KEY}, "the name of an environment variable"),
        ({"api_key_env": KEY.replace("-", "")}, "the one of that name is not set"),
        ({"api_key_env": "NO_SUCH_KEY"}, "the one of that name, NO_SUCH_KEY, is not set"),
    ],
)
def test_settings_that_cannot_be(asker, options, said):
    with pytest.raises(ValueError, match=said) as raised:
        asker(**options)
    assert KEY not in str(raised.value)
    assert KEY.replace("-", "") not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "variable"),
    [
        ("https://api.openai.com/v1/", "OPENAI_API_KEY"),
        ("http://api.openai.com/v1", None),
        ("https://api.openai.com.example.org/v1", None),
        ("http://localhost:8000/v1", None),
    ],
)
def test_openais_key_is_for_openai_alone(asker, url, variable):
    assert asker(base_url=url, api_key_env=None).endpoint.api_key_env == variable


def test_another_server_gets_no_key_unless_it_is_named(asker, server):
    ask(asker(api_key_env=None), "a")
    assert server.headers[0]["Authorization"] == "Bearer none"
    server.answers = [failing(401, "who are you?")]
    with pytest.raises(EndpointError, match=r"who are you\?.*give `api_key_env`"):
        ask(asker(api_key_env=None), "b")


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("http://gpu.example.org/v1", True),
        ("http://10.0.0.7/v1", True),
        ("https://gpu.example.org/v1", False),
        ("http://127.0.0.2:1/v1", False),
        ("http://[::1]:8000/v1", False),
    ],
)
def test_a_key_that_goes_unencrypted_is_warned_of(asker, url, warned, caplog):
    asker(base_url=url)
    assert ("unencrypted" in caplog.text) == warned
    assert KEY not in caplog.text


def test_without_the_package(asker, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    monkeypatch.setattr("ovss.proposals.chat.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'ovss\[ask\]'` \(from a checkout"):
        asker()


@pytest.mark.parametrize("key", [f"{KEY}\n", f" {KEY} "])
def test_white_space_around_a_key_does_not_matter(asker, server, monkeypatch, key):
    monkeypatch.setenv("OTHER_KEY", key)
    ask(asker(api_key_env="OTHER_KEY"), "a")
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"


def test_a_key_that_no_header_can_hold_is_not_shown(asker, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n{KEY}")
    with pytest.raises(EndpointError, match="printable ASCII without blanks") as raised:
        ask(asker(), "a")
    assert KEY not in str(raised.value)


def test_a_server_that_repeats_the_key_does_not_get_it_shown(asker, server):
    for answer in (failing(401, f"bad key {KEY}"), failing(400, f"bad {KEY}")):
        server.answers = [answer]
        with pytest.raises((EndpointError, ValueError), match=r"bad (key )?\*\*\*") as raised:
            ask(asker(), "a")
        assert raised.value.__cause__ is None
    server.answers = [lambda handler: send(handler, 200, f"hello {KEY}".encode(), "text/plain")]
    with pytest.raises(EndpointError, match=r"hello \*\*\*"):
        ask(asker(), "a")
    server.answers = [f"no lists, {KEY}"]
    with pytest.raises(ValueError, match=r"no lists, \*\*\*"):
        ask(asker(), "a")


# ---- whole runs ----------------------------------------------------------------------------------


@pytest.fixture
def run(server, scenes_root, tiny_blip_path, tmp_path, monkeypatch):
    """Test on four scenes; gives the options."""
    monkeypatch.setattr(sys, "argv", ["train_free_eval.py"])
    config = tmp_path / "ask.yaml"
    init_args = {
        "model": "stub",
        "base_url": server.url,
        "api_key_env": "OPENAI_API_KEY",
        "folder": str(tmp_path / "run" / "answers"),
        "retries": 0,
        "prices": [2.5, 10],
    }
    proposals = {"class_path": "ovss.proposals.AskProposer", "init_args": init_args}
    config.write_text(yaml.safe_dump({"model": {"proposals": proposals}}))
    return [
        "test",
        f"--config={ROOT / 'configs' / 'demo.yaml'}",
        f"--config={config}",
        f"--data.init_args.root={scenes_root}",
        "--data.init_args.limit=4",
        "--data.init_args.batch_size=2",
        "--data.init_args.num_workers=0",
        f"--model.vlm.init_args.name_or_path={tiny_blip_path}",
        "--model.layer=4",
        "--model.dropout.rounds=1",
        "--model.labeller.refine=null",
        f"--trainer.default_root_dir={tmp_path / 'run'}",
    ]


def all_text(folder):
    return "\n".join(p.read_bytes().decode("latin-1") for p in folder.rglob("*") if p.is_file())


def test_a_run_says_what_asking_cost_and_never_the_key(run, server, tmp_path, capfd, monkeypatch):
    server.answers = ["[2: sun, 1: sky], [100%, 90%]"]
    main([*run, "-v"])
    printed = "".join(capfd.readouterr())
    assert "stub answered about 4 photos in" in printed
    assert ": 4 requests, 400 tokens in, 28 out, 0.00 at the given prices; the answers" in printed
    timing = json.loads((tmp_path / "run" / "timing.json").read_text())
    assert timing["proposals"].pop("seconds") > 0
    assert timing["proposals"] == {
        "photos": 4, "requests": 4, "tokens_in": 400, "tokens_out": 28, "price": 0.00128,
    }  # fmt: skip
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert scores["settings"]["proposals"]["model"] == "stub"
    assert KEY not in printed + all_text(tmp_path)
    assert server.url in all_text(tmp_path / "run")  # what is looked through is what is written
    main(run)
    assert "answered about" not in "".join(capfd.readouterr())
    assert len(server.requests) == 4


def test_a_run_whose_server_goes_away_goes_on_later(run, server, tmp_path, capfd):
    server.answers = [*["[1: sky], [90%]"] * 2, failing(500, f"it broke, {KEY}")]
    for extra in ([], ["--traceback"]):
        with pytest.raises((SystemExit, EndpointError)) as stop:
            main([*run, *extra])
        if not extra:
            assert stop.value.code == 1
    printed = "".join(capfd.readouterr())
    assert re.search(
        r"error: Expected \S+ to answer for 'stub', but got .*it broke, \*\*\*", printed
    )
    assert KEY not in printed + all_text(tmp_path)
    before = len(server.requests)
    server.answers = ["[1: sky], [90%]"]
    main(run)
    assert len(server.requests) == before + 2


def test_a_photo_without_answer_is_left_out_where_that_is_wished(run, server, tmp_path, capfd):
    server.answers = ["[1: sky], [90%]", "no", "no", "[1: sky], [90%]"]
    config = tmp_path / "ask.yaml"
    config.write_text(config.read_text().replace("retries: 0", "retries: 0\n      parallel: 1"))
    main([*run, "--model.on_error=skip"])
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert (scores["photos"], scores["skipped"]) == (3, {"count": 1, "ids": ["val_00001"]})
    assert "expected two lists in brackets, but got 'no'" in capfd.readouterr().err


def test_a_url_with_a_password_is_refused_without_showing_it(run, tmp_path, capfd):
    url = f"http://me:{KEY}@localhost/v1"
    with pytest.raises(SystemExit) as stop:
        main([*run, f"--model.proposals.init_args.base_url={url}"])
    assert stop.value.code == 2
    printed = "".join(capfd.readouterr())
    assert "without user, password" in printed
    assert KEY not in printed
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("text", "`ovss.proposals.AskProposer` does not accept 'api_key'"),
        ("file", "`ovss.proposals.AskProposer` does not accept 'api_key'"),
        ("within", "`ovss.proposals.AskProposer` does not accept 'api_key'"),
        ("option", "Option 'api_key' is not accepted"),
        ("value", "a mapping that no proposer can be made of"),
    ],
)
def test_a_key_given_as_an_argument_is_not_shown(run, tmp_path, capfd, how, said):
    asked = {"class_path": "ovss.proposals.AskProposer", "init_args": {"model": "m"}}
    asked["init_args"] |= {"api_key": KEY} if how != "value" else {"parallel": KEY}
    if how == "within":
        cached = {"proposer": asked, "folder": "x"}
        asked = {"class_path": "ovss.proposals.CachedProposer", "init_args": cached}
    if how in ("file", "within"):
        file = tmp_path / "key.yaml"
        file.write_text(yaml.safe_dump({"model": {"proposals": asked}}))
        extra = f"--config={file}"
    elif how == "option":
        extra = f"--model.proposals.init_args.api_key={KEY}"
    else:
        extra = f"--model.proposals={json.dumps(asked)}"
    with pytest.raises(SystemExit) as stop:
        main([*run, extra])
    assert stop.value.code == 2
    printed = "".join(capfd.readouterr())
    assert said in printed
    assert KEY not in printed


def test_the_libraries_own_notes_do_not_show_the_key(asker, caplog):
    with caplog.at_level(logging.DEBUG):
        ask(asker(), "a")
    assert caplog.records
    assert KEY not in caplog.text


@pytest.mark.slow
def test_processes_share_the_file_and_the_bill(run, server, tmp_path, forker):
    server.answers = ["[1: sky], [90%]"]
    ranks = forker.start_ranks(
        2, [*run, "--data.init_args.batch_size=1"], tmp_path / "logs", OPENAI_API_KEY=KEY
    )
    assert [rank.wait() for rank in ranks] == [0, 0], [rank.output for rank in ranks]
    assert len(server.requests) == 4
    (path,) = (tmp_path / "run" / "answers").glob("*.json")
    assert sorted(json.loads(path.read_text())) == [f"val_{n:05}" for n in range(4)]
    timing = json.loads((tmp_path / "run" / "timing.json").read_text())
    assert (timing["proposals"]["requests"], timing["proposals"]["tokens_in"]) == (4, 400)
    assert sum(rank.output.count("stub answered about 4 photos") for rank in ranks) == 1
