"""Where the gateway sends requests."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.gpufleet.ollama.plugins.plugin_utils import _routing
from ansible_collections.gpufleet.ollama.plugins.plugin_utils._model import ModelError

ROUTES = [
    {"path": "/api/chat", "methods": ["POST"], "class": "chat", "body": "large", "predict": "num_predict"},
    {"path": "/api/copy", "methods": ["POST"], "class": "admin", "body": "small", "model": False},
    {"path": "/v1/models/id", "methods": ["GET", "HEAD"], "class": "read", "location": "~ x", "upstream_path": "/x"},
]


def upstreams(**hostvars: dict[str, Any]) -> list[dict[str, Any]]:
    """The upstreams of hosts, seen from elsewhere."""
    return _routing.upstreams(list(hostvars), hostvars, "gw", "127.0.0.1")


def pools(**hostvars: dict[str, Any]) -> dict[str, list[int]]:
    """Which peers have which model, where not all have it."""
    return dict(_routing.gateway_routing(upstreams(**hostvars), [], {})["pools"])


def test_every_instance_of_every_host_by_the_address_that_its_host_is_reached_by() -> None:
    found = upstreams(
        gpu1={}, gpu2={"ansible_host": "10.0.0.2", "ollama_instances": [{"name": "a"}, {"name": "b", "port": 11500}]},
        gpu3={"ollama_listen_address": "fd00::3"}, gw={},
    )
    assert [item["server"] for item in found] == ["gpu1:11434", "10.0.0.2:11434", "10.0.0.2:11500", "[fd00::3]:11434", "127.0.0.1:11434"]
    where = [(item["host"], item["instance"], item["address"], item["port"]) for item in found[2:4]]
    assert where == [("gpu2", "b", "10.0.0.2", 11500), ("gpu3", "default", "fd00::3", 11434)]
    with pytest.raises(ModelError, match="set ollama_address of gpu1"):
        upstreams(gpu1={"ansible_host": "127.0.0.1"})


@pytest.mark.parametrize("host", ["a/b", "a b", "../x", "", ".x", "é", "a\n"])
def test_a_host_whose_name_is_no_name_of_a_file(host: str) -> None:
    with pytest.raises(ModelError, match="has a name that the gateway cannot use"):
        upstreams(**{host: {"ansible_host": "10.0.0.1"}})


@pytest.mark.parametrize(
    ("options", "values", "backup"),
    [
        ({}, {}, False),
        ({"gpus": "none"}, {}, True),
        ({"gpus": ["GPU-1"]}, {}, False),
        ({}, {"group_names": ["cpu_fallback", "ollama"]}, True),
        ({}, {"group_names": ["ollama"]}, False),
        # what is said wins
        ({"backup": False, "gpus": "none"}, {}, False),
        ({"backup": False}, {"group_names": ["cpu_fallback"]}, False),
        ({"backup": True}, {}, True),
    ],
)
def test_which_is_a_backup(options: dict, values: dict, backup: bool) -> None:
    [found] = upstreams(gpu1={"ollama_instances": [{"name": "a", **options}], **values})
    assert found["backup"] is backup


def test_weights() -> None:
    found = upstreams(gpu1={"ollama_instances": [{"name": "a", "weight": 3}, {"name": "b", "port": 11500}, {"name": "c", "port": 11501, "weight": "2"}]})
    assert [item["weight"] for item in found] == [3, 1, 2]
    for options, message in (({"weight": 0}, "weight is 0"), ({"weight": "x"}, "weight is 'x'"), ({"backup": "yes"}, "backup is 'yes': give true or false")):
        with pytest.raises(ModelError, match=message):
            upstreams(gpu1={"ollama_instances": [{"name": "a", **options}]})


def test_a_model_that_all_have_needs_no_pool() -> None:
    models = {"ollama_models": ["llama3.2:1b", {"name": "qwen3", "warm": True}]}
    assert pools(gpu1=models, gpu2=models) == {}
    assert pools(gpu1={}, gpu2={}) == {}


def test_a_model_goes_where_it_lives() -> None:
    both, old = ["llama3.2:1b", "qwen3"], {"name": "llama3.2:1b", "state": "absent"}
    # hosts with manifests of their own
    assert pools(gpu1={"ollama_models": both}, gpu2={"ollama_models": ["qwen3"]}, gpu3={"ollama_models": ["qwen3", old]}) == {"llama3.2:1b": [1]}
    # instances with a list of their own
    instances = [{"name": "a", "models": ["llama3.2:1b"]}, {"name": "b", "port": 11500, "models": ["qwen3"]}, {"name": "c", "port": 11501}]
    found = pools(gpu1={"ollama_models": both, "ollama_instances": instances}, gpu2={"ollama_models": both})
    assert found == {"llama3.2:1b": [1, 3, 4], "qwen3:latest": [2, 3, 4]}


def test_one_model_in_several_spellings() -> None:
    names = ("Llama3.2:1B", "registry.ollama.ai/library/llama3.2:1b", "library/LLAMA3.2:1b")
    hostvars = {f"gpu{number}": {"ollama_models": [name]} for number, name in enumerate(names)}
    assert pools(**hostvars) == {}
    assert pools(**hostvars, other={}) == {"llama3.2:1b": [1, 2, 3]}
    routing = _routing.gateway_routing(upstreams(**hostvars), [], {})
    # the first spelling is the one that metrics show
    assert routing["models"] == ["Llama3.2:1B"]


def test_routing() -> None:
    routing = _routing.gateway_routing(upstreams(gpu1={"ansible_host": "10.0.0.1"}), ROUTES, {"balance": "random"})
    assert routing == {
        "balance": "random", "models": [], "pools": {},
        "peers": [{"id": "gpu1/default", "host": "gpu1", "instance": "default", "address": "10.0.0.1", "port": 11434, "server": "10.0.0.1:11434",
                   "weight": 1, "backup": False}],
        "routes": {
            "/api/chat": {"methods": " POST ", "class": "chat", "body": "large", "predict": "num_predict"},
            "/api/copy": {"methods": " POST ", "class": "admin", "body": "small", "model": False},
            "/v1/models/id": {"methods": " GET HEAD ", "class": "read"},
        },
    }
