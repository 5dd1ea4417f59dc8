# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What nvidia-smi says about the GPUs: all of it from one run of C(nvidia-smi -q -x), the UUIDs of MIG devices from C(nvidia-smi -L)."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

from ansible_collections.gpufleet.ollama.plugins.module_utils import _pci, _probe

MIB = 1 << 20
# texts in the place of a value, which mean that the GPU does not answer; N/A and the like mean that there is no such value
ERRORS = ("gpu is lost", "unknown error", "gpu is inaccessible", "gpu requires reset", "gpu access blocked", "err!")
NULLS = ("n/a", "not supported", "not available", "insufficient permissions", "requested functionality has been deprecated", "")
# what nvidia-smi says of a GPU that it cannot reach; the exit status may be 0 all the same
UNREACHABLE = re.compile(r"^.*(?:Unable to determine the device handle for|GPU is lost).*$", re.M)
SLOWDOWNS = ("hw_thermal_slowdown", "hw_power_brake_slowdown")


class SmiError(Exception):
    """The answer is none; the text is for the user."""


def nothing() -> dict[str, Any]:
    """The result when nvidia-smi was not run."""
    return {"status": None, "problem": "", "driver_version": "", "cuda_version": "", "gpus": [], "processes": []}


def read(command: str, seconds: float | None = None) -> dict[str, Any]:
    """Run nvidia-smi: status (None when it is missing or hangs), problem (a sentence or empty), and what method parse gives."""
    result = nothing()
    if not command:
        return result
    answer = _probe.ask([command, "-q", "-x"], seconds)
    result["status"] = answer.status
    if answer.status is None:
        result["problem"] = (
            f"{command} does not answer: the driver hangs, see dmesg for NVRM and Xid lines"
            if answer.late
            else f"{command} cannot be run: the driver's programs are not installed"
        )
        return result
    if answer.status:
        result["problem"] = f"{command} failed with status {answer.status}: {_said(answer)}"
    elif UNREACHABLE.search(answer.errors):
        result["problem"] = f"{command} does not reach all GPUs: {_said(answer)}"
    try:
        # also of a run that failed: where one GPU is lost, the others are told
        result.update(parse(answer.output))
    except SmiError as error:
        result["problem"] = result["problem"] or f"{command}: {error}"
    if any(gpu["mig_current"] for gpu in result["gpus"]):
        _add_mig_devices(result["gpus"], _probe.ask([command, "-L"], seconds).output)
    return result


def _said(answer: _probe.Answer) -> str:
    """The text of a failure, in a line. An XML document beside it is none."""
    texts = [answer.errors, answer.output.partition("<?xml")[0]]
    rest = answer.output.rpartition("</nvidia_smi_log>")
    texts.append(rest[2] if rest[1] else "")
    lines = dict.fromkeys(line.strip() for text in texts for line in text.splitlines() if line.strip())
    return "; ".join(lines)[:400] or "it does not say why"


def _text(gpu: ElementTree.Element, *paths: str) -> str:
    """The text of the first of these elements that has one, without the brackets of some nulls."""
    for path in paths:
        text = (gpu.findtext(path) or "").strip().strip("[]").strip()
        if text:
            return text
    return ""


def _value(gpu: ElementTree.Element, *paths: str) -> str:
    """The same; nothing for what means that there is no value."""
    text = _text(gpu, *paths)
    return "" if text.lower() in (*NULLS, *ERRORS) else text


def _number(gpu: ElementTree.Element, *paths: str) -> float | None:
    """The number of C(81559 MiB)."""
    found = re.match(r"-?[0-9]+(?:\.[0-9]+)?", _value(gpu, *paths))
    return float(found[0]) if found else None


def _integer(gpu: ElementTree.Element, *paths: str) -> int | None:
    number = _number(gpu, *paths)
    return None if number is None else int(number)


def _flag(gpu: ElementTree.Element, *paths: str) -> bool | None:
    return {"enabled": True, "yes": True, "active": True, "disabled": False, "no": False, "not active": False}.get(_value(gpu, *paths).lower())


def _mib(gpu: ElementTree.Element, path: str) -> int | None:
    number = _integer(gpu, path)
    return None if number is None else number * MIB


def _ecc_uncorrected(gpu: ElementTree.Element) -> int | None:
    """Uncorrectable memory errors since the driver was loaded; the generations count them in different places."""
    names = ("sram_uncorrectable", "sram_uncorrectable_parity", "sram_uncorrectable_secded", "dram_uncorrectable", "double_bit/total")
    counts = [_integer(gpu, f"ecc_errors/volatile/{name}") for name in names]
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _errors(gpu: ElementTree.Element) -> list[str]:
    """Texts that stand in the place of values when the GPU does not answer, each once."""
    texts = ((element.text or "").strip().strip("[]").strip() for element in gpu.iter())
    return list(dict.fromkeys(text for text in texts if text.lower() in ERRORS))


def _gpu(gpu: ElementTree.Element) -> dict[str, Any]:
    # several names repeat under different parents: always the whole path
    draw = _number(gpu, "gpu_power_readings/instant_power_draw", "gpu_power_readings/power_draw", "power_readings/power_draw")
    slow = [name for name in SLOWDOWNS if any(_flag(gpu, f"clocks_{kind}_reasons/clocks_{kind}_reason_{name}") for kind in ("event", "throttle"))]
    return {
        "uuid": _value(gpu, "uuid"),
        "bus_id": _pci.bus_id(gpu.get("id", "") or _value(gpu, "pci/pci_bus_id")),
        "name": _value(gpu, "product_name"),
        "architecture": _value(gpu, "product_architecture"),
        "persistence": _flag(gpu, "persistence_mode"),
        "mig_current": _flag(gpu, "mig_mode/current_mig"),
        "mig_pending": _flag(gpu, "mig_mode/pending_mig"),
        "mig_devices": [],
        "ecc_current": _flag(gpu, "ecc_mode/current_ecc"),
        "ecc_pending": _flag(gpu, "ecc_mode/pending_ecc"),
        "ecc_uncorrected": _ecc_uncorrected(gpu),
        "remap_pending": _flag(gpu, "remapped_rows/remapped_row_pending"),
        "remap_failure": _flag(gpu, "remapped_rows/remapped_row_failure"),
        "retired_pending": _flag(gpu, "retired_pages/pending_retirement"),
        "recovery_action": _value(gpu, "gpu_recovery_action"),
        "temperature": _integer(gpu, "temperature/gpu_temp"),
        "power_limit_watts": _number(gpu, "gpu_power_readings/current_power_limit", "gpu_power_readings/power_limit", "power_readings/power_limit"),
        "power_draw_watts": draw,
        "memory_bytes": _mib(gpu, "fb_memory_usage/total"),
        "memory_used_bytes": _mib(gpu, "fb_memory_usage/used"),
        "fabric_state": _value(gpu, "fabric/state"),
        "fabric_status": _value(gpu, "fabric/status"),
        "slowdowns": slow,
        "errors": _errors(gpu),
    }


def _processes(gpu: ElementTree.Element, uuid: str) -> list[dict[str, Any]]:
    """Those that compute; what draws on a display is none of them."""
    result = []
    for process in gpu.findall("processes/process_info"):
        pid = _integer(process, "pid")
        if pid is not None and "C" in (_text(process, "type") or "C"):
            result.append({"pid": pid, "name": _value(process, "process_name"), "uuid": uuid})
    return result


def parse(text: str) -> dict[str, Any]:
    """An answer of C(nvidia-smi -q -x): driver_version, cuda_version, gpus, processes. SmiError when it is none.

    The DTD that it names (v12 up to driver 570, v13 since) is not looked up. Since 595 there are kmd_version and cuda_umd_version, too, which
    are to replace the old names.
    """
    start, end = text.find("<?xml"), text.rfind("</nvidia_smi_log>")
    if start < 0 or end < 0:
        raise SmiError("the answer is no XML document")
    try:
        root = ElementTree.fromstring(text[start : end + len("</nvidia_smi_log>")])
    except ElementTree.ParseError as error:
        raise SmiError(f"the answer is no XML document ({error})") from None
    gpus = [(_gpu(element), element) for element in root.findall("gpu")]
    return {
        "driver_version": _value(root, "driver_version", "kmd_version"),
        "cuda_version": _value(root, "cuda_version", "cuda_umd_version"),
        "gpus": [gpu for gpu, _element in gpus],
        "processes": [process for gpu, element in gpus for process in _processes(element, gpu["uuid"])],
    }


def mig_devices(text: str) -> dict[str, list[dict[str, str]]]:
    """The MIG devices of each GPU by its UUID, from an answer of C(nvidia-smi -L): profile and uuid. The XML document has neither."""
    result: dict[str, list[dict[str, str]]] = {}
    devices: list[dict[str, str]] = []
    for line in text.splitlines():
        gpu = re.match(r"GPU [0-9]+: .*\(UUID: (\S+)\)", line)
        if gpu:
            devices = result.setdefault(gpu[1], [])
        device = re.match(r"\s+MIG (\S+)\s+Device\s+[0-9]+: \(UUID: (\S+)\)", line)
        if device:
            devices.append({"profile": device[1], "uuid": device[2]})
    return result


def _add_mig_devices(gpus: list[dict[str, Any]], text: str) -> None:
    found = mig_devices(text)
    for gpu in gpus:
        gpu["mig_devices"] = found.get(gpu["uuid"], []) if gpu["mig_current"] else []
