# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Who listens on which TCP port, read from C(/proc) (proc(5), C(/proc/net/tcp))."""

from __future__ import annotations

import fnmatch
import glob
import ipaddress
import os
import re
import subprocess
import sys
from typing import Iterator, NamedTuple

LISTEN = "0A"


class Listener(NamedTuple):
    """A listening socket: address, port, and the process that holds it.

    In a container without CAP_SYS_PTRACE root does not see the processes of others: then pid is 0.
    """

    address: str
    port: int
    pid: int
    command: str
    unit: str


def _address(text: str) -> str:
    """Decode the address of /proc/net/tcp: 32-bit words in the byte order of the machine."""
    words = [bytes.fromhex(text[i : i + 8]) for i in range(0, len(text), 8)]
    raw = b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)
    return str(ipaddress.ip_address(raw))


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        # the process is gone
        return ""


def _holders(proc: str) -> dict[str, int]:
    """Socket inode -> pid."""
    result = {}
    for path in glob.glob(f"{proc}/[0-9]*/fd/*"):
        try:
            target = os.readlink(path)
        except OSError:
            continue
        if target.startswith("socket:["):
            result[target[8:-1]] = int(path.split("/")[-3])
    return result


def listeners(proc: str = "/proc") -> list[Listener]:
    """All listening TCP sockets of this network namespace."""
    holders = _holders(proc)
    result = []
    for table in ("tcp", "tcp6"):
        for line in _read(f"{proc}/net/{table}").splitlines()[1:]:
            fields = line.split()
            if fields[3] != LISTEN:
                continue
            address, port = fields[1].split(":")
            pid = holders.get(fields[9], 0)
            unit = re.search(r"/([^/\n]+\.service)(/|$)", _read(f"{proc}/{pid}/cgroup"), re.M) if pid else None
            result.append(Listener(_address(address), int(port, 16), pid, _read(f"{proc}/{pid}/comm").strip(), unit[1] if unit else ""))
    return result


def is_active(unit: str) -> bool:
    """True when systemd runs the unit, or any of a pattern."""
    return subprocess.run(["systemctl", "--quiet", "is-active", unit], check=False).returncode == 0


def clash(found: list[Listener], port: int, address: str, unit: str, option: str) -> Iterator[str]:
    """A sentence for each listener that keeps C(unit) from listening on C(address) and C(port).

    A listener whose process is not to be seen is taken for the unit's when that runs, and one that systemd holds for the unit's socket, too.
    """
    everywhere = ("", "0.0.0.0", "::")
    for listener in found:
        overlap = address in everywhere or listener.address in everywhere or listener.address == address
        if listener.port != port or not overlap or fnmatch.fnmatchcase(listener.unit, unit):
            continue
        held_for_it = {0: unit, 1: f"{unit.removesuffix('.service')}.socket"}.get(listener.pid)
        if not held_for_it or not is_active(held_for_it):
            holder = f"{listener.command or 'another process'} (pid {listener.pid or 'unknown'}, unit {listener.unit or 'none'})"
            yield f"port {port} is held by {holder}, so {unit} cannot have it: stop that process or set {option} to another port"
