"""Requests to one server: a connection per thread, tried again where the server is busy.

Only the standard library, and no redirects, which could carry the key to somebody else.
"""

import contextlib
import http.client
import json
import random
import socket
import ssl
import threading
from typing import Any
from urllib.parse import urlsplit

from hcnr.errors import ModelError

TRIES = 5
"""Requests for one answer before giving up."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
"""Seconds between two tries: doubled each time, or what the server asks for."""
BUSY = (408, 429, 500, 502, 503, 504)


class Client:
    """Sends documents and gets documents, from any number of threads.

    Attributes:
        url: the server's address.
    """

    def __init__(self, url: str, key: str, timeout: float) -> None:
        """Connect to nothing yet.

        Args:
            url: without user, password or query.
            key: sent as bearer; empty sends none.
            timeout: seconds that one request may take.
        """
        self.url = url
        self._parts, self._key, self._timeout = urlsplit(url), key, timeout
        self._local, self._lock = threading.local(), threading.Lock()
        self._connections: list[http.client.HTTPConnection] = []
        self._stopped = threading.Event()
        self._random = random.Random()

    def close(self) -> None:
        """Let go of every connection; whoever waits for an answer is told at once."""
        self._stopped.set()
        with self._lock:
            for connection in self._connections:
                # `close` alone does not wake a thread that reads.
                with contextlib.suppress(OSError, AttributeError):
                    connection.sock.shutdown(socket.SHUT_RDWR)
                connection.close()

    def request(
        self, method: str, path: str, body: Any, *, patient: bool = True
    ) -> tuple[int, Any]:
        """Send a request, again where the server is busy or gone, and return status and document.

        Args:
            method: of HTTP.
            path: below the address.
            body: the document.
            patient: whether to try again where nobody is there.
        """
        wait = FIRST_WAIT
        for left in reversed(range(TRIES)):
            pause = 0.0
            self._check_open()
            try:
                status, data, asked = self._once(method, path, body)
            except (OSError, http.client.HTTPException) as error:
                self._forget()
                self._check_open()
                if not left or not patient or isinstance(error, ssl.SSLError):
                    raise ModelError(self._unreachable(error)) from None
            else:
                if status not in BUSY or not left:
                    return status, data
                pause = asked
            pause = min(max(pause, wait * self._random.uniform(0.5, 1)), LONGEST_WAIT)
            self._stopped.wait(pause)
            wait *= 2
        raise AssertionError

    def _once(self, method: str, path: str, body: Any) -> tuple[int, Any, float]:
        """Status, document, and the seconds that the server asks to wait."""
        connection = self._connection()
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        content = None if body is None else json.dumps(body).encode()
        connection.request(method, self._parts.path + path, content, headers)
        with connection.getresponse() as response:
            text = response.read()
            pause = response.getheader("Retry-After") or ""
        try:
            data = json.loads(text)
        except ValueError:
            data = text.decode("utf-8", "replace")
        return response.status, data, float(pause) if pause.isdecimal() else 0.0

    def _connection(self) -> http.client.HTTPConnection:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            secure = self._parts.scheme == "https"
            kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
            host = self._parts.hostname or ""
            connection = kind(host, self._parts.port, timeout=self._timeout)
            with self._lock:
                self._connections.append(connection)
            self._local.connection = connection
        return connection

    def _forget(self) -> None:
        """Begin the thread's next request with a new connection."""
        if (connection := getattr(self._local, "connection", None)) is not None:
            connection.close()

    def _check_open(self) -> None:
        if self._stopped.is_set():
            raise ModelError(f"the server at {self.url} is no longer asked")

    def _unreachable(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return (
                f"the server at {self.url} did not answer within {self._timeout:g} seconds; ask "
                "less at once (--batch-size), or wait longer (--endpoint-timeout)"
            )
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return (
            f"the server at {self.url} cannot be reached ({why}); start it, or correct --endpoint; "
            "answers that came are kept"
        )
