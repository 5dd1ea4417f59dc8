"""Record what the real nvidia_gpu_exporter says when it asks the stand-in for nvidia-smi in its scenarios.

usage: record.py EXPORTER [SCENARIO ...]     EXPORTER is the binary of nvidia_gpu_exporter; without scenarios those of ALERTS

Writes recorded/SCENARIO.prom, whose first line says which alerts that must lead to. Only what it says about GPUs is kept, and its help is not.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent
NVIDIA = HERE.parent / "double/nvidia"
# scenario of the stand-in -> the alerts that must fire, and no others
ALERTS = {
    "healthy": "",
    "consumer": "",
    "mig": "",
    "two_part_version": "",
    "ecc": "GpuUncorrectableErrors",
    "hot": "GpuHot GpuThermalSlowdown",
    "recovery": "GpuRecoveryAction",
    "remap": "GpuRowRemapFailed GpuRowRemapPending",
    "lost": "GpuCollectionFailing",
    "mismatch": "GpuCollectionFailing",
    "no_driver": "GpuCollectionFailing",
    "hang": "GpuCollectionFailing",
}


def free_port() -> int:
    """A port that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def record(exporter: str, scenario: str) -> str:
    """The metrics of one scrape."""
    with tempfile.TemporaryDirectory() as folder:
        # which fields there are it asks at its start, when all is well
        begin = "healthy" if ALERTS[scenario] == "GpuCollectionFailing" else scenario
        play(folder, begin)
        url = f"127.0.0.1:{free_port()}"
        command = [
            exporter, f"--web.listen-address={url}", "--collect.timeout=3s", f"--nvidia-smi-command={sys.executable} {NVIDIA / 'nvidia_smi.py'}",
        ]
        with subprocess.Popen(command, env={**os.environ, "NVIDIA_STANDIN_DIR": folder}, stderr=subprocess.DEVNULL) as process:
            try:
                scrape(f"http://{url}/metrics")
                play(folder, scenario)
                text = scrape(f"http://{url}/metrics")
            finally:
                process.terminate()
    samples = [line for line in text.splitlines() if line.startswith("nvidia_smi_")]
    return f"# alerts: {ALERTS[scenario]}".rstrip() + "\n" + "".join(f"{line}\n" for line in samples)


def play(folder: str, scenario: str) -> None:
    """Let the stand-in for nvidia-smi play a scenario."""
    (Path(folder) / "smi.json").write_text((NVIDIA / f"scenarios/{scenario}.json").read_text(encoding="utf-8"), encoding="utf-8")


def scrape(url: str) -> str:
    """What it answers, once it does."""
    until = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                return answer.read().decode()
        except urllib.error.URLError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def main(arguments: list[str]) -> int:
    """Command line."""
    if not arguments or not set(arguments[1:]) <= set(ALERTS):
        print(__doc__)
        return 2
    for scenario in arguments[1:] or ALERTS:
        path = HERE / f"recorded/{scenario}.prom"
        path.parent.mkdir(exist_ok=True)
        path.write_text(record(arguments[0], scenario), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
