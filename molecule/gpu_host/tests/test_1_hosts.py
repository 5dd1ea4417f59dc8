"""What the roles made of the hosts: the toolkit on one version, Docker's configuration, the CDI specification, the exporter, the state of the driver."""

from __future__ import annotations

import json
import re

import pytest
from conftest import CPU, DAEMON, DEB12, DEB13, HOSTS, KEYRING, MADE, PACKAGES, TEXTFILE, installed, left, metrics
from scenario import on_host, pid

ENVIRONMENT = "/etc/nvidia-container-toolkit/nvidia-cdi-refresh.env"
FLAG = "NVIDIA_CTK_CDI_GENERATE_FEATURE_FLAGS=no-additional-gids-for-device-nodes"
UUID = "00000000-aaaa-bbbb-cccc-000000000000"


def exposure(host: str, unit: str) -> float:
    """What systemd-analyze security gives."""
    return float(re.findall(r"level for \S+ ([0-9.]+)", on_host(host).check_output(f"systemd-analyze security --no-pager {unit}"))[0].rstrip("."))


def test_one_version() -> None:
    """The four packages where Docker is asked for, the base alone for Podman; the repository has a newer version."""
    assert installed(DEB12) == dict.fromkeys(PACKAGES, "1.20.0-1")
    assert installed(DEB13) == {"nvidia-container-toolkit-base": "1.20.0-1"}


def test_without_a_gpu_there_is_nothing() -> None:
    """The toolkit is enabled for this host too, and the exporter pinned."""
    assert installed(CPU) == {} and left(CPU) == []
    assert not on_host(CPU).file(KEYRING).exists


@pytest.mark.parametrize("name", HOSTS)
def test_the_repository(name: str) -> None:
    """The lists of older instructions are gone, apt has no complaint, its key is the one that was asked for, and no newer version is a candidate."""
    host = on_host(name)
    assert not host.file("/etc/apt/sources.list.d/libnvidia-container.list").exists
    assert not host.file("/etc/apt/sources.list.d/nvidia-docker.list").exists
    done = host.run("apt-get update -qq")
    # it calls what it could not fetch a success
    assert done.rc == 0 and not any(word in done.stderr for word in ("Conflicting", "Failed")), done.stderr
    assert MADE["fingerprint"] in host.check_output(f"gpg --show-keys --with-colons {KEYRING}")
    policy = host.check_output(f"apt-cache policy {' '.join(PACKAGES)}")
    assert policy.count("Candidate: 1.20.0-1") == 4 and "1.21.0-1" in policy
    assert "nvidia" not in host.check_output("apt-get -qq --simulate full-upgrade")


def test_all_that_docker_was_told_stays() -> None:
    """The runtime is added to the operator's configuration, whose mode stays; the daemon knows it, and still drives cgroups as it was told."""
    host = on_host(DEB12)
    config = json.loads(host.file(DAEMON).content_string)
    assert config.pop("runtimes") == {"other": {"path": "/usr/bin/other-runtime"}, "nvidia": {"path": "nvidia-container-runtime", "args": []}}
    assert config == {"log-driver": "local", "exec-opts": ["native.cgroupdriver=cgroupfs"]}
    assert host.file(DAEMON).mode == 0o600
    info = json.loads(host.check_output("docker info --format '{{json .}}'"))
    assert "nvidia" in info["Runtimes"] and (info["CgroupDriver"], info["LoggingDriver"]) == ("cgroupfs", "local")
    assert not on_host(DEB13).file(DAEMON).exists


def test_the_specification() -> None:
    """Every GPU is in it, in the form that each host's runtime reads; the units are on."""
    for name, version in ((DEB12, "0.5.0"), (DEB13, "0.7.0")):
        host = on_host(name)
        assert json.loads(host.file("/var/run/cdi/nvidia.yaml").content_string)["cdiVersion"] == version
        assert host.check_output("nvidia-ctk cdi list").count("nvidia.com/gpu=GPU-") == 2
        assert (FLAG in host.file(ENVIRONMENT).content_string) == (name == DEB12)
        assert host.service("nvidia-cdi-refresh.service").is_enabled and host.service("nvidia-cdi-refresh.path").is_enabled
        assert host.service("nvidia-cdi-refresh.path").is_running


@pytest.mark.parametrize("name", HOSTS)
def test_the_exporter(name: str) -> None:
    """It answers on the management address only, as a user of its own, and may open the nodes of GPUs and no others."""
    host = on_host(name)
    found = metrics(name, 9835)
    assert found["nvidia_smi_last_collect_success"] == 1 and found[f'nvidia_smi_temperature_gpu{{uuid="{UUID}"}}'] == 41
    address = host.check_output("hostname -i").split()[0]
    assert host.check_output("ss -Hltn sport = :9835").split()[3] == f"{address}:9835"
    # an id of those that systemd gives to dynamic users; the images lack the library that tells their names
    assert 61184 <= int(host.check_output(f"ps -o uid= -p {pid(name, 'gpu_exporter.service')}")) <= 65519
    assert "/dev/nvidiactl rw" in host.check_output("systemctl show --property=DeviceAllow,DevicePolicy gpu_exporter.service")
    assert exposure(name, "gpu_exporter.service") < 2.5
    assert exposure(name, "gpufleet-gpu-metrics.service") < 3.5


@pytest.mark.parametrize("name", HOSTS)
def test_the_state_of_the_driver(name: str) -> None:
    """node_exporter has what was written; the fixture is healthy."""
    found = metrics(name, 9100)
    assert found['gpu_driver_info{branch="580",flavour="open",installed="580.95.05",loaded="580.95.05"}'] == 1
    assert found["gpu_count"] == found["gpu_usable_count"] == 2
    assert found["gpu_expected_count"] == (2 if name == DEB13 else 0)
    assert (found['gpu_health{verdict="ok"}'], found["gpu_driver_mismatch"], found["gpu_reboot_required"]) == (1, 0, 0)
    assert on_host(name).file(TEXTFILE).mode == 0o644
    assert on_host(name).service("gpufleet-gpu-metrics.timer").is_enabled
