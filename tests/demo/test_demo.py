"""make demo and make demo-down as a user runs them; slow (minutes), in this order."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Iterator

import pytest

ROOT = Path(__file__).resolve().parents[2]
# not the demo's usual ports, which something else may hold
PORTS = {"GPUFLEET_GATEWAY_PORT": "18443", "GPUFLEET_PROMETHEUS_PORT": "19090"}
HOSTS = ("gpufleet-gateway", "gpufleet-gpu1", "gpufleet-gpu2", "gpufleet-monitoring")
CONTAINERS = {*HOSTS, "gpufleet-demo-upstream"}
NETWORK = "gpufleet-demo"


def make(target: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run make and return what it printed."""
    environment = {**os.environ, "OLLAMA": "standin", **PORTS, **variables}
    return subprocess.run(["make", target], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def nothing_changed(output: str) -> bool:
    """Whether a play of all hosts says so."""
    recap = re.findall(r"^(\S+)\s+: ok=\d+\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", output, re.M)
    return sorted(recap) == [(host, "0", "0", "0") for host in HOSTS]


def listed(*command: str) -> set[str]:
    """Names that a docker command lists."""
    return set(subprocess.run(["docker", *command], capture_output=True, text=True, check=True).stdout.split())


def containers() -> set[str]:
    """The demo's containers that this machine has, running or not."""
    return CONTAINERS & listed("ps", "-a", "--format", "{{.Names}}")


@pytest.fixture(scope="module", autouse=True)
def clean() -> Iterator[None]:
    """No fleet before, none after. A demo that somebody left up on this machine stops the tests rather than being removed."""
    assert not containers(), "a demo fleet runs on this machine: make demo-down first"
    yield
    make("demo-down")


@pytest.fixture(scope="module", name="demo")
def killed_and_started_again(clean: None) -> Any:  # pylint: disable=unused-argument
    """Output of a make demo that follows one that was killed in the middle of the play."""
    environment = {**os.environ, "OLLAMA": "standin", **PORTS}
    with subprocess.Popen(
        ["make", "demo"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as first:
        assert first.stdout is not None
        for line in first.stdout:
            if "Install the release" in line or "ollama : Install Ollama" in line:
                break
        os.killpg(first.pid, signal.SIGKILL)
    assert first.returncode != 0
    time.sleep(1)
    return make("demo")


def test_demo_streams_an_answer(demo: Any) -> None:
    """From half-way to a streamed answer over TLS with a key, with a wrong key refused and all targets up."""
    assert demo.returncode == 0, demo.stdout[-3000:] + demo.stderr[-1000:]
    assert "OLLAMA: the STAND-IN" in demo.stdout
    pieces = [int(number) for number in re.findall(r"\[(\d+) pieces, the first after", demo.stdout)]
    assert len(pieces) == 2 and min(pieces) > 3
    first_last = re.findall(r"first after ([\d.]+) s, the last after ([\d.]+) s", demo.stdout)
    assert all(float(last) - float(first) > 0.1 for first, last in first_last)
    assert "A wrong key gets 401." in demo.stdout
    targets = re.findall(r"^  (\w+) +(\S+) +http://\S+/metrics$", demo.stdout, re.M)
    assert len(targets) >= 7 and {state for state, _job in targets} == {"up"}


def test_the_printed_curl_line_works(demo: Any) -> None:
    """The line is copied and run as it stands."""
    line = next(line for line in demo.stdout.splitlines() if line.startswith("curl "))
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0 and '"done":true' in done.stdout.replace(" ", "")


@pytest.mark.usefixtures("demo")
def test_the_fleet_passes_the_audit(tmp_path: Path) -> None:
    """All that is required of a service for production, and nothing is changed."""
    command = [str(ROOT / ".venv/bin/ansible-playbook"), "-i", "inventories/demo", "playbooks/audit.yml", "-e", f"audit_dir={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:]
    assert nothing_changed(done.stdout)
    assert re.search(r"(2\d|3\d) pass, \d fail \(0 of them required\)", done.stdout) and (tmp_path / "audit.html").is_file()


@pytest.mark.usefixtures("demo")
def test_another_make_demo_changes_nothing() -> None:
    """What is done is skipped: hosts and upstream are the same containers, and the playbook finds nothing to do."""
    before = listed("ps", "-q", "--no-trunc", "--filter", f"network={NETWORK}")
    assert len(before) == len(CONTAINERS)
    done = make("demo")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert nothing_changed(done.stdout), done.stdout[-3000:]
    assert listed("ps", "-q", "--no-trunc", "--filter", f"network={NETWORK}") == before


@pytest.mark.usefixtures("demo")
def test_other_ports_for_a_running_fleet() -> None:
    """The fleet keeps its ports: one sentence."""
    done = make("demo", GPUFLEET_GATEWAY_PORT="18444")
    assert done.returncode != 0 and "run make demo-down" in done.stderr


@pytest.mark.usefixtures("demo")
def test_down_removes_every_trace() -> None:
    """No container, no network, no secret, no generated file."""
    assert containers() == CONTAINERS and NETWORK in listed("network", "ls", "--format", "{{.Name}}")
    assert make("demo-down").returncode == 0
    assert containers() == set()
    assert NETWORK not in listed("network", "ls", "--format", "{{.Name}}")
    assert not (ROOT / "inventories/demo/.generated").exists()
    assert not (ROOT / "inventories/demo/group_vars/all/generated.yml").exists()


def test_port_in_use() -> None:
    """One sentence that names port and variable, before anything is started."""
    make("demo-down")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = make("demo", GPUFLEET_GATEWAY_PORT=str(port))
    assert done.returncode != 0 and f"port {port} of this machine is in use" in done.stderr and "GPUFLEET_GATEWAY_PORT" in done.stderr
    assert "PLAY" not in done.stdout


def test_full_disk(tmp_path: Path) -> None:
    """A cache folder on a full disk (a small tmpfs): one sentence with the numbers."""
    if os.getuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(tmp_path)], check=False).returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        done = make("demo", GPUFLEET_CACHE=str(tmp_path))
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert done.returncode != 0 and f"the disk of the cache folder {tmp_path} is full: 8 MiB are free" in done.stderr


def test_missing_engine(tmp_path: Path) -> None:
    """No engine, and nothing to install one with: one sentence."""
    if shutil.which("docker", path="/usr/sbin:/sbin"):
        pytest.skip("bootstrap finds the docker command of this machine whatever PATH says")
    for name in ("bash", "env", "uname", "python3", "mkdir", "df", "awk", "cat", "sha256sum", "cut", "ln", "id", "dirname", "flock", "basename", "touch"):
        (tmp_path / name).symlink_to(shutil.which(name) or "/bin/false")
    command = ["bash", "tests/rig/bootstrap", "demo"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "There is no Docker engine on this machine. This machine has no apt-get" in done.stderr
