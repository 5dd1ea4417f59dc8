# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The Ollama exporter against real servers on loopback: good ones and all kinds of broken ones."""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

SOURCE = Path(__file__).parents[3] / "roles/ollama_exporter/files/ollama_exporter.py"

spec = importlib.util.spec_from_file_location("ollama_exporter", SOURCE)
assert spec and spec.loader
exporter = importlib.util.module_from_spec(spec)
sys.modules["ollama_exporter"] = exporter
spec.loader.exec_module(exporter)

TIMEOUT = 0.4
GOOD = {
    "/api/version": {"version": "0.34.4"},
    "/api/tags": {"models": [{"name": "llama3.2:1b", "size": 1321098329, "digest": "a" * 64}, {"name": "all-minilm:latest", "size": 45960996}]},
    "/api/ps": {"models": [{"name": "llama3.2:1b", "size": 2000, "size_vram": 1900, "expires_at": "2318-01-01T00:00:00Z"}]},
}

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers a path with a value (as JSON), or with what a function does."""

    answers: dict[str, object] = {}

    def do_GET(self) -> None:
        """Called by http.server."""
        answer = self.answers[self.path]
        if callable(answer):
            answer(self)
        else:
            self.reply(json.dumps(answer).encode())

    def reply(self, body: bytes, status: int = 200, length: int | None = None) -> None:
        """Send a whole answer, or one that claims another length."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Keep quiet."""


class Server(ThreadingHTTPServer):
    """Keeps quiet when the exporter hangs up."""

    daemon_threads = True
    stopping = False

    def handle_error(self, *args: object) -> None:
        """Called by socketserver."""


@pytest.fixture
def ollama() -> Iterator[Callable[[dict[str, object]], str]]:
    """A function that starts a server with these answers on top of the good ones, and returns its URL."""
    servers = []

    def start(answers: dict[str, object]) -> str:
        server = Server(("127.0.0.1", 0), type("Handler", (Handler,), {"answers": {**GOOD, **answers}}))
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.stopping = True
        server.shutdown()
        server.server_close()
    # the exporter's thread on a dripping server ends now, before pytest does
    for thread in threading.enumerate():
        if "(run)" in thread.name:
            thread.join(5)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def parse(exposition: str) -> dict[str, float]:
    """Samples by name and labels, for example ollama_info{ollama_instance=a,version=1}."""
    return {
        f"{sample.name}{{{','.join(f'{key}={value}' for key, value in sorted(sample.labels.items()))}}}": sample.value
        for family in text_string_to_metric_families(exposition)
        for sample in family.samples
    }


def registry_of(timeout: float = TIMEOUT, **urls: str) -> CollectorRegistry:
    """A registry with a collector of these instances."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(exporter.OllamaCollector([{"name": name, "url": url} for name, url in urls.items()], timeout))
    return registry


def scrape(registry: CollectorRegistry) -> dict[str, float]:
    """One scrape."""
    return parse(generate_latest(registry).decode())


def test_good_instance(ollama) -> None:
    samples = scrape(registry_of(a=ollama({})))
    for name, value in {
        "ollama_health_status{ollama_instance=a}": 1,
        "ollama_health_checks_total{ollama_instance=a,result=ok}": 1,
        "ollama_health_checks_total{ollama_instance=a,result=timeout}": 0,
        "ollama_info{ollama_instance=a,version=0.34.4}": 1,
        "ollama_models_available{ollama_instance=a}": 2,
        "ollama_models_loaded{ollama_instance=a}": 1,
        "ollama_model_size_bytes{model=llama3.2:1b,ollama_instance=a}": 1321098329,
        "ollama_model_size_bytes{model=all-minilm:latest,ollama_instance=a}": 45960996,
        "ollama_model_loaded_size_bytes{model=llama3.2:1b,ollama_instance=a}": 2000,
        "ollama_model_vram_bytes{model=llama3.2:1b,ollama_instance=a}": 1900,
        "ollama_exporter_scrape_errors_total{endpoint=ps,ollama_instance=a}": 0,
    }.items():
        assert samples[name] == value, name
    assert 0 < samples["ollama_exporter_scrape_duration_seconds{ollama_instance=a}"] < TIMEOUT


def test_empty_store_is_no_error(ollama) -> None:
    samples = scrape(registry_of(a=ollama({"/api/tags": {"models": []}, "/api/ps": {"models": []}})))
    assert samples["ollama_models_available{ollama_instance=a}"] == 0
    assert samples["ollama_models_loaded{ollama_instance=a}"] == 0
    assert samples["ollama_exporter_scrape_errors_total{endpoint=tags,ollama_instance=a}"] == 0


def drip_body(handler: Handler) -> None:
    """An answer that never ends, and never pauses long enough for a timeout of a single read."""
    handler.send_response(200)
    handler.send_header("Content-Length", "10000")
    handler.end_headers()
    while not handler.server.stopping:
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(TIMEOUT / 8)


def drip_headers(handler: Handler) -> None:
    """The same with headers, which http.client reads on its own."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Drip: ")
    while not handler.server.stopping:
        handler.wfile.write(b"x")
        handler.wfile.flush()
        time.sleep(TIMEOUT / 8)


def redirect(handler: Handler) -> None:
    """A redirect to a good answer."""
    handler.send_response(302)
    handler.send_header("Location", "/api/version-elsewhere")
    handler.send_header("Content-Length", "0")
    handler.end_headers()


BROKEN: dict[str, tuple[object, str]] = {
    "hung": (lambda handler: time.sleep(TIMEOUT * 3), "timeout"),
    "dripping body": (drip_body, "timeout"),
    "dripping headers": (drip_headers, "timeout"),
    "html": (lambda handler: handler.reply(b"<!DOCTYPE html><html><body>Welcome to nginx!</body></html>"), "invalid"),
    "half json": (lambda handler: handler.reply(b'{"version": "0.3', length=30), "invalid"),
    "whole json, but cut short": (lambda handler: handler.reply(b'{"version": "0.34.4"}', length=30), "invalid"),
    "broken json": (lambda handler: handler.reply(b'{"version": "0.3'), "invalid"),
    "not utf-8": (lambda handler: handler.reply(b'{"version": "\xff\xfe"}'), "invalid"),
    "deep json": (lambda handler: handler.reply(b"[" * 200_000), "invalid"),
    "empty": (lambda handler: handler.reply(b""), "invalid"),
    "no http": (lambda handler: handler.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n"), "invalid"),
    "hangs up": (lambda handler: None, "refused"),
    "500": (lambda handler: handler.reply(b'{"error": "disk on fire"}', status=500), "status"),
    "403 without body": (lambda handler: handler.reply(b"", status=403), "status"),
    "redirect": (redirect, "status"),
    "list": ([], "invalid"),
    "null": (None, "invalid"),
    "number for a version": ({"version": 34}, "invalid"),
    "no version": ({}, "invalid"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_instance_is_a_metric(ollama, case: str) -> None:
    answer, result = BROKEN[case]
    registry = registry_of(bad=ollama({"/api/version": answer, "/api/version-elsewhere": GOOD["/api/version"]}), good=ollama({}))
    start = time.monotonic()
    samples = scrape(registry)
    assert time.monotonic() - start < TIMEOUT + 0.9
    assert samples["ollama_health_status{ollama_instance=bad}"] == 0
    assert {name: value for name, value in samples.items() if "checks_total{ollama_instance=bad" in name and value} == {
        f"ollama_health_checks_total{{ollama_instance=bad,result={result}}}": 1
    }
    assert samples["ollama_exporter_scrape_errors_total{endpoint=version,ollama_instance=bad}"] == 1
    assert not any("ollama_instance=bad" in name and ("models" in name or "info" in name) for name in samples)
    assert samples["ollama_health_status{ollama_instance=good}"] == 1


def test_refused_connection() -> None:
    samples = scrape(registry_of(a=f"http://127.0.0.1:{free_port()}"))
    assert samples["ollama_health_status{ollama_instance=a}"] == 0
    assert samples["ollama_health_checks_total{ollama_instance=a,result=refused}"] == 1


@pytest.mark.parametrize(
    "answer",
    [
        [],
        {},
        {"models": None},
        {"models": {}},
        {"models": ["llama"]},
        {"models": [{"size": 1}]},
        {"models": [{"name": None, "size": 1}]},
        {"models": [{"name": "m", "size": "big"}]},
        {"models": [{"name": "m", "size": True}]},
        {"models": [{"name": "m"}]},
    ],
)
@pytest.mark.parametrize("endpoint, metric", [("tags", "ollama_models_available"), ("ps", "ollama_models_loaded")])
def test_wrong_shape_leaves_the_metric_out(ollama, endpoint: str, metric: str, answer: object) -> None:
    samples = scrape(registry_of(a=ollama({f"/api/{endpoint}": answer})))
    assert samples["ollama_health_status{ollama_instance=a}"] == 1
    assert f"{metric}{{ollama_instance=a}}" not in samples
    assert samples[f"ollama_exporter_scrape_errors_total{{endpoint={endpoint},ollama_instance=a}}"] == 1


@pytest.mark.parametrize("answer", [lambda handler: time.sleep(TIMEOUT * 3), drip_body])
def test_hung_list_of_loaded_models_does_not_hide_the_rest(ollama, answer: Answer) -> None:
    samples = scrape(registry_of(a=ollama({"/api/ps": answer})))
    assert samples["ollama_health_status{ollama_instance=a}"] == 1
    assert samples["ollama_models_available{ollama_instance=a}"] == 2
    assert samples["ollama_exporter_scrape_errors_total{endpoint=ps,ollama_instance=a}"] == 1


def test_names_that_would_break_the_exposition(ollama) -> None:
    names = ['quote"d', "new\nline", "back\\slash", "half \ud800 pair", "twice", "twice"]
    url = ollama({"/api/tags": {"models": [{"name": name, "size": 7} for name in names]}})
    text = generate_latest(registry_of(a=url)).decode()
    assert text.count('model="twice"') == 1
    assert 'model="half ? pair"' in text
    assert parse(text)["ollama_models_available{ollama_instance=a}"] == 5


def test_answer_of_endless_size(ollama, monkeypatch) -> None:
    monkeypatch.setattr(exporter, "MAX_ANSWER_BYTES", 1000)
    samples = scrape(registry_of(a=ollama({"/api/tags": lambda handler: handler.reply(b" " * 100_000 + b'{"models": []}')})))
    assert "ollama_models_available{ollama_instance=a}" not in samples


def test_counters_count_on_and_an_instance_comes_back(ollama) -> None:
    statuses = iter([500, 500, 200])
    registry = registry_of(a=ollama({"/api/version": lambda handler: handler.reply(b'{"version": "1.2.3"}', status=next(statuses))}))
    assert [scrape(registry)["ollama_health_status{ollama_instance=a}"] for _time in range(2)] == [0, 0]
    samples = scrape(registry)
    assert samples["ollama_health_status{ollama_instance=a}"] == 1
    assert samples["ollama_health_checks_total{ollama_instance=a,result=status}"] == 2
    assert samples["ollama_health_checks_total{ollama_instance=a,result=ok}"] == 1


def test_hung_instances_are_asked_at_once(ollama) -> None:
    urls = {f"i{number}": ollama({"/api/version": lambda handler: time.sleep(TIMEOUT * 3)}) for number in range(8)}
    start = time.monotonic()
    samples = scrape(registry_of(**urls))
    assert time.monotonic() - start < TIMEOUT * 3
    assert sum(value for name, value in samples.items() if "result=timeout" in name) == 8


def test_no_pile_of_threads(ollama) -> None:
    before = {thread.name for thread in threading.enumerate()}
    registry = registry_of(timeout=0.2, a=ollama({"/api/version": drip_headers}))
    for _time in range(3):
        scrape(registry)
    new = [thread for thread in threading.enumerate() if thread.name not in before and "(run)" in thread.name]
    assert len(new) == 1


def run_exporter(tmp_path: Path, config: str) -> subprocess.Popen[str]:
    """The exporter as the unit runs it, but with a proxy that must not matter."""
    path = tmp_path / "config.json"
    path.write_text(config, encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, "-I", str(SOURCE), str(path)], env={"http_proxy": f"http://127.0.0.1:{free_port()}"}, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("kind", ["good", "refused"])
def test_program(ollama, tmp_path: Path, kind: str) -> None:
    port = free_port()
    instance = ollama({}) if kind == "good" else f"http://127.0.0.1:{free_port()}"
    config = {"address": "127.0.0.1", "port": port, "timeout_seconds": 1, "instances": [{"name": "default", "url": instance}]}
    process = run_exporter(tmp_path, json.dumps(config))
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
                    samples = parse(response.read().decode())
                break
            except OSError:
                assert time.monotonic() < deadline and process.poll() is None, process.stderr
                time.sleep(0.05)
        # another address of the host is not answered
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.2", port), timeout=1)
    finally:
        process.terminate()
        _stdout, stderr = process.communicate(timeout=10)
    assert samples["ollama_health_status{ollama_instance=default}"] == (kind == "good")
    assert "Traceback" not in stderr


@pytest.mark.parametrize("config", ["{", "{}", '{"address": "192.0.2.1", "port": 9778, "timeout_seconds": 3, "instances": []}'])
def test_program_that_cannot_start_says_why_in_a_line(tmp_path: Path, config: str) -> None:
    process = run_exporter(tmp_path, config)
    _stdout, stderr = process.communicate(timeout=10)
    assert process.returncode == 1
    assert len(stderr.splitlines()) == 1 and "cannot start" in stderr
