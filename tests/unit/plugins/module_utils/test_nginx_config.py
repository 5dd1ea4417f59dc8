"""Reading nginx's configuration from its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpufleet.ollama.plugins.module_utils._nginx_config import directives

MAIN = """\
user www-data; # a comment; with { braces }
events { worker_connections 768; }
http {
  log_format main '$remote_addr "$request" { not a block }'
                  "second \\"part\\"";
  include /etc/nginx/conf.d/*.conf;
  include sites/one;
  include missing;
}
"""
GATEWAY = """\
init_by_lua_block {
  -- a comment with }
  local text = "}" .. [[ } ]] .. [=[ } ]=]  --[[ } ]]
  if x then y = { 1, { 2 } } end
}
server {
  listen 0.0.0.0:443 ssl;
  location ~ "^/a{2}/(?<name>[^{}]*)$" {
    proxy_pass http://gpufleet_ollama/${name};
  }
}
server { listen 80; }
"""


@pytest.fixture(name="root")
def files(tmp_path: Path) -> Path:
    """A root with a configuration of several files."""
    for path, text in {"nginx.conf": MAIN, "conf.d/b.conf": GATEWAY, "conf.d/a.conf": "gzip off;\n", "sites/one": "server {\n\n listen 81;\n}\n"}.items():
        (tmp_path / "etc/nginx" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "etc/nginx" / path).write_text(text, encoding="utf-8")
    return tmp_path


def named(root: Path, name: str) -> list[Any]:
    """The directives of a name."""
    return [item for item in directives(str(root)) if item.name == name]


def test_order_and_place(root: Path) -> None:
    """Files in the order in which nginx reads them, with their lines."""
    assert [(item.args[0], item.file, item.line) for item in named(root, "listen")] == [
        ("0.0.0.0:443", "/etc/nginx/conf.d/b.conf", 7), ("80", "/etc/nginx/conf.d/b.conf", 12), ("81", "/etc/nginx/sites/one", 3),
    ]
    names = [item.name for item in directives(str(root))]
    assert names.index("gzip") < names.index("init_by_lua_block")


def test_servers_and_context(root: Path) -> None:
    """What a directive is within, and which server."""
    assert [item.server for item in named(root, "listen")] == [0, 1, 2]
    found = named(root, "proxy_pass")[0]
    assert found.server == 0 and found.context == ("http", "server", "location ~ ^/a{2}/(?<name>[^{}]*)$")
    assert found.args == ["http://gpufleet_ollama/${name}"]
    assert named(root, "user")[0].server == -1 and named(root, "user")[0].context == ()


def test_quotes_and_lua(root: Path) -> None:
    """Braces within quotes, comments and Lua are none of nginx's."""
    assert named(root, "log_format")[0].args == ["main", '$remote_addr "$request" { not a block }', 'second "part"']
    assert named(root, "init_by_lua_block")[0].args[0].endswith("end")


@pytest.mark.parametrize("text", ["", "server {", "a 'never ends", "}}}; x y;", "init_by_lua_block { if x then"])
def test_broken_files_are_no_trouble(tmp_path: Path, text: str) -> None:
    """What nginx itself would refuse, and a host without nginx."""
    assert directives(str(tmp_path)) == []
    (tmp_path / "etc/nginx").mkdir(parents=True)
    (tmp_path / "etc/nginx/nginx.conf").write_text(text, encoding="utf-8")
    assert isinstance(directives(str(tmp_path)), list)


def test_a_file_that_includes_itself_ends(tmp_path: Path) -> None:
    """However files include one another."""
    (tmp_path / "etc/nginx").mkdir(parents=True)
    (tmp_path / "etc/nginx/nginx.conf").write_text("gzip on;\ninclude nginx.conf;\n", encoding="utf-8")
    assert 1 < len(directives(str(tmp_path))) < 50
