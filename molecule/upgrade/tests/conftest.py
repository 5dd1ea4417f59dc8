"""Releases that are broken in every way, put where the hosts download from; and a loop of requests while a playbook runs."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple

import pytest

sys.path.insert(0, os.path.join(os.environ["MOLECULE_PROJECT_DIRECTORY"], "molecule/shared"))

from scenario import PROJECT, on_host  # noqa: E402

UPSTREAM = "gpufleet-upgrade-upstream"
HOSTS = ("upgrade-deb12", "upgrade-deb13")
ARCHIVE = f"ollama-linux-{ {'x86_64': 'amd64', 'aarch64': 'arm64'}[platform.machine()] }.tar.zst"
PORT = 11434

# runs on a host: asks for an answer without a pause, and writes down when each request began and ended, and what came of it
LOOP = """
import http.client, json, os, sys, time
seen = []
while not os.path.exists("/tmp/loop.stop"):
    began = time.time()
    try:
        link = http.client.HTTPConnection("127.0.0.1", 11434, timeout=10)
        link.request("POST", "/api/generate", json.dumps({"model": "smollm2:135m", "prompt": "hi", "stream": False}))
        good = json.loads(link.getresponse().read()).get("done") is True
    except (OSError, ValueError, http.client.HTTPException):
        good = False
    seen.append([began, time.time(), good])
    time.sleep(0.05)
json.dump(seen, open("/tmp/loop.json", "w"))
"""


class Requests(NamedTuple):
    """What a loop of requests saw: how many were answered, the silences between answers in seconds, and whether the last was answered."""

    answered: int
    failed: int
    longest_silence: float
    last_is_good: bool


def read_loop(host: Any) -> Requests:
    """Stop the loop of a host and read what it saw."""
    host.check_output("touch /tmp/loop.stop; while [ ! -s /tmp/loop.json ]; do sleep 0.1; done")
    seen = json.loads(host.check_output("cat /tmp/loop.json"))
    good = [entry for entry in seen if entry[2]]
    silences = [after[1] - before[1] for before, after in zip(good, good[1:])]
    return Requests(len(good), len(seen) - len(good), max(silences, default=999.0), bool(seen and seen[-1][2]))


@pytest.fixture
def loops() -> Iterator[Callable[[], dict[str, Requests]]]:
    """Requests to both hosts without a pause; the result is called to stop them and to see."""
    hosts = {name: on_host(name) for name in HOSTS}
    running = []
    for name, host in hosts.items():
        host.check_output("rm -f /tmp/loop.stop /tmp/loop.json")
        running.append(subprocess.Popen(["docker", "exec", name, "python3", "-c", LOOP]))  # pylint: disable=consider-using-with
    yield lambda: {name: read_loop(host) for name, host in hosts.items()}
    for host in hosts.values():
        host.check_output("touch /tmp/loop.stop")
    for process in running:
        process.wait(timeout=30)


@pytest.fixture
def publish(tmp_path: Path) -> Callable[..., str]:
    """Build a release of the stand-in and put it where the hosts download from. Returns its SHA-256 as sha256sum.txt names it."""

    def build(version: str, *options: str) -> str:
        out = tmp_path / f"v{version}"
        command = [sys.executable, "-m", "ollama_double.release", "--version", version, "--arch", ARCHIVE.split("-")[2].split(".")[0], "--out", str(out)]
        subprocess.run([*command, *options], env={**os.environ, "PYTHONPATH": str(PROJECT / "tests/double")}, check=True, capture_output=True)
        subprocess.run(["docker", "cp", str(out), f"{UPSTREAM}:/srv/files/"], check=True, capture_output=True)
        return (out / "sha256sum.txt").read_text(encoding="utf-8").split()[0]

    return build
