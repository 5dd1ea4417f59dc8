# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Writes the state of NVIDIA's driver and GPUs for node_exporter's textfile collector.

usage: gpu_metrics.py CONFIG
CONFIG is a JSON file: {"output": "/var/lib/prometheus/node-exporter/gpufleet_gpu.prom", "dev_dir": "/dev", "proc_dir": "/proc", "sys_dir": "/sys",
"root_dir": "/", "command": "nvidia-smi", "expected_count": 8, "max_temperature": 90 and the other options of module gpu_info}, of which output
alone must be there.

It looks with the library of module gpu_info, which lies beside it. The file is written whole or not at all: when something goes wrong, the old one
stays, and its age tells.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

# the role installs the library beside this file, in the folders of its own name
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

# pylint: disable=wrong-import-position
from ansible_collections.gpufleet.ollama.plugins.module_utils import _driver_state, _gpu_state, _pci  # noqa: E402

VERDICTS = ("ok", "warn", "fail", "none")
LEVELS = ("fail", "warn", "unknown")
# as text in a label: a host that is in a bad way must not fill Prometheus
MAX_REASONS = 8
MAX_TEXT = 160

Sample = tuple[dict[str, str], float]


def branch(version: str) -> str:
    """580 of 580.95.05."""
    return version.partition(".")[0]


def families(state: dict[str, Any], expected_count: int, now: float) -> list[tuple[str, str, list[Sample]]]:
    """Name, help and samples of each metric; all are gauges. C(state) is what module gpu_info tells."""
    driver, smi = state["driver"], state["smi"]
    loaded, installed = driver["loaded"], driver["installed"]
    flavour = {True: "open", False: "proprietary"}.get(driver["open"], "")
    info = {"loaded": loaded, "installed": installed, "branch": branch(loaded or installed), "flavour": flavour}
    mismatch = bool(loaded and installed and loaded != installed) or bool(loaded and smi["driver_version"] and loaded != smi["driver_version"])
    reasons, verdict = state["health"]["reasons"], state["health"]["verdict"]
    reboot = state["reboot_reasons"]
    return [
        ("gpu_driver_info", "Version of the driver that is loaded and of the one that is installed for the running kernel.", [(info, 1)]),
        ("gpu_driver_loaded", "Whether NVIDIA's driver is loaded.", [({}, bool(loaded))]),
        (
            "gpu_driver_mismatch", "Whether the driver that is loaded is another than the one that is installed, or than its programs.",
            [({}, mismatch or smi["status"] == _driver_state.MISMATCH)],
        ),
        ("gpu_count", "GPUs of NVIDIA on the PCI bus, those that are given to a virtual machine left out.", [({}, len(_pci.nvidia_devices(state["devices"])))]),
        ("gpu_expected_count", "GPUs that the host must have; 0 when nobody said.", [({}, expected_count)]),
        ("gpu_usable_count", "GPUs that nvidia-smi lists, those that it has lost left out.", [({}, sum(not gpu["errors"] for gpu in smi["gpus"]))]),
        ("gpu_smi_success", "Whether nvidia-smi answered.", [({}, smi["status"] == 0)]),
        ("gpu_health", "The verdict about the GPUs of the host: 1 for the one that holds.", [({"verdict": name}, name == verdict) for name in VERDICTS]),
        (
            "gpu_health_reasons", "How many reasons there are for the verdict.",
            [({"level": level}, sum(reason["level"] == level for reason in reasons)) for level in LEVELS],
        ),
        (
            "gpu_health_reason_info", f"The first {MAX_REASONS} reasons that count.",
            _texts([f"{reason['gpu']}: {reason['text']}" if reason["gpu"] else reason["text"] for reason in reasons if reason["level"] != "unknown"]),
        ),
        ("gpu_reboot_required", "Whether the host must be rebooted.", [({}, bool(reboot))]),
        ("gpu_reboot_reasons", "How many reasons there are to reboot.", [({}, len(reboot))]),
        ("gpu_reboot_reason_info", f"The first {MAX_REASONS} reasons to reboot.", _texts(reboot)),
        (
            "gpu_xid_errors", "XID errors in the kernel's log, since boot or as far as the log goes back.",
            [({"bus_id": found["bus_id"], "xid": str(found["xid"])}, found["count"]) for found in state["xids"]],
        ),
        ("gpu_state_timestamp_seconds", "When this was written.", [({}, now)]),
    ]


def _texts(reasons: list[str]) -> list[Sample]:
    """Reasons as labels, each once: two samples with the same labels would cost the whole file."""
    return [({"reason": text}, 1) for text in list(dict.fromkeys(reason[:MAX_TEXT] for reason in reasons))[:MAX_REASONS]]


def render(state: dict[str, Any], expected_count: int, now: float) -> str:
    """The text format of Prometheus."""
    lines = []
    for name, text, samples in families(state, expected_count, now):
        lines += [f"# HELP {name} {text}", f"# TYPE {name} gauge"]
        for labels, value in samples:
            inner = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
            number = f"{value:.3f}" if isinstance(value, float) else str(int(value))
            lines.append(f"{name}{{{inner}}} {number}" if inner else f"{name} {number}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    # what a driver says need not be UTF-8
    clean = text.encode("utf-8", "replace").decode("utf-8")
    return clean.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def write(path: str, text: str) -> None:
    """Put a file into its place whole; node_exporter reads only names that end in .prom."""
    temporary = f"{path}.{os.getpid()}.new"
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o644)
        os.replace(temporary, path)
    except OSError:
        try:
            os.unlink(temporary)
        except OSError:
            pass
        raise


def main(arguments: list[str]) -> int:
    """Command line."""
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        with open(arguments[0], encoding="utf-8") as file:
            config = {**_gpu_state.DEFAULTS, **json.load(file)}
        write(config["output"], render(_gpu_state.look(config), config["expected_count"], time.time()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"gpu_metrics: cannot write the state of the GPUs: {error!r}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
