"""The container toolkit: one version, the right key, Docker's configuration, the CDI specification."""

from __future__ import annotations

import json

import pytest
from conftest import DEB12, DEB13, HOSTS, MADE, PACKAGES, converge, installed
from scenario import on_host

DAEMON = "/etc/docker/daemon.json"
ENVIRONMENT = "/etc/nvidia-container-toolkit/nvidia-cdi-refresh.env"
FLAG = "NVIDIA_CTK_CDI_GENERATE_FEATURE_FLAGS=no-additional-gids-for-device-nodes"
KEYRING = "/usr/share/keyrings/nvidia-container-toolkit-keyring.asc"


def test_one_version() -> None:
    """The four packages where Docker is asked for, the base alone for Podman; the repository has a newer version."""
    assert installed(DEB12) == dict.fromkeys(PACKAGES, "1.20.0-1")
    assert installed(DEB13) == {"nvidia-container-toolkit-base": "1.20.0-1"}


@pytest.mark.parametrize("name", HOSTS)
def test_the_repository(name: str) -> None:
    """The lists of older instructions are gone, apt has no complaint, its key is the one that was asked for, and no newer version is a candidate."""
    host = on_host(name)
    assert not host.file("/etc/apt/sources.list.d/libnvidia-container.list").exists
    assert not host.file("/etc/apt/sources.list.d/nvidia-docker.list").exists
    done = host.run("apt-get update -qq")
    assert done.rc == 0 and "Conflicting" not in done.stderr, done.stderr
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


def test_a_failed_refresh_is_started_again() -> None:
    """A unit that was started before the driver was ready; and a daemon that has lost the runtime, as it was restarted with another file."""
    host = on_host(DEB12)
    host.check_output("mv /usr/bin/nvidia-smi /root/ && rm /var/run/cdi/nvidia.yaml && printf '#!/bin/sh\nexit 9\n' >/usr/bin/nvidia-smi")
    host.check_output("chmod 755 /usr/bin/nvidia-smi; systemctl restart nvidia-cdi-refresh.service; systemctl is-failed nvidia-cdi-refresh.service")
    host.check_output("mv -f /root/nvidia-smi /usr/bin/nvidia-smi")
    done = converge(limit=DEB12)
    assert done.status == 0, done
    assert host.check_output("systemctl is-active nvidia-cdi-refresh.service") == "active"
    assert host.check_output("nvidia-ctk cdi list").count("nvidia.com/gpu=GPU-") == 2
    assert converge("--check", "--diff", limit=DEB12).changed(DEB12) == 0


def test_what_is_refused() -> None:
    """Another key, and a configuration of Docker that is no JSON: a sentence says the mend, and nothing is changed."""
    host = on_host(DEB12)
    before = host.check_output(f"sha256sum {KEYRING} {DAEMON}")
    done = converge(limit=DEB12, nvidia_container_toolkit_key_fingerprint="0" * 40)
    assert done.failed_with(f"has the keys {MADE['fingerprint']}, and nvidia_container_toolkit_key_fingerprint says {'0' * 40}: nothing was trusted"), done
    host.check_output(f"cp -p {DAEMON} /root/daemon.json && echo 'live-restore: true' >>{DAEMON}")
    done = converge(limit=DEB12, nvidia_container_toolkit_version="1.19.1-1")
    assert done.failed_with(f"/etc/docker/daemon.json of {DEB12} is no JSON"), done
    host.check_output(f"mv /root/daemon.json {DAEMON}")
    assert host.check_output(f"sha256sum {KEYRING} {DAEMON}") == before
    assert installed(DEB12) == dict.fromkeys(PACKAGES, "1.20.0-1")


def test_another_version_takes_all_four() -> None:
    """An older one too, and none stays behind."""
    assert converge(limit=DEB12, nvidia_container_toolkit_version="1.19.1-1").status == 0
    assert installed(DEB12) == dict.fromkeys(PACKAGES, "1.19.1-1")
    assert converge(limit=DEB12).status == 0
    assert installed(DEB12) == dict.fromkeys(PACKAGES, "1.20.0-1")
