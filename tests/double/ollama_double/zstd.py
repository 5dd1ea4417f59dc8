# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Zstandard compression with whatever this machine has: the `zstandard` package, Python 3.14, or the command."""
from __future__ import annotations

import importlib
import shutil
import subprocess

LEVEL = 10


class NoZstd(RuntimeError):
    """Nothing on this machine can compress."""


def compress(data: bytes) -> bytes:
    """The compressed bytes, the same each time with the same tool."""
    for module, call in (("zstandard", "zstandard"), ("compression.zstd", "standard")):
        try:
            library = importlib.import_module(module)
        except ImportError:
            continue
        if call == "zstandard":
            return bytes(library.ZstdCompressor(level=LEVEL).compress(data))
        return bytes(library.compress(data, level=LEVEL))
    command = shutil.which("zstd")
    if command is None:
        raise NoZstd("cannot compress: install the Python package zstandard or the command zstd, or use Python 3.14 or newer")
    return subprocess.run([command, f"-{LEVEL}", "-c", "-q"], input=data, capture_output=True, check=True).stdout
