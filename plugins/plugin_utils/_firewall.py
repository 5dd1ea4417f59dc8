# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The firewall's part of the data model: who may reach which port of a host, and the rules of nftables that say so.

Everything is taken from the inventory, never from facts of another host. Each function raises C(ModelError) with a sentence that says
what is wrong and how to mend it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Any, Union

from ansible_collections.gpufleet.ollama.plugins.plugin_utils._gpu_monitoring import gpu_exporter_known
from ansible_collections.gpufleet.ollama.plugins.plugin_utils._model import (
    DEFAULT_INSTANCES,
    FLEET_GROUPS,
    ModelError,
    instances,
    integer,
    reach_from_elsewhere,
)

EVERYBODY = ("0.0.0.0/0", "::/0")
# stands between the names in a question to getent, which answers an address with itself
SEPARATOR = "255.255.255.255"

_Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]
_EXTRA = ("port", "protocol", "networks")
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
# a line of ss -Hltnp: the listening address, its port, and who holds it
_LISTENING = re.compile(r"LISTEN +\d+ +\d+ +(\S+):(\d+) +\S+ +users:\(\(\"(?:sshd|dropbear)\"")
_UNIT_SOCKET = re.compile(r"^Listen=\S*?(\d+) \(Stream\)$", re.M)
_SSHD_PORT = re.compile(r"^port (\d+)$", re.M)


def firewall_services(
    host: str, hostvars: Mapping[str, Mapping[str, Any]], groups: Mapping[str, list[str]], gateway_networks: Any, monitoring_networks: Any
) -> list[dict[str, Any]]:
    """What of the fleet listens on a host, and who may reach it. The host itself always may, over loopback.

    Args: the C(host), the C(hostvars) and C(groups) of the inventory, C(ollama_firewall_gateway_networks) and
    C(ollama_firewall_monitoring_networks) of the host.
    Returns dicts of name, port, peers (dicts of host, address: a name or an address) and networks (CIDR).
    """
    values = hostvars[host]
    gateways, monitors, ollama, mirrors = (list(groups.get(group) or []) for group in ("gateway", "monitoring", "ollama", "mirror"))
    result: list[dict[str, Any]] = []

    def add(name: str, port: Any, peers: Iterable[str] = (), networks: Iterable[str] = ()) -> None:
        found = [{"host": peer, "address": address} for peer in dict.fromkeys(peers) if peer != host for address in _addresses(peer, hostvars[peer])]
        result.append({"name": name, "port": port, "peers": found, "networks": list(networks)})

    def port(option: str, default: int) -> int:
        return _port(f"{option} of {host}", values.get(option) or default)

    if host in ollama:
        # only the ports are of interest
        for item in instances(values.get("ollama_instances") or DEFAULT_INSTANCES, "127.0.0.1"):
            add(f"Ollama instance {item['name']}", item["port"], gateways + monitors)
        add("ollama_exporter", port("ollama_exporter_port", 9778), monitors)
        if gpu_exporter_known(host, values):
            add("gpu_exporter", port("gpu_exporter_port", 9835), monitors)
    if host in gateways:
        add("gateway", port("ollama_gateway_port", 443), networks=_texts("ollama_firewall_gateway_networks", gateway_networks))
        if _is_true(values.get("ollama_gateway_acme_enabled", False)):
            # the authority asks from addresses that nobody knows before
            add("certificates of the gateway", 80, networks=EVERYBODY)
        add("metrics of the gateway", port("ollama_gateway_metrics_port", 9113), monitors)
    if host in mirrors:
        allowed = _texts("ollama_mirror_allowed_networks", values.get("ollama_mirror_allowed_networks") or [])
        add("mirror", port("ollama_mirror_port", 8140), ollama + mirrors, allowed)
    if host in monitors:
        watchers = _texts("ollama_firewall_monitoring_networks", monitoring_networks)
        add("Prometheus", port("ollama_monitoring_port", 9090), networks=watchers)
        if _is_true(values.get("ollama_monitoring_alertmanager_enabled", True)):
            add("Alertmanager", port("ollama_monitoring_alertmanager_port", 9093), networks=watchers)
        if _is_true(values.get("ollama_monitoring_grafana_enabled", False)):
            add("Grafana", port("ollama_monitoring_grafana_port", 3000), networks=watchers)
    if host in (groups.get("logs") or []):
        add("journals of the fleet", port("ollama_logs_port", 19532), [peer for group in FLEET_GROUPS for peer in groups.get(group) or []])
    add("node_exporter", port("node_exporter_port", 9100), monitors)
    return result


def _is_true(value: Any) -> bool:
    return str(value).lower() in ("true", "yes", "on", "1")


def _addresses(host: str, values: Mapping[str, Any]) -> list[str]:
    """Where packets of a host may come from: the name or address it is reached by, and the addresses that the inventory gives it."""
    given = [values.get("ollama_listen_address"), values.get("ollama_management_address"), *(values.get("ollama_firewall_source_addresses") or [])]
    result = [str(reach_from_elsewhere(host, values))]
    for text in given:
        if text and not _is_loopback(text):
            result.append(str(text))
    return list(dict.fromkeys(result))


def _is_loopback(text: Any) -> bool:
    try:
        return ipaddress.ip_address(str(text)).is_loopback
    except ValueError:
        return False


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def firewall_names(services: Iterable[Mapping[str, Any]]) -> list[str]:
    """The host names among the peers of services, each once, in their order: what has to be looked up on the host."""
    names = (peer["address"] for service in services for peer in service["peers"])
    return list(dict.fromkeys(name for name in names if not _is_address(name)))


def _found(names: Iterable[str], answer: str) -> dict[str, list[str]]:
    """Name -> addresses, from what C(getent ahosts) said to the separator, the first name, the separator, the second name and so on.

    getent goes on behind a name that it does not find. Without the separators nothing tells whose addresses a line holds.
    """
    blocks: list[list[str]] = []
    for line in answer.splitlines():
        address, kind = (line.split() + ["", ""])[:2]
        if kind == "STREAM" and address == SEPARATOR:
            blocks.append([])
        elif kind == "STREAM" and blocks and "%" not in address and not _is_loopback(address):
            blocks[-1].append(address)
    return {name: list(dict.fromkeys(block)) for name, block in zip(names, blocks)}


def firewall_ssh_ports(answers: Iterable[str], port: Any) -> list[int]:
    """The ports that SSH listens on, sorted.

    Args: what C(ss -Hltnp), C(sshd -T) and C(systemctl show ssh.socket --property=ActiveState,Listen) said, in any order, each possibly
    empty, and the C(port) that Ansible connects to, which counts always.
    """
    result = {_port("ansible_port", port)}
    for answer in answers:
        # on loopback sshd holds what its clients forward
        result |= {int(found[2]) for found in _LISTENING.finditer(answer) if not found[1].startswith(("127.", "[::1]"))}
        result |= {int(found) for found in _SSHD_PORT.findall(answer)}
        if "ActiveState=active" in answer.splitlines():
            result |= {int(found) for found in _UNIT_SOCKET.findall(answer)}
    return sorted(result)


def firewall_rules(services: list[dict[str, Any]], host: str, answer: str, ssh: Mapping[str, Any], more: Mapping[str, Any]) -> list[str]:
    """The rules of a host in nftables' language, in the order in which they are tried; those for answers and loopback come before them.

    Args: what firewall_services() gave for the C(host), what getent said to the names (see _found()), C(ssh) with ports and networks, C(more)
    with extra_rules (C(ollama_firewall_extra_rules)) and default_deny (whether all else is dropped, so that a host's own needs are let in).
    """
    found = _found(firewall_names(services), answer)
    ports = f"{{ {', '.join(map(str, ssh['ports']))} }}"
    result = _statements("SSH", f"tcp dport {ports}", _networks("ollama_firewall_ssh_networks", ssh["networks"], "SSH"))
    if more["default_deny"]:
        # numbers: the names are not known to every host. Neighbour discovery is ICMPv6
        result += [
            'meta l4proto { 1, 58 } accept comment "ICMP"',
            'udp sport 67 udp dport 68 accept comment "DHCP"',
            'udp sport 547 udp dport 546 accept comment "DHCPv6"',
        ]
    for rule in more["extra_rules"]:
        result += _extra(rule)
    for service in services:
        networks = [ipaddress.ip_network(address) for peer in service["peers"] for address in _resolved(peer, host, found)]
        networks += [ipaddress.ip_network(text) for text in service["networks"]]
        result += _statements(service["name"], f"tcp dport {service['port']}", networks)
    return result


def _resolved(peer: Mapping[str, str], host: str, found: Mapping[str, list[str]]) -> list[str]:
    if _is_address(peer["address"]):
        return [peer["address"]]
    addresses = found.get(peer["address"])
    if not addresses:
        raise ModelError(
            f"{host} finds no address of {peer['host']} under the name {peer['address']}: set ollama_address of {peer['host']} to an IP address "
            "in the inventory"
        )
    return addresses


def _statements(name: str, what: str, networks: Iterable[_Network], closed: bool = True) -> list[str]:
    """Rules that accept C(what) from networks, and C(closed) drop it from all others."""
    result = []
    everybody = 0
    every = list(networks)
    for version, family in ((4, "ip"), (6, "ip6")):
        own = list(ipaddress.collapse_addresses([network for network in every if network.version == version]))  # type: ignore[type-var]
        if own and own[0].prefixlen == 0:
            everybody += 1
            result.append(f'meta nfproto ipv{version} {what} accept comment "{name}"')
        elif own:
            result.append(f'{family} saddr {{ {", ".join(_ranges(own))} }} {what} accept comment "{name}"')
    if everybody == 2:
        return [f'{what} accept comment "{name}"']
    return [*result, f'{what} drop comment "{name}: nobody else"'] if closed else result


def _ranges(networks: list[_Network]) -> list[str]:
    """Networks that follow one another as one range. nft joins them itself, but lists them otherwise when it reads its own list again."""
    joined: list[list[_Network]] = []
    for network in networks:
        if joined and int(joined[-1][-1].broadcast_address) + 1 == int(network.network_address):
            joined[-1].append(network)
        else:
            joined.append([network])
    return [f"{row[0].network_address}-{row[-1].broadcast_address}" if len(row) > 1 else _text(row[0]) for row in joined]


def _text(network: _Network) -> str:
    return str(network.network_address if network.num_addresses == 1 else network)


def firewall_extra(rule: Mapping[str, Any]) -> dict[str, Any]:
    """A rule of C(ollama_firewall_extra_rules), checked: name, protocol, port and last (of a range), ports (as nftables writes them),
    networks."""
    where = "ollama_firewall_extra_rules"
    if not isinstance(rule, Mapping) or set(rule) - set(_EXTRA) or not {"port", "networks"} <= set(rule):
        raise ModelError(f"{where} has {rule!r}: give a mapping with port, networks and possibly protocol")
    protocol = rule.get("protocol") or "tcp"
    if protocol not in ("tcp", "udp"):
        raise ModelError(f"{where} has the protocol {protocol!r}: give tcp or udp")
    match = _PORTS.fullmatch(str(rule["port"]))
    if not match:
        raise ModelError(f"{where} has the port {rule['port']!r}: give a number, or two with - between them such as 8000-8010")
    first, last = (_port(where, text) for text in (match[1], match[2] or match[1]))
    if first > last:
        raise ModelError(f"{where} has the port {rule['port']}: give the smaller number first")
    ports = str(first) if first == last else f"{first}-{last}"
    networks = _networks(where, rule["networks"], f"port {ports}")
    return {"name": f"extra rule {protocol} {ports}", "protocol": protocol, "port": first, "last": last, "ports": ports, "networks": networks}


def _extra(rule: Mapping[str, Any]) -> list[str]:
    checked = firewall_extra(rule)
    return _statements(checked["name"], f"{checked['protocol']} dport {checked['ports']}", checked["networks"], closed=False)


def _port(where: str, value: Any) -> int:
    port = integer(where, value, 1)
    if port > 65535:
        raise ModelError(f"{where} is {port}: give a number up to 65535")
    return port


def _networks(option: str, raw: Any, what: str) -> list[_Network]:
    if not isinstance(raw, (list, tuple)) or not raw:
        raise ModelError(f"{option} is {raw!r}, which lets nobody reach {what}: give a list of networks such as 10.0.0.0/24")
    return [ipaddress.ip_network(text) for text in _texts(option, raw)]


def _texts(option: str, raw: Any) -> list[str]:
    """Networks of an option, checked, as CIDR."""
    if not isinstance(raw, (list, tuple)):
        raise ModelError(f"{option} is {raw!r}: give a list of networks such as 10.0.0.0/24")
    result = []
    for item in raw:
        try:
            # a number would be taken for an address
            network = ipaddress.ip_network(str(item), strict=False)
        except ValueError:
            raise ModelError(f"{option} has {item!r}: give an IP network such as 10.0.0.0/24") from None
        if str(item).partition("/")[0] != str(network.network_address):
            raise ModelError(f"{option} has {item}, an address within a network: give {network}, or the address alone")
        result.append(str(network))
    return result


def firewall_advice(services: Iterable[Mapping[str, Any]]) -> str:
    """What another firewall has to let in and to keep out, in one line."""
    return "; ".join(f"{service['port']} ({service['name']}) only from {_who(service)}" for service in services if not _is_open(service))


def _is_open(service: Mapping[str, Any]) -> bool:
    return set(EVERYBODY) <= set(service["networks"])


def _who(service: Mapping[str, Any]) -> str:
    peers = dict.fromkeys([*(peer["host"] for peer in service["peers"]), *service["networks"]])
    return ", ".join(peers) or "the host itself"
