"""The gateway's Lua modules, run as they stand with LuaJIT (package lupa) and a stand-in for the API of nginx."""

from __future__ import annotations

import ctypes
import ctypes.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[4]
# What the modules need of nginx and of lua-cjson. A shared dictionary is a table; ngx.exit ends the code that calls it, as in nginx.
STUBS = """
local function dictionary()
  local values = {}
  return {
    values = values,
    get = function(_, key) return values[key] end,
    set = function(_, key, value) values[key] = value return true end,
    delete = function(_, key) values[key] = nil end,
    incr = function(_, key, value, init)
      if values[key] == nil and init == nil then return nil, "not found" end
      values[key] = (values[key] or init) + value
      return values[key]
    end,
  }
end
DICT = dictionary
ngx = {
  var = {}, header = {}, ctx = {}, shared = setmetatable({}, { __index = function(t, k) t[k] = dictionary() return t[k] end }),
  req = { discard_body = function() end, get_headers = function() return HEADERS or {} end }, now = os.time,
  time = function() return NOW or 0 end, sleep = function() SLEPT = (SLEPT or 0) + 1 end, worker = { pid = function() return PID or 1 end },
  exit = function(status) error({ status = status }, 0) end,
}
package.preload["cjson.safe"] = function() return { decode = DECODE, encode = ENCODE } end
package.preload["resty.core.base"] = function() return {} end
package.preload["resty.core.param"] = function() return {} end
"""


class Lua:
    """An interpreter of its own, with the modules of the role."""

    def __init__(self, luajit: Any) -> None:
        # clients.lua looks SHA256 up among the process's own symbols
        ctypes.CDLL(ctypes.util.find_library("crypto"), mode=ctypes.RTLD_GLOBAL)
        self.runtime = luajit.LuaRuntime(unpack_returned_tuples=True, encoding="latin-1")
        self.globals = self.runtime.globals()
        self.globals.DECODE = self._decode
        self.globals.ENCODE = json.dumps
        self.runtime.execute(STUBS)
        self.runtime.execute(f'package.path = "{ROOT}/roles/ollama_gateway/files/lua/?.lua;" .. package.path')

    def _decode(self, text: str) -> Any:
        try:
            # strings are latin-1 here, one character a byte
            found = json.loads(text.encode("latin-1").decode("utf-8"))
            return self.table([item.encode("utf-8").decode("latin-1") if isinstance(item, str) else item for item in found])
        except ValueError:  # cjson.safe
            return None

    def module(self, name: str) -> Any:
        """A module of the gateway."""
        return self.runtime.eval("require")(f"gpufleet.{name}")

    def table(self, data: Any) -> Any:
        """A Lua table of a dict or a list."""
        # lupa fails on a list that is there twice
        return self.runtime.table_from(json.loads(json.dumps(data)), recursive=True)


@pytest.fixture
def lua() -> Lua:
    """A new one for each test."""
    return Lua(pytest.importorskip("lupa.luajit21"))


@pytest.fixture
def read_body(lua: Lua) -> Callable[[str], Any]:
    """Read a body: a dict of its fields of interest (with options as a dict, if any), or the sentence that refuses it."""
    body, same = lua.module("body"), lua.runtime.eval("rawequal")

    def read(text: str) -> Any:
        found = body.read(text.encode("utf-8").decode("latin-1"))
        if isinstance(found, tuple):
            return found[1]
        return as_dict(found, lambda value: same(value, body.NULL))
    return read


def as_dict(fields: Any, is_null: Callable[[Any], bool]) -> dict[str, Any]:
    """The fields that are there; an object or a list is ... (not read)."""
    result: dict[str, Any] = {}
    for name in fields["from"]:
        value = fields[name]
        if name == "options" and value is not None and not is_null(value):
            result[name] = as_dict(value, is_null)
        elif is_null(value):
            result[name] = None
        else:
            result[name] = value.encode("latin-1").decode("utf-8") if isinstance(value, str) else ... if value is None else value
    return result
