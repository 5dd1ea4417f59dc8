# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What tools say of the gateway's files without a request: nginx of its configuration, gixy of its safety, LuaJIT of the Lua code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "tests/gateway")]

# pylint: disable=wrong-import-position
from local import HOST, LUA, LocalGateway, nginx, upstream_hosts  # noqa: E402

luajit = pytest.importorskip("lupa.luajit21")
needs_nginx = pytest.mark.skipif(nginx() is None, reason="there is no nginx with Lua on this machine")
SOURCES = sorted(LUA.rglob("*.lua"))

# What gixy finds and is meant so: check -> (what the server or location is, why).
MEANT = {
    "http2_misdirected_request": ("server_name _", "an unknown name gets nothing: the connection is closed, and 421 would be an answer"),
    "hsts_header": ("server_name gw", "it would also hold for plain HTTP that other ports of the host serve, such as a dashboard"),
    "worker_rlimit_nofile_vs_connections": ("events", "of the nginx.conf around it, which is the test's"),
    "status_page_exposed": ("stub_status", "internal: only the Lua code reads it"),
    "proxy_pass_normalized": ("proxy_pass http://gpufleet_ollama", "only what the location's pattern captured is passed on, and that holds no escape"),
}


def write_ca(folder: Path) -> None:
    """An authority with an empty list of what it revoked."""
    database = folder / "index.txt"
    database.touch()
    config = folder / "ca.cnf"
    config.write_text(f"[ca]\ndefault_ca=x\n[x]\ndatabase={database}\ndefault_md=sha256\ndefault_crl_days=2\n", encoding="utf-8")
    for command in (
        ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.crt"],
        ["ca", "-config", "ca.cnf", "-gencrl", "-keyfile", "ca.key", "-cert", "ca.crt", "-out", "ca.crl"],
    ):
        subprocess.run(["openssl", *command], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module", params=["names", "everything"])
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LocalGateway:
    """The rendered files: with the defaults, and with every option that adds lines."""
    folder = tmp_path_factory.mktemp("gateway")
    options: dict[str, Any] = {}
    if request.param == "everything":
        write_ca(folder)
        options = {
            "ollama_gateway_clients": [{"name": "a", "key": "k" * 32, "rate": "5r/s"}],
            "ollama_gateway_users": [{"name": "u", "password": "p" * 20}],
            "ollama_gateway_oauth2_url": "http://127.0.0.1:4180/oauth2/auth",
            "ollama_gateway_tls_client_ca_path": str(folder / "ca.crt"),
            "ollama_gateway_tls_client_crl_path": str(folder / "ca.crl"),
            "__ollama_gateway_names": [{"name": name, "server_name": name, "address": name != HOST} for name in (HOST, "127.0.0.1")],
        }
    return LocalGateway(folder, upstream_hosts([11434, 11435]), **options)


@needs_nginx
def test_nginx_takes_the_configuration_without_a_warning(gateway: LocalGateway) -> None:
    done = gateway.run("-t")
    said = [line for line in done.splitlines() if "[" in line]
    assert "test is successful" in done and not said, done


@needs_nginx
def test_gixy_finds_nothing_but_what_is_meant(gateway: LocalGateway) -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "gixy", "--format", "json", gateway.folder / "nginx.conf"],
        # a user's own file of settings must not count
        cwd=gateway.folder, env={**os.environ, "HOME": str(gateway.folder)}, capture_output=True, text=True, check=False,
    )
    assert done.stdout.startswith("["), done.stderr
    found = json.loads(done.stdout)
    # that it read the whole: what is meant is there
    assert {"http2_misdirected_request", "status_page_exposed"} & {issue["plugin"] for issue in found}
    wrong = [issue for issue in found if issue["plugin"] not in MEANT or MEANT[issue["plugin"]][0] not in issue["config"]]
    assert not wrong, "\n".join(f"{issue['severity']} {issue['plugin']}: {issue['reason']}\n{issue['config']}" for issue in wrong)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_lua_compiles_and_sets_no_globals(path: Path) -> None:
    found = globals_of(luajit.LuaRuntime(), path) - READ
    assert not found, f"{path.name} has a local that is not declared, or is misspelt"


# what a file may use from outside; nothing may be set
READ = {f"read {name}" for name in (
    "assert", "error", "io", "ipairs", "jit", "math", "next", "ngx", "os", "package", "pairs", "pcall", "require", "setmetatable", "string", "table",
    "tonumber", "tostring", "type", "unpack")}


def globals_of(lua: Any, path: Path) -> set[str]:
    """Globals of a file, from the bytecode that LuaJIT makes of it: read NAME, write NAME."""
    dumped = lua.execute(GLOBALS)(path.read_text(encoding="utf-8"), path.name)
    return set(dumped.split("\n")) - {""}


# the opcodes have the order of the table that jit.vmdef would give; they are found by compiling a read and a write
GLOBALS = """
local util = require "jit.util"
local bit = require "bit"
local function opcodes(text)
  local found = {}
  local f = loadstring(text)
  local i = 1
  while true do
    local ins = util.funcbc(f, i)
    if not ins then return found end
    found[#found + 1] = bit.band(ins, 0xff)
    i = i + 1
  end
end
local GGET, GSET = opcodes("return xyz")[1], nil
for _, op in ipairs(opcodes("xyz = 1")) do
  if op ~= opcodes("local a = 1")[1] then GSET = GSET or op end
end
local function walk(f, out)
  local i = 1
  while true do
    local ins = util.funcbc(f, i)
    if not ins then break end
    local op = bit.band(ins, 0xff)
    if op == GGET or op == GSET then
      out[#out + 1] = (op == GGET and "read " or "write ") .. util.funck(f, -bit.rshift(ins, 16) - 1)
    end
    i = i + 1
  end
  if util.funcinfo(f).children then
    local n = -1
    while true do
      local k = util.funck(f, n)
      if k == nil then break end
      if type(k) == "proto" then walk(k, out) end
      n = n - 1
    end
  end
end
return function(text, name)
  local out = {}
  walk(assert(loadstring(text, "@" .. name)), out)
  return table.concat(out, "\\n")
end
"""


def test_the_scan_sees_globals(tmp_path: Path) -> None:
    path = tmp_path / "x.lua"
    path.write_text("local M = {}\nfunction M.f(a)\n  count = (count or 0) + a\n  return function() return missing end\nend\nreturn M\n", encoding="utf-8")
    assert globals_of(luajit.LuaRuntime(), path) == {"write count", "read count", "read missing"}
