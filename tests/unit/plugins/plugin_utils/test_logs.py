# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Where journals go, and who may send them."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from ansible_collections.gpufleet.ollama.plugins.module_utils import _certificate
from ansible_collections.gpufleet.ollama.plugins.plugin_utils import _logs
from ansible_collections.gpufleet.ollama.plugins.plugin_utils._model import ModelError


def test_auto_means_the_collector_where_there_is_one() -> None:
    assert _logs.log_destination("auto", ["logs1"]) == "journal"
    assert _logs.log_destination("auto", []) == "none"


@pytest.mark.parametrize("wanted", ["journal", "loki", "elasticsearch", "none"])
def test_what_is_wanted_is_taken(wanted: str) -> None:
    assert _logs.log_destination(wanted, ["logs1"]) == wanted


def test_there_is_one_collector() -> None:
    with pytest.raises(ModelError, match="the group logs has no host: put the collector into the group"):
        _logs.log_destination("journal", [])
    with pytest.raises(ModelError, match="the group logs has 2 hosts, a, b: keep one"):
        _logs.log_destination("auto", ["a", "b"])


def test_the_collector_is_asked_where_it_listens() -> None:
    hostvars = {
        "logs1": {"ansible_host": "192.0.2.1", "ollama_management_address": "10.9.0.1"},
        "logs2": {"ollama_address": "logs2.lan"},
        "here": {"ansible_host": "127.0.0.1"},
    }
    assert [_logs.log_collector_address(host, hostvars) for host in ("logs1", "logs2")] == ["10.9.0.1", "logs2.lan"]
    with pytest.raises(ModelError, match="set ollama_address of here"):
        _logs.log_collector_address("here", hostvars)


def test_a_source_keeps_its_address_whoever_else_comes() -> None:
    alone = _logs.log_sources(["gpu1"])
    assert alone == [{"host": "gpu1", "subject": "CN=gpu1", "address": alone[0]["address"]}]
    fleet = _logs.log_sources([f"gpu{number}" for number in range(2000)] + ["gpu1"])
    addresses = {item["host"]: item["address"] for item in fleet}
    assert addresses["gpu1"] == alone[0]["address"]
    assert len(set(addresses.values())) == len(addresses) == 2000
    assert all(ipaddress.ip_address(address).is_loopback and not address.startswith("127.0.") for address in addresses.values())


def test_no_two_sources_have_one_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a network of four addresses, of which two are free."""
    monkeypatch.setattr(_logs, "SOURCES", ipaddress.ip_network("127.128.0.0/30"))
    assert {item["address"] for item in _logs.log_sources(["a", "b"])} == {"127.128.0.1", "127.128.0.2"}


def test_names_that_a_certificate_cannot_tell_apart_are_refused() -> None:
    long = "a" * 64
    assert _logs.log_sources([long + "x"])[0]["subject"] == f"CN={long}"
    with pytest.raises(ModelError, match="are the same in their first 64 letters, capital or not: rename one"):
        _logs.log_sources([long + "x", long + "y"])
    with pytest.raises(ModelError, match="the hosts GPU1 and gpu1 are the same in their first 64 letters, capital or not: rename one"):
        _logs.log_sources(["gpu1", "GPU1"])


@pytest.mark.parametrize("name", ["gpu 1", "gpu,1", 'gpu"', "", "fd00::1", "gpu@site", "gpu:1", "ca", "-gpu", "a" * 202])
def test_names_that_a_certificate_cannot_have_are_refused(name: str, tmp_path: Path) -> None:
    """Of a host that sends, and of the collector; and what is taken here the module takes, too."""
    for ask in (_logs.log_certificate_name, lambda host: _logs.log_sources([host])):
        with pytest.raises(ModelError, match="rename it in the inventory"):
            ask(name)
    with pytest.raises(_certificate.CertificateError):
        _certificate.ensure(str(tmp_path / "ca"), name, ["gpu1"], 30, 1, False, "client")


@pytest.mark.parametrize("name", ["gpu1", "GPU_1.example.org", "192.0.2.1", "ca1", "a" * 201])
def test_names_that_are_taken_get_a_certificate(name: str, tmp_path: Path) -> None:
    assert _logs.log_certificate_name(name) == name
    assert _certificate.ensure(str(tmp_path / "ca"), name, ["gpu1"], 30, 1, False, "client")["changed"]


def test_each_host_decides_whether_it_sends() -> None:
    destinations = {"gpu2": "journal", "gpu3": "loki", "gpu4": "elasticsearch", "gpu5": "none", "gpu6": "auto"}
    hostvars: dict[str, dict[str, str]] = {"gpu1": {}, **{host: {"ollama_logs_destination": wanted} for host, wanted in destinations.items()}}
    assert _logs.log_senders(hostvars, hostvars) == ["gpu1", "gpu2", "gpu6"]
