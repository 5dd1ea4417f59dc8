# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Playbooks gpu_upgrade and gpu_verify: who is upgraded, who is drained, who is not touched, and what a client sees of it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Callable, Iterator

import pytest

PROJECT = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"])
sys.path[:0] = [str(PROJECT / "molecule/shared"), str(PROJECT / "tests/gateway")]

from load import Loop, context  # noqa: E402
from scenario import on_host, play  # noqa: E402

GATEWAY = "gpu-upgrade-gateway"
FIRST, SECOND, THIRD = HOSTS = ("gpu-upgrade-1", "gpu-upgrade-2", "gpu-upgrade-3")
KEY = "gpu-upgrade-load-key-0123456789abcdef"
SHORT = {"model": "smollm2:135m", "prompt": "hi", "options": {"num_predict": 8}}
OLD, NEW, NEXT = "580.95.05", "580.105.08", "595.71.05"
TO_NEXT = {"nvidia_driver_version": NEXT, "nvidia_driver_branch": "595", "nvidia_driver_allow_branch_change": True}


@pytest.fixture(scope="module", name="loop")
def requests() -> Callable[[], Loop]:
    """Requests to the gateway without a pause."""
    host = on_host(GATEWAY)
    tls = context(host.file("/etc/gpufleet/gateway/tls/ca.crt").content_string)
    target = (host.check_output("hostname -i").split()[0], 443, GATEWAY)
    return lambda: Loop([target], tls, KEY, SHORT, tracks=3)


def boots() -> dict[str, str]:
    """When each host began: a container's kernel, and its boot id, are the machine's."""
    return {name: on_host(name).check_output("systemctl show --property=UserspaceTimestampMonotonic --value; stat -c %Y /proc/1") for name in HOSTS}


def loaded() -> dict[str, str]:
    """The driver that each host has loaded, as nvidia-smi says it."""
    command = "nvidia-smi --query-gpu=driver_version --format=csv,noheader | sort -u"
    return {name: on_host(name).check_output(command) for name in HOSTS}


def states() -> dict[str, str]:
    """What the gateway does with each host."""
    listed = json.loads(on_host(GATEWAY).check_output("curl -sS --max-time 10 http://$(hostname -i):9113/upstreams"))
    return {item["host"]: item["state"] for item in listed}


@pytest.fixture(name="bad_second")
def second_host_is_bad() -> Iterator[None]:
    """A GPU of the second host has memory errors; put right afterwards, and the host is put back."""
    host = on_host(SECOND)
    host.check_output("cp /etc/nvidia-standin/smi.json /root/smi.json && cp /etc/nvidia-standin/ecc.json /etc/nvidia-standin/smi.json")
    yield
    host.check_output("cp /root/smi.json /etc/nvidia-standin/smi.json")
    assert play("drain", drain_hosts=SECOND, drain_state="absent").status == 0


def test_check_mode_says_what_would_be_done_and_does_nothing() -> None:
    """What would be installed, and that each host would be rebooted."""
    before = (loaded(), boots())
    done = play("gpu_upgrade", "--check", nvidia_driver_version=NEW)
    assert done.status == 0, done
    assert all(done.says(f"{name}: the driver {OLD} would be replaced by the newer {NEW}") and done.says(f"{name} would be rebooted") for name in HOSTS), done
    assert (loaded(), boots()) == before
    assert set(states().values()) == {"up"}


def test_a_rolling_upgrade_fails_no_request(loop: Callable[[], Loop]) -> None:
    """Three hosts, one after the other, each with a reboot; a client notices nothing. Run again, nothing changes."""
    before = boots()
    with loop() as seen:
        done = play("gpu_upgrade", nvidia_driver_version=NEW)
    assert done.status == 0, done
    assert loaded() == {name: NEW for name in HOSTS}
    assert all(boots()[name] != before[name] for name in HOSTS)
    assert set(states().values()) == {"up"}
    assert len(seen.results) > 100 and not seen.failed, seen.failed[:3]
    again = play("gpu_upgrade", nvidia_driver_version=NEW)
    assert again.status == 0 and [again.changed(name) for name in HOSTS] == [0, 0, 0], again


def test_verification_changes_nothing() -> None:
    """Driver, GPUs, and that Ollama computes on them."""
    done = play("gpu_verify", nvidia_driver_version=NEW)
    assert done.status == 0, done
    assert [done.changed(name) for name in HOSTS] == [0, 0, 0]


def test_a_bad_host_stops_it_and_stays_drained(loop: Callable[[], Loop], bad_second: None) -> None:  # pylint: disable=unused-argument
    """The first has the new driver, the second is kept from clients, the third is as it was."""
    before = boots()
    with loop() as seen:
        done = play("gpu_upgrade", **TO_NEXT)
    assert done.failed_with(f"{SECOND} has GPUs that are not healthy"), done
    assert done.says("uncorrectable memory errors") and done.says("The upgrade stopped here"), done
    assert loaded() == {FIRST: NEXT, SECOND: NEW, THIRD: NEW}
    assert [name for name in HOSTS if boots()[name] != before[name]] == [FIRST]
    assert states() == {FIRST: "up", SECOND: "drained", THIRD: "up"}
    assert len(seen.results) > 30 and not seen.failed, seen.failed[:3]


def test_a_host_that_falls_to_the_cpu_stays_drained(loop: Callable[[], Loop]) -> None:
    """The driver is there and nvidia-smi is content, but Ollama does not compute on the GPUs: nobody may be sent there. Mended, it goes on."""
    host = on_host(SECOND)
    # behind the instance's own, so that it wins
    drop_in = "/etc/systemd/system/ollama@default.service.d/zz-cpu.conf"
    host.check_output("echo OLLAMA_DOUBLE_VRAM=cpu >/root/cpu.env")
    host.check_output(f"mkdir -p $(dirname {drop_in}); printf '[Service]\\nEnvironmentFile=/root/cpu.env\\n' >{drop_in}; systemctl daemon-reload")
    with loop() as seen:
        done = play("gpu_upgrade", **TO_NEXT)
    assert done.status != 0 and done.says("The upgrade stopped here"), done
    assert loaded() == {FIRST: NEXT, SECOND: NEXT, THIRD: NEW}
    assert states() == {FIRST: "up", SECOND: "drained", THIRD: "up"}
    host.check_output(f"rm {drop_in} && systemctl daemon-reload && systemctl restart ollama@default")
    assert play("drain", drain_hosts=SECOND, drain_state="absent").status == 0
    with loop() as more:
        done = play("gpu_upgrade", **TO_NEXT)
    assert done.status == 0, done
    assert done.changed(FIRST) == done.changed(SECOND) == 0
    assert loaded() == {name: NEXT for name in HOSTS}
    assert set(states().values()) == {"up"}
    assert not seen.failed and not more.failed, (seen.failed[:3], more.failed[:3])


def test_a_host_that_only_needs_a_reboot_is_drained_for_it(loop: Callable[[], Loop]) -> None:
    """Another driver is loaded than the one that is installed, as after an upgrade by hand: no package changes, and the others are left alone."""
    before = boots()
    version = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build"
    on_host(THIRD).check_output(f"echo '{version}' >/opt/nvidia-standin/proc/driver/nvidia/version")
    with loop() as seen:
        done = play("gpu_upgrade", **TO_NEXT)
    assert done.status == 0, done
    assert [name for name in HOSTS if boots()[name] != before[name]] == [THIRD]
    assert loaded() == {name: NEXT for name in HOSTS}
    assert set(states().values()) == {"up"}
    assert not seen.failed, seen.failed[:3]
