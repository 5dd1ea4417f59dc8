# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""HTTP client of the stand-in for pulls and pushes: plain http or verified https, token flow, no hidden redirects."""
from __future__ import annotations

import base64
import functools
import hashlib
import http.client
import ipaddress
import json
import platform
import secrets
import socket
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Callable, Mapping
from urllib.parse import urlencode, urljoin, urlsplit

OnSocket = Callable[[socket.socket], None]
STALL_SECONDS = 30.0
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class TransferError(Exception):
    """The text is what the API shows."""


class NotThere(TransferError):
    """The registry answered 404."""

    def __init__(self) -> None:
        super().__init__("file does not exist")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
        """Redirects are for the caller to judge."""


def _watched(kind: type[http.client.HTTPConnection], on_socket: OnSocket | None) -> Any:
    """A connection class that tells of its socket."""
    class Watched(kind):  # type: ignore[valid-type,misc]
        """The same connection."""

        def connect(self) -> None:
            """Connect, then tell."""
            super().connect()
            if on_socket:
                on_socket(self.sock)

    return Watched


class _Plain(urllib.request.HTTPHandler):
    def __init__(self, on_socket: OnSocket | None) -> None:
        super().__init__()
        self.on_socket = on_socket

    def http_open(self, req: Any) -> Any:
        """Open with a watched connection."""
        return self.do_open(_watched(http.client.HTTPConnection, self.on_socket), req)


class _Secure(urllib.request.HTTPSHandler):
    def __init__(self, on_socket: OnSocket | None) -> None:
        super().__init__(context=trust())
        self.on_socket = on_socket

    def https_open(self, req: Any) -> Any:
        """Open with a watched connection."""
        return self.do_open(_watched(http.client.HTTPSConnection, self.on_socket), req, context=trust())


@dataclass
class Registry:
    """Requests to one registry, with its token once there is one."""

    host: str
    insecure: bool
    version: str
    key: Path
    token: str = field(default="", repr=False)
    on_socket: OnSocket | None = None

    @property
    def base(self) -> str:
        """http only when the caller asked for it: `insecure` changes the scheme, it never skips a certificate check."""
        return f"{'http' if self.insecure else 'https'}://{self.host}"

    def request(self, method: str, url: str, headers: Mapping[str, str] | None = None, data: bytes | IO[bytes] | None = None) -> Any:
        """One request with a second try after a 401; NotThere on 404, TransferError on any other 4xx and 5xx."""
        url = urljoin(f"{self.base}/", url)
        for _attempt in range(2):
            extra = {"Authorization": f"Bearer {self.token}"} if self.token else {}
            answer = open_url(method, url, {"User-Agent": self.agent, **extra, **(headers or {})}, data, self.on_socket)
            if answer.status == 401:
                answer.close()
                self.token = self._new_token(answer.headers.get("WWW-Authenticate", ""), urlsplit(url).netloc)
                if data is not None and not isinstance(data, bytes):
                    data.seek(0)
            elif answer.status == 404:
                answer.close()
                raise NotThere
            elif answer.status >= 400:
                with answer:
                    raise TransferError(f"{answer.status}: {answer.read(4096).decode('utf-8', 'replace')}")
            else:
                return answer
        raise TransferError("unauthorized: access denied")

    @property
    def agent(self) -> str:
        """The User-Agent by which registries judge the version of the client."""
        machine = platform.machine()
        return f"ollama/{self.version} ({_ARCHITECTURES.get(machine, machine)} linux) Go/stand-in"

    def _new_token(self, challenge: str, host: str) -> str:
        parts = dict(_challenge_parts(challenge))
        query = [("service", parts.get("service", ""))] + [("scope", scope) for scope in parts.get("scope", "").split(" ")]
        query += [("ts", str(int(time.time()))), ("nonce", secrets.token_urlsafe(16))]
        realm = f"{parts.get('realm', '')}?{urlencode(sorted(query))}"
        if urlsplit(realm).netloc != host:
            raise TransferError(f'realm host "{urlsplit(realm).netloc}" does not match original host "{host}"')
        with open_url("GET", realm, {"User-Agent": self.agent, "Authorization": self._signature(realm)}) as answer:
            body = answer.read(65536)
            if answer.status >= 400:
                text = body.decode("utf-8", "replace")
                raise TransferError(f"{answer.status}: {text}" if text else str(answer.status))
        try:
            return str(json.loads(body)["token"])
        except (ValueError, KeyError, TypeError) as error:
            raise TransferError(f"no token in the answer of the realm: {error}") from error

    def _signature(self, url: str) -> str:
        # The form of the real one, `<public key>:<signature>`, but a hash with the key file in place of ed25519.
        try:
            secret = self.key.read_bytes()
        except OSError as error:
            raise TransferError(str(error)) from error
        public = base64.b64encode(hashlib.sha256(secret).digest()).decode()
        signature = base64.b64encode(hashlib.sha512(secret + f"GET,{url}".encode()).digest()).decode()
        return f"{public}:{signature}"


def open_url(
    method: str, url: str, headers: Mapping[str, str], data: bytes | IO[bytes] | None = None, on_socket: OnSocket | None = None,
) -> Any:
    """Any status comes back as an answer, redirects included; TransferError when there is no answer.

    `on_socket` is told of the connection, so that another thread can end a read that hangs.
    """
    request = urllib.request.Request(url, data=data, method=method, headers=dict(headers))
    handlers: list[Any] = [_NoRedirect, _Plain(on_socket)]
    if url.startswith("https:"):
        handlers.append(_Secure(on_socket))
    if _is_loopback(urlsplit(url).hostname or ""):
        handlers.append(urllib.request.ProxyHandler({}))
    try:
        return urllib.request.build_opener(*handlers).open(request, timeout=STALL_SECONDS)
    except urllib.error.HTTPError as answer:
        return answer
    except urllib.error.URLError as error:
        raise TransferError(f"{method.title()} \"{url}\": {_reason(url, error.reason)}") from error
    except (OSError, http.client.HTTPException) as error:
        raise TransferError(f"{method.title()} \"{url}\": {_reason(url, error)}") from error


@functools.lru_cache(maxsize=1)
def trust() -> ssl.SSLContext:
    """The system's trust store, read once: as with Go, a certificate that is added later needs a restart."""
    return ssl.create_default_context()


def direct_url(registry: Registry, url: str) -> str:
    """Where the bytes of a blob really are: the first address on another host, or the `Location` of a 200."""
    origin = urlsplit(url).hostname
    for _hop in range(11):
        with registry.request("GET", url) as answer:
            location = answer.headers.get("Location")
            if answer.status not in (200, 301, 302, 303, 307, 308):
                raise TransferError(f"unexpected status code {answer.status}")
            target = urljoin(url, location) if location else ""
            redirected = answer.status != 200
            if redirected and target and urlsplit(target).hostname == origin:
                url = target
                continue
            if redirected and answer.status != 307:
                raise TransferError(f"unexpected status code {answer.status}")
            if not target:
                raise TransferError("http: no Location header in response")
            return target
    raise TransferError("maximum redirects exceeded (10) for directURL")


def _challenge_parts(challenge: str) -> list[tuple[str, str]]:
    text = challenge.removeprefix("Bearer ")
    parts = []
    for item in text.split('",'):
        key, _equals, content = item.partition("=")
        parts.append((key.strip(), content.strip().strip('"')))
    return parts


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _reason(url: str, error: Any) -> str:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"tls: failed to verify certificate: x509: {error.verify_message}"
    if isinstance(error, ConnectionRefusedError):
        return f"dial tcp {parts.hostname}:{port}: connect: connection refused"
    if isinstance(error, ssl.SSLError):
        if "EOF" in str(error.reason):
            return "EOF"
        return f"tls: {error.reason or error}"
    return f"dial tcp: {error}" if isinstance(error, OSError) else str(error)
