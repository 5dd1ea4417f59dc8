"""The hosts of the scenario."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from typing import Any, Callable, Mapping

sys.path.insert(0, os.path.join(os.environ["MOLECULE_PROJECT_DIRECTORY"], "molecule/shared"))

from scenario import PROJECT, Play, on_host, play_on  # noqa: E402

# Docker 20.10, and Podman 5.4; one without a GPU, where Prometheus is
DEB12, DEB13, CPU = "gpu-host-deb12", "gpu-host-deb13", "gpu-host-cpu"
HOSTS = (DEB12, DEB13)
MADE = json.loads((PROJECT / ".cache/gpu_host/made.json").read_text(encoding="utf-8"))
PACKAGES = ["libnvidia-container-tools", "libnvidia-container1", "nvidia-container-toolkit", "nvidia-container-toolkit-base"]
TEXTFILE = "/var/lib/prometheus/node-exporter/gpufleet_gpu.prom"
KEYRING = "/usr/share/keyrings/nvidia-container-toolkit-keyring.asc"
DAEMON = "/etc/docker/daemon.json"
RELEASES = "/opt/nvidia_gpu_exporter"


def converge(hosts: Mapping[str, Mapping[str, Any]], *options: str) -> Play:
    """Run the roles on hosts, each with variables of its own."""
    return play_on(hosts, "molecule/gpu_host/converge.yml", *options)


def installed(host: str) -> dict[str, str]:
    """The packages of the toolkit and their versions."""
    lines = on_host(host).run(f"dpkg-query -W -f '${{Package}} ${{db:Status-Abbrev}}${{Version}}\\n' {' '.join(PACKAGES)}").stdout.splitlines()
    return {line.split()[0]: line.split()[2] for line in lines if line.split()[1] == "ii"}


def metrics(host: str, port: int) -> dict[str, float]:
    """What an exporter of a host says, asked over the address that Prometheus asks."""
    address = on_host(host).check_output("hostname -i").split()[0]
    text = on_host(host).check_output(f"curl -sf http://{address}:{port}/metrics")
    return {match[1]: float(match[2]) for match in re.finditer(r"^((?:nvidia_smi|gpu)_\S*?(?:\{.*\})?) (\S+)$", text, re.M)}


def left(host: str) -> list[str]:
    """What there is of the exporter and of the program that writes the state."""
    places = f"{RELEASES} /etc/systemd/system/gpu* /usr/local/lib/gpufleet/gpu_metrics /etc/gpufleet/gpu_metrics.json {TEXTFILE}"
    return on_host(host).run(f"ls -d {places} 2>/dev/null").stdout.split()


def scenario(host: str, name: str) -> None:
    """Let the stand-in for nvidia-smi play a scenario, and the state be written anew."""
    text = (PROJECT / f"tests/double/nvidia/scenarios/{name}.json").read_text(encoding="utf-8")
    on_host(host).check_output(f"cat >/etc/nvidia-standin/smi.json <<'END'\n{text}\nEND\nsystemctl start gpufleet-gpu-metrics.service")


def until(condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    """Wait for something; its value."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, what
        time.sleep(1)
