"""A small OpenAI-compatible server in a thread, which answers as it is told."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Failure = tuple[int, Any, dict[str, str]]


@dataclass
class CompletionServer:
    """What it does, and what it was asked.

    Attributes:
        answer: model and prompt (the last turn) -> the response.
        models: names that it lists; None lists none.
        key: what it wants as bearer; empty wants none.
        failures: statuses to give first, each with a document and headers.
        delay: waits before every completion.
        requests: paths and documents of every POST, in their order.
        most: most requests that were there at once.
    """

    answer: Callable[[str, str], Any]
    models: list[str] | None
    key: str = ""
    failures: list[Failure] = field(default_factory=list)
    delay: Callable[[], Any] = lambda: None
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    most: int = 0
    url: str = ""
    lock: Any = field(default_factory=threading.Lock)
    here: int = 0


def _handler(state: CompletionServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def send(self, status: int, document: Any, headers: dict[str, str] | None = None) -> None:
            content = document if isinstance(document, bytes) else json.dumps(document).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def allowed(self) -> bool:
            sent = self.headers.get("Authorization")
            state.keys.append(sent)
            if state.key and sent != f"Bearer {state.key}":
                self.send(401, {"error": {"message": f"Incorrect API key provided: {sent}"}})
                return False
            return True

        def do_GET(self) -> None:
            if not self.allowed():
                return
            if state.models is None or self.path != "/v1/models":
                self.send(404, {"error": "no such path"})
                return
            self.send(200, {"data": [{"id": name} for name in state.models]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if not self.allowed():
                return
            with state.lock:
                state.here += 1
                state.most = max(state.most, state.here)
                state.requests.append((self.path, body))
                failure = state.failures.pop(0) if state.failures else None
            try:
                state.delay()
                self.reply(body, failure)
            finally:
                with state.lock:
                    state.here -= 1

        def reply(self, body: dict[str, Any], failure: Failure | None) -> None:
            if failure is not None:
                self.send(*failure)
            elif self.path == "/v1/chat/completions":
                said = state.answer(body["model"], body["messages"][-1]["content"])
                self.send(200, {"choices": [{"message": {"content": said}}]})
            else:
                said = state.answer(body["model"], body["prompt"])
                self.send(200, {"choices": [{"text": said}]})

    return Handler


@contextlib.contextmanager
def serving(answer: Callable[[str, str], Any], models: list[str] | None, **options: Any
            ) -> Iterator[CompletionServer]:  # fmt: skip
    """Serve on a free port of this machine until the end."""
    state = CompletionServer(answer, models, **options)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(state))
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
