# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The GPUs of a host and their device nodes, read from the kernel.

Every function takes the folders that it reads, and an absent file means that there is no such thing: nothing here raises for a host
without a GPU or without a driver.
"""

from __future__ import annotations

import glob
import grp
import os
import re
import stat
from typing import Any, Mapping

from ansible_collections.gpufleet.ollama.plugins.module_utils import _probe

AMD_VENDOR = "0x1002"
GPU_NODES = "nvidia[0-9]*"
# the card nodes of displays are left out: nothing computes through them
NODES = (
    GPU_NODES,
    "nvidiactl",
    "nvidia-uvm",
    "nvidia-uvm-tools",
    "nvidia-modeset",
    "nvidia-caps/*",
    "kfd",
    "dri/renderD*",
)


def _number_at_end(path: str) -> int:
    """12 of C(/dev/nvidia12); -1 when there is none."""
    found = re.search(r"[0-9]+$", path)
    return int(found[0]) if found else -1


def _device_nodes(dev: str, pattern: str) -> list[tuple[str, os.stat_result]]:
    """Character devices of a pattern, by number."""
    result = []
    for path in sorted(glob.glob(f"{glob.escape(dev)}/{pattern}"), key=lambda path: (_number_at_end(path), path)):
        try:
            status = os.stat(path)
        except OSError:
            # the driver was unloaded meanwhile
            continue
        if stat.S_ISCHR(status.st_mode):
            result.append((path, status))
    return result


def nodes(dev: str = "/dev") -> list[dict[str, str]]:
    """Device nodes of GPUs: path, name of the group (its number when it has no name), mode such as V(0666)."""
    result = []
    for path, status in (node for pattern in NODES for node in _device_nodes(dev, pattern)):
        try:
            group = grp.getgrgid(status.st_gid).gr_name
        except KeyError:
            group = str(status.st_gid)
        result.append({"path": path, "group": group, "mode": f"{stat.S_IMODE(status.st_mode):04o}"})
    return result


def driver_version(proc: str = "/proc") -> str:
    """Version of the NVIDIA driver that is loaded; nothing when none is.

    C(NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu ...), and for the open one C(... Open Kernel Module for
    x86_64  580.95.05  Release Build ...). There are versions of two parts.
    """
    found = re.search(r"Kernel Module\s+(?:for \S+\s+)?([0-9]+(?:\.[0-9]+)+)", _probe.read(f"{proc}/driver/nvidia/version"))
    return found[1] if found else ""


def known(proc: str = "/proc", dev: str = "/dev") -> bool:
    """Whether an NVIDIA driver shows itself here: in a container it may be the only sign of a GPU."""
    return os.path.exists(f"{proc}/driver/nvidia") or bool(_device_nodes(dev, GPU_NODES))


def _nvidia(dev: str, proc: str, memory: Mapping[str, int | None]) -> list[dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for path in glob.glob(f"{glob.escape(proc)}/driver/nvidia/gpus/*/information"):
        values = {key.strip(): value.strip() for key, _colon, value in (line.partition(":") for line in _probe.read(path).splitlines())}
        minor = values.get("Device Minor", "")
        if not minor.isdigit():
            continue
        # question marks until the driver has brought the GPU up
        uuid = values.get("GPU UUID", "")
        uuid = "" if "?" in uuid else uuid
        bus_id = values.get("Bus Location") or path.split("/")[-2]
        found[int(minor)] = _gpu(uuid, int(minor), values.get("Model", ""), bus_id, memory.get(uuid), "nvidia")
    for path, _status in _device_nodes(dev, GPU_NODES):
        number = _number_at_end(path)
        found.setdefault(number, _gpu("", number, "", "", None, "nvidia"))
    return list(found.values())


def _amd(dev: str, sys: str) -> list[dict[str, Any]]:
    # without the node of the compute driver a card draws, and that is all
    if not os.path.exists(f"{dev}/kfd"):
        return []
    result = []
    for path in glob.glob(f"{glob.escape(sys)}/class/drm/renderD*/device"):
        if _probe.read(f"{path}/vendor") != AMD_VENDOR:
            continue
        memory = _probe.read(f"{path}/mem_info_vram_total")
        name = _probe.read(f"{path}/product_name")
        minor = _number_at_end(os.path.dirname(path))
        result.append(_gpu("", minor, name, os.path.basename(os.path.realpath(path)), int(memory) if memory.isdigit() else None, "amd"))
    return result


def _gpu(uuid: str, minor: int, name: str, bus_id: str, memory_bytes: int | None, vendor: str) -> dict[str, Any]:
    return {"uuid": uuid, "minor": minor, "name": name, "bus_id": bus_id, "memory_bytes": memory_bytes, "vendor": vendor}


def gpus(
    dev: str = "/dev", proc: str = "/proc", sys: str = "/sys", memory: Mapping[str, int | None] | None = None
) -> list[dict[str, Any]]:
    """The GPUs by minor: uuid (empty when unknown), minor, name, bus_id, memory_bytes (or None), vendor V(nvidia) or V(amd).

    C(memory) is that of NVIDIA GPUs by UUID, in bytes: nvidia-smi says it, and it must have been asked before, since a GPU that nobody has
    used since boot has no UUID here until then. The minor of an AMD card is the number of its render node. A node that the driver says
    nothing about is a GPU, too.
    """
    return sorted(_nvidia(dev, proc, memory or {}) + _amd(dev, sys), key=lambda gpu: (gpu["minor"], gpu["vendor"]))
