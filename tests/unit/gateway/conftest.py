"""A gateway in a real nginx, with stand-ins for Ollama behind it, started once for all tests that need one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests/gateway"))

# pylint: disable=wrong-import-position
import local  # noqa: E402
from fleet import Fleet  # noqa: E402


@pytest.fixture(scope="session")
def start_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Fleet]]:
    """Start gateways with options of the role."""
    if local.nginx() is None:
        pytest.skip("there is no nginx with its Lua module on this machine")
    running: list[Fleet] = []

    def start(**options: Any) -> Fleet:
        running.append(Fleet(tmp_path_factory.mktemp("gateway"), **options))
        return running[-1]

    yield start
    for fleet in running:
        fleet.close()


@pytest.fixture(scope="session")
def shared_fleet(start_fleet: Callable[..., Fleet]) -> Fleet:
    """One for all modules."""
    return start_fleet(ollama_gateway_max_fails=2, ollama_gateway_fail_timeout_seconds=2)


@pytest.fixture
def fleet(shared_fleet: Fleet) -> Fleet:
    """The shared one, as new."""
    return shared_fleet.reset()
