# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The request handler of the stand-in's registry."""
from __future__ import annotations

import base64
import binascii
import json
import re
import secrets
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from .faults import BadFault, Fault

_MANIFEST = re.compile(r"^/v2/([^/]+/[^/]+)/manifests/([^/]+)$")
_BLOB = re.compile(r"^/v2/([^/]+/[^/]+)/blobs/(sha256:[0-9a-f]{64})$")
_UPLOAD = re.compile(r"^/v2/([^/]+/[^/]+)/blobs/uploads/([0-9a-f]*)$")
_DATA = re.compile(r"^/data/([^/]+/[^/]+)/(sha256:[0-9a-f]{64})$")
_FILE_PREFIXES = ("/files/", "/ollama/ollama/releases/download/")
_AGENT_VERSION = re.compile(r"^ollama/([0-9]+(?:\.[0-9]+)*)")
_PIECE = 256 << 10


@dataclass(frozen=True)
class Options:
    """What the command line says about the answers."""

    tls: bool = False
    redirect: str | None = None
    token: bool = False
    files: Path | None = None
    sites: Path | None = None


class RegistryHandler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    server_version = "ollama-registry-stand-in"
    disable_nagle_algorithm = True
    server: Any  # a RegistryServer; its module imports this one
    # What the request in hand is about, for faults and statistics.
    kind = "other"
    name = ""
    digest = ""

    def do_GET(self) -> None:  # pylint: disable=invalid-name
        """Manifests, blobs, tokens, files and the double's own pages."""
        self._route()

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are counted and kept for /_double/stats; the terminal stays quiet."""

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        """Count the answer; the double's own pages are not part of the picture."""
        if not self.path.startswith("/_double/"):
            line = {"method": self.command, "path": self.path, "status": int(code), "range": self.headers.get("Range", "")}
            self.server.stats.request(self.kind, self.digest, int(code), line)

    # -- routing ------------------------------------------------------------------------------------------------

    def _route(self) -> None:
        self.kind, self.name, self.digest = "other", "", ""
        path = unquote(urlsplit(self.path).path)
        site = self._site()
        if site:
            self._begin("file", path, "")
            if self._status_fault():
                self._static(site, path.lstrip("/"))
        elif path.startswith("/_double/"):
            self._control(path)
        elif found := _MANIFEST.match(path):
            self._begin("manifest", found[1], found[2] if found[2].startswith("sha256:") else "", f"{found[1]}:{found[2]}")
            if self._may_go_on():
                self._manifest(found[1], found[2])
        elif found := _BLOB.match(path):
            kind = "blob_head" if self.command == "HEAD" else "blob_range" if self.headers.get("Range") else "blob_get"
            self._begin(kind, found[1], found[2])
            if self._may_go_on():
                self._blob(found[1], found[2])
        elif found := _DATA.match(path):
            self._begin("blob_range" if self.headers.get("Range") else "blob_get", found[1], found[2])
            if self._status_fault() and self._not_expired():
                self._bytes_of(self.server.shelf.blob(found[2]))
        elif found := _UPLOAD.match(path):
            self._begin("upload", found[1], "")
            if self._may_go_on():
                self._upload(found[1], found[2])
        elif path == "/token":
            self._begin("token", "", "")
            if self._status_fault():
                self._token()
        elif path.startswith(_FILE_PREFIXES) and self.server.options.files:
            self._begin("file", path, "")
            if self._status_fault():
                self._file(path)
        else:
            self._problem(404, "NOT_FOUND", "page not found")

    def _site(self) -> Path | None:
        """The folder of the host that was asked for, when it is one of the other hosts."""
        sites, host = self.server.options.sites, self.headers.get("Host", "").partition(":")[0]
        return sites / host if sites and re.fullmatch(r"[a-z0-9.-]*[a-z0-9]", host) and (sites / host).is_dir() else None

    def _begin(self, kind: str, repository: str, digest: str, name: str = "") -> None:
        self.kind, self.name, self.digest = kind, name or repository, digest

    def _may_go_on(self) -> bool:
        return self._status_fault() and self._authorised()

    def _fault(self, fault: str) -> Fault | None:
        return self.server.faults.take(fault, self.kind, self.name, self.digest)

    def _status_fault(self) -> bool:
        fault = self._fault("status")
        if fault is None:
            return True
        headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
        self._send(fault.status, fault.body or f"stand-in: fault {fault.status}", "text/plain; charset=utf-8", headers)
        return False

    # -- tokens -------------------------------------------------------------------------------------------------

    def _base(self) -> str:
        scheme = "https" if self.server.options.tls else "http"
        return f"{scheme}://{self.headers.get('Host', 'localhost')}"

    def _authorised(self) -> bool:
        """True when the request may pass; otherwise the 401 is sent."""
        foreign = self._fault("foreign_realm")
        if foreign is None and not self.server.options.token:
            return True
        scheme, _blank, token = self.headers.get("Authorization", "").partition(" ")
        if foreign is None and scheme == "Bearer" and token in self.server.tokens:
            return True
        realm = f"{self._base()}/token" if foreign is None else f"https://{foreign.realm}/token"
        action = "pull" if self.command in ("GET", "HEAD") else "pull,push"
        repository = self.name.partition(":")[0]
        challenge = f'Bearer realm="{realm}",service="{self.headers.get("Host", "")}",scope="repository:{repository}:{action}"'
        self._problem(401, "UNAUTHORIZED", "authentication required", {"WWW-Authenticate": challenge})
        return False

    def _token(self) -> None:
        """A token for a request that carries `<public key>:<signature>`; the signature itself is not checked."""
        query = parse_qs(urlsplit(self.path).query)
        key, _colon, signature = self.headers.get("Authorization", "").partition(":")
        try:
            signed = all(len(base64.b64decode(part, validate=True)) > 0 for part in (key, signature))
        except binascii.Error:
            signed = False
        if not signed or not query.get("nonce") or not query.get("ts"):
            self._problem(401, "UNAUTHORIZED", "no signature")
            return
        token = secrets.token_urlsafe(24)
        self.server.tokens.add(token)
        self._json(200, {"token": token})

    # -- reading ------------------------------------------------------------------------------------------------

    def _manifest(self, repository: str, reference: str) -> None:
        shelf = self.server.shelf
        if self.command == "PUT":
            self._take_manifest(repository, reference)
            return
        if self.command != "GET":
            self._problem(405, "UNSUPPORTED", "method not allowed")
            return
        raw = shelf.manifest(repository, reference)
        if raw is None:
            self._problem(404, "MANIFEST_UNKNOWN", "manifest unknown")
            return
        needed = shelf.requires(repository, reference)
        agent = _AGENT_VERSION.match(self.headers.get("User-Agent", ""))
        if needed and (not agent or _numbers(agent[1]) < _numbers(needed)):
            self._send(412, f"this model needs Ollama {needed} or newer", "text/plain; charset=utf-8")
            return
        # As the real one: plain text, and no length.
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._count(len(raw))
        self.wfile.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n0\r\n\r\n")

    def _blob(self, repository: str, digest: str) -> None:
        path = self.server.shelf.blob(digest)
        options = self.server.options
        if path is None or self.command not in ("GET", "HEAD"):
            self._problem(404, "BLOB_UNKNOWN", "blob unknown to registry")
            return
        query = ""
        if expiry := self._fault("expire_seconds"):
            query = f"?expires={time.time() + expiry.seconds:.3f}"
        if options.redirect and self.command == "GET":
            scheme = "https" if options.tls else "http"
            self._send(307, "", "text/plain; charset=utf-8", {"Location": f"{scheme}://{options.redirect}/data/{repository}/{digest}{query}"})
            return
        # The direct address must work with no token, so it differs from this one where tokens are asked for.
        own = urlsplit(self.path).path
        location = f"/data/{repository}/{digest}{query}" if options.token or query else own
        self._bytes_of(path, {} if self._fault("no_location") else {"Location": location})

    def _not_expired(self) -> bool:
        expires = parse_qs(urlsplit(self.path).query).get("expires", [""])[0]
        if expires and time.time() > float(expires):
            self._send(403, "<Error><Code>ExpiredRequest</Code></Error>", "application/xml")
            return False
        return True

    def _file(self, path: str) -> None:
        prefix = next(item for item in _FILE_PREFIXES if path.startswith(item))
        self._static(self.server.options.files, path[len(prefix):])

    def _static(self, root: Path, path: str) -> None:
        found = (root / path).resolve()
        if not found.is_relative_to(root) or not found.is_file() or self.command not in ("GET", "HEAD"):
            self._send(404, "Not Found", "text/plain; charset=utf-8")
            return
        self._bytes_of(found)

    def _bytes_of(self, path: Path | None, headers: dict[str, str] | None = None) -> None:
        """Send a file or the asked range of it, with whatever fault is in force."""
        if path is None:
            self._problem(404, "BLOB_UNKNOWN", "blob unknown to registry")
            return
        size = path.stat().st_size
        start, end, status = 0, size, 200
        wanted = re.match(r"^bytes=([0-9]*)-([0-9]*)$", self.headers.get("Range", ""))
        if wanted and (wanted[1] or wanted[2]) and not self._fault("no_range"):
            status = 206
            start = int(wanted[1]) if wanted[1] else max(size - int(wanted[2]), 0)
            end = min(int(wanted[2]) + 1, size) if wanted[1] and wanted[2] else size
            if start >= end:
                self._send(416, "", "text/plain; charset=utf-8", {"Content-Range": f"bytes */{size}"})
                return
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Accept-Ranges", "bytes")
        if self.kind == "blob_head" and self._fault("no_length"):
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(end - start))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self._pour(path, start, end)

    def _pour(self, path: Path, start: int, end: int) -> None:
        wrong, rate = self._fault("wrong_bytes"), self._fault("rate")
        cut, stall = self._fault("cut_after_bytes"), self._fault("stall_after_bytes")
        stop = min(end, start + min((fault.bytes for fault in (cut, stall) if fault), default=end))
        piece = min(_PIECE, max(rate.bytes_per_second // 20, 1)) if rate else _PIECE
        began, sent = time.monotonic(), 0
        with path.open("rb") as stream:
            stream.seek(start)
            while start + sent < stop:
                data = stream.read(min(piece, stop - start - sent))
                if wrong:
                    data = bytes(byte ^ 0xFF for byte in data[:1]) + data[1:]
                # Counted first: a client that has all its bytes may ask for the statistics at once.
                self._count(len(data))
                self.wfile.write(data)
                sent += len(data)
                if rate:
                    time.sleep(max(0.0, sent / rate.bytes_per_second - (time.monotonic() - began)))
        if start + sent < end:
            if stall and (not cut or stall.bytes <= cut.bytes):
                time.sleep(stall.seconds)
            self.close_connection = True

    # -- pushing ------------------------------------------------------------------------------------------------

    def _upload(self, repository: str, upload: str) -> None:
        shelf = self.server.shelf
        query = parse_qs(urlsplit(self.path).query)
        length = int(self.headers.get("Content-Length") or 0)
        if self.command == "POST":
            if shelf.blob(query.get("mount", [""])[0]):
                self._send(201, "", "text/plain", {"Location": f"/v2/{repository}/blobs/{query['mount'][0]}"})
                return
            started = shelf.start_upload()
            self._send(202, "", "text/plain", {"Location": f"{self._base()}/v2/{repository}/blobs/uploads/{started}"})
        elif self.command == "PATCH" and shelf.append(upload, self.rfile, length):
            self._send(202, "", "text/plain", {"Location": f"{self._base()}/v2/{repository}/blobs/uploads/{upload}"})
        elif self.command == "PUT" and shelf.append(upload, self.rfile, length):
            if shelf.finish(upload, query.get("digest", [""])[0]):
                self._send(201, "", "text/plain")
            else:
                self._problem(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        else:
            self._problem(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")

    def _take_manifest(self, repository: str, tag: str) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            missing = self.server.shelf.publish(repository, tag, raw)
        except (ValueError, KeyError, TypeError):
            self._problem(400, "MANIFEST_INVALID", "manifest invalid")
            return
        if missing:
            self._problem(400, "MANIFEST_BLOB_UNKNOWN", f"blobs unknown to registry: {', '.join(missing)}")
        else:
            self._send(201, "", "text/plain")

    # -- control ------------------------------------------------------------------------------------------------

    def _control(self, path: str) -> None:
        """/_double/stats, /_double/faults, /_double/republish and /_double/models."""
        server = self.server
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else b""
        try:
            if path == "/_double/stats":
                if self.command in ("POST", "DELETE"):
                    server.stats.reset()
                self._json(200, server.stats.as_json())
            elif path == "/_double/faults":
                if self.command == "DELETE":
                    server.faults.clear()
                elif self.command == "POST":
                    server.faults.add(json.loads(body))
                self._json(200, server.faults.listed())
            elif path == "/_double/republish" and self.command == "POST":
                wanted = json.loads(body)
                self._json(200, {"name": wanted["name"], "digest": server.shelf.republish(wanted["name"], int(wanted.get("seed", 99)))})
            elif path == "/_double/models":
                self._json(200, server.shelf.names())
            else:
                self._json(404, {"error": "the stand-in has stats, faults, republish and models here"})
        except (BadFault, KeyError, ValueError, TypeError) as error:
            self._json(400, {"error": str(error)})

    # -- answers ------------------------------------------------------------------------------------------------

    def _count(self, size: int) -> None:
        self.server.stats.sent(self.kind, self.digest, size)

    def _json(self, status: int, content: Any) -> None:
        self._send(status, json.dumps(content), "application/json")

    def _problem(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        # A body that nobody reads would be taken for the next request.
        self.close_connection = self.close_connection or self.command in ("PATCH", "PUT")
        self._send(status, json.dumps({"errors": [{"code": code, "message": message}]}), "application/json", headers)

    def _send(self, status: int, body: str, content_type: str, headers: dict[str, str] | None = None) -> None:
        data = body.encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]
