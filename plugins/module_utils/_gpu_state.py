# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""All that is known of the GPUs of a host: for module gpu_info, and for the program that writes it for Prometheus."""

from __future__ import annotations

from typing import Any

from ansible_collections.gpufleet.ollama.plugins.module_utils import _driver_state, _gpu_health, _gpus, _pci, _smi_xml

# the options of method look
DEFAULTS: dict[str, Any] = {
    "dev_dir": "/dev",
    "proc_dir": "/proc",
    "sys_dir": "/sys",
    "root_dir": "/",
    "command": "nvidia-smi",
    "modinfo": "modinfo",
    "kernel_log": "dmesg",
    "expected_count": 0,
    "max_temperature": 90,
    "fail_on_xids": list(_gpu_health.FAIL_ON_XIDS),
}


def look(options: dict[str, Any]) -> dict[str, Any]:
    """What module M(gpufleet.ollama.gpu_info) returns. C(options) are its own, all of them: see C(DEFAULTS)."""
    dev, proc, sys, root = (options[f"{name}_dir"] for name in ("dev", "proc", "sys", "root"))
    devices = _pci.devices(sys)
    # nothing of NVIDIA is run where there is nothing of NVIDIA
    present = any(device["vendor"] == "nvidia" for device in devices) or _gpus.known(proc, dev)
    smi = _smi_xml.read(options["command"]) if present else _smi_xml.nothing()
    log = _gpu_health.read_log(options["kernel_log"]) if present and options["kernel_log"] else ""
    driver = _driver_state.driver(proc, root, options["modinfo"] if present else "")
    kernel = _driver_state.kernel(proc, root)
    return {
        # after nvidia-smi, which brings the GPUs up
        "gpus": _gpus.gpus(dev, proc, sys, {gpu["uuid"]: gpu["memory_bytes"] for gpu in smi["gpus"]}),
        "nodes": _gpus.nodes(dev),
        "driver_version": driver["loaded"],
        "devices": devices,
        "driver": driver,
        "kernel": kernel,
        "secure_boot": _driver_state.secure_boot(sys),
        "smi": smi,
        "xids": [{"bus_id": bus_id, "xid": xid, "count": count} for (bus_id, xid), count in sorted(_gpu_health.xids(log or "").items())],
        "health": _gpu_health.health(devices, smi, log, options["expected_count"], options["max_temperature"], options["fail_on_xids"]),
        "reboot_reasons": _driver_state.reboot_reasons(devices, driver, kernel, smi, root),
        "container": _driver_state.container(root),
    }
