"""Module ollama_service with a stand-in for systemctl, and with a process of its own whose environment holds an id."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from ansible_collections.gpufleet.ollama.plugins.modules import ollama_service

# stand-in for systemctl: answers `show` from a file, and writes down what else it is asked to do
SYSTEMCTL = """#!/bin/sh
case $1 in
show) cat "$STATE" ;;
*) echo "$@" >>"$STATE.done"; [ ! -e "$STATE.broken" ] || { echo "Job failed" >&2; exit 1; } ;;
esac
"""


class Systemd:
    """A unit as systemctl shows it."""

    def __init__(self, folder: Path, run_module: Callable[..., Any]) -> None:
        self.state = folder / "state"
        self.run_module = run_module

    def set(self, load: str = "loaded", active: str = "active", enabled: str = "enabled", pid: int = 0) -> None:
        """What `show` answers."""
        self.state.write_text(f"LoadState={load}\nActiveState={active}\nUnitFileState={enabled}\nMainPID={pid}\n", encoding="utf-8")

    def done(self) -> list[str]:
        """What systemctl was asked to do."""
        path = Path(f"{self.state}.done")
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def run(self, config_id: str, check: bool = False) -> dict[str, Any]:
        """Run the module for one unit."""
        return self.run_module(ollama_service.main, check=check, unit="a.service", config_id=config_id)


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_module: Callable[..., Any]) -> Systemd:
    """The stand-in first in the path."""
    (tmp_path / "systemctl").write_text(SYSTEMCTL, encoding="utf-8")
    (tmp_path / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("STATE", str(tmp_path / "state"))
    return Systemd(tmp_path, run_module)


@pytest.fixture
def process() -> Iterator[int]:
    """A process that was started with configuration one."""
    code = "import sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "GPUFLEET_CONFIG_ID": "one"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as found:
        assert found.stdout and found.stdout.readline()
        yield found.pid


def test_nothing_to_do(systemd: Systemd, process: int) -> None:
    """The process runs with what is wanted: systemd is left alone."""
    systemd.set(pid=process)
    result = systemd.run("one")
    assert not result["changed"] and not result["restarted"] and not systemd.done()


def test_other_configuration(systemd: Systemd, process: int) -> None:
    """The process runs with an older one, however that came: it is restarted, after the units were read anew."""
    systemd.set(pid=process)
    result = systemd.run("two")
    assert result["changed"] and result["restarted"]
    assert systemd.done() == ["daemon-reload", "restart a.service"]
    assert "one" in result["diff"]["before"] and "two" in result["diff"]["after"]


def test_not_enabled(systemd: Systemd, process: int) -> None:
    """A unit that would not come up at boot is enabled, not restarted."""
    systemd.set(enabled="disabled", pid=process)
    result = systemd.run("one")
    assert result["changed"] and not result["restarted"]
    assert systemd.done() == ["daemon-reload", "enable a.service"]


def test_failed_unit(systemd: Systemd) -> None:
    """A unit that failed too often gets a new start."""
    systemd.set(active="failed")
    assert systemd.run("one")["restarted"]
    assert systemd.done() == ["daemon-reload", "reset-failed a.service", "restart a.service"]


def test_check_mode_on_a_bare_host(systemd: Systemd) -> None:
    """The unit does not exist yet: the plan is to start it, and systemd is left alone."""
    systemd.set(load="not-found", active="inactive", enabled="")
    result = systemd.run("one", check=True)
    assert result["changed"] and result["restarted"] and not systemd.done()


def test_systemd_refuses(systemd: Systemd) -> None:
    """The words of systemd are in the message."""
    systemd.set(active="inactive")
    Path(f"{systemd.state}.broken").touch()
    result = systemd.run("one")
    assert result["failed"] and "Job failed" in result["msg"]
