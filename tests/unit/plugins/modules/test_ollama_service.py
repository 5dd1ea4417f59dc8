"""Module ollama_service with a stand-in for systemctl, and with a process of its own whose environment holds an id."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from ansible_collections.gpufleet.ollama.plugins.module_utils import _units
from ansible_collections.gpufleet.ollama.plugins.modules import ollama_service

# stand-in for systemctl: answers `show` from a file, and writes down what else it is asked to do
SYSTEMCTL = """#!/bin/sh
case $1 in
show) cat "$STATE" ;;
*)
    echo "$@" >>"$STATE.done"
    [ ! -e "$STATE.broken" ] || { echo "Job failed" >&2; exit 1; }
    [ "$1" != restart ] || [ ! -e "$STATE.next" ] || cp "$STATE.next" "$STATE"
    ;;
esac
"""


class Systemd:
    """A unit as systemctl shows it."""

    def __init__(self, folder: Path, run_module: Callable[..., Any]) -> None:
        self.state = folder / "state"
        self.run_module = run_module

    def set(
        self, load: str = "loaded", active: str = "active", enabled: str = "enabled", pid: int = 0, reload: str = "no", suffix: str = "", **more: str
    ) -> None:
        """What `show` answers; with the suffix .next, after a restart."""
        values = {"LoadState": load, "ActiveState": active, "UnitFileState": enabled, "MainPID": pid, "NeedDaemonReload": reload, **more}
        Path(f"{self.state}{suffix}").write_text("".join(f"{key}={value}\n" for key, value in values.items()), encoding="utf-8")

    def done(self) -> list[str]:
        """What systemctl was asked to do."""
        path = Path(f"{self.state}.done")
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def run(self, config_id: str, check: bool = False, **options: bool) -> dict[str, Any]:
        """Run the module for one unit."""
        return self.run_module(ollama_service.main, check=check, unit="a.service", config_id=config_id, **options)


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_module: Callable[..., Any]) -> Systemd:
    """The stand-in first in the path."""
    (tmp_path / "systemctl").write_text(SYSTEMCTL, encoding="utf-8")
    (tmp_path / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("STATE", str(tmp_path / "state"))
    return Systemd(tmp_path, run_module)


@pytest.fixture
def start() -> Iterator[Callable[[str], int]]:
    """Start processes with a configuration id; the pid comes back."""
    running = []

    def start_one(config_id: str) -> int:
        code = "import sys; print(flush=True); sys.stdin.read()"
        process = subprocess.Popen(  # pylint: disable=consider-using-with
            [sys.executable, "-c", code],
            env={**os.environ, "INVOCATION_ID": "0" * 32, "GPUFLEET_CONFIG_ID": config_id},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        running.append(process)
        assert process.stdout and process.stdout.readline()
        return process.pid

    yield start_one
    for process in running:
        process.communicate()


Start = Callable[[str], int]


def test_nothing_to_do(systemd: Systemd, start: Start) -> None:
    """The process runs with what is wanted: systemd is left alone."""
    systemd.set(pid=start("one"))
    result = systemd.run("one")
    assert not result["changed"] and not result["restarted"] and not systemd.done()


def test_other_configuration(systemd: Systemd, start: Start) -> None:
    """The process runs with an older one, however that came: it is restarted, after the units were read anew."""
    systemd.set(pid=start("one"))
    systemd.set(pid=start("two"), suffix=".next")
    result = systemd.run("two")
    assert result["changed"] and result["restarted"]
    assert systemd.done() == ["daemon-reload", "restart a.service"]
    assert "one" in result["diff"]["before"] and "two" in result["diff"]["after"]


@pytest.mark.parametrize(("reload", "force"), [("yes", False), ("no", True)], ids=["unit changed on disk", "files put right"])
def test_files_changed_under_the_same_id(systemd: Systemd, start: Start, reload: str, force: bool) -> None:
    """A change by hand leaves the id alone; the unit is restarted all the same."""
    pid = start("one")
    systemd.set(pid=pid, reload=reload)
    systemd.set(pid=pid, suffix=".next")
    assert systemd.run("one", force=force)["restarted"]
    assert systemd.done() == ["daemon-reload", "restart a.service"]


def test_not_enabled(systemd: Systemd, start: Start) -> None:
    """A unit that would not come up at boot is enabled, not restarted."""
    systemd.set(enabled="disabled", pid=start("one"))
    result = systemd.run("one")
    assert result["changed"] and not result["restarted"]
    assert systemd.done() == ["daemon-reload", "enable a.service"]


def test_failed_unit(systemd: Systemd, start: Start) -> None:
    """A unit that failed too often gets a new start."""
    systemd.set(active="failed")
    systemd.set(pid=start("one"), suffix=".next")
    assert systemd.run("one")["restarted"]
    assert systemd.done() == ["daemon-reload", "reset-failed a.service", "restart a.service"]


def test_restart_that_does_not_help(systemd: Systemd, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result is what the process says, not what was hoped: old files, and a process that ends at once."""
    monkeypatch.setattr(_units, "SETTLE_SECONDS", 0.2)
    systemd.set(pid=start("old"))
    assert "not written yet" in systemd.run("new")["msg"]
    systemd.set(active="activating", pid=0, suffix=".next")
    assert "does not stay up" in systemd.run("new")["msg"]


@pytest.mark.parametrize(("state", "pid"), [("activating", 0), ("active", 4_194_305), ("deactivating", 4_194_305)], ids=["waits", "not past exec", "ends"])
def test_a_unit_between_two_tries(systemd: Systemd, monkeypatch: pytest.MonkeyPatch, state: str, pid: int) -> None:
    """One that may wait is left alone while it would be started with what is wanted, and started anew with what is not; any other does not stay up."""
    monkeypatch.setattr(_units, "SETTLE_SECONDS", 0.2)
    # no process has such a number: it is above pid_max
    waiting: dict[str, Any] = {"active": state, "pid": pid}
    systemd.set(**waiting, Environment='"OTHER=a b" GPUFLEET_CONFIG_ID=one')
    assert not systemd.run("one", may_wait=True)["changed"] and not systemd.done()
    systemd.set(**waiting, Environment="GPUFLEET_CONFIG_ID=two", suffix=".next")
    result = systemd.run("two", may_wait=True)
    assert result["changed"] and result["restarted"] and systemd.done() == ["daemon-reload", "restart a.service"]
    assert "does not stay up" in systemd.run("two")["msg"]


def test_a_unit_that_may_wait_and_runs_with_another_configuration(systemd: Systemd, start: Start) -> None:
    """Its process says so, whatever it would be started with next."""
    systemd.set(pid=start("one"), Environment="GPUFLEET_CONFIG_ID=two")
    systemd.set(pid=start("two"), suffix=".next")
    assert systemd.run("two", may_wait=True)["restarted"]


def test_a_unit_that_may_wait_and_does_not_run(systemd: Systemd, start: Start) -> None:
    """What it would be started with does not make it run."""
    systemd.set(active="failed", Environment="GPUFLEET_CONFIG_ID=one")
    systemd.set(pid=start("one"), suffix=".next")
    assert systemd.run("one", may_wait=True)["restarted"]


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
