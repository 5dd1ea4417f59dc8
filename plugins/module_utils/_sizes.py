# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Numbers of bytes as people write and read them. Standard library only: programs that run without Ansible use it too."""

from __future__ import annotations

import re

_UNITS = ("bytes", "KB", "MB", "GB", "TB", "PB")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)


def bytes_to_human(size: float) -> str:
    """V(1.23 GB), with units of 1024."""
    unit = 0
    while size >= 1024 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.2f} {_UNITS[unit]}" if unit else f"{int(size)} {_UNITS[0]}"


def human_to_bytes(text: str) -> int:
    """Bytes of a number, with K, M, G or T after it if need be. Nothing is 0. ValueError for anything else."""
    found = _SIZE.fullmatch(text.strip() or "0")
    if not found:
        raise ValueError(f"{text!r} is no number of bytes: give one such as 500M or 10G")
    return int(float(found[1]) * 1024 ** ("", "K", "M", "G", "T").index(found[2].upper()))
