# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The gateways while something happens to them or to the hosts behind them: who is affected, and who must not be."""

from __future__ import annotations

import json
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable

import pytest
from load import Loop, at_once, context
from scenario import in_group, on_host, play, variables_of

GATEWAYS = in_group("gateway")
OLLAMA = in_group("ollama")
CLIENTS = variables_of(GATEWAYS[0])["ollama_gateway_clients"]
LOAD = next(client for client in CLIENTS if client["name"] == "load")
ROTATED = "main-chain-rotated-key-0123456789abcdef"
MODEL = "smollm2:135m"
# an answer of about so many tokens, of which the stand-in gives 50 a second
SHORT = {"model": MODEL, "prompt": "hi", "options": {"num_predict": 8}}
LONG = {"model": MODEL, "prompt": "a story of many words, please, as long as you can", "options": {"num_predict": 20}}


@pytest.fixture(scope="module", name="targets")
def addresses() -> list[tuple[str, int, str]]:
    """Where the gateways are: address, port, name."""
    return [(on_host(name).check_output("hostname -i").split()[0], 443, name) for name in GATEWAYS]


@pytest.fixture(scope="module", name="tls")
def authority() -> Any:
    """The fleet's authority."""
    return context(on_host(GATEWAYS[0]).file("/etc/gpufleet/gateway/tls/ca.crt").content_string)


@pytest.fixture(name="loop")
def requests(targets: list[tuple[str, int, str]], tls: Any) -> Callable[[], Loop]:
    """Requests to both gateways without a pause."""
    return lambda: Loop(targets, tls, LOAD["key"], SHORT)


def upstreams(gateway: str) -> dict[str, dict[str, Any]]:
    """What a gateway says of the hosts, by host; the first instance of each."""
    host = on_host(gateway)
    listed = json.loads(host.check_output("curl -sS --max-time 10 http://$(hostname -i):9113/upstreams"))
    return {item["host"]: item for item in reversed(listed)}


def wait_until(state: str, name: str) -> None:
    """Until every gateway sees a host so."""
    until = time.monotonic() + 60
    while any(upstreams(gateway)[name]["state"] != state for gateway in GATEWAYS):
        assert time.monotonic() < until, [upstreams(gateway) for gateway in GATEWAYS]
        time.sleep(0.5)


def served(gateway: str) -> list[str]:
    """The upstreams of the requests that a gateway logged."""
    lines = on_host(gateway).check_output("cat /var/log/nginx/gpufleet-gateway.log").splitlines()
    return [entry["upstream"] for entry in map(json.loads, lines) if entry["client"] == "load"]


def test_a_host_is_drained_and_put_back_without_a_failed_request(loop: Callable[[], Loop]) -> None:
    """Nobody notices; while it is out, nothing is sent there; a restart of nginx changes nothing."""
    name = OLLAMA[0]
    address = on_host(name).check_output("hostname -i").split()[0]
    with loop() as seen:
        time.sleep(2)
        done = play("drain", drain_hosts=name)
        assert done.status == 0, done
        before = {gateway: len(served(gateway)) for gateway in GATEWAYS}
        assert {upstreams(gateway)[name]["state"] for gateway in GATEWAYS} == {"drained"}
        time.sleep(3)
        meanwhile = [upstream for gateway in GATEWAYS for upstream in served(gateway)[before[gateway]:]]
        assert len(meanwhile) > 10 and not any(address in upstream for upstream in meanwhile)
        again = play("drain", drain_hosts=name)
        assert again.status == 0 and again.changed(name) == 0, again
        refused = play("drain", drain_hosts=OLLAMA[1])
        assert refused.failed_with(f"{OLLAMA[1]} is the last Ollama host that the gateways can reach"), refused
        assert {upstreams(gateway)[OLLAMA[1]]["state"] for gateway in GATEWAYS} == {"up"}
    assert len(seen.results) > 50 and not seen.failed, seen.failed[:3]
    # outlives a restart
    on_host(GATEWAYS[0]).check_output("systemctl restart nginx")
    assert upstreams(GATEWAYS[0])[name]["state"] == "drained"
    with loop() as seen:
        assert play("drain", drain_hosts=name, drain_state="absent").status == 0
        assert {upstreams(gateway)[name]["state"] for gateway in GATEWAYS} == {"up"}
        before = {gateway: len(served(gateway)) for gateway in GATEWAYS}
        time.sleep(3)
        assert any(address in upstream for gateway in GATEWAYS for upstream in served(gateway)[before[gateway]:])
    assert not seen.failed, seen.failed[:3]


def test_names_that_are_no_hosts_drain_nobody() -> None:
    """One sentence, and nothing is touched."""
    for wrong in ({}, {"drain_hosts": "nobody"}, {"drain_hosts": GATEWAYS[0]}):
        assert play("drain", **wrong).failed_with("Say which hosts of the group ollama"), wrong


def test_a_killed_host_costs_only_what_it_was_answering(targets: list[tuple[str, int, str]], loop: Callable[[], Loop]) -> None:
    """Requests that had not begun go to the others; those of the killed host break off, and no other does."""
    name = OLLAMA[0]
    address = on_host(name).check_output("hostname -i").split()[0]
    wait_until("up", name)
    try:
        with loop() as seen:
            time.sleep(2)
            subprocess.run(["docker", "kill", name], check=True, capture_output=True)
            killed = time.time()
            time.sleep(12)
    finally:
        # the restart policy of the hosts does not bring a killed one back
        subprocess.run(["docker", "start", name], check=True, capture_output=True)
    failed = seen.failed
    assert len(seen.results) > 50
    assert all(result.began <= killed for result in failed), failed[:3]
    lines = [json.loads(line) for gateway in GATEWAYS for line in on_host(gateway).check_output("cat /var/log/nginx/gpufleet-gateway.log").splitlines()]
    broken = [line for line in lines if line["client"] == "load" and address in line["upstream"] and line["tokens_out"] == ""]
    assert len(failed) <= len(broken)
    wait_until("up", name)


def test_an_upgrade_under_load_fails_no_request(loop: Callable[[], Loop]) -> None:
    """Host after host is drained, upgraded and put back."""
    # to another release, and not back to the first: what changes on a host is scenario upgrade's
    version, sums = "0.32.9", variables_of(OLLAMA[0])["ollama_checksums"]
    with loop() as seen:
        done = play("upgrade", ollama_version=version, ollama_checksums=sums)
    assert done.status == 0, done
    assert all(version in on_host(name).check_output("curl -sS http://$(hostname -i):11434/api/version") for name in OLLAMA)
    assert len(seen.results) > 100 and not seen.failed, seen.failed[:3]
    assert {item["state"] for gateway in GATEWAYS for item in upstreams(gateway).values()} == {"up"}


def rotate() -> None:
    """Give the client of the load a new key beside the old one."""
    new = {**LOAD, "keys": [{"key": ROTATED}]}
    clients = [new if client["name"] == "load" else client for client in CLIENTS]
    done = play("site", "--diff", "--tags", "ollama_gateway", "--limit", "gateway", ollama_gateway_clients=clients)
    assert done.status == 0, done
    keys = [key for client in clients for key in (client["key"], *(item["key"] for item in client.get("keys", []) if "key" in item))]
    assert not [key for key in keys if key in done.output]


# the last one: the new key stays
def test_a_hundred_streams_outlast_reloads_and_new_keys(targets: list[tuple[str, int, str]], tls: Any) -> None:
    """Reloads and a rotation of keys break none of them."""
    with ThreadPoolExecutor(1) as pool:
        streams = pool.submit(at_once, targets, tls, LOAD["key"], LONG, 100)
        time.sleep(2)
        for _unused in range(10):
            for gateway in GATEWAYS:
                on_host(gateway).check_output("systemctl reload nginx")
            time.sleep(0.5)
        # else nothing was shown
        assert not streams.done()
        rotate()
        results = streams.result()
    assert len(results) == 100 and all(result.good for result in results), [result for result in results if not result.good][:3]
    new = at_once(targets, tls, ROTATED, SHORT, 2)
    assert all(result.good for result in new), new
