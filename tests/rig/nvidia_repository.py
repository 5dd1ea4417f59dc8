"""A stand-in for NVIDIA's driver repositories of Debian 12 and 13: stub packages under the real names, signed by a throwaway key.

usage: nvidia_repository.py OUT     OUT/fingerprint is the key's; OUT/site is what developer.download.nvidia.com serves

Nothing in the packages is NVIDIA's and nothing drives a GPU. The kernel module is a file that modinfo reads and no kernel loads;
nvidia-smi is the stand-in of tests/double/nvidia. The headers of the kernel that runs are in a repository of their own, OUT/site/stand-in-kernel:
a container has its machine's kernel, of which no archive knows.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import apt_repository
import upstream

DOUBLE = upstream.DOUBLE / "nvidia"
# two of the branch that is installed, one of a later branch
VERSIONS = ("580.95.05", "580.105.08", "595.71.05")
DIRECTORIES = {"amd64": "x86_64", "arm64": "sbsa"}
# the names of the key's file, as the real repositories have them
KEYS = {"debian12": "3bf863cc.pub", "debian13": "8793F200.pub"}

# What dkms does when a module's package comes or goes: it builds for the kernel that runs, if that has headers, and goes on without a word if not.
BUILD = """#!/bin/sh
set -e
kernel=$(uname -r)
if [ "$1" = configure ] && [ -e "/lib/modules/$kernel/build/Makefile" ]; then
    python3 /usr/lib/nvidia-standin/module.py {version} {flavor} "/lib/modules/$kernel/updates/dkms/nvidia.ko"
    depmod "$kernel"
fi
"""
CLEAN = """#!/bin/sh
set -e
kernel=$(uname -r)
rm -f "/lib/modules/$kernel/updates/dkms/nvidia.ko"
[ ! -d "/lib/modules/$kernel" ] || depmod "$kernel"
"""
# as debhelper has it: a daemon that cannot start yet does not break the installation
START = """#!/bin/sh
set -e
systemctl daemon-reload
systemctl enable {unit} >/dev/null 2>&1
systemctl restart {unit} || true
"""
STOP = """#!/bin/sh
set -e
[ "$1" != remove ] || systemctl disable --now {unit} >/dev/null 2>&1 || true
"""
UNIT = """[Unit]
Description={description}
Wants=syslog.target
After=nvidia-standin.service

[Service]
ExecStart={command}

[Install]
WantedBy=multi-user.target
"""
# both daemons need the driver, and the fabric manager its very version
DAEMON = """#!/bin/sh
# a stand-in: it needs the driver, and does nothing
loaded=$(sed -n 's/.* \\([0-9][0-9]*\\.[0-9.]*\\) .*/\\1/p' /opt/nvidia-standin/proc/driver/nvidia/version 2>/dev/null)
[ -n "$loaded" ] || {{ echo 'the driver is not loaded' >&2; exit 1; }}
{check}
exec sleep infinity
"""
SAME_VERSION = """[ "$loaded" = {version} ] || {{ echo "version {version} does not fit the driver $loaded" >&2; exit 1; }}"""


def _daemon(name: str, version: str, unit: str, command: str, check: str, **more: str) -> dict[str, Any]:
    return {
        "name": name, "version": f"{version}-1", "arch": upstream.architecture(), **more,
        "postinst": START.format(unit=unit), "prerm": STOP.format(unit=unit),
        "files": {
            f"/lib/systemd/system/{unit}": UNIT.format(description=f"stand-in of {name}", command=command),
            command.split()[0]: DAEMON.format(check=check),
        },
    }


def stubs(version: str) -> list[dict[str, Any]]:
    """The packages of a version, as NVIDIA's repositories of Debian have them."""
    arch, branch = upstream.architecture(), version.partition(".")[0]
    same = f"(= {version}-1)"
    module = (DOUBLE / "module.py").read_text(encoding="utf-8")
    result = [
        {
            "name": "nvidia-driver-cuda", "version": f"{version}-1", "arch": arch,
            "depends": f"nvidia-kernel-open-dkms {same} | nvidia-kernel-dkms {same}, nvidia-persistenced {same}, libcuda1 {same}",
            "files": {"/usr/bin/nvidia-smi": "#!/usr/bin/python3\n" + (DOUBLE / "nvidia_smi.py").read_text(encoding="utf-8")},
        },
        # what the stand-in of nvidia-smi compares with the driver that is loaded
        {"name": "libcuda1", "version": f"{version}-1", "arch": arch, "files": {"/usr/lib/nvidia-standin/library-version": f"{version}\n"}},
        _daemon(
            "nvidia-persistenced", version, "nvidia-persistenced.service", "/usr/bin/nvidia-persistenced --user nvpd", "", depends=f"libcuda1 {same}"
        ),
        # behind 580 the name has no branch in it
        _daemon(
            f"nvidia-fabricmanager-{branch}" if int(branch) <= 580 else "nvidia-fabricmanager", version, "nvidia-fabricmanager.service",
            "/usr/bin/nv-fabricmanager -c /usr/share/nvidia/nvswitch/fabricmanager.cfg", SAME_VERSION.format(version=version),
        ),
    ]
    for name, other, flavor in (("nvidia-kernel-open-dkms", "nvidia-kernel-dkms", "open"), ("nvidia-kernel-dkms", "nvidia-kernel-open-dkms", "proprietary")):
        result.append(
            {
                "name": name, "version": f"{version}-1", "arch": arch, "conflicts": other, "replaces": other,
                "postinst": BUILD.format(version=version, flavor=flavor), "prerm": CLEAN, "files": {"/usr/lib/nvidia-standin/module.py": module},
            }
        )
    return result


def headers(kernel: str) -> dict[str, Any]:
    """Headers of a kernel, as far as anybody looks at them."""
    return {
        "name": f"linux-headers-{kernel}", "version": "1", "arch": upstream.architecture(),
        "files": {f"/lib/modules/{kernel}/build/Makefile": "# headers of the stand-in: nothing is built with them\n"},
    }


def build(out: Path) -> str:
    """Build everything below a folder, unless it is there; returns the key's fingerprint."""
    key = apt_repository.key(out / "gnupg", "Stand-in of NVIDIA <rig@example.org>")
    sources = [Path(__file__), Path(apt_repository.__file__), *sorted(DOUBLE.glob("*.py"))]
    made_from = hashlib.sha256(b"".join(path.read_bytes() for path in sources) + f"{key.fingerprint} {os.uname().release}".encode()).hexdigest()
    stamp, site = out / "made-from", out / "site"
    if not stamp.is_file() or stamp.read_text(encoding="ascii") != made_from:
        shutil.rmtree(site, ignore_errors=True)
        packages = [stub for version in VERSIONS for stub in stubs(version)]
        for name, file in KEYS.items():
            folder = site / "compute/cuda/repos" / name / DIRECTORIES[upstream.architecture()]
            apt_repository.flat(folder, packages, key)
            (folder / file).write_text(key.armored, encoding="ascii")
        apt_repository.flat(site / "stand-in-kernel", [headers(os.uname().release)], key)
        upstream.write(out / "fingerprint", key.fingerprint)
        upstream.write(stamp, made_from)
    return key.fingerprint


if __name__ == "__main__":
    sys.exit(apt_repository.command(__doc__, build))
