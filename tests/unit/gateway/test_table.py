# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The table of requests (tests/gateway/cases.py) against a gateway on loopback, with servers behind it that write down what reaches them."""

from __future__ import annotations

import json
import re
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Iterator, NamedTuple

import pytest
import yaml

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "tests/gateway"))

import local  # noqa: E402
from cases import CASES, HTTP2, MODEL  # noqa: E402
from table import Case, Target, curl_has_http2, http2, problem, secrets, send  # noqa: E402

MOLECULE = yaml.safe_load((ROOT / "molecule/main_chain/molecule.yml").read_text(encoding="utf-8"))
VARIABLES = MOLECULE["provisioner"]["inventory"]["group_vars"]["all"]
# a model that no client with a list may see
NAMES = (MODEL, "hidden:1b")
LISTS = {
    "/api/tags": {"models": [{"name": name} for name in NAMES]},
    "/v1/models": {"object": "list", "data": [{"id": name} for name in NAMES]},
}
# what must never reach Ollama
FORBIDDEN = {
    "authorization", "proxy-authorization", "x-api-key", "cookie", "origin", "accept-encoding", "content-encoding", "transfer-encoding", "te", "upgrade",
    "keep-alive", "connection", "expect",
}

pytestmark = pytest.mark.skipif(local.nginx() is None, reason="there is no nginx with its Lua module on this machine")


class Seen(NamedTuple):
    """A request that reached a server: its line, headers (names in lower case), body."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes


class Recorder(ThreadingHTTPServer):
    """Stands in for an Ollama that answers 200 to everything."""

    daemon_threads = True
    seen: list[Seen]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Recorder

    def do_GET(self) -> None:  # pylint: disable=invalid-name
        """Any method."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = [(name.lower(), value) for name, value in self.headers.items()]
        # what the gateway asks for itself (probes, lists) has no number
        if "X-Request-ID" in self.headers:
            self.server.seen.append(Seen(self.requestline, headers, body))
        content = json.dumps(LISTS.get(self.path, {"server": "recorder"})).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_HEAD = do_POST = do_DELETE = do_PUT = do_PATCH = do_OPTIONS = do_GET

    def log_message(self, format: str, *args: Any) -> None:  # pylint: disable=redefined-builtin
        """Nothing."""


class Site(NamedTuple):
    """A gateway and what reached the servers behind it."""

    gateway: local.LocalGateway
    target: Target
    seen: list[Seen]


@pytest.fixture(scope="module", name="site")
def running() -> Iterator[Site]:
    """One gateway for all cases, with two servers behind it."""
    seen: list[Seen] = []
    recorders = [Recorder(("127.0.0.1", 0), _Handler) for _number in range(2)]
    for recorder in recorders:
        recorder.seen = seen
        threading.Thread(target=recorder.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    clients, users = VARIABLES["ollama_gateway_clients"], VARIABLES["ollama_gateway_users"]
    # not in pytest's own directory, which every other pytest of this user closes to nginx' workers
    folder = tempfile.TemporaryDirectory(prefix="gateway-table-")  # pylint: disable=consider-using-with
    gateway = local.LocalGateway(
        Path(folder.name), local.upstream_hosts([recorder.server_address[1] for recorder in recorders]),
        ollama_models=VARIABLES["ollama_models"], ollama_gateway_clients=clients, ollama_gateway_users=users,
    ).start()
    yield Site(gateway, Target("127.0.0.1", gateway.port, local.HOST, gateway.ca.read_text(), *secrets(clients, users)), seen)
    gateway.stop()
    for recorder in recorders:
        recorder.shutdown()
        recorder.server_close()
    folder.cleanup()


def check_headers(seen: Seen) -> None:
    """What Ollama may know of a request."""
    headers = dict(seen.headers)
    assert len(headers) == len(seen.headers), seen.headers
    assert headers["host"] == "localhost"
    assert (headers["x-forwarded-for"], headers["x-forwarded-proto"]) == ("127.0.0.1", "https")
    assert re.fullmatch("[0-9a-f]{32}", headers["x-request-id"])
    assert not FORBIDDEN & set(headers), headers
    secret = [value for value in headers.values() if "main-chain" in value]
    assert not secret, secret


def test_ids_are_unique_and_there_are_enough() -> None:
    names = [case.id for case in CASES]
    assert len(set(names)) == len(names), sorted(name for name in names if names.count(name) > 1)
    assert len(names) >= 150


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_request(site: Site, case: Case) -> None:
    site.seen.clear()
    answers = send(site.target, case)
    assert not (wrong := problem(case, answers, ollama=False)), wrong
    if case.reached is None:
        assert not site.seen
        return
    assert tuple(seen.line for seen in site.seen) == case.reached
    for seen in site.seen:
        check_headers(seen)
    if case.sent is not None:
        assert json.loads(site.seen[0].body) == case.sent


@pytest.mark.skipif(not curl_has_http2(), reason="there is no curl with HTTP/2 on this machine")
@pytest.mark.parametrize(("arguments", "path", "status", "body"), HTTP2, ids=str)
def test_request_over_http2(site: Site, arguments: list[str], path: str, status: int, body: Any) -> None:
    site.seen.clear()
    answer = http2(site.target, str(site.gateway.ca), *arguments, path=path)
    assert answer[0] == status, answer
    assert body is None or json.loads(answer[1]) == body
    assert len(site.seen) == (status == 200 and path != "/health")
    for seen in site.seen:
        check_headers(seen)


def test_no_secret_is_logged(site: Site) -> None:
    text = "".join(path.read_text(encoding="utf-8", errors="replace") for path in (site.gateway.folder / "logs").iterdir())
    named = {*site.target.keys.values(), *site.target.old.values(), site.target.user[1]}
    assert not [secret for secret in named if secret in text]
