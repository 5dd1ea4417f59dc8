"""The data model: what is derived, and what is refused with which words."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.gpufleet.ollama.plugins.plugin_utils import _model


def one(**options: Any) -> dict[str, Any]:
    """The one instance of a host, completed."""
    return _model.instances([{"name": "default", **options}], "10.0.0.5", "/store")[0]


def test_default_instance() -> None:
    """What an instance is when nothing is said."""
    assert one() == {
        "name": "default",
        "port": 11434,
        "address": "10.0.0.5",
        "url": "http://10.0.0.5:11434",
        "unit": "ollama@default.service",
        "gpus": "all",
        "environment": {"OLLAMA_HOST": "10.0.0.5:11434", "OLLAMA_MODELS": "/store", "OLLAMA_NO_CLOUD": "1"},
        "models": "all",
        "memory_max": None,
        "cpu_quota": None,
        "tasks_max": None,
    }


def test_environment() -> None:
    """Options become Ollama's variables."""
    given = {"num_parallel": 4, "keep_alive": "24h", "flash_attention": True, "origins": ["https://a.example", "https://*.b.example"], "no_cloud": "0"}
    found = one(environment=given)["environment"]
    assert found["OLLAMA_NUM_PARALLEL"] == "4"
    assert found["OLLAMA_KEEP_ALIVE"] == "24h"
    assert found["OLLAMA_FLASH_ATTENTION"] == "1"
    assert found["OLLAMA_ORIGINS"] == "https://a.example,https://*.b.example"
    assert found["OLLAMA_NO_CLOUD"] == "0"


@pytest.mark.parametrize("value", [-1, "-1", 0, 300, "5m", "1h30m", "1.5h", "-1m"])
def test_keep_alive(value: Any) -> None:
    """What Ollama understands passes."""
    assert one(environment={"keep_alive": value})["environment"]["OLLAMA_KEEP_ALIVE"] == str(value)


def test_gpus() -> None:
    """An instance sees its own GPUs, by UUID, and Vulkan finds no others."""
    assert "CUDA_VISIBLE_DEVICES" not in one()["environment"]
    assert one(gpus="none")["environment"]["CUDA_VISIBLE_DEVICES"] == "-1"
    found = one(gpus=["GPU-1a2b", "MIG-3c4d"])["environment"]
    assert (found["CUDA_VISIBLE_DEVICES"], found["GGML_VK_VISIBLE_DEVICES"]) == ("GPU-1a2b,MIG-3c4d", "-1")


def test_second_instance_does_not_prune() -> None:
    """The instances of a host share the store; the first is its writer."""
    first, second = _model.instances([{"name": "a"}, {"name": "b", "port": 11435}], "10.0.0.5", "/store")
    assert "OLLAMA_NOPRUNE" not in first["environment"] and second["environment"]["OLLAMA_NOPRUNE"] == "1"


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"name": "Team A"}, "lower-case letters"),
        ({}, "has the name None"),
        ({"name": "a", "prot": 1}, "unknown option prot"),
        ({"name": "a", "port": 0}, "port is 0"),
        ({"name": "a", "port": "x"}, "port is 'x'"),
        ({"name": "a", "port": 70000}, "up to 65535"),
        ({"name": "a", "port": True}, "port is True"),
        ({"name": "a", "gpus": [0]}, "nvidia-smi -L"),
        ({"name": "a", "gpus": []}, "nvidia-smi -L"),
        ({"name": "a", "memory_max": "64GB"}, "such as 64G"),
        ({"name": "a", "environment": {"parallel": 1}}, "unknown option parallel"),
        ({"name": "a", "environment": {"num_parallel": 0}}, "at least 1"),
        ({"name": "a", "environment": {"keep_alive": "1d"}}, "Go duration"),
        ({"name": "a", "environment": {"keep_alive": "forever"}}, "Go duration"),
        ({"name": "a", "environment": {"keep_alive": True}}, "Go duration"),
        ({"name": "a", "environment": {"flash_attention": "yes"}}, "true or false"),
        ({"name": "a", "environment": {"kv_cache_type": "q5"}}, "q8_0"),
        ({"name": "a", "environment": {"origins": ["chat.example.org"]}}, "origins such as"),
        ({"name": "a", "environment": {"origins": ["https://*.*.org"]}}, "at most one *"),
    ],
    ids=str,
)
def test_bad_instance(item: dict[str, Any], message: str) -> None:
    """Garbage stops with the mend in the message."""
    with pytest.raises(_model.ModelError) as error:
        _model.instances([item], "10.0.0.5")
    assert message in str(error.value)


def test_clashing_instances() -> None:
    """Names and ports are unique on a host, and there is at least one instance."""
    with pytest.raises(_model.ModelError, match="both have port 11434"):
        _model.instances([{"name": "a"}, {"name": "b"}], "10.0.0.5")
    with pytest.raises(_model.ModelError, match="two instances named a"):
        _model.instances([{"name": "a"}, {"name": "a", "port": 1}], "10.0.0.5")
    with pytest.raises(_model.ModelError, match="is empty"):
        _model.instances([], "10.0.0.5")


@pytest.mark.parametrize(
    ("gateways", "explicit", "default_ipv4", "expected"),
    [
        (["h"], "", "10.0.0.5", "127.0.0.1"),
        ([], "", "10.0.0.5", "127.0.0.1"),
        (["gw"], "", "10.0.0.5", "10.0.0.5"),
        (["h", "gw"], "", "10.0.0.5", "10.0.0.5"),
        (["gw"], "192.168.1.7", "10.0.0.5", "192.168.1.7"),
        (["gw"], "fd00::7", "", "fd00::7"),
    ],
)
def test_listen_address(gateways: list[str], explicit: str, default_ipv4: str, expected: str) -> None:
    """Loopback on a host that is its own only gateway, else a private address."""
    assert _model.listen_address("h", gateways, explicit, default_ipv4) == expected


@pytest.mark.parametrize(
    ("explicit", "default_ipv4", "message"),
    [("0.0.0.0", "", "every network"), ("::", "", "every network"), ("lan", "", "give an IP address"), ("", "", "no default IPv4"), ("", "8.8.8.8", "public")],
)
def test_refused_addresses(explicit: str, default_ipv4: str, message: str) -> None:
    """Never all addresses, never a public one by accident: for instances and exporters alike."""
    with pytest.raises(_model.ModelError, match=message):
        _model.listen_address("h", ["gw"], explicit, default_ipv4)
    with pytest.raises(_model.ModelError, match=message):
        _model.management_address("h", explicit, default_ipv4)


@pytest.mark.parametrize("path", ["/home/ollama/models", "/root/models", "/tmp/models"])
def test_store_that_the_sandbox_hides(path: str) -> None:
    """A store that the units could not see is refused."""
    with pytest.raises(_model.ModelError, match="hides"):
        _model.instances([{"name": "a"}], "10.0.0.5", path)


def test_manifest() -> None:
    """Names are completed, and each is there once, whatever its case."""
    assert _model.manifest(["a", {"name": "b:1", "warm": True}]) == [{"name": "a:latest", "warm": False}, {"name": "b:1", "warm": True}]
    with pytest.raises(_model.ModelError, match="twice"):
        _model.manifest(["a", "A:latest"])
    with pytest.raises(_model.ModelError, match="no model name"):
        _model.manifest(["a b"])
    with pytest.raises(_model.ModelError, match="without a name"):
        _model.manifest([{"model": "a"}])


def test_models_of() -> None:
    """All of the manifest, or the ones that an instance names, in the manifest's order."""
    models = _model.manifest(["a", "b", "c"])
    assert _model.models_of([one(models=["c", "a:latest"])], models) == ["a:latest", "c:latest"]
    assert _model.models_of([one(models=["c"]), one()], models) == ["a:latest", "b:latest", "c:latest"]
    with pytest.raises(_model.ModelError, match="d:latest is not in ollama_models"):
        _model.models_of([one(models=["d"])], models)


def test_upstreams() -> None:
    """Every instance of every host, by the address that its host is reached by."""
    hostvars: dict[str, dict[str, Any]] = {
        "gpu1": {},
        "gpu2": {"ansible_host": "10.0.0.2", "ollama_instances": [{"name": "a"}, {"name": "b", "port": 11500, "models": ["m"]}]},
        "gpu3": {"ollama_listen_address": "fd00::3"},
        "gw": {},
    }
    found = _model.upstreams(["gpu1", "gpu2", "gpu3", "gw"], hostvars, "gw", "127.0.0.1")
    assert [item["server"] for item in found] == ["gpu1:11434", "10.0.0.2:11434", "10.0.0.2:11500", "[fd00::3]:11434", "127.0.0.1:11434"]
    assert found[2]["models"] == ["m"]
    with pytest.raises(_model.ModelError, match="set ollama_address of gpu1"):
        _model.upstreams(["gpu1"], {"gpu1": {"ansible_host": "127.0.0.1"}}, "gw", "")


def test_scrape_targets() -> None:
    """The management address first, then what the host is reached by; the port that the inventory gives the host."""
    hostvars = {"a": {"ollama_management_address": "10.1.0.1"}, "b": {"ansible_host": "10.0.0.2"}, "c": {"ollama_address": "c.lan", "x_port": 9200}, "d": {}}
    found = _model.scrape_targets(["a", "b", "c", "d"], hostvars, "x_port", 9100, "d", "10.1.0.4")
    assert [item["targets"] for item in found] == [["10.1.0.1:9100"], ["10.0.0.2:9100"], ["c.lan:9200"], ["10.1.0.4:9100"]]
    assert found[1]["labels"] == {"host": "b"}


def test_the_id_changes_with_any_part_and_not_with_the_order_of_keys() -> None:
    first = _model.config_id(["x", {"a": 1, "b": 2}])
    assert len(first) == 16
    assert first == _model.config_id(["x", {"b": 2, "a": 1}])
    assert first != _model.config_id(["x", {"a": 1, "b": 3}])
    assert first != _model.config_id(["y", {"a": 1, "b": 2}])


def test_service_units() -> None:
    """The id changes with the shared parts, the environment and the limits, and with nothing else."""
    def ids(parts: list[Any], **options: Any) -> str:
        return _model.service_units([one(**options)], parts)[0]["config_id"]

    base = ids(["0.34.4"])
    assert base == ids(["0.34.4"], models=["a"])
    assert len({base, ids(["0.34.5"]), ids(["0.34.4"], memory_max="1G"), ids(["0.34.4"], environment={"num_parallel": 2})}) == 4
