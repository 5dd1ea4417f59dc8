# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The gateway's TLS as a client meets it: versions, suites, names, certificates of clients."""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Iterator

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "tests/gateway")]

# pylint: disable=wrong-import-position
from local import HOST, LocalGateway, free_port, nginx, upstream_hosts  # noqa: E402

pytestmark = pytest.mark.skipif(nginx() is None, reason="there is no nginx with Lua on this machine")
KEY = "k" * 32
SUITES = yaml.safe_load((ROOT / "roles/ollama_gateway/vars/main.yml").read_text(encoding="utf-8"))["__ollama_gateway_tls_ciphers"]
NAMED = {"name": HOST, "server_name": HOST, "address": False}


def openssl(folder: Path, *arguments: str) -> None:
    """Run openssl in a folder."""
    done = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def make_ca(folder: Path) -> None:
    """An authority, a foreign one, and certificates: good, other (another subject), revoked, foreign (the good one's subject)."""
    folder.mkdir()
    (folder / "index.txt").touch()
    (folder / "ca.cnf").write_text("[ca]\ndefault_ca=x\n[x]\ndatabase=index.txt\ndefault_md=sha256\ndefault_crl_days=2\n", encoding="utf-8")
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    for ca in ("ca", "foreign-ca"):
        # of one name: only the signature tells them apart
        openssl(folder, "req", "-x509", *new_key, "-days", "2", "-subj", "/CN=ca", "-keyout", f"{ca}.key", "-out", f"{ca}.crt")
    for name, subject, ca in (("good", "/O=Example/CN=team-a", "ca"), ("other", "/O=Example/CN=team-b", "ca"), ("revoked", "/O=Example/CN=team-c", "ca"),
                              ("foreign", "/O=Example/CN=team-a", "foreign-ca")):
        openssl(folder, "req", *new_key, "-subj", subject, "-keyout", f"{name}.key", "-out", f"{name}.csr")
        openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-CA", f"{ca}.crt", "-CAkey", f"{ca}.key", "-CAcreateserial", "-days", "2", "-out", f"{name}.crt")
    openssl(folder, "ca", "-config", "ca.cnf", "-keyfile", "ca.key", "-cert", "ca.crt", "-revoke", "revoked.crt")
    openssl(folder, "ca", "-config", "ca.cnf", "-keyfile", "ca.key", "-cert", "ca.crt", "-gencrl", "-out", "ca.crl")


def started(folder: Path, names: list[dict]) -> LocalGateway:
    """A gateway that takes certificates of clients; nobody is behind it, so who may pass gets 502."""
    make_ca(folder / "ca")
    gateway = LocalGateway(folder, upstream_hosts([free_port()]), ollama_gateway_clients=[
        {"name": "team-a", "certificate": "CN=team-a,O=Example"},
        {"name": "team-c", "certificate": "CN=team-c,O=Example"},
        {"name": "team-k", "key": KEY},
    ], ollama_gateway_tls_client_ca_path=str(folder / "ca/ca.crt"), ollama_gateway_tls_client_crl_path=str(folder / "ca/ca.crl"),
        ollama_gateway_rate="1000r/s", ollama_gateway_burst=1000, __ollama_gateway_names=names)
    return gateway


def run(gateway: LocalGateway) -> Iterator[LocalGateway]:
    """Start it, and end it."""
    try:
        yield gateway.start()
    finally:
        gateway.stop()


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalGateway]:
    """A gateway that has a name."""
    yield from run(started(tmp_path_factory.mktemp("named"), [NAMED, {"name": "localhost", "server_name": "localhost", "address": False}]))


@pytest.fixture(scope="module")
def addressed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalGateway]:
    """A gateway that is called by its address, too."""
    yield from run(started(tmp_path_factory.mktemp("addressed"), [NAMED, {"name": "127.0.0.1", "server_name": "127.0.0.1", "address": True}]))


def s_client(gateway: LocalGateway, *arguments: str, name: str | None = HOST, text: str = "") -> str:
    """What openssl says of a connection. Security level 0: old suites must be refused by the gateway, not by this client."""
    sni = ["-servername", name] if name else ["-noservername"]
    levels = [] if "-cipher" in arguments else ["-cipher", "ALL:@SECLEVEL=0"]
    done = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{gateway.port}", *sni, *levels, *arguments], input=text, capture_output=True,
                          text=True, errors="replace", timeout=20, check=False)
    return done.stdout + done.stderr


def suite(said: str) -> str | None:
    """The suite of a connection, or None when there is none."""
    found = re.search(r"^New, TLSv1\.\d, Cipher is (\S+)$", said, re.M)
    return found[1] if found else None


@pytest.fixture(scope="module", params=["name", "address"])
def entry(request: pytest.FixtureRequest, named: LocalGateway, addressed: LocalGateway) -> tuple[LocalGateway, str | None]:
    """A way into a gateway: by its name, or by its address, where clients send no server name."""
    return (named, HOST) if request.param == "name" else (addressed, None)


@pytest.mark.parametrize(("version", "wanted"), [("tls1", False), ("tls1_1", False), ("tls1_2", True), ("tls1_3", True)])
def test_versions(entry: tuple[LocalGateway, str | None], version: str, wanted: bool) -> None:
    gateway, name = entry
    said = s_client(gateway, f"-{version}", name=name)
    assert (suite(said) is not None) == wanted, said
    assert wanted or "alert protocol version" in said, said


def test_suites_are_those_of_the_role_and_no_others(entry: tuple[LocalGateway, str | None]) -> None:
    gateway, name = entry
    # all of the client's own: AES-CBC, RSA key exchange, DHE, Camellia, ARIA, PSK …
    listed = subprocess.run(["openssl", "ciphers", "-tls1_2", "ALL:COMPLEMENTOFALL:@SECLEVEL=0"], capture_output=True, text=True, check=True)
    known = listed.stdout.strip().split(":")
    others = [cipher for cipher in known if cipher not in SUITES and not cipher.startswith("TLS_")]
    assert len(others) > 50 and "AES128-SHA" in others
    refused = s_client(gateway, "-tls1_2", "-cipher", ":".join([*others, "@SECLEVEL=0"]), name=name)
    assert suite(refused) is None and "handshake failure" in refused, refused
    # the certificate has an elliptic curve
    usable = [cipher for cipher in SUITES if "ECDSA" in cipher]
    assert [suite(s_client(gateway, "-tls1_2", "-cipher", cipher, name=name)) for cipher in usable] == usable
    assert len(SUITES) == 6 and all(cipher.startswith("ECDHE-") and ("GCM" in cipher or "POLY1305" in cipher) for cipher in SUITES)


def test_the_client_chooses_among_the_suites(named: LocalGateway) -> None:
    # a phone without AES in hardware
    assert suite(s_client(named, "-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES128-GCM-SHA256")) == "ECDHE-ECDSA-CHACHA20-POLY1305"


def test_no_compression_and_no_tickets(entry: tuple[LocalGateway, str | None]) -> None:
    gateway, name = entry
    said = s_client(gateway, "-tls1_2", "-comp", name=name)
    assert "Compression: NONE" in said
    assert "TLS session ticket:" not in said
    assert "Secure Renegotiation IS supported" in said


def test_a_client_cannot_renegotiate(named: LocalGateway) -> None:
    # a line R asks s_client to do it
    with subprocess.Popen(["openssl", "s_client", "-connect", f"127.0.0.1:{named.port}", "-servername", HOST, "-tls1_2"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace") as process:
        assert process.stdin and process.stdout
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line == "---\n" and "Verify return code" in "".join(lines):
                process.stdin.write("R\n")
                process.stdin.flush()
            if "RENEGOTIATING" in line:
                break
        # the connection ends, not this program's input
        said = "".join(lines) + process.stdout.read()
    assert "RENEGOTIATING" in said and re.search("no renegotiation|unexpected eof|closed|write:errno", said), said


@pytest.mark.parametrize(("offered", "chosen"), [("h2,http/1.1", "h2"), ("http/1.1", "http/1.1")])
def test_alpn(entry: tuple[LocalGateway, str | None], offered: str, chosen: str) -> None:
    gateway, name = entry
    assert f"ALPN protocol: {chosen}" in s_client(gateway, "-alpn", offered, name=name)


@pytest.mark.parametrize("name", ["other.example.org", None, "gw.example.org"])
def test_who_does_not_know_the_name_gets_an_alert(named: LocalGateway, name: str | None) -> None:
    said = s_client(named, name=name)
    assert suite(said) is None and "SSL alert number 112" in said and "BEGIN CERTIFICATE" not in said, said


def http(gateway: LocalGateway, host: str, *headers: str, name: str | None = HOST, certificate: str = "", path: str = "/api/tags") -> tuple[int, str]:
    """Status and body; status 0 when there was no answer."""
    context = ssl.create_default_context(cafile=str(gateway.ca))
    context.check_hostname = name is not None
    if certificate:
        context.load_cert_chain(gateway.folder / f"ca/{certificate}.crt", gateway.folder / f"ca/{certificate}.key")
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as raw, context.wrap_socket(raw, server_hostname=name) as connection:
        lines = [f"GET {path} HTTP/1.0", f"Host: {host}", *headers]
        connection.sendall("".join(f"{line}\r\n" for line in [*lines, ""]).encode())
        data = b""
        while piece := connection.recv(65536):
            data += piece
    head, _unused, body = data.decode().partition("\r\n\r\n")
    assert "nginx/" not in head + body
    return int(head.split(" ", 2)[1]) if head else 0, body


def test_another_host_under_the_right_name_gets_nothing(named: LocalGateway) -> None:
    bearer = f"Authorization: Bearer {KEY}"
    assert http(named, HOST, bearer)[0] == 502
    # nginx asks who comes with a certificate to keep to one name (421), and closes the connection of all others
    assert http(named, "other.example.org", bearer)[0] in (0, 421)


@pytest.mark.parametrize("request_line", [f"GET /health HTTP/1.1\r\nHost: {HOST}", "GET /health HTTP/1.1", "nonsense"])
def test_plain_http_is_not_served_and_the_version_is_not_told(named: LocalGateway, request_line: str) -> None:
    with socket.create_connection(("127.0.0.1", named.port), timeout=10) as raw:
        raw.sendall(f"{request_line}\r\n\r\n".encode())
        answer = raw.recv(65536).decode()
    assert "400" in answer and "nginx/" not in answer, answer


@pytest.mark.parametrize(
    ("certificate", "status"),
    [("good", 502), ("other", 401), ("foreign", 400), ("revoked", 400), ("", 401)],
)
def test_certificates_of_clients(entry: tuple[LocalGateway, str | None], certificate: str, status: int) -> None:
    gateway, name = entry
    found, body = http(gateway, name or "127.0.0.1", name=name, certificate=certificate)
    assert found == status and isinstance(json.loads(body)["error"], str), body


def test_the_subject_is_the_client_and_a_key_needs_no_certificate(named: LocalGateway) -> None:
    before = len(named.log())
    assert http(named, HOST, certificate="good")[0] == 502
    assert http(named, HOST, f"Authorization: Bearer {KEY}")[0] == 502
    # a key counts more than the certificate, and a certificate that is not valid is refused even with a key
    assert http(named, HOST, f"Authorization: Bearer {KEY}", certificate="good")[0] == 502
    assert http(named, HOST, f"Authorization: Bearer {KEY}", certificate="foreign")[0] == 400
    assert [line["client"] for line in named.log()[before:]] == ["team-a", "team-k", "team-k", ""]


def test_the_metric_is_when_the_certificate_ends(named: LocalGateway) -> None:
    said = subprocess.run(["openssl", "x509", "-in", named.ca, "-noout", "-enddate"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"^ollama_gateway_certificate_expiry_timestamp_seconds (\d+)$", named.management("/metrics"), re.M)
    assert found and int(found[1]) == ssl.cert_time_to_seconds(said.strip().removeprefix("notAfter="))
