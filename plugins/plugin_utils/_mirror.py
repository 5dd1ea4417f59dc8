# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The mirror's part of the data model: who may read from it, and where a registry may send it.

Each function takes plain inventory values and raises C(ModelError) with a sentence that says what is wrong and how to mend it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any, Union

from ansible_collections.gpufleet.ollama.plugins.plugin_utils._environment import ModelError

_Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]
# what a pattern of host names is made of; all else could end the string that it stands in
_PATTERN = re.compile(r"[A-Za-z0-9.\\\[\](){}|?*+,:_-]+")


def mirror_networks(raw: Any, host: str, address: str, default_ipv4: Mapping[str, Any] | None = None) -> list[str]:
    """The networks that may read from a mirror, as CIDR.

    Args: C(ollama_mirror_allowed_networks), the inventory name, the C(address) that the mirror listens on, and the fact
    C(default_ipv4) of the host. Without networks, the one that the host's default address is in, which must be a private one and
    hold C(address). The host itself is always allowed: loopback and C(address) come first.
    """
    if not isinstance(raw, (list, tuple)):
        raise ModelError(f"ollama_mirror_allowed_networks is {raw!r}: give a list of networks such as 10.0.0.0/24")
    networks = [_network(item) for item in raw] or [_default_network(host, address, default_ipv4 or {})]
    own = [ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"), ipaddress.ip_network(address)]
    return list(dict.fromkeys(map(str, [*own, *networks])))


def _network(item: Any) -> _Network:
    try:
        # a number would be taken for an address
        network = ipaddress.ip_network(str(item), strict=False)
    except ValueError:
        raise ModelError(f"ollama_mirror_allowed_networks has {item!r}: give an IP network such as 10.0.0.0/24") from None
    if str(item).partition("/")[0] != str(network.network_address):
        raise ModelError(f"ollama_mirror_allowed_networks has {item}, an address within a network: give {network}, or the address alone")
    if network.prefixlen == 0:
        raise ModelError(f"ollama_mirror_allowed_networks has {item}, that is everybody: name the networks of the fleet")
    return network


def _default_network(host: str, address: str, fact: Mapping[str, Any]) -> _Network:
    mend = "set ollama_mirror_allowed_networks to the networks of the fleet"
    if not fact.get("network") or not fact.get("netmask"):
        raise ModelError(f"{host} has no default IPv4 network: {mend}")
    network = ipaddress.ip_network(f"{fact['network']}/{fact['netmask']}", strict=False)
    if not network.is_private:
        raise ModelError(f"the default network of {host}, {network}, is a public one: {mend}")
    if network.num_addresses == 1:
        raise ModelError(f"the default network of {host}, {network}, holds the host alone: {mend}")
    if ipaddress.ip_address(address) not in network:
        raise ModelError(f"the mirror of {host} listens on {address}, which is not in the host's default network {network}: {mend}")
    return network


def mirror_redirect_hosts(raw: Any) -> str:
    """One regular expression for the hosts that a registry may send the mirror to, from C(ollama_mirror_redirect_hosts).

    An item is a pattern for the whole of a host name, with C(:PORT) where that is not 443.
    """
    if not isinstance(raw, (list, tuple)) or not raw:
        raise ModelError(f"ollama_mirror_redirect_hosts is {raw!r}: give a list of patterns such as cdn\\.example\\.org")
    for item in raw:
        if not isinstance(item, str) or not _PATTERN.fullmatch(item):
            raise ModelError(f"ollama_mirror_redirect_hosts has {item!r}: give a regular expression of a host name, such as cdn\\.example\\.org")
        try:
            re.compile(item)
        except re.error as error:
            raise ModelError(f"ollama_mirror_redirect_hosts has {item!r}, which is no regular expression: {error}") from None
    return "|".join(f"(?:{item})" for item in raw)
