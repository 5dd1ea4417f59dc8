"""Module ollama_uninstall: what is Ollama's goes, and what is not stays."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Callable

import pytest

from ansible_collections.gpufleet.ollama.plugins.module_utils import _rollout, _units
from ansible_collections.gpufleet.ollama.plugins.modules import ollama_uninstall

SYSTEMCTL = """#!/bin/sh
case $1 in
show) echo LoadState=loaded; echo ActiveState=active; echo UnitFileState=enabled; echo MainPID=0; echo NeedDaemonReload=no ;;
*) echo "$@" >>"$DONE" ;;
esac
"""


class Host:
    """A host with one instance, in a directory."""

    def __init__(self, top: Path, run_module: Callable[..., Any]) -> None:
        self.top, self.run_module = top, run_module
        self.store = self.write("data/models/blobs/sha256-1").parents[1]
        self.write("data/models/manifests/registry/library/m/latest")
        self.write("data/models/.gpufleet/verified.json")
        self.write("home/.ollama/id_ed25519")
        self.write("opt/1.0.0/.release.json")
        self.write("opt/.served.json")
        os.symlink("1.0.0", top / "opt/current")
        self.write("etc/a.env", f'OLLAMA_MODELS="{self.store}"\n')
        self.write("etc/a.warm.json")
        self.write("units/ollama@.service")
        self.write("units/ollama-warm@.service")
        self.write("units/ollama@a.service.d/instance.conf")
        self.write("lib/gpufleet/gpu_gate.py")
        (top / "bin").mkdir()
        os.symlink(f"{top}/opt/current/bin/ollama", top / "bin/ollama")

    def write(self, name: str, text: str = "x") -> Path:
        """Make a file."""
        path = self.top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def run(self, check: bool = False, **options: Any) -> dict[str, Any]:
        """Run the module."""
        places = {"root": "opt", "home": "home", "config_dir": "etc", "unit_dir": "units", "command": "bin/ollama"}
        paths = {option: str(self.top / name) for option, name in places.items()}
        return self.run_module(ollama_uninstall.main, check=check, files=[str(self.top / "lib/gpufleet/gpu_gate.py")], **{**paths, **options})

    def files(self) -> list[str]:
        """What there is."""
        return sorted(str(path.relative_to(self.top)) for path in self.top.rglob("*") if not path.is_dir() and path.name not in ("systemctl", "done"))


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_module: Callable[..., Any]) -> Host:
    """A host, and a stand-in of systemctl that writes down what it is asked to do."""
    (tmp_path / "systemctl").write_text(SYSTEMCTL, encoding="utf-8")
    (tmp_path / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("DONE", str(tmp_path / "done"))
    monkeypatch.setattr(_rollout, "is_shared", lambda path: False)
    return Host(tmp_path, run_module)


def test_all_goes(host: Host) -> None:
    """Files and directories; the unit is stopped first; a second run finds nothing."""
    plan, before = host.run(check=True), host.files()
    assert plan["changed"] and "ollama@a.service" in plan["removed"] and host.files() == before
    assert host.run()["changed"]
    assert host.files() == []
    assert "disable --now ollama@a.service" in (host.top / "done").read_text(encoding="utf-8")
    assert not any((host.top / name).exists() for name in ("opt", "home", "etc", "data/models", "lib/gpufleet"))
    assert not host.run()["changed"]


def test_models_stay_on_request(host: Host) -> None:
    """The store and the key."""
    host.run(keep_models=True)
    store = [f"data/models/{name}" for name in (".gpufleet/verified.json", "blobs/sha256-1", "manifests/registry/library/m/latest")]
    assert host.files() == [*store, "home/.ollama/id_ed25519"]


def test_what_is_not_ours_stays(host: Host) -> None:
    """Files beside the store, in the home, beside the releases, and a command that leads elsewhere."""
    others = ["data/models/thesis.pdf", "home/notes.txt", "opt/other/program", "etc/readme", "lib/gpufleet/other.py"]
    for name in others:
        host.write(name)
    (host.top / "bin/ollama").unlink()
    host.write("bin/ollama")
    host.run()
    assert host.files() == sorted([*others, "bin/ollama"])


def test_a_store_of_other_hosts_stays(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mount point, or a directory on a network filesystem."""
    monkeypatch.setattr(_rollout, "is_shared", lambda path: path == str(host.store))
    result = host.run()
    assert result["kept"] == [str(host.store)]
    assert host.files() == ["data/models/.gpufleet/verified.json", "data/models/blobs/sha256-1", "data/models/manifests/registry/library/m/latest"]


@pytest.mark.parametrize(
    ("path", "shared"), [("/srv/nfs/models", True), ("/srv/nfs", True), ("/srv/nfs2", False), ("/srv/disk/models", False), ("/srv/nfs/local/x", False)]
)
def test_is_shared(tmp_path: Path, path: str, shared: bool) -> None:
    """The nearest mount above decides."""
    (tmp_path / "mounts").write_text(
        "/dev/sda / ext4 rw 0 0\nfiler:/x /srv/nfs nfs4 rw 0 0\n/dev/sdb /srv/disk xfs rw 0 0\n/dev/sdc /srv/nfs/local ext4 rw 0 0\n", encoding="utf-8"
    )
    assert _rollout.is_shared(path, str(tmp_path / "mounts")) is shared


def test_systemd_refuses(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence says that it may be run again."""

    def refuse(*args: str) -> str:
        raise _units.UnitError("systemctl failed")

    monkeypatch.setattr(_units, "systemctl", refuse)
    assert "by running this again" in host.run()["msg"]
