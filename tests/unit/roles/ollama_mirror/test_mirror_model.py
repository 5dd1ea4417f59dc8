# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Who may read from a mirror, and where a registry may send it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible_collections.gpufleet.ollama.plugins.plugin_utils._environment import ModelError
from ansible_collections.gpufleet.ollama.plugins.plugin_utils._mirror import mirror_networks, mirror_redirect_hosts

LAN = {"address": "10.1.2.3", "network": "10.1.2.0", "netmask": "255.255.255.0"}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ([], ["10.1.2.0/24"]),
        (["10.9.0.0/16", "192.0.2.7"], ["10.9.0.0/16", "192.0.2.7/32"]),
        (["fd00::/64", "10.1.2.3"], ["fd00::/64"]),
    ],
)
def test_the_networks_and_the_host_itself(given: list[str], wanted: list[str]) -> None:
    own = ["127.0.0.0/8", "::1/128", "10.1.2.3/32"]
    assert mirror_networks(given, "m", "10.1.2.3", LAN) == [*own, *wanted]


@pytest.mark.parametrize(
    ("given", "fact", "message"),
    [
        ("10.0.0.0/8", LAN, "give a list of networks"),
        (["lan"], LAN, "'lan': give an IP network"),
        (["10.0.0.5/24"], LAN, "within a network: give 10.0.0.0/24"),
        (["0.0.0.0/0"], LAN, "everybody"),
        (["::/0"], LAN, "everybody"),
        ([], None, "no default IPv4 network"),
        ([], {}, "no default IPv4 network"),
        ([], {"network": "198.51.0.0", "netmask": "255.255.0.0"}, "is a public one"),
        ([], {"network": "10.1.2.3", "netmask": "255.255.255.255"}, "holds the host alone"),
        ([], {"network": "192.168.0.0", "netmask": "255.255.255.0"}, "listens on 10.1.2.3, which is not in"),
    ],
)
def test_networks_that_are_refused(given: Any, fact: Any, message: str) -> None:
    with pytest.raises(ModelError, match=re.escape(message)):
        mirror_networks(given, "m", "10.1.2.3", fact)


def test_redirect_hosts_are_one_pattern() -> None:
    assert mirror_redirect_hosts([r"[a-z0-9]+\.cdn\.test", r"b\.test:8443"]) == r"(?:[a-z0-9]+\.cdn\.test)|(?:b\.test:8443)"


@pytest.mark.parametrize("given", ["a", [], [""], [None], ['a" 1; "'], ["a b"], ["a/b"], ["a;"], ["a$"], ["(a"], ["[a"]])
def test_redirect_hosts_that_are_refused(given: Any) -> None:
    with pytest.raises(ModelError, match="ollama_mirror_redirect_hosts"):
        mirror_redirect_hosts(given)
