"""An OpenAI-compatible server (vLLM, SGLang, llama.cpp) as somebody who answers."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from hcnr.data.items import Message
from hcnr.errors import ConfigError, DataError, ModelError
from hcnr.evaluation.endpoints.client import BUSY, TRIES, Client
from hcnr.evaluation.prompts import ChatTemplate, Prompt

KEY = "HCNR_ENDPOINT_KEY"
"""The environment variable that holds the key of a server that wants one."""
TIMEOUT = 120.0
REFUSED_KEY = (401, 403)
ABSENT = (404, 405, 501)
PENALTY = "repetition_penalty"
"""Servers take it from the model's generation config; 1 is none. OpenAI's own does not know it."""
_LONGEST_MESSAGE = 200


@dataclass(frozen=True)
class Endpoint:
    """A model that a server answers for, to be given to `hcnr.evaluate` in place of a directory.

    Attributes:
        url: the server's, such as `http://localhost:8000/v1`; a bare host gets the `/v1`.
        model: its name there; may be left out where the server has one only.
        timeout: seconds that one request may take.

    Raises:
        ConfigError: the address is none, or holds a password; the key belongs into the environment
            variable HCNR_ENDPOINT_KEY.
    """

    url: str
    model: str | None = None
    timeout: float = TIMEOUT

    def __post_init__(self) -> None:
        if not self.timeout > 0:
            raise ConfigError(f"the endpoint's timeout is {self.timeout}, expected seconds above 0")
        parts = _split(self.url)
        path = parts.path.rstrip("/") or "/v1"
        address = f"{parts.scheme}://{parts.netloc}{path.removesuffix('/chat/completions')}"
        object.__setattr__(self, "url", address)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        parts, usable = urlsplit(""), False
    # Not printed: it may hold a secret.
    if parts.username or parts.password or parts.query or parts.fragment or "@" in url:
        raise ConfigError(
            "the endpoint's address holds a user, a password or a query, expected none; put the "
            f"key into the environment variable {KEY}"
        )
    if not usable:
        raise ConfigError(
            f"the endpoint {url!r} is no address of a server, expected one such as "
            "http://localhost:8000/v1"
        )
    return parts


class Server:
    """A server that is asked, from any number of threads.

    Attributes:
        url: its address.
        model: the name of the model there.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        """Connect to nothing yet; use `open_server`."""
        self.url, self.model = endpoint.url, endpoint.model or ""
        self._key = _read_key()
        self._client = Client(endpoint.url, self._key, endpoint.timeout)
        self._extra: dict[str, Any] = {PENALTY: 1.0}

    def close(self) -> None:
        """Let go of every connection; whoever waits for an answer is told at once."""
        self._client.close()

    def served(self) -> list[str] | None:
        """Names of the models that it has; None where it does not tell.

        Raises:
            ModelError: nobody answers, or the key is refused.
        """
        status, data = self._client.request("GET", "/models", None, patient=False)
        if status in ABSENT:
            return None
        self._check(status, data, "its list of models")
        try:
            return [str(entry["id"]) for entry in data["data"]]
        except (KeyError, TypeError):
            return None

    def answer(
        self, prompt: Prompt, max_new_tokens: int, name: str, chat_template: ChatTemplate = "auto"
    ) -> str:
        """Have one prompt answered greedily.

        Args:
            prompt: a text, or turns of a chat.
            max_new_tokens: most tokens of the answer.
            name: of the prompt, for messages.
            chat_template: auto asks for a chat's next turn; never for the text's continuation.

        Raises:
            DataError: the server refuses the prompt, or it has turns that need a template.
            ModelError: the server does not answer, or not with an answer.
        """
        chat = chat_template == "auto"
        path = "/chat/completions" if chat else "/completions"
        asked = {"messages": as_messages(prompt)} if chat else {"prompt": _plain(prompt)}
        settings = {"model": self.model, "temperature": 0, "max_tokens": max_new_tokens}
        settings |= {"frequency_penalty": 0, "presence_penalty": 0, "stream": False}
        extra = self._extra
        status, data = self._client.request("POST", path, {**settings, **asked, **extra})
        if extra and status in (400, 422) and PENALTY in _message(data):
            self._extra = {}
            status, data = self._client.request("POST", path, {**settings, **asked})
        self._check(status, data, name)
        try:
            choice = data["choices"][0]
            text = choice["message"]["content"] if chat else choice["text"]
            return ("" if text is None else _text(text)).strip()
        except (KeyError, IndexError, TypeError):
            raise ModelError(
                f"the server at {self.url} answers {name} with something that is no completion; "
                "check that --endpoint names the /v1 of an OpenAI-compatible server"
            ) from None

    def _check(self, status: int, data: Any, name: str) -> None:
        """Raise what a status means."""
        if status == 200:
            return
        reason = _message(data)
        # A server may repeat the key that it refuses.
        reason = reason.replace(self._key, "***") if self._key else reason
        reason = f" ({reason})" if reason else ""
        if status in REFUSED_KEY:
            refusal = "refuses the key" if self._key else "wants a key, and none is set"
            raise ModelError(
                f"the server at {self.url} {refusal} (status {status}); put the right one into the "
                f"environment variable {KEY}"
            )
        if status in ABSENT:
            raise ModelError(
                f"the server at {self.url} knows no model {self.model!r}, or not this kind of "
                f"request{reason}; check --endpoint-model, and that --endpoint ends where /v1 does"
            )
        if status in BUSY:
            raise ModelError(
                f"the server at {self.url} answered {name} with status {status}{reason} "
                f"{TRIES} times; look at its log, ask less at once (--batch-size), and go on with "
                "the same command"
            )
        raise DataError(
            f"the server at {self.url} refuses {name} with status {status}{reason}; shorten or "
            "drop this question, or ask for fewer tokens (--max-new-tokens)"
        )


def open_server(endpoint: Endpoint) -> Server:
    """Find a server and the model that it answers for.

    Raises:
        ConfigError: the model is not named and there are several, or it has no such one.
        ModelError: nobody answers there, or the key is refused.
    """
    server = Server(endpoint)
    try:
        names = server.served()
        if endpoint.model is None and len(names or ()) != 1:
            offer = "does not say which models it has" if not names else f"has {_listed(names)}"
            raise ConfigError(
                f"the server at {server.url} {offer}, and none was named; name one with "
                "--endpoint-model"
            )
        if endpoint.model is not None and names and endpoint.model not in names:
            raise ConfigError(
                f"the server at {server.url} has no model {endpoint.model!r}, but "
                f"{_listed(names)}; name one of these with --endpoint-model"
            )
        server.model = endpoint.model or (names or [""])[0]
    except BaseException:
        server.close()
        raise
    return server


def as_messages(prompt: Prompt) -> list[dict[str, Any]]:
    """A prompt as the turns of a chat."""
    turns: Sequence[Message] = [Message("user", prompt)] if isinstance(prompt, str) else prompt
    return [turn.as_dict() for turn in turns]


def _plain(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    if [turn.role for turn in prompt] == ["user"]:
        return prompt[0].content
    raise DataError(
        f"the question {prompt[-1].content!r} has the turns "
        f"{', '.join(turn.role for turn in prompt)} and needs a chat, expected one user turn; do "
        "not set chat_template to never"
    )


def _read_key() -> str:
    key = os.environ.get(KEY, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"the key in {KEY} holds what no header may; set it again")
    return key


def _message(data: Any) -> str:
    """What a server says about a failure, in one short line."""
    for name in ("error", "message", "detail"):
        if isinstance(data, dict) and name in data:
            data = data[name]
    text = data if isinstance(data, str) else json.dumps(data)
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_MESSAGE else text[:_LONGEST_MESSAGE] + "..."


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _listed(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
