"""What nvidia-smi says, in the shapes of its versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nvidia_standin as standin
import pytest

from ansible_collections.gpufleet.ollama.plugins.module_utils import _smi_xml

UUID = "GPU-00000000-aaaa-bbbb-cccc-000000000000"
OTHER = "GPU-00000001-aaaa-bbbb-cccc-000000000001"


def document(gpus: str, versions: str = "<driver_version>580.95.05</driver_version><cuda_version>13.0</cuda_version>", dtd: int = 13) -> str:
    """An answer."""
    head = f'<?xml version="1.0" ?>\n<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v{dtd}.dtd">\n'
    return f"{head}<nvidia_smi_log>\n<timestamp>now</timestamp>{versions}<attached_gpus>1</attached_gpus>\n{gpus}\n</nvidia_smi_log>\n"


def gpu(inside: str, bus_id: str = "00000000:19:00.0") -> dict[str, Any]:
    """What is read of a GPU with these elements."""
    found = _smi_xml.parse(document(f'<gpu id="{bus_id}">{inside}</gpu>'))["gpus"]
    assert len(found) == 1
    first: dict[str, Any] = found[0]
    return first


def read(root: Path, name: str, **more: Any) -> dict[str, Any]:
    """What the stand-in says in a scenario."""
    return _smi_xml.read(standin.smi(root, {**standin.scenario(name), **more}))


def test_healthy(tmp_path: Path) -> None:
    """All of a GPU."""
    found = read(tmp_path, "healthy")
    assert {key: found[key] for key in ("status", "problem", "driver_version", "cuda_version", "processes")} == {
        "status": 0, "problem": "", "driver_version": "580.95.05", "cuda_version": "13.0", "processes": [],
    }  # fmt: skip
    assert [gpu["bus_id"] for gpu in found["gpus"]] == ["0000:19:00.0", "0000:3b:00.0"]
    assert found["gpus"][0] == {
        "uuid": UUID, "bus_id": "0000:19:00.0", "name": "NVIDIA H100 80GB HBM3", "architecture": "Hopper", "persistence": True,
        "mig_current": False, "mig_pending": False, "mig_devices": [], "ecc_current": True, "ecc_pending": True, "ecc_uncorrected": 0,
        "remap_pending": False, "remap_failure": False, "retired_pending": None, "recovery_action": "None", "temperature": 41,
        "power_limit_watts": 700.0, "power_draw_watts": 69.85, "memory_bytes": 81559 << 20, "memory_used_bytes": 0, "fabric_state": "",
        "fabric_status": "", "slowdowns": [], "errors": [],
    }  # fmt: skip


def test_consumer(tmp_path: Path) -> None:
    """A card without ECC, MIG and remapped rows."""
    found = read(tmp_path, "consumer")["gpus"][0]
    nulls = ("mig_current", "mig_pending", "ecc_current", "ecc_pending", "ecc_uncorrected", "remap_pending", "remap_failure")
    assert {key: found[key] for key in nulls} == dict.fromkeys(nulls)
    assert (found["persistence"], found["power_limit_watts"], found["errors"]) == (False, 400.0, [])


def test_mig(tmp_path: Path) -> None:
    """The devices come from the list of GPUs, for the document has no UUIDs of them; the GPU that is not split has none."""
    found = read(tmp_path, "mig")["gpus"]
    assert [(gpu["mig_current"], gpu["mig_pending"], gpu["remap_failure"]) for gpu in found] == [(True, True, None), (False, False, False)]
    assert [gpu["mig_devices"] for gpu in found] == [
        [
            {"profile": "3g.40gb", "uuid": "MIG-11111111-1111-5111-8111-111111111111"},
            {"profile": "2g.20gb", "uuid": "MIG-22222222-2222-5222-8222-222222222222"},
        ],
        [],
    ]
    assert (tmp_path / "asked").read_text(encoding="utf-8").splitlines() == ["-q -x", "-L"]


def test_mig_list() -> None:
    """Both widths of the columns, two GPUs, and what is no device."""
    text = (
        f"GPU 0: NVIDIA H100 80GB HBM3 (UUID: {UUID})\n  MIG 1g.10gb+me   Device  0: (UUID: MIG-a)\n  MIG 3g.40gb      Device 10: (UUID: MIG-b)\n"
        f"Unable to determine the device handle for GPU1: 0000:3B:00.0: GPU is lost.\nGPU 2: A (name) (UUID: {OTHER})\n"
    )
    assert _smi_xml.mig_devices(text) == {UUID: [{"profile": "1g.10gb+me", "uuid": "MIG-a"}, {"profile": "3g.40gb", "uuid": "MIG-b"}], OTHER: []}


def test_lost(tmp_path: Path) -> None:
    """A GPU that is lost has texts in the place of numbers; the other one is told all the same."""
    found = read(tmp_path, "lost")
    assert found["status"] == 15
    assert "status 15: Unable to determine the device handle for GPU1: 0000:3B:00.0: GPU is lost.  Reboot the system" in found["problem"]
    first, second = found["gpus"]
    assert (first["temperature"], first["errors"]) == (41, [])
    assert second["errors"] == ["GPU is lost"]
    assert {second[key] for key in ("temperature", "memory_bytes", "power_draw_watts", "remap_failure", "ecc_uncorrected")} <= {None, 0}
    assert (second["fabric_state"], second["uuid"]) == ("", OTHER)


def test_unreachable(tmp_path: Path) -> None:
    """nvidia-smi may skip a GPU and be content."""
    said = "Unable to determine the device handle for GPU1: 0000:5F:00.0: Unknown Error"
    standin.write(tmp_path / "document", document('<gpu id="00000000:19:00.0"></gpu>'))
    found = _smi_xml.read(standin.program(tmp_path / "smi", f"cat {tmp_path}/document; echo '{said}' >&2"))
    assert (found["status"], len(found["gpus"])) == (0, 1)
    assert found["problem"].endswith(f"does not reach all GPUs: {said}")


@pytest.mark.parametrize(
    ("name", "status", "problem"),
    [
        ("mismatch", 18, "failed with status 18: Failed to initialize NVML: Driver/library version mismatch; NVML library version: 580.159"),
        ("no_driver", 9, "failed with status 9: NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that"),
    ],
)
def test_failures(tmp_path: Path, name: str, status: int, problem: str) -> None:
    """Its status, and its words."""
    found = read(tmp_path, name)
    assert (found["status"], found["gpus"], found["driver_version"]) == (status, [], "")
    assert problem in found["problem"]


def test_hang(tmp_path: Path) -> None:
    """It is given up, with the child that holds its output."""
    found = _smi_xml.read(standin.smi(tmp_path, standin.scenario("hang")), 0.5)
    assert (found["status"], found["gpus"]) == (None, [])
    assert "does not answer" in found["problem"]


@pytest.mark.parametrize(
    ("command", "problem"), [("", ""), ("/nowhere/nvidia-smi", "/nowhere/nvidia-smi cannot be run: the driver's programs are not installed")]
)
def test_not_run(command: str, problem: str) -> None:
    """Not wanted, and not there."""
    assert _smi_xml.read(command) == {**_smi_xml.nothing(), "problem": problem}


@pytest.mark.parametrize(
    "text", ["", "0, NVIDIA H100", '<?xml version="1.0" ?><nvidia_smi_log><gpu', document("<gpu>"), '<?xml version="1.0" ?>'],
    ids=["nothing", "a table", "cut off", "not closed", "only the head"],
)  # fmt: skip
def test_no_document(tmp_path: Path, text: str) -> None:
    """An answer that is none is a problem, and no GPU."""
    standin.write(tmp_path / "document", text)
    found = _smi_xml.read(standin.program(tmp_path / "smi", f"cat {tmp_path}/document"))
    assert (found["status"], found["gpus"]) == (0, [])
    assert "the answer is no XML document" in found["problem"]


@pytest.mark.parametrize(
    ("versions", "driver", "cuda"),
    [
        ("<driver_version>595.80</driver_version><cuda_version>13.2</cuda_version>", "595.80", "13.2"),
        ("<kmd_version>610.57.04</kmd_version><cuda_umd_version>13.4</cuda_umd_version>", "610.57.04", "13.4"),
        ("<driver_version>610.57.04</driver_version><kmd_version>610.57.04</kmd_version><cuda_version>13.4</cuda_version>", "610.57.04", "13.4"),
        ("", "", ""),
    ],
    ids=["two parts", "new names", "both", "none"],
)
def test_versions(versions: str, driver: str, cuda: str) -> None:
    """Of two and of three parts, under the old and the new names."""
    found = _smi_xml.parse(document("", versions, 12))
    assert (found["driver_version"], found["cuda_version"], found["gpus"]) == (driver, cuda, [])


@pytest.mark.parametrize("dtd", [12, 13, 14])
def test_dtd(dtd: int) -> None:
    """The DTD is not looked up, whichever it is, and an entity of it is not made up."""
    assert _smi_xml.parse(document('<gpu id="00000000:19:00.0"/>', dtd=dtd))["gpus"][0]["bus_id"] == "0000:19:00.0"
    with pytest.raises(_smi_xml.SmiError, match="no XML document"):
        _smi_xml.parse(document("<gpu><uuid>&unknown;</uuid></gpu>", dtd=dtd).replace(f'"nvsmi_device_v{dtd}.dtd"', '"/etc/hostname"').replace("now", "&x;"))


@pytest.mark.parametrize(
    "text",
    [
        "N/A", "[N/A]", "Not Supported", "[Not Supported]", "[Insufficient Permissions]", "[Requested functionality has been deprecated]",
        "[Unknown Error]", "GPU is lost", "",
    ],
)  # fmt: skip
def test_nulls(text: str) -> None:
    """Every spelling of nothing."""
    found = gpu(
        f"<uuid>{text}</uuid><temperature><gpu_temp>{text}</gpu_temp></temperature><persistence_mode>{text}</persistence_mode>"
        f"<gpu_power_readings><current_power_limit>{text}</current_power_limit></gpu_power_readings><gpu_recovery_action>{text}</gpu_recovery_action>"
        f"<ecc_mode><current_ecc>{text}</current_ecc></ecc_mode><fb_memory_usage><total>{text}</total></fb_memory_usage>"
        f"<fabric><state>{text}</state></fabric><remapped_rows>{text}</remapped_rows>"
    )
    assert (found["uuid"], found["recovery_action"], found["fabric_state"]) == ("", "", "")
    nulls = ("temperature", "persistence", "power_limit_watts", "ecc_current", "memory_bytes", "remap_pending", "remap_failure")
    assert {key: found[key] for key in nulls} == dict.fromkeys(nulls)
    # nothing to say is no fault, no answer is one
    assert found["errors"] == ([text.strip("[]")] if "Error" in text or "lost" in text else [])


def test_names_that_repeat() -> None:
    """A name is looked up under its parent: others have the same one."""
    found = gpu(
        "<bar1_memory_usage><total>131072 MiB</total><used>7 MiB</used></bar1_memory_usage>"
        "<gpu_memory_power_readings><instant_power_draw>1.00 W</instant_power_draw></gpu_memory_power_readings>"
        "<module_power_readings><instant_power_draw>2.00 W</instant_power_draw><current_power_limit>3.00 W</current_power_limit></module_power_readings>"
        "<mig_devices><mig_device><fb_memory_usage><total>10240 MiB</total></fb_memory_usage></mig_device></mig_devices>"
        "<ecc_errors><aggregate><dram_uncorrectable>9</dram_uncorrectable></aggregate></ecc_errors>"
        "<temperature><gpu_temp_tlimit>59 C</gpu_temp_tlimit></temperature>"
    )
    nulls = ("memory_bytes", "memory_used_bytes", "power_draw_watts", "power_limit_watts", "ecc_uncorrected", "temperature")
    assert {key: found[key] for key in nulls} == dict.fromkeys(nulls)


@pytest.mark.parametrize(
    ("inside", "count"),
    [
        (
            "<sram_uncorrectable_parity>1</sram_uncorrectable_parity><sram_uncorrectable_secded>2</sram_uncorrectable_secded>"
            "<dram_uncorrectable>4</dram_uncorrectable>",
            7,
        ),
        ("<sram_uncorrectable>0</sram_uncorrectable><dram_uncorrectable>5</dram_uncorrectable>", 5),
        ("<single_bit><total>8</total></single_bit><double_bit><device_memory>3</device_memory><total>3</total></double_bit>", 3),
        ("<sram_uncorrectable>N/A</sram_uncorrectable><dram_uncorrectable>2</dram_uncorrectable>", 2),
        ("<dram_correctable>6</dram_correctable><dram_uncorrectable>N/A</dram_uncorrectable>", None),
    ],
    ids=["Ampere", "Turing", "Pascal", "a part", "not told"],
)  # fmt: skip
def test_ecc(inside: str, count: int | None) -> None:
    """Uncorrectable errors since the driver was loaded, where the generations count them."""
    assert gpu(f"<ecc_errors><volatile>{inside}</volatile></ecc_errors>")["ecc_uncorrected"] == count


def test_old_names() -> None:
    """Drivers up to 525 say some things under other names."""
    found = gpu(
        "<clocks_throttle_reasons><clocks_throttle_reason_hw_thermal_slowdown>Active</clocks_throttle_reason_hw_thermal_slowdown></clocks_throttle_reasons>"
        "<power_readings><power_draw>60.10 W</power_draw><power_limit>250.00 W</power_limit></power_readings>"
        "<retired_pages><pending_retirement>Yes</pending_retirement></retired_pages>"
    )
    assert (found["slowdowns"], found["power_draw_watts"], found["power_limit_watts"]) == (["hw_thermal_slowdown"], 60.1, 250.0)
    assert found["retired_pending"] is True


def test_slowdowns(tmp_path: Path) -> None:
    """What the hardware does against heat."""
    assert [gpu["slowdowns"] for gpu in read(tmp_path, "hot")["gpus"]] == [["hw_thermal_slowdown"], []]


def test_processes(tmp_path: Path) -> None:
    """Those that compute, with the GPU that they are on."""
    processes = [
        {"pid": 4201, "name": "/usr/local/lib/ollama/llama-server", "uuid": OTHER}, {"pid": 5, "name": "Xorg", "uuid": UUID, "type": "G"},
        {"pid": 6, "name": "both", "uuid": UUID, "type": "C+G"},
    ]  # fmt: skip
    assert read(tmp_path, "busy", processes=processes)["processes"] == [
        {"pid": 6, "name": "both", "uuid": UUID}, {"pid": 4201, "name": "/usr/local/lib/ollama/llama-server", "uuid": OTHER},
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "state", "status"), [("hgx", "Completed", "Success"), ("fabric_waiting", "In Progress", ""), ("too_old", "", "")])
def test_fabric(tmp_path: Path, name: str, state: str, status: str) -> None:
    """The NVLink fabric; a driver of 535 says nothing of it, nor of a recovery."""
    found = read(tmp_path, name)["gpus"]
    assert {(gpu["fabric_state"], gpu["fabric_status"]) for gpu in found} == {(state, status)}
    assert {gpu["recovery_action"] for gpu in found} == {"" if name == "too_old" else "None"}
