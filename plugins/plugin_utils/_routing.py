# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Where the gateway sends requests: every instance of the fleet, and which of them has which model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.gpufleet.ollama.plugins.module_utils._names import display_name
from ansible_collections.gpufleet.ollama.plugins.plugin_utils._environment import ModelError
from ansible_collections.gpufleet.ollama.plugins.plugin_utils._model import DEFAULT_INSTANCES, instances, model_name, reach_from_elsewhere, url_host
from ansible_collections.gpufleet.ollama.plugins.plugin_utils._models import manifest

# the hosts without GPUs
CPU_GROUP = "cpu_fallback"
# a host's name is the name of a file on the gateway, see the drain
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*")


def upstreams(hosts: Iterable[str], hostvars: Mapping[str, Mapping[str, Any]], gateway: str, own_address: str) -> list[dict[str, Any]]:
    """Every Ollama instance that a gateway balances over.

    Args: C(hosts) of the Ollama group, the C(hostvars) of all, the name of this C(gateway), and the address that its own
    instances listen on, if it has any.
    Returns dicts of host, instance, address (a name or an IP address), port, server (both, as they stand in a URL), weight, backup (bool), and
    models: the names of those that it serves, of the manifest of its host.
    """
    result = []
    for host in hosts:
        if not _HOST.fullmatch(host):
            raise ModelError(f"the Ollama host {host!r} has a name that the gateway cannot use: give letters, digits and . _ : - only")
        values = hostvars[host]
        address = own_address if host == gateway else (values.get("ollama_listen_address") or reach_from_elsewhere(host, values))
        names = [model["name"] for model in manifest(values.get("ollama_models") or []) if model["state"] == "present"]
        for item in instances(values.get("ollama_instances") or DEFAULT_INSTANCES, address):
            backup = item["backup"]
            result.append({
                "host": host,
                "instance": item["name"],
                "address": address,
                "port": item["port"],
                "server": f"{url_host(address)}:{item['port']}",
                "weight": item["weight"],
                # slow ones help out when all others are away
                "backup": backup if backup is not None else item["gpus"] == "none" or CPU_GROUP in (values.get("group_names") or []),
                "models": names if item["models"] == "all" else [model_name(name) for name in item["models"]],
            })
    return result


def gateway_routing(fleet_upstreams: Iterable[Mapping[str, Any]], routes: Iterable[Mapping[str, Any]], options: Mapping[str, Any]) -> dict[str, Any]:
    """The gateway's file C(routing.json), but for its id.

    Args: what C(upstreams) returned, the C(routes) of the role, and its C(options), which are copied.
    Returns a dict of the options, peers, models (all names), routes (path -> what the Lua code needs of it), and pools: lower-case name of a
    model -> numbers of the peers that have it, from 1. Models that all peers have are not in there.
    """
    peers = list(fleet_upstreams)
    served: dict[str, list[int]] = {}
    names: dict[str, str] = {}
    for number, peer in enumerate(peers, start=1):
        for name in peer["models"]:
            shown = display_name(name)
            names.setdefault(shown.lower(), shown)
            served.setdefault(shown.lower(), []).append(number)
    wanted = ("host", "instance", "address", "port", "server", "weight", "backup")
    return {
        **options,
        "peers": [{"id": f"{peer['host']}/{peer['instance']}", **{key: peer[key] for key in wanted}} for peer in peers],
        "models": sorted(names.values()),
        "pools": {name: numbers for name, numbers in sorted(served.items()) if len(numbers) < len(peers)},
        "routes": {route["path"]: _route(route) for route in routes},
    }


def _route(route: Mapping[str, Any]) -> dict[str, Any]:
    return {"methods": f" {' '.join(route['methods'])} ", **{key: route[key] for key in ("class", "body", "model", "alias", "predict") if key in route}}
