"""Who asks whom in an audit, and what the inventory wants."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from ansible_collections.gpufleet.ollama.plugins.plugin_utils import _audit_plan
from ansible_collections.gpufleet.ollama.plugins.plugin_utils._model import instances
from ansible_collections.gpufleet.ollama.plugins.plugin_utils._models import manifest

KEY = "main-chain-test-key-0123456789abcdef"
GROUPS = {"ollama": ["gpu1", "gpu2"], "gateway": ["gw"], "monitoring": ["mon"], "mirror": []}
ADDRESSES = {"gw": "10.0.0.1", "mon": "10.0.0.2", "gpu1": "10.0.0.11", "gpu2": "10.0.0.12"}


def inventory(**more: Any) -> dict[str, dict[str, Any]]:
    """The variables of the hosts."""
    shared = {
        "ollama_gateway_clients": [
            {"name": "team-a", "key": KEY},
            {
                "name": "team-b",
                "keys": [{"sha256": "a" * 64, "made": "2026-01-02T03:04:05Z"}, {"key": KEY + "x", "made": "2026-01-02", "expires": "2027-01-01"}],
            },
        ],
        **more,
    }
    return {
        host: {
            **shared, "group_names": [group for group, hosts in GROUPS.items() if host in hosts],
            "ansible_facts": {"default_ipv4": {"address": address}, "all_ipv4_addresses": [address]},
        }
        for host, address in ADDRESSES.items()
    }


def wanted(host: str, hostvars: dict[str, dict[str, Any]], groups: dict[str, list[str]] | None = None) -> dict[str, Any]:
    """What is wanted of a host."""
    completed = instances([{"name": "default"}, {"name": "small", "port": 11435, "models": ["llama3.2:1b"]}], ADDRESSES[host], "/srv/models")
    models = manifest(["llama3.2:1b", {"name": "bot", "from": "llama3.2:1b"}, {"name": "old", "state": "absent"}])
    return _audit_plan.audit_wanted(host, hostvars, groups or GROUPS, completed if host in (groups or GROUPS)["ollama"] else [], models)


def looked_at(hostvars: dict[str, dict[str, Any]], listening: dict[str, list[tuple[str, int]]], groups: dict[str, list[str]] | None = None) -> None:
    """Give the hosts what was found of them."""
    for host, places in listening.items():
        sockets = [{"address": address, "port": port, "pid": 1, "command": "sshd" if port == 2222 else "x", "unit": ""} for address, port in places]
        hostvars[host].update(__audit_wanted=wanted(host, hostvars, groups), __audit_look={"facts": {"sockets": sockets}})


def test_wanted() -> None:
    """Instances with their models, models of one's own, keys by their names; no key and no password in it."""
    hostvars = inventory(ollama_monitoring_receivers=[{"name": "night", "type": "webhook", "url": f"https://x/{KEY}"}])
    found = wanted("gpu1", hostvars)
    assert [(item["name"], item["models"]) for item in found["instances"]] == [("default", ["llama3.2:1b", "bot:latest"]), ("small", ["llama3.2:1b"])]
    assert found["custom"] == ["bot:latest"] and found["groups"] == ["ollama"] and found["clients"] == [] and found["gateway"] is None
    assert {(item["name"], tuple(item["peers"])) for item in found["services"]} >= {("Ollama instance default", ("gw", "mon")), ("node_exporter", ("mon",))}
    gateway = wanted("gw", hostvars)
    assert gateway["gateway"] == {"port": 443, "name": "gw"} and gateway["instances"] == []
    assert [(client["name"], [key["made"] for key in client["keys"]]) for client in gateway["clients"]] == [
        ("team-a", [None]), ("team-b", [1767323045.0, 1767312000.0]),
    ]
    assert gateway["clients"][0]["keys"][0]["id"] == hashlib.sha256(KEY.encode()).hexdigest()[:8]
    assert wanted("mon", hostvars)["receivers"] == ["night"]
    assert all(KEY not in json.dumps(wanted(host, hostvars)) for host in ADDRESSES)


def test_each_port_is_asked_by_one_who_may_not() -> None:
    """Gateways and Prometheus may reach Ollama, so the other Ollama host tries; what is for everybody nobody tries."""
    hostvars = inventory()
    looked_at(hostvars, {
        "gpu1": [("10.0.0.11", 11434), ("10.0.0.11", 9100), ("127.0.0.1", 5000), ("0.0.0.0", 2222), ("0.0.0.0", 22), ("::", 8080), ("fe80::1", 8081)],
        "gpu2": [("10.0.0.12", 11434)], "gw": [("0.0.0.0", 443), ("10.0.0.1", 9113)], "mon": [("10.0.0.2", 9090)],
    })
    plans = _audit_plan.audit_probes(ADDRESSES, hostvars)
    assert set(plans) == {*ADDRESSES, _audit_plan.CONTROLLER} and plans[_audit_plan.CONTROLLER] == {"ports": [], "gateways": []}
    asked = sorted((asker, item["host"], item["address"], item["port"], item["service"]) for asker, plan in plans.items() for item in plan["ports"])
    assert asked == [
        ("gpu1", "gpu2", "10.0.0.12", 11434, "Ollama instance default"),
        ("gpu1", "gw", "10.0.0.1", 9113, "metrics of the gateway"),
        ("gpu1", "mon", "10.0.0.2", 9090, "Prometheus"),
        ("gpu2", "gpu1", "10.0.0.11", 8080, ""),
        ("gpu2", "gpu1", "10.0.0.11", 9100, "node_exporter"),
        ("gpu2", "gpu1", "10.0.0.11", 11434, "Ollama instance default"),
    ]
    [gateway] = [item for plan in plans.values() for item in plan["gateways"]]
    assert gateway == {"host": "gw", "address": "10.0.0.1", "port": 443, "name": "gw"} and plans["mon"]["gateways"]


def test_a_network_that_may_is_not_asked() -> None:
    """Prometheus is open to a network that gpu1 is in: gpu2 is not, and asks."""
    hostvars = inventory(ollama_firewall_monitoring_networks=["10.0.0.11/32"])
    looked_at(hostvars, {"gpu1": [], "gpu2": [], "mon": [("10.0.0.2", 9090)]})
    plans = _audit_plan.audit_probes(ADDRESSES, hostvars)
    assert [item["port"] for item in plans["gpu2"]["ports"]] == [9090] and plans["gpu1"]["ports"] == []


def test_every_address_of_a_port_is_asked() -> None:
    """Of one port too, and over IPv6 where the host has it; with the port that tells whether there is a way."""
    hostvars = inventory(ansible_port=2222)
    hostvars["gpu1"]["ansible_facts"]["default_ipv6"] = {"address": "fd00::11"}
    looked_at(hostvars, {"gpu1": [("10.0.0.11", 8080), ("172.16.0.11", 8080), ("::", 8081), ("::ffff:127.0.0.1", 8082), ("0.0.0.0", 8083)], "gpu2": []})
    asked = _audit_plan.audit_probes(ADDRESSES, hostvars)["gpu2"]["ports"]
    assert [(item["address"], item["port"]) for item in asked] == [
        ("10.0.0.11", 8080), ("172.16.0.11", 8080), ("10.0.0.11", 8081), ("fd00::11", 8081), ("10.0.0.11", 8083),
    ]
    assert {item["ssh_port"] for item in asked} == {2222}


def test_what_the_operator_opens_is_a_service() -> None:
    """Also a port of the fleet, which then both may reach; UDP is not asked."""
    rules: list[dict[str, Any]] = [{"port": "8000-8010", "networks": ["10.0.0.12"]}, {"port": 9100, "networks": ["10.0.0.12/32"]}]
    rules.append({"port": 53, "protocol": "udp", "networks": ["::/0"]})
    hostvars = inventory(ollama_firewall_extra_rules=rules)
    looked_at(hostvars, {"gpu1": [("10.0.0.11", port) for port in (8005, 8011, 9100, 11434)], "gpu2": [], "mon": [], "gw": []})
    opened = [(item["port"], item["last"], item["networks"]) for item in wanted("gpu1", hostvars)["services"] if "last" in item]
    assert opened == [(8000, 8010, ["10.0.0.12/32"]), (9100, 9100, ["10.0.0.12/32"])]
    plans = _audit_plan.audit_probes(ADDRESSES, hostvars)
    assert {item["port"]: asker for asker, plan in plans.items() for item in plan["ports"]} == {8005: "gw", 8011: "gpu2", 9100: "gw", 11434: "gpu2"}


@pytest.mark.parametrize(
    ("listening", "values", "asked"),
    [
        (["192.168.7.1", "127.0.0.1"], {}, ("mon", "192.168.7.1")),
        (["0.0.0.0"], {"ansible_host": "192.168.56.10"}, ("mon", "192.168.56.10")),
        (["0.0.0.0"], {"ansible_host": "10.5.5.5", "ollama_address": "192.168.56.10"}, ("mon", "192.168.56.10")),
        # a port that a virtual machine's host forwards
        (["0.0.0.0"], {"ansible_host": "127.0.0.1"}, ("mon", "10.0.0.1")),
        (["0.0.0.0"], {"ansible_host": "gw.example.org"}, ("mon", "10.0.0.1")),
        (["::", "127.0.0.1"], {"ansible_host": "192.168.56.10"}, ("mon", "fd00::1")),
        (["::", "127.0.0.1"], {"ollama_address": "fd00::99"}, ("mon", "fd00::99")),
        (["127.0.0.1"], {}, ("gw", "127.0.0.1")),
        # it does not run
        ([], {}, ("mon", "10.0.0.1")),
    ],
)
def test_a_gateway_is_asked_where_it_listens(listening: list[str], values: dict[str, Any], asked: tuple[str, str]) -> None:
    """By another host if it listens for others."""
    hostvars = inventory()
    hostvars["gw"].update(values)
    hostvars["gw"]["ansible_facts"]["default_ipv6"] = {"address": "fd00::1"}
    looked_at(hostvars, {"gw": [(address, 443) for address in listening], "mon": []})
    plans = _audit_plan.audit_probes(ADDRESSES, hostvars)
    assert [(asker, item["address"]) for asker, plan in plans.items() for item in plan["gateways"]] == [asked]


class Counted(dict[str, Any]):
    """Variables that count who looks at them: with Ansible each look costs time."""

    looks = 0

    def get(self, key: str, default: Any = None) -> Any:
        """One look."""
        self.looks += 1
        return super().get(key, default)


def test_variables_are_looked_at_once() -> None:
    """However many ports there are, and hosts that may ask."""
    hostvars = inventory()
    looked_at(hostvars, {host: [("0.0.0.0", 20000 + number) for number in range(50)] for host in ADDRESSES})
    counted = {host: Counted(values) for host, values in hostvars.items()}
    _audit_plan.audit_probes(ADDRESSES, counted)
    assert max(values.looks for values in counted.values()) < 10


@pytest.mark.parametrize(("connection", "count"), [("ssh", 1), ("local", 0)])
def test_a_single_box_is_asked_by_the_controller(connection: str, count: int) -> None:
    """Unless the controller is that box, which would see itself. Its gateway it asks itself."""
    groups = {name: ["gw"] for name in GROUPS}
    hostvars = {"gw": {**inventory()["gw"], "group_names": list(groups), "ansible_connection": connection}}
    looked_at(hostvars, {"gw": [("10.0.0.1", 9100), ("127.0.0.1", 11434), ("0.0.0.0", 443)]}, groups)
    plans = _audit_plan.audit_probes(["gw"], hostvars)
    assert len(plans[_audit_plan.CONTROLLER]["ports"]) == count
    assert plans["gw"] == {"ports": [], "gateways": [{"host": "gw", "address": "127.0.0.1", "port": 443, "name": "gw"}]}


def test_who_was_not_looked_at_is_left_out() -> None:
    """He neither asks nor is asked."""
    hostvars = inventory()
    looked_at(hostvars, {"gpu1": [("10.0.0.11", 11434)]})
    plans = _audit_plan.audit_probes(ADDRESSES, hostvars)
    assert [item["host"] for item in plans[_audit_plan.CONTROLLER]["ports"]] == ["gpu1"] and plans["gpu2"] == {"ports": [], "gateways": []}


def test_questions() -> None:
    """What the services of a host are asked: as the inventory says where they are, and with whose name."""
    hostvars = inventory()
    assert _audit_plan.audit_questions("gpu1", hostvars, GROUPS, "10.0.0.11") == {"requests": {}, "prometheus": {}}
    assert _audit_plan.audit_questions("gw", hostvars, GROUPS, "[fd00::1]")["requests"]["ready"] == "http://[fd00::1]:9113/ready"
    found = _audit_plan.audit_questions("mon", hostvars, GROUPS, "10.0.0.2")
    assert found["requests"] == {} and (found["prometheus"]["url"], found["prometheus"]["user"]) == ("http://10.0.0.2:9090", "")
    assert found["prometheus"]["queries"] == _audit_plan.QUERIES and set(_audit_plan.SHARES) <= set(found["prometheus"]["plots"])
    hostvars = inventory(
        ollama_monitoring_users=[{"name": "me", "password": "p" * 12}], ollama_monitoring_tls_certificate_path="/x", ollama_monitoring_port=9999,
        ollama_monitoring_grafana_enabled="yes",
    )
    found = _audit_plan.audit_questions("mon", hostvars, GROUPS, "10.0.0.2", brief=True)
    assert (found["prometheus"]["url"], found["prometheus"]["user"], found["prometheus"]["queries"]) == ("https://10.0.0.2:9999", "me", {})
    assert found["requests"] == {"grafana": "http://10.0.0.2:3000/api/health"} and "p" * 12 not in json.dumps(found)
