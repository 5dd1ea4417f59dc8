# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The gateway's Lua, run as it stands with LuaJIT (package lupa) and a stand-in for nginx's API."""

from __future__ import annotations

import ctypes
import ctypes.util
import hashlib
import json
import pathlib
from typing import Any

import pytest

luajit = pytest.importorskip("lupa.luajit21")

LUA = pathlib.Path(__file__).parents[3] / "roles/ollama_gateway/files/lua"
KEY = "k" * 32
# what the tests need of nginx's API and of lua-cjson
STUBS = """
ngx = { var = {}, header = {}, req = { discard_body = function() end, get_method = function() return METHOD end },
        exit = function(status) EXIT = status end, print = function(text) BODY = text end }
package.preload["cjson.safe"] = function() return { decode = DECODE } end
"""


class Gateway:
    """The module gateway.lua in an interpreter of its own."""

    def __init__(self, tmp_path: pathlib.Path, users: bool = False, clients: Any = None) -> None:
        # the module looks SHA256 up among the process's own symbols
        ctypes.CDLL(ctypes.util.find_library("crypto"), mode=ctypes.RTLD_GLOBAL)
        self.lua = luajit.LuaRuntime(unpack_returned_tuples=True, encoding="latin-1")
        tables = self.lua.table_from
        self.lua.globals().DECODE = lambda text: tables(json.loads(text), recursive=True)
        self.lua.execute(STUBS)
        self.module = self.lua.execute((LUA / "gateway.lua").read_text(encoding="utf-8"))
        if clients is None:
            clients = [{"name": "team-a", "sha256": hashlib.sha256(KEY.encode()).hexdigest()}]
        path = tmp_path / "clients.json"
        path.write_text(json.dumps({"config_id": "abc", "users": users, "clients": clients}))
        self.module.init(str(path))

    def identify(self, **headers: str) -> tuple[str, str, str]:
        """Client, realm and limit of a request with these headers."""
        var = self.lua.globals().ngx.var
        var.gateway_client, var.gateway_realm, var.remote_addr = "", "ollama", "192.0.2.1"
        var.http_authorization, var.http_x_api_key = headers.get("authorization"), headers.get("x_api_key")
        self.module.identify()
        return var.gateway_client, var.gateway_realm, var.gateway_limit

    def refuse(self, status: int, uri: str, allow: str = "") -> tuple[str, Any]:
        """Body and headers of an error."""
        ngx = self.lua.globals().ngx
        ngx.var.status, ngx.var.uri, ngx.var.gateway_allow = str(status), uri, allow
        self.module.refuse()
        return self.lua.globals().BODY, ngx.header


KNOWN = ("team-a", "off", "k:team-a")
UNKNOWN = ("", "ollama", "ip:192.0.2.1")


@pytest.mark.parametrize(
    ("headers", "who"),
    [
        ({"authorization": f"Bearer {KEY}"}, KNOWN),
        ({"authorization": f"bEARER  {KEY}"}, KNOWN),
        ({"x_api_key": KEY}, KNOWN),
        ({"authorization": "Bearer wrong", "x_api_key": KEY}, KNOWN),
        ({}, UNKNOWN),
        ({"authorization": f"Bearer {KEY}x"}, UNKNOWN),
        ({"authorization": f"Bearer {KEY.upper()}"}, UNKNOWN),
        ({"authorization": f"Basic {KEY}"}, UNKNOWN),
        ({"authorization": KEY}, UNKNOWN),
        ({"authorization": "Bearer"}, UNKNOWN),
        ({"x_api_key": ""}, UNKNOWN),
        ({"x_api_key": "k" * 10000}, UNKNOWN),
        ({"x_api_key": f"{KEY}, {KEY}"}, UNKNOWN),
        ({"x_api_key": hashlib.sha256(KEY.encode()).hexdigest()}, UNKNOWN),
    ],
)
def test_only_a_valid_key_turns_the_password_check_off(tmp_path: pathlib.Path, headers: dict, who: tuple) -> None:
    assert Gateway(tmp_path).identify(**headers) == who


def test_without_clients_nobody_is_known(tmp_path: pathlib.Path) -> None:
    assert Gateway(tmp_path, clients=[]).identify(x_api_key=KEY) == UNKNOWN


@pytest.mark.parametrize("clients", [[{"name": "a", "sha256": "ab"}], [{"name": "a", "sha256": "z" * 64}]])
def test_a_broken_clients_file_stops_the_start(tmp_path: pathlib.Path, clients: list) -> None:
    with pytest.raises(luajit.LuaError, match="bad sha256 of a"):
        Gateway(tmp_path, clients=clients)


def test_a_method_that_is_not_allowed_is_refused_after_authentication(tmp_path: pathlib.Path) -> None:
    gateway = Gateway(tmp_path)
    state = gateway.lua.globals()
    gateway.identify(x_api_key=KEY)
    state.METHOD = "POST"
    gateway.module.access(" POST ")
    assert state.EXIT is None
    state.METHOD = "POS"
    gateway.module.access(" POST ")
    assert state.EXIT == 405


def test_an_error_has_the_form_of_the_api_that_was_called(tmp_path: pathlib.Path) -> None:
    gateway = Gateway(tmp_path)
    assert json.loads(gateway.refuse(401, "/api/chat")[0]) == {"error": "missing or wrong credentials"}
    openai = json.loads(gateway.refuse(429, "/v1/chat/completions")[0])["error"]
    assert openai == {"message": "too many requests", "type": "rate_limit_error", "param": None, "code": "rate_limit_exceeded"}
    anthropic = json.loads(gateway.refuse(404, "/v1/messages")[0])
    assert anthropic == {"type": "error", "error": {"type": "not_found_error", "message": "not found"}}


def test_headers_of_errors(tmp_path: pathlib.Path) -> None:
    assert Gateway(tmp_path).refuse(401, "/")[1]["WWW-Authenticate"] == 'Bearer realm="ollama"'
    assert Gateway(tmp_path, users=True).refuse(401, "/")[1]["WWW-Authenticate"] == 'Bearer realm="ollama", Basic realm="ollama"'
    assert Gateway(tmp_path).refuse(405, "/", " GET HEAD ")[1]["Allow"] == "GET, HEAD"
    assert Gateway(tmp_path).refuse(429, "/")[1]["Retry-After"] == 1
    assert Gateway(tmp_path).refuse(404, "/")[1]["Retry-After"] is None
