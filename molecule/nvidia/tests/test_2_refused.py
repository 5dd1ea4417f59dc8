"""What is refused before the first change, and what is left alone."""

from __future__ import annotations

from typing import Any, Iterator

import pytest
from conftest import DEB12, DEB13, boots, converge, describe, installed, loaded, part
from scenario import on_host

SYS = "/opt/nvidia-standin/sys"
EFI = f"{SYS}/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"


@pytest.fixture(name="bare", scope="module")
def bare_host() -> Iterator[Any]:
    """A host from which the role has taken the driver."""
    host = on_host(DEB13)
    done = converge(DEB13, nvidia_driver_state="absent")
    assert done.status == 0, done
    # as a boot does: nothing is loaded any more
    host.check_output("systemctl restart nvidia-standin")
    yield host
    assert installed(DEB13) == {}


def test_absent(bare: Any) -> None:
    """Packages and files are gone; a second run finds nothing to do."""
    listing = bare.check_output("ls /etc/apt/sources.list.d /etc/apt/preferences.d /etc/apt/apt.conf.d /etc/modprobe.d /usr/share/keyrings")
    assert "gpufleet" not in listing, listing
    assert bare.run("systemctl is-enabled sleep.target").stdout.strip() == "static"
    again = converge(DEB13, nvidia_driver_state="absent")
    assert again.status == 0 and again.changed(DEB13) == 0, again


def test_wrong_key(bare: Any) -> None:
    """Another key than the one that is known: nothing of the repository is written."""
    done = converge(DEB13, nvidia_driver_repo_key_fingerprint="A" * 40)
    assert done.failed_with(f"and {'A' * 40} is wanted. Nothing was changed"), done
    assert done.changed(DEB13) == 0
    assert not bare.file("/usr/share/keyrings/gpufleet-nvidia.asc").exists and not bare.file("/etc/apt/sources.list.d/gpufleet-nvidia.sources").exists


def test_secure_boot(bare: Any) -> None:
    """It is on, and nobody has enrolled a key."""
    bare.check_output(f"mkdir -p $(dirname {EFI}) && printf '\\006\\000\\000\\000\\001' >{EFI}")
    try:
        done = converge(DEB13)
    finally:
        bare.check_output(f"rm -r {SYS}/firmware")
    assert done.failed_with("Secure Boot is on") and done.says("nvidia_driver_secure_boot: mok_enrolled") and done.changed(DEB13) == 0, done


def test_flavor_that_a_gpu_does_not_take(bare: Any) -> None:
    """A Pascal card, and open modules."""
    bare.check_output(f"echo 0x1b38 >{SYS}/bus/pci/devices/0000:3b:00.0/device")
    try:
        done = converge(DEB13, nvidia_driver_flavor="open")
    finally:
        bare.check_output(f"echo 0x2330 >{SYS}/bus/pci/devices/0000:3b:00.0/device")
    assert done.failed_with("the Pascal GPU 0000:3b:00.0 has no GSP") and done.changed(DEB13) == 0, done


def test_branch_that_the_repository_has_not(bare: Any) -> None:
    """Before the first package, and before nouveau is given up."""
    done = converge(DEB13, nvidia_driver_version="", nvidia_driver_branch="590")
    assert done.failed_with("the repository has no nvidia-driver-cuda of the branch 590"), done
    assert not bare.file("/etc/modprobe.d/gpufleet-nvidia.conf").exists


def test_no_headers(bare: Any) -> None:
    """Nothing was blacklisted, so whatever drives the GPUs goes on."""
    bare.check_output("apt-get -qq purge -y linux-headers-$(uname -r) && mv /etc/apt/sources.list.d/stand-in-kernel.list /root && apt-get -qq update")
    try:
        done = converge(DEB13)
    finally:
        bare.check_output("mv /root/stand-in-kernel.list /etc/apt/sources.list.d && apt-get -qq update && apt-get -qq install -y linux-headers-$(uname -r)")
    assert done.failed_with("there are no headers of the kernel") and done.says("reboot into it"), done
    assert not bare.file("/etc/modprobe.d/gpufleet-nvidia.conf").exists


def test_a_loaded_driver_is_left_alone() -> None:
    """Another version is wanted: it is said, and nothing is done."""
    done = converge(DEB12, nvidia_driver_version="580.105.08")
    assert done.status == 0 and done.changed(DEB12) == 0, done
    assert done.says("the driver 580.95.05 is loaded and stays as it is") and done.says("gpufleet.ollama.gpu_upgrade")


def test_another_branch_needs_leave() -> None:
    """Also for who upgrades."""
    done = converge(DEB12, nvidia_driver_version="", nvidia_driver_branch="595", nvidia_driver_upgrade=True)
    assert done.failed_with("set nvidia_driver_allow_branch_change: true") and done.changed(DEB12) == 0, done


def test_a_host_in_use_is_not_changed() -> None:
    """Processes that compute are named; instances of Ollama keep a host from its reboot."""
    process = {"pid": 4201, "name": "/usr/bin/ollama", "uuid": "GPU-00000000-aaaa-bbbb-cccc-000000000000", "used_memory_mib": 1, "type": "C"}
    describe(DEB12, processes=[process])
    done = converge(DEB12, nvidia_driver_version="580.105.08", nvidia_driver_upgrade=True)
    describe(DEB12)
    assert done.failed_with("the GPUs are in use, so the driver is not replaced: 4201 /usr/bin/ollama") and done.changed(DEB12) == 0, done


@pytest.mark.parametrize(
    ("scenario", "text"),
    [
        ("ecc", "uncorrectable memory errors"),
        ("lost", "GPU is lost"),
        ("recovery", "the driver asks for this to recover it"),
        ("mismatch", "version mismatch"),
    ],
)
def test_the_gate_is_closed(scenario: str, text: str) -> None:
    """By what nvidia-smi says of the boards."""
    describe(DEB12, scenario)
    done = part(DEB12, "gate")
    describe(DEB12)
    assert done.failed_with("has GPUs that are not healthy") and done.says(text), done


def test_the_gate_is_open() -> None:
    """For boards that are well, and for a count that is right."""
    assert part(DEB12, "gate").status == 0
    assert part(DEB12, "gate", ollama_gpu_expected_count=3).failed_with("2 GPUs are on the bus, and 3 must be")


def test_unmanaged_is_verified_only() -> None:
    """Nothing is changed, and a GPU that is missing is seen."""
    done = converge(DEB12, nvidia_driver_state="unmanaged", nvidia_driver_branch="595", nvidia_driver_version="")
    assert done.status == 0 and done.changed(DEB12) == 0, done
    done = converge(DEB12, nvidia_driver_state="unmanaged", ollama_gpu_expected_count=3)
    assert done.failed_with("nvidia-smi shows 2 GPUs, and ollama_gpu_expected_count is 3"), done
    assert boots(DEB12) and "580.95.05" in loaded(DEB12)
