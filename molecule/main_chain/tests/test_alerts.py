# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Alerts from their cause to whoever gets them: each is made to fire, arrives at a webhook through Alertmanager, and ends with its cause."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from typing import Any, Callable, Iterator

import pytest
from scenario import in_group, on_host, variables_of

MONITOR = in_group("monitoring")[0]
GATEWAYS = in_group("gateway")
OLLAMA = in_group("ollama")
# a receiver and the dead man's switch of the scenario are at these paths
PORT = 9099
RECEIVED = "/run/alerts.jsonl"
MODEL = "smollm2:135m"
# two evaluations, two scrapes and the waits of Alertmanager, on a machine that is busy
PATIENCE_SECONDS = 90

LISTENER = f"""
import http.server, json, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with open("{RECEIVED}", "a") as file:
            for alert in body["alerts"]:
                line = {{"path": self.path, "status": alert["status"], "labels": alert["labels"], "annotations": alert["annotations"]}}
                file.write(json.dumps(line) + "\\n")
        self.send_response(200)
        self.end_headers()
http.server.ThreadingHTTPServer(("127.0.0.1", {PORT}), Handler).serve_forever()
"""


@pytest.fixture(scope="module", name="received")
def webhook() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """What the webhook on the host of Prometheus has got so far."""
    host = on_host(MONITOR)
    host.check_output("rm -f %s; systemd-run --quiet --unit=webhook --collect python3 -c %s", RECEIVED, LISTENER)
    yield lambda: [json.loads(line) for line in host.run(f"cat {RECEIVED}").stdout.splitlines()]
    host.check_output(f"systemctl stop webhook; rm -f {RECEIVED}")


def until(ask: Callable[[], Any], what: Callable[[], Any]) -> Any:
    """Ask until there is an answer; what is said when there is none tells more."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (answer := ask()):
        assert time.monotonic() < deadline, what()
        time.sleep(1)
    return answer


def alerts() -> list[tuple[dict[str, str], str]]:
    """Labels and state of the alerts that Prometheus has."""
    answer = json.loads(on_host(MONITOR).check_output("curl -sS --max-time 10 http://$(hostname -i):9090/api/v1/alerts"))
    return [(alert["labels"], alert["state"]) for alert in answer["data"]["alerts"]]


def fires(name: str, **labels: str) -> bool:
    """Whether an alert of this name and these labels fires."""
    return any(state == "firing" and labels.items() <= found.items() for found, state in alerts() if found["alertname"] == name)


@contextmanager
def an_alert(received: Callable[[], list[dict[str, Any]]], name: str, **labels: str) -> Iterator[None]:
    """It is silent before, fires while the body has made its cause, and ends when the body is left; the webhook hears of both."""

    def told(status: str) -> list[dict[str, Any]]:
        return [
            entry for entry in received()[before:]
            if entry["path"] == "/alerts" and entry["status"] == status and {"alertname": name, **labels}.items() <= entry["labels"].items()
        ]

    assert not fires(name, **labels), alerts()
    before = len(received())
    yield
    until(lambda: not fires(name, **labels), alerts)
    [resolved, *_more] = until(lambda: told("resolved"), received)
    [entry, *_again] = told("firing")
    assert entry["annotations"]["runbook"].endswith(f"#{name.lower()}") and entry["annotations"]["summary"]
    assert resolved["labels"] == entry["labels"]


def arrives(received: Callable[[], list[dict[str, Any]]], name: str, **labels: str) -> None:
    """Wait until it fires, and until the webhook has it."""
    until(lambda: fires(name, **labels), alerts)
    until(lambda: [entry for entry in received() if entry["status"] == "firing" and entry["labels"]["alertname"] == name], received)


def test_the_watchdog_comes_again_and_again(received: Callable[[], list[dict[str, Any]]]) -> None:
    """To its own receiver, and to no other."""
    def heard() -> list[str]:
        return [entry["path"] for entry in received() if entry["labels"]["alertname"] == "Watchdog"]

    until(lambda: len(heard()) > 1, received)
    assert set(heard()) == {"/watchdog"}


def test_instance_down(received: Callable[[], list[dict[str, Any]]]) -> None:
    """The service is stopped, and started again."""
    host = on_host(OLLAMA[0])
    with an_alert(received, "InstanceDown", host=OLLAMA[0], ollama_instance="default"):
        host.check_output("systemctl stop ollama@default")
        try:
            arrives(received, "InstanceDown", host=OLLAMA[0])
        finally:
            host.check_output("systemctl start ollama@default")
    assert not [entry for entry in received() if entry["labels"]["alertname"] == "HostDown"]


def run_models_on(host: Any, where: str) -> None:
    """Start the instance of a host anew, so that the stand-in says that models are there (gpu or cpu), and load one."""
    drop_in = "/run/systemd/system/ollama@default.service.d"
    host.check_output(
        f"mkdir -p {drop_in} && printf '[Service]\\nEnvironment=OLLAMA_DOUBLE_VRAM={where}\\n' >{drop_in}/vram.conf && systemctl daemon-reload && "
        "systemctl restart ollama@default"
    )
    load(host)


def load(host: Any) -> None:
    """Load the model."""
    body = json.dumps({"model": MODEL, "keep_alive": 600, "stream": False})
    host.check_output(f"curl -sS --fail --retry 20 --retry-all-errors --retry-delay 1 http://$(hostname -i):11434/api/generate -d '{body}'")


@pytest.fixture(name="gpu_host")
def host_with_gpus() -> Iterator[Any]:
    """A host whose exporter expects GPUs, and whose models are there."""
    host = on_host(OLLAMA[0])
    config = "/etc/ollama_exporter.json"
    host.check_output(f"cp -p {config} {config}.kept")
    try:
        # as role ollama_exporter writes it for a host with GPUs
        written = json.loads(host.check_output(f"cat {config}"))
        for instance in written["instances"]:
            instance["gpu_expected"] = True
        host.check_output(f"printf %s '{json.dumps(written)}' >{config} && systemctl restart ollama_exporter")
        run_models_on(host, "gpu")
        yield host
    finally:
        host.check_output(
            f"mv {config}.kept {config}; rm -r /run/systemd/system/ollama@default.service.d; systemctl daemon-reload; "
            "systemctl restart ollama_exporter ollama@default"
        )


def test_ollama_on_the_cpu(gpu_host: Any, received: Callable[[], list[dict[str, Any]]]) -> None:
    """The stand-in says that the model is in memory of the CPU, where GPUs are expected."""
    def ratio() -> str:
        return str(gpu_host.check_output("curl -sS http://$(hostname -i):9778/metrics | grep '^ollama_model_gpu_ratio' || true"))

    assert until(ratio, ratio).endswith(" 1.0")
    with an_alert(received, "OllamaCpuFallback", host=OLLAMA[0], model=MODEL):
        run_models_on(gpu_host, "cpu")
        arrives(received, "OllamaCpuFallback", host=OLLAMA[0])
        run_models_on(gpu_host, "gpu")


def all_up() -> bool:
    """Whether every gateway reaches every instance; asked of the gateways themselves, which counts as no request."""
    states = [on_host(gateway).check_output("curl -sS --max-time 10 http://$(hostname -i):9113/upstreams") for gateway in GATEWAYS]
    return all(item["state"] == "up" for answer in states for item in json.loads(answer))


def ask(count: int) -> set[str]:
    """Send requests to every gateway as the client of the load; the statuses that came."""
    key = next(client["key"] for client in variables_of(GATEWAYS[0])["ollama_gateway_clients"] if client["name"] == "load")
    urls = f"https://localhost/api/version?[1-{count}]"
    command = f"curl -sk -o /dev/null -w '%{{http_code}}\\n' -H 'Authorization: Bearer {key}' '{urls}'"
    return {line for gateway in GATEWAYS for line in on_host(gateway).check_output(command).split()}


def test_gateway_errors(received: Callable[[], list[dict[str, Any]]]) -> None:
    """Every instance is down: requests fail. They work again, and after enough good ones it is over."""
    units = {name: on_host(name).check_output("systemctl list-units --plain --no-legend 'ollama@*' | cut -d' ' -f1").split() for name in OLLAMA}
    # the test before has restarted one
    until(all_up, lambda: "the gateways do not reach every instance")
    assert ask(20) == {"200"}
    with an_alert(received, "GatewayErrorRate"):
        for name in OLLAMA:
            on_host(name).check_output(f"systemctl stop {' '.join(units[name])}")
        try:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not fires("GatewayErrorRate"):
                assert time.monotonic() < deadline, alerts()
                assert ask(60) <= {"502", "503", "504"}
            arrives(received, "GatewayErrorRate")
        finally:
            for name in OLLAMA:
                on_host(name).check_output(f"systemctl start {' '.join(units[name])}")
        until(all_up, lambda: "the gateways do not find the instances again")
        deadline = time.monotonic() + PATIENCE_SECONDS
        while fires("GatewayErrorRate"):
            assert time.monotonic() < deadline, alerts()
            ask(1000)
    # else the errors weigh in the tests after this one
    assert ask(20) == {"200"}
