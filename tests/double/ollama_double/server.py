# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The stand-in's HTTP server: routing, Host and Origin checks, 404 and 405."""
from __future__ import annotations

import ipaddress
import socket
import sys
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Callable
from urllib.parse import unquote, urlsplit

from . import api_generate, api_store
from .api_anthropic import messages
from .api_openai import chat_completions, completions, embeddings, list_models, one_model
from .api_responses import responses
from .create import create
from .env import Settings
from .exchange import TEXT, ApiError, ClientGone, Exchange
from .pull import Puller
from .sched import Scheduler
from .store import Store

Route = Callable[[Exchange], None]
ROUTES: dict[str, dict[str, Route]] = {
    "/": {"GET": api_store.root, "HEAD": api_store.root},
    "/api/version": {"GET": api_store.version, "HEAD": api_store.version},
    "/api/status": {"GET": api_store.status},
    "/api/tags": {"GET": api_store.tags, "HEAD": api_store.tags},
    "/api/show": {"POST": api_store.show},
    "/api/pull": {"POST": api_store.pull},
    "/api/push": {"POST": api_store.push_model},
    "/api/delete": {"DELETE": api_store.delete},
    "/api/copy": {"POST": api_store.copy},
    "/api/create": {"POST": create},
    "/api/blobs/": {"POST": api_store.post_blob, "HEAD": api_store.head_blob},
    "/api/ps": {"GET": api_generate.processes},
    "/api/generate": {"POST": api_generate.generate},
    "/api/chat": {"POST": api_generate.chat_native},
    "/api/embed": {"POST": api_generate.embed},
    "/api/embeddings": {"POST": api_generate.embeddings},
    "/api/me": {"POST": api_store.no_account},
    "/api/signout": {"POST": api_store.sign_out},
    "/api/experimental/model-recommendations": {"GET": api_store.recommendations},
    "/api/experimental/web_search": {"POST": api_store.web},
    "/api/experimental/web_fetch": {"POST": api_store.web},
    "/v1/chat/completions": {"POST": chat_completions},
    "/v1/completions": {"POST": completions},
    "/v1/embeddings": {"POST": embeddings},
    "/v1/responses": {"POST": responses},
    "/v1/models": {"GET": list_models},
    "/v1/models/": {"GET": one_model},
    "/v1/messages": {"POST": messages},
}


class App:
    """What all requests share."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = Store(settings.models, settings.no_prune)
        self.scheduler = Scheduler(settings)
        self.puller = Puller(self.store, settings.version, key_path(settings))


def key_path(settings: Settings) -> Path:
    """The server's key file."""
    return settings.home / ".ollama" / "id_ed25519"


class Server(ThreadingHTTPServer):
    """The listening socket. It accepts connections before anything answers them, as the real one does."""

    daemon_threads = True
    # Load tests open many connections at once; a full backlog would show as refused connections.
    request_queue_size = 1024
    allow_reuse_address = True

    def __init__(self, app: App) -> None:
        self.app = app
        host = app.settings.host
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, app.settings.port), Handler)
        self.own_addresses = _own_addresses()

    @property
    def is_loopback(self) -> bool:
        """True when the listener is on a loopback address: only then Host headers are checked."""
        return ipaddress.ip_address(str(self.server_address[0])).is_loopback

    def server_bind(self) -> None:
        """Bind without the name look-up of the standard library, which can take seconds."""
        if self.address_family == socket.AF_INET6:
            # "::" and an empty host mean all interfaces of both families, as in Go.
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no event."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, ClientGone)):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server
    # Headers that every answer to the request in hand gets; replaced, never changed in place.
    cors: dict[str, str] = {}

    def do_GET(self) -> None:  # pylint: disable=invalid-name
        """Any method: look the path up and answer."""
        path = unquote(urlsplit(self.path).path)
        exchange = Exchange(self, self.server.app, path)
        try:
            if self._allowed(exchange):
                self._route(exchange, path)
            exchange.finish()
        except ApiError as error:
            exchange.send_error(error)
            exchange.finish()
        except ClientGone:
            self.close_connection = True
        except Exception:  # pylint: disable=broad-exception-caught
            # A flaw of the stand-in: shown in its log, and as Ollama shows its own ones, a 500 with no body.
            traceback.print_exc()
            self.close_connection = True
            if not exchange.started:
                exchange.send(500, b"")

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_GET

    def send_response(self, code: int, message: str | None = None) -> None:
        """As the base class, without a Server header: Ollama sends none."""
        self.log_request(code)
        self.send_response_only(code, message)
        self.send_header("Date", self.date_time_string())
        for key, value in self.cors.items():
            self.send_header(key, value)

    def log_message(self, format: str, *args: Any) -> None:
        """The access log, in the form of Ollama's."""
        print(f'[GIN] {self.log_date_time_string()} | {args[1] if len(args) > 1 else ""} | {self.client_address[0]} | {self.command} "{self.path}"', flush=True)

    def _route(self, exchange: Exchange, path: str) -> None:
        methods = ROUTES.get(path) if path == "/" or not path.endswith("/") else None
        if methods is None:
            base, _slash, exchange.parameter = path.rpartition("/")
            methods = ROUTES.get(f"{base}/") if base and exchange.parameter else None
        if methods is None and path.endswith("/") and path.rstrip("/") in ROUTES:
            status = 301 if self.command == "GET" else 307
            exchange.send(status, b"", headers={"Location": path.rstrip("/")})
        elif methods is None:
            exchange.send(404, b"404 page not found", TEXT)
        elif self.command not in methods:
            exchange.send(405, b"405 method not allowed", TEXT, {"Allow": ", ".join(sorted(methods))})
        else:
            methods[self.command](exchange)

    def _allowed(self, exchange: Exchange) -> bool:
        """Origin first, then Host; a refusal is a 403 with no body."""
        self.cors = {}
        origin, host = self.headers.get("Origin", ""), self.headers.get("Host", "")
        if origin and origin not in (f"http://{host}", f"https://{host}"):
            rules = self.server.app.settings.origins
            if not origin_allowed(origin, rules):
                exchange.send(403, b"")
                return False
            self.cors = {"Access-Control-Allow-Origin": "*" if "*" in rules else origin}
            if self.command == "OPTIONS":
                self.cors = self.cors | {
                    "Access-Control-Allow-Methods": "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS",
                    "Access-Control-Allow-Headers": "Authorization,Content-Type,User-Agent,Accept,X-Requested-With",
                    "Access-Control-Max-Age": "43200",
                }
                exchange.send(204, b"")
                return False
        if self.server.is_loopback and not host_allowed(host, self.server.own_addresses):
            exchange.send(403, b"")
            return False
        return True


def origin_allowed(origin: str, rules: list[str]) -> bool:
    """True when one of the rules, of which each has at most one `*`, fits."""
    for rule in rules:
        before, star, behind = rule.partition("*")
        if origin == rule or (star and origin.startswith(before) and origin.endswith(behind) and len(origin) >= len(before) + len(behind)):
            return True
    return False


def host_allowed(header: str, own_addresses: set[str]) -> bool:
    """True for hosts that cannot be a rebound name of some web site: local addresses and local names."""
    host = header.lower()
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host in ("", "localhost", socket.gethostname().lower()) or host.endswith((".localhost", ".local", ".internal"))
    networks = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
    private = any(address in ipaddress.ip_network(network) for network in networks)
    return address.is_loopback or address.is_unspecified or private or host in own_addresses


def _own_addresses() -> set[str]:
    try:
        return {str(entry[4][0]) for entry in socket.getaddrinfo(socket.gethostname(), None)}
    except OSError:
        return set()
