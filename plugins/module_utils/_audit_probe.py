# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What another host sees: which ports answer it, and what a gateway says to those who may not be served.

Few requests, and each once: whoever is asked must not take the audit for an attack.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException, HTTPResponse
from typing import Any, Callable, Mapping

from ansible_collections.gpufleet.ollama.plugins.module_utils import _der

SECONDS = 3.0
# a firewall of routers and hosts says it by ICMP, one of nftables most often not at all; that it knows no way a host says of itself
_REFUSED = {errno.ECONNREFUSED: "refused", errno.EHOSTUNREACH: "unreachable"}
# as long as the slowest limits of a gateway need for another request
RETRY_SECONDS = 1.0
_THREADS = 32
MAX_BODY = 4096
TOO_MANY = 429
# what no gateway has a key for
WRONG_KEY = "audit-of-a-key-that-nobody-has-0000000000"
WRONG_HOST = "no-such-name.invalid"


def port(address: str, number: int, seconds: float = SECONDS) -> str:
    """What a connection to a port meets: V(open), V(refused), V(silent) (nothing came back), V(unreachable), or an error of the system."""
    try:
        socket.create_connection((address, number), timeout=seconds).close()
    except (socket.timeout, TimeoutError):
        return "silent"
    except OSError as error:
        return _REFUSED.get(error.errno or 0, str(error))
    return "open"


def source(address: str, number: int) -> str:
    """The address that packets to a port would come from; empty when there is no way. Nothing is sent."""
    try:
        for family, kind, protocol, _name, place in socket.getaddrinfo(address, number, type=socket.SOCK_DGRAM):
            with socket.socket(family, kind, protocol) as own:
                own.connect(place)
                return str(own.getsockname()[0])
    except OSError:
        pass
    return ""


def _context(**options: Any) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    # the audit looks at what is said; who trusts the authority is the clients' business
    context.verify_mode = ssl.CERT_NONE
    for name, value in options.items():
        setattr(context, name, value)
    return context


def ask(address: str, number: int, name: str, path: str, headers: Mapping[str, str] | None = None, tls: bool = True) -> dict[str, Any]:
    """A GET on a connection of its own: status (0: no answer), the start of the body, version of TLS, not_after of the certificate, the id of
    the configuration that a gateway names, or problem.

    Args: C(name) is the name that the gateway is called by, in TLS and in the header Host.
    """
    result: dict[str, Any] = {"status": 0, "body": "", "tls": "", "not_after": 0.0, "config": "", "problem": ""}
    called = f"[{name}]" if ":" in name else name
    try:
        with contextlib.ExitStack() as stack:
            connection: Any = stack.enter_context(socket.create_connection((address, number), timeout=SECONDS))
            if tls:
                connection = stack.enter_context(_context().wrap_socket(connection, server_hostname=name))
                result["tls"] = connection.version()
                with contextlib.suppress(ValueError):
                    result["not_after"] = _der.not_after(connection.getpeercert(True) or b"")
            lines = [f"GET {path} HTTP/1.1", *(f"{key}: {value}" for key, value in {"Host": called, "Connection": "close", **(headers or {})}.items())]
            connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
            response = stack.enter_context(contextlib.closing(HTTPResponse(connection, method="GET")))
            response.begin()
            result["config"] = response.getheader("X-Gateway-Config", "")
            result.update(status=response.status, body=response.read(MAX_BODY).decode("utf-8", "replace"))
    except (OSError, HTTPException) as error:
        result["problem"] = str(error) or type(error).__name__
    return result


def old_tls(address: str, number: int, name: str) -> str:
    """Whether a handshake of TLS 1.1 is refused: V(refused), V(accepted), or V(unknown) where this host's own library cannot try."""
    with warnings.catch_warnings():
        # that it is old is the point
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            context = _context(minimum_version=ssl.TLSVersion.TLSv1, maximum_version=ssl.TLSVersion.TLSv1_1)
            context.set_ciphers("DEFAULT:@SECLEVEL=0")
        except (ValueError, ssl.SSLError):
            return "unknown"
    try:
        with socket.create_connection((address, number), timeout=SECONDS) as connection, context.wrap_socket(connection, server_hostname=name):
            return "accepted"
    except ssl.SSLError as error:
        # said before a byte was sent
        return "unknown" if error.reason in ("NO_PROTOCOLS_AVAILABLE", "NO_CIPHERS_AVAILABLE") else "refused"
    except OSError as error:
        # a port that is closed refuses nothing
        return "refused" if isinstance(error, ConnectionResetError) else "unknown"


def gateway(address: str, number: int, name: str) -> dict[str, Any]:
    """What a gateway answers: an item of C(ask) for each request, and old_tls."""

    def get(path: str, key: str = "", **more: Any) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        called = more.pop("as_name", name)
        found = ask(address, number, called, path, headers, **more)
        if found["status"] == TOO_MANY:
            # a client without a key has a limit, and this is what it may be for
            time.sleep(RETRY_SECONDS)
            found = ask(address, number, called, path, headers, **more)
        return found

    return {
        "health": get("/health"),
        "no_key": get("/api/tags"),
        "no_key_pull": get("/api/pull"),
        "wrong_key": get("/api/tags", WRONG_KEY),
        "plain": get("/health", tls=False),
        "wrong_host": get("/health", as_name=WRONG_HOST),
        "old_tls": old_tls(address, number, name),
    }


def probe(ports: list[dict[str, Any]], gateways: list[dict[str, Any]]) -> dict[str, Any]:
    """The module's result: C(ports) each with its answer, C(gateways) each with its answers. All are asked at once, a gateway one request after the other.

    Where nothing comes back from a port, that of SSH is asked too: without an answer from it either, there is no way to the host, and silence says
    nothing.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        ask_gateway: Callable[[dict[str, Any]], dict[str, Any]] = lambda item: gateway(item["address"], item["port"], item["name"])
        found_gateways = pool.map(ask_gateway, gateways)
        answers = list(pool.map(lambda item: port(item["address"], item["port"]), ports))
        doubtful = list({(item["address"], item["ssh_port"]) for item, answer in zip(ports, answers) if answer in ("silent", "unreachable")})
        controls = dict(zip(doubtful, pool.map(lambda place: port(*place), doubtful)))
        return {
            "ports": [
                {
                    **item, "answer": answer, "control": controls.get((item["address"], item["ssh_port"]), ""),
                    "source": source(item["address"], item["port"]),
                }
                for item, answer in zip(ports, answers)
            ],
            "gateways": [{**item, "answers": answers} for item, answers in zip(gateways, found_gateways)],
        }
