# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What is installed and what runs: NVIDIA's module for each kernel, the kernels, Secure Boot, and why the host must be rebooted."""

from __future__ import annotations

import glob
import os
import re
from typing import Any

from ansible_collections.gpufleet.ollama.plugins.module_utils import _gpus, _pci, _probe

# Debian's own packages call the module nvidia-current
MODULES = ("nvidia", "nvidia-current")
EFI_VARIABLE = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
# drivers of the kernel that hold a GPU until the next boot
FOREIGN = ("nouveau", "nova_core")
# NVML's code for a driver and a library of different versions
MISMATCH = 18


def version_key(text: str) -> list[tuple[Any, ...]]:
    """Sorts versions of kernels and drivers as packagers do: numbers as numbers, a number after a word, rc before the release."""
    parts = re.findall(r"[0-9]+|[a-z]+", text.lower())
    return [*((3, int(part)) if part.isdigit() else (0, "") if part == "rc" else (2, part) for part in parts), (1, "")]


def _flavour(release: str) -> str:
    """Of C(6.1.0-13-cloud-amd64) C(cloud-amd64), of C(5.14.0-427.el9.x86_64+debug) C(debug): a host boots the one that it has."""
    found = re.search(r"-((?!rc[0-9])[a-z][a-z0-9_-]*)$|\+([a-z0-9]+)$", release)
    return (found[1] or found[2]) if found else ""


def _has_image(root: str, release: str) -> bool:
    patterns = ("vmlinuz-{}", "vmlinux-{}", "*/{}/linux", "efi/*/{}/linux")
    return any(glob.glob(f"{glob.escape(root)}/boot/{pattern.format(glob.escape(release))}") for pattern in patterns)


def _has_headers(root: str, release: str) -> bool:
    """Whether modules can be built for a kernel. The link may be absolute, and is then meant within the root."""
    build = f"{root}/lib/modules/{release}/build"
    if os.path.islink(build) and os.path.isabs(os.readlink(build)):
        build = root + os.readlink(build)
    return bool(release) and os.path.isfile(f"{build}/Makefile")


def releases(root: str = "/") -> list[str]:
    """The kernels that have a folder in C(lib/modules), the oldest first."""
    root = root.rstrip("/")
    return sorted((os.path.basename(path.rstrip("/")) for path in glob.glob(f"{glob.escape(root)}/lib/modules/*/")), key=version_key)


def kernel(proc: str = "/proc", root: str = "/") -> dict[str, Any]:
    """The kernels: running, newest (of the running one's kind, with an image in C(boot); the running one where there is none), and their headers."""
    running = _probe.read(f"{proc}/sys/kernel/osrelease")
    root = root.rstrip("/")
    bootable = [release for release in releases(root) if _flavour(release) == _flavour(running) and _has_image(root, release)] if running else []
    newest = bootable[-1] if bootable else running
    return {"running": running, "newest": newest, "headers": _has_headers(root, running), "newest_headers": _has_headers(root, newest)}


def _module_version(modinfo: str, release: str, root: str) -> str:
    for name in MODULES:
        answer = _probe.ask([modinfo, *(["-b", root] if root != "/" else []), "-k", release, "-F", "version", name])
        if answer.status == 0 and answer.output.strip():
            return answer.output.split()[0]
        if answer.status is None:
            break
    return ""


def driver(proc: str = "/proc", root: str = "/", modinfo: str = "modinfo") -> dict[str, Any]:
    """NVIDIA's driver: loaded (version or empty), open (of the loaded one, or None), installed (for the running kernel), modules (by kernel)."""
    loaded = _gpus.driver_version(proc)
    found = {release: _module_version(modinfo, release, root) for release in releases(root)} if modinfo else {}
    modules = {release: version for release, version in found.items() if version}
    return {
        "loaded": loaded,
        "open": "Open Kernel Module" in _probe.read(f"{proc}/driver/nvidia/version") if loaded else None,
        "installed": modules.get(_probe.read(f"{proc}/sys/kernel/osrelease"), ""),
        "modules": modules,
    }


def secure_boot(sys: str = "/sys") -> dict[str, Any]:
    """Whether the firmware checks what it boots (enabled), and how far the kernel is locked down: then unsigned modules do not load."""
    try:
        # four bytes of attributes come before the value
        with open(f"{sys}/firmware/efi/efivars/{EFI_VARIABLE}", "rb") as file:
            enabled = file.read()[-1:] == b"\1"
    except OSError:
        # a host without EFI
        enabled = False
    locked = re.search(r"\[(\w+)\]", _probe.read(f"{sys}/kernel/security/lockdown"))
    return {"enabled": enabled, "lockdown": locked[1] if locked else ""}


def container(root: str = "/") -> bool:
    """Whether this is a container. Of another root than the own one nothing is known."""
    return root == "/" and _probe.ask(["systemd-detect-virt", "-c"]).status == 0


def reboot_reasons(devices: list[dict[str, Any]], state: dict[str, Any], kernels: dict[str, Any], smi: dict[str, Any], root: str = "/") -> list[str]:
    """Why the host must be rebooted, each a sentence, from its state alone; a host without an NVIDIA GPU has no reason.

    C(devices) is what _pci.devices gives, C(state) and C(kernels) what methods driver and kernel give, C(smi) what _smi_xml.read gives.
    """
    gpus = _pci.nvidia_devices(devices)
    if not gpus:
        return []
    loaded, installed = state["loaded"], state["installed"]
    reasons = [f"{gpu['driver']} holds the GPU {gpu['bus_id']}" for gpu in gpus if gpu["driver"] in FOREIGN]
    if installed and not loaded:
        reasons.append(f"driver {installed} is installed and none is loaded")
    if installed and loaded and installed != loaded:
        reasons.append(f"driver {loaded} is loaded and {installed} is installed")
    if smi["status"] == MISMATCH or "library version mismatch" in smi["problem"]:
        reasons.append(f"the driver's programs and the loaded driver {loaded or ''} have different versions".replace("  ", " "))
    for gpu in smi["gpus"]:
        for mode, name in (("ecc", "ECC"), ("mig", "MIG")):
            current, pending = gpu[f"{mode}_current"], gpu[f"{mode}_pending"]
            if None not in (current, pending) and current != pending:
                reasons.append(f"{name} of {gpu['uuid'] or gpu['bus_id']} is to be {'on' if pending else 'off'} after the reboot")
        if "reboot" in gpu["recovery_action"].lower():
            reasons.append(f"the driver asks for a reboot for {gpu['uuid'] or gpu['bus_id']}")
    if kernels["running"] != kernels["newest"]:
        reasons.append(f"kernel {kernels['running']} runs and {kernels['newest']} is installed")
    if os.path.exists(os.path.join(root, "run/reboot-required")):
        packages = sorted(set(_probe.read(os.path.join(root, "run/reboot-required.pkgs")).split()))
        reasons.append(f"packages ask for it: {', '.join(packages)}" if packages else "packages ask for it (/run/reboot-required)")
    return reasons
