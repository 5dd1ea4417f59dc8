"""clients.lua: who calls."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest

KEY, OLD_KEY = "k" * 32, "o" * 32
POLICY = {
    "classes": ["chat"], "models": [], "zone": "10rs_20", "concurrency": 0, "max_predict": 0, "max_context": 0, "tokens_per_minute": 0, "tokens_per_day": 0,
}
SUBJECT = "CN=team-b,O=Example"


def digest(key: str) -> str:
    """As it stands in clients.json."""
    return hashlib.sha256(key.encode()).hexdigest()


class Gate:
    """The module with a few clients."""

    def __init__(self, lua: Any, config_id: str = "one", **given: Any) -> None:
        self.lua = lua
        self.module = lua.module("clients")
        team = {"name": "team-a", "certificate": "", "keys": [{"sha256": digest(KEY), "expires": 0}, {"sha256": digest(OLD_KEY), "expires": 1000}], **POLICY}
        holder = {"name": "team-b", "certificate": SUBJECT, "keys": [], **POLICY}
        clients = {"config_id": config_id, "clients": [team, holder], "users": [{"name": "dashboard", **POLICY}], **given}
        self.all = self.module.init(lua.table(clients))
        self.module.init_worker(lua.globals.ngx.shared.gpufleet_gateway_users)

    def identify(self, api_keys: Any = None, **var: str) -> str | None:
        """The name of the client of a request with these variables of nginx."""
        headers = api_keys if api_keys is not None else var.get("http_x_api_key")
        self.lua.globals.HEADERS = self.lua.table({"x-api-key": headers})
        found = self.module.identify(self.lua.table(var))
        client = found[0] if isinstance(found, tuple) else found
        return client["name"] if client else None


@pytest.mark.parametrize(
    ("var", "name"),
    [
        ({"http_authorization": f"Bearer {KEY}"}, "team-a"),
        ({"http_authorization": f"bEARER  {KEY}"}, "team-a"),
        ({"http_x_api_key": KEY}, "team-a"),
        ({"http_authorization": "Bearer wrong", "http_x_api_key": KEY}, "team-a"),
        ({}, None),
        ({"http_authorization": f"Bearer {KEY}x"}, None),
        ({"http_authorization": f"Bearer {KEY} "}, None),
        ({"http_authorization": f"Bearer {KEY.upper()}"}, None),
        ({"http_authorization": f"Basic {KEY}"}, None),
        ({"http_authorization": KEY}, None),
        ({"http_authorization": "Bearer"}, None),
        ({"http_x_api_key": ""}, None),
        ({"http_x_api_key": "k" * 10000}, None),
        ({"http_x_api_key": f"{KEY}, {KEY}"}, None),
        ({"http_x_api_key": digest(KEY)}, None),
        ({"http_x_api_key": "k" * 31 + "\x00"}, None),
        ({"ssl_client_verify": "SUCCESS", "ssl_client_s_dn": SUBJECT}, "team-b"),
        ({"ssl_client_verify": "SUCCESS", "ssl_client_s_dn": SUBJECT, "http_x_api_key": KEY}, "team-a"),
        ({"ssl_client_verify": "SUCCESS", "ssl_client_s_dn": "CN=team-b"}, None),
        ({"ssl_client_verify": "FAILED:expired", "ssl_client_s_dn": SUBJECT}, None),
        ({"ssl_client_verify": "NONE", "ssl_client_s_dn": ""}, None),
    ],
)
def test_who_it_is(lua: Any, var: dict, name: str | None) -> None:
    assert Gate(lua).identify(**var) == name


def test_two_headers_with_keys_are_none(lua: Any) -> None:
    # $http_x_api_key is the first of them in some versions of nginx
    assert Gate(lua).identify(api_keys=[KEY, "x"], http_x_api_key=KEY) is None


def test_a_key_expires(lua: Any) -> None:
    gate = Gate(lua)
    for now, name in ((999, "team-a"), (1000, None), (1001, None)):
        lua.globals.NOW = now
        assert gate.identify(http_x_api_key=OLD_KEY) == name
        assert gate.identify(http_x_api_key=KEY) == "team-a"


def test_the_id_of_a_key_is_the_beginning_of_its_digest(lua: Any) -> None:
    gate = Gate(lua)
    lua.globals.HEADERS = lua.table({})
    assert gate.module.identify(lua.table({"http_authorization": f"Bearer {KEY}"}))[1] == digest(KEY)[:8]


def test_a_password_is_remembered_for_one_configuration(lua: Any) -> None:
    gate = Gate(lua)
    basic = "Basic " + base64.b64encode(b"dashboard:secret").decode()
    assert gate.identify(http_authorization=basic) is None
    assert gate.module.has_password(lua.table({"http_authorization": basic})) is True
    assert gate.module.user("dashboard", lua.table({"http_authorization": basic}))["name"] == "dashboard"
    assert gate.identify(http_authorization=basic) == "dashboard"
    assert gate.identify(http_authorization=basic + "x") is None
    # neither the name nor the password is in the shared memory
    assert not any("dashboard:" in text or basic in text for text in lua.globals.ngx.shared.gpufleet_gateway_users["values"])
    assert Gate(lua, "two").identify(http_authorization=basic) is None
    # a user that is gone
    gate = Gate(lua, users=[])
    assert gate.identify(http_authorization=basic) is None and gate.module.user("dashboard", lua.table({"http_authorization": basic})) is None


def test_what_has_no_password(lua: Any) -> None:
    module = Gate(lua).module
    assert not module.has_password(lua.table({})) and not module.has_password(lua.table({"http_authorization": "Bearer x"}))
    assert module.has_password(lua.table({"http_authorization": "bASIC x"}))


def test_oauth2_is_a_client_of_its_own(lua: Any) -> None:
    assert Gate(lua).module.oauth2() is None
    found = Gate(lua, oauth2={"name": "oauth2", **POLICY, "models": ["a*"]}).module.oauth2()
    assert found["name"] == "oauth2" and found.may_use("abc:latest") and not found.may_use("b:latest")


def test_without_clients_nobody_is_known(lua: Any) -> None:
    assert Gate(lua, clients=[], users=[]).identify(http_x_api_key=KEY) is None


@pytest.mark.parametrize("sha256", ["ab", "z" * 64])
def test_a_broken_file_stops_the_start(lua: Any, sha256: str) -> None:
    with pytest.raises(Exception, match="bad sha256 of a"):
        Gate(lua, clients=[{"name": "a", "certificate": "", "keys": [{"sha256": sha256, "expires": 0}], **POLICY}])
