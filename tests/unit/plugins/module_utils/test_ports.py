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
