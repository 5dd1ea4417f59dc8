"""A reboot that does not help, on one host; at the same time the newest version and the way back, on the other one."""

from __future__ import annotations

from conftest import DEB12, DEB13, MARK, boots, converge, installed, loaded
from scenario import on_host

LIBRARY = "/usr/lib/nvidia-standin/library-version"


def test_the_newest_of_the_branch_and_a_reboot_that_does_not_help() -> None:
    """Where no version is asked for, the newest. Another library than the driver's, as after an upgrade by hand, is a reason that a reboot does not mend."""
    broken, host = on_host(DEB12), on_host(DEB13)
    broken.check_output(f"cp {LIBRARY} /root && echo 580.105.08 >{LIBRARY}")
    assert installed(DEB13) == {}
    before = boots(DEB12)
    done = converge({DEB12: {}, DEB13: {"nvidia_driver_version": "", "nvidia_driver_fabricmanager": "present"}})
    assert done.failed(DEB12) and done.says(f"{DEB12} was rebooted, and still needs one"), done
    assert done.says("the driver's programs and the loaded driver 580.95.05 have different versions")
    assert boots(DEB12) != before and broken.file(MARK).exists
    # the option that wanted it is gone
    assert not broken.file("/etc/systemd/system/gpufleet-nvidia-mig.service").exists
    assert not done.failed(DEB13), done
    assert set(installed(DEB13).values()) == {"580.105.08-1"} and "nvidia-fabricmanager-580" in installed(DEB13)
    assert host.service("nvidia-fabricmanager").is_running and "580.105.08" in loaded(DEB13)
    # the repository has another branch, too
    assert "nvidia" not in host.check_output("apt-get -s dist-upgrade")
    assert "Candidate: 580.105.08-1" in host.check_output("apt-cache policy nvidia-kernel-dkms")


def test_back_to_an_older_version_and_a_reboot_that_is_not_made_twice() -> None:
    """With leave for it, and with another reboot. For a reason that the last one did not mend there is none."""
    before = {name: boots(name) for name in (DEB12, DEB13)}
    back = {"nvidia_driver_fabricmanager": "present", "nvidia_driver_upgrade": True, "nvidia_driver_allow_downgrade": True}
    done = converge({DEB12: {}, DEB13: back})
    on_host(DEB12).check_output(f"cp /root/library-version {LIBRARY}")
    assert done.failed(DEB12) and done.says("No second reboot is made for the same reason") and boots(DEB12) == before[DEB12], done
    assert not done.failed(DEB13), done
    assert set(installed(DEB13).values()) == {"580.95.05-1"} and "580.95.05" in loaded(DEB13)
    assert on_host(DEB13).service("nvidia-fabricmanager").is_running and boots(DEB13) != before[DEB13]
