# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The gateway's part of the data model."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import pytest
import yaml

from ansible_collections.gpufleet.ollama.plugins.plugin_utils import _gateway
from ansible_collections.gpufleet.ollama.plugins.plugin_utils._model import ModelError

KEY = "k" * 31 + "1"
OTHER_KEY = "k" * 31 + "2"
PASSWORD = "p" * 16
DEFAULTS = {"rate": "10r/s", "burst": 20, "concurrency": "4"}


def clients(*raw: Any) -> list[dict[str, Any]]:
    """The clients of a gateway with the role's defaults."""
    return _gateway.gateway_clients(raw, DEFAULTS)


def users(*raw: Any, host: str = "h") -> list[dict[str, Any]]:
    """The users of a gateway that has the client `client`."""
    return _gateway.gateway_users(raw, [{"name": "client", "key": KEY}], host, DEFAULTS)


def digest(key: str) -> str:
    """As the gateway gets it."""
    return hashlib.sha256(key.encode()).hexdigest()


POLICY = {
    "classes": ["chat", "embed", "read"], "models": [], "rate": "10r/s", "burst": 20, "zone": "10rs_20", "concurrency": 4, "max_predict": 0,
    "max_context": 0, "tokens_per_minute": 0, "tokens_per_day": 0,
}


def test_a_client_is_its_name_the_sha256_of_its_keys_and_a_policy() -> None:
    result = clients({"name": "b", "key": KEY}, {"name": "a.1-x_y", "key": OTHER_KEY, "certificate": "CN=a"})
    assert result == [
        {"name": "a.1-x_y", "keys": [{"sha256": digest(OTHER_KEY), "expires": 0}], "certificate": "CN=a", **POLICY},
        {"name": "b", "keys": [{"sha256": digest(KEY), "expires": 0}], "certificate": "", **POLICY},
    ]
    assert KEY not in json.dumps(result)


def test_a_policy() -> None:
    given = {
        "classes": ["admin", "chat", "chat"], "models": ["b:*", "a", "a"], "rate": "30r/m", "burst": "0", "concurrency": 0, "max_predict": "1024",
        "max_context": 8192, "tokens_per_minute": 5, "tokens_per_day": 6,
    }
    [result] = clients({"name": "a", "key": KEY, **given})
    assert {name: result[name] for name in POLICY} == {
        **given, "classes": ["chat", "admin"], "models": ["a", "b:*"], "burst": 0, "zone": "30rm_0", "max_predict": 1024,
    }
    # the fields that argument_specs complete are none that were given
    assert clients({"name": "a", "key": KEY, "keys": None, "certificate": None, **dict.fromkeys(given)})[0] == clients({"name": "a", "key": KEY})[0]


@pytest.mark.parametrize(
    ("policy", "sentence"),
    [
        ({"classes": []}, "classes is \\[\\]: give a list of some of chat, embed, read, admin"),
        ({"classes": ["chatt"]}, "some of chat, embed"),
        ({"classes": "chat"}, "classes is 'chat'"),
        ({"models": "llama3.2"}, "models is 'llama3.2': give a list"),
        ({"models": ["a b"]}, "models has 'a b'"),
        ({"models": [""]}, "models has ''"),
        ({"models": [3.2]}, "models has 3.2"),
        ({"rate": "10"}, "a: rate is '10'"),
        ({"rate": 10}, "a: rate is 10"),
        ({"burst": -1}, "burst is -1"),
        ({"concurrency": True}, "concurrency is True"),
        ({"max_predict": 1.5}, "max_predict is 1.5"),
        ({"max_context": "8k"}, "max_context is '8k'"),
        ({"tokens_per_minute": "x"}, "tokens_per_minute is 'x'"),
        ({"tokens_per_day": "1" * 13}, "tokens_per_day is"),
    ],
)
def test_a_wrong_policy(policy: dict, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence) as caught:
        clients({"name": "a", "key": KEY, **policy})
    assert str(caught.value).startswith("ollama_gateway_clients: a: ")
    with pytest.raises(ModelError, match=sentence.replace("a: ", "u: ")):
        users({"name": "u", "password": PASSWORD, **policy})


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        # as YAML reads them: a date, a time without and with a zone, and text
        ("2027-01-31", 1801353600), ("2027-01-31T12:00:00Z", 1801396800), ("2027-01-31 12:00:00", 1801396800), ("2027-01-31T14:00:00+02:00", 1801396800),
        ('"2027-01-31"', 1801353600), ('"2027-01-31T12:00:00Z"', 1801396800), ('"2027-01-31T12:00:00"', 1801396800),
        ('""', 0), ("null", 0),
    ],
)
def test_when_a_key_ends(text: str, seconds: int) -> None:
    [client] = clients({"name": "a", "keys": [{"key": KEY, "expires": yaml.safe_load(text)}]})
    assert client["keys"] == [{"sha256": digest(KEY), "expires": seconds}]


def test_keys_for_rotation() -> None:
    [client] = clients({"name": "a", "key": KEY, "keys": [{"key": OTHER_KEY, "made": "2026-01-01"}, {"sha256": "0" * 64, "expires": "2027-01-31"}]})
    assert [key["sha256"] for key in client["keys"]] == [digest(KEY), digest(OTHER_KEY), "0" * 64]
    assert clients({"name": "a", "certificate": "CN=a"})[0]["keys"] == []


@pytest.mark.parametrize(
    ("raw", "sentence"),
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
        ([{"name": "oauth2", "key": KEY}], "rename it"),
        ([{"name": "a"}], "a has no key: give key, keys or certificate"),
        ([{"name": "a", "keys": []}], "a has no key"),
        ([{"name": "a", "key": KEY, "clases": []}], "unknown field clases: known are burst, certificate, classes"),
        ([{"name": "a", "key": KEY}, {"name": "a", "key": OTHER_KEY}], "has a twice"),
        ([{"name": "a", "key": KEY}, {"name": "b", "key": KEY}], "a and b have the same key: give each its own"),
        ([{"name": "a", "key": KEY}, {"name": "b", "keys": [{"sha256": hashlib.sha256(KEY.encode()).hexdigest()}]}], "a and b have the same key"),
        ([{"name": "a", "key": KEY, "keys": [{"key": KEY}]}], "a has the same key twice"),
        ([{"name": "a", "certificate": "CN=x"}, {"name": "b", "certificate": "CN=x"}], "a and b have the same certificate"),
        ([{"name": "a", "certificate": 1}], "certificate of a is 1"),
        ([{"name": "a", "certificate": "CN=é"}], "give the subject, such as CN=team-a"),
        ([{"name": "a", "keys": KEY}], "keys of a is no list of mappings"),
        ([{"name": "a", "keys": [KEY]}], "keys of a is no list of mappings"),
        ([{"name": "a", "keys": [{"key": KEY, "sha256": "0" * 64}]}], "either key or sha256"),
        ([{"name": "a", "keys": [{"expires": "2027-01-31"}]}], "either key or sha256"),
        ([{"name": "a", "keys": [{"key": KEY, "expire": "2027-01-31"}]}], "either key or sha256"),
        ([{"name": "a", "keys": [{"key": "k" * 31}]}], "32 to 256"),
        ([{"name": "a", "keys": [{"sha256": "A" * 64}]}], "a sha256 of a is not 64 hexadecimal digits in lower case"),
        ([{"name": "a", "keys": [{"key": KEY, "expires": "31.1.2027"}]}], "expires is '31.1.2027': give a date such as 2027-01-31"),
        ([{"name": "a", "keys": [{"key": KEY, "expires": 20270131.5}]}], "give a date"),
        ([{"name": "a", "keys": [{"key": KEY, "expires": True}]}], "give a date"),
        ([KEY], "entry 1 is no mapping"),
    ],
)
def test_a_wrong_client_is_refused_with_a_sentence_that_holds_no_key(raw: list, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence) as caught:
        clients(*raw)
    assert "kkkkkk" not in str(caught.value)


def test_a_user_has_a_policy_and_no_digest() -> None:
    [user] = users({"name": "u", "password": PASSWORD, "classes": ["read"]})
    assert user == {"name": "u", "password": PASSWORD, "salt": user["salt"], **POLICY, "classes": ["read"]}


def test_the_salt_of_a_user_stays_and_differs_by_host_and_name() -> None:
    def salt(host: str, name: str) -> str:
        return str(users({"name": name, "password": PASSWORD}, host=host)[0]["salt"])

    assert salt("h", "a") == salt("h", "a")
    assert len({salt("h", "a"), salt("g", "a"), salt("h", "b")}) == 3
    assert len(salt("h", "a")) == 16 and salt("h", "a").isalnum()


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        ([{"name": "u", "password": "p" * 15}], "16 to 256 printable ASCII characters"),
        ([{"name": "u", "password": "p" * 16 + "\n"}], "16 to 256"),
        ([{"name": "u:x", "password": PASSWORD}], "entry 1 has the name 'u:x'"),
        ([{"name": "u"}], "u has no password"),
        ([{"name": "client", "password": PASSWORD}], "rename one"),
        ([{"name": "oauth2", "password": PASSWORD}], "rename it"),
        ([{"name": "u", "password": PASSWORD}, {"name": "u", "password": PASSWORD}], "has u twice"),
    ],
)
def test_a_wrong_user_is_refused_with_a_sentence_that_holds_no_password(raw: list, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence) as caught:
        users(*raw)
    assert "pppppp" not in str(caught.value)


def test_a_rate_limit_for_each_rate_that_somebody_has() -> None:
    policies = clients({"name": "a", "key": KEY}, {"name": "b", "key": OTHER_KEY, "rate": "30r/m"}, {"name": "c", "certificate": "CN=c", "burst": 5})
    assert _gateway.gateway_zones([*policies, *policies], DEFAULTS) == [
        {"zone": "10rs_20", "rate": "10r/s", "burst": 20}, {"zone": "30rm_20", "rate": "30r/m", "burst": 20}, {"zone": "10rs_5", "rate": "10r/s", "burst": 5},
    ]
    # strangers have one too, whoever else there is
    assert _gateway.gateway_zones([], DEFAULTS) == [{"zone": "10rs_20", "rate": "10r/s", "burst": 20}]
    with pytest.raises(ModelError, match="ollama_gateway_rate"):
        _gateway.gateway_zones([], {**DEFAULTS, "rate": "fast"})


def test_oauth2() -> None:
    assert _gateway.gateway_oauth2("", {"classes": ["chat"]}, DEFAULTS) is None
    found = _gateway.gateway_oauth2("http://127.0.0.1:4180/oauth2/auth", {"classes": ["chat"], "models": None}, DEFAULTS)
    assert found == {"name": "oauth2", **POLICY, "classes": ["chat"]}
    for url in ("https://auth.example.org", "http://[fd00::1]:4180/oauth2/auth"):
        assert _gateway.gateway_oauth2(url, {}, DEFAULTS)
    for url in ("127.0.0.1:4180", "ftp://a", "http://a b", "http://a;", "http://user:secret@a/", "http://a/?x=$uri", "http://a/\n", True):
        with pytest.raises(ModelError, match="ollama_gateway_oauth2_url is"):
            _gateway.gateway_oauth2(url, {}, DEFAULTS)
    with pytest.raises(ModelError, match="ollama_gateway_oauth2_policy has the unknown field clases: known are classes, models"):
        _gateway.gateway_oauth2("http://a", {"clases": []}, DEFAULTS)
    with pytest.raises(ModelError, match="ollama_gateway_oauth2_policy: classes is"):
        _gateway.gateway_oauth2("http://a", {"classes": []}, DEFAULTS)


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
