# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Which hosts have an exporter of their GPUs that Prometheus asks: decided from the inventory, as a host cannot see the devices of another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.gpufleet.ollama.plugins.plugin_utils._environment import ModelError

STATES = ("auto", "present", "absent")


def gpu_exporter_known(host: str, values: Mapping[str, Any]) -> bool:
    """Whether the variables of a host let it have an exporter of its GPUs at all: it is not absent, and what is installed is pinned."""
    state = str(values.get("gpu_exporter_state") or "auto")
    if state not in STATES:
        raise ModelError(f"gpu_exporter_state of {host} is {state!r}: give one of {', '.join(STATES)}")
    pinned = values.get("gpu_exporter_kind") == "dcgm" or bool(values.get("gpu_exporter_version") and values.get("gpu_exporter_sha256"))
    return state != "absent" and pinned


def gpu_exporter_hosts(hosts: Iterable[str], hostvars: Mapping[str, Mapping[str, Any]], groups: Mapping[str, list[str]]) -> list[str]:
    """Those of the hosts whose GPU exporter Prometheus asks.

    A host has one for certain where C(gpu_exporter_state) is C(present), and where it is C(auto) and the inventory says that the host has
    GPUs: it is in the group C(gpu), or C(ollama_gpu_expected_count) is above 0. A host whose GPU is known to itself only is no target.
    """
    result = []
    for host in hosts:
        values = hostvars[host]
        if not gpu_exporter_known(host, values):
            continue
        has_gpus = host in (groups.get("gpu") or []) or int(values.get("ollama_gpu_expected_count") or 0) > 0
        if values.get("gpu_exporter_state") == "present" or has_gpus:
            result.append(host)
    return result
