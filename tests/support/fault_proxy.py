"""A proxy on loopback before an object server: it counts requests and does to some what networks and servers do."""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

FAULTS: Final = ("drop", "lose the answer", "delay", "503", "429", "truncate")
"""The connection ends before the request is served, or after; the answer comes late; is an error; ends too early."""
_DELAY_S: Final = 0.3
_BUSY: Final = b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>'


class FaultProxy:
    """Forwards to the server at `upstream`; a share `rate` of requests meets one of `faults`, by a seeded draw.

    Attributes:
        url: what to use instead of `upstream`.
        requests: how often each kind of request came: PUT, GET, HEAD, DELETE, POST (several deletions), and LIST.
        suffered: how often each fault was done.
    """

    def __init__(self, upstream: str, *, seed: int = 0) -> None:
        place = urllib.parse.urlsplit(upstream)
        self._upstream = (str(place.hostname), int(place.port or 80))
        self._draw = random.Random(seed)
        self._guard = threading.Lock()
        self.faults: tuple[str, ...] = ()
        self.rate = 0.0
        self.requests: Counter[str] = Counter()
        self.suffered: Counter[str] = Counter()
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextlib.contextmanager
    def running(self) -> Iterator[FaultProxy]:
        thread = threading.Thread(target=self._server.serve_forever, name="proxy", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def set(self, rate: float, *faults: str) -> None:
        self.rate, self.faults = rate, faults

    @contextlib.contextmanager
    def counted(self) -> Iterator[Counter[str]]:
        """The requests of the block alone."""
        found: Counter[str] = Counter()
        with self._guard:
            before = self.requests.copy()
        yield found
        with self._guard:
            found.update(self.requests - before)

    def fate(self, kind: str) -> str:
        with self._guard:
            self.requests[kind] += 1
            fault = self._draw.choice(self.faults) if self.faults and self._draw.random() < self.rate else ""
            if fault:
                self.suffered[fault] += 1
        return fault

    def connect(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(*self._upstream, timeout=60)
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection


class _Handler(BaseHTTPRequestHandler):
    owner: FaultProxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    _connection: http.client.HTTPConnection | None = None

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        listing = self.command == "GET" and "list-type=" in self.path
        fault = self.owner.fate("LIST" if listing else self.command)
        if fault == "drop":
            self._hang_up()
        elif fault in ("503", "429"):
            self._answer(int(fault), [("Content-Type", "application/xml")], _BUSY, len(_BUSY))
        else:
            try:
                status, headers, content, length = self._forwarded(body)
            except (OSError, http.client.HTTPException):  # the server is gone
                self._hang_up()
                return
            if fault == "lose the answer":
                self._hang_up()
                return
            if fault == "delay":
                time.sleep(_DELAY_S)
            if fault == "truncate" and len(content) > 1:
                self._answer(status, headers, content[: len(content) // 2], length)
                self._hang_up()
                return
            self._answer(status, headers, content, length)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _serve  # noqa: N815

    def _forwarded(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes, int]:
        fresh = self._connection is None
        if self._connection is None:
            self._connection = self.owner.connect()
        try:
            self._connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                self._connection.putheader(name, value)
            self._connection.endheaders(body or None)
            answer = self._connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            self._connection = None
            if fresh:
                raise
            return self._forwarded(body)
        hop = ("connection", "content-length", "transfer-encoding", "keep-alive")
        headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in hop]
        length = int(answer.getheader("Content-Length") or len(content)) if self.command == "HEAD" else len(content)
        return answer.status, headers, content, length

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, length: int) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        with contextlib.suppress(OSError):
            if self.command != "HEAD":
                self.wfile.write(content)
            self.wfile.flush()

    def _hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            super().finish()
        if self._connection is not None:
            self._connection.close()

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""
