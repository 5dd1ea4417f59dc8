"""The controller's part of ollama_release, in real plays on this machine: it is the controller and the host."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import pytest
from ollama_double import release as builder

from ansible_collections.gpufleet.ollama.plugins.action import ollama_release as action
from ansible_collections.gpufleet.ollama.plugins.module_utils._release import ReleaseError

ROOT = Path(__file__).resolve().parents[4]
NAME = "ollama-linux-amd64.tar.zst"

pytestmark = pytest.mark.skipif(not shutil.which("zstd"), reason="zstd is not installed here; the Molecule scenarios unpack on hosts")


class Fleet:
    """A release in files/, and plays on localhost that install it to root/."""

    def __init__(self, path: Path) -> None:
        self.path, self.root, self.archive = path, path / "root", path / f"files/v1.0.0/{NAME}"
        assert builder.main(["--version", "1.0.0", "--out", str(self.archive.parent)]) == 0
        self.sum = hashlib.sha256(self.archive.read_bytes()).hexdigest()
        for name in ("remote", "local"):
            (path / name).mkdir()

    def install(self, check: bool = False, sha256: str = "", path: str = "", root: str = "root", **more: Any) -> dict[str, Any]:
        """A task. C(path): what PATH is on the host."""
        options = {"version": "1.0.0", "root": str(self.path / root), "archives": [{"src": str(self.archive), "sha256": sha256 or self.sum}], **more}
        task = {"gpufleet.ollama.ollama_release": options, "ignore_errors": True, "check_mode": check, "diff": True}
        return {**task, "environment": {"PATH": path}} if path else task

    def play(self, *tasks: dict[str, Any], keep: bool = False) -> list[dict[str, Any]]:
        """Run the tasks; their results. Nothing of what was copied is left in the temporary directories."""
        found = self.path / "results.json"
        registered = [{**task, "register": f"result{number}"} for number, task in enumerate(tasks)]
        results = "{{ [" + ", ".join(f"result{number}" for number in range(len(tasks))) + "] | to_json }}"
        registered.append({"ansible.builtin.copy": {"content": results, "dest": str(found), "mode": "0600"}})
        options = {"ansible_remote_tmp": str(self.path / "remote"), "ansible_python_interpreter": sys.executable}
        play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "vars": options, "tasks": registered}
        (self.path / "play.yml").write_text(json.dumps([play]), encoding="utf-8")
        config = f"[defaults]\nlocal_tmp={self.path}/local\nkeep_remote_files={keep}\n[connection]\npipelining=true\n"
        (self.path / "ansible.cfg").write_text(config, encoding="utf-8")
        environ = {**os.environ, "ANSIBLE_CONFIG": str(self.path / "ansible.cfg"), "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".venv/collections")}
        command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", str(self.path / "play.yml")]
        done = subprocess.run(command, cwd=self.path, env=environ, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        left = [path for folder in ("remote", "local") for path in (self.path / folder).rglob("*.tar*")]
        assert left == []
        return json.loads(found.read_text(encoding="utf-8"))


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    """Nothing installed."""
    return Fleet(tmp_path)


def test_archive_from_the_controller(fleet: Fleet) -> None:
    """Refused with a sentence before anything is copied; planned, installed, and not asked for again once it is installed."""
    size = fleet.archive.stat().st_size
    absent, wrong, two, plan, done, again, gone = fleet.play(
        fleet.install(archives=[{"src": "nowhere.tar.zst", "sha256": fleet.sum}]),
        fleet.install(sha256="0" * 64),
        fleet.install(archives=[{"src": str(fleet.archive), "url": "http://127.0.0.1:9/x", "sha256": fleet.sum}]),
        fleet.install(check=True),
        fleet.install(),
        fleet.install(),
        # it need not stay on the controller
        fleet.install(archives=[{"src": "nowhere.tar.zst", "sha256": fleet.sum}]),
        # modules are kept for debugging, archives are not
        keep=True,
    )
    assert absent["failed"] and absent["msg"] == "nowhere.tar.zst is not on the controller: put the archive of Ollama 1.0.0 there, or correct src"
    assert wrong["failed"] and "on the controller is not the archive that was pinned" in wrong["msg"] and str(fleet.archive) in wrong["msg"]
    assert two["failed"] and "mutually exclusive" in two["msg"]
    assert plan["changed"] and plan["download_bytes"] == size and plan["release_id"] == "" and "(copy of 0.1 MB)" in plan["diff"]["after"]
    assert done["changed"] and done["download_bytes"] == size and done["release_id"] and done["diff"] == plan["diff"]
    for result in (again, gone):
        assert not result["changed"] and not result["failed"] and result["release_id"] == done["release_id"] and "missing" not in result
    assert (fleet.root / "1.0.0/bin/ollama").is_file()


def test_decompressed_on_the_controller(fleet: Fleet, start_registry: Callable[..., Any]) -> None:
    """The host's zstd is never called, where the archive comes from a file and where the controller downloads it."""
    called, stub = fleet.path / "called", fleet.path / "bin/zstd"
    stub.parent.mkdir()
    stub.write_text(f"#!/bin/sh\ntouch {called}\nexit 1\n", encoding="utf-8")
    stub.chmod(0o755)
    server = start_registry("--files", str(fleet.path / "files"))
    url = {"url": f"{server.url}/files/v1.0.0/{NAME}", "sha256": fleet.sum}
    path = {"path": f"{stub.parent}:{os.environ['PATH']}", "unpack_on": "controller"}
    stubbed, _removed, plan, wrong, done, again, other = fleet.play(
        # the stub would be found
        fleet.install(path=path["path"]),
        {"ansible.builtin.command": {"argv": ["rm", str(called)]}},
        fleet.install(check=True, archives=[url], **path),
        fleet.install(archives=[{**url, "sha256": "0" * 64}], **path),
        fleet.install(archives=[url], **path),
        # the record holds the archive's own sum, wherever it was decompressed
        fleet.install(),
        fleet.install(root="other", **path),
    )
    assert "cannot be unpacked" in stubbed["msg"]
    size = fleet.archive.stat().st_size
    for result in (plan, done, other):
        assert result["changed"] and not result["failed"] and result["download_bytes"] == size
    assert wrong["failed"] and "is not the archive that was pinned" in wrong["msg"] and "Nothing was installed" in wrong["msg"]
    assert not again["changed"] and again["release_id"] == done["release_id"]
    assert (fleet.path / "other/1.0.0/bin/ollama").is_file()
    assert not called.exists()
    # one HEAD for the plan; a download for the wrong sum and one for the right
    methods = [request["method"] for request in server.get("/_double/stats")["log"] if NAME in request["path"]]
    assert methods == ["HEAD", "GET", "GET"]


@pytest.mark.parametrize("tool", ["program", "zstandard"])
def test_decompress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: str) -> None:
    """Several frames one after the other are one file; the sum is that of what came out."""
    if tool == "zstandard":
        pytest.importorskip("zstandard")
        monkeypatch.setattr(action.shutil, "which", lambda name: None)
    packed = b"".join(builder.compress(part) for part in (b"a" * 3000000, b"b"))
    (tmp_path / "in").write_bytes(packed)
    assert action.decompress(str(tmp_path / "in"), str(tmp_path / "out")) == hashlib.sha256(b"a" * 3000000 + b"b").hexdigest()
    assert (tmp_path / "out").stat().st_size == 3000001
    (tmp_path / "in").write_bytes(b"no zstd")
    with pytest.raises(ReleaseError, match="cannot be decompressed on the controller"):
        action.decompress(str(tmp_path / "in"), str(tmp_path / "out"))


def test_nothing_decompresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence says what to install."""
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(action.shutil, "which", lambda name: None)
    monkeypatch.setattr(action.importlib, "import_module", missing)
    with pytest.raises(ReleaseError, match="install zstd there, or the Python package zstandard"):
        action.decompress("/x", str(tmp_path / "out"))
