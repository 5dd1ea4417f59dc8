"""Docker's configuration with NVIDIA's runtime, CDI for old runtimes, and the fingerprints of keys."""

from __future__ import annotations

import json

import pytest

from ansible_collections.gpufleet.ollama.plugins.plugin_utils._containers import cdi_feature_flags, docker_daemon
from ansible_collections.gpufleet.ollama.plugins.plugin_utils._model import ModelError

RUNTIME = {"path": "nvidia-container-runtime", "args": []}
DOCKER_20 = "Docker version 20.10.24+dfsg1, build 297e128"
DOCKER_26 = "Docker version 26.1.5+dfsg1, build a72d7cd"


def test_a_host_without_a_file() -> None:
    """The runtime, and CDI where Docker has it."""
    assert json.loads(docker_daemon("", "gpu1")) == {"runtimes": {"nvidia": RUNTIME}}
    assert json.loads(docker_daemon(" \n", "gpu1", DOCKER_20)) == {"runtimes": {"nvidia": RUNTIME}}
    assert json.loads(docker_daemon("", "gpu1", DOCKER_26)) == {"runtimes": {"nvidia": RUNTIME}, "features": {"cdi": True}}
    assert json.loads(docker_daemon("", "gpu1", DOCKER_26, cdi=False)) == {"runtimes": {"nvidia": RUNTIME}}


def test_all_else_stays() -> None:
    """Other keys in their order, other runtimes, and how cgroups are driven, which is the operator's own choice."""
    before = {
        "log-driver": "local",
        "exec-opts": ["native.cgroupdriver=cgroupfs"],
        "runtimes": {"runsc": {"path": "/usr/bin/runsc"}},
        "features": {"buildkit": False},
        "labels": ["Büro=1"],
    }
    text = docker_daemon(json.dumps(before), "gpu1", DOCKER_26)
    after = json.loads(text)
    assert list(after) == list(before)
    assert after["runtimes"].pop("nvidia") == RUNTIME and after["features"].pop("cdi") is True
    assert after == before
    assert "Büro" in text and text.endswith("}\n")


@pytest.mark.parametrize(
    "config",
    [
        {"runtimes": {"nvidia": {"path": "nvidia-container-runtime", "args": ["--debug"]}}, "features": {"cdi": True}},
        {"runtimes": {"nvidia": {"path": "/opt/nvidia/bin/nvidia-container-runtime"}}, "features": {"cdi": False}},
    ],
)
def test_what_is_there_keeps_its_layout(config: dict) -> None:
    """Nothing is missing: the very same text, with an own path, and with CDI that somebody switched off."""
    text = json.dumps(config, indent=1) + "\n\n"
    assert docker_daemon(text, "gpu1", DOCKER_26) == text


def test_it_is_stable() -> None:
    """A second look at what the first one made finds nothing to do."""
    text = docker_daemon('{"debug": true}', "gpu1", DOCKER_26)
    assert docker_daemon(text, "gpu1", DOCKER_26) == text


def test_a_runtime_that_is_none() -> None:
    """An entry that leads elsewhere is put right."""
    assert json.loads(docker_daemon('{"runtimes": {"nvidia": {"path": "/usr/bin/runc"}}}', "gpu1"))["runtimes"]["nvidia"] == RUNTIME
    assert json.loads(docker_daemon('{"runtimes": {"nvidia": null}}', "gpu1"))["runtimes"]["nvidia"] == RUNTIME


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"debug": true,}', r"/etc/docker/daemon.json of gpu1 is no JSON \(.*line 1 column 16.*\).*correct the file, or move it away"),
        ('["debug"]', "holds a list, and Docker takes a mapping only"),
        ('{"runtimes": ["nvidia"]}', r"runtimes in /etc/docker/daemon.json of gpu1 is \['nvidia'\]"),
        ('{"features": "cdi"}', "features in /etc/docker/daemon.json of gpu1 is 'cdi'"),
    ],
)
def test_what_docker_would_not_take(text: str, message: str) -> None:
    """A sentence, before anything is changed."""
    with pytest.raises(ModelError, match=message):
        docker_daemon(text, "gpu1", DOCKER_26)


@pytest.mark.parametrize(
    "docker, podman, flags",
    [
        ("", "", ""),
        (DOCKER_26, "podman version 5.4.2", ""),
        ("Docker version 29.0.1, build eedd969", "", ""),
        ("", "podman version 5.1.0", ""),
        (DOCKER_20, "", "no-additional-gids-for-device-nodes"),
        ("Docker version 26.0.2, build 3c863ff", "", "no-additional-gids-for-device-nodes"),
        (DOCKER_26, "podman version 4.3.1", "no-additional-gids-for-device-nodes"),
        ("", "podman version 5.0.3", "no-additional-gids-for-device-nodes"),
        # 4.10 is newer than 4.3, and older than 5.1
        ("", "podman version 4.10.0", "no-additional-gids-for-device-nodes"),
        ("not found", "", ""),
    ],
)
def test_cdi_for_old_runtimes(docker: str, podman: str, flags: str) -> None:
    """The oldest of a host counts, and one that is missing does not."""
    assert cdi_feature_flags(docker, podman) == flags
