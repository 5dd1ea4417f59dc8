# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The Ollama exporter against real servers on loopback: good ones and all kinds of broken ones."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[3]
ROLE = ROOT / "roles/ollama_exporter"
SOURCE = ROLE / "files/ollama_exporter.py"

spec = importlib.util.spec_from_file_location("ollama_exporter", SOURCE)
assert spec and spec.loader
exporter = importlib.util.module_from_spec(spec)
sys.modules["ollama_exporter"] = exporter
spec.loader.exec_module(exporter)

TIMEOUT = 0.4
GOOD = {
    "/api/version": {"version": "0.34.4"},
    "/api/tags": {"models": [{"name": "llama3.2:1b", "size": 1321098329, "digest": "a" * 64}, {"name": "all-minilm:latest", "size": 45960996}]},
    "/api/ps": {"models": [{"name": "llama3.2:1b", "size": 2000, "size_vram": 1900, "expires_at": "2318-07-04T22:27:55.123456789+02:00"}]},
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


def registry_of(timeout: float = TIMEOUT, more: dict[str, object] | None = None, **urls: str) -> CollectorRegistry:
    """A registry with a collector of these instances; more: what the configuration says of each."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(exporter.OllamaCollector([{"name": name, "url": url, **(more or {})} for name, url in urls.items()], timeout))
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
        "ollama_model_gpu_ratio{model=llama3.2:1b,ollama_instance=a}": 0.95,
        "ollama_model_expires_timestamp_seconds{model=llama3.2:1b,ollama_instance=a}": math.inf,
        "ollama_instance_gpu_expected{ollama_instance=a}": 0,
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
    assert not any("ollama_instance=bad" in name and ("_model" in name or "info" in name) for name in samples)
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
        {"models": [{"name": "m", "size": -1}]},
        # no float has room for it
        {"models": [{"name": "m", "size": 10**400}]},
        {"models": [{"name": "m", "size": float("nan")}]},
        {"models": [{"name": "m", "size": 1, "size_vram": None}]},
        {"models": [{"name": "m" * 10_000, "size": 1}]},
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


def loaded(**values: object) -> dict[str, object]:
    """An answer of /api/ps with one model."""
    return {"/api/ps": {"models": [{"name": "m:1b", "size": 1000, "size_vram": 1000, **values}]}}


@pytest.mark.parametrize(
    "expires, wanted",
    [
        ("2026-01-02T03:04:05Z", 1767323045),
        ("2026-01-02T03:04:05.999999999Z", 1767323045),
        ("2026-01-02T03:04:05.5-05:00", 1767341045),
        # the CLI shows Forever
        ("2318-07-04T22:27:55.123456789Z", math.inf),
        ("9999-12-31T23:59:59-12:00", math.inf),
        # Go's zero time
        ("0001-01-01T00:00:00Z", None),
        ("2026-13-01T00:00:00Z", None),
        ("2026-01-02T03:04:05+99:00", None),
        ("soon", None),
        ("", None),
        (None, None),
        (1767323045, None),
    ],
)
def test_when_a_loaded_model_goes(ollama, expires: object, wanted: float | None) -> None:
    samples = scrape(registry_of(a=ollama(loaded(expires_at=expires))))
    assert samples.get("ollama_model_expires_timestamp_seconds{model=m:1b,ollama_instance=a}") == wanted
    assert samples["ollama_model_loaded_size_bytes{model=m:1b,ollama_instance=a}"] == 1000


@pytest.mark.parametrize("size, vram, wanted", [(1000, 0, 0), (1000, 250, 0.25), (1000, 1000, 1), (1000, 1001, 1), (0, 0, None)])
def test_where_a_loaded_model_runs(ollama, size: int, vram: int, wanted: float | None) -> None:
    samples = scrape(registry_of(a=ollama(loaded(size=size, size_vram=vram)), more={"gpu_expected": True}))
    assert samples.get("ollama_model_gpu_ratio{model=m:1b,ollama_instance=a}") == wanted
    assert samples["ollama_model_vram_bytes{model=m:1b,ollama_instance=a}"] == vram
    assert samples["ollama_instance_gpu_expected{ollama_instance=a}"] == 1


def test_models_against_the_inventory_and_the_lock(ollama) -> None:
    there = {
        "Good:1b": "1" * 64, "moved:1b": "2" * 64, "unlocked:latest": "3" * 64, "not-ours:1b": "4" * 64, "no-digest:1b": None, "bad-digest:1b": 5,
        "mirror:5000/lib/other:1b": "6" * 64,
    }
    wanted = {
        "good:1b": f"sha256:{'1' * 64}", "moved:1b": f"sha256:{'f' * 64}", "unlocked": None, "gone:1b": f"sha256:{'7' * 64}", "gone-too:1b": None,
        "no-digest:1b": f"sha256:{'8' * 64}", "bad-digest:1b": f"sha256:{'9' * 64}", "Mirror:5000/lib/other:1b": f"sha256:{'6' * 64}",
    }
    url = ollama({"/api/tags": {"models": [{"name": name, "size": 1, "digest": digest} for name, digest in there.items()]}})
    samples = scrape(registry_of(a=url, more={"models": wanted}))

    def found(metric: str) -> dict[str, float]:
        prefix = f"ollama_model_{metric}{{model="
        return {name.removeprefix(prefix).rpartition(",")[0]: value for name, value in samples.items() if name.startswith(prefix)}

    # in the spelling of the inventory, so that the series does not change when the model comes
    assert found("missing") == {name: name.startswith("gone") for name in wanted}
    # in the spelling of the store, as the other figures of a model; nothing of those that nobody can judge
    assert found("stale") == {"Good:1b": 0, "moved:1b": 1, "mirror:5000/lib/other:1b": 0}


def test_no_list_of_models_is_no_missing_model(ollama) -> None:
    url = ollama({"/api/tags": lambda handler: handler.reply(b"", status=500)})
    samples = scrape(registry_of(a=url, more={"models": {"m:1b": None}}))
    assert not any("missing" in name or "stale" in name for name in samples)


# --- stores --------------------------------------------------------------------------------------------------------------------------------

def write(path: Path, data: bytes) -> Path:
    """A file, with its directories."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def add_model(store: Path, name: str, *layers: bytes) -> Path:
    """A model of the default registry in a store; the path of its manifest comes back."""
    digests = [hashlib.sha256(layer).hexdigest() for layer in layers]
    for digest, layer in zip(digests, layers):
        write(store / f"blobs/sha256-{digest}", layer)
    entries = [{"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}", "size": 1} for digest in digests]
    return write(store / "manifests/registry.ollama.ai/library" / name, json.dumps({"layers": entries}).encode())


def of_stores(registry: CollectorRegistry, done=lambda samples: any("scan_timestamp" in name for name in samples)) -> dict[str, float]:
    """What a scrape says of stores, when the thread that looks through them is done."""
    deadline = time.monotonic() + 5
    while not done(samples := scrape(registry)):
        assert time.monotonic() < deadline, samples
        time.sleep(0.01)
    return {name: value for name, value in samples.items() if name.startswith("ollama_store")}


def test_store(ollama, tmp_path: Path) -> None:
    add_model(tmp_path, "llama3.2/1b", b"weights", b"template")
    add_model(tmp_path, "other/latest", b"weights")
    write(tmp_path / f"blobs/sha256-{'0' * 64}", b"orphan")
    write(tmp_path / f"blobs/sha256-{'1' * 64}-partial", b"x" * 5000)
    write(tmp_path / f"blobs/sha256-{'1' * 64}-partial-0", b"{}")
    write(tmp_path / f".gpufleet/staging/sha256-{'2' * 64}.part", b"x" * 5000)
    registry = registry_of(a=ollama({}), b=ollama({}), more={"store": str(tmp_path)})
    samples = of_stores(registry)
    wanted = {"blobs": 3, "bytes": 21, "partial_files": 3, "orphaned_blobs": 1, "orphaned_bytes": 6, "unreadable_manifests": 0, "scan_errors_total": 0}
    for name, value in wanted.items():
        # once, although two instances have it
        assert samples[f"ollama_store_{name}{{store={tmp_path}}}"] == value, name
    assert samples[f"ollama_store_partial_bytes{{store={tmp_path}}}"] >= 10_002
    assert time.time() - samples[f"ollama_store_scan_timestamp_seconds{{store={tmp_path}}}"] < 10
    assert 0 < samples[f"ollama_store_scan_duration_seconds{{store={tmp_path}}}"] < 5


def test_store_that_is_not_there_yet_is_empty(ollama, tmp_path: Path) -> None:
    samples = of_stores(registry_of(a=ollama({}), more={"store": str(tmp_path / "none")}))
    assert {value for name, value in samples.items() if "scan" not in name} == {0} and not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "data", [b"", b"<html>", b"[" * 200_000, b'{"layers": [{"size": 1}]}', b'{"layers": [{"digest": 1, "size": 1e999}]}', b"x" * (5 << 20)]
)
def test_manifest_that_cannot_be_read_hides_orphans(ollama, tmp_path: Path, data: bytes) -> None:
    add_model(tmp_path, "llama3.2/1b", b"weights")
    write(tmp_path / "manifests/registry.ollama.ai/library/broken/latest", data)
    write(tmp_path / f"blobs/sha256-{'0' * 64}", b"orphan, or not")
    samples = of_stores(registry_of(a=ollama({}), more={"store": str(tmp_path)}))
    assert samples[f"ollama_store_unreadable_manifests{{store={tmp_path}}}"] == 1
    assert samples[f"ollama_store_blobs{{store={tmp_path}}}"] == 2
    assert not any("orphaned" in name for name in samples)


def test_store_that_cannot_be_read_is_a_metric(ollama, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(exporter, "SCAN_SECONDS", 0)
    add_model(tmp_path, "llama3.2/1b", b"weights")
    registry = registry_of(a=ollama({}), more={"store": str(tmp_path)})
    assert f"ollama_store_bytes{{store={tmp_path}}}" in of_stores(registry)

    def closed(*_unused: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(exporter.Store, "used", closed)
    errors = f"ollama_store_scan_errors_total{{store={tmp_path}}}"
    samples = of_stores(registry, lambda found: found[errors] > 0)
    # the old figures do not stay as if they were today's
    assert set(samples) == {errors}
    monkeypatch.undo()
    assert f"ollama_store_bytes{{store={tmp_path}}}" in of_stores(registry)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_somebody_without_rights_can_read_a_store() -> None:
    # the exporter's user owns nothing; pytest's own folders are closed to it
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        store = exporter.Store(f"{folder}/models")
        mask = os.umask(0o077)
        try:
            store.make_directories()
        finally:
            os.umask(mask)
        add_model(Path(store.path), "llama3.2/1b", b"weights")
        write(Path(store.part_path(f"sha256:{'2' * 64}")), b"x" * 5000).chmod(0o600)
        os.seteuid(65534)
        try:
            figures = exporter.look_through(store)
        finally:
            os.seteuid(0)
    assert (figures.blobs, figures.bytes, figures.partials, figures.orphans) == (1, 7, 1, 0)


def test_disk_that_hangs_holds_up_no_scrape(ollama, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(exporter, "SCAN_SECONDS", 0)
    gate, begun = threading.Event(), []

    def hang(_store: object) -> dict[str, int]:
        begun.append(1)
        gate.wait(20)
        return {}

    monkeypatch.setattr(exporter.Store, "sizes", hang)
    registry = registry_of(a=ollama({}), more={"store": str(tmp_path)})
    try:
        for _time in range(3):
            start = time.monotonic()
            samples = scrape(registry)
            assert time.monotonic() - start < TIMEOUT
            assert samples["ollama_health_status{ollama_instance=a}"] == 1
            assert not any("ollama_store_bytes" in name for name in samples)
        # and no pile of threads that hang
        assert len(begun) == 1
    finally:
        gate.set()
    assert f"ollama_store_bytes{{store={tmp_path}}}" in of_stores(registry)


def test_disk_is_looked_through_once_a_minute(ollama, tmp_path: Path, monkeypatch) -> None:
    looks = []
    look_through = exporter.look_through
    monkeypatch.setattr(exporter, "look_through", lambda store: looks.append(1) or look_through(store))
    clock = [1000.0]
    registry = registry_of(a=ollama({}), more={"store": str(tmp_path)})
    of_stores(registry)
    for _time in range(5):
        scrape(registry)
    assert len(looks) == 1
    monotonic = time.monotonic
    monkeypatch.setattr(exporter.time, "monotonic", lambda: monotonic() + clock[0])
    scrape(registry)
    of_stores(registry, lambda _samples: len(looks) > 1)
    for _time in range(5):
        scrape(registry)
    assert len(looks) == 2


# --- the program ---------------------------------------------------------------------------------------------------------------------------

def install(folder: Path) -> Path:
    """The program as the role installs it: with the modules that it names, and no others."""
    role = yaml.safe_load((ROLE / "vars/main.yml").read_text(encoding="utf-8"))
    modules = folder / "ollama_exporter/ansible_collections/gpufleet/ollama/plugins/module_utils"
    assert role["__ollama_exporter_modules_dir"].endswith("/ansible_collections/gpufleet/ollama/plugins/module_utils")
    assert role["__ollama_exporter_library_dir"] == role["__ollama_exporter_source_path"].removesuffix(".py")
    modules.mkdir(parents=True)
    (folder / "ollama_exporter/ansible_collections/__init__.py").touch()
    for name in role["__ollama_exporter_modules"]:
        shutil.copy(ROOT / "plugins/module_utils" / name, modules)
    return Path(shutil.copy(SOURCE, folder))


def run_exporter(tmp_path: Path, config: str) -> subprocess.Popen[str]:
    """The exporter as the unit runs it, but with a proxy that must not matter."""
    path = tmp_path / "config.json"
    path.write_text(config, encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, "-I", str(install(tmp_path)), str(path)], env={"http_proxy": f"http://127.0.0.1:{free_port()}"}, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("kind", ["good", "refused"])
def test_program(ollama, tmp_path: Path, kind: str) -> None:
    port = free_port()
    instance = ollama({}) if kind == "good" else f"http://127.0.0.1:{free_port()}"
    item = {"name": "default", "url": instance, "store": str(tmp_path / "store"), "gpu_expected": True, "models": {"llama3.2:1b": None}}
    config = {"address": "127.0.0.1", "port": port, "timeout_seconds": 1, "instances": [item]}
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
    assert ("ollama_model_missing{model=llama3.2:1b,ollama_instance=default}" in samples) == (kind == "good")
    assert "Traceback" not in stderr


@pytest.mark.parametrize("config", ["{", "{}", "[]", '{"address": "192.0.2.1", "port": 9778, "timeout_seconds": 3, "instances": []}'])
def test_program_that_cannot_start_says_why_in_a_line(tmp_path: Path, config: str) -> None:
    process = run_exporter(tmp_path, config)
    _stdout, stderr = process.communicate(timeout=10)
    assert process.returncode == 1
    assert len(stderr.splitlines()) == 1 and "cannot start" in stderr
