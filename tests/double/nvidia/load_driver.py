# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Stands in for the kernel that loads NVIDIA's driver at boot: shows, below /opt/nvidia-standin, what would be in /sys, /proc and /dev then.

Run by nvidia-standin.service. With a module installed for the kernel that runs, its version is in proc/driver/nvidia/version, the GPUs of
sys are bound to it, and there are nodes. Without one, nothing is loaded, as on a host whose driver was not built.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from pathlib import Path

ROOT = Path("/opt/nvidia-standin")
DESCRIPTION = Path("/etc/nvidia-standin/smi.json")
DRIVERS = ROOT / "sys/bus/pci/drivers"
# the major number that the rig lets hosts make nodes of
MAJOR = 195
NODES = {"nvidiactl": 255, "nvidia-uvm": 250, "nvidia-modeset": 254}


def modinfo(field: str) -> str:
    """A field of the module for the kernel that runs; nothing when there is none."""
    done = subprocess.run(["modinfo", "-F", field, "nvidia"], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def node(name: str, minor: int) -> None:
    """Make a device node."""
    path = ROOT / "dev" / name
    path.parent.mkdir(exist_ok=True)
    os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(MAJOR, minor))
    path.chmod(0o666)


def show_kernel() -> None:
    """What /proc shows on every host."""
    kernel = ROOT / "proc/sys/kernel"
    shutil.rmtree(ROOT / "proc", ignore_errors=True)
    (kernel / "random").mkdir(parents=True)
    (kernel / "osrelease").write_text(f"{os.uname().release}\n", encoding="ascii")
    (kernel / "random/boot_id").write_text(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"), encoding="ascii")


def load() -> None:
    """Show the driver that is installed."""
    shutil.rmtree(ROOT / "dev", ignore_errors=True)
    (ROOT / "dev").mkdir()
    for device in (ROOT / "sys/bus/pci/devices").iterdir():
        (device / "driver").unlink(missing_ok=True)
    version = modinfo("version")
    if not version:
        return
    kind = f"Open Kernel Module for {os.uname().machine}" if "GPL" in modinfo("license") else f"{os.uname().machine} Kernel Module"
    driver = ROOT / "proc/driver/nvidia"
    driver.mkdir(parents=True)
    (driver / "version").write_text(
        f"NVRM version: NVIDIA UNIX {kind}  {version}  Release Build  (stand-in)\nGCC version:  none, this is a stand-in\n", encoding="ascii"
    )
    (DRIVERS / "nvidia").mkdir(parents=True, exist_ok=True)
    for name, minor in NODES.items():
        node(name, minor)
    for minor, gpu in enumerate(json.loads(DESCRIPTION.read_text(encoding="utf-8"))["gpus"]):
        (ROOT / "sys/bus/pci/devices" / gpu["bus_id"] / "driver").symlink_to(DRIVERS / "nvidia")
        information = driver / "gpus" / gpu["bus_id"] / "information"
        information.parent.mkdir(parents=True)
        information.write_text(
            f"Model: \t\t NVIDIA H100 80GB HBM3\nGPU UUID: \t {gpu['uuid']}\nBus Location: \t {gpu['bus_id']}\nDevice Minor: \t {minor}\n", encoding="ascii"
        )
        node(f"nvidia{minor}", minor)


if __name__ == "__main__":
    show_kernel()
    load()
