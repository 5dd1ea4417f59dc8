"""What is left alone, and what is refused before the first change: one host has a driver, the other one has not. A play takes long, so each runs on
both, with a reason of its own for each."""

from __future__ import annotations

import json
from typing import Iterator

import pytest
from conftest import DEB12, DEB13, MARK, UUIDS, boots, converge, describe, installed, loaded
from scenario import Play, on_host

SYS = "/opt/nvidia-standin/sys"
EFI = f"{SYS}/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
NEWER = {"nvidia_driver_version": "580.105.08"}
UPGRADE = {**NEWER, "nvidia_driver_upgrade": True}
SETTINGS = {
    "nvidia_driver_mig": [{"uuid": UUIDS[0], "profiles": ["3g.40gb", "1g.10gb"]}],
    "nvidia_driver_tuning": [{"uuid": UUIDS[1], "power_limit_watts": 400, "graphics_clocks_mhz": [210, 1410]}],
}

pytestmark = pytest.mark.usefixtures("first")


@pytest.fixture(name="first", scope="module")
def first_play() -> Iterator[Play]:
    """One host is to have settings, and another version, for which it has no leave; from the other one the driver is taken."""
    # as a run leaves it that is broken off behind its reboot
    on_host(DEB12).check_output("mkdir -p $(dirname %s) && echo '{}' >%s", MARK, MARK)
    done = converge({DEB12: {**NEWER, **SETTINGS}, DEB13: {"nvidia_driver_state": "absent"}})
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
    """It is said what is to be done, and nothing is done. The mark of a reboot that has helped is forgotten."""
    assert not first.failed(DEB12) and set(installed(DEB12).values()) == {"580.95.05-1"}, first
    assert first.says("the driver 580.95.05 is loaded and stays as it is") and first.says("gpufleet.ollama.gpu_upgrade")
    assert not on_host(DEB12).file(MARK).exists


def test_settings(first: Play) -> None:
    """A MIG layout and a power limit, which a reboot takes and a unit sets again."""
    host = on_host(DEB12)
    assert host.check_output("nvidia-smi -L").count("  MIG ") == 2, first
    assert host.check_output("nvidia-smi --query-gpu=power.limit --format=csv,noheader").split("\n") == ["700.00 W", "400.00 W"]
    assert json.loads(host.file("/etc/gpufleet/nvidia-mig.json").content_string)[0]["profiles"] == ["3g.40gb", "1g.10gb"]
    assert host.service("gpufleet-nvidia-mig").is_enabled and host.service("gpufleet-nvidia-tuning").is_enabled


def test_absent(first: Play) -> None:
    """Packages and files are gone."""
    assert not first.failed(DEB13) and installed(DEB13) == {}, first
    listing = on_host(DEB13).check_output("ls /etc/apt/sources.list.d /etc/apt/preferences.d /etc/apt/apt.conf.d /etc/modprobe.d /usr/share/keyrings")
    assert "gpufleet" not in listing, listing
    assert on_host(DEB13).run("systemctl is-enabled sleep.target").stdout.strip() == "static"


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
    assert refused(done, DEB13, f"and {'A' * 40} is wanted. Nothing was trusted"), done
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


def test_no_reboot_under_who_computes() -> None:
    """A reboot is due, no instance of Ollama is active, and somebody else uses a GPU."""
    host = on_host(DEB12)
    describe(DEB12, processes=[{"pid": 4201, "name": "/usr/bin/python3", "uuid": UUIDS[0], "used_memory_mib": 1, "type": "C"}])
    host.check_output("touch /run/reboot-required")
    before = boots(DEB12)
    done = converge({DEB12: {}})
    host.check_output("rm -f /run/reboot-required")
    describe(DEB12)
    # what an earlier test left otherwise is put right before
    assert done.failed(DEB12), done
    assert done.says("it is not rebooted for packages ask for it (/run/reboot-required), since the GPUs are in use by 4201 /usr/bin/python3"), done
    assert boots(DEB12) == before and not host.file(MARK).exists


def test_absent_finds_nothing_to_do_and_a_driver_that_does_not_answer(instance: str) -> None:
    """Run again. Processes that nobody can know, and an instance that is active."""
    describe(DEB12, "mismatch")
    done = converge({DEB12: UPGRADE, DEB13: {"nvidia_driver_state": "absent"}})
    describe(DEB12)
    assert refused(done, DEB12, f"It goes ahead only when no instance of Ollama is active, and {instance} is"), done
    assert not done.failed(DEB13) and done.changed(DEB13) == 0, done


def test_branch_that_the_repository_has_not_and_a_reboot_of_who_serves(instance: str) -> None:
    """Before the first package, and before nouveau is given up. What serves is not cut off; the run says who is to do it. Settings are taken back."""
    host = on_host(DEB12)
    host.check_output("touch /run/reboot-required")
    before = boots(DEB12)
    no_mig = {"nvidia_driver_mig": [{"uuid": UUIDS[0], "profiles": []}]}
    done = converge({DEB12: no_mig, DEB13: {"nvidia_driver_version": "", "nvidia_driver_branch": "590"}})
    host.check_output("rm -f /run/reboot-required")
    assert not done.failed(DEB12) and boots(DEB12) == before, done
    assert done.says(f"{instance} serves: run the playbook gpufleet.ollama.gpu_upgrade"), done
    assert "MIG" not in host.check_output("nvidia-smi -L")
    assert not host.file("/etc/systemd/system/gpufleet-nvidia-tuning.service").exists
    assert done.failed(DEB13) and done.says("the repository has no nvidia-driver-cuda of the branch 590"), done
    assert not on_host(DEB13).file("/etc/modprobe.d/gpufleet-nvidia.conf").exists


def test_no_headers_and_unmanaged() -> None:
    """Nothing was blacklisted, so whatever drives the GPUs goes on. Another hand's driver is verified only, and a GPU that is missing is seen."""
    bare = on_host(DEB13)
    bare.check_output("apt-get -qq purge -y linux-headers-$(uname -r) && mv /etc/apt/sources.list.d/stand-in-kernel.list /root && apt-get -qq update")
    unmanaged = {"nvidia_driver_state": "unmanaged", "nvidia_driver_branch": "595", "nvidia_driver_version": "", "ollama_gpu_expected_count": 3}
    try:
        done = converge({DEB12: unmanaged, DEB13: {}})
    finally:
        bare.check_output("mv /root/stand-in-kernel.list /etc/apt/sources.list.d && apt-get -qq update && apt-get -qq install -y linux-headers-$(uname -r)")
    assert refused(done, DEB12, f"{DEB12}: nvidia-smi shows 2 GPUs, and ollama_gpu_expected_count is 3"), done
    assert done.failed(DEB13) and done.says("there are no headers of the kernel") and done.says("reboot into it"), done
    assert not bare.file("/etc/modprobe.d/gpufleet-nvidia.conf").exists
