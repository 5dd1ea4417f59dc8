"""A gateway in a real nginx, with stand-ins for Ollama behind it, started once for all tests that need one."""

from __future__ import annotations

import contextlib
import sys
import tempfile
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
def start_fleet() -> Iterator[Callable[..., Fleet]]:
    """Start gateways with options of the role."""
    if local.nginx() is None:
        pytest.skip("there is no nginx with its Lua module on this machine")
    with contextlib.ExitStack() as stack:

        def start(**options: Any) -> Fleet:
            # not within pytest's folder: every pytest that starts closes it to others, and the workers are another user
            fleet = Fleet(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gateway-"))), **options)
            stack.callback(fleet.close)
            return fleet

        yield start


@pytest.fixture(scope="session")
def shared_fleet(start_fleet: Callable[..., Fleet]) -> Fleet:
    """One for all modules."""
    return start_fleet(ollama_gateway_max_fails=2, ollama_gateway_fail_timeout_seconds=2)


@pytest.fixture
def fleet(shared_fleet: Fleet) -> Fleet:
    """The shared one, as new."""
    return shared_fleet.reset()
