"""The firewall's data model: who may reach what, where SSH listens, and rules that nft takes."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Any

import pytest

from ansible_collections.gpufleet.ollama.plugins.plugin_utils import _firewall
from ansible_collections.gpufleet.ollama.plugins.plugin_utils._model import ModelError

GROUPS = {"ollama": ["gpu1", "gpu2"], "gateway": ["gw"], "monitoring": ["mon"], "mirror": ["gpu1"]}
HOSTVARS: dict[str, dict[str, Any]] = {
    "gpu1": {"ansible_host": "10.0.0.11"},
    "gpu2": {"ansible_host": "10.0.0.12"},
    "gw": {"ansible_host": "192.0.2.80", "ollama_address": "10.0.0.20", "ollama_management_address": "10.9.0.20"},
    "mon": {},
}
SSH = {"ports": [22], "networks": list(_firewall.EVERYBODY)}
PLAIN: dict[str, Any] = {"extra_rules": [], "default_deny": False}


def services(host: str, more: dict[str, Any] | None = None, gateway: Any = _firewall.EVERYBODY, monitoring: Any = ()) -> list[dict[str, Any]]:
    """The services of a host of the fleet above, with more variables of its own."""
    hostvars = {**HOSTVARS, host: {**HOSTVARS[host], **(more or {})}}
    return _firewall.firewall_services(host, hostvars, GROUPS, gateway, monitoring)


def answer(*blocks: list[str]) -> str:
    """What getent says to names: the addresses of each."""
    lines = []
    for block in blocks:
        for address in [_firewall.SEPARATOR, *block]:
            lines += [f"{address:15} STREAM name", f"{address:15} DGRAM  ", f"{address:15} RAW    "]
    return "\n".join(lines)


def rules(host: str, found: str = "", ssh: dict[str, Any] | None = None, more: dict[str, Any] | None = None, **variables: Any) -> list[str]:
    """The rules of a host."""
    return _firewall.firewall_rules(services(host, variables), host, found or answer(["10.0.0.30"]), {**SSH, **(ssh or {})}, {**PLAIN, **(more or {})})


def test_an_ollama_host() -> None:
    """Its instances for gateways and Prometheus, its exporters for Prometheus, its mirror for Ollama hosts, its own address left out."""
    assert rules("gpu1", ollama_instances=[{"name": "a"}, {"name": "b", "port": 11500}]) == [
        'tcp dport { 22 } accept comment "SSH"',
        'ip saddr { 10.0.0.20, 10.0.0.30, 10.9.0.20 } tcp dport 11434 accept comment "Ollama instance a"',
        'tcp dport 11434 drop comment "Ollama instance a: nobody else"',
        'ip saddr { 10.0.0.20, 10.0.0.30, 10.9.0.20 } tcp dport 11500 accept comment "Ollama instance b"',
        'tcp dport 11500 drop comment "Ollama instance b: nobody else"',
        'ip saddr { 10.0.0.30 } tcp dport 9778 accept comment "ollama_exporter"',
        'tcp dport 9778 drop comment "ollama_exporter: nobody else"',
        'ip saddr { 10.0.0.12 } tcp dport 8140 accept comment "mirror"',
        'tcp dport 8140 drop comment "mirror: nobody else"',
        'ip saddr { 10.0.0.30 } tcp dport 9100 accept comment "node_exporter"',
        'tcp dport 9100 drop comment "node_exporter: nobody else"',
    ]


def test_a_gateway() -> None:
    """Open to everybody, port 80 only with ACME, whatever the networks of the gateway."""
    found = rules("gw")
    assert 'tcp dport 443 accept comment "gateway"' in found and not any("dport 443 drop" in rule or "dport 80 " in rule for rule in found)
    assert 'ip saddr { 10.0.0.30 } tcp dport 9113 accept comment "metrics of the gateway"' in found
    found = rules("gw", ollama_gateway_acme_enabled=True, ollama_gateway_port="8443", ollama_gateway_metrics_port=9114)
    assert 'tcp dport 80 accept comment "certificates of the gateway"' in found
    assert any("dport 8443 accept" in rule for rule in found) and any("dport 9114 drop" in rule for rule in found)
    closed = services("gw", {"ollama_gateway_acme_enabled": "true"}, gateway=["10.0.0.0/8"])
    assert [(item["port"], item["networks"]) for item in closed[:2]] == [(443, ["10.0.0.0/8"]), (80, list(_firewall.EVERYBODY))]


def test_a_collector_of_logs_is_open_to_the_fleet_only() -> None:
    """Hosts of every group but itself, at the port of the inventory."""
    groups = {**GROUPS, "logs": ["logs"]}
    hostvars = {**HOSTVARS, "logs": {"ansible_host": "10.0.0.40", "ollama_logs_port": "6514"}}
    services_of_logs = _firewall.firewall_services("logs", hostvars, groups, _firewall.EVERYBODY, ())
    found = _firewall.firewall_rules(services_of_logs, "logs", answer(["10.0.0.30"]), SSH, PLAIN)
    assert found[1:3] == [
        'ip saddr { 10.0.0.11-10.0.0.12, 10.0.0.20, 10.0.0.30, 10.9.0.20 } tcp dport 6514 accept comment "journals of the fleet"',
        'tcp dport 6514 drop comment "journals of the fleet: nobody else"',
    ]
    assert [item["port"] for item in _firewall.firewall_services("gw", hostvars, groups, [], []) if "journals" in item["name"]] == []


def test_prometheus_is_closed_unless_networks_are_given() -> None:
    """Its own exporters need no rule: loopback comes before all."""
    assert [rule for rule in rules("mon") if "accept" in rule] == ['tcp dport { 22 } accept comment "SSH"']
    found = _firewall.firewall_rules(services("mon", monitoring=["10.5.0.0/16", "fd00::/8"]), "mon", "", SSH, PLAIN)
    assert found[1:4] == [
        'ip saddr { 10.5.0.0/16 } tcp dport 9090 accept comment "Prometheus"',
        'ip6 saddr { fd00::/8 } tcp dport 9090 accept comment "Prometheus"',
        'tcp dport 9090 drop comment "Prometheus: nobody else"',
    ]


def test_what_shows_alerts_is_closed_too() -> None:
    """Alertmanager, unless it is off, and Grafana where it is on, each at its own port."""
    open_to = services("mon", {"ollama_monitoring_grafana_enabled": True}, monitoring=["10.5.0.0/16"])
    found = {item["name"]: (item["port"], item["networks"]) for item in open_to}
    assert found["Alertmanager"] == (9093, ["10.5.0.0/16"]) and found["Grafana"] == (3000, ["10.5.0.0/16"])
    names = {item["name"] for item in services("mon", {"ollama_monitoring_alertmanager_enabled": False})}
    assert names.isdisjoint({"Alertmanager", "Grafana"}) and "Prometheus" in names


def test_a_single_box() -> None:
    """In all groups, reached by loopback: nobody else in the fleet, so nothing is looked up."""
    groups = {group: ["box"] for group in GROUPS}
    found = _firewall.firewall_services("box", {"box": {"ansible_host": "127.0.0.1"}}, groups, _firewall.EVERYBODY, [])
    assert [item["port"] for item in found] == [11434, 9778, 443, 9113, 8140, 9090, 9093, 9100] and not any(item["peers"] for item in found)


def test_networks_that_overlap_become_one() -> None:
    """nft takes no overlapping intervals in one set."""
    found = rules("gpu1", ollama_mirror_allowed_networks=["10.0.0.0/24", "10.0.0.0/16", "10.0.0.12"])
    assert 'ip saddr { 10.0.0.0/16 } tcp dport 8140 accept comment "mirror"' in found


def test_names() -> None:
    """Each once, addresses left out; getent's answers belong to their names, link-local and loopback ones are dropped."""
    assert _firewall.firewall_names(services("gpu1")) == ["mon"]
    found = _firewall._found(["a", "b", "c"], answer(["10.0.0.1", "fe80::1%eth0", "10.0.0.1"], ["127.0.1.1"], ["fd00::3"]))
    assert found == {"a": ["10.0.0.1"], "b": [], "c": ["fd00::3"]}


@pytest.mark.parametrize("found", [answer([]), answer(["127.0.0.1"])])
def test_a_name_that_does_not_resolve(found: str) -> None:
    """The message names both hosts, and what to set."""
    with pytest.raises(ModelError, match="gpu1 finds no address of mon under the name mon: set ollama_address of mon to an IP address"):
        rules("gpu1", found)


def test_further_addresses_of_a_peer() -> None:
    """What the inventory says that its connections come from; loopback is nobody's."""
    more = {**HOSTVARS, "gw": {**HOSTVARS["gw"], "ollama_listen_address": "127.0.0.1", "ollama_firewall_source_addresses": ["10.8.0.1"]}}
    found = _firewall.firewall_services("gpu2", more, GROUPS, [], [])
    assert [peer["address"] for peer in found[0]["peers"]] == ["10.0.0.20", "10.9.0.20", "10.8.0.1", "mon"]


def test_a_peer_on_loopback() -> None:
    """Another host would take it for itself."""
    with pytest.raises(ModelError, match="cannot reach gw by localhost: set ollama_address of gw"):
        _firewall.firewall_services("gpu1", {**HOSTVARS, "gw": {"ansible_host": "localhost"}}, GROUPS, [], [])


SS = """LISTEN 0      128    0.0.0.0:2222 0.0.0.0:* users:(("sshd",pid=423,fd=3))
LISTEN 0      128    127.0.0.1:6010 0.0.0.0:* users:(("sshd",pid=500,fd=9))
LISTEN 0      128    [::1]:6010 [::]:* users:(("sshd",pid=500,fd=8))
LISTEN 0      128    0.0.0.0:80 0.0.0.0:* users:(("nginx",pid=1,fd=4))
LISTEN 0      128    [::]:2223 [::]:* users:(("sshd",pid=423,fd=4))
"""


@pytest.mark.parametrize(
    ("answers", "ports"),
    [
        (["", "", ""], [22]),
        ([SS], [22, 2222, 2223]),
        (["port 2200\naddressfamily any\nport 2201\n"], [22, 2200, 2201]),
        (["Listen=[::]:2300 (Stream)\nListen=2301 (Stream)\nActiveState=active\n"], [22, 2300, 2301]),
        (["Listen=[::]:2300 (Stream)\nActiveState=inactive\n"], [22]),
    ],
)
def test_ssh_ports(answers: list[str], ports: list[int]) -> None:
    """What listens, what is configured, what systemd holds, and where Ansible connects to."""
    assert _firewall.firewall_ssh_ports(answers, "22") == ports


def test_ssh_from_networks() -> None:
    """Closed to everybody else; it comes before all other rules."""
    assert rules("mon", ssh={"ports": [22, 2222], "networks": ["10.0.0.0/8"]})[:2] == [
        'ip saddr { 10.0.0.0/8 } tcp dport { 22, 2222 } accept comment "SSH"',
        'tcp dport { 22, 2222 } drop comment "SSH: nobody else"',
    ]
    assert rules("mon", ssh={"networks": ["0.0.0.0/0"]})[0] == 'meta nfproto ipv4 tcp dport { 22 } accept comment "SSH"'


@pytest.mark.parametrize(
    ("networks", "text"),
    [
        (["10.0.0.2", "10.0.0.3", "10.0.0.4"], "10.0.0.2-10.0.0.4"),
        (["10.0.0.2/31", "10.0.0.4"], "10.0.0.2-10.0.0.4"),
        (["10.0.2.0/24", "10.0.0.0/24", "10.0.1.0/24", "10.0.9.1"], "10.0.0.0-10.0.2.255, 10.0.9.1"),
        (["10.0.0.2", "10.0.0.3"], "10.0.0.2/31"),
        (["10.0.0.1", "10.0.0.3"], "10.0.0.1, 10.0.0.3"),
    ],
)
def test_addresses_in_a_row_are_one_range(networks: list[str], text: str) -> None:
    """As nft lists them: a list that it reads again and lists otherwise would be a change at each run."""
    assert rules("mon", ssh={"networks": networks})[0] == f'ip saddr {{ {text} }} tcp dport {{ 22 }} accept comment "SSH"'


def test_default_deny_lets_a_host_live() -> None:
    """Neighbour discovery and leases, before the rules of the fleet."""
    found = rules("mon", more={"default_deny": True})
    matches = [rule.split(" accept", maxsplit=1)[0] for rule in found[1:4]]
    assert matches == ["meta l4proto { 1, 58 }", "udp sport 67 udp dport 68", "udp sport 547 udp dport 546"]


def test_extra_rules_come_before_what_they_open() -> None:
    """Ranges, udp, several networks; they close nothing."""
    extra = [{"port": 9090, "networks": ["10.0.0.7"]}, {"port": "8000-8010", "protocol": "udp", "networks": ["0.0.0.0/0", "::/0"]}]
    assert rules("mon", more={"extra_rules": extra})[1:4] == [
        'ip saddr { 10.0.0.7 } tcp dport 9090 accept comment "extra rule tcp 9090"',
        'udp dport 8000-8010 accept comment "extra rule udp 8000-8010"',
        'tcp dport 9090 drop comment "Prometheus: nobody else"',
    ]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"extra_rules": [{"port": "http", "networks": ["10.0.0.0/8"]}]}, "has the port 'http': give a number"),
        ({"extra_rules": [{"port": 70000, "networks": ["10.0.0.0/8"]}]}, "give a number up to 65535"),
        ({"extra_rules": [{"port": "9-8", "networks": ["10.0.0.0/8"]}]}, "give the smaller number first"),
        ({"extra_rules": [{"port": 80, "protocol": "icmp", "networks": ["10.0.0.0/8"]}]}, "give tcp or udp"),
        ({"extra_rules": [{"port": 80, "networks": []}]}, "lets nobody reach port 80"),
        ({"extra_rules": [{"port": 80}]}, "give a mapping with port, networks"),
        ({"extra_rules": ["80"]}, "give a mapping with port, networks"),
        ({"extra_rules": [{"port": 80, "networks": ["10.0.0.5/8"]}]}, "give 10.0.0.0/8, or the address alone"),
    ],
)
def test_bad_extra_rules(more: dict[str, Any], message: str) -> None:
    """Each is refused with what to give."""
    with pytest.raises(ModelError, match=message):
        rules("mon", more=more)


def test_bad_networks() -> None:
    """Nobody may reach SSH, text for a list, a name for a network, a port that is none."""
    with pytest.raises(ModelError, match="ollama_firewall_ssh_networks is .*lets nobody reach SSH"):
        rules("mon", ssh={"networks": []})
    with pytest.raises(ModelError, match="ollama_firewall_gateway_networks is '10.0.0.0/8': give a list"):
        services("gw", gateway="10.0.0.0/8")
    with pytest.raises(ModelError, match="ollama_firewall_monitoring_networks has 'office': give an IP network"):
        services("mon", monitoring=["office"])
    with pytest.raises(ModelError, match="node_exporter_port of mon is 99999: give a number up to 65535"):
        services("mon", {"node_exporter_port": 99999})


def test_advice() -> None:
    """One line, without what is open to everybody."""
    assert _firewall.firewall_advice(services("gw")) == "9113 (metrics of the gateway) only from mon; 9100 (node_exporter) only from mon"
    own = "{} only from the host itself".format
    told = "; ".join(map(own, ("9090 (Prometheus)", "9093 (Alertmanager)", "9100 (node_exporter)")))
    assert _firewall.firewall_advice(services("mon")) == told


@pytest.mark.skipif(not shutil.which("nft") or os.geteuid() != 0, reason="nft is not there, or asks for root")
@pytest.mark.parametrize("host", list(HOSTVARS))
@pytest.mark.parametrize("deny", [True, False])
def test_nft_takes_the_rules(host: str, deny: bool) -> None:
    """All forms of a rule, on every kind of host. Nothing is loaded."""
    more = {"default_deny": deny, "extra_rules": [{"port": "1-2", "protocol": "udp", "networks": ["0.0.0.0/0", "fd00::1"]}]}
    own = {"ollama_mirror_allowed_networks": ["10.0.0.0/8", "fd00::/8"], "ollama_gateway_acme_enabled": True}
    lines = rules(host, answer(["10.0.0.30", "fd00::30"]), {"ports": [22, 2222], "networks": ["10.0.0.0/8", "::/0"]}, more, **own)
    text = "table inet gpufleet_test {\nchain input {\ntype filter hook input priority filter; policy accept;\n" + "\n".join(lines) + "\n}\n}\n"
    done = subprocess.run(["nft", "-c", "-f", "-"], input=text, capture_output=True, text=True, check=False)
    if "Operation not permitted" in done.stderr or "not supported" in done.stderr:
        pytest.skip(f"the kernel does not let nft check: {done.stderr.splitlines()[0]}")
    assert done.returncode == 0, done.stderr
