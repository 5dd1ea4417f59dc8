"""Module gpu_info on fake trees."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import pytest

from ansible_collections.gpufleet.ollama.plugins.modules import gpu_info

UUID = "GPU-11111111-aaaa-bbbb-cccc-000000000000"


@pytest.mark.parametrize("check", [False, True], ids=["", "check mode"])
def test_a_gpu(tmp_path: Path, run_module: Callable[..., Any], check: bool) -> None:
    """Everything comes from the folders that were given, and nothing is changed."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidia0").symlink_to("/dev/null")
    (tmp_path / "proc/driver/nvidia/gpus/0000:19:00.0").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/gpus/0000:19:00.0/information").write_text(
        f"Model: \t\t NVIDIA L40S\nGPU UUID: \t {UUID}\nBus Location: \t 0000:19:00.0\nDevice Minor: \t 0\n", encoding="utf-8"
    )
    (tmp_path / "proc/driver/nvidia/version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue\n", encoding="utf-8")
    (tmp_path / "smi").write_text(f"#!/bin/sh\necho '{UUID}, 46068'\n", encoding="utf-8")
    (tmp_path / "smi").chmod(0o755)
    folders = {name: str(tmp_path / name.removesuffix("_dir")) for name in ("dev_dir", "proc_dir", "sys_dir")}
    result = run_module(gpu_info.main, check=check, command=str(tmp_path / "smi"), **folders)
    assert not result["changed"]
    assert result["gpus"] == [
        {"uuid": UUID, "minor": 0, "name": "NVIDIA L40S", "bus_id": "0000:19:00.0", "memory_bytes": 46068 << 20, "vendor": "nvidia"}
    ]
    assert [(node["path"], node["mode"]) for node in result["nodes"]] == [(f"{tmp_path}/dev/nvidia0", "0666")]
    assert result["driver_version"] == "580.95.05"


def test_none(tmp_path: Path, run_module: Callable[..., Any]) -> None:
    """A host without a GPU is no failure."""
    nowhere = str(tmp_path / "nowhere")
    result = run_module(gpu_info.main, command=nowhere, dev_dir=nowhere, proc_dir=nowhere, sys_dir=nowhere)
    assert (result["changed"], result["gpus"], result["nodes"], result["driver_version"]) == (False, [], [], "")
