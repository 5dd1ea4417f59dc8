"""Module ollama_info with servers on loopback (stand-ins) and a stand-in for systemctl."""

from __future__ import annotations

import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Callable

import pytest

from ansible_collections.gpufleet.ollama.plugins.modules import ollama_info

# only units with a file of their name run
SYSTEMCTL = """#!/bin/sh
[ ! -e "$UNITS/refuse" ] || { echo "Failed to connect to bus" >&2; exit 1; }
for unit; do :; done
[ -e "$UNITS/$unit" ] && state=active || state=inactive
echo "MainPID=0"
echo "LoadState=loaded"
echo "ActiveState=$state"
"""


class Host:
    """A host, and the module bound to it."""

    def __init__(self, folder: Path, run_module: Callable[..., Any]) -> None:
        self.folder, self.run_module = folder, run_module
        for name in ("root", "etc", "units"):
            (folder / name).mkdir()

    def release(self, version: str) -> None:
        """Install a release."""
        (self.folder / "root" / version).mkdir()
        (self.folder / "root" / version / ".release.json").touch()

    def instance(self, name: str, address: str, running: bool = True) -> None:
        """Write the environment of an instance."""
        text = f'# Ansible managed: do not edit\nOLLAMA_HOST="{address}"\nOLLAMA_MODELS="/srv/a=b"\n\nGPUFLEET_CONFIG_ID="1"\n'
        (self.folder / f"etc/{name}.env").write_text(text, encoding="utf-8")
        if running:
            (self.folder / f"units/ollama@{name}.service").touch()

    def ask(self, **options: Any) -> dict[str, Any]:
        """Run the module."""
        places = {"root": str(self.folder / "root"), "config_dir": str(self.folder / "etc")}
        return self.run_module(ollama_info.main, **{**places, "timeout": 5, **options})


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_module: Callable[..., Any]) -> Host:
    """A host with nothing on it."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/systemctl").write_text(SYSTEMCTL, encoding="utf-8")
    (tmp_path / "bin/systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("UNITS", str(tmp_path / "units"))
    return Host(tmp_path, run_module)


def test_bare_host(host: Host) -> None:
    """Nothing is there, and that is no failure; nor is a host without any of the directories."""
    nothing = {"changed": False, "release": "", "releases": [], "instances": []}
    assert nothing.items() <= host.ask().items()
    assert nothing.items() <= host.ask(root="/nonexistent", config_dir="/nonexistent", check=True).items()


def test_releases(host: Host) -> None:
    """Directories with a record; the link is none of them."""
    for version in ("0.34.4", "0.32.9"):
        host.release(version)
    (host.folder / "root/.staging-1").mkdir()
    (host.folder / "root/current").symlink_to("0.34.4")
    result = host.ask()
    assert (result["release"], result["releases"]) == ("0.34.4", ["0.32.9", "0.34.4"])


def test_instances(host: Host, pulled: Callable[..., Any], start_server: Callable[..., Any]) -> None:
    """Each with what its own API says; one that is silent does not hide the others."""
    server, _name = pulled(OLLAMA_DOUBLE_VERSION="0.34.4")
    empty = start_server(OLLAMA_DOUBLE_VERSION="0.32.9", OLLAMA_MODELS=str(host.folder / "empty"))
    host.instance("b", server.host)
    host.instance("a", empty.host)
    host.instance("c", "127.0.0.1:9", running=False)
    first, second, third = host.ask()["instances"]
    assert first == {"name": "a", "unit": "ollama@a.service", "running": True, "url": empty.url, "version": "0.32.9", "models": 0, "problem": ""}
    assert (second["name"], second["version"], second["models"], second["problem"]) == ("b", "0.34.4", len(server.get("/api/tags")["models"]), "")
    assert (third["running"], third["version"], third["models"]) == (False, "", 0)
    assert third["problem"].startswith("no Ollama answers at http://127.0.0.1:9")


def test_something_else_on_the_port(host: Host, start_registry: Callable[..., Any]) -> None:
    """What is no Ollama is a problem of that instance."""
    host.instance("a", start_registry().host)
    [only] = host.ask()["instances"]
    assert only["version"] == "" and "/api/version answered 404" in only["problem"]


class Anything(BaseHTTPRequestHandler):
    """Another service, which answers everything with the same JSON."""

    def do_GET(self) -> None:  # pylint: disable=invalid-name
        """Answer."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"status": "ok"}')


def test_some_json_on_the_port(host: Host) -> None:
    """An answer without what Ollama answers is no Ollama's."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Anything) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        host.instance("a", f"127.0.0.1:{server.server_address[1]}")
        try:
            [only] = host.ask()["instances"]
        finally:
            server.shutdown()
    assert only["version"] == "" and "is no Ollama" in only["problem"]


def test_systemd_refuses(host: Host) -> None:
    """It fails in words."""
    host.instance("a", "127.0.0.1:9")
    (host.folder / "units/refuse").touch()
    result = host.ask()
    assert result["failed"] and "Failed to connect to bus" in result["msg"]
