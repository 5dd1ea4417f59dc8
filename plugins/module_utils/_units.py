# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Units of systemd that carry the id of their configuration in their environment.

What a process runs with is read from the process itself, so a restart that was missed (a play that broke off, a change by hand)
is seen by any later run, and check mode foresees restarts truthfully.
"""

from __future__ import annotations

import subprocess
from typing import NamedTuple

VARIABLE = "GPUFLEET_CONFIG_ID"


class UnitError(Exception):
    """systemd refused; the text is for the user."""


class UnitState(NamedTuple):
    """A unit as it is: known to systemd, running (or on its way), enabled at boot, and the configuration id of its process."""

    known: bool
    running: bool
    enabled: bool
    config_id: str

    def describe(self) -> str:
        """One line for a diff."""
        if not self.running:
            return "not running"
        return f"running with configuration {self.config_id or '(unknown)'}" + ("" if self.enabled else ", not enabled at boot")


def systemctl(*args: str) -> str:
    """Run systemctl and return its output."""
    done = subprocess.run(["systemctl", *args], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnitError(f"systemctl {' '.join(args)} failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def process_config_id(pid: str, proc: str = "/proc") -> str:
    """The id in the environment of a process; nothing when the process is gone or has none."""
    try:
        with open(f"{proc}/{pid}/environ", "rb") as file:
            entries = file.read().split(b"\0")
    except OSError:
        return ""
    prefix = f"{VARIABLE}=".encode()
    return next((entry[len(prefix) :].decode() for entry in entries if entry.startswith(prefix)), "")


def read(unit: str, proc: str = "/proc") -> UnitState:
    """The state of a unit."""
    output = systemctl("show", "--property=LoadState,ActiveState,UnitFileState,MainPID", unit)
    values = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
    running = values.get("ActiveState") in ("active", "activating", "reloading")
    return UnitState(
        known=values.get("LoadState") == "loaded",
        running=running,
        enabled=values.get("UnitFileState") == "enabled",
        config_id=process_config_id(values.get("MainPID", "0"), proc) if running else "",
    )


def ensure(unit: str, config_id: str, check: bool, proc: str = "/proc") -> tuple[UnitState, UnitState]:
    """Make a unit run with this configuration, now and at boot. Returns the state before and after, foreseen in check mode."""
    before = read(unit, proc)
    after = UnitState(known=True, running=True, enabled=True, config_id=config_id)
    if before == after or check:
        return before, after
    systemctl("daemon-reload")
    if not before.enabled:
        systemctl("enable", unit)
    if not before.running or before.config_id != config_id:
        # a unit that failed too often is not started before its count is reset
        if not before.running and before.known:
            systemctl("reset-failed", unit)
        systemctl("restart", unit)
    return before, after
