"""Reading GPUs from trees like those of a kernel, and from an nvidia-smi that is in trouble."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from ansible_collections.gpufleet.ollama.plugins.module_utils import _gpus

UUIDS = ["GPU-11111111-aaaa-bbbb-cccc-000000000000", "GPU-22222222-aaaa-bbbb-cccc-000000000001"]
SMI = """#!/bin/sh
[ "$*" = "--query-gpu=uuid,memory.total --format=csv,noheader,nounits" ] || { echo "Invalid combination of input arguments."; exit 1; }
"""
HEALTHY = f"echo '{UUIDS[1]}, 46068'\necho '{UUIDS[0]}, 81559'\n"


def information(root: Path, bus: str, uuid: str, minor: int, name: str = "NVIDIA H100 80GB HBM3") -> None:
    """The file that the driver shows of a GPU."""
    folder = root / "proc/driver/nvidia/gpus" / bus
    folder.mkdir(parents=True)
    (folder / "information").write_text(
        f"Model: \t\t {name}\nIRQ:   \t\t 46\nGPU UUID: \t {uuid}\nVideo BIOS: \t 96.00.89.00.01\nBus Type: \t PCIe\nBus Location: \t {bus}\n"
        f"Device Minor: \t {minor}\nGPU Firmware: \t 580.95.05\nGPU Excluded:\t No\n",
        encoding="utf-8",
    )


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A host with two GPUs; the bus goes the other way round than the minors."""
    information(tmp_path, "0000:19:00.0", UUIDS[1], 1, "NVIDIA L40S")
    information(tmp_path, "0000:4b:00.0", UUIDS[0], 0)
    (tmp_path / "dev").mkdir()
    return tmp_path


def smi(root: Path, body: str) -> str:
    """An nvidia-smi that refuses all arguments but those that it knows."""
    path = root / "nvidia-smi"
    path.write_text(SMI + body, encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def read(root: Path, command: str = "") -> list[dict]:
    """The GPUs of a tree."""
    return _gpus.gpus(f"{root}/dev", f"{root}/proc", f"{root}/sys", command)


def node(root: Path, name: str, mode: int = 0o666) -> None:
    """A character device; which one does not matter, so the link of somebody who is not root will do."""
    path = root / "dev" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.mknod(path, stat.S_IFCHR | mode, os.makedev(1, 3))
        os.chmod(path, mode)
    except PermissionError:
        path.symlink_to("/dev/null")


def test_healthy(host: Path) -> None:
    """By minor, with the memory that belongs to the UUID."""
    assert read(host, smi(host, HEALTHY)) == [
        {"uuid": UUIDS[0], "minor": 0, "name": "NVIDIA H100 80GB HBM3", "bus_id": "0000:4b:00.0", "memory_bytes": 81559 << 20, "vendor": "nvidia"},
        {"uuid": UUIDS[1], "minor": 1, "name": "NVIDIA L40S", "bus_id": "0000:19:00.0", "memory_bytes": 46068 << 20, "vendor": "nvidia"},
    ]


@pytest.mark.parametrize(
    "body",
    [
        f"echo '{UUIDS[0]}, [N/A]'\necho '{UUIDS[1]}, [N/A]'\n",
        f"{HEALTHY}exit 9\n",
        "echo \"NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\"\nexit 9\n",
        "printf '\\377\\376 no csv\\n'\n",
    ],
    ids=["not said", "failed in the end", "no driver", "nonsense"],
)
def test_memory_unknown(host: Path, body: str) -> None:
    """The GPUs are there all the same."""
    assert [(gpu["uuid"], gpu["memory_bytes"]) for gpu in read(host, smi(host, body))] == [(UUIDS[0], None), (UUIDS[1], None)]


@pytest.mark.parametrize("command", ["", "/nowhere/nvidia-smi", "/"], ids=["not wanted", "missing", "no program"])
def test_no_smi(host: Path, command: str) -> None:
    """Not to have it is no error."""
    assert [gpu["memory_bytes"] for gpu in read(host, command)] == [None, None]


def test_smi_hangs(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is kept although a child holds the output, and nothing is left behind."""
    monkeypatch.setattr(_gpus, "SMI_SECONDS", 0.3)
    began = time.monotonic()
    found = read(host, smi(host, f"sleep 33 &\necho $! >{host}/child\n{HEALTHY}sleep 33\n"))
    assert time.monotonic() - began < 5
    assert [gpu["memory_bytes"] for gpu in found] == [None, None]
    child = Path("/proc") / (host / "child").read_text(encoding="utf-8").strip()
    until = time.monotonic() + 5
    while child.exists() and "\nState:\tZ" not in (child / "status").read_text(encoding="utf-8"):
        assert time.monotonic() < until, "the child still runs"
        time.sleep(0.05)


def test_unknown_fields_are_told_apart(host: Path) -> None:
    """A query that nvidia-smi does not know gives nothing, not the text of its error."""
    assert not _gpus.smi(smi(host, HEALTHY), ["uuid", "no.such.field"])


def test_not_brought_up(tmp_path: Path) -> None:
    """Before the first use since boot the driver shows question marks."""
    information(tmp_path, "0000:19:00.0", "GPU-????????-????-????-????-????????????", 0)
    assert [gpu["uuid"] for gpu in read(tmp_path)] == [""]


def test_asked_before_it_is_read(tmp_path: Path) -> None:
    """nvidia-smi brings the GPUs up, so the UUIDs are read after it."""
    information(tmp_path, "0000:19:00.0", "GPU-????????-????-????-????-????????????", 0)
    path = next(tmp_path.rglob("information"))
    assert [gpu["memory_bytes"] for gpu in read(tmp_path, smi(tmp_path, f"sed -i 's/GPU-?.*/{UUIDS[0]}/' {path}\n{HEALTHY}"))] == [81559 << 20]


def test_node_that_the_driver_does_not_name(host: Path) -> None:
    """It is a GPU; names that are none are not."""
    for name in ("nvidia0", "nvidia12", "nvidiactl"):
        node(host, name)
    (host / "dev/nvidia7").touch()
    found = read(host)
    assert [gpu["minor"] for gpu in found] == [0, 1, 12]
    assert found[2] == {"uuid": "", "minor": 12, "name": "", "bus_id": "", "memory_bytes": None, "vendor": "nvidia"}


def test_amd(tmp_path: Path) -> None:
    """Cards of AMD count where there is a node to compute with; other cards do not."""
    for number, vendor in ((128, "0x8086"), (129, "0x1002")):
        card = tmp_path / f"sys/devices/pci0000:00/0000:0{number - 128}:00.0"
        card.mkdir(parents=True)
        (card / "vendor").write_text(f"{vendor}\n", encoding="utf-8")
        (card / "mem_info_vram_total").write_text("17163091968\n", encoding="utf-8")
        drm = tmp_path / f"sys/class/drm/renderD{number}"
        drm.mkdir(parents=True)
        (drm / "device").symlink_to(card)
    assert not read(tmp_path)
    node(tmp_path, "kfd")
    assert read(tmp_path) == [{"uuid": "", "minor": 129, "name": "", "bus_id": "0000:01:00.0", "memory_bytes": 17163091968, "vendor": "amd"}]


def test_nodes(tmp_path: Path) -> None:
    """The nodes that Ollama needs, in the order of their numbers; files and other devices are none."""
    names = ["nvidia2", "nvidia10", "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset", "nvidia-caps/nvidia-cap1", "kfd", "dri/renderD128"]
    for name in [*names, "dri/card0", "null"]:
        node(tmp_path, name)
    (tmp_path / "dev/nvidia3").touch()
    (tmp_path / "dev/nvidia4").symlink_to("nowhere")
    assert [found["path"] for found in _gpus.nodes(f"{tmp_path}/dev")] == [f"{tmp_path}/dev/{name}" for name in names]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes device nodes")
def test_group_and_mode(tmp_path: Path) -> None:
    """The group by its name, by its number when it has none."""
    node(tmp_path, "nvidia0", 0o660)
    os.chown(tmp_path / "dev/nvidia0", 0, 4242)
    node(tmp_path, "nvidiactl")
    assert [(found["group"], found["mode"]) for found in _gpus.nodes(f"{tmp_path}/dev")] == [("4242", "0660"), ("root", "0666")]


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023", "535.129.03"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  595.80  Release Build  (dvs-builder@U22)  Tue Sep  1 1:2:3 UTC 2026", "595.80"),
        ("", ""),
    ],
)
def test_driver_version(tmp_path: Path, line: str, version: str) -> None:
    """Closed and open modules, versions of two and of three parts."""
    (tmp_path / "driver/nvidia").mkdir(parents=True)
    (tmp_path / "driver/nvidia/version").write_text(f"{line}\nGCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n", encoding="utf-8")
    assert _gpus.driver_version(str(tmp_path)) == version


def test_nothing_at_all(tmp_path: Path) -> None:
    """A host without a GPU, without a driver, and without the folders."""
    assert (read(tmp_path), _gpus.nodes(f"{tmp_path}/dev"), _gpus.driver_version(f"{tmp_path}/proc")) == ([], [], "")
