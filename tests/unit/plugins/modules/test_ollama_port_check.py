"""Module ollama_port_check against sockets of this very process."""

from __future__ import annotations

import socket
from typing import Any, Callable, Iterator

import pytest

from ansible_collections.gpufleet.ollama.plugins.module_utils import _ports
from ansible_collections.gpufleet.ollama.plugins.modules import ollama_port_check


@pytest.fixture
def listener() -> Iterator[int]:
    """A port that this process listens on, on 127.0.0.1."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def check(run_module: Callable[..., Any], port: int, address: str, unit: str = "x.service") -> dict[str, Any]:
    """Run the module for one listener."""
    return run_module(ollama_port_check.main, listeners=[{"port": port, "address": address, "unit": unit, "option": "x_port"}])


def test_port_in_use(run_module: Callable[..., Any], listener: int) -> None:
    """The sentence names port, process, unit and option."""
    message = check(run_module, listener, "127.0.0.1")["msg"]
    assert f"port {listener} is held by" in message and "pid" in message and "x.service cannot have it" in message and "set x_port" in message


def test_other_address_does_not_clash(run_module: Callable[..., Any], listener: int) -> None:
    """The same port on another address of the host is free; on all addresses it is not."""
    assert "failed" not in check(run_module, listener, "127.0.0.2")
    assert check(run_module, listener, "")["failed"]


def test_free_port(run_module: Callable[..., Any]) -> None:
    """Nobody there: nothing changes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    result = check(run_module, port, "127.0.0.1")
    assert "failed" not in result and not result["changed"]


def test_own_unit_may_hold_it() -> None:
    """A listener in the cgroup of the unit is the unit's own."""
    found = [_ports.Listener("10.0.0.5", 80, 7, "nginx", "nginx.service")]
    assert not list(_ports.clash(found, 80, "10.0.0.5", "nginx.service", "x"))
    assert list(_ports.clash(found, 80, "10.0.0.5", "other.service", "x"))


def test_hidden_process_is_the_units_when_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where root may not see the process, systemd's word decides."""
    found = [_ports.Listener("10.0.0.5", 80, 0, "", "")]
    monkeypatch.setattr(_ports, "is_active", lambda unit: unit == "nginx.service")
    assert not list(_ports.clash(found, 80, "10.0.0.5", "nginx.service", "x"))
    assert "another process (pid unknown" in next(_ports.clash(found, 80, "10.0.0.5", "other.service", "x"))
