"""Reading GPUs from trees like those of a kernel."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from ansible_collections.gpufleet.ollama.plugins.module_utils import _gpus

UUIDS = ["GPU-11111111-aaaa-bbbb-cccc-000000000000", "GPU-22222222-aaaa-bbbb-cccc-000000000001"]


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


def read(root: Path, memory: dict[str, int | None] | None = None) -> list[dict]:
    """The GPUs of a tree."""
    return _gpus.gpus(f"{root}/dev", f"{root}/proc", f"{root}/sys", memory)


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
    assert read(host, {UUIDS[1]: 46068 << 20, UUIDS[0]: 81559 << 20}) == [
        {"uuid": UUIDS[0], "minor": 0, "name": "NVIDIA H100 80GB HBM3", "bus_id": "0000:4b:00.0", "memory_bytes": 81559 << 20, "vendor": "nvidia"},
        {"uuid": UUIDS[1], "minor": 1, "name": "NVIDIA L40S", "bus_id": "0000:19:00.0", "memory_bytes": 46068 << 20, "vendor": "nvidia"},
    ]


@pytest.mark.parametrize("memory", [None, {}, {UUIDS[0]: None}, {"": 46068 << 20}], ids=["not asked", "no answer", "not said", "of another"])
def test_memory_unknown(host: Path, memory: dict[str, int | None] | None) -> None:
    """The GPUs are there all the same."""
    assert [(gpu["uuid"], gpu["memory_bytes"]) for gpu in read(host, memory)] == [(UUIDS[0], None), (UUIDS[1], None)]


def test_not_brought_up(tmp_path: Path) -> None:
    """Before the first use since boot the driver shows question marks."""
    information(tmp_path, "0000:19:00.0", "GPU-????????-????-????-????-????????????", 0)
    assert [gpu["uuid"] for gpu in read(tmp_path)] == [""]


def test_node_that_the_driver_does_not_name(host: Path) -> None:
    """It is a GPU; names that are none are not."""
    for name in ("nvidia0", "nvidia12", "nvidiactl"):
        node(host, name)
    (host / "dev/nvidia7").touch()
    found = read(host)
    assert [gpu["minor"] for gpu in found] == [0, 1, 12]
    assert found[2] == {"uuid": "", "minor": 12, "name": "", "bus_id": "", "memory_bytes": None, "vendor": "nvidia"}


@pytest.mark.parametrize(("made", "known"), [("", False), ("proc/driver/nvidia", True), ("dev/nvidia0", True), ("dev/nvidiactl", False)])
def test_known(tmp_path: Path, made: str, known: bool) -> None:
    """A driver that is loaded and a node of a GPU are signs of NVIDIA."""
    if made.startswith("dev"):
        node(tmp_path, made.partition("/")[2])
    elif made:
        (tmp_path / made).mkdir(parents=True)
    assert _gpus.known(f"{tmp_path}/proc", f"{tmp_path}/dev") is known


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
