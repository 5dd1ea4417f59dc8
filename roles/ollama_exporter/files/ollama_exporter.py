# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Prometheus exporter for the Ollama instances of a host, since Ollama has no metrics of its own.

usage: ollama_exporter.py CONFIG
CONFIG is a JSON file: {"address": "10.0.0.5", "port": 9778, "timeout_seconds": 3, "instances": [{"name": …, "url": …}, …]}

Every scrape asks every instance anew, all of them at once, and is over after the timeout whatever an instance does. An
instance that does not answer is a metric (ollama_health_status 0), never a failed scrape.
"""

from __future__ import annotations

import dataclasses
import http.client
import json
import logging
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

ENDPOINTS = ("version", "tags", "ps")
# refused: no connection, or one that broke. status: not 200. invalid: not the JSON that Ollama gives
RESULTS = ("ok", "refused", "timeout", "status", "invalid")
MAX_ANSWER_BYTES = 16 * 1024 * 1024

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
    if not isinstance(value, str) or not value:
        raise AskError("invalid", f"{value!r:.50} stands where a name should")
    return value.encode("utf-8", "replace").decode("utf-8")


def size(value: Any) -> int:
    """A number of bytes."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise AskError("invalid", f"{value!r:.50} stands where a size should")
    return value


def models(answer: Any) -> list[dict[str, Any]]:
    """The models of an answer of /api/tags or /api/ps: dicts of name, size and vram (bytes), each name once."""
    items = answer.get("models") if isinstance(answer, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise AskError("invalid", "no list of models")
    parsed = [{"name": text(item.get("name")), "size": size(item.get("size")), "vram": size(item.get("size_vram", 0))} for item in items]
    # two samples with the same labels would cost the whole scrape
    return list({item["name"]: item for item in parsed}.values())


def version(answer: Any) -> str:
    """The version of an answer of /api/version."""
    return text(answer.get("version") if isinstance(answer, dict) else None)


@dataclasses.dataclass
class Answers:
    """What an instance said in one scrape; None where it did not, and why in errors (endpoint -> one of RESULTS)."""

    version: str | None = None
    tags: list[dict[str, Any]] | None = None
    ps: list[dict[str, Any]] | None = None
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


class OllamaCollector:
    """A collector of prometheus_client: asks the instances whenever Prometheus asks."""

    def __init__(self, instances: list[dict[str, str]], timeout: float) -> None:
        self._urls = {item["name"]: item["url"].rstrip("/") for item in instances}
        self._timeout = timeout
        # one scrape at a time: it makes the counters right, and two servers do not double the load
        self._lock = threading.Lock()
        self._running: dict[str, threading.Thread] = {}
        self._checks: Counter[tuple[str, str]] = Counter()
        self._errors: Counter[tuple[str, str]] = Counter()

    def collect(self) -> Iterator[Metric]:
        """All metrics of all instances."""
        with self._lock:
            found = self._ask_all()
            for name, answers in found.items():
                self._checks[name, answers.errors.get("version", "ok")] += 1
                self._errors.update((name, endpoint) for endpoint in answers.errors)
            metrics = self._metrics(found)
        yield from metrics

    def _ask_all(self) -> dict[str, Answers]:
        found: dict[str, Answers] = {}

        def run(name: str) -> None:
            found[name] = ask(name, self._urls[name], self._timeout)

        deadline = time.monotonic() + self._timeout + 0.5
        for name in self._urls:
            # a server that sends its headers byte by byte can hold a thread longer: never a second one for it
            if name not in self._running or not self._running[name].is_alive():
                self._running[name] = threading.Thread(target=run, args=(name,), daemon=True)
                self._running[name].start()
        for thread in self._running.values():
            thread.join(max(deadline - time.monotonic(), 0))
        late = Answers(errors={"version": "timeout"}, seconds=self._timeout)
        return {name: found.get(name, late) for name in self._urls}

    def _metrics(self, found: dict[str, Answers]) -> list[Metric]:
        of_instance, of_model = ["ollama_instance"], ["ollama_instance", "model"]
        health = GaugeMetricFamily("ollama_health_status", "1 when /api/version answers, else 0.", labels=of_instance)
        checks = CounterMetricFamily("ollama_health_checks", "Health checks, one a scrape, by result.", labels=["ollama_instance", "result"])
        info = InfoMetricFamily("ollama", "The version of the instance.", labels=of_instance)
        available = GaugeMetricFamily("ollama_models_available", "Models in the store.", labels=of_instance)
        stored = GaugeMetricFamily("ollama_model_size_bytes", "Size of a model in the store; what models share counts for each.", labels=of_model)
        loaded = GaugeMetricFamily("ollama_models_loaded", "Models in memory.", labels=of_instance)
        memory = GaugeMetricFamily("ollama_model_loaded_size_bytes", "Memory that a loaded model takes, GPU memory included.", labels=of_model)
        vram = GaugeMetricFamily("ollama_model_vram_bytes", "GPU memory that a loaded model takes.", labels=of_model)
        seconds = GaugeMetricFamily("ollama_exporter_scrape_duration_seconds", "How long asking the instance took.", labels=of_instance)
        errors = CounterMetricFamily("ollama_exporter_scrape_errors", "Questions without a good answer.", labels=["ollama_instance", "endpoint"])
        for name, answers in found.items():
            health.add_metric([name], int(answers.version is not None))
            seconds.add_metric([name], answers.seconds)
            # from 0 on, so that rate() sees the first one
            for result in RESULTS:
                checks.add_metric([name, result], self._checks[name, result])
            for endpoint in ENDPOINTS:
                errors.add_metric([name, endpoint], self._errors[name, endpoint])
            if answers.version is not None:
                info.add_metric([name], {"version": answers.version})
            if answers.tags is not None:
                available.add_metric([name], len(answers.tags))
                for model in answers.tags:
                    stored.add_metric([name, model["name"]], model["size"])
            if answers.ps is not None:
                loaded.add_metric([name], len(answers.ps))
                for model in answers.ps:
                    memory.add_metric([name, model["name"]], model["size"])
                    vram.add_metric([name, model["name"]], model["vram"])
        return [health, checks, info, available, stored, loaded, memory, vram, seconds, errors]


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
    except (OSError, ValueError, KeyError) as error:
        log.error("cannot start with %s: %r", sys.argv[1], error)
        return 1
    log.info("metrics of %d instances on address %s, port %s", len(config["instances"]), config["address"], config["port"])
    threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
