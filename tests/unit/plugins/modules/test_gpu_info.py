"""Module gpu_info on trees of files, with the stand-in of nvidia-smi in each of its scenarios."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Callable

import nvidia_standin as standin
import pytest
import yaml

from ansible_collections.gpufleet.ollama.plugins.module_utils import _gpu_health, _probe
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


@pytest.mark.parametrize(
    ("name", "verdict", "gpus", "reboot"),
    [
        ("busy", "ok", 2, ""),
        ("consumer", "warn", 1, ""),
        ("ecc", "fail", 2, ""),
        ("fabric_waiting", "fail", 8, ""),
        ("hgx", "ok", 8, ""),
        ("hot", "warn", 2, ""),
        ("lost", "fail", 2, ""),
        ("mig", "ok", 2, ""),
        ("mismatch", "fail", 0, "different versions"),
        ("no_driver", "fail", 0, ""),
        ("recovery", "fail", 2, "the driver asks for a reboot"),
        ("remap", "fail", 2, ""),
        ("too_old", "ok", 1, ""),
        ("two_part_version", "ok", 1, ""),
    ],
)
def test_scenarios(tmp_path: Path, run_module: RunModule, name: str, verdict: str, gpus: int, reboot: str) -> None:
    """The whole module for each: the GPUs of the kernel are there whatever nvidia-smi says, and it never fails."""
    scenario = standin.scenario(name)
    host(tmp_path, scenario)
    result = run_module(gpu_info.main, **options(tmp_path))
    assert (result["health"]["verdict"], len(result["smi"]["gpus"])) == (verdict, gpus), result["health"]
    assert len(result["gpus"]) == len(result["devices"]) == len(scenario["gpus"])
    told = [gpu["memory_bytes"] is not None for gpu in result["gpus"]]
    assert told == ([True, False] if name == "lost" else [gpus > 0] * len(scenario["gpus"]))
    assert (len(result["reboot_reasons"]), reboot in "".join(result["reboot_reasons"])) == (bool(reboot), True)


def test_every_scenario_is_tested() -> None:
    """A new scenario of the stand-in gets a verdict here."""
    marks = getattr(test_scenarios, "pytestmark")
    assert {*(case[0] for case in marks[0].args[1]), "healthy", "hang", "loaded"} == set(standin.SCENARIOS)


def test_hang(tmp_path: Path, run_module: RunModule, monkeypatch: pytest.MonkeyPatch) -> None:
    """nvidia-smi is given up, once, and the module tells what the kernel knows."""
    monkeypatch.setattr(_probe, "SECONDS", 1)
    host(tmp_path, standin.scenario("hang"))
    began = time.monotonic()
    result = run_module(gpu_info.main, **options(tmp_path))
    assert time.monotonic() - began < 10
    assert (result["smi"]["status"], result["health"]["verdict"], len(result["gpus"])) == (None, "fail", 2)
    assert "does not answer" in result["smi"]["problem"]


def test_asked_before_the_kernel_is_read(tmp_path: Path, run_module: RunModule) -> None:
    """nvidia-smi brings the GPUs up, and they have a UUID only then."""
    host(tmp_path, standin.scenario("two_part_version"))
    path = next(tmp_path.rglob("information"))
    path.write_text(path.read_text(encoding="utf-8").replace(UUID, "GPU-????????-????-????-????-????????????"), encoding="utf-8")
    real = standin.smi(tmp_path, standin.scenario("two_part_version"))
    command = standin.program(tmp_path / "first", f"sed -i 's/GPU-?.*/{UUID}/' {path}\nexec {real} \"$@\"")
    result = run_module(gpu_info.main, **{**options(tmp_path), "command": command})
    assert [(gpu["uuid"], gpu["memory_bytes"]) for gpu in result["gpus"]] == [(UUID, 46068 << 20)]


def test_log_and_options(tmp_path: Path, run_module: RunModule) -> None:
    """The options reach the verdict."""
    host(tmp_path, standin.scenario("healthy"))
    standin.write(tmp_path / "log", "NVRM: Xid (PCI:0000:19:00): 31, pid=12\n")
    given = {"expected_count": 3, "max_temperature": 40, "fail_on_xids": [31]}
    texts = [reason["text"] for reason in run_module(gpu_info.main, **options(tmp_path), **given)["health"]["reasons"]]
    assert texts == [
        "2 GPUs are on the bus, and 3 must be",
        "41 degrees Celsius, more than 40",
        "41 degrees Celsius, more than 40",
        "XID 31 in the kernel's log since boot",
    ]
    # nobody looks at the log
    (tmp_path / "log").unlink()
    assert run_module(gpu_info.main, **{**options(tmp_path), "kernel_log": ""})["health"] == {"verdict": "ok", "reasons": []}


def test_default_of_fail_on_xids() -> None:
    """The documented default is the one of the verdict."""
    assert f"default: {list(_gpu_health.FAIL_ON_XIDS)}" in gpu_info.DOCUMENTATION


@pytest.mark.parametrize("with_amd", [False, True], ids=["no GPU", "AMD"])
def test_nothing_is_run_without_nvidia(tmp_path: Path, run_module: RunModule, with_amd: bool) -> None:
    """A host without anything of NVIDIA does not pay for it; GPUs of AMD are told."""
    if with_amd:
        standin.pci(tmp_path, "0000:c1:00.0", "74a1", vendor="1002", driver="amdgpu")
    standin.kernel(tmp_path, "6.1.0-31-amd64", "580.95.05")
    for name in ("nvidia-smi", "modinfo", "dmesg"):
        standin.program(tmp_path / name, f"touch {tmp_path}/was-run")
    result = run_module(gpu_info.main, **{**options(tmp_path), "kernel_log": str(tmp_path / "dmesg")})
    assert not (tmp_path / "was-run").exists()
    assert [device["vendor"] for device in result["devices"]] == ["amd"] * with_amd
    assert (result["driver"]["modules"], result["health"]["verdict"], result["smi"]["status"]) == ({}, "none", None)


@pytest.mark.parametrize("sign", ["nodes", "driver"])
def test_nvidia_without_a_bus(tmp_path: Path, run_module: RunModule, sign: str) -> None:
    """Where the bus is not shown, nodes or a driver are enough to ask nvidia-smi."""
    if sign == "nodes":
        (tmp_path / "dev").mkdir()
        (tmp_path / "dev/nvidia0").symlink_to("/dev/null")
    else:
        standin.loaded(tmp_path)
    standin.smi(tmp_path, standin.scenario("healthy"))
    standin.write(tmp_path / "log")
    result = run_module(gpu_info.main, **options(tmp_path))
    assert (len(result["smi"]["gpus"]), result["health"]["verdict"]) == (2, "ok")


def test_before_a_driver(tmp_path: Path, run_module: RunModule) -> None:
    """A fresh host with a GPU: what it has is known, nothing of NVIDIA is there."""
    standin.pci(tmp_path, "0000:19:00.0", driver="nouveau")
    standin.running(tmp_path, "6.1.0-31-amd64")
    result = run_module(gpu_info.main, **options(tmp_path))
    assert [(device["generation"], device["driver"]) for device in result["devices"]] == [("hopper", "nouveau")]
    assert result["driver"] == {"loaded": "", "open": None, "installed": "", "modules": {}}
    assert "cannot be run" in result["smi"]["problem"]
    assert result["health"]["verdict"] == "fail"
    assert result["reboot_reasons"] == ["nouveau holds the GPU 0000:19:00.0"]


def test_none(tmp_path: Path, run_module: RunModule) -> None:
    """A host without a GPU is no failure, whatever folders are missing."""
    nowhere = str(tmp_path / "nowhere")
    result = run_module(gpu_info.main, command=nowhere, dev_dir=nowhere, proc_dir=nowhere, sys_dir=nowhere, root_dir=nowhere)
    assert {key: value for key, value in result.items() if key != "invocation"} == {
        "changed": False,
        "gpus": [],
        "nodes": [],
        "driver_version": "",
        "devices": [],
        "driver": {"loaded": "", "open": None, "installed": "", "modules": {}},
        "kernel": {"running": "", "newest": "", "headers": False, "newest_headers": False},
        "secure_boot": {"enabled": False, "lockdown": ""},
        "smi": {"status": None, "problem": "", "driver_version": "", "cuda_version": "", "gpus": [], "processes": []},
        "xids": [],
        "health": {"verdict": "none", "reasons": []},
        "reboot_reasons": [],
        "container": False,
    }


def test_every_key_is_documented(tmp_path: Path, run_module: RunModule) -> None:
    """What a host with everything returns is what RETURN says, down to the last key."""
    scenario = standin.scenario("mig")
    scenario["processes"] = [{"pid": 1, "name": "a", "uuid": OTHER}]
    scenario["gpus"][1]["temperature"] = 99
    host(tmp_path, scenario)
    (tmp_path / "dev/nvidia0").symlink_to("/dev/null")
    standin.write(tmp_path / "log", "NVRM: Xid (PCI:0000:19:00): 31, pid=1, name=a\n")

    def compare(where: str, value: Any, documented: dict[str, Any]) -> None:
        first = value[0] if isinstance(value, list) and value else value
        if "contains" in documented:
            assert set(first) == set(documented["contains"]), where
            for key, inner in documented["contains"].items():
                compare(f"{where}.{key}", first[key], inner)

    result = run_module(gpu_info.main, **options(tmp_path))
    documented = yaml.safe_load(gpu_info.RETURN)
    assert set(result) - {"changed", "invocation"} == set(documented)
    for key, description in documented.items():
        compare(key, result[key], description)
