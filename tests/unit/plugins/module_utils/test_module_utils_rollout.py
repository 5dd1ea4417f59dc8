"""What the rollout is made of, piece by piece; the whole of it is tested with module ollama_rollout."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpufleet.ollama.plugins.module_utils import _rollout

ENVIRONMENT_LINE = 'time=2026-11-22T19:00:00Z level=INFO source=routes.go:1 msg="server config" env="map[HTTPS_PROXY:http://user:geheim@proxy:3128]"'


def release(root: Path, version: str, age: int) -> None:
    """A release on the disk that is C(age) seconds old."""
    (root / version).mkdir()
    record = root / version / ".release.json"
    record.touch()
    os.utime(record, (1_700_000_000 - age,) * 2)


@pytest.mark.parametrize(
    ("served", "keep", "old"),
    [
        (["4", "3"], 2, ["1", "2", "5"]),
        (["4", "3", "1"], 3, ["2", "5"]),
        # the newest of those that never served
        (["4"], 2, ["1", "2", "3"]),
        (["4", ""], 2, ["1", "2", "3"]),
        # a version that served is not there any more, and takes nobody's place
        (["4", "0", "3"], 2, ["1", "2", "5"]),
        # in check mode the wanted one is not there yet
        (["6", "4"], 2, ["1", "2", "3", "5"]),
        # the present one never goes
        (["4"], 0, ["1", "2", "3", "5"]),
        (["4"], 9, []),
    ],
)
def test_old_versions(tmp_path: Path, served: list[str], keep: int, old: list[str]) -> None:
    """What served stays before what only lies there, and a link is no version."""
    for age, version in enumerate(("5", "3", "2", "1", "4")):
        release(tmp_path, version, age)
    (tmp_path / "current").symlink_to("4")
    (tmp_path / "notes").mkdir()
    assert _rollout.old_versions(str(tmp_path), served, keep) == old


def words(monkeypatch: pytest.MonkeyPatch, *lines: str) -> str:
    """The last words of a unit whose journal ends with these lines."""

    def run(command: list[str], **_options: Any) -> subprocess.CompletedProcess[str]:
        assert command[0] == "journalctl" and command[-2:] == ["-u", "ollama@a.service"]
        return subprocess.CompletedProcess(command, 0, "".join(f"{line}\n" for line in lines), "")

    monkeypatch.setattr(subprocess, "run", run)
    return _rollout.last_words("ollama@a.service")


def test_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last three lines of the program itself, each cut, and never the one with the environment."""
    systemd = ["ollama@a.service: Failed with result 'exit-code'.", "Stopped ollama@a.service - Ollama instance a.", "Starting Ollama instance a..."]
    assert words(monkeypatch, "one", "two", " three ", "", "four" * 100, ENVIRONMENT_LINE, *systemd) == (
        f"; its last words were: two | three | {'four' * 75}"
    )
    # where it said nothing, systemd knows why it could not
    assert words(monkeypatch, "ollama@a.service: Failed to locate executable /opt/ollama/current/bin/ollama: No such file or directory") == (
        "; its last words were: ollama@a.service: Failed to locate executable /opt/ollama/current/bin/ollama: No such file or directory"
    )
    assert words(monkeypatch, ENVIRONMENT_LINE) == words(monkeypatch) == ""


def test_put_back(tmp_path: Path) -> None:
    """Text and mode, also of a file whose directory is gone."""
    path = tmp_path / "ollama@a.service.d/instance.conf"
    path.parent.mkdir()
    path.write_text("old\n", encoding="utf-8")
    path.chmod(0o600)
    files = _rollout.read_files([str(path), str(tmp_path / "missing")])
    assert files == {str(path): {"mode": 0o600, "content": "old\n"}}
    path.write_text("new and longer\n", encoding="utf-8")
    path.chmod(0o644)
    for prepare in (lambda: None, lambda: (path.unlink(), path.parent.rmdir())):
        prepare()
        _rollout.put_back(str(path), files[str(path)])
        assert path.read_text(encoding="utf-8") == "old\n" and stat.S_IMODE(path.stat().st_mode) == 0o600
        assert [entry.name for entry in path.parent.iterdir()] == ["instance.conf"]


def test_store_in(tmp_path: Path) -> None:
    """The variable alone, with and without quotes."""
    path = tmp_path / "a.env"
    for text, store in (
        ('# OLLAMA_MODELS=/no\nOLLAMA_HOST="127.0.0.1:1"\nOLLAMA_MODELS="/srv/models"\n', "/srv/models"),
        ("OLLAMA_MODELS=/srv/models\n", "/srv/models"),
        ("MY_OLLAMA_MODELS=/srv/models\n", ""),
    ):
        path.write_text(text, encoding="utf-8")
        assert _rollout.store_in(str(path)) == store


def test_remove_store(tmp_path: Path) -> None:
    """What is no store, or is gone already, is left alone; nothing is followed out of it."""
    store, elsewhere = tmp_path / "store", tmp_path / "elsewhere"
    for folder in (store / "manifests", elsewhere):
        folder.mkdir(parents=True)
    (elsewhere / "blob").touch()
    (store / "blobs").symlink_to(elsewhere)
    _rollout.remove_store(str(store))
    assert [path.name for path in store.iterdir()] == ["blobs"] and (elsewhere / "blob").exists()
    _rollout.remove_store(str(elsewhere))
    _rollout.remove_store(str(tmp_path / "missing"))
    assert (elsewhere / "blob").exists()


@pytest.mark.parametrize(("state", "calls"), [("activating", ["stop", "start"]), ("inactive", [])])
def test_warm_models_wait_for_a_test(monkeypatch: pytest.MonkeyPatch, state: str, calls: list[str]) -> None:
    """They load after it, also when it fails; where none are loading there is nothing to do."""
    done: list[str] = []
    monkeypatch.setattr(_rollout._units, "show", lambda unit, *_names: {"ActiveState": state})
    monkeypatch.setattr(_rollout._units, "systemctl", lambda *words: done.append(" ".join(words)) or "")
    with pytest.raises(ValueError), _rollout._cold("a"):
        assert [line.split()[0] for line in done] == calls[:1]
        raise ValueError
    assert [line.split()[0] for line in done] == calls and all(line.endswith(" ollama-warm@a.service") for line in done)
