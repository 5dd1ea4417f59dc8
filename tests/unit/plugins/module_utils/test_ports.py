"""Reading /proc/net/tcp."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ansible_collections.gpufleet.ollama.plugins.module_utils import _ports

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
TCP = HEAD + (
    "   0: 0100007F:2CAA 00000000:0000 0A 00000000:00000000 00:00000000 00000000   998        0 4711 1 0 100 0 0 10 0\n"
    "   1: 0100007F:9999 0100007F:2CAA 01 00000000:00000000 00:00000000 00000000   998        0 4712 1 0 100 0 0 10 0\n"
)
TCP6 = HEAD + "   0: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 99 1 0\n"


@pytest.mark.skipif(sys.byteorder != "little", reason="the sample is of a little-endian machine")
def test_listeners(tmp_path: Path) -> None:
    """Listening sockets only, with process and unit."""
    (tmp_path / "net").mkdir()
    (tmp_path / "net/tcp").write_text(TCP, encoding="utf-8")
    (tmp_path / "net/tcp6").write_text(TCP6, encoding="utf-8")
    (tmp_path / "311/fd").mkdir(parents=True)
    (tmp_path / "311/fd/3").symlink_to("socket:[4711]")
    (tmp_path / "311/comm").write_text("ollama\n", encoding="utf-8")
    (tmp_path / "311/cgroup").write_text("0::/system.slice/system-ollama.slice/ollama@default.service\n", encoding="utf-8")
    assert _ports.listeners(str(tmp_path)) == [
        _ports.Listener("127.0.0.1", 11434, 311, "ollama", "ollama@default.service"),
        _ports.Listener("::1", 80, 0, "", ""),
    ]


def test_what_systemd_holds_for_the_units_socket_is_the_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit that is started by its socket, and one of another name that has none."""
    active: set[str] = {"web.socket"}
    monkeypatch.setattr(_ports, "is_active", active.__contains__)
    found = [_ports.Listener("10.0.0.5", 443, 1, "systemd", "")]
    assert not list(_ports.clash(found, 443, "10.0.0.5", "web.service", "web_port"))
    assert "held by systemd (pid 1" in next(_ports.clash(found, 443, "10.0.0.5", "other.service", "other_port"))
    active.clear()
    assert list(_ports.clash(found, 443, "10.0.0.5", "web.service", "web_port"))
