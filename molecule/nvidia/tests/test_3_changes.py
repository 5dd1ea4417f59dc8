"""Reboots that do not help, on one host; the newest version and the way back, on the other one, at the same time. Then settings of the GPUs."""

from __future__ import annotations

import json

from conftest import DEB12, DEB13, UUIDS, boots, converge, installed, loaded
from scenario import on_host

NEWEST = {"nvidia_driver_version": "", "nvidia_driver_fabricmanager": "present"}
MARK = "/var/lib/gpufleet/nvidia-reboot.json"
LIBRARY = "/usr/lib/nvidia-standin/library-version"


def test_the_newest_of_the_branch_and_a_reboot_that_is_due() -> None:
    """Where no version is asked for, the newest. Another library than the driver's, as after an upgrade by hand, is a reason for a reboot."""
    broken, host = on_host(DEB12), on_host(DEB13)
    broken.check_output(f"cp {LIBRARY} /root && echo 580.105.08 >{LIBRARY}")
    assert installed(DEB13) == {}
    done = converge({DEB12: {"nvidia_driver_reboot": "never"}, DEB13: NEWEST})
    assert done.status == 0, done
    assert done.changed(DEB12) == 0, done
    assert done.says(f"{DEB12} needs a reboot: the driver's programs and the loaded driver 580.95.05 have different versions"), done
    assert set(installed(DEB13).values()) == {"580.105.08-1"} and "nvidia-fabricmanager-580" in installed(DEB13)
    assert host.service("nvidia-fabricmanager").is_running and "580.105.08" in loaded(DEB13)
    # which has another branch, too
    assert "nvidia" not in host.check_output("apt-get -s dist-upgrade")
    assert "Candidate: 580.105.08-1" in host.check_output("apt-cache policy nvidia-kernel-dkms")


def test_back_to_an_older_version_and_a_reboot_that_does_not_help() -> None:
    """With leave for it, and with another reboot. Where the reason stays, it is said."""
    before = {name: boots(name) for name in (DEB12, DEB13)}
    back = {"nvidia_driver_fabricmanager": "present", "nvidia_driver_upgrade": True, "nvidia_driver_allow_downgrade": True}
    done = converge({DEB12: {}, DEB13: back})
    assert done.failed(DEB12) and done.says(f"{DEB12} was rebooted, and still needs one"), done
    assert not done.failed(DEB13), done
    assert set(installed(DEB13).values()) == {"580.95.05-1"} and "580.95.05" in loaded(DEB13)
    assert on_host(DEB13).service("nvidia-fabricmanager").is_running
    assert boots(DEB12) != before[DEB12] and boots(DEB13) != before[DEB13]


def test_a_reboot_is_not_made_twice() -> None:
    """For the same reason, by another run."""
    before = boots(DEB12)
    done = converge({DEB12: {}})
    on_host(DEB12).check_output(f"cp /root/library-version {LIBRARY}")
    assert done.failed(DEB12) and done.says("No second reboot is made for the same reason") and boots(DEB12) == before, done


def test_settings_are_made_and_taken_back() -> None:
    """A MIG layout and a power limit, which a reboot takes and a unit sets again; without the option the unit goes. No reboot is due any more, and its mark is forgotten."""
    host, before = on_host(DEB12), boots(DEB12)
    assert host.file(MARK).exists
    wanted = {
        "nvidia_driver_mig": [{"uuid": UUIDS[0], "profiles": ["3g.40gb", "1g.10gb"]}],
        "nvidia_driver_tuning": [{"uuid": UUIDS[1], "power_limit_watts": 400, "graphics_clocks_mhz": [210, 1410]}],
    }
    done = converge({DEB12: wanted})
    assert done.status == 0 and not host.file(MARK).exists, done
    assert host.check_output("nvidia-smi -L").count("  MIG ") == 2
    assert host.check_output("nvidia-smi --query-gpu=power.limit --format=csv,noheader").split("\n") == ["700.00 W", "400.00 W"]
    assert json.loads(host.file("/etc/gpufleet/nvidia-mig.json").content_string)[0]["profiles"] == ["3g.40gb", "1g.10gb"]
    assert host.service("gpufleet-nvidia-mig").is_enabled and host.service("gpufleet-nvidia-tuning").is_enabled
    done = converge({DEB12: {"nvidia_driver_mig": [{"uuid": UUIDS[0], "profiles": []}]}})
    assert done.status == 0 and boots(DEB12) == before, done
    assert "MIG" not in host.check_output("nvidia-smi -L")
    assert not host.file("/etc/systemd/system/gpufleet-nvidia-tuning.service").exists
