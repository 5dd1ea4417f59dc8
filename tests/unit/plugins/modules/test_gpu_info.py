"""Module gpu_info on trees of files, with the stand-in of nvidia-smi in each of its scenarios."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Callable

import nvidia_standin as standin
import pytest

from ansible_collections.gpufleet.ollama.plugins.module_utils import _probe
from ansible_collections.gpufleet.ollama.plugins.modules import gpu_info

UUID = "GPU-00000000-aaaa-bbbb-cccc-000000000000"
OTHER = "GPU-00000001-aaaa-bbbb-cccc-000000000001"
RunModule = Callable[..., Any]


def options(root: Path) -> dict[str, Any]:
    """The folders of a tree, and its programs."""
    return {
        **{f"{name}_dir": str(root / name) for name in ("dev", "proc", "sys", "root")},
        "command": str(root / "nvidia-smi"),
        "modinfo": str(root / "modinfo"),
        "kernel_log": f"cat {root}/log",
    }


def host(root: Path, scenario: dict[str, Any]) -> None:
    """A host with the GPUs of a scenario and its driver."""
    for index, gpu in enumerate(scenario["gpus"]):
        standin.pci(root, gpu["bus_id"], {"l40s": "26b9", "p40": "1b38", "rtx4080s": "2702"}.get(gpu["model"], "2330"))
        standin.write(
            root / f"proc/driver/nvidia/gpus/{gpu['bus_id']}/information",
            f"Model: \t\t {gpu['model']}\nGPU UUID: \t {gpu['uuid']}\nBus Location: \t {gpu['bus_id']}\nDevice Minor: \t {index}\n",
        )
    (root / "dev").mkdir()
    version = scenario["driver_version"] or "580.95.05"
    standin.loaded(root, version)
    standin.running(root, "6.1.0-31-amd64")
    standin.kernel(root, "6.1.0-31-amd64", version)
    standin.modinfo(root)
    standin.smi(root, scenario)
    standin.write(root / "log", "[    1.0] NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64\n")


@pytest.mark.parametrize("check", [False, True], ids=["", "check mode"])
def test_healthy(tmp_path: Path, run_module: RunModule, check: bool) -> None:
    """Everything comes from the folders and programs that were given, and nothing is changed."""
    host(tmp_path, standin.scenario("healthy"))
    (tmp_path / "dev/nvidia0").symlink_to("/dev/null")
    result = run_module(gpu_info.main, check=check, expected_count=2, **options(tmp_path))
    assert not result["changed"]
    assert result["gpus"] == [
        {"uuid": UUID, "minor": 0, "name": "h100", "bus_id": "0000:19:00.0", "memory_bytes": 81559 << 20, "vendor": "nvidia"},
        {"uuid": OTHER, "minor": 1, "name": "h100", "bus_id": "0000:3b:00.0", "memory_bytes": 81559 << 20, "vendor": "nvidia"},
    ]
    assert [(node["path"], node["mode"]) for node in result["nodes"]] == [(f"{tmp_path}/dev/nvidia0", "0666")]
    assert result["driver_version"] == "580.95.05"
    assert [device["generation"] for device in result["devices"]] == ["hopper", "hopper"]
    assert result["driver"] == {"loaded": "580.95.05", "open": True, "installed": "580.95.05", "modules": {"6.1.0-31-amd64": "580.95.05"}}
    assert result["kernel"] == {"running": "6.1.0-31-amd64", "newest": "6.1.0-31-amd64", "headers": True, "newest_headers": True}
    assert result["secure_boot"] == {"enabled": False, "lockdown": ""}
    assert (result["smi"]["status"], result["smi"]["problem"], result["smi"]["cuda_version"]) == (0, "", "13.0")
    assert result["health"] == {"verdict": "ok", "reasons": []}
    assert (result["reboot_reasons"], result["container"]) == ([], False)
    # once, and nothing that was not asked for
    assert (tmp_path / "asked").read_text(encoding="utf-8") == "-q -x\n"
