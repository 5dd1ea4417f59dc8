"""Module ollama_upstream_info with a stand-in for systemctl. What is found, and how, is tested in module_utils/test_upstream.py."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Callable

import pytest

from ansible_collections.gpufleet.ollama.plugins.module_utils import _upstream
from ansible_collections.gpufleet.ollama.plugins.modules import ollama_upstream_info

SYSTEMCTL = """#!/bin/sh
for unit; do :; done
[ "$1 $unit" = "show ollama.service" ] || { echo "Unknown command" >&2; exit 1; }
cat "$STATE" || exit 1
"""


class Host:
    """A host with the properties of ollama.service in a file, and the module bound to it."""

    def __init__(self, folder: Path, run_module: Callable[..., Any]) -> None:
        self.folder, self.run_module = folder, run_module
        self.unit, self.home = folder / "units/ollama.service", folder / "home"

    def set(self, fragment: str = "", active: str = "inactive") -> None:
        """What systemctl shows."""
        text = f"MainPID=0\nUser=ollama\nEnvironment=HOME={self.home}\nActiveState={active}\nFragmentPath={fragment}\nUnitFileState=\n"
        (self.folder / "state").write_text(text, encoding="utf-8")

    def ask(self, **options: Any) -> dict[str, Any]:
        """Run the module."""
        return self.run_module(ollama_upstream_info.main, store=str(self.folder / "ours"), **options)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_module: Callable[..., Any]) -> Host:
    """A host with nothing on it."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/systemctl").write_text(SYSTEMCTL, encoding="utf-8")
    (tmp_path / "bin/systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("STATE", str(tmp_path / "state"))
    monkeypatch.setattr(_upstream, "UNIT_DIR", str(tmp_path / "units"))
    monkeypatch.setattr(_upstream, "BINARIES", (str(tmp_path / "usr/local/bin/ollama"),))
    made = Host(tmp_path, run_module)
    made.set()
    return made


def model(store: Path) -> Path:
    """Put a model into a store."""
    (store / "blobs").mkdir(parents=True)
    (store / "blobs/sha256-1").touch()
    return store


def test_none(host: Host) -> None:
    """Every key is there all the same."""
    result = host.ask(check=True)
    assert {key: result[key] for key in ("changed", "found", "what", "store", "active", "problems")} == {
        "changed": False, "found": False, "what": "", "store": "", "active": False, "problems": []
    }


def test_one_whose_place_can_be_taken(host: Host) -> None:
    """Where its models are, and whether it runs."""
    host.set(str(host.unit), "active")
    result = host.ask()
    assert result["found"] and result["active"] and not result["changed"] and result["problems"] == []
    assert (result["what"], result["store"]) == (f"the Ollama of {host.unit}", str(host.home / ".ollama/models"))


def test_problems(host: Host) -> None:
    """All of them at once."""
    host.set("/usr/lib/systemd/system/ollama.service")
    model(host.home / ".ollama/models")
    model(host.folder / "ours")
    result = host.ask()
    assert not result["active"] and len(result["problems"]) == 2
    assert "belongs to a package" in result["problems"][0] and "both hold models" in result["problems"][1]


def test_systemd_refuses(host: Host) -> None:
    """It fails in words."""
    (host.folder / "state").unlink()
    result = host.ask()
    assert result["failed"] and "systemctl show" in result["msg"]
