# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Prometheus exporter for the Ollama instances of a host, since Ollama has no metrics of its own.

usage: ollama_exporter.py CONFIG
CONFIG is a JSON file: {"address": "10.0.0.5", "port": 9778, "timeout_seconds": 3, "instances": [{"name": …, "url": …, "store": …,
"gpu_expected": …, "models": {name: digest or null}}, …]}; models are those that the instance should have, with the digests that the lock pins.

Every scrape asks every instance anew, all of them at once, and is over after the timeout whatever an instance does. An
instance that does not answer is a metric (ollama_health_status 0), never a failed scrape. The stores on disk are looked
through beside the scrapes, and not at each.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import http.client
import json
import logging
import math
import os
import re
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

# what the collection knows of stores and names is installed in a directory beside this file, which bears its name
sys.path.insert(0, os.path.splitext(os.path.abspath(__file__))[0])

# pylint: disable=wrong-import-position
from ansible_collections.gpufleet.ollama.plugins.module_utils._names import parse  # noqa: E402
from ansible_collections.gpufleet.ollama.plugins.module_utils._store import Store  # noqa: E402

ENDPOINTS = ("version", "tags", "ps")
# refused: no connection, or one that broke. status: not 200. invalid: not the JSON that Ollama gives
RESULTS = ("ok", "refused", "timeout", "status", "invalid")
MAX_ANSWER_BYTES = 16 * 1024 * 1024
# far above what Ollama allows a name to have
MAX_NAME_CHARACTERS = 1000
# a disk is looked through no more often
SCAN_SECONDS = 60
# keep_alive -1 is the year 2318
FOREVER_YEAR = 2200

_TIME = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})")

log = logging.getLogger("ollama_exporter")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Ollama never redirects: whoever does is not Ollama."""

    def redirect_request(self, *args: Any) -> None:
        """Follow nothing; the redirect becomes an HTTPError."""


# no proxy: the instances are this host's own
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)


class AskError(Exception):
    """An instance did not answer as Ollama does; the first argument is one of RESULTS."""


def get(url: str, deadline: float) -> Any:
    """The JSON value at C(url).

    Args: C(deadline) in seconds of time.monotonic().
    Raises AskError.
    """
    try:
        with _opener.open(url, timeout=max(deadline - time.monotonic(), 0.01)) as response:
            body = bytearray()
            # a timeout of urllib is one for each read: an answer that drips in would never end
            while chunk := response.read1(65536):
                body += chunk
                if time.monotonic() > deadline:
                    raise AskError("timeout", "the answer did not end in time")
                if len(body) > MAX_ANSWER_BYTES:
                    raise AskError("invalid", f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
            if response.length:
                raise AskError("invalid", f"the answer ends {response.length} bytes early")
        return json.loads(body)
    except urllib.error.HTTPError as error:
        error.close()
        raise AskError("status", f"HTTP status {error.code}") from None
    except (socket.timeout, TimeoutError):
        raise AskError("timeout", "no answer in time") from None
    except urllib.error.URLError as error:
        result = "timeout" if isinstance(error.reason, (socket.timeout, TimeoutError)) else "refused"
        raise AskError(result, str(error.reason)) from None
    except OSError as error:
        raise AskError("refused", str(error)) from None
    except (http.client.HTTPException, ValueError, RecursionError) as error:
        raise AskError("invalid", f"no JSON: {error!r:.200}") from None


def text(value: Any) -> str:
    """A label's value: JSON may hold half of a surrogate pair, which UTF-8 cannot."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME_CHARACTERS:
        raise AskError("invalid", f"{value!r:.50} stands where a name should")
    return value.encode("utf-8", "replace").decode("utf-8")


def size(value: Any) -> int:
    """A number of bytes. Go's int64, so that more cannot come from Ollama, nor become a float."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
        raise AskError("invalid", f"{value!r:.50} stands where a size should")
    return value


def expiry(value: Any) -> float | None:
    """Seconds since 1970, infinity for a model that stays for ever. None for what is no time: the other figures do not hang on it."""
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if not match:
        return None
    try:
        moment = datetime.datetime.fromisoformat(match[1] + match[2].replace("Z", "+00:00"))
    except ValueError:
        return None
    if moment.year >= FOREVER_YEAR:
        return math.inf
    return moment.timestamp() if moment.year >= 1970 else None


@functools.lru_cache(maxsize=10_000)
def key(name: str) -> str:
    """The same for all spellings of a model's name."""
    try:
        return parse(name).key
    except ValueError:
        return name.lower()


class Model(NamedTuple):
    """A model in an answer: size and vram in bytes, digest as 64 hex digits or nothing, expires in seconds since 1970."""

    name: str
    size: int
    vram: int
    digest: str
    expires: float | None


def models(answer: Any) -> list[Model]:
    """The models of an answer of /api/tags or /api/ps, each name once."""
    items = answer.get("models") if isinstance(answer, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise AskError("invalid", "no list of models")
    parsed = [
        Model(text(item.get("name")), size(item.get("size")), size(item.get("size_vram", 0)), _hex(item.get("digest")), expiry(item.get("expires_at")))
        for item in items
    ]
    # two samples with the same labels would cost the whole scrape
    return list({model.name: model for model in parsed}.values())


def _hex(digest: Any) -> str:
    """Ollama shows digests without the name of the hash, a lock has them with it."""
    return digest.removeprefix("sha256:") if isinstance(digest, str) else ""


def version(answer: Any) -> str:
    """The version of an answer of /api/version."""
    return text(answer.get("version") if isinstance(answer, dict) else None)


@dataclasses.dataclass
class Answers:
    """What an instance said in one scrape; None where it did not, and why in errors (endpoint -> one of RESULTS)."""

    version: str | None = None
    tags: list[Model] | None = None
    ps: list[Model] | None = None
    errors: dict[str, str] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0


def ask(name: str, url: str, timeout: float) -> Answers:
    """Ask an instance for everything. When it has no version to tell, the rest is not asked for."""
    answers = Answers()
    start = time.monotonic()
    parsers = {"version": version, "tags": models, "ps": models}
    for endpoint in ENDPOINTS:
        try:
            setattr(answers, endpoint, parsers[endpoint](get(f"{url}/api/{endpoint}", start + timeout)))
        except AskError as error:
            answers.errors[endpoint] = error.args[0]
            log.warning("instance %s, /api/%s: %s", name, endpoint, error.args[1])
            if endpoint == "version":
                break
    answers.seconds = time.monotonic() - start
    return answers


class StoreFigures(NamedTuple):
    """What was found in a store at a time (seconds since 1970): files and bytes of all blobs, of broken-off downloads, and of blobs that no
    manifest names (None while a manifest cannot be read: it may name them), the number of such manifests, and how long looking took."""

    time: float
    seconds: float
    blobs: int
    bytes: int
    partials: int
    partial_bytes: int
    orphans: int | None
    orphaned_bytes: int | None
    unreadable: int


class StoreWatch:
    """The figures of a store. A thread looks through it while somebody asks for them: a disk that hangs holds up no scrape."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.errors = 0
        self.figures: StoreFigures | None = None
        self._next = 0.0
        self._thread: threading.Thread | None = None

    def refresh(self) -> None:
        """Begin to look anew when it is time. Waits for nothing."""
        if time.monotonic() < self._next or self._thread and self._thread.is_alive():
            return
        self._next = time.monotonic() + SCAN_SECONDS
        self._thread = threading.Thread(target=self._scan, name=f"store {self.path}", daemon=True)
        self._thread.start()

    def _scan(self) -> None:
        try:
            self.figures = look_through(Store(self.path))
        except OSError as error:
            # old figures would look like present ones
            self.figures = None
            self.errors += 1
            log.warning("store %s: %s", self.path, error)


def look_through(store: Store) -> StoreFigures:
    """The figures of a store. Raises OSError where it cannot be read; one that is not there yet is empty."""
    start = time.monotonic()
    # the blobs before the manifests: one that comes meanwhile has a manifest, and is not taken for an orphan
    sizes, partials = store.sizes(), store.partials()
    used, broken = store.used()
    orphans = [length for digest, length in sizes.items() if digest not in used]
    return StoreFigures(
        time=time.time(),
        seconds=time.monotonic() - start,
        blobs=len(sizes),
        bytes=sum(sizes.values()),
        partials=len(partials),
        partial_bytes=sum(partials.values()),
        orphans=None if broken else len(orphans),
        orphaned_bytes=None if broken else sum(orphans),
        unreadable=len(broken),
    )


class Instance:
    """An instance of the configuration: name, url, gpu_expected, and models, which it should have: key -> name and digest."""

    def __init__(self, item: dict[str, Any]) -> None:
        self.name: str = item["name"]
        self.url: str = item["url"].rstrip("/")
        self.store: str = item.get("store", "")
        self.gpu_expected = bool(item.get("gpu_expected"))
        self.models = {key(name): (name, _hex(digest)) for name, digest in item.get("models", {}).items()}


class OllamaCollector:
    """A collector of prometheus_client: asks the instances whenever Prometheus asks."""

    def __init__(self, instances: list[dict[str, Any]], timeout: float) -> None:
        self._instances = {item["name"]: Instance(item) for item in instances}
        self._stores = {path: StoreWatch(path) for path in dict.fromkeys(item.store for item in self._instances.values()) if path}
        self._timeout = timeout
        # one scrape at a time: it makes the counters right, and two servers do not double the load
        self._lock = threading.Lock()
        self._running: dict[str, threading.Thread] = {}
        self._checks: Counter[tuple[str, str]] = Counter()
        self._errors: Counter[tuple[str, str]] = Counter()
        self.refresh()

    def refresh(self) -> None:
        """Have the stores looked through whose figures are old."""
        for watch in self._stores.values():
            watch.refresh()

    def collect(self) -> Iterator[Metric]:
        """All metrics of all instances."""
        with self._lock:
            found = self._ask_all()
            for name, answers in found.items():
                self._checks[name, answers.errors.get("version", "ok")] += 1
                self._errors.update((name, endpoint) for endpoint in answers.errors)
            metrics = [*self._metrics(found), *self._model_metrics(found), *self._store_metrics()]
            # now, since the next scrape has time until then
            self.refresh()
        yield from metrics

    def _ask_all(self) -> dict[str, Answers]:
        found: dict[str, Answers] = {}

        def run(name: str) -> None:
            found[name] = ask(name, self._instances[name].url, self._timeout)

        deadline = time.monotonic() + self._timeout + 0.5
        for name in self._instances:
            # a server that sends its headers byte by byte can hold a thread longer: never a second one for it
            if name not in self._running or not self._running[name].is_alive():
                self._running[name] = threading.Thread(target=run, args=(name,), daemon=True)
                self._running[name].start()
        for thread in self._running.values():
            thread.join(max(deadline - time.monotonic(), 0))
        late = Answers(errors={"version": "timeout"}, seconds=self._timeout)
        return {name: found.get(name, late) for name in self._instances}

    def _metrics(self, found: dict[str, Answers]) -> list[Metric]:
        of_instance = ["ollama_instance"]
        health = GaugeMetricFamily("ollama_health_status", "1 when /api/version answers, else 0.", labels=of_instance)
        checks = CounterMetricFamily("ollama_health_checks", "Health checks, one a scrape, by result.", labels=["ollama_instance", "result"])
        info = InfoMetricFamily("ollama", "The version of the instance.", labels=of_instance)
        gpus = GaugeMetricFamily("ollama_instance_gpu_expected", "1 when the instance should run its models on GPUs, else 0.", labels=of_instance)
        seconds = GaugeMetricFamily("ollama_exporter_scrape_duration_seconds", "How long asking the instance took.", labels=of_instance)
        errors = CounterMetricFamily("ollama_exporter_scrape_errors", "Questions without a good answer.", labels=["ollama_instance", "endpoint"])
        for name, answers in found.items():
            health.add_metric([name], int(answers.version is not None))
            gpus.add_metric([name], int(self._instances[name].gpu_expected))
            seconds.add_metric([name], answers.seconds)
            # from 0 on, so that rate() sees the first one
            for result in RESULTS:
                checks.add_metric([name, result], self._checks[name, result])
            for endpoint in ENDPOINTS:
                errors.add_metric([name, endpoint], self._errors[name, endpoint])
            if answers.version is not None:
                info.add_metric([name], {"version": answers.version})
        return [health, checks, info, gpus, seconds, errors]

    def _model_metrics(self, found: dict[str, Answers]) -> list[Metric]:
        of_instance, of_model = ["ollama_instance"], ["ollama_instance", "model"]
        available = GaugeMetricFamily("ollama_models_available", "Models in the store.", labels=of_instance)
        stored = GaugeMetricFamily("ollama_model_size_bytes", "Size of a model in the store; what models share counts for each.", labels=of_model)
        missing = GaugeMetricFamily("ollama_model_missing", "1 when a model that the instance should have is not there, else 0.", labels=of_model)
        stale = GaugeMetricFamily("ollama_model_stale", "1 when a model has another content than the lock says, else 0.", labels=of_model)
        loaded = GaugeMetricFamily("ollama_models_loaded", "Models in memory.", labels=of_instance)
        memory = GaugeMetricFamily("ollama_model_loaded_size_bytes", "Memory that a loaded model takes, GPU memory included.", labels=of_model)
        vram = GaugeMetricFamily("ollama_model_vram_bytes", "GPU memory that a loaded model takes.", labels=of_model)
        share = GaugeMetricFamily("ollama_model_gpu_ratio", "Share of a loaded model in GPU memory, 0 to 1; the rest runs on the CPU.", labels=of_model)
        expires = GaugeMetricFamily("ollama_model_expires_timestamp_seconds", "When a loaded model goes; +Inf for never.", labels=of_model)
        for name, answers in found.items():
            if answers.tags is not None:
                available.add_metric([name], len(answers.tags))
                there = {key(model.name): model for model in answers.tags}
                for model in answers.tags:
                    stored.add_metric([name, model.name], model.size)
                for wanted, (shown, digest) in self._instances[name].models.items():
                    missing.add_metric([name, shown], int(wanted not in there))
                    if digest and wanted in there and there[wanted].digest:
                        stale.add_metric([name, there[wanted].name], int(there[wanted].digest != digest))
            if answers.ps is not None:
                loaded.add_metric([name], len(answers.ps))
                for model in answers.ps:
                    labels = [name, model.name]
                    memory.add_metric(labels, model.size)
                    vram.add_metric(labels, model.vram)
                    if model.size:
                        share.add_metric(labels, min(model.vram / model.size, 1.0))
                    if model.expires is not None:
                        expires.add_metric(labels, model.expires)
        return [available, stored, missing, stale, loaded, memory, vram, share, expires]

    def _store_metrics(self) -> list[Metric]:
        described = {
            "ollama_store_blobs": ("Blobs in the store.", "blobs"),
            "ollama_store_bytes": ("Bytes of all blobs of the store.", "bytes"),
            "ollama_store_partial_files": ("Files that downloads left that are running, or broke off.", "partials"),
            "ollama_store_partial_bytes": ("Bytes on disk of these files.", "partial_bytes"),
            "ollama_store_orphaned_blobs": ("Blobs that no manifest names.", "orphans"),
            "ollama_store_orphaned_bytes": ("Bytes of blobs that no manifest names.", "orphaned_bytes"),
            "ollama_store_unreadable_manifests": ("Manifests that cannot be read; there are no figures of orphaned blobs meanwhile.", "unreadable"),
            "ollama_store_scan_timestamp_seconds": ("When the store was last looked through.", "time"),
            "ollama_store_scan_duration_seconds": ("How long that took.", "seconds"),
        }
        gauges = {field: GaugeMetricFamily(name, what, labels=["store"]) for name, (what, field) in described.items()}
        errors = CounterMetricFamily("ollama_store_scan_errors", "Times that the store could not be looked through.", labels=["store"])
        for path, watch in self._stores.items():
            errors.add_metric([path], watch.errors)
            # the thread may put others there
            figures = watch.figures
            for field, gauge in gauges.items():
                value = getattr(figures, field, None)
                if value is not None:
                    gauge.add_metric([path], value)
        return [*gauges.values(), errors]


def serve(config: dict[str, Any]) -> None:
    """Start to answer on the configured address, in threads of its own."""
    # the registry would otherwise collect once to learn the names
    registry = CollectorRegistry(auto_describe=False)
    registry.register(OllamaCollector(config["instances"], float(config["timeout_seconds"])))
    start_http_server(int(config["port"]), addr=config["address"], registry=registry)


def main() -> int:
    """Command line."""
    # no time: the journal has it
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.INFO)
    if len(sys.argv) != 2:
        print("usage: ollama_exporter.py CONFIG", file=sys.stderr)
        return 2
    try:
        with open(sys.argv[1], encoding="utf-8") as file:
            config = json.load(file)
        serve(config)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.error("cannot start with %s: %r", sys.argv[1], error)
        return 1
    log.info("metrics of %d instances on address %s, port %s", len(config["instances"]), config["address"], config["port"])
    threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
