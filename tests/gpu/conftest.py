# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What only hardware can show. `make test-gpu` runs it on a host with NVIDIA GPUs and an Ollama; elsewhere every test is skipped, and says so."""
from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / ".venv/collections"), str(ROOT / "tests/unit/plugins")]


def pytest_configure(config: pytest.Config) -> None:
    """The mark of this folder."""
    config.addinivalue_line("markers", "requires_gpu: needs an NVIDIA GPU with its driver")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test here needs a GPU."""
    for item in (item for item in items if Path(__file__).parent in item.path.parents):
        item.add_marker(pytest.mark.requires_gpu)
        if not os.path.exists("/proc/driver/nvidia/version"):
            item.add_marker(pytest.mark.skip(reason="this machine has no NVIDIA driver"))
