"""A stand-in for NVIDIA's repository of the container toolkit, and for the releases of nvidia_gpu_exporter.

usage: toolkit_repository.py OUT     prints as JSON: the fingerprint of the key that signs, the SHA-256 of each release of the exporter

OUT/nvidia.github.io and OUT/github.com are what these hosts serve. Nothing in the packages is NVIDIA's. The exporter is the stand-in of
tests/double/nvidia, or the binary that GPUFLEET_GPU_EXPORTER names.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sys
import tarfile
from pathlib import Path
from typing import Any

import apt_repository
import upstream

DOUBLE = upstream.DOUBLE / "nvidia"
# the one that is asked for, one to come from, and a newer one that must not be taken by itself
VERSIONS = ("1.19.1-1", "1.20.0-1", "1.21.0-1")
EXPORTERS = ("1.13.0", "1.14.0")
EXPORTER_ARCH = {"amd64": "x86_64", "arm64": "arm64"}

SERVICE = """[Unit]
Description=stand-in of the refresh of the CDI specification
ConditionPathExists=/usr/bin/nvidia-smi

[Service]
Type=oneshot
Environment=NVIDIA_CTK_CDI_OUTPUT_FILE_PATH=/var/run/cdi/nvidia.yaml
EnvironmentFile=-/etc/nvidia-container-toolkit/nvidia-cdi-refresh.env
ExecStart=/usr/bin/nvidia-ctk cdi generate
RemainAfterExit=yes

[Install]
WantedBy=multi-user.target
"""
PATH = """[Unit]
Description=stand-in of what triggers the refresh of the CDI specification

[Path]
PathChanged=/usr/bin/nvidia-ctk

[Install]
WantedBy=multi-user.target
"""


def stubs(version: str) -> list[dict[str, Any]]:
    """The four packages of a version, which need one another as the real ones do."""
    common = {"version": version, "arch": upstream.architecture()}
    files = {
        "/usr/bin/nvidia-ctk": "#!/usr/bin/python3\n" + (DOUBLE / "nvidia_ctk.py").read_text(encoding="utf-8"),
        "/usr/bin/nvidia-container-runtime": "#!/bin/sh\nexec runc \"$@\"\n",
        "/lib/systemd/system/nvidia-cdi-refresh.service": SERVICE,
        "/lib/systemd/system/nvidia-cdi-refresh.path": PATH,
        "/etc/nvidia-container-toolkit/nvidia-cdi-refresh.env": "# variables of nvidia-ctk cdi generate\n",
    }
    return [
        {"name": "libnvidia-container1", **common},
        {"name": "libnvidia-container-tools", **common, "depends": f"libnvidia-container1 (>= {version})"},
        {"name": "nvidia-container-toolkit-base", **common, "files": files, "postinst": "#!/bin/sh\nsystemctl daemon-reload\n"},
        {
            "name": "nvidia-container-toolkit", **common,
            "depends": f"nvidia-container-toolkit-base (= {version}), libnvidia-container-tools (>= {version}), libnvidia-container-tools (<< 2)",
        },
    ]


def exporter(version: str) -> bytes:
    """The archive of a release."""
    real = os.environ.get("GPUFLEET_GPU_EXPORTER")
    program = Path(real).read_bytes() if real else b"#!/usr/bin/python3\n" + (DOUBLE / "gpu_exporter.py").read_bytes()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, content, mode in (("LICENSE", f"stand-in of the release {version}\n".encode(), 0o644), ("nvidia_gpu_exporter", program, 0o755)):
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.mtime, member.uid = len(content), mode, 1700000000, 1001
            tar.addfile(member, io.BytesIO(content))
    return archive.getvalue()


def build(out: Path) -> str:
    """Build everything below a folder, anew; the key stays. Returns, as JSON, its fingerprint and the sums of the archives, which made.json holds too."""
    key = apt_repository.key(out / "gnupg", "Stand-in of NVIDIA <rig@example.org>")
    arch = upstream.architecture()
    site = out / "nvidia.github.io/libnvidia-container"
    shutil.rmtree(site, ignore_errors=True)
    apt_repository.flat(site / "stable/deb" / arch, [stub for version in VERSIONS for stub in stubs(version)], key)
    (site / "gpgkey").write_text(key.armored, encoding="ascii")
    sums = {}
    for version in EXPORTERS:
        folder = out / f"github.com/utkuozdemir/nvidia_gpu_exporter/releases/download/v{version}"
        folder.mkdir(parents=True, exist_ok=True)
        content = exporter(version)
        (folder / f"nvidia_gpu_exporter_{version}_linux_{EXPORTER_ARCH[arch]}.tar.gz").write_bytes(content)
        sums[version] = hashlib.sha256(content).hexdigest()
    made = json.dumps({"fingerprint": key.fingerprint, "exporter": sums})
    upstream.write(out / "made.json", made)
    return made


if __name__ == "__main__":
    sys.exit(apt_repository.command(__doc__, build))
