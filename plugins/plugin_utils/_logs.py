# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The log collector's part of the data model: where the hosts of a fleet send their journals, and who may."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.gpufleet.ollama.plugins.plugin_utils._model import ModelError, reach_from_elsewhere

# the length that a common name may have (RFC 5280, ub-common-name); module ollama_certificate shortens longer ones to it
COMMON_NAME_LENGTH = 64
# each source has an address of its own in this network of loopback, by which the collector tells them apart
SOURCES = ipaddress.ip_network("127.128.0.0/9")

# What needs no escape in the text of a distinguished name (RFC 4514) nor in nginx' configuration, and can name the files of a certificate, as module
# ollama_certificate says
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}")


def log_destination(wanted: str, collectors: Iterable[str]) -> str:
    """Where the journal of a host goes: journal, loki, elasticsearch or none.

    C(auto) is the journal of the fleet's collector where the inventory has one, else none: the journal stays on its host.
    """
    found = list(collectors)
    if len(found) > 1:
        raise ModelError(f"the group logs has {len(found)} hosts, {', '.join(found)}: keep one, since a host sends its journal to one collector")
    if wanted == "journal" and not found:
        raise ModelError("ollama_logs_destination is journal, and the group logs has no host: put the collector into the group, or leave the option out")
    if wanted == "auto":
        return "journal" if found else "none"
    return wanted


def log_collector_address(collector: str, hostvars: Mapping[str, Mapping[str, Any]]) -> str:
    """The name or address that the hosts of the fleet reach the collector's listener by, which listens on its management address only."""
    values = hostvars[collector]
    return str(values.get("ollama_management_address") or reach_from_elsewhere(collector, values))


def log_sources(hosts: Iterable[str]) -> list[dict[str, str]]:
    """The hosts that send their journals, sorted by name: dicts of host, subject (of its certificate) and address.

    The address is made of the name, so that it stays when hosts come and go, and the journal of a host stays in its file.
    """
    result: list[dict[str, str]] = []
    for host in sorted(set(hosts)):
        log_certificate_name(host)
        subject = f"CN={host[:COMMON_NAME_LENGTH]}"
        for other in result:
            # nginx' map takes capital letters for small ones
            if other["subject"].lower() == subject.lower():
                raise ModelError(
                    f"the hosts {other['host']} and {host} are the same in their first {COMMON_NAME_LENGTH} letters, capital or not: "
                    "rename one in the inventory"
                )
        result.append({"host": host, "subject": subject, "address": _address(host, {other["address"] for other in result})})
    return result


def log_certificate_name(host: str) -> str:
    """The name of a host in the inventory, by which it gets its certificate; one that cannot name a certificate is refused."""
    # ca names the authority itself
    if not _NAME.fullmatch(host) or host == "ca":
        raise ModelError(
            f"the host {host!r} cannot have a certificate of its own for its logs: rename it in the inventory, with letters, digits, -, _ and ., "
            "and not ca; its address goes into ansible_host"
        )
    return host


def log_senders(hosts: Iterable[str], hostvars: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Those of the hosts of a fleet with a collector that send their journals to it: each as its own ollama_logs_destination says."""
    return [host for host in hosts if hostvars[host].get("ollama_logs_destination", "auto") in ("auto", "journal")]


def _address(host: str, taken: set[str]) -> str:
    """An address of SOURCES that nobody has: never its first or its last."""
    number = int.from_bytes(hashlib.sha256(host.encode()).digest()[:4], "big")
    while True:
        address = str(SOURCES[1 + number % (SOURCES.num_addresses - 2)])
        if address not in taken:
            return address
        number += 1
