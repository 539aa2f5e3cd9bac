"""Proposals asked of a chat model that sees photos, as the paper's authors asked GPT-4o."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
import time
from collections import Counter
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from ovss.benchmark import Benchmark, PhotoBatch, label_of_id
from ovss.distributed.gather import gather_texts
from ovss.proposals.answers import AnswerFile
from ovss.proposals.base import Proposal, Proposer
from ovss.proposals.chat import OPENAI, ChatEndpoint, EndpointError
from ovss.proposals.prompt import PROMPT, Answer, filled, parsed, written
from ovss.utils.text import counted

log = logging.getLogger(__name__)


class AskProposer(Proposer):
    """`ask`: a chat model says which classes it sees, one request a photo.

    Works with OpenAI and with servers that speak its protocol, such as vLLM and Ollama. Answers are
    written as they arrive, into a file of the benchmark, model and prompt that `FileProposer`
    reads; what it holds is not asked for again.

    Args:
        model: the model's name at the endpoint, such as `gpt-4o`.
        base_url: of the endpoint, such as `http://localhost:8000/v1`; without credentials.
        api_key_env: name of the environment variable with the key; local servers need none.
        threshold: keep classes whose percentage is above it (not equal).
        folder: where the answers are kept. Photos are known by their names: give those of another
            data set with the same names and classes a folder of their own.
        prompt: what to ask; see `PROMPT`.
        longest_side: larger photos are shrunk to this many pixels before they are sent.
        parallel: requests at the same time, of the photos in a batch.
        timeout: seconds until an attempt is given up.
        retries: further attempts where the server is busy, fails or cannot be reached.
        temperature: of sampling; null for models that take none.
        prices: of a million tokens in and of a million tokens out, for the bill at the end.
    """

    name = "ask"

    def __init__(
        self,
        model: str,
        base_url: str = OPENAI,
        api_key_env: str = "OPENAI_API_KEY",
        threshold: float = 70.0,
        folder: str | Path = "runs/answers",
        prompt: str = PROMPT,
        longest_side: int = 1024,
        parallel: int = 8,
        timeout: float = 60.0,
        retries: int = 5,
        temperature: float | None = 0.0,
        prices: tuple[float, float] | None = None,
    ) -> None:
        if not 0 <= threshold < 100:
            raise ValueError(
                f"Expected `threshold` to be a percentage of at least 0 and below 100, but got "
                f"{threshold}."
            )
        if "{classes}" not in prompt:
            raise ValueError(
                f"Expected `prompt` to contain '{{classes}}', where the classes go, but got "
                f"{prompt!r}."
            )
        for name, value in (("longest_side", longest_side), ("parallel", parallel)):
            if value < 1:
                raise ValueError(f"Expected `{name}` to be at least 1, but got {value}.")
        self.endpoint = ChatEndpoint(model, base_url, api_key_env, timeout, retries, temperature)
        self.threshold = threshold
        self.folder = Path(folder).expanduser()
        self.prompt = prompt
        self.longest_side = longest_side
        self.parallel = parallel
        self.prices = prices
        self._bill: Counter[str] = Counter()
        self._seconds = 0.0
        self._remarks: list[str] = []
        self._about: _About | None = None

    def __call__(self, batch: PhotoBatch, benchmark: Benchmark, vlm: Any) -> list[Proposal]:
        """See `Proposer`.

        Raises:
            EndpointError: the endpoint does not serve; the answers so far are kept.
            ValueError: no answer to a photo that can be read, in two attempts.
        """
        if self._about is None or self._about.benchmark != benchmark:
            self._about = self._begin(benchmark)
        about = self._about
        missing = [row for row, photo in enumerate(batch.ids) if photo not in about.known]
        if missing:
            began = time.perf_counter()
            try:
                self._ask(batch.take(missing), about)
            finally:
                self._seconds += time.perf_counter() - began
        return [about.known[photo] for photo in batch.ids]

    def settings(self) -> dict[str, Any]:
        """See `Proposer.settings`."""
        return {**self._asked(), "threshold": self.threshold}

    def finish(self, device: torch.device) -> dict[str, float]:
        """See `Proposer.finish`: `photos`, `requests`, `tokens_in`, `tokens_out`, `seconds`.

        With `prices` also the `price`. Seconds are the longest that a process waited.
        """
        texts = gather_texts([json.dumps([self._bill, self._seconds])], device)
        self._bill, self._seconds, self._remarks = Counter(), 0.0, []
        bills, seconds = zip(*map(json.loads, texts), strict=True)
        names = ("photos", "requests", "tokens_in", "tokens_out")
        total: dict[str, float] = {name: sum(bill.get(name, 0) for bill in bills) for name in names}
        if not total["requests"]:
            return {}
        total["seconds"] = round(max(seconds), 3)
        price = ""
        if self.prices is not None:
            tokens = (total["tokens_in"], total["tokens_out"])
            bill = sum(count * each / 1e6 for count, each in zip(tokens, self.prices, strict=True))
            total["price"] = round(bill, 6)
            price = f", {bill:.2f} at the given prices"
        counts = "{photos} photos in {seconds:.0f} s: {requests} requests, {tokens_in} tokens in, "
        self._remarks = [
            f"{self.endpoint.model} answered about {counts.format(**total)}{total['tokens_out']} "
            f"out{price}; the answers are in {self.folder}."
        ]
        return total

    def remarks(self) -> list[str]:
        """See `Proposer.remarks`: the bill of the last run that asked."""
        return self._remarks

    def _asked(self) -> dict[str, Any]:
        """What the answers depend on, beside photos and classes."""
        return {
            "model": self.endpoint.model,
            "prompt": self.prompt,
            "temperature": self.endpoint.temperature,
            "longest_side": self.longest_side,
        }

    def _begin(self, benchmark: Benchmark) -> _About:
        """Read what was answered before about a benchmark's photos."""
        labels = label_of_id(benchmark)
        prompt = filled(self.prompt, benchmark, labels)
        asked = json.dumps({**self._asked(), "prompt": prompt}, sort_keys=True)
        model = re.sub(r"[^\w.-]+", "-", self.endpoint.model)
        digest = hashlib.sha256(asked.encode()).hexdigest()[:8]
        file = AnswerFile(self.folder / f"{benchmark.key}-{model}-{digest}.json")
        about = _About(benchmark, labels, prompt, file, {}, {})
        for photo, answer in file.read().items():
            try:
                about.known[photo] = self._proposal(parsed(answer, labels), about)
            except ValueError as error:
                log.warning("%s: %s is asked about anew: %s", file.path, photo, error)
        return about

    def _ask(self, batch: PhotoBatch, about: _About) -> None:
        """Ask about photos, and write the answers down as they arrive."""
        jobs = [
            (photo_id, _as_jpeg(photo, self.longest_side))
            for photo_id, photo in zip(batch.ids, batch.photos, strict=True)
            # The shell tries the photos of a batch that failed one by one: not a third time.
            if photo_id not in about.unreadable
        ]
        down: list[EndpointError] = []

        def ask(job: tuple[str, bytes]) -> tuple[str, _Outcome]:
            photo, jpeg = job
            return photo, _Outcome(Counter(), error=down[0]) if down else self._ask_one(
                jpeg, about, down
            )

        # Threads of a ThreadPool are daemons: Ctrl-C does not wait for what is under way.
        with ThreadPool(min(self.parallel, max(1, len(jobs)))) as pool:
            for photo, outcome in pool.imap_unordered(ask, jobs):
                self._bill.update(outcome.bill)
                if outcome.answer is not None:
                    about.file.add({photo: written(outcome.answer, about.benchmark, about.labels)})
                    about.known[photo] = self._proposal(outcome.answer, about)
                    self._bill["photos"] += 1
                elif outcome.error is not None and not down:
                    about.unreadable[photo] = str(outcome.error)
        if down:
            raise down[0]
        wrong = [
            (photo, about.unreadable[photo]) for photo in batch.ids if photo not in about.known
        ]
        if wrong:
            listed = "\n".join(f"    {photo}: {problem}" for photo, problem in wrong[:5])
            raise ValueError(
                f"Expected answers of {self.endpoint.model!r} that name classes, but "
                f"{counted(len(wrong), 'photo')} got none:\n{listed}\nStart again to ask once "
                "more, change `prompt`, or leave such photos out with `--model.on_error skip`."
            )

    def _ask_one(self, jpeg: bytes, about: _About, down: list[EndpointError]) -> _Outcome:
        """Ask about a photo, and once more where the answer cannot be read."""
        bill: Counter[str] = Counter()
        problem = ValueError()
        for _ in range(2):
            try:
                reply = self.endpoint.ask(about.prompt, jpeg)
                bill.update(requests=1, tokens_in=reply.tokens_in, tokens_out=reply.tokens_out)
                if not reply.whole:
                    raise ValueError(f"expected an answer, but it ends early: {reply.text[-80:]!r}")
                return _Outcome(bill, parsed(reply.text, about.labels))
            except EndpointError as error:
                down.append(error)
                return _Outcome(bill, error=error)
            except ValueError as error:
                problem = error
        return _Outcome(bill, error=problem)

    def _proposal(self, answer: Answer, about: _About) -> Proposal:
        """The classes that the model is sure of, in the order of its answer."""
        kept = [(number, percent) for number, percent in answer if percent > self.threshold]
        return Proposal(
            tuple(about.labels[number] for number, _ in kept),
            tuple(min(percent / 100, 1.0) for _, percent in kept),
        )


class _About(NamedTuple):
    """What is asked and known about a benchmark's photos."""

    benchmark: Benchmark
    labels: dict[Any, int]
    prompt: str
    file: AnswerFile
    known: dict[str, Proposal]
    unreadable: dict[str, str]


class _Outcome(NamedTuple):
    """What asking about a photo came to: an answer, or an error."""

    bill: Counter[str]
    answer: Answer | None = None
    error: Exception | None = None


def _as_jpeg(photo: Tensor, longest_side: int) -> bytes:
    """`(3, H, W)` uint8 as a JPEG file."""
    image = Image.fromarray(photo.permute(1, 2, 0).cpu().contiguous().numpy())
    image.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    image.save(data, "jpeg", quality=90)
    return data.getvalue()
