# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The gateway's part of the data model."""

from __future__ import annotations

import hashlib
import json
import re

import pytest

from ansible_collections.gpufleet.ollama.plugins.plugin_utils import _gateway
from ansible_collections.gpufleet.ollama.plugins.plugin_utils._model import ModelError

KEY = "k" * 31 + "1"
OTHER_KEY = "k" * 31 + "2"
PASSWORD = "p" * 16


def test_a_client_is_its_name_and_the_sha256_of_its_key() -> None:
    result = _gateway.gateway_clients([{"name": "b", "key": KEY}, {"name": "a.1-x_y", "key": OTHER_KEY}])
    assert result == [
        {"name": "a.1-x_y", "sha256": hashlib.sha256(OTHER_KEY.encode()).hexdigest()},
        {"name": "b", "sha256": hashlib.sha256(KEY.encode()).hexdigest()},
    ]
    assert KEY not in json.dumps(result)


@pytest.mark.parametrize(
    ("clients", "sentence"),
    [
        ([{"name": "a", "key": "k" * 31}], "32 to 256"),
        ([{"name": "a", "key": "k" * 257}], "32 to 256"),
        ([{"name": "a", "key": "k" * 31 + " "}], "32 to 256"),
        ([{"name": "a", "key": "k" * 32 + "\n"}], "32 to 256"),
        ([{"name": "a", "key": "k" * 31 + "é"}], "32 to 256"),
        ([{"name": "a", "key": 10**40}], "32 to 256"),
        ([{"name": "A", "key": KEY}], "'A'"),
        ([{"name": "a\n", "key": KEY}], "entry 1 has the name"),
        ([{"name": 'a"', "key": KEY}], "entry 1 has the name"),
        ([{"key": KEY}], "entry 1 has the name None"),
        ([{"name": "a"}], "a has no key"),
        ([{"name": "a", "key": KEY, "clases": []}], "unknown field clases: known are key, name"),
        ([{"name": "a", "key": KEY}, {"name": "a", "key": OTHER_KEY}], "has a twice"),
        ([{"name": "a", "key": KEY}, {"name": "b", "key": KEY}], "a and b have the same key"),
        ([KEY], "entry 1 is no mapping"),
    ],
)
def test_a_wrong_client_is_refused_with_a_sentence_that_holds_no_key(clients: list, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence) as caught:
        _gateway.gateway_clients(clients)
    assert "kkkkkk" not in str(caught.value)


def test_the_salt_of_a_user_stays_and_differs_by_host_and_name() -> None:
    def salt(host: str, name: str) -> str:
        return _gateway.gateway_users([{"name": name, "password": PASSWORD}], [], host)[0]["salt"]

    assert salt("h", "a") == salt("h", "a")
    assert len({salt("h", "a"), salt("g", "a"), salt("h", "b")}) == 3
    assert len(salt("h", "a")) == 16 and salt("h", "a").isalnum()


@pytest.mark.parametrize(
    ("users", "sentence"),
    [
        ([{"name": "u", "password": "p" * 15}], "checks it on every request"),
        ([{"name": "u", "password": "p" * 16 + "\n"}], "16 to 256"),
        ([{"name": "u:x", "password": PASSWORD}], "entry 1 has the name 'u:x'"),
        ([{"name": "u"}], "u has no password"),
        ([{"name": "client", "password": PASSWORD}], "rename one"),
        ([{"name": "u", "password": PASSWORD}, {"name": "u", "password": PASSWORD}], "has u twice"),
    ],
)
def test_a_wrong_user_is_refused_with_a_sentence_that_holds_no_password(users: list, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence) as caught:
        _gateway.gateway_users(users, [{"name": "client", "key": KEY}], "h")
    assert "pppppp" not in str(caught.value)


def names(raw: list, **hostvars: str) -> list[str]:
    """The server names, as nginx takes them."""
    return [name["server_name"] for name in _gateway.gateway_server_names(raw, "GW1", hostvars)]


def test_server_names_default_to_the_inventory_name_and_the_reach_name() -> None:
    assert names([]) == ["gw1", "localhost"]
    assert names([], ansible_host="10.0.0.5") == ["gw1", "10.0.0.5", "localhost"]
    assert names([], ansible_host="10.0.0.5", ollama_address="gw.lan") == ["gw1", "gw.lan", "localhost"]


def test_given_server_names_replace_the_default() -> None:
    assert names(["LLM.example.org", "*.example.org", "fd00::0005", "localhost"]) == ["llm.example.org", "*.example.org", "[fd00::5]", "localhost"]
    found = _gateway.gateway_server_names(["10.0.0.5"], "gw1", {})
    assert [name["address"] for name in found] == [True, False]


@pytest.mark.parametrize("name", ["a b", "a;", "a{", "", "-a", "a..b", "https://a", "a/b", "~^.*$", "_;", "$host", "é.example.org", "a\n"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="ollama_gateway_server_names has"):
        names([name])


def test_loopback_is_always_listened_on() -> None:
    def sockets(*addresses: str) -> list[str]:
        return [listener["socket"] for listener in _gateway.gateway_listeners(addresses, 443)]

    assert sockets("0.0.0.0") == ["0.0.0.0:443"]
    assert sockets("::", "0.0.0.0") == ["[::]:443", "0.0.0.0:443"]
    assert sockets("::") == ["[::]:443", "127.0.0.1:443"]
    assert sockets("10.0.0.5") == ["10.0.0.5:443", "127.0.0.1:443"]
    # nginx would bind both, and fail
    assert sockets("10.0.0.5", "0.0.0.0", "fd00::5") == ["0.0.0.0:443", "[fd00::5]:443"]
    with pytest.raises(ModelError, match="'eth0'"):
        sockets("eth0")


@pytest.mark.parametrize("port", [0, -1, 65536, "65536", "x", "", " 443", "4_43", "443\n", 443.0, True, None, "٤٤٣"])
def test_what_is_no_port_is_refused(port: object) -> None:
    with pytest.raises(ModelError, match="ollama_gateway_port is .*: give a number from 1 to 65535"):
        _gateway.gateway_listeners([], port)


def test_a_port_from_the_command_line_is_text() -> None:
    assert _gateway.gateway_listeners(["fd00::5"], "8443") == _gateway.gateway_listeners(["fd00::5"], 8443)
    assert _gateway.gateway_listeners([], "8443")[0]["check"]["port"] == 8443


@pytest.mark.parametrize(
    ("wanted", "conflicting", "other"),
    [
        ("10.0.0.5", ["0.0.0.0:443"], ["10.0.0.5:443", "10.0.0.6:443", "127.0.0.1:443", "[::]:443", "0.0.0.0:4430"]),
        ("0.0.0.0", ["10.0.0.5:443", "127.0.0.1:443"], ["0.0.0.0:443", "[::]:443", "[fd00::5]:443", "10.0.0.5:8443"]),
        ("fd00::5", ["[::]:443"], ["[fd00::5]:443", "[fd00::6]:443"]),
        ("::", ["[fd00::5]:443", "[::1]:443"], ["[::]:443"]),
    ],
)
def test_open_sockets_that_a_reload_cannot_replace(wanted: str, conflicting: list[str], other: list[str]) -> None:
    pattern = _gateway.gateway_listeners([wanted], 443)[0]["open_conflict"]
    assert [socket for socket in [*conflicting, *other] if re.search(pattern, socket)] == conflicting


def test_lines_of_another_site_that_keep_the_gateway_from_an_address() -> None:
    def found(wanted: str, line: str) -> bool:
        # joined, as the role does
        pattern = "|".join(listener["config_conflict"] for listener in _gateway.gateway_listeners([wanted], 443))
        return re.search(pattern, f"server {{\n  {line}\n}}") is not None

    for line in ("listen 443;", "listen *:443 ssl;", "listen 0.0.0.0:443 ssl;", "listen\t443 default_server;", "server_name x; listen 443;"):
        # loopback is listened on too
        assert found("10.0.0.5", line) and found("fd00::5", line) and not found("0.0.0.0", line)
    assert found("fd00::5", "listen [::]:443 ssl;") and not found("::", "listen [::]:443 ssl;")
    for line in ("listen 10.0.0.6:443;", "listen 4430;", "listen 80;", "listen 10.0.0.5:443 ssl;", "# listen 443;"):
        assert not found("10.0.0.5", line)


def test_a_rate_is_what_nginx_takes() -> None:
    assert _gateway.gateway_rate("10r/s") == "10r/s"
    assert _gateway.gateway_rate("30r/m") == "30r/m"
    for wrong in ("10", 10, "0r/s", "10r/h", "10r/s;", "-1r/s"):
        with pytest.raises(ModelError, match="10r/s or 30r/m"):
            _gateway.gateway_rate(wrong)
