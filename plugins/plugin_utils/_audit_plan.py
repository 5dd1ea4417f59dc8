# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What an audit is to look at: what the inventory wants of each host, and who asks which port and which gateway."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ansible_collections.gpufleet.ollama.plugins.module_utils._names import parse
from ansible_collections.gpufleet.ollama.plugins.plugin_utils import _firewall, _gateway, _keys
from ansible_collections.gpufleet.ollama.plugins.plugin_utils._audit_fleet import Address, address_of, service_at
from ansible_collections.gpufleet.ollama.plugins.plugin_utils._model import FLEET_GROUPS, model_name, reach

# asks what no host of the fleet can
CONTROLLER = "controller"
QUERIES = {
    "health": "ollama_health_status",
    "gateways": 'up{job="gateway"}',
    "requests": 'count by (host) (nginx_http_requests_total{job="gateway"})',
    "latency": 'count by (host) (nginx_http_request_duration_seconds_bucket{job="gateway"})',
    "cpu": "host:node_cpu_used:ratio5m",
    "memory": "host:node_memory_used:ratio",
    "gpu": "count by (host) (nvidia_smi_utilization_gpu_ratio)",
}
PLOTS = {
    "Requests per second": "sum by (host) (rate(nginx_http_requests_total[15m]))",
    "Share of requests that fail": 'sum(rate(nginx_http_requests_total{status=~"5.."}[15m])) / (sum(rate(nginx_http_requests_total[15m])) > 0)',
    "Seconds of an answer, 99 of 100": "histogram_quantile(0.99, sum by (le) (rate(nginx_http_request_duration_seconds_bucket[15m])))",
    "Tokens per second": 'sum by (model) (rate(ollama_gateway_tokens_total{kind="completion"}[15m]))',
    "Processors in use": "host:node_cpu_used:ratio5m",
    "Memory in use": "host:node_memory_used:ratio",
    "GPUs in use": "avg by (host) (nvidia_smi_utilization_gpu_ratio)",
}
# plots of a share, 1 is all
SHARES = ("Share of requests that fail", "Processors in use", "Memory in use", "GPUs in use")


def audit_wanted(
    host: str, hostvars: Mapping[str, Mapping[str, Any]], groups: Mapping[str, list[str]], fleet_instances: Iterable[Mapping[str, Any]],
    models: Iterable[Mapping[str, Any]],
) -> dict[str, Any]:
    """What the inventory wants of a host, as far as an audit compares it; no key and no password is in it.

    Args: the C(host), the C(hostvars) and C(groups) of the inventory, and the host's completed instances and checked manifest (of no matter where it
    is no Ollama host).
    Returns groups, instances (name, url, port, gpus, models_dir, models), custom (names of models of one's own), services (see firewall_services(),
    and what the operator opens besides: an item with C(last) is a range of ports),
    clients (name, and keys: id, made in seconds since 1970 or None), gateway (port and name, or None), receivers and the SSH port.
    """
    values = hostvars[host]
    manifest = [model for model in models if model["state"] == "present"]
    gateway_networks = values.get("ollama_firewall_gateway_networks") or list(_firewall.EVERYBODY)
    services = _firewall.firewall_services(host, hostvars, groups, gateway_networks, values.get("ollama_firewall_monitoring_networks") or [])
    is_gateway = host in (groups.get("gateway") or [])
    is_monitor = host in (groups.get("monitoring") or [])
    return {
        "groups": [group for group in FLEET_GROUPS if host in (groups.get(group) or [])],
        "instances": [_instance(item, manifest) for item in fleet_instances] if host in (groups.get("ollama") or []) else [],
        "custom": [model["name"] for model in manifest if model["definition"]],
        "services": [
            *({**service, "peers": list(dict.fromkeys(peer["host"] for peer in service["peers"]))} for service in services),
            *_opened(values.get("ollama_firewall_extra_rules") or []),
        ],
        "clients": [_client(client) for client in values.get("ollama_gateway_clients") or []] if is_gateway else [],
        "gateway": _called(host, values) if is_gateway else None,
        "receivers": [str(item.get("name")) for item in values.get("ollama_monitoring_receivers") or []] if is_monitor else [],
        "ssh_port": int(values.get("ansible_port") or 22),
    }


def _opened(rules: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the operator lets in himself, as a service."""
    checked = [rule for rule in map(_firewall.firewall_extra, rules) if rule["protocol"] == "tcp"]
    return [{**{key: rule[key] for key in ("name", "port", "last")}, "peers": [], "networks": list(map(str, rule["networks"]))} for rule in checked]


def _instance(item: Mapping[str, Any], manifest: list[Mapping[str, Any]]) -> dict[str, Any]:
    names = [model["name"] for model in manifest]
    if item["models"] != "all":
        wanted = {parse(model_name(name)).key for name in item["models"]}
        names = [name for name in names if parse(name).key in wanted]
    return {**{key: item[key] for key in ("name", "url", "port", "gpus", "models_dir")}, "models": names}


def _client(client: Mapping[str, Any]) -> dict[str, Any]:
    entries = [*([{"key": client["key"]}] if client.get("key") else []), *(client.get("keys") or [])]
    keys = []
    for entry in entries:
        made = _keys.made_at(entry)
        keys.append({"id": _keys.key_id({name: str(value) for name, value in entry.items() if value is not None}), "made": made})
    return {"name": str(client.get("name")), "keys": keys}


def _called(host: str, values: Mapping[str, Any]) -> dict[str, Any]:
    names = _gateway.gateway_server_names(values.get("ollama_gateway_server_names") or [], host, values)
    # a name of the fleet rather than localhost, and no pattern
    name = next((item["name"] for item in names if not item["name"].startswith("*")), host)
    return {"port": int(values.get("ollama_gateway_port") or 443), "name": name}


def audit_questions(host: str, hostvars: Mapping[str, Mapping[str, Any]], groups: Mapping[str, list[str]], address: str, brief: bool = False) -> dict[str, Any]:
    """What the services of a host are asked, as module M(gpufleet.ollama.ollama_audit_facts) takes it: C(requests) and C(prometheus).

    Args: the C(host), the C(hostvars) and C(groups) of the inventory, the C(address) that its services listen on, as it stands in a URL, and whether
    nothing is wanted for a checklist (C(brief)).
    """
    values = hostvars[host]
    requests, prometheus = {}, {}
    if host in (groups.get("gateway") or []):
        place = f"http://{address}:{values.get('ollama_gateway_metrics_port') or 9113}"
        requests = {"ready": f"{place}/ready", "upstreams": f"{place}/upstreams"}
    if host in (groups.get("monitoring") or []):
        if str(values.get("ollama_monitoring_grafana_enabled", False)).lower() in ("true", "yes", "on", "1"):
            requests["grafana"] = f"http://{address}:{values.get('ollama_monitoring_grafana_port') or 3000}/api/health"
        scheme = "https" if values.get("ollama_monitoring_tls_certificate_path") else "http"
        users = values.get("ollama_monitoring_users") or []
        prometheus = {
            "url": f"{scheme}://{address}:{values.get('ollama_monitoring_port') or 9090}",
            "user": str(users[0]["name"]) if users else "",
            "queries": {} if brief else QUERIES,
            "plots": PLOTS,
        }
    return {"requests": requests, "prometheus": prometheus}


class _Known(NamedTuple):
    """A host that was looked at: the name or address that others have for it, its default addresses by version, all of them, whether it is the
    machine that runs Ansible, its sockets, and what the inventory wants of it."""

    reach: str
    default: dict[int, str]
    addresses: list[Address]
    local: bool
    sockets: list[dict[str, Any]]
    wanted: Mapping[str, Any]


def _known(host: str, values: Mapping[str, Any]) -> _Known:
    # each look at a variable of a host costs time
    facts = values.get("ansible_facts") or {}
    default = {version: str((facts.get(f"default_ipv{version}") or {}).get("address") or "") for version in (4, 6)}
    own = [*(facts.get("all_ipv4_addresses") or []), *(facts.get("all_ipv6_addresses") or [])]
    sockets = values["__audit_look"]["facts"].get("sockets") or []
    return _Known(
        reach(host, values), default, [address_of(address) for address in own], values.get("ansible_connection") == "local", sockets, values["__audit_wanted"]
    )


def audit_probes(hosts: Iterable[str], hostvars: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Who asks what of the others: for each host and for C(controller), C(ports) and C(gateways) as M(gpufleet.ollama.ollama_audit_probe) takes them.

    Args: the C(hosts) that were looked at, and the C(hostvars) with what audit_wanted() and the module found (C(__audit_wanted), C(__audit_look)).
    Each port is asked by one host only, which may not reach it; by the controller where every host may. A gateway is asked by another host, or by
    itself where there is none or where it listens on loopback only.
    """
    found = {host: hostvars[host] for host in sorted(hosts)}
    known = {host: _known(host, values) for host, values in found.items() if "__audit_look" in values and "__audit_wanted" in values}
    names = list(known)
    result: dict[str, dict[str, list[dict[str, Any]]]] = {name: {"ports": [], "gateways": []} for name in (*found, CONTROLLER)}
    for place, (host, values) in enumerate(known.items()):
        wanted = values.wanted
        # the next ones first, so that not all hosts are asked by one
        others = [*names[place + 1:], *names[:place]]
        for target in _ports(host, values):
            service = service_at(wanted["services"], target["port"])
            if service and set(_firewall.EVERYBODY) & set(service["networks"]):
                continue
            may = _who_may(service, known)
            asker = next((other for other in others if other not in may), CONTROLLER)
            # of itself a machine sees another side
            if asker != CONTROLLER or not values.local:
                result[asker]["ports"].append({**target, "service": service["name"] if service else ""})
        if wanted["gateway"]:
            may = _who_may(service_at(wanted["services"], wanted["gateway"]["port"]), known)
            address = _gateway_address(values, wanted["gateway"]["port"])
            asker = next((other for other in others if address and other in may), host)
            # loopback is always one of its addresses
            result[asker]["gateways"].append({"host": host, "address": "127.0.0.1" if asker == host else address, **wanted["gateway"]})
    return result


def _ports(host: str, values: _Known) -> list[dict[str, Any]]:
    """Where a host listens for others, but for SSH, which tells whether there is a way to the host at all."""
    result = {}
    ssh_port = values.wanted["ssh_port"]
    for socket in values.sockets:
        address = address_of(socket["address"])
        if address.is_loopback or address.is_link_local or socket["command"] == "sshd" or socket["port"] == ssh_port:
            continue
        for place in _everywhere(values, address.version) if address.is_unspecified else [str(address)]:
            result[(socket["port"], place)] = {"host": host, "address": place, "port": socket["port"], "ssh_port": ssh_port}
    return [result[key] for key in sorted(result)]


def _everywhere(values: _Known, version: int) -> list[str]:
    """Where other hosts reach a socket of all addresses. One of IPv6 takes IPv4 too, unless it was told not to."""
    own = [values.default[6]] if version == 6 and values.default[6] else []
    return [values.default[4] or values.reach, *own]


def _gateway_address(values: _Known, port: int) -> str:
    """Where other hosts reach a gateway, by what it listens on; empty when it listens on loopback only."""
    places = [address_of(socket["address"]) for socket in values.sockets if socket["port"] == port]
    own = [place for place in places if not (place.is_loopback or place.is_link_local or place.is_unspecified)]
    if own:
        return str(own[0])
    if places and all(place.is_loopback for place in places):
        return ""
    everywhere = {place.version for place in places if place.is_unspecified}
    # nginx takes no IPv4 on a socket of IPv6
    version = 6 if everywhere == {6} else 4
    try:
        given = ipaddress.ip_address(values.reach)
    except ValueError:
        # a name may mean anything on another host
        return values.default[version] or values.reach
    return str(given) if given.version == version and not given.is_loopback else values.default[version] or values.reach


def _who_may(service: Mapping[str, Any] | None, known: Mapping[str, _Known]) -> set[str]:
    """The hosts that may reach a service, as far as the inventory and their addresses tell."""
    if not service:
        return set()
    networks = [ipaddress.ip_network(network, strict=False) for network in service["networks"]]
    in_networks = {host for host, values in known.items() if any(address in network for address in values.addresses for network in networks)}
    return {*service["peers"], *in_networks}
