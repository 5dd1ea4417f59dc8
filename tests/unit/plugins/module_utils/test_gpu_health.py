"""The verdict about GPUs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nvidia_standin as standin
import pytest

from ansible_collections.gpufleet.ollama.plugins.module_utils import _gpu_health, _pci, _smi_xml

UUID = "GPU-00000000-aaaa-bbbb-cccc-000000000000"
OTHER = "GPU-00000001-aaaa-bbbb-cccc-000000000001"
FALLEN = "[ 9.1] NVRM: Xid (PCI:0000:19:00): 79, GPU has fallen off the bus.\n"


def judge(root: Path, scenario: str | dict[str, Any], log: str | None = "", **options: Any) -> dict[str, Any]:
    """The verdict about the host of a scenario."""
    described = standin.scenario(scenario) if isinstance(scenario, str) else scenario
    for gpu in described["gpus"]:
        standin.pci(root, gpu["bus_id"])
    return _gpu_health.health(_pci.devices(f"{root}/sys"), _smi_xml.read(standin.smi(root, described)), log, **options)


def of_level(found: dict[str, Any], level: str) -> list[tuple[str, str]]:
    """GPU and text of the reasons of a level."""
    return [(reason["gpu"], reason["text"]) for reason in found["reasons"] if reason["level"] == level]


@pytest.mark.parametrize(
    ("scenario", "verdict", "gpu", "text"),
    [
        ("healthy", "ok", "", ""),
        ("hgx", "ok", "", ""),
        ("busy", "ok", "", ""),
        ("two_part_version", "ok", "", ""),
        ("too_old", "ok", "", ""),
        ("mig", "ok", "", ""),
        # ECC, MIG and rows are not told, and the driver is not kept up
        ("consumer", "warn", UUID, "persistence is off"),
        ("hot", "warn", UUID, "95 degrees Celsius, more than 90"),
        ("lost", "fail", OTHER, "nvidia-smi says GPU is lost"),
        ("mismatch", "fail", "", "Driver/library version mismatch"),
        ("no_driver", "fail", "", "status 9"),
        ("ecc", "fail", UUID, "2 uncorrectable memory errors"),
        ("remap", "fail", OTHER, "memory rows cannot be remapped"),
        ("recovery", "fail", UUID, "the driver asks for this to recover it: Reboot"),
        ("fabric_waiting", "fail", UUID, "the NVLink fabric is In Progress"),
    ],
)
def test_scenarios(tmp_path: Path, scenario: str, verdict: str, gpu: str, text: str) -> None:
    """Each has its verdict, its reason, and the GPU that it is about."""
    found = judge(tmp_path, scenario)
    assert found["verdict"] == verdict, found
    if text:
        assert [reason for reason in of_level(found, verdict) if reason[0] == gpu and text in reason[1]], found
    else:
        assert not of_level(found, "warn") + of_level(found, "fail")


@pytest.mark.parametrize(
    ("scenario", "unknown"),
    [
        ("healthy", []),
        ("mig", [(UUID, "not told: remapped rows")]),
        ("consumer", [(UUID, "not told: ECC, remapped rows")]),
    ],
)
def test_unknown_is_no_fault(tmp_path: Path, scenario: str, unknown: list[tuple[str, str]]) -> None:
    """What is not told is said, and nothing is made of it."""
    found = judge(tmp_path, scenario)
    assert of_level(found, "unknown") == unknown
    assert not of_level(found, "fail")


def test_every_fault_counts_alone(tmp_path: Path) -> None:
    """What warns does not hide behind what fails, and the worst decides."""
    found = judge(tmp_path, "remap")
    assert of_level(found, "warn") == [(UUID, "memory rows wait to be remapped: reset the GPU or reboot")]
    assert found["verdict"] == "fail"


@pytest.mark.parametrize(
    ("key", "value", "verdict"),
    [
        ("remap_pending", "Yes", "warn"), ("retired_pending", "Yes", "warn"), ("hw_power_brake_slowdown", "Active", "warn"), ("temperature", 91, "warn"),
        ("temperature", 90, "ok"), ("recovery_action", "None", "ok"), ("recovery_action", None, "ok"), ("recovery_action", "GPU Reset", "fail"),
        ("ecc_uncorrected", None, "ok"), ("fabric_state", "Not Started", "fail"), ("fabric_status", "Unknown", "ok"), ("persistence", "Disabled", "warn"),
        ("persistence", None, "ok"),
    ],
)  # fmt: skip
def test_one_value(tmp_path: Path, key: str, value: Any, verdict: str) -> None:
    """A single value of a healthy host changed."""
    scenario = standin.scenario("healthy")
    scenario["gpus"][0][key] = value
    assert judge(tmp_path, scenario)["verdict"] == verdict


def test_fabric_that_failed(tmp_path: Path) -> None:
    """Completed is not enough, it must have succeeded."""
    scenario = standin.scenario("hgx")
    scenario["gpus"][3]["fabric_status"] = "Failure"
    assert of_level(judge(tmp_path, scenario), "fail") == [(scenario["gpus"][3]["uuid"], "the NVLink fabric has the status Failure")]


@pytest.mark.parametrize(("expected", "verdict"), [(0, "ok"), (1, "ok"), (2, "ok"), (3, "fail")])
def test_expected_count(tmp_path: Path, expected: int, verdict: str) -> None:
    """Fewer than there must be is a fault, more is none."""
    found = judge(tmp_path, "healthy", expected_count=expected)
    assert found["verdict"] == verdict
    assert of_level(found, "fail") == ([("", "2 GPUs are on the bus, and 3 must be")] if expected == 3 else [])


def test_not_listed(tmp_path: Path) -> None:
    """A GPU that is on the bus and not in the driver: it fell off, or another driver holds it; one of a virtual machine is not missed."""
    for bus_id, driver in (("0000:c1:00.0", "nvidia"), ("0000:c2:00.0", "nouveau"), ("0000:c3:00.0", "vfio-pci")):
        standin.pci(tmp_path, bus_id, driver=driver)
    text = "it is on the bus, and nvidia-smi does not list it"
    found = judge(tmp_path, "healthy", expected_count=4)
    assert of_level(found, "fail") == [("0000:c1:00.0", text), ("0000:c2:00.0", f"{text}: nouveau holds it")]


@pytest.mark.parametrize(("expected", "verdict"), [(0, "none"), (1, "fail")])
def test_no_gpu(tmp_path: Path, expected: int, verdict: str) -> None:
    """A host without a GPU, and one that has lost its only one."""
    found = _gpu_health.health(_pci.devices(f"{tmp_path}/sys"), _smi_xml.nothing(), "", expected)
    assert found["verdict"] == verdict
    assert bool(found["reasons"]) is bool(expected)


def test_only_others(tmp_path: Path) -> None:
    """GPUs of AMD, and those that are handed through, are not judged."""
    standin.pci(tmp_path, "0000:c1:00.0", vendor="1002", driver="amdgpu")
    standin.pci(tmp_path, "0000:c2:00.0", driver="vfio-pci")
    assert _gpu_health.health(_pci.devices(f"{tmp_path}/sys"), _smi_xml.nothing(), None) == {"verdict": "none", "reasons": []}


def test_not_asked(tmp_path: Path) -> None:
    """Who does not ask nvidia-smi does not hear that all is well."""
    standin.pci(tmp_path, "0000:19:00.0")
    assert _gpu_health.health(_pci.devices(f"{tmp_path}/sys"), _smi_xml.nothing(), "")["verdict"] == "warn"


def test_xids() -> None:
    """Every spelling of the kernel's line, and what is none."""
    log = (
        f"{FALLEN}{FALLEN}[ 9.2] NVRM: Xid (PCI:0000:2B:00): 31, pid=12, name=ollama, Ch 0000008\n"
        "[ 9.3] NVRM: Xid (0000:3b:00): 62, 0cb5(2ad0)\nnvidia 0000:3b:00.0: NVRM: Xid (PCI:00000001:3b:00.0): 119, pid='<unknown>'\n"
        "[ 9.4] NVRM: GPU at PCI:0000:2b:00: GPU-1\n[ 9.5] sshd: NVRM: Xid (PCI:00): 79\n"
    )
    assert _gpu_health.xids(log) == {
        ("0000:19:00.0", 79): 2, ("0000:2b:00.0", 31): 1, ("0000:3b:00.0", 62): 1, ("0001:3b:00.0", 119): 1,
    }  # fmt: skip


@pytest.mark.parametrize("number", [48, 62, 64, 74, 79, 95, 119, 120])
def test_xids_that_need_a_reset(tmp_path: Path, number: int) -> None:
    """By the GPU's UUID, since nvidia-smi may well say that all is well."""
    found = judge(tmp_path, "healthy", FALLEN.replace("79", str(number)))
    assert (found["verdict"], found["reasons"]) == ("fail", [{"level": "fail", "gpu": UUID, "text": f"XID {number} in the kernel's log since boot"}])


@pytest.mark.parametrize(("number", "verdict"), [(94, "warn"), (13, "ok"), (31, "ok"), (43, "ok"), (45, "ok"), (63, "ok"), (92, "ok"), (154, "ok")])
def test_other_xids(tmp_path: Path, number: int, verdict: str) -> None:
    """Errors of programs are none of the GPU."""
    assert judge(tmp_path, "healthy", FALLEN.replace("79", str(number)))["verdict"] == verdict


def test_xids_of_the_user(tmp_path: Path) -> None:
    """The user's list is the one that counts; an error is told once, of a GPU that is gone by its address."""
    assert judge(tmp_path, "healthy", FALLEN, fail_on_xids=[31])["verdict"] == "ok"
    assert judge(tmp_path / "b", "healthy", FALLEN.replace("79", "31"), fail_on_xids=[31])["verdict"] == "fail"
    gone = judge(tmp_path / "c", "healthy", FALLEN.replace("0000:19", "0000:aa") * 3)
    assert of_level(gone, "fail") == [("0000:aa:00.0", "XID 79 in the kernel's log since boot, 3 times")]


@pytest.mark.parametrize(("command", "log"), [("echo NVRM", "NVRM\n"), ("sh -c 'echo half; exit 1'", None), ("/nowhere/dmesg --x", None), ("echo '", None)])
def test_log(command: str, log: str | None) -> None:
    """Only root may read it: that is unknown, and no fault."""
    assert _gpu_health.read_log(command) == log


def test_log_that_cannot_be_read(tmp_path: Path) -> None:
    """It is said."""
    found = judge(tmp_path, "healthy", None)
    assert (found["verdict"], [reason["level"] for reason in found["reasons"]]) == ("ok", ["unknown"])
