"""Other versions and back, what went wrong on a host is put right, and the end of the exporter."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from conftest import DAEMON, DEB12, DEB13, MADE, PACKAGES, RELEASES, converge, installed, left, metrics
from scenario import Play, on_host, pid

OLD, NEW = (f"{version}-{MADE['exporter'][version][:12]}" for version in ("1.13.0", "1.14.0"))
EXPORTER = "gpu_exporter.service"
REFRESH = "nvidia-cdi-refresh.service"


class Run(NamedTuple):
    """A play, and the processes of the exporter before it."""

    play: Play
    processes: dict[str, str]


def run(values: dict[str, dict[str, str]]) -> Run:
    """Run the roles."""
    processes = {name: pid(name, EXPORTER) for name in values}
    done = converge(values)
    assert done.status == 0, done
    return Run(done, processes)


@pytest.fixture(scope="module", name="older")
def _older() -> Run:
    """Older versions on one host; on the other, a refresh that has failed, and a binary that is damaged."""
    host = on_host(DEB13)
    host.check_output("mv /usr/bin/nvidia-smi /root/ && rm /var/run/cdi/nvidia.yaml && printf '#!/bin/sh\nexit 9\n' >/usr/bin/nvidia-smi")
    # as when the unit ran before the driver was ready
    host.check_output(f"chmod 755 /usr/bin/nvidia-smi; systemctl restart {REFRESH}; systemctl is-failed {REFRESH}")
    host.check_output("mv -f /root/nvidia-smi /usr/bin/nvidia-smi")
    host.check_output(f"echo >>{RELEASES}/{NEW}/nvidia_gpu_exporter")
    values = {"gpu_exporter_version": "1.13.0", "nvidia_container_toolkit_version": "1.19.1-1"}
    return run({DEB12: values, DEB13: {}})


@pytest.fixture(scope="module", name="back")
def _back(older: Run) -> Run:
    """The versions of the scenario again, on a host whose Docker runs without the runtime."""
    assert older.play.status == 0
    host = on_host(DEB12)
    host.check_output(f"mv {DAEMON} /root/daemon.json && systemctl restart docker.service && mv /root/daemon.json {DAEMON}")
    assert "nvidia" not in host.check_output("docker info --format '{{json .Runtimes}}'")
    return run({DEB12: {}, DEB13: {}})


def test_an_older_version_takes_all_four(older: Run) -> None:
    """None of the packages stays behind."""
    assert older.play.changed(DEB12) > 0
    assert installed(DEB12) == dict.fromkeys(PACKAGES, "1.19.1-1")


def test_another_release(older: Run) -> None:
    """It runs, and the one before lies beside it."""
    host = on_host(DEB12)
    assert host.check_output(f"readlink {RELEASES}/current") == OLD
    assert pid(DEB12, EXPORTER) != older.processes[DEB12] and metrics(DEB12, 9835)["nvidia_smi_last_collect_success"] == 1
    assert sorted(host.check_output(f"ls {RELEASES}").split()) == [OLD, NEW, "current"]


def test_a_failed_refresh_is_started_again(older: Run) -> None:
    """The specification is there again."""
    assert older.play.changed(DEB13) > 0
    host = on_host(DEB13)
    assert host.check_output(f"systemctl is-active {REFRESH}") == "active"
    assert host.check_output("nvidia-ctk cdi list").count("nvidia.com/gpu=GPU-") == 2


def test_a_damaged_binary_is_put_right(older: Run) -> None:
    """And the process is not the one of the damaged binary."""
    release = f"{RELEASES}/{NEW}"
    on_host(DEB13).check_output(f"tar -xzOf {release}/*.tar.gz nvidia_gpu_exporter | cmp - {release}/nvidia_gpu_exporter")
    assert pid(DEB13, EXPORTER) != older.processes[DEB13]


def test_back(back: Run) -> None:
    """The newer version and the newer release; nothing is left to do on the host that was mended."""
    assert installed(DEB12) == dict.fromkeys(PACKAGES, "1.20.0-1")
    assert on_host(DEB12).check_output(f"readlink {RELEASES}/current") == NEW
    assert pid(DEB12, EXPORTER) != back.processes[DEB12]
    assert back.play.changed(DEB13) == 0 and pid(DEB13, EXPORTER) == back.processes[DEB13], back.play


def test_a_daemon_that_lost_the_runtime_is_restarted(back: Run) -> None:
    """Its file had not changed."""
    assert back.play.changed(DEB12) > 0
    assert "nvidia" in on_host(DEB12).check_output("docker info --format '{{json .Runtimes}}'")


@pytest.mark.usefixtures("back")
def test_check_mode() -> None:
    """Nothing is foreseen where all is as it must be; the end of the exporter is, and nothing is done."""
    before = left(DEB12)
    done = converge({DEB12: {"gpu_exporter_state": "absent"}, DEB13: {}}, "--check", "--diff")
    assert done.status == 0 and done.changed(DEB13) == 0 and done.changed(DEB12) > 0, done
    assert left(DEB12) == before != [] and on_host(DEB12).service(EXPORTER).is_running


@pytest.mark.usefixtures("back")
def test_absent_leaves_nothing() -> None:
    """The metrics of the driver go with it."""
    done = converge({DEB12: {"gpu_exporter_state": "absent", "nvidia_container_toolkit_enabled": False}})
    assert done.status == 0, done
    assert left(DEB12) == [] and pid(DEB12, EXPORTER) == "0"
    assert metrics(DEB12, 9100) == {}
