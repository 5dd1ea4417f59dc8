# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What an audit has found of a fleet, in the form that its checks read, and what a check says.

Everything that comes from hosts is hostile input: it is shown as text, and nothing else is done with it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Union

Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]
NOT_REACHED = "it was not reached, or a task before this one failed"


class Finding(NamedTuple):
    """One piece of evidence: the host it is about, the command or request, what it answered, and whether that is good (None: does not apply)."""

    host: str
    asked: str
    answer: str
    good: bool | None


class Missing(Exception):
    """A part of the facts that could not be looked at; the text says why."""

    def __init__(self, part: str, why: str) -> None:
        super().__init__(why)
        self.part = part


class Host:
    """A host: name, groups of the fleet that it is in, what it C(wanted) to be by the inventory, and facts by part."""

    def __init__(self, name: str, item: Mapping[str, Any]) -> None:
        self.name = name
        self.groups: list[str] = list(item.get("groups") or [])
        self.wanted: Mapping[str, Any] = item.get("wanted") or {}
        self.facts: Mapping[str, Any] | None = item.get("facts")
        # why there are no facts at all, or why it could not ask others
        self.problem: str = str(item.get("problem") or "")

    def part(self, name: str) -> Any:
        """A part of the facts. Raises Missing."""
        facts = self.facts or {}
        if name not in facts:
            raise Missing(name, str((facts.get("problems") or {}).get(name) or "was not looked at"))
        return facts[name]

    def units(self, pattern: str) -> list[dict[str, Any]]:
        """The units of a pattern (a regular expression) that are on the host."""
        return [unit for unit in self.part("units") if re.fullmatch(pattern, unit["name"])]

    def unit_of(self, instance: Mapping[str, Any]) -> dict[str, Any] | None:
        """The unit of an instance."""
        return next(iter(self.units(re.escape(f"ollama@{instance['name']}.service"))), None)

    @property
    def is_container(self) -> bool:
        """Whether the host is a container, whose kernel and clock are another machine's."""
        return (self.facts or {}).get("virtual") in ("docker", "lxc", "lxc-libvirt", "podman", "systemd-nspawn", "container-other", "openvz")


class Fleet:
    """The hosts of the play, what other hosts saw of them, the groups of the whole inventory, and the time (seconds since 1970)."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.now: float = data["now"]
        self.hosts = {name: Host(name, item) for name, item in sorted(data["hosts"].items())}
        probes = data.get("probes") or {}
        self.ports: list[Mapping[str, Any]] = list(probes.get("ports") or [])
        self.gateways: list[Mapping[str, Any]] = list(probes.get("gateways") or [])
        self.inventory: Mapping[str, list[str]] = data["inventory"]

    def group(self, *names: str) -> list[Host]:
        """The hosts of any of these groups that were looked at."""
        return [host for host in self.hosts.values() if host.facts is not None and (not names or set(names) & set(host.groups))]

    def has_group(self, name: str) -> bool:
        """Whether the inventory has a host in a group."""
        return bool(self.inventory.get(name))

    def is_outside(self, name: str) -> bool:
        """Whether the inventory has hosts in a group, and this run with C(--limit) none of them."""
        return self.has_group(name) and not any(name in host.groups for host in self.hosts.values())

    def is_left_out(self, host: str) -> bool:
        """Whether a host is in the inventory and not in this run."""
        return host not in self.hosts and any(host in hosts for hosts in self.inventory.values())

    def answers(self, host: Host) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
        """What a gateway answered: who asked, where (address:port), and the answers by request."""
        for item in self.gateways:
            if item["host"] == host.name:
                address = f"[{item['address']}]" if ":" in item["address"] else item["address"]
                yield item["from"], f"{item['name']} at {address}:{item['port']}", item["answers"]

    def prometheus(self) -> Iterator[tuple[Host, Mapping[str, Any]]]:
        """The hosts with a Prometheus, and what it said. Raises Missing for the first that could not be asked."""
        for host in self.group("monitoring"):
            yield host, host.part("prometheus")


Check = Callable[[Fleet], Iterable[Finding]]
HostCheck = Callable[[Fleet, Host], Iterable[Finding]]


def on(*groups: str) -> Callable[[HostCheck], Check]:
    """Make a check of a host one of all hosts of these groups. A part that could not be looked at proves nothing, so it is not good."""

    def decorate(check: HostCheck) -> Check:
        def every(fleet: Fleet) -> Iterator[Finding]:
            for host in fleet.group(*groups):
                try:
                    yield from check(fleet, host)
                except Missing as error:
                    yield Finding(host.name, f"look at {error.part}", str(error), False)

        every.__doc__ = check.__doc__
        every.__name__ = check.__name__
        return every

    return decorate


def address_of(text: str) -> Address:
    """An address; one of IPv4 that a socket of IPv6 has is that of IPv4."""
    address = ipaddress.ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address


def service_at(services: Iterable[Mapping[str, Any]], port: int) -> dict[str, Any] | None:
    """What the inventory has on a port (see audit_wanted()): the name, and everybody who may reach it by any of its services."""
    found = [service for service in services if service["port"] <= port <= service.get("last", service["port"])]
    if not found:
        return None
    return {"name": found[0]["name"], **{key: [item for service in found for item in service[key]] for key in ("peers", "networks")}}


def bytes_text(count: float | None) -> str:
    """A number of bytes for people."""
    if count is None:
        return "unknown"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
