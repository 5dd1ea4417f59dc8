# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Writes a stand-in for a kernel module: an ELF file with a .modinfo section and no code. modinfo and depmod read it, no kernel loads it.

usage: module.py VERSION open|proprietary PATH
"""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

# what the headers of an ELF file are made of (System V ABI, chapter 4)
HEADER = "<16sHHIQQQIHHHHHH"
SECTION = "<IIQQQQIIQQ"
MACHINES = {"x86_64": 62, "aarch64": 183}
RELOCATABLE, PROGBITS, STRINGS, ALLOCATED = 1, 1, 3, 2
LICENSES = {"open": "Dual MIT/GPL", "proprietary": "NVIDIA"}


def module(version: str, flavor: str, kernel: str, machine: str) -> bytes:
    """The bytes of the file."""
    fields = {"license": LICENSES[flavor], "version": version, "name": "nvidia", "vermagic": f"{kernel} SMP mod_unload "}
    modinfo = b"".join(f"{key}={value}".encode() + b"\0" for key, value in fields.items())
    names = b"\0.modinfo\0.shstrtab\0"
    size = struct.calcsize(HEADER)
    table = size + len(modinfo) + len(names)
    header = struct.pack(
        HEADER, b"\x7fELF\x02\x01\x01" + bytes(9), RELOCATABLE, MACHINES[machine], 1, 0, 0, table, 0, size, 0, 0, struct.calcsize(SECTION), 3, 2
    )
    sections = struct.pack(SECTION, *[0] * 10)
    sections += struct.pack(SECTION, 1, PROGBITS, ALLOCATED, 0, size, len(modinfo), 0, 0, 1, 0)
    sections += struct.pack(SECTION, 10, STRINGS, 0, 0, size + len(modinfo), len(names), 0, 0, 1, 0)
    return header + modinfo + names + sections


def main() -> None:
    """Command line."""
    version, flavor, path = sys.argv[1:]
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    machine = os.uname()
    target.write_bytes(module(version, flavor, machine.release, machine.machine))


if __name__ == "__main__":
    main()
