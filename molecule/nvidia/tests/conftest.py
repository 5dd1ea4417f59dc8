"""The hosts, and the role run on them with other variables."""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Mapping

sys.path.insert(0, os.path.join(os.environ["MOLECULE_PROJECT_DIRECTORY"], "molecule/shared"))

from scenario import PROJECT, Play, on_host, play_on  # noqa: E402

HOSTS = DEB12, DEB13 = "nvidia-deb12", "nvidia-deb13"
SCENARIOS = PROJECT / "tests/double/nvidia/scenarios"
UUIDS = ("GPU-00000000-aaaa-bbbb-cccc-000000000000", "GPU-00000001-aaaa-bbbb-cccc-000000000001")
PATHS = {"proc_dir": "/opt/nvidia-standin/proc", "library_version_file": "/usr/lib/nvidia-standin/library-version"}
BOARDS = "/etc/nvidia-standin/smi.json"
MARK = "/var/lib/gpufleet/nvidia-reboot.json"
LOADED = "/opt/nvidia-standin/proc/driver/nvidia/version"


def converge(hosts: Mapping[str, Mapping[str, Any]], *options: str) -> Play:
    """Run the role on hosts, each with variables of its own."""
    return play_on(hosts, "molecule/nvidia/converge.yml", *options)


def installed(host: str) -> dict[str, str]:
    """Packages of the driver and their versions."""
    listing = on_host(host).run("dpkg-query -W -f '${Package} ${Version} ${db:Status-Status}\\n' '*nvidia*' 'libcuda*'").stdout
    return {name: version for name, version, state in (line.split(" ") for line in listing.splitlines()) if state == "installed"}


def loaded(host: str) -> str:
    """What the kernel's stand-in shows of the driver that is loaded."""
    return str(on_host(host).run(f"head -1 {LOADED}").stdout)


def boots(host: str) -> str:
    """The id of the boot."""
    return str(on_host(host).check_output("cat /proc/sys/kernel/random/boot_id"))


def describe(host: str, scenario: str = "loaded", **more: Any) -> None:
    """Give the boards of a host another description; the driver stays the one that is loaded."""
    described = {**json.loads((SCENARIOS / f"{scenario}.json").read_text(encoding="utf-8")), **PATHS, **more}
    if scenario != "loaded":
        # its versions are its own
        del described["library_version_file"]
    on_host(host).check_output("echo %s >%s", json.dumps(described), BOARDS)
