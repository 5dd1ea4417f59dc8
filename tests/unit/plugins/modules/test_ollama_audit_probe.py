"""Module ollama_audit_probe, against servers on loopback: one as a gateway is, and ones that are as none should be."""

from __future__ import annotations

import datetime
import errno
import ipaddress
import json
import socket
import ssl
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from ansible_collections.gpufleet.ollama.plugins.module_utils import _audit_probe
from ansible_collections.gpufleet.ollama.plugins.modules import ollama_audit_probe

END = datetime.datetime(2031, 2, 3, 4, 5, 6, tzinfo=datetime.timezone.utc)


class Gateway(BaseHTTPRequestHandler):
    """/health for everybody, all else with a key; foreign names get nothing."""

    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, str]] = []
    hosts: list[str] = []
    # whether the next one without a good key is too much
    limited = False

    def do_GET(self) -> None:  # noqa: N802  pylint: disable=invalid-name
        """One answer."""
        self.seen.append((self.path, self.headers.get("Authorization", "")))
        self.hosts.append(self.headers["Host"])
        self.close_connection = True
        if self.headers["Host"] == _audit_probe.WRONG_HOST:
            return
        limited = self.limited and self.path != "/health"
        type(self).limited = self.limited and not limited
        self.send_response(200 if self.path == "/health" else 429 if limited else 401)
        self.send_header("Content-Length", "3")
        self.send_header("X-Gateway-Config", "c0ffee")
        self.end_headers()
        self.wfile.write(b"{}\n")

    def log_message(self, format: str, *args: Any) -> None:  # pylint: disable=redefined-builtin
        """Nothing."""


@pytest.fixture(name="pem", scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate with its key; RSA, which every version of TLS has."""
    key, name = rsa.generate_private_key(65537, 2048), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "llm.example.org")])
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, END - datetime.timedelta(days=4000), END).sign(key, hashes.SHA256())
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    pem = serialization.Encoding.PEM
    path.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()) + made.public_bytes(pem))
    return path


@pytest.fixture(name="serve")
def servers(pem: Path) -> Iterator[Callable[..., int]]:
    """Start a server; its port comes back."""
    running: list[ThreadingHTTPServer] = []

    def start(tls: bool = True, old: bool = False) -> int:
        server = ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
        server.handle_error = lambda *_args: None  # type: ignore[method-assign]
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(pem)
            if old:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)
                    context.minimum_version = ssl.TLSVersion.TLSv1
                context.set_ciphers("DEFAULT:@SECLEVEL=0")
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        running.append(server)
        return int(server.server_address[1])

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def test_gateway(serve: Callable[..., int], run_module: Callable[..., dict[str, Any]]) -> None:
    """What one that is well says, and how little it is asked."""
    Gateway.seen.clear()
    place = {"host": "gw", "address": "127.0.0.1", "port": serve(), "name": "llm.example.org"}
    result = run_module(ollama_audit_probe.main, gateways=[place], check=True)
    assert not result["changed"] and len(Gateway.seen) <= 6
    [found] = result["gateways"]
    answers = found.pop("answers")
    assert found == place
    assert (answers["health"]["status"], answers["no_key"]["status"], answers["wrong_key"]["status"], answers["no_key_pull"]["status"]) == (200, 401, 401, 401)
    assert answers["health"]["tls"] in ("TLSv1.2", "TLSv1.3") and answers["health"]["not_after"] == END.timestamp()
    assert answers["health"]["config"] == "c0ffee" and answers["plain"]["config"] == ""
    assert answers["plain"]["status"] == 0 and answers["wrong_host"]["status"] == 0 and answers["wrong_host"]["problem"]
    assert answers["old_tls"] == "refused"
    # no answer could be had with it
    assert {key for _path, key in Gateway.seen} == {"", f"Bearer {_audit_probe.WRONG_KEY}"}


def test_a_limit_is_waited_for(serve: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    """One that refuses the first request, and not the next."""
    monkeypatch.setattr(_audit_probe, "RETRY_SECONDS", 0.0)
    Gateway.limited = True
    answers = _audit_probe.gateway("127.0.0.1", serve(), "llm.example.org")
    assert not Gateway.limited and {answers[name]["status"] for name in ("no_key", "no_key_pull", "wrong_key")} == {401}


def test_a_name_that_is_an_address(serve: Callable[..., int]) -> None:
    """One of IPv6 stands in brackets (RFC 9110, 7.2)."""
    Gateway.hosts.clear()
    assert _audit_probe.ask("127.0.0.1", serve(), "fd00::1", "/health")["status"] == 200
    assert Gateway.hosts == ["[fd00::1]"]


def test_old_tls(serve: Callable[..., int]) -> None:
    """A server that takes TLS 1.1 is found out."""
    assert _audit_probe.old_tls("127.0.0.1", serve(old=True), "x") == "accepted"
    assert _audit_probe.old_tls("127.0.0.1", serve(old=False), "x") == "refused"
    with socket.create_server(("127.0.0.1", 0)) as closed:
        number = closed.getsockname()[1]
    assert _audit_probe.old_tls("127.0.0.1", number, "x") == "unknown"


def test_without_tls(serve: Callable[..., int]) -> None:
    """A server that speaks without it."""
    answers = _audit_probe.gateway("127.0.0.1", serve(tls=False), "llm.example.org")
    assert answers["plain"]["status"] == 200 and answers["health"]["status"] == 0 and answers["health"]["tls"] == ""


def test_ports(run_module: Callable[..., dict[str, Any]]) -> None:
    """Open, refused, and one that nothing comes back from; from which address it was asked."""
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_server(("127.0.0.1", 0)) as other:
        refused = other.getsockname()[1]
        other.close()
        ports = [{"host": "a", "address": "127.0.0.1", "port": number} for number in (listening.getsockname()[1], refused)]
        result = run_module(ollama_audit_probe.main, ports=ports)
    assert [item["answer"] for item in result["ports"]] == ["open", "refused"]
    assert all(ipaddress.ip_address(item["source"]).is_loopback and item["service"] == "" for item in result["ports"])


def test_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A packet filter that drops is told from a host that refuses."""
    def late(*_args: Any, **_more: Any) -> Any:
        raise socket.timeout("timed out")

    monkeypatch.setattr(_audit_probe.socket, "create_connection", late)
    assert _audit_probe.port("192.0.2.1", 1) == "silent"
    assert json.dumps(_audit_probe.ask("192.0.2.1", 1, "x", "/"))


@pytest.mark.parametrize(("ssh", "control"), [(socket.timeout("timed out"), "silent"), (OSError(errno.ECONNREFUSED, "refused"), "refused")])
def test_silence_is_checked(monkeypatch: pytest.MonkeyPatch, ssh: OSError, control: str) -> None:
    """By the port of SSH, once for each address, and only where nothing came back."""
    asked = []

    def connect(place: tuple[str, int], **_more: Any) -> Any:
        asked.append(place)
        raise ssh if place[1] == 2222 else OSError(errno.ECONNREFUSED, "refused") if place[0] == "192.0.2.9" else socket.timeout("timed out")

    monkeypatch.setattr(_audit_probe.socket, "create_connection", connect)
    ports = [{"address": address, "port": number, "ssh_port": 2222} for address, number in (("192.0.2.1", 1), ("192.0.2.1", 2), ("192.0.2.9", 1))]
    result = _audit_probe.probe(ports, [])["ports"]
    assert [(item["answer"], item["control"]) for item in result] == [("silent", control), ("silent", control), ("refused", "")]
    assert asked.count(("192.0.2.1", 2222)) == 1 and ("192.0.2.9", 2222) not in asked


def test_no_way_is_an_error_of_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host without IPv6 says nothing of a port that is reached by it."""
    def no_way(*_args: Any, **_more: Any) -> Any:
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(_audit_probe.socket, "create_connection", no_way)
    assert "Network is unreachable" in _audit_probe.port("fd00::1", 1)
