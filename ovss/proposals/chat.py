"""A chat endpoint that speaks OpenAI's protocol, such as OpenAI's own, vLLM's or Ollama's."""

from __future__ import annotations

import base64
import os
import re
from importlib.util import find_spec
from typing import Any, NamedTuple
from urllib.parse import urlsplit

OPENAI = "https://api.openai.com/v1"

NO_KEY = "none"
"""Sent where there is no key: the protocol wants one, local servers read none."""


class EndpointError(OSError):
    """The endpoint does not serve, whatever photo it is asked about."""


class Reply(NamedTuple):
    """What came back.

    Attributes:
        text: the answer, or the words of a refusal.
        whole: whether it came to its own end, and was not cut off or withheld.
        tokens_in: tokens of prompt and photo; 0 where the endpoint does not say.
        tokens_out: tokens of the answer; likewise.
    """

    text: str
    whole: bool
    tokens_in: int
    tokens_out: int


class ChatEndpoint:
    """Asks about photos, each in a conversation of its own; threads may share it.

    Busy and failing servers (408, 409, 429, 5xx), timeouts and broken connections are tried again,
    after 0.5 s and then twice as long each time up to 8 s, or after what `Retry-After` says.

    Args:
        model: its name there.
        base_url: where it is, up to what comes before `/chat/completions`; without credentials.
        api_key_env: environment variable with the key. It may be unset for servers without one.
        timeout: seconds until an attempt is given up.
        retries: further attempts.
        temperature: of sampling; None for models that take none.

    Raises:
        ValueError: the package `openai` is missing, or an argument is not as above.
    """

    def __init__(
        self,
        model: str,
        base_url: str,
        api_key_env: str,
        timeout: float,
        retries: int,
        temperature: float | None,
    ) -> None:
        if find_spec("openai") is None:
            raise ValueError(
                "Expected the package openai to ask a model for classes, but it is not installed; "
                "run `pip install -e '.[ask]'` in the checkout."
            )
        self.url = _checked_url(base_url)
        # Nothing that may be a key by mistake is shown, and neither is the key itself below.
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", api_key_env):
            raise ValueError(
                "Expected `api_key_env` to be the name of an environment variable, but got "
                "something else; put the key into a variable and give its name."
            )
        if timeout <= 0:
            raise ValueError(f"Expected `timeout` to be positive, but got {timeout}.")
        if retries < 0:
            raise ValueError(f"Expected `retries` to be at least 0, but got {retries}.")
        self.model = model
        self.api_key_env = api_key_env
        self.timeout = timeout
        self.retries = retries
        self.temperature = temperature
        self._client: Any = None

    def ask(self, prompt: str, jpeg: bytes) -> Reply:
        """Ask about one photo.

        Raises:
            EndpointError: it cannot be reached, refuses the key, does not know the model, is out
                of quota or keeps failing.
            ValueError: it refuses this request, or answers in another protocol.
        """
        import openai

        url = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
        content = [
            {"type": "text", "text": prompt},
            {"type": "image_url", "image_url": {"url": url}},
        ]
        sampling = {} if self.temperature is None else {"temperature": self.temperature}
        where = f"{self.url} to answer for {self.model!r}"
        # Without the causes, whose texts may hold the request and with it the key.
        try:
            completion = self._open().chat.completions.create(
                model=self.model, messages=[{"role": "user", "content": content}], **sampling
            )
        except openai.APITimeoutError:
            raise EndpointError(
                f"Expected {where} within {self.timeout:g} s, but got nothing {self._attempts}; "
                "raise `timeout`, or lower `parallel`."
            ) from None
        except openai.APIConnectionError as error:
            reason = self._safe(error.__cause__ or error)
            raise EndpointError(
                f"Expected {where}, but cannot reach it {self._attempts} ({reason}); check "
                "`base_url`, and that the server runs."
            ) from None
        except openai.APIStatusError as error:
            code = error.status_code
            kind = ValueError if code in _OF_THE_PHOTO else EndpointError
            remedy = _REMEDIES.get(code, "look into the server's log").format(self.api_key_env)
            raise kind(f"Expected {where}, but got {self._safe(error)}; {remedy}.") from None
        except (openai.OpenAIError, ValueError) as error:
            raise self._other_protocol(where, error) from None
        try:
            reply = _reply_of(completion)
            return reply._replace(text=self._without_key(reply.text))
        except (AttributeError, LookupError, TypeError):
            raise self._other_protocol(where, completion) from None

    def _other_protocol(self, where: str, got: object) -> EndpointError:
        return EndpointError(
            f"Expected {where} as OpenAI's chat completions do, but got {self._safe(got)!r}; check "
            "`base_url` (that of most servers ends in /v1)."
        )

    @property
    def _attempts(self) -> str:
        return f"in {self.retries + 1} attempts" if self.retries else "in one attempt"

    def _open(self) -> Any:
        if self._client is None:
            from openai import OpenAI

            self._client = OpenAI(
                api_key=self._key() or NO_KEY,
                base_url=self.url,
                timeout=self.timeout,
                max_retries=self.retries,
            )
        return self._client

    def _key(self) -> str:
        key = os.environ.get(self.api_key_env, "").strip()
        # Such a header would be refused with an error that shows it.
        if not re.fullmatch(r"[!-~]*", key):
            raise EndpointError(
                f"Expected the key in the environment variable {self.api_key_env} to be printable "
                "ASCII without blanks, but it is not; set it anew."
            )
        return key

    def _safe(self, text: object) -> str:
        """A server's words, on one line and without the key."""
        words = self._without_key(" ".join(str(text).split()))
        return words if len(words) <= _SHOWN else f"{words[:_SHOWN]}..."

    def _without_key(self, text: str) -> str:
        key = self._key()
        # What local servers are given in place of a key is no secret, and may be any word.
        return text.replace(key, "***") if len(key) >= _SHORTEST_KEY else text


_SHORTEST_KEY = 8

_SHOWN = 300
"""Letters of a server's message in an error."""

_OF_THE_PHOTO = (400, 413, 422)
"""Status codes of requests that are refused for what is in them."""

_REMEDIES = {
    400: "check that the model takes photos, and `temperature` (null for models that take none)",
    401: "put the right key into the environment variable {}",
    403: "put the right key into the environment variable {}",
    404: "check `base_url` (that of most servers ends in /v1) and `model`",
    413: "lower `longest_side`",
    429: "lower `parallel`, or wait until there is quota again",
}


def _checked_url(base_url: str) -> str:
    parts = urlsplit(base_url)
    # config.yaml and errors show the URL.
    if parts.username or parts.password or parts.query:
        raise ValueError(
            "Expected `base_url` without user, password and query, as it is written into "
            "config.yaml; put the key into the environment variable that `api_key_env` names."
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(
            f"Expected `base_url` to be an address such as {OPENAI} or http://localhost:8000/v1, "
            f"but got {base_url!r}."
        )
    return base_url.rstrip("/")


def _reply_of(completion: Any) -> Reply:
    choice, usage = completion.choices[0], completion.usage
    text = choice.message.content or choice.message.refusal or ""
    return Reply(
        str(text),
        # Some servers leave the reason out.
        choice.finish_reason in ("stop", None),
        int(usage.prompt_tokens or 0) if usage else 0,
        int(usage.completion_tokens or 0) if usage else 0,
    )
