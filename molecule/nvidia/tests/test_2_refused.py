"""What is refused before the first change, and what is left alone: one host has a driver, the other one has not. A play runs on both, each with a
reason of its own."""

from __future__ import annotations

from typing import Any, Iterator

import pytest
from conftest import DEB12, DEB13, UUIDS, boots, converge, describe, installed, loaded
from scenario import Play, on_host

SYS = "/opt/nvidia-standin/sys"
EFI = f"{SYS}/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
NEWER = {"nvidia_driver_version": "580.105.08"}
UPGRADE = {**NEWER, "nvidia_driver_upgrade": True}

pytestmark = pytest.mark.usefixtures("first")


@pytest.fixture(name="first", scope="module")
def first_play() -> Iterator[Play]:
    """One host is to have another version, and has no leave for it; from the other one the driver is taken."""
    done = converge({DEB12: NEWER, DEB13: {"nvidia_driver_state": "absent"}})
    # as a boot does: nothing is loaded any more
    on_host(DEB13).check_output("systemctl restart nvidia-standin")
    yield done
    # nothing below has changed that
    assert installed(DEB13) == {} and "580.95.05" in loaded(DEB12)


@pytest.fixture(name="instance")
def instance_that_serves() -> Iterator[str]:
    """An instance of Ollama, as far as systemd knows."""
    host = on_host(DEB12)
    unit = "[Service]\\nExecStart=/usr/bin/sleep infinity\\n"
    host.check_output(f"printf '{unit}' >/run/systemd/system/ollama@.service && systemctl daemon-reload && systemctl start ollama@default")
    yield "ollama@default.service"
    host.check_output("systemctl stop ollama@default && rm /run/systemd/system/ollama@.service && systemctl daemon-reload")


def refused(done: Play, host: str, text: str) -> bool:
    """Whether a host was refused before the first change, and why."""
    return done.failed(host) and done.changed(host) == 0 and done.says(text)


def test_a_loaded_driver_is_left_alone(first: Play) -> None:
    """It is said what is to be done, and nothing is done."""
    assert not first.failed(DEB12) and first.changed(DEB12) == 0, first
    assert first.says("the driver 580.95.05 is loaded and stays as it is") and first.says("gpufleet.ollama.gpu_upgrade")


def test_absent(first: Play) -> None:
    """Packages and files are gone."""
    assert not first.failed(DEB13) and installed(DEB13) == {}, first
    listing = on_host(DEB13).check_output("ls /etc/apt/sources.list.d /etc/apt/preferences.d /etc/apt/apt.conf.d /etc/modprobe.d /usr/share/keyrings")
    assert "gpufleet" not in listing, listing
    assert on_host(DEB13).run("systemctl is-enabled sleep.target").stdout.strip() == "static"


def test_the_gate_is_closed_and_absent_finds_nothing_to_do() -> None:
    """By what nvidia-smi says of a board; and where the driver has been taken off."""
    describe(DEB12, "lost")
    done = converge({DEB12: {"part": "gate"}, DEB13: {"part": "main", "nvidia_driver_state": "absent"}}, playbook="part")
    describe(DEB12)
    assert refused(done, DEB12, f"{DEB12} has GPUs that are not healthy") and done.says("GPU is lost"), done
    assert not done.failed(DEB13) and done.changed(DEB13) == 0, done


def test_check_mode_says_what_would_be() -> None:
    """Of the newest version on a host that has none, and of an upgrade; a reboot belongs to both."""
    done = converge({DEB12: UPGRADE, DEB13: {"nvidia_driver_version": ""}}, "--check")
    assert done.status == 0, done
    assert done.says(f"{DEB12}: the driver 580.95.05 would be replaced by the newer 580.105.08") and done.says(f"{DEB12} would be rebooted"), done
    assert done.says(f"{DEB13}: the driver 580 with open kernel modules would be installed") and done.says(f"{DEB13} would be rebooted"), done


def test_wrong_key_and_another_branch_without_leave() -> None:
    """Another key than the one that is known: nothing of the repository is written. Who upgrades needs leave for another branch, too."""
    done = converge(
        {
            DEB12: {"nvidia_driver_version": "", "nvidia_driver_branch": "595", "nvidia_driver_upgrade": True},
            DEB13: {"nvidia_driver_repo_key_fingerprint": "A" * 40},
        }
    )
    assert refused(done, DEB12, "set nvidia_driver_allow_branch_change: true"), done
    assert refused(done, DEB13, f"and {'A' * 40} is wanted. Nothing was changed"), done
    written = on_host(DEB13).check_output("ls /usr/share/keyrings /etc/apt/sources.list.d")
    assert "gpufleet" not in written, written


def test_secure_boot_and_processes() -> None:
    """It is on, and nobody has enrolled a key. Processes that compute are named."""
    bare = on_host(DEB13)
    bare.check_output(f"mkdir -p $(dirname {EFI}) && printf '\\006\\000\\000\\000\\001' >{EFI}")
    describe(DEB12, processes=[{"pid": 4201, "name": "/usr/bin/python3", "uuid": UUIDS[0], "used_memory_mib": 1, "type": "C"}])
    try:
        done = converge({DEB12: UPGRADE, DEB13: {}})
    finally:
        bare.check_output(f"rm -r {SYS}/firmware")
        describe(DEB12)
    assert refused(done, DEB12, f"{DEB12}: the driver is not replaced, since the GPUs are in use by 4201 /usr/bin/python3"), done
    assert refused(done, DEB13, "Secure Boot is on") and done.says("nvidia_driver_secure_boot: mok_enrolled"), done


def test_flavor_that_a_gpu_does_not_take_and_a_driver_that_does_not_answer(instance: str) -> None:
    """A Pascal card, and open modules. Processes that nobody can know, and an instance that is active."""
    device = f"{SYS}/bus/pci/devices/0000:3b:00.0/device"
    on_host(DEB13).check_output(f"echo 0x1b38 >{device}")
    describe(DEB12, "mismatch")
    try:
        done = converge({DEB12: UPGRADE, DEB13: {"nvidia_driver_flavor": "open"}})
    finally:
        on_host(DEB13).check_output(f"echo 0x2330 >{device}")
        describe(DEB12)
    assert refused(done, DEB12, f"It goes ahead only when no instance of Ollama is active, and {instance} is"), done
    assert refused(done, DEB13, "the Pascal GPU 0000:3b:00.0 has no GSP"), done


def test_branch_that_the_repository_has_not_and_a_reboot_of_who_serves(instance: str) -> None:
    """Before the first package, and before nouveau is given up. What serves is not cut off; the run says who is to do it."""
    on_host(DEB12).check_output("touch /run/reboot-required")
    before = boots(DEB12)
    done = converge({DEB12: {}, DEB13: {"nvidia_driver_version": "", "nvidia_driver_branch": "590"}})
    on_host(DEB12).check_output("rm -f /run/reboot-required")
    assert not done.failed(DEB12) and done.changed(DEB12) == 0 and boots(DEB12) == before, done
    assert done.says(f"{instance} serves: run the playbook gpufleet.ollama.gpu_upgrade"), done
    assert done.failed(DEB13) and done.says("the repository has no nvidia-driver-cuda of the branch 590"), done
    assert not on_host(DEB13).file("/etc/modprobe.d/gpufleet-nvidia.conf").exists


def test_no_headers_and_unmanaged() -> None:
    """Nothing was blacklisted, so whatever drives the GPUs goes on. Another hand's driver is verified only, and a GPU that is missing is seen."""
    bare: Any = on_host(DEB13)
    bare.check_output("apt-get -qq purge -y linux-headers-$(uname -r) && mv /etc/apt/sources.list.d/stand-in-kernel.list /root && apt-get -qq update")
    unmanaged = {"nvidia_driver_state": "unmanaged", "nvidia_driver_branch": "595", "nvidia_driver_version": "", "ollama_gpu_expected_count": 3}
    try:
        done = converge({DEB12: unmanaged, DEB13: {}})
    finally:
        bare.check_output("mv /root/stand-in-kernel.list /etc/apt/sources.list.d && apt-get -qq update && apt-get -qq install -y linux-headers-$(uname -r)")
    assert refused(done, DEB12, f"{DEB12}: nvidia-smi shows 2 GPUs, and ollama_gpu_expected_count is 3"), done
    assert done.failed(DEB13) and done.says("there are no headers of the kernel") and done.says("reboot into it"), done
    assert not bare.file("/etc/modprobe.d/gpufleet-nvidia.conf").exists
