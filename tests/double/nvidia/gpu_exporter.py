# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A stand-in for nvidia_gpu_exporter, where the real one cannot be had. See README.md beside it.

It asks nvidia-smi as the real one does, and says the same about the fields that the stand-in for nvidia-smi knows. An argument that it does not know
is an error.
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

STATES = {
    "Enabled": 1, "Disabled": 0, "Yes": 1, "No": 0, "Active": 1, "Not Active": 0,
}  # fmt: skip
ENUMS: dict[str, list[str]] = {
    "gpu_recovery_action": ["None", "Reset", "Reboot", "Drain P2P", "Drain and Reset"],
    "fabric.state": ["Not Supported", "Not Started", "In Progress", "Completed"],
    "compute_mode": ["Default", "Exclusive_Thread", "Prohibited", "Exclusive_Process"],
}
UNITS = {"MiB": ("bytes", float(1 << 20)), "MHz": ("clock_hz", 1e6), "W": ("watts", 1.0), "%": ("ratio", 0.01)}
# label of gpu_info: field
INFO = {
    "compute_cap": "compute_cap", "driver_model_current": "driver_model.current", "driver_model_pending": "driver_model.pending",
    "driver_version": "driver_version", "index": "index", "name": "name", "pci_bus_id": "pci.bus_id", "pci_sub_device_id": "pci.sub_device_id",
    "serial": "serial", "uuid": "uuid", "vbios_version": "vbios_version",
}  # fmt: skip


def run(command: list[str], seconds: float) -> tuple[int, str]:
    """Status (-1: given up) and output of nvidia-smi."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True) as process:
        try:
            return process.wait(seconds), process.stdout.read() if process.stdout else ""
        except subprocess.TimeoutExpired:
            process.kill()
            # its child keeps the pipe open
            if process.stdout:
                process.stdout.close()
            return -1, ""


def number(field: str, text: str) -> float | None:
    """A value as a number; None for what is none."""
    if field in ENUMS:
        return ENUMS[field].index(text) if text in ENUMS[field] else None
    if field == "name":
        # the real one takes the only number in it for a value
        found = re.findall(r"[0-9]+", text)
        return float(found[0]) if len(found) == 1 else None
    if text in STATES:
        return STATES[text]
    if re.fullmatch(r"P[0-9]+", text):
        return int(text[1:])
    if re.fullmatch(r"0x[0-9A-F]+", text):
        return int(text, 16)
    return float(text) if re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", text) else None


class Exporter:
    """Asks nvidia-smi at each scrape."""

    def __init__(self, command: str, seconds: float) -> None:
        self.command = shlex.split(command)
        self.seconds = seconds
        self.failures = 0
        self.last_success = 0.0
        self.lock = threading.Lock()
        _status, text = run([*self.command, "--help-query-gpu"], seconds)
        self.fields = re.findall(r'^"([a-z_.0-9]+)"', text, re.M)
        found = re.search(r"^CUDA Version +: (\S+)", run([*self.command, "--version"], seconds)[1], re.M)
        self.cuda = found[1] if found else ""

    def metrics(self) -> str:
        """The answer to a scrape."""
        with self.lock:
            begin = time.monotonic()
            status, text = run([*self.command, f"--query-gpu={','.join(self.fields)}", "--format=csv"], self.seconds)
            lines = self._gpus(text) if status == 0 else []
            self.failures += status != 0
            self.last_success = self.last_success if status else time.time()
            lines += [
                f"nvidia_smi_command_exit_code {status}",
                f"nvidia_smi_failed_scrapes_total {self.failures}",
                f"nvidia_smi_last_collect_duration_seconds {time.monotonic() - begin:.6f}",
                f"nvidia_smi_last_collect_success {int(status == 0)}",
            ]
            if self.last_success:
                lines.append(f"nvidia_smi_last_collect_success_timestamp_seconds {self.last_success:.0f}")
        return "".join(f"{line}\n" for line in sorted(lines))

    def _gpus(self, text: str) -> list[str]:
        header, *rows = [line.split(", ") for line in text.splitlines()]
        lines = []
        for row in rows:
            values = dict(zip(self.fields, row))
            # the real one leaves the prefix out
            uuid = values["uuid"].removeprefix("GPU-").lower()
            labels = {**{label: values[field] for label, field in INFO.items()}, "uuid": uuid, "cuda_version": self.cuda}
            lines.append(f"nvidia_smi_gpu_info{{{','.join(f'{key}={chr(34)}{labels[key]}{chr(34)}' for key in sorted(labels))}}} 1")
            for field, column in zip(self.fields, header):
                unit = column[len(field):].strip(" []")
                value = number(field, values[field].removesuffix(f" {unit}") if unit else values[field])
                if value is not None:
                    suffix, factor = UNITS.get(unit, ("", 1.0))
                    name = "_".join(part for part in (field.replace(".", "_"), suffix) if part)
                    lines.append(f'nvidia_smi_{name}{{uuid="{uuid}"}} {value * factor:.10g}')
        return lines


class Handler(BaseHTTPRequestHandler):
    """One path."""

    server: Any

    def do_GET(self) -> None:  # pylint: disable=invalid-name
        """The metrics."""
        if self.path != "/metrics":
            self.send_error(404)
            return
        body = self.server.exporter.metrics().encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Stay quiet."""


def main() -> int:
    """Serve until the end."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--web.listen-address", dest="address", required=True)
    parser.add_argument("--nvidia-smi-command", dest="command", default="nvidia-smi")
    parser.add_argument("--collect.timeout", dest="timeout", default="10s")
    arguments = parser.parse_args()
    host, _colon, port = arguments.address.rpartition(":")
    server: Any = ThreadingHTTPServer((host.strip("[]"), int(port)), Handler)
    server.exporter = Exporter(arguments.command, float(arguments.timeout.removesuffix("s")))
    server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
