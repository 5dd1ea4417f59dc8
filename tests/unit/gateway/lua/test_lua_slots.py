"""slots.lua: what is under way, over workers that come and go."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

Worker = Callable[[int], Any]


@pytest.fixture
def worker(lua: Any) -> Worker:
    """Modules as different workers have them: with one memory, each with a pid."""
    memory = lua.globals.DICT()
    lua.globals.MEMORY = memory

    def start(pid: int) -> Any:
        lua.globals.PID = pid
        lua.runtime.execute("package.loaded['gpufleet.slots'] = nil")
        module = lua.module("slots")
        module.init(lua.table(["c:team", "n:gpu1/default"]))
        module.init_worker(memory)
        return module
    return start


@pytest.fixture
def dead_pid() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_workers_count_together(worker: Worker) -> None:
    one, two = worker(os.getpid()), worker(os.getppid())
    assert [one.take("c:team"), two.take("c:team"), one.take("n:gpu1/default")] == [1, 2, 1]
    one.give_back("c:team")
    assert (one.count("c:team"), two.count("c:team"), two.count("c:other")) == (1, 1, 0)


def test_the_janitor_gives_back_what_the_dead_held(worker: Worker, dead_pid: int) -> None:
    dead, alive = worker(dead_pid), worker(os.getpid())
    for _unused in range(3):
        dead.take("c:team")
    dead.give_back("c:team")
    dead.take("n:gpu1/default")
    alive.take("c:team")
    alive.janitor()
    assert (alive.count("c:team"), alive.count("n:gpu1/default")) == (1, 0)
    alive.janitor()
    assert alive.count("c:team") == 1
    alive.give_back("c:team")
    assert alive.count("c:team") == 0


def test_the_janitor_leaves_the_living_alone(worker: Worker, lua: Any, dead_pid: int) -> None:
    old, dead, new = worker(os.getppid()), worker(dead_pid), worker(os.getpid())
    old.take("c:team")
    dead.take("c:team")
    new.janitor()
    assert new.count("c:team") == 1
    values = lua.globals.MEMORY["values"]
    assert values["worker:1"] == os.getppid() and values["worker:2"] is None and values["worker:3"] == os.getpid()


def test_the_janitor_forgets_old_workers(worker: Worker, lua: Any, dead_pid: int) -> None:
    for _unused in range(5):
        last = worker(dead_pid)
    alive = worker(os.getpid())
    last.take("c:team")
    alive.janitor()
    values = lua.globals.MEMORY["values"]
    assert values["worker_first"] == 6 and values["workers"] == 6
    assert not any(str(name).startswith(f"own:{dead_pid}:") for name in values)


def test_a_count_is_never_negative(worker: Worker) -> None:
    module = worker(os.getpid())
    module.give_back("c:team")
    assert module.count("c:team") == 0
