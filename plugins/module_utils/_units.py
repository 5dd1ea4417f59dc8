# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Units of systemd that carry the id of their configuration, and of the release they run, in their environment.

What a process runs with is read from the process itself, so a restart that a broken-off play missed is seen by any later run, and
check mode foresees restarts truthfully.
"""

from __future__ import annotations

import shlex
import subprocess
import time
from typing import NamedTuple

CONFIG_VARIABLE = "GPUFLEET_CONFIG_ID"
RELEASE_VARIABLE = "GPUFLEET_RELEASE_ID"
# a process shows its environment once it is past exec; a unit that ends within this time does not stay up
SETTLE_SECONDS = 10.0


class UnitError(Exception):
    """systemd refused; the text is for the user."""


class UnitState(NamedTuple):
    """A unit as it is.

    Known to systemd, running (or on its way), enabled at boot, as systemd has read it (not changed on disk since), and the ids of
    the configuration and of the release that its process was started with (empty when it names none).
    """

    known: bool
    running: bool
    enabled: bool
    current: bool
    config_id: str
    release_id: str = ""

    def describe(self) -> str:
        """One line for a diff."""
        if not self.running:
            return "not running"
        notes = ("" if self.enabled else ", not enabled at boot") + ("" if self.current else ", its files changed since")
        release = f", release {self.release_id}" if self.release_id else ""
        return f"running with configuration {self.config_id or '(unknown)'}{release}{notes}"


def systemctl(*args: str) -> str:
    """Run systemctl and return its output."""
    done = subprocess.run(["systemctl", *args], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnitError(f"systemctl {' '.join(args)} failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def process_environment(pid: str, proc: str = "/proc") -> dict[str, str]:
    """The environment that a process was started with; empty when the process is gone."""
    try:
        with open(f"{proc}/{pid}/environ", "rb") as file:
            entries = file.read().decode("utf-8", "replace").split("\0")
    except OSError:
        return {}
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


def show(unit: str, *properties: str) -> dict[str, str]:
    """Properties of a unit."""
    output = systemctl("show", f"--property={','.join(properties)}", unit)
    return dict(line.split("=", 1) for line in output.splitlines() if "=" in line)


def read(unit: str, proc: str = "/proc", may_wait: bool = False) -> UnitState:
    """The state of a unit.

    With C(may_wait) one that systemd starts again and again counts as running, between two processes with what the next is started with.
    """
    values = show(unit, "LoadState", "ActiveState", "UnitFileState", "MainPID", "NeedDaemonReload", "Environment")
    running = values.get("ActiveState") in ("active", "activating", "reloading", *(("deactivating",) if may_wait else ()))
    environment = process_environment(values.get("MainPID", "0"), proc) if running else {}
    # systemd gives an INVOCATION_ID to each process: without one there is none, or it has ended, or is not past exec
    if may_wait and running and "INVOCATION_ID" not in environment:
        environment = dict(entry.split("=", 1) for entry in shlex.split(values.get("Environment", "")) if "=" in entry)
    return UnitState(
        known=values.get("LoadState") == "loaded",
        running=running,
        enabled=values.get("UnitFileState") == "enabled",
        current=values.get("NeedDaemonReload") != "yes",
        config_id=environment.get(CONFIG_VARIABLE, ""),
        release_id=environment.get(RELEASE_VARIABLE, ""),
    )


def ensure(unit: str, config_id: str, force: bool, check: bool, proc: str = "/proc", may_wait: bool = False) -> tuple[UnitState, UnitState]:
    """Make a unit run with this configuration, now and at boot. Returns the state before and after, foreseen in check mode.

    With C(force) it is restarted whatever its process says: its files were just put right after a change by hand. With C(may_wait) it may be
    about to start again.
    """
    before = read(unit, proc, may_wait)
    if force:
        before = before._replace(current=False)
    after = UnitState(known=True, running=True, enabled=True, current=True, config_id=config_id)
    if before == after or check:
        return before, after
    systemctl("daemon-reload")
    if not before.enabled:
        systemctl("enable", unit)
    if not before.running or not before.current or before.config_id != config_id:
        # a unit that failed too often is not started before its count is reset
        if not before.running and before.known:
            systemctl("reset-failed", unit)
        systemctl("restart", unit)
        _wait(unit, config_id, proc, may_wait)
    return before, after


def _wait(unit: str, config_id: str, proc: str, may_wait: bool) -> None:
    """Wait until the process of a restarted unit shows the wanted id."""
    until = time.monotonic() + SETTLE_SECONDS
    while (state := read(unit, proc, may_wait)).config_id != config_id:
        if time.monotonic() > until:
            if not state.config_id:
                raise UnitError(f"{unit} does not stay up: see journalctl -u {unit}")
            raise UnitError(f"{unit} runs with the configuration {state.config_id} and not {config_id}: its files are not written yet (see the tags)")
        time.sleep(0.1)
