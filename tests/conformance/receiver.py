"""A receiver of webhooks that fails in every way that one can be told to.

Invariants
* What it answered 2xx to is in ``taken``, what it read is in ``seen``; both in the order of arrival.
"""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Mood = Literal["well", "ill", "silent", "elsewhere", "small"]


@dataclass
class Delivery:
    """A request: headers by lower-case name, and its lines."""

    path: str
    headers: dict[str, str]
    lines: list[dict[str, Any]]


@dataclass
class Receiver:
    """``mood``: ``well`` takes all, ``ill`` answers 500, ``silent`` nothing at all, ``elsewhere`` redirects, ``small`` takes up to three
    lines. ``before`` is called with each delivery before its answer. ``pair``: certificate and key, for TLS.
    """

    pair: tuple[str, str] | None = None
    mood: Mood = "well"
    before: Callable[[Delivery], None] | None = None
    taken: list[Delivery] = field(default_factory=list)
    seen: list[Delivery] = field(default_factory=list)
    port: int = 0
    _server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http{'s' if self.pair else ''}://127.0.0.1:{self.port}/in/box"

    def start(self) -> None:
        """At the port it had before, if it had one."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                receiver._answer(self)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing on standard error."""

        class Listener(ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                """A client that does not like the certificate goes away."""

        self._server = Listener(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads, self._server.block_on_close = True, False
        self.port = self._server.server_address[1]
        if self.pair:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*self.pair)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Nobody listens any more."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _answer(self, asked: BaseHTTPRequestHandler) -> None:
        body = asked.rfile.read(int(asked.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in asked.headers.items()}
        delivery = Delivery(asked.path, headers, [json.loads(line) for line in body.splitlines()])
        self.seen.append(delivery)
        if self.before is not None:
            self.before(delivery)
        mood = self.mood
        if mood == "silent":
            time.sleep(5)
            asked.close_connection = True
            return
        status = {"well": 204, "ill": 500, "elsewhere": 307, "small": 204 if len(delivery.lines) <= 3 else 413}[mood]
        if status == 204:
            self.taken.append(delivery)
        asked.send_response(status)
        if mood == "elsewhere":
            asked.send_header("Location", "/other")
        if status != 204:
            asked.send_header("Content-Length", "0")
        asked.end_headers()

    def lines(self) -> list[dict[str, Any]]:
        """All that was taken."""
        return [line for delivery in list(self.taken) for line in delivery.lines]

    def chains(self) -> dict[int, list[int]]:
        """Numbers of the lines that were taken, by worker."""
        found: dict[int, list[int]] = {}
        for line in self.lines():
            found.setdefault(line["worker"], []).append(line["number"])
        return found
