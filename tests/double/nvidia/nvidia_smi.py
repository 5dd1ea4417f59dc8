# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A stand-in for nvidia-smi: it is not NVIDIA's program and drives nothing. See README.md beside it for what it knows.

Every answer is made from one description, smi.json in $NVIDIA_STANDIN_DIR (/etc/nvidia-standin). What it is told to set it keeps in
state.json and notes in calls.log there. An argument that it does not know is an error, status 2.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import time
import xml.sax.saxutils
from pathlib import Path
from typing import Any, Callable

FOLDER = Path(os.environ.get("NVIDIA_STANDIN_DIR", "/etc/nvidia-standin"))
HELP = "Please run 'nvidia-smi -h' for help."
NO_DRIVER = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
    "Make sure that the latest NVIDIA driver is installed and running.\n"
)
ON = {"0": "Disabled", "DISABLED": "Disabled", "1": "Enabled", "ENABLED": "Enabled"}
# what a board keeps over a reboot, when it takes effect then
PENDING = {"mig_pending": "mig_current", "ecc_pending": "ecc_current"}
# what no GPU description need say; null is N/A
DEFAULTS: dict[str, Any] = {
    "memory_used_mib": 0, "persistence": "Disabled", "mig_current": None, "ecc_current": None, "ecc_uncorrected": 0, "remap_pending": "No",
    "remap_failure": "No", "retired_pending": None, "recovery_action": "None", "temperature": 41, "memory_temperature": None, "power_draw": 69.85,
    "utilization": 0, "fabric_state": None, "fabric_status": None, "hw_thermal_slowdown": "Not Active", "hw_power_brake_slowdown": "Not Active",
    "mig_devices": [], "lost": False, "clocks": [210, 1980], "memory_clock": 2619, "vbios": "96.00.89.00.01", "compute_cap": "9.0",
}  # fmt: skip
CONSUMER = {"ecc_uncorrected": None, "remap_pending": None, "remap_failure": None}
MODELS: dict[str, dict[str, Any]] = {
    "h100": {
        "name": "NVIDIA H100 80GB HBM3", "architecture": "Hopper", "memory_mib": 81559, "power": [200, 700], "ecc_current": "Enabled",
        "mig_current": "Disabled", "memory_temperature": 48,
    },
    "l40s": {
        "name": "NVIDIA L40S", "architecture": "Ada Lovelace", "memory_mib": 46068, "power": [100, 350], "ecc_current": "Enabled", "compute_cap": "8.9",
    },
    "p40": {"name": "Tesla P40", "architecture": "Pascal", "memory_mib": 23040, "power": [125, 250], "ecc_current": "Enabled", "compute_cap": "6.1"},
    "rtx4080s": {
        **CONSUMER, "name": "NVIDIA GeForce RTX 4080 SUPER", "architecture": "Ada Lovelace", "memory_mib": 16376, "power": [150, 400],
        "compute_cap": "8.9",
    },
    "rtx2080s": {
        **CONSUMER, "name": "NVIDIA GeForce RTX 2080 SUPER", "architecture": "Turing", "memory_mib": 8192, "power": [105, 350], "compute_cap": "7.5",
    },
}  # fmt: skip
# MIG profiles of an H100 80GB: number, seventh parts of the processors, eighth parts of the memory
PROFILES = {
    "1g.10gb": (19, 1, 1), "1g.20gb": (15, 1, 2), "2g.20gb": (14, 2, 2), "3g.40gb": (9, 3, 4), "4g.40gb": (5, 4, 4), "7g.80gb": (0, 7, 8),
}  # fmt: skip
LONG = {"--id": "-i", "--list-gpus": "-L", "--query": "-q", "--xml-format": "-x", "--persistence-mode": "-pm", "--power-limit": "-pl"}


class Failed(Exception):
    """nvidia-smi ends with a text and a status."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.text = text
        self.status = status


def invalid() -> Failed:
    """What the arguments say makes no sense."""
    return Failed(f"Invalid combination of input arguments. {HELP}\n", 2)


def read_text(path: str) -> str:
    """The content of a file; nothing when there is none."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


class Host:
    """The host that is described, with what was set on it since."""

    def __init__(self) -> None:
        self.scenario: dict[str, Any] = json.loads((FOLDER / "smi.json").read_text(encoding="utf-8"))
        proc = self.scenario.get("proc_dir", "/proc")
        self.loaded = self.scenario.get("driver_version", "")
        if self.loaded == "loaded":
            found = re.search(r"Kernel Module\s+(?:for \S+\s+)?([0-9]+(?:\.[0-9]+)+)", read_text(f"{proc}/driver/nvidia/version"))
            self.loaded = found[1] if found else ""
        library = self.scenario.get("library_version_file", "")
        self.library = (read_text(library).strip() if library else self.scenario.get("library_version", "")) or self.loaded
        self.boot_id = read_text(f"{proc}/sys/kernel/random/boot_id").strip()
        self.state = self._state()
        self.gpus = [self._gpu(index, gpu) for index, gpu in enumerate(self.scenario.get("gpus", []))]

    def _state(self) -> dict[str, Any]:
        """What was set; after a reboot only what the boards keep is left, and takes effect."""
        state = json.loads(read_text(str(FOLDER / "state.json")) or "{}")
        if state and state["boot_id"] != self.boot_id:
            kept = {}
            for uuid, values in state["gpus"].items():
                kept[uuid] = {key: value for key, value in values.items() if key in PENDING}
                kept[uuid].update({PENDING[key]: value for key, value in kept[uuid].items()})
                # a layout goes with the boot, the one of the description too
                kept[uuid]["mig_devices"] = []
            return {"boot_id": self.boot_id, "gpus": kept}
        return state or {"boot_id": self.boot_id, "gpus": {}}

    def _gpu(self, index: int, described: dict[str, Any]) -> dict[str, Any]:
        gpu = {**DEFAULTS, **MODELS[described.get("model", "h100")], **described, "index": index}
        gpu.setdefault("power_limit", gpu["power"][1])
        gpu.setdefault("mig_pending", gpu["mig_current"])
        gpu.setdefault("ecc_pending", gpu["ecc_current"])
        gpu.update(self.state["gpus"].get(gpu["uuid"], {}))
        if gpu["mig_current"] == "Enabled":
            gpu.update({"remap_pending": None, "remap_failure": None, "utilization": None})
        gpu["smi_bus_id"] = f"0000{gpu['bus_id'].upper()}"
        gpu["processes"] = [process for process in self.scenario.get("processes", []) if process["uuid"] == gpu["uuid"]]
        return gpu

    def set(self, gpu: dict[str, Any], **values: Any) -> None:
        """Keep what a GPU is told."""
        gpu.update(values)
        self.state["gpus"].setdefault(gpu["uuid"], {}).update(values)

    def save(self, arguments: list[str]) -> None:
        """Write down what was set, and the call."""
        (FOLDER / "state.json").write_text(f"{json.dumps(self.state, indent=2)}\n", encoding="utf-8")
        with (FOLDER / "calls.log").open("a", encoding="utf-8") as file:
            file.write(f"{shlex.join(arguments)}\n")

    def at_least(self, branch: int) -> bool:
        """Whether the driver is of this branch or a newer one."""
        return int(self.loaded.split(".")[0]) >= branch

    def check(self) -> None:
        """Fail as nvidia-smi does without a working driver."""
        if self.scenario.get("hang_seconds"):
            # the child keeps the output open when the parent is killed
            with subprocess.Popen(["sleep", str(self.scenario["hang_seconds"])]):
                time.sleep(self.scenario["hang_seconds"])
        if not self.loaded:
            raise Failed(NO_DRIVER, 9)
        if self.library != self.loaded:
            version = ".".join(self.library.split(".")[:2])
            raise Failed(f"Failed to initialize NVML: Driver/library version mismatch\nNVML library version: {version}\n", 18)
        if not self.gpus:
            raise Failed("No devices were found\n", 6)

    def chosen(self, selector: str | None) -> list[dict[str, Any]]:
        """The GPUs that -i names by index, UUID or address; all without it."""
        if selector is None:
            return self.gpus
        found = []
        for name in selector.split(","):
            keys = ("index", "uuid", "smi_bus_id", "bus_id")
            match = [gpu for gpu in self.gpus if name.lower() in (str(gpu[key]).lower() for key in keys)]
            if not match:
                raise Failed("No devices were found\n", 6)
            found += match
        return found


def lost(gpu: dict[str, Any]) -> str:
    """What nvidia-smi says about a GPU that has fallen off the bus."""
    return f"Unable to determine the device handle for GPU{gpu['index']}: {gpu['bus_id'].upper()}: GPU is lost.  Reboot the system to recover this GPU\n"


Value = Callable[[dict[str, Any]], Any]


def of(key: str) -> Value:
    """The value of a key."""
    return lambda gpu: gpu[key]


def watts(pick: Value) -> Value:
    """Watts, with two decimals."""
    return lambda gpu: f"{pick(gpu):.2f}"


# fields that say what a GPU is: also of one that is lost
IDENTITY = ("index", "name", "gpu_name", "uuid", "gpu_uuid", "pci.bus_id", "gpu_bus_id", "count", "driver_version", "timestamp")
# nulls of these have no brackets
BARE = ("temperature.memory", "fabric.state", "fabric.status", "gpu_recovery_action")
# the driver branch that brought a field
SINCE = {"gpu_recovery_action": 570, "fabric.state": 545, "fabric.status": 545}
ALIASES = {"gpu_name": "name", "gpu_uuid": "uuid", "gpu_bus_id": "pci.bus_id"}
# field: unit, value
FIELDS: dict[str, tuple[str, Value]] = {
    "timestamp": ("", lambda _gpu: time.strftime("%Y/%m/%d %H:%M:%S.000")),
    "driver_version": ("", of("driver_version")),
    "count": ("", of("count")),
    "name": ("", of("name")),
    "uuid": ("", of("uuid")),
    "index": ("", of("index")),
    "pci.bus_id": ("", of("smi_bus_id")),
    # nvidia_gpu_exporter asks for it whatever the driver knows
    "pci.sub_device_id": ("", lambda _gpu: "0x16C110DE"),
    "serial": ("", lambda _gpu: None),
    "vbios_version": ("", of("vbios")),
    "compute_cap": ("", of("compute_cap")),
    "compute_mode": ("", lambda _gpu: "Default"),
    "driver_model.current": ("", lambda _gpu: None),
    "driver_model.pending": ("", lambda _gpu: None),
    "persistence_mode": ("", of("persistence")),
    "mig.mode.current": ("", of("mig_current")),
    "mig.mode.pending": ("", of("mig_pending")),
    "ecc.mode.current": ("", of("ecc_current")),
    "ecc.mode.pending": ("", of("ecc_pending")),
    "ecc.errors.uncorrected.volatile.total": ("", of("ecc_uncorrected")),
    "remapped_rows.pending": ("", of("remap_pending")),
    "remapped_rows.failure": ("", of("remap_failure")),
    "retired_pages.pending": ("", of("retired_pending")),
    "gpu_recovery_action": ("", of("recovery_action")),
    "fabric.state": ("", of("fabric_state")),
    "fabric.status": ("", of("fabric_status")),
    "clocks_event_reasons.hw_thermal_slowdown": ("", of("hw_thermal_slowdown")),
    "clocks_event_reasons.hw_power_brake_slowdown": ("", of("hw_power_brake_slowdown")),
    "pstate": ("", lambda _gpu: "P0"),
    "temperature.gpu": ("", of("temperature")),
    "temperature.memory": ("", of("memory_temperature")),
    "utilization.gpu": ("%", of("utilization")),
    "utilization.memory": ("%", of("utilization")),
    "memory.total": ("MiB", of("memory_mib")),
    "memory.used": ("MiB", of("memory_used_mib")),
    "memory.free": ("MiB", lambda gpu: gpu["memory_mib"] - gpu["memory_used_mib"]),
    "power.draw": ("W", watts(of("power_draw"))),
    "power.limit": ("W", watts(of("power_limit"))),
    "enforced.power.limit": ("W", watts(of("power_limit"))),
    "power.default_limit": ("W", watts(lambda gpu: gpu["power"][1])),
    "power.min_limit": ("W", watts(lambda gpu: gpu["power"][0])),
    "power.max_limit": ("W", watts(lambda gpu: gpu["power"][1])),
    "clocks.current.graphics": ("MHz", lambda gpu: gpu["clocks"][0]),
    "clocks.current.sm": ("MHz", lambda gpu: gpu["clocks"][0]),
    "clocks.current.memory": ("MHz", of("memory_clock")),
    "clocks.max.graphics": ("MHz", lambda gpu: gpu["clocks"][1]),
    "clocks.max.sm": ("MHz", lambda gpu: gpu["clocks"][1]),
    "clocks.max.memory": ("MHz", of("memory_clock")),
}
PROCESS_FIELDS: dict[str, tuple[str, Value]] = {
    "gpu_name": ("", of("gpu_name")),
    "gpu_uuid": ("", of("uuid")),
    "gpu_bus_id": ("", of("smi_bus_id")),
    "pid": ("", of("pid")),
    "process_name": ("", of("name")),
    "name": ("", of("name")),
    "used_gpu_memory": ("MiB", of("used_memory_mib")),
    "used_memory": ("MiB", of("used_memory_mib")),
}


def known(host: Host, name: str) -> bool:
    """Whether the driver of the description knows a field."""
    plain = ALIASES.get(name, name)
    return plain in FIELDS and plain not in host.scenario.get("unknown_fields", []) and host.at_least(SINCE.get(plain, 0))


def csv(rows: list[dict[str, Any]], query: str, formats: str, fields: dict[str, tuple[str, Value]], valid: Callable[[str], bool]) -> str:
    """The table of a query."""
    options = formats.split(",")
    if options[0] != "csv" or not set(options) <= {"csv", "noheader", "nounits"}:
        raise Failed("Format modifier is not recognized.\n", 2)
    names = [name.strip() for name in query.split(",")]
    for name in names:
        if not valid(name):
            raise Failed(f'Field "{name}" is not a valid field to query.\n\n', 2)
    # a column is headed by the field's first name, whatever it was asked by
    names = [name if name in fields else ALIASES[name] for name in names]
    columns = [(name, *fields[name]) for name in names]
    lines = [] if "noheader" in options else [", ".join(f"{name} [{unit}]" if unit else name for name, unit, _value in columns)]
    for row in rows:
        cells = []
        for name, unit, value in columns:
            if row.get("lost") and name not in IDENTITY:
                cells.append("[GPU is lost]")
                continue
            cell = value(row)
            if cell is None:
                cells.append("N/A" if name in BARE else "[N/A]")
            else:
                cells.append(f"{cell} {unit}" if unit and "nounits" not in options else str(cell))
        lines.append(", ".join(cells))
    return "".join(f"{line}\n" for line in lines)


def query_gpus(host: Host, query: str, formats: str, selector: str | None) -> str:
    """--query-gpu"""
    rows = [{**gpu, "driver_version": host.loaded, "count": len(host.gpus)} for gpu in host.chosen(selector)]
    return csv(rows, query, formats, FIELDS, lambda name: known(host, name))


def query_processes(host: Host, query: str, formats: str, selector: str | None) -> str:
    """--query-compute-apps"""
    rows = [
        {"used_memory_mib": None, **process, "gpu_name": gpu["name"], "smi_bus_id": gpu["smi_bus_id"]}
        for gpu in host.chosen(selector) for process in gpu["processes"]
    ]  # fmt: skip
    return csv(rows, query, formats, PROCESS_FIELDS, lambda name: name in PROCESS_FIELDS)


def list_gpus(host: Host, selector: str | None) -> str:
    """-L"""
    text = ""
    for gpu in host.chosen(selector):
        if gpu["lost"]:
            text += lost(gpu)
            continue
        text += f"GPU {gpu['index']}: {gpu['name']} (UUID: {gpu['uuid']})\n"
        for number, device in enumerate(gpu["mig_devices"] if gpu["mig_current"] == "Enabled" else []):
            if device.get("uuid"):
                text += f"  MIG {device['profile']:<12} Device {number:>2}: (UUID: {device['uuid']})\n"
    return text


def help_fields(host: Host) -> str:
    """--help-query-gpu"""
    text = 'List of valid properties to query for the switch "--query-gpu=":\n'
    for name in FIELDS:
        if known(host, name):
            other = next((f' or "{alias}"' for alias, plain in ALIASES.items() if plain == name), "")
            text += f'\n"{name}"{other}\nA value of the stand-in for nvidia-smi.\n'
    return text


def versions(host: Host) -> str:
    """--version"""
    cuda = host.scenario.get("cuda_version", "13.0")
    return f"NVIDIA-SMI version  : {host.library}\nNVML version        : {host.library}\nDRIVER version      : {host.loaded}\nCUDA Version        : {cuda}\n"


def element(name: str, value: Any, unit: str = "") -> str:
    """An XML element; null is N/A."""
    text = "N/A" if value is None else f"{value} {unit}".strip()
    return f"<{name}>{xml.sax.saxutils.escape(text)}</{name}>"


def group(name: str, *parts: str) -> str:
    """An XML element with others in it."""
    return f"<{name}>\n{''.join(f'{part}{chr(10)}' for part in parts)}</{name}>"


def xml_gpu(host: Host, gpu: dict[str, Any]) -> str:
    """The element of a GPU; where a name has several parents here, it has them in the real document."""
    away = gpu["lost"]

    def live(name: str, value: Any, unit: str = "") -> str:
        return element(name, "GPU is lost") if away else element(name, value, unit)

    mig = [
        group("mig_device", element("index", number), element("gpu_instance_id", device.get("id", number + 1)), element("compute_instance_id", 0))
        for number, device in enumerate(gpu["mig_devices"]) if device.get("uuid")
    ]  # fmt: skip
    reason = "clocks_event_reason"
    rows = (element("remapped_row_pending", gpu["remap_pending"]), element("remapped_row_failure", gpu["remap_failure"]))
    nothing = element("remapped_rows", "GPU is lost" if away else None)
    parts = [
        element("product_name", gpu["name"]),
        element("product_architecture", gpu["architecture"]),
        element("display_mode", "Requested functionality has been deprecated"),
        element("persistence_mode", gpu["persistence"]),
        group("mig_mode", element("current_mig", gpu["mig_current"]), element("pending_mig", gpu["mig_pending"])),
        group("mig_devices", *mig) if mig and gpu["mig_current"] == "Enabled" else element("mig_devices", "None"),
        element("uuid", gpu["uuid"]),
        element("minor_number", gpu["index"]),
        *([element("gpu_recovery_action", gpu["recovery_action"])] if known(host, "gpu_recovery_action") else []),
        group("pci", element("pci_bus_id", gpu["smi_bus_id"])),
        group(
            f"{reason}s",
            live(f"{reason}_hw_thermal_slowdown", gpu["hw_thermal_slowdown"]),
            live(f"{reason}_hw_power_brake_slowdown", gpu["hw_power_brake_slowdown"]),
        ),
        group("fb_memory_usage", live("total", gpu["memory_mib"], "MiB"), live("used", gpu["memory_used_mib"], "MiB")),
        group("bar1_memory_usage", element("total", 131072, "MiB"), element("used", 1, "MiB")),
        group("utilization", live("gpu_util", gpu["utilization"], "" if gpu["utilization"] is None else "%")),
        group("ecc_mode", element("current_ecc", gpu["ecc_current"]), element("pending_ecc", gpu["ecc_pending"])),
        group("ecc_errors", *(group(when, *xml_ecc(gpu, when, live)) for when in ("volatile", "aggregate"))),
        group("retired_pages", element("pending_retirement", gpu["retired_pending"])),
        nothing if away or gpu["remap_pending"] is None else group("remapped_rows", *rows),
        group("temperature", live("gpu_temp", gpu["temperature"], "C"), element("gpu_temp_slow_tlimit_threshold", -2, "C")),
        group(
            "gpu_power_readings",
            live("average_power_draw", f"{gpu['power_draw']:.2f}", "W"),
            live("instant_power_draw", f"{gpu['power_draw']:.2f}", "W"),
            element("current_power_limit", f"{gpu['power_limit']:.2f}", "W"),
        ),
        group("module_power_readings", element("average_power_draw", None), element("current_power_limit", None)),
        group("clocks", live("sm_clock", gpu["clocks"][0], "MHz")),
        group("max_clocks", element("sm_clock", gpu["clocks"][1], "MHz")),
        *([group("fabric", live("state", gpu["fabric_state"]), live("status", gpu["fabric_status"]))] if known(host, "fabric.state") else []),
        group("processes", *map(xml_process, gpu["processes"])),
    ]
    return f'<gpu id="{gpu["smi_bus_id"]}">\n' + "".join(f"{part}\n" for part in parts) + "</gpu>"


def xml_ecc(gpu: dict[str, Any], when: str, live: Callable[..., str]) -> list[str]:
    """Counts of errors; those of the board's whole life hold more than those since the driver was loaded."""
    count = gpu["ecc_uncorrected"]
    return [
        element("sram_uncorrectable_parity", None if count is None else 0),
        element("sram_uncorrectable_secded", None if count is None else 0),
        live("dram_uncorrectable", count if when == "volatile" or count is None else count + 3),
    ]


def xml_process(process: dict[str, Any]) -> str:
    """The element of a process."""
    used = process.get("used_memory_mib")
    return group(
        "process_info",
        element("pid", process["pid"]),
        element("type", process.get("type", "C")),
        element("process_name", process["name"]),
        element("used_memory", used, "" if used is None else "MiB"),
    )


def document(host: Host, selector: str | None) -> str:
    """-q -x"""
    version = 13 if host.at_least(580) else 12
    return (
        f'<?xml version="1.0" ?>\n<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v{version}.dtd">\n<nvidia_smi_log>\n'
        + "".join(
            f"{part}\n"
            for part in (
                element("timestamp", time.strftime("%a %b %e %H:%M:%S %Y")),
                element("driver_version", host.loaded),
                element("cuda_version", host.scenario.get("cuda_version", "13.0")),
                element("attached_gpus", len(host.gpus)),
                *(xml_gpu(host, gpu) for gpu in host.chosen(selector)),
            )
        )
        + "</nvidia_smi_log>\n"
    )


def on_or_off(value: str) -> str:
    """The word for a mode."""
    if value.upper() not in ON:
        raise invalid()
    return ON[value.upper()]


def set_persistence(host: Host, gpu: dict[str, Any], value: str) -> str:
    """-pm"""
    wanted = on_or_off(value)
    text = f"Persistence mode is already {wanted}" if gpu["persistence"] == wanted else f"{wanted} persistence mode"
    host.set(gpu, persistence=wanted)
    return f"{text} for GPU {gpu['smi_bus_id']}.\n"


def set_power(host: Host, gpu: dict[str, Any], value: str) -> str:
    """-pl"""
    least, most = gpu["power"]
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
        raise invalid()
    if not least <= float(value) <= most:
        raise Failed(
            f"Provided power limit {float(value):.2f} W is not a valid power limit which should be between {least:.2f} W and {most:.2f} W "
            f"for GPU {gpu['smi_bus_id']}\nTerminating early due to previous errors.\n",
            2,
        )
    was = gpu["power_limit"]
    host.set(gpu, power_limit=float(value))
    return f"Power limit for GPU {gpu['smi_bus_id']} was set to {float(value):.2f} W from {was:.2f} W.\n"


def lock_clocks(what: str, key: str) -> Callable[[Host, dict[str, Any], str], str]:
    """-lgc and -lmc: one clock, or the least and the highest."""

    def lock(host: Host, gpu: dict[str, Any], value: str) -> str:
        if not re.fullmatch(r"[0-9]+(,[0-9]+)?", value):
            raise invalid()
        clocks = [int(number) for number in value.split(",")]
        host.set(gpu, **{key: [clocks[0], clocks[-1]]})
        return f'{what} clocks set to "({what.lower()}ClkMin {clocks[0]}, {what.lower()}ClkMax {clocks[-1]})" for GPU {gpu["smi_bus_id"]}\n'

    return lock


def reset_clocks(host: Host, gpu: dict[str, Any], _value: str) -> str:
    """-rgc"""
    host.set(gpu, locked_clocks=None)
    return f"GPU clocks of {gpu['smi_bus_id']} are reset.\n"


def set_ecc(host: Host, gpu: dict[str, Any], value: str) -> str:
    """-e"""
    wanted = on_or_off(value)
    if gpu["ecc_current"] is None:
        raise Failed(f"ECC configuration not supported for GPU {gpu['smi_bus_id']}.\n", 3)
    host.set(gpu, ecc_pending=wanted)
    return f"{wanted} ECC support for GPU {gpu['smi_bus_id']}.\nReboot required.\n"


def set_mig(host: Host, gpu: dict[str, Any], value: str) -> str:
    """-mig: at once where nobody uses the GPU, else after the next boot."""
    wanted = on_or_off(value)
    if gpu["mig_current"] is None:
        raise Failed(f"Unable to {'enable' if wanted == 'Enabled' else 'disable'} MIG Mode for GPU {gpu['smi_bus_id']}: Not Supported\n", 3)
    if gpu["mig_devices"] and wanted == "Disabled":
        raise Failed(f"Unable to disable MIG Mode for GPU {gpu['smi_bus_id']}: In use by another client\n", 19)
    host.set(gpu, mig_pending=wanted)
    verb = "enable" if wanted == "Enabled" else "disable"
    if gpu["processes"] or gpu.get("mig_needs_reboot"):
        return f"Warning: MIG mode is in pending {verb} state for GPU {gpu['smi_bus_id']}:In use by another client\n"
    host.set(gpu, mig_current=wanted)
    return f"{wanted} MIG Mode for GPU {gpu['smi_bus_id']}\n"


WRITES: dict[str, tuple[int, Callable[[Host, dict[str, Any], str], str]]] = {
    "-pm": (1, set_persistence),
    "-pl": (1, set_power),
    "-lgc": (1, lock_clocks("GPU", "locked_clocks")),
    "-lmc": (1, lock_clocks("Memory", "locked_memory_clocks")),
    "-rgc": (0, reset_clocks),
    "-e": (1, set_ecc),
    "-mig": (1, set_mig),
}


def with_mig(host: Host, selector: str | None) -> list[dict[str, Any]]:
    """The chosen GPUs that MIG is on for."""
    found = [gpu for gpu in host.chosen(selector) if gpu["mig_current"] == "Enabled"]
    if not found:
        raise Failed("No MIG-enabled devices found.\n", 6)
    return found


def mig_list(host: Host, selector: str | None) -> str:
    """mig -lgi; where there is nothing to list, that is no failure."""
    if not any(gpu["mig_current"] == "Enabled" for gpu in host.chosen(selector)):
        return "No MIG-enabled devices found.\n"
    rows = [
        f"|  {gpu['index']:>2}  MIG {device['profile']:<12} {PROFILES[device['profile']][0]:>4} {device['id']:>8}  |\n"
        for gpu in with_mig(host, selector) for device in gpu["mig_devices"]
    ]  # fmt: skip
    if not rows:
        raise Failed("No GPU instances found: Not Found\n", 6)
    return "| GPU instances:                        |\n" + "".join(rows)


def mig_create(host: Host, selector: str | None, wanted: str, compute: bool) -> str:
    """mig -cgi, with -C the compute instances too: without them there is no device to use."""
    names = [next((name for name, (number, *_size) in PROFILES.items() if entry in (name, str(number))), "") for entry in wanted.split(",")]
    text = ""
    for gpu in with_mig(host, selector):
        devices = [dict(device) for device in gpu["mig_devices"]]
        for name in names:
            used = [PROFILES[device["profile"]] for device in devices]
            if not name:
                raise Failed(f"Unable to create a GPU instance on GPU {gpu['index']:>2} using profile {wanted}: Not Supported\n", 3)
            number, processors, memory = PROFILES[name]
            if sum(size[1] for size in used) + processors > 7 or sum(size[2] for size in used) + memory > 8:
                raise Failed(f"Unable to create a GPU instance on GPU {gpu['index']:>2} using profile {number}: Insufficient Resources\n", 19)
            place = next(number for number in range(1, 15) if number not in {device["id"] for device in devices})
            device = {"profile": name, "id": place, "uuid": mig_uuid(gpu["uuid"], place, name) if compute else ""}
            devices.append(device)
            text += f"Successfully created GPU instance ID {place:>2} on GPU {gpu['index']:>2} using profile MIG {name} (ID {number:>2})\n"
            if compute:
                where = f"GPU {gpu['index']:>2} GPU instance ID {place:>2}"
                text += f"Successfully created compute instance ID  0 on {where} using profile MIG {name} (ID {number:>2})\n"
        host.set(gpu, mig_devices=devices)
    return text


def mig_uuid(uuid: str, place: int, profile: str) -> str:
    """The same placement on the same GPU has the same UUID."""
    digits = hashlib.sha256(f"{uuid}/{place}/{profile}".encode()).hexdigest()
    return f"MIG-{digits[:8]}-{digits[8:12]}-5{digits[12:15]}-8{digits[15:18]}-{digits[18:30]}"


def mig_destroy(host: Host, selector: str | None, compute: bool) -> str:
    """mig -dci and mig -dgi: first the compute instances, then the GPU instances."""
    text = ""
    for gpu in with_mig(host, selector):
        devices = [dict(device) for device in gpu["mig_devices"] if bool(device.get("uuid")) or not compute]
        if not devices:
            raise Failed(f"No {'compute' if compute else 'GPU'} instances found: Not Found\n", 6)
        what = "compute" if compute else "GPU"
        if gpu["processes"] or (not compute and any(device.get("uuid") for device in devices)):
            raise Failed(f"Unable to destroy {what} instance ID {devices[0].get('id', 1):>2} from GPU {gpu['index']:>2}: In use by another client\n", 19)
        text += "".join(f"Successfully destroyed {what} instance ID {device.get('id', 1):>2} from GPU {gpu['index']:>2}\n" for device in devices)
        host.set(gpu, mig_devices=[{**device, "uuid": ""} for device in gpu["mig_devices"]] if compute else [])
    return text


def options(arguments: list[str], values: dict[str, int]) -> dict[str, str]:
    """Options with the number of their values, each at most once. Long ones have their value behind an equals sign."""
    found: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        name = rest.pop(0)
        if name.startswith("--"):
            name, _equals, value = name.partition("=")
            name = LONG.get(name, name)
        else:
            value = rest.pop(0) if values.get(name) and rest else ""
        if name not in values and name.startswith("-"):
            raise Failed(f"ERROR: Option {name} is not recognized. Please run 'nvidia-smi -h'.\n\n", 255)
        if name not in values or name in found or bool(value) != bool(values[name]):
            raise invalid()
        found[name] = value
    return found


def mig(host: Host, arguments: list[str]) -> str:
    """The mode C(nvidia-smi mig)."""
    found = options(arguments, {"-lgi": 0, "-cgi": 1, "-C": 0, "-dci": 0, "-dgi": 0, "-i": 1})
    selector = found.pop("-i", None)
    names = set(found)
    if names == {"-lgi"}:
        return mig_list(host, selector)
    if names in ({"-cgi"}, {"-cgi", "-C"}):
        return mig_create(host, selector, found["-cgi"], "-C" in found)
    if names in ({"-dci"}, {"-dgi"}):
        return mig_destroy(host, selector, names == {"-dci"})
    raise invalid()


def ask(host: Host, arguments: list[str]) -> str:
    """Answer a question, or set something. Failed when it is neither."""
    if arguments[:1] == ["mig"]:
        host.check()
        text = mig(host, arguments[1:])
        if "-lgi" not in arguments:
            host.save(arguments)
        return text
    queries = {"--query-gpu": 1, "--query-compute-apps": 1, "--format": 1}
    writes = {name: count for name, (count, _do) in WRITES.items()}
    found = options(arguments, {"-L": 0, "-q": 0, "-x": 0, "-i": 1, "--help-query-gpu": 0, "--version": 0, **queries, **writes})
    host.check()
    selector = found.pop("-i", None)
    names = set(found)
    if not names and selector is None:
        return f"NVIDIA-SMI {host.library}  Driver Version: {host.loaded}  CUDA Version: {host.scenario.get('cuda_version', '13.0')}\n{list_gpus(host, None)}"
    if names == {"-L"} and selector is not None:
        raise Failed(f"ERROR: Option -i is not valid for this command. {HELP}\n\n", 2)
    if names == {"-L"}:
        return list_gpus(host, selector)
    if names == {"-q", "-x"}:
        return document(host, selector)
    if names == {"--help-query-gpu"}:
        return help_fields(host)
    if names == {"--version"}:
        return versions(host)
    if names == {"--query-gpu", "--format"}:
        return query_gpus(host, found["--query-gpu"], found["--format"], selector)
    if names == {"--query-compute-apps", "--format"}:
        return query_processes(host, found["--query-compute-apps"], found["--format"], selector)
    if len(names) == 1 and names <= set(WRITES):
        name = names.pop()
        text = "".join(WRITES[name][1](host, gpu, found[name]) for gpu in host.chosen(selector))
        host.save(arguments)
        return f"{text}All done.\n"
    raise invalid()


def main(arguments: list[str]) -> int:
    """Answer; the status is the one of NVML."""
    try:
        host = Host()
        text = ask(host, arguments)
    except Failed as failed:
        sys.stdout.write(failed.text)
        return failed.status
    sys.stdout.write(text)
    away = [gpu for gpu in host.gpus if gpu["lost"]]
    if away:
        # the others were told all the same
        sys.stderr.write("".join(map(lost, away)))
        return 15
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
