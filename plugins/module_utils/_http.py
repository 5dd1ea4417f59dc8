# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Reading over HTTP from registries and mirrors, with retries. Standard library only.

The codec for names of hosts is loaded at once: later this process may act as a user who cannot read the directory of Python.
C(http.client) is used as it is: its connections stay open between requests and fill large buffers in place, which the openers of
C(urllib) do not.
"""

from __future__ import annotations

import base64
import copy
import email.utils
import encodings.idna  # pylint: disable=unused-import  # noqa: F401
import http.client
import random
import re
import socket
import ssl
import threading
import time
from contextlib import suppress
from typing import Any, Callable, Mapping, TypeVar
from urllib.parse import SplitResult, unquote, urljoin, urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment

MAX_REDIRECTS = 5
# a host that is there answers a connection at once; one that is gone must not cost the time of a stall
CONNECT_SECONDS = 15
# a server that asks for more is asked again after this
MAX_PAUSE = 120
# bytes in a second; what comes slower for as long as a stall is as good as silent
MIN_RATE = 1024

_REDIRECTS = (301, 302, 303, 307, 308)
# kind of FetchError by status; those that are not here and below 500 are "http"
_KINDS = {401: "unauthorized", 403: "forbidden", 404: "not-found", 407: "proxy", 410: "not-found", 412: "too-old", 416: "size"}
_TRY_AGAIN = (408, 425, 429)
# OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED
_CLOCK_ERRORS = (9, 10)

Result = TypeVar("Result")


# an option of modules: a password may be in it, which Ansible would show in an environment
PROXY_SPEC: dict[str, Any] = {
    "proxy": {
        "type": "dict",
        "options": {"https": {"type": "str", "no_log": True}, "http": {"type": "str", "no_log": True}, "bypass": {"type": "str", "no_log": False}},
    },
}


def proxies_of(given: Mapping[str, str | None] | None) -> dict[str, str] | None:
    """The option proxy as C(Http) takes it; None, which means those of the environment, when it is not given."""
    names = {"https": "https", "http": "http", "bypass": "no"}
    return None if given is None else {names[option]: value for option, value in given.items() if value}


class FetchError(Exception):
    """Something cannot be had; the text is for the user.

    C(kind): not-found, forbidden, unauthorized, too-old, redirect, size, retries, unreachable, tls, proxy, http, digest, disk.
    C(final): another source cannot help.
    """

    def __init__(self, text: str, kind: str, final: bool = False) -> None:
        super().__init__(text)
        self.kind = kind
        self.final = final


class Again(Exception):
    """It did not work now and may work later.

    C(after): seconds that the server asks to wait. C(unreachable): no connection was made. C(moved): something came before it broke off.
    """

    def __init__(self, text: str, after: float | None = None, unreachable: bool = False, moved: bool = False) -> None:
        super().__init__(text)
        self.after = after
        self.unreachable = unreachable
        self.moved = moved


class Connection:
    """One connection that stays open between requests to the same host. Not for two threads."""

    def __init__(self, owner: Http) -> None:
        self._http = owner
        self._key = ("", "")
        self._connection: http.client.HTTPConnection | None = None

    def ask(self, url: str, headers: Mapping[str, str] | None = None) -> http.client.HTTPResponse:
        """The answer to a GET, whatever its status. Raises Again when none comes, FetchError when none will come."""
        parts = split(url)
        proxy = self._http.proxy(parts)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        all_headers = {"User-Agent": self._http.user_agent, **authorization(parts), **(headers or {})}
        if proxy and parts.scheme == "http":
            path = f"http://{place(parts)}{path}"
            all_headers.update(authorization(proxy, "Proxy-Authorization"))
        while True:
            reused = self._connect(parts, proxy)
            try:
                return self._send(path, all_headers)
            except (http.client.InvalidURL, ValueError) as error:
                self.close()
                raise FetchError(f"{shown(url)} cannot be asked for, or its answer is none: {type(error).__name__}", "http") from None
            except (http.client.HTTPException, OSError) as error:
                self.close()
                # an idle connection may have been closed by the other side
                if not reused:
                    raise Again(f"{place(parts)}: {describe(error)}") from None

    def _send(self, path: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        if self._connection is None:
            raise http.client.NotConnected()
        # the timeout of the socket begins anew with each byte of the head
        timer = threading.Timer(self._http.timeout + 1, self.interrupt)
        timer.daemon = True
        timer.start()
        try:
            self._connection.request("GET", path, headers=dict(headers))
            return self._connection.getresponse()
        finally:
            timer.cancel()

    def interrupt(self) -> None:
        """End the connection for the thread that waits for it. From any thread."""
        found = self._connection
        if found is not None and found.sock is not None:
            with suppress(OSError):
                # TLS stays in place: what comes yet must not be taken for plain bytes
                socket.socket.shutdown(found.sock, socket.SHUT_RDWR)

    def _connect(self, parts: SplitResult, proxy: SplitResult | None) -> bool:
        """Have a connection to the host. True when it was there before."""
        key = (f"{parts.scheme}://{place(parts)}", proxy.geturl() if proxy else "")
        if self._connection is not None and self._connection.sock is not None and key == self._key:
            return True
        self.close()
        connection = self._http.connection(parts, proxy)
        try:
            connection.connect()
            connection.sock.settimeout(self._http.timeout)
        except (http.client.HTTPException, OSError, ValueError) as error:
            connection.close()
            raise connect_error(place(parts), error, proxy) from None
        self._connection, self._key = connection, key
        return False

    def close(self) -> None:
        """End the connection; the next request makes another."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None


class Http:
    """Reads with retries. Usable from several threads.

    Args: C(user_agent), by which a registry tells clients that are too old for a model (status 412); C(timeout) in seconds, the longest
    silence; C(retries) after a first try that failed for the moment; C(sleep) a function that waits for seconds.
    C(proxies) by scheme, and under C(no) the hosts that are asked without; None means those of the environment. Certificate authorities are
    those of the system.
    """

    def __init__(
        self,
        user_agent: str = "ollama/0.0.0",
        timeout: float = 60,
        retries: int = 6,
        sleep: Callable[[float], Any] = time.sleep,
        proxies: Mapping[str, str] | None = None,
    ) -> None:
        self.user_agent = user_agent
        self.timeout = timeout
        self.retries = retries
        self.sleep = sleep
        self._proxies = dict(getproxies_environment() if proxies is None else proxies)
        self._context: ssl.SSLContext | None = None

    def direct(self) -> Http:
        """The same without proxies, for hosts of the fleet."""
        found = copy.copy(self)
        found._proxies = {}  # pylint: disable=protected-access
        return found

    # -- what callers want ----------------------------------------------------

    def get(self, url: str, headers: Mapping[str, str] | None = None, limit: int = 4 << 20, unreachable: int | None = None) -> bytes:
        """A body of at most C(limit) bytes. Redirects are followed, but never from https to http. Raises FetchError.

        C(unreachable) is as in C(again).
        """
        return self.again(lambda: self._body(url, headers or {}, (200, 206), limit), unreachable)

    def read_range(self, url: str, start: int, end: int) -> bytes:
        """The bytes from C(start) up to but not including C(end). Raises FetchError, of kind C(http) when the server ignores the range."""
        wanted = end - start
        found = self.again(lambda: self._body(url, {"Range": f"bytes={start}-{end - 1}"}, (206,), wanted))
        if len(found) != wanted:
            raise FetchError(f"{shown(url)} answered with {len(found)} of {wanted} bytes", "size")
        return found

    def again(self, step: Callable[[], Result], unreachable: int | None = None, sleep: Callable[[float], Any] | None = None) -> Result:
        """Do a step until it does not raise Again. Fails after so many retries in a row that brought nothing.

        C(unreachable): retries while nothing answers, when there is somebody else to ask.
        """
        attempt = 0
        while True:
            try:
                return step()
            except Again as error:
                attempt = 0 if error.moved else attempt
                if attempt >= (unreachable if error.unreachable and unreachable is not None else self.retries):
                    tries = f"gave up after {attempt + 1} tries: " if attempt else ""
                    raise FetchError(f"{tries}{error}", "unreachable" if error.unreachable else "retries") from None
                (sleep or self.sleep)(pause(attempt, error.after))
                attempt += 1

    def follow(self, connection: Connection, url: str, headers: Mapping[str, str]) -> tuple[http.client.HTTPResponse, str]:
        """One try of a GET: the answer with status 200 or 206, and the URL that gave it. Raises Again and FetchError."""
        for _hop in range(MAX_REDIRECTS + 1):
            response = connection.ask(url, headers)
            if response.status not in _REDIRECTS:
                if response.status not in (200, 206):
                    raise self.refusal(connection, response, url)
                return response, url
            url = redirected(url, response.getheader("Location"))
            # the body of a redirect is of no use; nothing may be left of it in the connection
            connection.close()
        raise FetchError(f"{shown(url)} redirects again and again", "redirect")

    def _body(self, url: str, headers: Mapping[str, str], statuses: tuple[int, ...], limit: int) -> bytes:
        connection = Connection(self)
        try:
            response, final = self.follow(connection, url, headers)
            if response.status not in statuses:
                raise FetchError(f"{shown(final)} does not answer ranges: status {response.status}", "http")
            body = self._read(response, limit + 1, url)
            # http.client takes the end of the connection for the end of the body
            if response.length and len(body) <= limit:
                raise http.client.IncompleteRead(body, response.length)
        except (http.client.HTTPException, OSError, ValueError) as error:
            raise Again(f"{shown(url)} broke off: {describe(error)}") from None
        finally:
            connection.close()
        if len(body) > limit:
            raise FetchError(f"{shown(final)} answered with more than {limit} bytes", "size")
        return body

    def _read(self, response: http.client.HTTPResponse, limit: int, url: str) -> bytes:
        """The body up to a limit, whatever length the server tells."""
        buffer, count, pace = memoryview(bytearray(limit)), 0, Pace(self.timeout, url)
        while count < limit:
            found = receive(response, buffer[count:])
            if not found:
                break
            count += found
            pace.came(found)
        return bytes(buffer[:count])

    @staticmethod
    def refusal(connection: Connection, response: http.client.HTTPResponse, url: str) -> Exception:
        """The error for a status that is no success: Again or FetchError."""
        status = response.status
        try:
            buffer = bytearray(300)
            body = buffer[:receive(response, memoryview(buffer))].decode("utf-8", "replace")
        except (http.client.HTTPException, OSError, ValueError):
            body = ""
        connection.close()
        text = f"{shown(url)} answered {status} {response.reason}"
        if status >= 500 or status in _TRY_AGAIN:
            return Again(text, retry_after(response.getheader("Retry-After")))
        kind = _KINDS.get(status, "http")
        if kind == "too-old":
            return FetchError(f"the registry wants a newer Ollama for this model ({text}: {' '.join(body.split())})", kind, final=True)
        if kind == "unauthorized":
            return FetchError(f"{text}: {_account(response)}", kind)
        if kind == "proxy":
            return FetchError(f"{text}: the proxy wants a name and a password, give them in its URL", kind)
        return FetchError(text, kind)

    # -- connections ----------------------------------------------------------

    def proxy(self, parts: SplitResult) -> SplitResult | None:
        """The proxy for a URL."""
        address = self._proxies.get(parts.scheme)
        if not address or proxy_bypass_environment(place(parts), self._proxies):
            return None
        try:
            return split(address if "://" in address else f"http://{address}")
        except FetchError:
            raise FetchError(f"the proxy {shown(address)} is of no kind that is understood: give one with http://", "proxy", final=True) from None

    def connection(self, parts: SplitResult, proxy: SplitResult | None) -> http.client.HTTPConnection:
        """A connection that is not open yet."""
        timeout = min(CONNECT_SECONDS, self.timeout)
        if proxy and proxy.scheme != "http":
            raise FetchError(f"the proxy {shown(proxy.geturl())} is of no kind that is understood: give one with http://", "proxy", final=True)
        if parts.scheme == "http":
            to = proxy or parts
            return http.client.HTTPConnection(to.hostname or "", to.port or 80, timeout=timeout)
        if not proxy:
            return http.client.HTTPSConnection(parts.hostname or "", parts.port or 443, timeout=timeout, context=self.context())
        tunnel = http.client.HTTPSConnection(proxy.hostname or "", proxy.port or 80, timeout=timeout, context=self.context())
        tunnel.set_tunnel(parts.hostname or "", parts.port or 443, headers=authorization(proxy, "Proxy-Authorization"))
        return tunnel

    def context(self) -> ssl.SSLContext:
        """One for all connections: to read the system's authorities takes longer than a small answer."""
        if self._context is None:
            self._context = ssl.create_default_context()
        return self._context


# -- parts --------------------------------------------------------------------

def split(url: str) -> SplitResult:
    """The parts of a URL of http or https. Raises FetchError."""
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        fits = False
    if not fits:
        raise FetchError(f"{shown(url)!r} is no URL: give http://host[:port] or https://host[:port]", "http")
    return parts


def place(parts: SplitResult) -> str:
    """Host and port, without a name and a password."""
    return parts.netloc.rpartition("@")[2]


def shown(url: str) -> str:
    """A URL for messages: without a password and without a signature. Of what is no URL, what can be neither."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    # a password may hold what ends a host
    rest = rest.rpartition("@")[2]
    return scheme + separator + re.split("[?#]", rest, maxsplit=1)[0]


def authorization(parts: SplitResult, header: str = "Authorization") -> dict[str, str]:
    """The header for a name and a password in a URL."""
    if not parts.username:
        return {}
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {header: f"Basic {base64.b64encode(pair.encode()).decode()}"}


def redirected(url: str, location: str | None) -> str:
    """Where a redirect leads. Raises FetchError when one must not go there."""
    if not location:
        raise FetchError(f"{shown(url)} redirects to nowhere", "redirect")
    try:
        target = urljoin(url, location)
        scheme = urlsplit(target).scheme
    except ValueError:
        raise FetchError(f"{shown(url)} redirects to what is no URL", "redirect") from None
    if scheme not in ("http", "https") or (scheme == "http" and urlsplit(url).scheme == "https"):
        raise FetchError(f"{shown(url)} redirects to {shown(target)}, which is not protected as it is itself", "redirect")
    return target


def receive(response: http.client.HTTPResponse, buffer: memoryview) -> int:
    """What comes at once, at most a buffer full; 0 at the end. C(readinto) of http.client waits until the buffer is full, however slow it comes."""
    if response.chunked:
        data = response.read1(len(buffer))
        if len(data) > len(buffer):
            raise http.client.HTTPException("a chunk has a negative size")
        buffer[:len(data)] = data
        return len(data)
    if response.fp is None:
        return 0
    if response.length is None:
        return response.fp.readinto1(buffer)
    count = response.fp.readinto1(buffer[:response.length])
    response.length -= count
    if not response.length:
        # so that the connection can be used again
        response.close()
    return count


class Pace:
    """Raises Again where bytes come, but slower than C(MIN_RATE) on the average of so many seconds."""

    def __init__(self, seconds: float, url: str) -> None:
        self._seconds = seconds
        self._url = url
        self._began = time.monotonic()
        self._count = 0

    def came(self, count: int) -> None:
        """So many bytes came."""
        self._count += count
        passed = time.monotonic() - self._began
        if passed < self._seconds:
            return
        if self._count < MIN_RATE * passed:
            raise Again(f"{shown(self._url)} is as good as silent: {self._count} bytes came in {passed:.0f} seconds")
        self._began, self._count = self._began + passed, 0

    def waited(self, seconds: float) -> None:
        """So long nobody wanted any."""
        self._began += seconds


def retry_after(value: str | None) -> float | None:
    """Seconds of a header Retry-After, which holds seconds or a date."""
    if not value:
        return None
    try:
        seconds = float(value) if value.strip().isdigit() else email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError, OSError):
        return None
    return max(0.0, min(seconds, MAX_PAUSE))


def pause(attempt: int, after: float | None) -> float:
    """Seconds to wait after a try (from 0): what the server asks for, else longer each time, and not all hosts at once."""
    if after is not None:
        return after + random.uniform(0, 0.1)
    return min(30.0, 0.2 * 2**attempt) * random.uniform(0.5, 1.5)


def describe(error: BaseException) -> str:
    """An error in words; some have none of their own."""
    # the second is how the first goes on
    if isinstance(error, socket.timeout) or "timed out object" in str(error):
        return "nothing came any more (timed out)"
    return str(error) or type(error).__name__


def connect_error(where: str, error: Exception, proxy: SplitResult | None) -> Exception:
    """What it means that no connection could be made: Again or FetchError."""
    text = describe(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        hint = "check the clock of this host" if error.verify_code in _CLOCK_ERRORS else "its authority must be in the trust store of this host"
        return FetchError(f"the certificate of {where} is not accepted ({error.verify_message}): {hint}", "tls")
    if proxy and "Tunnel connection failed: 4" in text:
        return FetchError(f"the proxy {place(proxy)} lets nothing through to {where}: {text}", "proxy")
    by = f" through the proxy {place(proxy)}" if proxy else ""
    return Again(f"no connection to {where}{by}: {text}", unreachable=True)


def _account(response: http.client.HTTPResponse) -> str:
    if "realm=" in (response.getheader("WWW-Authenticate") or "") and "bearer" in (response.getheader("WWW-Authenticate") or "").lower():
        return "there is no such model, or it needs an account, which only the server has: use method: api"
    return "it wants a name and a password, give them in the URL of the source"
