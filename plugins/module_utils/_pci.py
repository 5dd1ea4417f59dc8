# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The GPUs and NVSwitches of a host as PCI shows them: nothing is loaded or run, and a host without a driver shows them, too.

Ranges of device ids and what is within them: the PCI ID Repository, https://pci-ids.ucw.cz. NVIDIA publishes no rule, but gives each
generation blocks of its own.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.gpufleet.ollama.plugins.module_utils import _probe

VENDORS = {"0x10de": "nvidia", "0x1002": "amd"}
# display controllers: VGA, 3D, other
GPU_CLASSES = ("0x0300", "0x0302", "0x0380")
# Instinct MI300 and later call themselves processing accelerators
AMD_CLASSES = (*GPU_CLASSES, "0x1200")
# a bridge of another kind; the network cards of NVIDIA's old chipsets are that as well, with lower ids
SWITCH_CLASS = "0x0680"
FIRST_SWITCH = 0x1A00
GENERATIONS = (
    (0x0FC0, 0x0FFF, "kepler"),
    (0x1001, 0x103F, "kepler"),
    (0x1180, 0x11FF, "kepler"),
    (0x1280, 0x133F, "kepler"),
    (0x1340, 0x14FF, "maxwell"),
    (0x15C0, 0x15FF, "pascal"),
    (0x1600, 0x16FF, "maxwell"),
    (0x1700, 0x173F, "pascal"),
    (0x1740, 0x17FF, "maxwell"),
    (0x1B00, 0x1D7F, "pascal"),
    (0x1D80, 0x1DFF, "volta"),
    (0x1E00, 0x1FFF, "turing"),
    (0x2080, 0x20FF, "ampere"),
    (0x2180, 0x21FF, "turing"),
    (0x2200, 0x228F, "ampere"),
    (0x2300, 0x233F, "hopper"),
    (0x2340, 0x234F, "grace_hopper"),
    (0x2350, 0x23FF, "hopper"),
    (0x2400, 0x25FF, "ampere"),
    (0x2680, 0x28FF, "ada"),
    (0x2900, 0x2F7F, "blackwell"),
    (0x3000, 0x30FF, "rubin"),
    (0x3180, 0x33FF, "blackwell"),
)


def generation(device_id: str) -> str:
    """The generation of an NVIDIA GPU by its PCI device id, V(2330) or V(0x2330); nothing when the id is unknown."""
    try:
        number = int(device_id, 16)
    except ValueError:
        return ""
    return next((name for first, last, name in GENERATIONS if first <= number <= last), "")


def driver(path: str) -> str:
    """The driver that is bound to a device, in one spelling; nothing when there is none.

    Debian's own package calls NVIDIA's driver nvidia_current, and the Rust driver of the kernel has had several names.
    """
    link = f"{path}/driver"
    name = os.path.basename(os.path.realpath(link)) if os.path.lexists(link) else ""
    plain = re.sub("[-_]", "", name).lower()
    return "nvidia" if plain.startswith("nvidia") else "nova_core" if plain == "novacore" else name


def bus_id(text: str) -> str:
    """A PCI address in the form of sysfs: V(0000:19:00.0) for V(00000000:19:00.0), the form of nvidia-smi."""
    found = re.fullmatch(r"([0-9a-fA-F]+):([0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7])", text.strip())
    return f"{int(found[1], 16):04x}:{found[2].lower()}" if found else ""


def devices(sys: str = "/sys") -> list[dict[str, Any]]:
    """GPUs and NVSwitches by address: bus_id, kind V(gpu) or V(nvswitch), vendor, device_id (4 hex digits), generation, driver."""
    result = []
    # the other functions of a card are its sound and its USB
    for path in sorted(glob.glob(f"{glob.escape(sys)}/bus/pci/devices/*.0")):
        vendor = VENDORS.get(_probe.read(f"{path}/vendor"), "")
        class_of = _probe.read(f"{path}/class")[:6]
        device_id = _probe.read(f"{path}/device").removeprefix("0x")
        if vendor and class_of in (AMD_CLASSES if vendor == "amd" else GPU_CLASSES):
            kind = "gpu"
        elif vendor == "nvidia" and class_of == SWITCH_CLASS and re.fullmatch("[0-9a-f]+", device_id) and int(device_id, 16) >= FIRST_SWITCH:
            kind = "nvswitch"
        else:
            continue
        result.append(
            {
                "bus_id": os.path.basename(path),
                "kind": kind,
                "vendor": vendor,
                "device_id": device_id,
                "generation": generation(device_id) if vendor == "nvidia" and kind == "gpu" else "",
                "driver": driver(path),
            }
        )
    return result


def nvidia_devices(devices: Iterable[Mapping[str, Any]], kind: str = "gpu") -> list[dict[str, Any]]:
    """The NVIDIA devices of a kind that are this host's own: not the ones that are handed through to a virtual machine."""
    return [dict(device) for device in devices if (device["vendor"], device["kind"]) == ("nvidia", kind) and device["driver"] != "vfio-pci"]
