# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A stand-in for nvidia-ctk: it writes a CDI specification of the GPUs that nvidia-smi lists, and reads it. See README.md beside it.

An argument that it does not know is an error, status 2.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

SPECIFICATION = Path(os.environ.get("NVIDIA_CTK_CDI_OUTPUT_FILE_PATH", "/var/run/cdi/nvidia.yaml"))
FLAG = "no-additional-gids-for-device-nodes"


def generate() -> int:
    """cdi generate"""
    flags = os.environ.get("NVIDIA_CTK_CDI_GENERATE_FEATURE_FLAGS", "")
    if flags not in ("", FLAG):
        print(f"unknown feature flag {flags}", file=sys.stderr)
        return 2
    done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"failed to generate CDI spec: {done.stdout.strip()}", file=sys.stderr)
        return 1
    uuids = re.findall(r"UUID: (\S+)\)", done.stdout)
    # JSON is YAML. Additional group ids came with 0.7
    document = {"cdiVersion": "0.5.0" if flags else "0.7.0", "kind": "nvidia.com/gpu", "devices": [{"name": name} for name in [*uuids, "all"]]}
    SPECIFICATION.parent.mkdir(parents=True, exist_ok=True)
    SPECIFICATION.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0


def show() -> int:
    """cdi list"""
    names = [device["name"] for device in json.loads(SPECIFICATION.read_text(encoding="utf-8"))["devices"]] if SPECIFICATION.is_file() else []
    print(f"Found {len(names)} CDI devices", file=sys.stderr)
    print("".join(f"nvidia.com/gpu={name}\n" for name in names), end="")
    return 0


def main(arguments: list[str]) -> int:
    """Command line."""
    actions = {("cdi", "generate"): generate, ("cdi", "list"): show}
    if tuple(arguments) not in actions:
        print(f"unknown arguments {arguments}", file=sys.stderr)
        return 2
    return actions[arguments[0], arguments[1]]()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
