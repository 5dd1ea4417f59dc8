"""Hosts as trees of files, and the stand-in of nvidia-smi as a program of them."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

DOUBLE = Path(__file__).resolve().parents[2] / "double/nvidia"
SCENARIOS = sorted(path.stem for path in (DOUBLE / "scenarios").glob("*.json"))


def scenario(name: str) -> dict[str, Any]:
    """A scenario of the stand-in."""
    found: dict[str, Any] = json.loads((DOUBLE / f"scenarios/{name}.json").read_text(encoding="utf-8"))
    return found


def write(path: Path, text: str = "") -> Path:
    """Write a file, and the folders that it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def program(path: Path, body: str) -> str:
    """Write a shell script; its path."""
    write(path, f"#!/bin/sh\n{body}\n").chmod(0o755)
    return str(path)


def smi(root: Path, described: dict[str, Any]) -> str:
    """The stand-in with a description; its path."""
    write(root / "standin/smi.json", json.dumps(described))
    stand_in = shlex.join([sys.executable, str(DOUBLE / "nvidia_smi.py")])
    return program(root / "nvidia-smi", f'echo "$*" >>{root}/asked\nNVIDIA_STANDIN_DIR={root}/standin exec {stand_in} "$@"')


def pci(root: Path, bus_id: str, device_id: str = "2330", driver: str = "nvidia", vendor: str = "10de", class_: str = "030200") -> Path:
    """A PCI device in a tree of /sys."""
    path = root / f"sys/bus/pci/devices/{bus_id}"
    for name, value in (("vendor", vendor), ("device", device_id), ("class", class_)):
        write(path / name, f"0x{value}\n")
    if driver:
        (root / f"sys/bus/pci/drivers/{driver}").mkdir(parents=True, exist_ok=True)
        (path / "driver").symlink_to(root / f"sys/bus/pci/drivers/{driver}")
    return path


def loaded(root: Path, version: str = "580.95.05", open_modules: bool = True) -> None:
    """A driver that is loaded."""
    kind = "Open Kernel Module for x86_64" if open_modules else "x86_64 Kernel Module"
    write(root / "proc/driver/nvidia/version", f"NVRM version: NVIDIA UNIX {kind}  {version}  Release Build\n")


def kernel(root: Path, release: str, module: str = "", headers: bool = True, image: bool = True) -> None:
    """A kernel that is installed, with a driver for it or without. Method modinfo gives the program that reads it."""
    folder = root / f"root/lib/modules/{release}"
    folder.mkdir(parents=True, exist_ok=True)
    if module:
        write(folder / "nvidia.version", f"{module}\n")
    if headers:
        write(root / f"root/usr/src/linux-headers-{release}/Makefile")
        (folder / "build").symlink_to(f"/usr/src/linux-headers-{release}")
    if image:
        write(root / f"root/boot/vmlinuz-{release}")


def running(root: Path, release: str) -> None:
    """The kernel that runs."""
    write(root / "proc/sys/kernel/osrelease", f"{release}\n")


def modinfo(root: Path, module: str = "nvidia") -> str:
    """A modinfo that refuses all arguments but those that it knows."""
    return program(
        root / "modinfo",
        f'[ "$1 $3 $5 $6" = "-b -k -F version" ] && [ $# = 7 ] || exit 2\n[ "$7" = {module} ] || exit 1\ncat "$2/lib/modules/$4/nvidia.version" 2>/dev/null',
    )
