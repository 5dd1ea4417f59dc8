"""Changes of the driver, as the playbook that upgrades makes them, and reboots that do not help."""

from __future__ import annotations

import json

from conftest import DEB12, DEB13, boots, converge, installed, loaded, part
from scenario import on_host


def test_a_reboot_is_not_made_twice() -> None:
    """Another library than the driver's is a reason, as after an upgrade by hand; the reboot does not mend it, and no second one is made."""
    host = on_host(DEB12)
    host.check_output("cp /usr/lib/nvidia-standin/library-version /root && echo 580.105.08 >/usr/lib/nvidia-standin/library-version")
    assert part(DEB12, "verify").failed_with("nvidia-smi does not answer")
    never = converge(DEB12, nvidia_driver_reboot="never")
    assert never.status == 0 and never.changed(DEB12) == 0, never
    assert never.says("needs a reboot: the driver's programs and the loaded driver 580.95.05 have different versions")
    before = boots(DEB12)
    first = converge(DEB12)
    after = boots(DEB12)
    assert first.failed_with("was rebooted, and still needs one") and after != before, first
    second = converge(DEB12)
    assert second.failed_with("No second reboot is made for the same reason") and boots(DEB12) == after, second
    host.check_output("cp /root/library-version /usr/lib/nvidia-standin/library-version")
    mended = converge(DEB12)
    assert mended.status == 0 and boots(DEB12) == after, mended


def test_an_instance_keeps_the_host_from_its_reboot() -> None:
    """What serves is not cut off; the run says who is to do it."""
    host = on_host(DEB12)
    unit = "[Service]\\nExecStart=/usr/bin/sleep infinity\\n"
    host.check_output(f"printf '{unit}' >/run/systemd/system/ollama@.service && systemctl daemon-reload && systemctl start ollama@default")
    host.check_output("touch /run/reboot-required")
    before = boots(DEB12)
    done = converge(DEB12)
    host.check_output("systemctl stop ollama@default && rm /run/systemd/system/ollama@.service /run/reboot-required && systemctl daemon-reload")
    assert done.status == 0 and boots(DEB12) == before, done
    assert done.says("ollama@default.service serves: run the playbook gpufleet.ollama.gpu_upgrade")


def test_plan() -> None:
    """It is in check mode what it is without, and says what would be."""
    for options in ([], ["--check"]):
        done = part(DEB12, "plan", *options, nvidia_driver_version="580.105.08", nvidia_driver_upgrade=True)
        assert done.status == 0 and done.changed(DEB12) == 0, done
        assert done.says("the driver 580.95.05 would be replaced by the newer 580.105.08 with open kernel modules; a reboot is needed"), done


def test_upgrade_to_another_branch_and_back() -> None:
    """Each with its leave; the host is rebooted into it, and the pin goes along."""
    host = on_host(DEB12)
    before = boots(DEB12)
    done = converge(DEB12, nvidia_driver_version="", nvidia_driver_branch="595", nvidia_driver_upgrade=True, nvidia_driver_allow_branch_change=True)
    assert done.status == 0, done
    assert set(installed(DEB12).values()) == {"595.71.05-1"} and "595.71.05" in loaded(DEB12) and boots(DEB12) != before
    back = {"nvidia_driver_upgrade": True, "nvidia_driver_allow_branch_change": True}
    refused = converge(DEB12, **back)
    assert refused.failed_with("set nvidia_driver_allow_downgrade: true") and refused.changed(DEB12) == 0, refused
    done = converge(DEB12, **back, nvidia_driver_allow_downgrade=True)
    assert done.status == 0, done
    assert set(installed(DEB12).values()) == {"580.95.05-1"} and "580.95.05" in loaded(DEB12)
    assert json.loads(host.check_output("cat /etc/nvidia-standin/smi.json"))["driver_version"] == "loaded"
    assert "nvidia" not in host.check_output("apt-get -s dist-upgrade")


def test_the_newest_of_the_branch() -> None:
    """Where no version is asked for; check mode says so on the host that has none, and a dist-upgrade stays within the branch."""
    host = on_host(DEB13)
    assert installed(DEB13) == {}
    foreseen = converge(DEB13, "--check", nvidia_driver_version="")
    assert foreseen.status == 0 and foreseen.says("with open kernel modules would be installed") and foreseen.says("would be rebooted"), foreseen
    assert installed(DEB13) == {}
    done = converge(DEB13, nvidia_driver_version="", nvidia_driver_fabricmanager="present")
    assert done.status == 0, done
    assert set(installed(DEB13).values()) == {"580.105.08-1"} and "nvidia-fabricmanager-580" in installed(DEB13)
    assert host.service("nvidia-fabricmanager").is_running and "580.105.08" in loaded(DEB13)
    assert "nvidia" not in host.check_output("apt-get -s dist-upgrade")
    assert "Candidate: 580.105.08-1" in host.check_output("apt-cache policy nvidia-kernel-dkms")
