# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Whether the NVIDIA GPUs of a host are fit for work, and why not.

What a GPU does not tell is unknown, and no fault: consumer cards have no ECC, with MIG on nothing is said about remapped rows, and older
drivers know no recovery action.
"""

from __future__ import annotations

import re
import shlex
from typing import Any

from ansible_collections.gpufleet.ollama.plugins.module_utils import _pci, _probe

# errors after which a GPU must be reset, or the host rebooted
FAIL_ON_XIDS = (48, 62, 64, 74, 79, 95, 119, 120)
# memory errors that ended one program; it must be started again
WARN_ON_XIDS = (94,)
XID = re.compile(r"NVRM: Xid \((?:PCI:)?([0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2})(?:\.[0-7])?\): ([0-9]+)")

Reason = dict[str, str]


def xids(log: str) -> dict[tuple[str, int], int]:
    """How often each error is in a kernel's log, by bus_id and XID: C(NVRM: Xid (PCI:0000:2b:00): 79, GPU has fallen off the bus.)"""
    result: dict[tuple[str, int], int] = {}
    for address, number in XID.findall(log):
        key = (_pci.bus_id(f"{address}.0"), int(number))
        result[key] = result.get(key, 0) + 1
    return result


def read_log(command: str) -> str | None:
    """What a command prints of the kernel's log; None when it cannot be read."""
    try:
        answer = _probe.ask(shlex.split(command))
    except ValueError:
        # a quote that is not closed
        return None
    return answer.output if answer.status == 0 else None


def _reason(level: str, gpu: str, text: str) -> Reason:
    return {"level": level, "gpu": gpu, "text": text}


def _of_gpu(gpu: dict[str, Any], max_temperature: int) -> list[Reason]:
    """What nvidia-smi says against a GPU."""
    who = gpu["uuid"] or gpu["bus_id"]
    found = [_reason("fail", who, f"nvidia-smi says {text} in place of its values") for text in gpu["errors"]]
    if gpu["recovery_action"].lower() not in ("", "none"):
        found.append(_reason("fail", who, f"the driver asks for this to recover it: {gpu['recovery_action']}"))
    if gpu["ecc_uncorrected"]:
        found.append(_reason("fail", who, f"{gpu['ecc_uncorrected']} uncorrectable memory errors since the driver was loaded"))
    if gpu["remap_failure"]:
        found.append(_reason("fail", who, "memory rows cannot be remapped: the card must be exchanged"))
    state, status = gpu["fabric_state"], gpu["fabric_status"]
    if state and state.lower() != "completed":
        found.append(_reason("fail", who, f"the NVLink fabric is {state}: CUDA does not start, is nvidia-fabricmanager of the driver's version running?"))
    elif state and status.lower() not in ("", "success"):
        found.append(_reason("fail", who, f"the NVLink fabric has the status {status}"))
    if gpu["remap_pending"]:
        found.append(_reason("warn", who, "memory rows wait to be remapped: reset the GPU or reboot"))
    if gpu["retired_pending"]:
        found.append(_reason("warn", who, "memory pages wait to be retired: reboot"))
    found += [_reason("warn", who, f"it is slowed down: {name.replace('_', ' ')}") for name in gpu["slowdowns"]]
    if gpu["temperature"] is not None and gpu["temperature"] > max_temperature:
        found.append(_reason("warn", who, f"{gpu['temperature']} degrees Celsius, more than {max_temperature}"))
    if gpu["persistence"] is False:
        found.append(_reason("warn", who, "persistence is off: the driver forgets power limits and clocks whenever nobody uses the GPU"))
    unknown = [name for name, field in (("temperature", "temperature"), ("ECC", "ecc_uncorrected"), ("remapped rows", "remap_failure")) if gpu[field] is None]
    if unknown and not gpu["errors"]:
        found.append(_reason("unknown", who, f"not told: {', '.join(unknown)}"))
    return found


def _of_count(present: list[dict[str, Any]], smi: dict[str, Any], expected_count: int) -> list[Reason]:
    """GPUs that are missing: on the bus, or in the driver."""
    found = []
    if len(present) < expected_count:
        found.append(_reason("fail", "", f"{len(present)} GPUs are on the bus, and {expected_count} must be"))
    if smi["status"] == 0:
        listed = {gpu["bus_id"] for gpu in smi["gpus"]}
        for device in present:
            if device["bus_id"] not in listed:
                bound = f": {device['driver']} holds it" if device["driver"] not in ("", "nvidia") else ""
                found.append(_reason("fail", device["bus_id"], f"it is on the bus, and nvidia-smi does not list it{bound}"))
    return found


def _of_log(log: str | None, uuids: dict[str, str], fail_on_xids: list[int]) -> list[Reason]:
    if log is None:
        return [_reason("unknown", "", "the kernel's log cannot be read: errors since boot are not known")]
    found = []
    for (address, number), count in sorted(xids(log).items()):
        if number in fail_on_xids or number in WARN_ON_XIDS:
            level = "fail" if number in fail_on_xids else "warn"
            found.append(_reason(level, uuids.get(address) or address, f"XID {number} in the kernel's log since boot{f', {count} times' if count > 1 else ''}"))
    return found


def health(
    devices: list[dict[str, Any]],
    smi: dict[str, Any],
    log: str | None,
    expected_count: int = 0,
    max_temperature: int = 90,
    fail_on_xids: list[int] | None = None,
) -> dict[str, Any]:
    """The verdict V(ok), V(warn), V(fail) or V(none) (no NVIDIA GPU, and none is expected), and its reasons: level, gpu, text.

    C(devices) is what _pci.devices gives, C(smi) what _smi_xml.read gives, C(log) the kernel's log since boot, None when it cannot be read.
    """
    present = _pci.nvidia_devices(devices)
    if not present and not smi["gpus"] and not expected_count:
        return {"verdict": "none", "reasons": []}
    reasons = _of_count(present, smi, expected_count)
    if smi["problem"]:
        reasons.append(_reason("fail", "", smi["problem"]))
    elif smi["status"] is None and present:
        reasons.append(_reason("warn", "", "nvidia-smi was not run: little is known about the GPUs"))
    reasons += [reason for gpu in smi["gpus"] for reason in _of_gpu(gpu, max_temperature)]
    uuids = {gpu["bus_id"]: gpu["uuid"] for gpu in smi["gpus"]}
    reasons += _of_log(log, uuids, list(FAIL_ON_XIDS) if fail_on_xids is None else fail_on_xids)
    levels = {reason["level"] for reason in reasons}
    return {"verdict": next((level for level in ("fail", "warn") if level in levels), "ok"), "reasons": reasons}
