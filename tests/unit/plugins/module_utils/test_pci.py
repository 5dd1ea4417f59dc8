"""GPUs and NVSwitches in trees like /sys."""

from __future__ import annotations

from pathlib import Path

import nvidia_standin as standin
import pytest

from ansible_collections.gpufleet.ollama.plugins.module_utils import _pci


@pytest.mark.parametrize(
    ("ids", "name"),
    [
        ("102d 11bf 0ff2", "kepler"),
        # GTX 750 Ti, GTX 980, M60, TITAN X, M40, M4
        ("1380 13c0 13f2 17c2 17fd 1431", "maxwell"),
        # P100, GTX 1080 Ti, P40, P4, GTX 1060, GTX 1050 Ti, GT 1030
        ("15f8 15f9 1b06 1b38 1bb3 1c03 1c82 1d01", "pascal"),
        ("1d81 1db1 1db6 1df6", "volta"),
        # RTX 2080 Ti, RTX 6000, RTX 2080 SUPER, T4, GTX 1650, GTX 1660 Ti, GTX 1660 SUPER
        ("1e04 1e30 1e81 1eb8 1f82 2182 21c4", "turing"),
        # A100 SXM4 and PCIe, A30, RTX 3090, A6000, A40, A10, RTX 3060 Ti, RTX 3070, RTX 3060, A2, RTX 3050
        ("20b0 20b5 20f1 20b7 2204 2230 2235 2236 2414 2484 2503 25b6 2582", "ampere"),
        # RTX 4090, RTX 6000 Ada, L40, L40S, RTX 4080 SUPER, L4, RTX 4060
        ("2684 26b1 26b5 26b9 2702 27b8 2882", "ada"),
        # H100 SXM, PCIe and NVL, H200, H20, H800
        ("2330 2331 2321 2335 233b 2329 2324", "hopper"),
        ("2342 2345 2348", "grace_hopper"),
        # B200, GB200, RTX 5090, RTX PRO 6000 in three editions, RTX 5080, RTX 5060, GB10, RTX 5070, B300, GB300
        ("2901 2941 2b85 2bb1 2bb4 2bb5 2c02 2d05 2e12 2f04 3182 31c2", "blackwell"),
        ("3000", "rubin"),
    ],
)
def test_generation(ids: str, name: str) -> None:
    """The boards that Ollama lists, and others of their generations."""
    found = {number: _pci.generation(number) for number in ids.split()}
    assert set(found.values()) == {name}, found


@pytest.mark.parametrize("number", ["", "0x", "card", "06d1", "1091", "22a3", "22ba", "2f95", "ffff"])
def test_unknown_generation(number: str) -> None:
    """Of what is in no block, and of no number, nothing is said."""
    assert _pci.generation(number) == ""


def test_blocks_do_not_overlap() -> None:
    """Each id has one generation."""
    ends = [end for first, last, _name in _pci.GENERATIONS for end in (first, last)]
    assert ends == sorted(ends) and len(set(ends)) == len(ends)


def test_devices(tmp_path: Path) -> None:
    """GPUs of NVIDIA and AMD of each class, and NVSwitches; by address."""
    standin.pci(tmp_path, "0000:81:00.0", "26b1", class_="030000")
    standin.pci(tmp_path, "0000:19:00.0")
    standin.pci(tmp_path, "0000:05:00.0", "22a3", class_="068000", driver="nvidia-nvswitch")
    standin.pci(tmp_path, "0000:c1:00.0", "74a1", class_="120000", driver="amdgpu", vendor="1002")
    standin.pci(tmp_path, "0000:c2:00.0", "738c", class_="038000", driver="", vendor="1002")
    assert _pci.devices(f"{tmp_path}/sys") == [
        {"bus_id": bus_id, "kind": kind, "vendor": vendor, "device_id": device_id, "generation": generation, "driver": driver}
        for bus_id, kind, vendor, device_id, generation, driver in (
            ("0000:05:00.0", "nvswitch", "nvidia", "22a3", "", "nvidia"),
            ("0000:19:00.0", "gpu", "nvidia", "2330", "hopper", "nvidia"),
            ("0000:81:00.0", "gpu", "nvidia", "26b1", "ada", "nvidia"),
            ("0000:c1:00.0", "gpu", "amd", "74a1", "", "amdgpu"),
            ("0000:c2:00.0", "gpu", "amd", "738c", "", ""),
        )
    ]


def test_what_is_no_gpu(tmp_path: Path) -> None:
    """The sound and the USB of a card, another vendor, a network card of an old chipset, an accelerator of another vendor."""
    standin.pci(tmp_path, "0000:01:00.1", "22ba", class_="040300")
    # a virtual function, and a second display on a card
    standin.pci(tmp_path, "0000:01:00.4")
    standin.pci(tmp_path, "0000:02:00.0", "22ba", class_="0c0330")
    standin.pci(tmp_path, "0000:00:02.0", "9a49", class_="030000", vendor="8086", driver="i915")
    standin.pci(tmp_path, "0000:00:08.0", "0373", class_="068000", driver="forcedeth")
    standin.pci(tmp_path, "0000:03:00.0", "2330", class_="120000")
    standin.pci(tmp_path, "0000:04:00.0", "1440", class_="068000", vendor="1002")
    (tmp_path / "sys/bus/pci/devices/0000:06:00.0").mkdir()
    assert not _pci.devices(f"{tmp_path}/sys")
    assert not _pci.devices(f"{tmp_path}/nowhere")


@pytest.mark.parametrize(
    ("driver", "shown"),
    [
        ("", ""), ("nvidia", "nvidia"), ("nvidia_current", "nvidia"), ("nvidia-current", "nvidia"), ("nouveau", "nouveau"), ("vfio-pci", "vfio-pci"),
        ("nova_core", "nova_core"), ("nova-core", "nova_core"), ("NovaCore", "nova_core"), ("simpledrm", "simpledrm"),
    ],
)  # fmt: skip
def test_driver(tmp_path: Path, driver: str, shown: str) -> None:
    """Who holds a GPU, in one spelling."""
    standin.pci(tmp_path, "0000:19:00.0", driver=driver)
    found = _pci.devices(f"{tmp_path}/sys")
    assert [device["driver"] for device in found] == [shown]
    # handed through to a virtual machine, it is none of this host
    assert bool(_pci.nvidia_devices(found)) is (driver != "vfio-pci")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("00000000:19:00.0", "0000:19:00.0"), ("00000000:0C:00.0", "0000:0c:00.0"), ("0000:0B:00.0", "0000:0b:00.0"),
        # virtual machine hosts and Grace boards have large domains
        ("00010000:0C:00.0", "10000:0c:00.0"), ("0009:01:00.0", "0009:01:00.0"), ("N/A", ""), ("", ""),
    ],
)  # fmt: skip
def test_bus_id(text: str, address: str) -> None:
    """nvidia-smi has domains of eight digits and capital letters, sysfs of four and small ones."""
    assert _pci.bus_id(text) == address
