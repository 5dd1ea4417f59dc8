# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Grafana from a repository: one that cannot be reached, one with another key, and one that has a stub of the package.

The stub stands where Grafana would, reads what is provisioned as its user, and knows its password: what Grafana itself makes of the files is not shown.
"""

from __future__ import annotations

import json
import subprocess
from typing import Iterator

import apt_repository
import dashboards
import pytest
from scenario import Play, in_group, on_host, play

MONITOR = in_group("monitoring")[0]
PASSWORD = "grafana-test-password"
REPOSITORY = "http://127.0.0.1:8141"

SERVER = """#!/usr/bin/python3
import base64, glob, http.server, json, os
password_file, seen = "/var/lib/grafana/password", {}
if not os.path.exists(password_file):
    open(password_file, "w").write(os.environ["GF_SECURITY_ADMIN_PASSWORD"])
for path in glob.glob("/etc/grafana/provisioning/*/*.yml") + glob.glob("/etc/grafana/gpufleet/*.json"):
    seen[path] = open(path).read()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        wanted = "Basic " + base64.b64encode(b"admin:" + open(password_file, "rb").read()).decode()
        allowed = self.path == "/api/health" or self.headers.get("Authorization") == wanted
        self.send_response(200 if allowed else 401)
        self.end_headers()
        self.wfile.write(json.dumps(seen if self.path == "/seen" else {}).encode() if allowed else b"")
address = (os.environ["GF_SERVER_HTTP_ADDR"], int(os.environ["GF_SERVER_HTTP_PORT"]))
http.server.ThreadingHTTPServer(address, Handler).serve_forever()
"""
CLI = """#!/usr/bin/python3
import sys
assert sys.argv[1:] == ["cli", "--homepath", "/usr/share/grafana", "admin", "reset-admin-password", "--password-from-stdin"], sys.argv
open("/var/lib/grafana/password", "w").write(sys.stdin.read().rstrip("\\n"))
"""
UNIT = """[Service]
User=grafana
Type=exec
ExecStart=/usr/sbin/grafana-server

[Install]
WantedBy=multi-user.target
"""
POSTINST = """#!/bin/sh
set -e
id grafana >/dev/null 2>&1 || useradd --system --home-dir /var/lib/grafana --create-home grafana
"""


@pytest.fixture(scope="module", name="signer")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[apt_repository.Key]:
    """A repository on the host itself; the key that signs it."""
    folder = tmp_path_factory.mktemp("grafana")
    signer = apt_repository.key(folder / "gpg", "stand-in of Grafana's makers")
    stub = {
        "name": "grafana", "version": "12.2.0", "arch": "all", "postinst": POSTINST,
        "files": {"usr/sbin/grafana-server": SERVER, "usr/bin/grafana": CLI, "lib/systemd/system/grafana-server.service": UNIT},
    }
    apt_repository.flat(folder / "repository", [stub], signer)
    (folder / "repository/gpg.key").write_text(signer.armored, encoding="utf-8")
    host = on_host(MONITOR)
    subprocess.run(["docker", "cp", str(folder / "repository"), f"{MONITOR}:/srv/grafana-repository"], check=True, capture_output=True)
    host.check_output("systemd-run --quiet --unit=grafana-repository --collect python3 -m http.server -b 127.0.0.1 -d /srv/grafana-repository 8141")
    yield signer
    # as it was before: other tests know nothing of Grafana
    host.run("systemctl disable --now grafana-server; apt-get purge -qq -y grafana; systemctl stop grafana-repository")
    host.check_output(
        "rm -rf /etc/grafana /var/lib/grafana /etc/systemd/system/grafana-server.service.d /etc/gpufleet/grafana.env /srv/grafana-repository "
        "/etc/apt/sources.list.d/grafana.list /usr/share/keyrings/grafana.asc; systemctl daemon-reload; apt-get update -qq"
    )


def site(fingerprint: str, key: str = f"{REPOSITORY}/gpg.key", password: str = PASSWORD) -> Play:
    """The role with Grafana."""
    return play(
        "site", "--diff", "--tags", "ollama_monitoring", "--limit", MONITOR, ollama_monitoring_grafana_enabled=True,
        ollama_monitoring_grafana_admin_password=password, ollama_monitoring_grafana_repository=f"{REPOSITORY} ./",
        ollama_monitoring_grafana_key_url=key, ollama_monitoring_grafana_key_fingerprints=[fingerprint],
    )


def test_refusals(signer: apt_repository.Key) -> None:
    """No password, no way to the repository, another key: one sentence each, and nothing is trusted. Prometheus runs on."""
    assert site(signer.fingerprint, password="short").failed_with("Give an ollama_monitoring_grafana_admin_password of at least 12 characters")
    gone = site(signer.fingerprint, key="http://127.0.0.1:1/gpg.key")
    assert gone.failed_with("http://127.0.0.1:1/gpg.key: it cannot be fetched") and gone.says("Let the host reach the repository of Grafana"), gone
    foreign = site("0" * 40)
    assert foreign.failed_with(f"it holds the key {signer.fingerprint}, and {'0' * 40} is wanted. Nothing was trusted"), foreign
    host = on_host(MONITOR)
    assert not host.file("/usr/share/keyrings/grafana.asc").exists and not host.package("grafana").is_installed
    assert host.service("prometheus").is_running


def test_grafana_runs_with_what_is_provisioned(signer: apt_repository.Key) -> None:
    """Data source and dashboards can be read by it, secrets by nobody else; a second run changes nothing; another password becomes known."""
    host = on_host(MONITOR)
    done = site(signer.fingerprint)
    assert done.status == 0 and PASSWORD not in done.output, done
    seen = json.loads(host.check_output(f"curl -sS --fail -u admin:{PASSWORD} http://$(hostname -i):3000/seen"))
    assert {path.name: text for path, text in dashboards.files().items()} == {
        path.rpartition("/")[2]: text for path, text in seen.items() if path.endswith(".json")
    }
    assert '"uid": "gpufleet"' in seen["/etc/grafana/provisioning/datasources/gpufleet.yml"]
    assert "path: /etc/grafana/gpufleet" in seen["/etc/grafana/provisioning/dashboards/gpufleet.yml"]
    assert host.check_output("ss -Hltn 'sport = :3000'").split()[3] == f"{host.check_output('hostname -i')}:3000"
    assert (oct(host.file("/etc/gpufleet/grafana.env").mode), host.service("grafana-server").is_enabled) == ("0o600", True)
    again = site(signer.fingerprint)
    assert again.status == 0 and again.changed(MONITOR) == 0, again
    other = site(signer.fingerprint, password="another-test-password")
    assert other.status == 0, other
    assert host.run("curl -sS --fail -u admin:another-test-password http://$(hostname -i):3000/api/org").rc == 0
