"""Stand-ins for Ollama behind a gateway, and a client in front of it.

A stand-in does what the field C(act) of a request's body tells it, which Ollama would ignore:
C(chunks) pieces, C(delay) seconds before each, C(wait) seconds before the first byte, C(status), C(die_after) pieces (the connection
breaks off), C(hold) (a piece now and then until C(released) is set), C(close) (no answer at all),
C(tokens): [in, out] that the answer reports, C(usage): false for none.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import select
import socket
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Hit(NamedTuple):
    """A request that a stand-in got."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "_Server"

    def setup(self) -> None:
        """Know the connection, so that it can be cut."""
        super().setup()
        self.server.stand_in.connections.add(self.connection)

    def finish(self) -> None:
        """Forget it."""
        self.server.stand_in.connections.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def do_GET(self) -> None:  # pylint: disable=invalid-name
        """Answer."""
        stand_in = self.server.stand_in
        if self.path == "/api/version":  # a probe
            time.sleep(stand_in.probe_delay)
            return self._whole(stand_in.probe_status, b'{"version":"0.0.0"}')
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        stand_in.hits.append(Hit(self.command, self.path, dict(self.headers), body))
        act = {}
        with contextlib.suppress(ValueError):
            act = json.loads(body or b"{}").get("act", {})
        with stand_in.lock:
            stand_in.running += 1
            stand_in.most = max(stand_in.most, stand_in.running)
        try:
            self._act(act)
        except OSError:
            stand_in.cancelled.append(time.monotonic())
        finally:
            with stand_in.lock:
                stand_in.running -= 1

    do_POST = do_DELETE = do_HEAD = do_GET

    def _whole(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _pause(self, seconds: float) -> None:
        """Wait as Ollama does, which notices that its client is gone."""
        if select.select([self.connection], [], [], seconds)[0] and not self.connection.recv(1, socket.MSG_PEEK):
            raise ConnectionError

    def _act(self, act: dict[str, Any]) -> None:
        self._pause(act.get("wait", 0))
        if act.get("close"):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if act.get("status"):
            return self._whole(act["status"], b'{"error":"as it was told"}')
        into, out = act.get("tokens", [3, 4])
        pieces, last = answer_of(self.path, act.get("chunks", 2), into, out, act.get("usage", True))
        if not act.get("stream", True):
            return self._whole(200, last.removeprefix(b"data: ").strip())
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson" if self.path.startswith("/api/") else "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while act.get("hold") and not self.server.stand_in.released.wait(0.5):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(pieces[0]), pieces[0]))
        for number, piece in enumerate([*pieces, last]):
            self._pause(act.get("delay", 0))
            if number == act.get("die_after"):
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: Any) -> None:  # pylint: disable=redefined-builtin
        """Nothing."""


def answer_of(path: str, chunks: int, into: int, out: int, usage: bool) -> tuple[list[bytes], bytes]:
    """The pieces of a streamed answer and its last one, in the form of the API that was called."""
    if path == "/v1/messages":
        end = {"type": "message_delta", "delta": {}, **({"usage": {"input_tokens": into, "output_tokens": out}} if usage else {})}
        return [b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"a"}}\n\n'] * chunks, b"data: " + _json(end) + b"\n\n"
    if path.startswith("/v1/"):
        end = {"choices": [], **({"usage": {"prompt_tokens": into, "completion_tokens": out, "total_tokens": into + out}} if usage else {})}
        return [b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'] * chunks, b"data: " + _json(end) + b"\n\n"
    end = {"done": True, **({"prompt_eval_count": into, "eval_count": out, "eval_duration": 10_000_000 * out} if usage else {})}
    return [b'{"message":{"content":"a"},"done":false}\n'] * chunks, _json(end) + b"\n"


def _json(data: Any) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    stand_in: "StandIn"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that broke off is nothing to report."""


class StandIn:
    """An instance of Ollama that is none, on a port of its own. Stopped, it refuses connections."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.hits: list[Hit] = []
        self.cancelled: list[float] = []
        self.connections: set[socket.socket] = set()
        self.lock = threading.Lock()
        self.released = threading.Event()
        self.running, self.most = 0, 0
        self.probe_status, self.probe_delay = 200, 0.0
        self._server: _Server | None = None

    def start(self) -> "StandIn":
        """Listen."""
        if not self._server:
            self._server = _Server(("127.0.0.1", self.port), _Handler)
            self._server.stand_in = self
            threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def stop(self) -> None:
        """Refuse connections, and cut those that are open."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def reset(self) -> None:
        """Be as new."""
        self.hits.clear()
        self.cancelled.clear()
        self.released.clear()
        self.most, self.probe_status, self.probe_delay = 0, 200, 0.0
        self.start()


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def data(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Caller:
    """A client of a gateway."""

    def __init__(self, port: int, ca: str) -> None:
        self.port = port
        self.context = ssl.create_default_context(cafile=ca)

    def connect(self, address: str = "127.0.0.1", timeout: float = 30) -> http.client.HTTPSConnection:
        """A connection, from an address of the loopback network."""
        connection = http.client.HTTPSConnection("localhost", self.port, context=self.context, timeout=timeout, source_address=(address, 0))
        connection.connect()
        assert connection.sock is not None
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def send(self, connection: http.client.HTTPSConnection, path: str, data: Any = None, key: str = "", method: str = "", **headers: str) -> None:
        """Send a request. Headers as keywords, _ for -."""
        body = None if data is None else data if isinstance(data, bytes) else json.dumps(data).encode()
        head = {name.replace("_", "-"): value for name, value in headers.items()}
        if key:
            head["Authorization"] = f"Bearer {key}"
        connection.request(method or ("GET" if data is None else "POST"), path, body=body, headers=head)

    def call(self, path: str, data: Any = None, key: str = "", method: str = "", address: str = "127.0.0.1", **headers: str) -> Answer:
        """A request and its whole answer."""
        connection = self.connect(address)
        try:
            self.send(connection, path, data, key, method, **headers)
            answer = connection.getresponse()
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def chat(self, key: str, model: str = "shared", path: str = "/api/chat", fields: dict[str, Any] | None = None, address: str = "127.0.0.1",
             **act: Any) -> Answer:
        """A chat, with what the stand-in is told to do."""
        return self.call(path, {"model": model, "act": act, **(fields or {})}, key, address=address)


def eventually(condition: Any, seconds: float = 5) -> bool:
    """Whether a condition comes true in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.02)
    return bool(condition())
