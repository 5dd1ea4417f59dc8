"""Which hosts have a GPU exporter that Prometheus asks, and whose port the firewall knows."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.gpufleet.ollama.plugins.plugin_utils._firewall import firewall_services
from ansible_collections.gpufleet.ollama.plugins.plugin_utils._gpu_monitoring import gpu_exporter_hosts
from ansible_collections.gpufleet.ollama.plugins.plugin_utils._model import ModelError

PIN = {"gpu_exporter_version": "1.14.0", "gpu_exporter_sha256": "0" * 64}
GROUPS = {"ollama": ["a", "b", "c"], "gpu": ["a"], "monitoring": ["m"]}


def asked(**variables: dict[str, Any]) -> list[str]:
    """Which of the hosts a, b and c are asked."""
    return gpu_exporter_hosts(["a", "b", "c"], {host: variables.get(host, {}) for host in "abc"}, GROUPS)


def test_nothing_is_pinned() -> None:
    """No sum, no exporter, whatever the host has; one without the other neither."""
    assert asked(a={}, b={"ollama_gpu_expected_count": 8}, c={"gpu_exporter_state": "present"}) == []
    assert asked(a={"gpu_exporter_version": "1.14.0"}) == []


def test_hosts_that_the_inventory_gives_gpus() -> None:
    """By group or by count. A host that has a GPU without the inventory's knowledge is left out: nobody would know that it should answer."""
    assert asked(a=PIN, b=PIN, c=PIN) == ["a"]
    assert asked(a=PIN, b={**PIN, "ollama_gpu_expected_count": 8}, c={**PIN, "ollama_gpu_expected_count": 0}) == ["a", "b"]


def test_the_state_decides() -> None:
    """Present is asked without any GPU, absent never."""
    assert asked(a={**PIN, "gpu_exporter_state": "absent"}, b={**PIN, "gpu_exporter_state": "present"}, c={**PIN, "gpu_exporter_state": "auto"}) == ["b"]
    with pytest.raises(ModelError, match="gpu_exporter_state of a is 'on': give one of auto, present, absent"):
        asked(a={**PIN, "gpu_exporter_state": "on"})


def test_dcgm_comes_from_a_repository() -> None:
    """Its package is signed: no sum is needed."""
    assert asked(a={"gpu_exporter_kind": "dcgm"}) == ["a"]


def ports(**variables: Any) -> dict[str, tuple[int, list[str]]]:
    """Name -> port and the hosts that may reach it, of host b."""
    hostvars = {"b": {"ollama_gateway_port": 443, **variables}, "m": {}, "a": {}, "c": {}}
    found = firewall_services("b", hostvars, GROUPS, ["0.0.0.0/0"], [])
    return {item["name"]: (item["port"], [peer["host"] for peer in item["peers"]]) for item in found}


def test_the_firewall_knows_the_port() -> None:
    """Also where only the host itself knows of its GPU: Prometheus alone may reach it. Not where there can be none."""
    assert ports(**PIN)["gpu_exporter"] == (9835, ["m"])
    assert ports(gpu_exporter_kind="dcgm", gpu_exporter_port=9400)["gpu_exporter"] == (9400, ["m"])
    assert "gpu_exporter" not in ports() and "gpu_exporter" not in ports(**PIN, gpu_exporter_state="absent")
