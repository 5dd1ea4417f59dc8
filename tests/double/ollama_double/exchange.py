# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One request to the stand-in's API and the ways to answer it: JSON, NDJSON stream, server-sent events, text."""
from __future__ import annotations

import json
import select
import socket
from http.server import BaseHTTPRequestHandler
from typing import Any, BinaryIO

JSON = "application/json; charset=utf-8"
NDJSON = "application/x-ndjson"
EVENTS = "text/event-stream"
TEXT = "text/plain"


class ApiError(Exception):
    """An error answer: status and the text under `error`."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class ClientGone(Exception):
    """The client closed the connection."""


class Exchange:
    """A request and its answer. `app` is the server's application, `parameter` the last part of a path with one."""

    def __init__(self, handler: BaseHTTPRequestHandler, app: Any, path: str) -> None:
        self.handler = handler
        self.app = app
        self.path = path
        self.parameter = ""
        self.started = False
        self.error_type = JSON
        self._chunked = False
        self._length = int(handler.headers.get("Content-Length") or 0)
        self._chunks = "chunked" in handler.headers.get("Transfer-Encoding", "").lower()
        self._read = False

    # -- request ------------------------------------------------------------------------------------------------

    def body(self) -> bytes:
        """The whole body."""
        self._read = True
        if self._chunks:
            return b"".join(self._chunks_of_body())
        return self.handler.rfile.read(self._length) if self._length else b""

    def body_stream(self) -> tuple[BinaryIO | Any, int | None]:
        """The body for reading piece by piece: (stream or iterable, length)."""
        self._read = True
        return (self._chunks_of_body(), None) if self._chunks else (self.handler.rfile, self._length)

    def json(self, nothing: str = "missing request body") -> dict[str, Any]:
        """The body as an object; ApiError with Go's texts, `nothing` being that for an empty body."""
        raw = self.body()
        if not raw.strip():
            raise ApiError(400, nothing)
        return parse_object(raw)

    def drain(self) -> None:
        """Read what nobody read, so that the next request of the connection starts at its start."""
        if not self._read:
            if self._length > 1 << 20:
                self.handler.close_connection = True
            else:
                self.body()

    def gone(self) -> bool:
        """True when the client has closed the connection."""
        connection = self.handler.connection
        try:
            # poll, not select: under load there are more connections than select can name.
            watch = select.poll()
            watch.register(connection, select.POLLIN)
            return bool(watch.poll(0)) and not connection.recv(1, socket.MSG_PEEK)
        except (OSError, ValueError):
            return True

    # -- answer -------------------------------------------------------------------------------------------------

    def send(self, status: int, data: bytes, content_type: str = "", headers: dict[str, str] | None = None) -> None:
        """A complete answer."""
        self.started = True
        self.drain()
        handler = self.handler
        handler.send_response(status)
        if content_type:
            handler.send_header("Content-Type", content_type)
        for key, value in (headers or {}).items():
            handler.send_header(key, value)
        if status != 204:
            handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        if handler.command != "HEAD":
            self._write(data)

    def send_json(self, content: Any, status: int = 200, content_type: str = JSON) -> None:
        """A JSON answer."""
        self.send(status, dump(content), content_type)

    def send_error(self, error: ApiError) -> None:
        """An error: with its status when nothing was sent yet, otherwise as the last line of the stream."""
        if self.started:
            self.line({"error": error.message})
        else:
            self.send_json({"error": error.message}, error.status, self.error_type)

    def line(self, content: Any) -> None:
        """One line of an NDJSON stream, out at once."""
        self._start(NDJSON)
        self._chunk(dump(content) + b"\n")

    def event(self, content: Any, name: str = "") -> None:
        """One server-sent event, out at once."""
        self._start(EVENTS)
        data = content.encode() if isinstance(content, str) else dump(content)
        self._chunk((f"event: {name}\n".encode() if name else b"") + b"data: " + data + b"\n\n")

    def finish(self) -> None:
        """End a stream."""
        if self._chunked:
            self._write(b"0\r\n\r\n")

    def _start(self, content_type: str) -> None:
        if self.started:
            return
        self.started = True
        self.drain()
        handler = self.handler
        handler.send_response(200)
        handler.send_header("Content-Type", content_type)
        # A client of HTTP/1.0, which some proxies are, knows no chunks: for it the connection's end is the stream's.
        self._chunked = handler.request_version != "HTTP/1.0"
        if self._chunked:
            handler.send_header("Transfer-Encoding", "chunked")
        else:
            handler.close_connection = True
        handler.end_headers()

    def _chunk(self, data: bytes) -> None:
        self._write(f"{len(data):x}\r\n".encode() + data + b"\r\n" if self._chunked else data)

    def _write(self, data: bytes) -> None:
        try:
            self.handler.wfile.write(data)
            self.handler.wfile.flush()
        except OSError as error:
            raise ClientGone from error

    def _chunks_of_body(self) -> Any:
        while True:
            size = int(self.handler.rfile.readline().split(b";")[0].strip() or b"0", 16)
            if not size:
                while self.handler.rfile.readline().strip():
                    pass
                return
            yield self.handler.rfile.read(size)
            self.handler.rfile.readline()


def dump(content: Any) -> bytes:
    """Compact JSON."""
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()


def parse_object(raw: bytes) -> dict[str, Any]:
    """A JSON object; ApiError 400 with a text like that of Go's decoder."""
    try:
        content, _end = json.JSONDecoder().raw_decode(raw.decode("utf-8", "replace").lstrip())
    except json.JSONDecodeError as error:
        if error.pos >= len(error.doc.rstrip()):
            raise ApiError(400, "unexpected EOF") from error
        raise ApiError(400, f"invalid character '{error.doc[error.pos]}' looking for beginning of value") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ApiError(400, f"json: cannot unmarshal {_go_kind(content)} into Go value of type api.Request")
    return content


def take(body: dict[str, Any], key: str, kind: type, default: Any = None) -> Any:
    """A field of a request, None and absence being the default; ApiError 400 when it has another type."""
    content = body.get(key)
    if content is None:
        return default
    fits = isinstance(content, kind) and (kind is bool or not isinstance(content, bool))
    if kind is float:
        fits = isinstance(content, (int, float)) and not isinstance(content, bool)
    if not fits:
        wanted = {str: "string", bool: "bool", int: "int", float: "float64", dict: "map[string]interface {}", list: "[]interface {}"}[kind]
        raise ApiError(400, f"json: cannot unmarshal {_go_kind(content)} into Go struct field Request.{key} of type {wanted}")
    return content


def _go_kind(content: Any) -> str:
    if isinstance(content, bool):
        return "bool"
    return {str: "string", int: "number", float: "number", list: "array", dict: "object"}.get(type(content), "value")
