# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The stand-in as a process: order of the start, signals, key, what it prints."""
from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

DOUBLE = Path(__file__).resolve().parents[2] / "double"


@pytest.fixture(name="run")
def fixture_run(tmp_path):
    """Start processes of the command; they are gone at the end of the test."""
    running = []

    def start(*arguments, **environ):
        full = {"PATH": os.environ["PATH"], "PYTHONPATH": str(DOUBLE), "HOME": str(tmp_path), "OLLAMA_HOST": "127.0.0.1:0", **environ}
        command = [sys.executable, "-m", "ollama_double", *arguments]
        running.append(subprocess.Popen(command, env=full, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))  # pylint: disable=consider-using-with
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


def listening(process):
    """Read the log up to the line that names the port; (log so far, port)."""
    log = ""
    for line in process.stderr:
        log += line
        if found := re.search(r"Listening on \S*:([0-9]+) \(version", line):
            return log, int(found[1])
    raise AssertionError(f"it does not listen: {log}")


def get(port, path, host=None, timeout=5.0, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    connection.request("GET", path, headers={**({"Host": host} if host else {}), **headers})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_the_port_is_open_before_anything_answers(run):
    process = run("serve", OLLAMA_DOUBLE_START_SECONDS="0.8", OLLAMA_DOUBLE_VERSION="0.34.4")
    log, port = listening(process)
    assert log.startswith("time=") and "stand-in" in log.splitlines()[0]
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=1):
        pass
    with pytest.raises(TimeoutError):
        get(port, "/api/version", timeout=0.2)
    assert get(port, "/api/version") == (200, '{"version":"0.34.4"}')
    assert time.monotonic() - began > 0.6
    assert 'msg="inference compute" id=' in process.stderr.readline()
    assert 'msg="vram-based default context"' in process.stderr.readline()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_at_once_with_0(run, number):
    process = run("serve")
    listening(process)
    process.send_signal(number)
    assert process.wait(2) == 0


def test_the_key_is_made_once(run, tmp_path):
    key = tmp_path / ".ollama" / "id_ed25519"
    process = run("serve")
    listening(process)
    first = key.read_text(encoding="ascii")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert "stand-in" in first
    assert key.with_suffix(".pub").exists()
    listening(run("serve"))
    assert key.read_text(encoding="ascii") == first


def test_no_place_for_the_key_no_start(run, tmp_path):
    (tmp_path / "file").write_text("", encoding="ascii")
    process = run("serve", HOME=str(tmp_path / "file"))
    assert process.wait(5) == 1
    assert "Error: " in process.stderr.read()


@pytest.mark.parametrize(("environ", "status", "text"), [
    ({"OLLAMA_DOUBLE_EXIT_AT_START": "CUDA is too old"}, 1, "Error: CUDA is too old"),
    ({"OLLAMA_ORIGINS": "no-scheme"}, 2, "panic: bad origin"),
    ({"OLLAMA_HOST": "192.0.2.1:80"}, 1, "Error: listen tcp 192.0.2.1:80: "),
])
def test_starts_that_fail(run, environ, status, text):
    process = run("serve", **environ)
    assert process.wait(5) == status
    assert text in process.stderr.read()


def test_gpus_in_the_log(run):
    process = run("serve", OLLAMA_DOUBLE_VRAM="gpu", CUDA_VISIBLE_DEVICES="GPU-aaaa,GPU-bbbb")
    listening(process)
    lines = [process.stderr.readline() for _number in range(3)]
    assert "id=GPU-aaaa" in lines[0] and "library=CUDA" in lines[0] and "id=GPU-bbbb" in lines[1]
    assert 'total_vram="48.0 GiB" default_num_ctx=262144' in lines[2]


def test_version_of_the_server_and_of_the_program(run):
    _log, port = listening(run("serve", OLLAMA_DOUBLE_VERSION="0.34.4"))
    same = run("--version", OLLAMA_HOST=f"127.0.0.1:{port}", OLLAMA_DOUBLE_VERSION="0.34.4")
    assert same.communicate(timeout=5)[0] == "ollama version is 0.34.4\n"
    other = run("-v", OLLAMA_HOST=f"0.0.0.0:{port}", OLLAMA_DOUBLE_VERSION="0.35.0")
    assert other.communicate(timeout=5)[0] == "ollama version is 0.34.4\nWarning: client version is 0.35.0\n"
    alone = run("-v", OLLAMA_HOST="127.0.0.1:1")
    assert alone.communicate(timeout=5)[0] == "Warning: could not connect to a running Ollama instance\nWarning: client version is 0.0.0\n"
    assert alone.returncode == 0


def test_hidden_models(pulled, start_server):
    client, model = pulled()
    assert model in {entry["name"] for entry in client.get("/api/tags")["models"]}
    hidden = start_server(OLLAMA_MODELS=str(client.app.store.root), OLLAMA_DOUBLE_HIDE_MODELS="1")
    assert hidden.get("/api/tags") == {"models": []}
    assert hidden.get("/v1/models") == {"object": "list", "data": None}


def test_cloud_switch(start_server):
    client = start_server(OLLAMA_NO_CLOUD="1")
    assert client.get("/api/status") == {"cloud": {"disabled": True, "source": "env"}}
    answer = client.post("/api/generate", {"model": "gpt-oss:120b-cloud", "prompt": "x"})
    assert answer == (403, {"error": "ollama cloud is disabled: remote model is unavailable"})


@pytest.mark.parametrize(("host", "status"), [
    ("evil.example", 403), ("8.8.8.8", 403), ("localhost:1", 200), ("10.1.2.3", 200), ("[::1]:11434", 200), ("gpu1.internal", 200),
    ("a.localhost", 200), ("printer.local", 200), (socket.gethostname(), 200), ("0.0.0.0", 200),
])
def test_host_check_on_loopback(start_server, host, status):
    port = int(start_server().host.rpartition(":")[2])
    assert get(port, "/api/version", host)[0] == status


def test_no_host_check_on_other_addresses(start_server):
    port = int(start_server(OLLAMA_HOST="0.0.0.0:0").host.rpartition(":")[2])
    assert get(port, "/api/version", "evil.example")[0] == 200


@pytest.mark.parametrize(("origin", "allowed"), [
    ("http://localhost:3000", True), ("https://127.0.0.1", True), ("app://x", True), ("http://evil.example", False),
    ("https://chat.example", True), ("https://a.fleet.example", True), ("http://a.fleet.example", False),
])
def test_origins(start_server, origin, allowed):
    port = int(start_server(OLLAMA_ORIGINS="https://chat.example,https://*.fleet.example").host.rpartition(":")[2])
    assert get(port, "/api/version", Origin=origin)[0] == (200 if allowed else 403)
