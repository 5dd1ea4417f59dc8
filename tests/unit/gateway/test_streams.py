"""Streamed answers: unbuffered, cancelled when the client goes, unharmed by reloads; slow clients; rotated keys."""

from __future__ import annotations

import http.client
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fleet import Fleet, key
from stand_in import eventually

from ansible_collections.gpufleet.ollama.plugins.plugin_utils import _gateway

TEAM = key("team")
DEFAULTS = {"rate": "1000r/s", "burst": 1000, "concurrency": 0}


def arrivals(fleet: Fleet, path: str, **act: Any) -> list[float]:
    """Seconds after which each piece of a streamed answer came."""
    connection = fleet.caller.connect()
    started = time.monotonic()
    fleet.caller.send(connection, path, {"model": "shared", "act": act}, TEAM)
    answer = connection.getresponse()
    found = []
    while answer.read1(65536):
        found.append(time.monotonic() - started)
    return found


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages"])
def test_pieces_arrive_when_they_are_sent(fleet: Fleet, path: str) -> None:
    found = arrivals(fleet, path, chunks=5, delay=0.2)
    gaps = [later - earlier for earlier, later in zip(found, found[1:])]
    assert len(found) == 6 and min(gaps) > 0.1 and found[0] < 0.5


@pytest.mark.parametrize("act", [{"wait": 20}, {"chunks": 100, "delay": 0.05}], ids=["before the first byte", "in mid-stream"])
def test_a_client_that_goes_cancels_the_generation(fleet: Fleet, act: dict) -> None:
    connection = fleet.caller.connect()
    fleet.caller.send(connection, "/api/chat", {"model": "shared", "act": act}, TEAM)
    if "chunks" in act:
        connection.getresponse().read1(10)
    assert eventually(lambda: sum(upstream.running for upstream in fleet.upstreams) == 1)
    left = time.monotonic()
    connection.close()
    assert eventually(lambda: any(upstream.cancelled for upstream in fleet.upstreams), 2)
    [cancelled] = [moment for upstream in fleet.upstreams for moment in upstream.cancelled]
    assert cancelled - left < 0.5
    assert eventually(lambda: fleet.metric('ollama_gateway_stream_outcomes_total{route="/api/chat",outcome="client_abort"}') == 1)
    [line] = fleet.logged(client="team")
    assert line["status"] == (200 if "chunks" in act else 499)


def test_an_instance_that_dies_in_mid_stream(fleet: Fleet) -> None:
    with pytest.raises(http.client.IncompleteRead):
        fleet.caller.chat(TEAM, die_after=2, chunks=5)
    assert eventually(lambda: fleet.metric('ollama_gateway_stream_outcomes_total{route="/api/chat",outcome="upstream_truncated"}') == 1)
    assert sum(fleet.spread()) == 1
    assert fleet.caller.chat(TEAM).status == 200
    assert eventually(lambda: fleet.metric('ollama_gateway_stream_outcomes_total{route="/api/chat",outcome="complete"}') == 1)


def with_keys(fleet: Fleet, keys: list[dict[str, Any]]) -> None:
    """Give the client `rotated` these keys, as the role would write them, and load them."""
    [wanted] = _gateway.gateway_clients([{"name": "rotated", "keys": keys}], DEFAULTS)

    def change(_routing: dict[str, Any], clients: dict[str, Any]) -> None:
        clients["clients"] = [client if client["name"] != "rotated" else wanted for client in clients["clients"]]
    fleet.edit(change)
    fleet.gateway.reload()


def test_reloads_and_rotated_keys_break_no_stream(fleet: Fleet) -> None:
    def stream(number: int) -> bool:
        answer = fleet.caller.chat(key("rotated" if number % 2 else "team"), hold=True)
        return answer.status == 200 and b'"done":true' in answer.body

    with ThreadPoolExecutor(100) as pool:
        streams = [pool.submit(stream, number) for number in range(100)]
        assert eventually(lambda: sum(upstream.running for upstream in fleet.upstreams) == 100, 10)
        for number in range(10):
            old, new = f"{number}" * 32, f"{number + 1}-".ljust(32, "x")
            with_keys(fleet, [{"key": old}, {"key": new}])
            # for a moment the old workers answer too
            assert eventually(lambda text=new: fleet.caller.call("/api/tags", key=text).status == 200, 2)
        assert not any(task.done() for task in streams), "a stream ended too early"
        for upstream in fleet.upstreams:
            upstream.released.set()
        assert all(task.result() for task in streams)
    # the key that began the streams is gone, the last ones are not
    time.sleep(0.5)
    assert [fleet.caller.call("/api/tags", key=text).status for text in (key("rotated"), "8" * 32, old, new)] == [401, 401, 200, 200]


def test_a_key_ends_without_a_reload(fleet: Fleet) -> None:
    end = int(time.time()) + 2
    with_keys(fleet, [{"key": "e" * 32, "expires": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(end))}, {"key": "f" * 32}])
    assert fleet.caller.call("/api/tags", key="e" * 32).status == 200
    time.sleep(max(0, end - time.time()) + 0.1)
    assert fleet.caller.call("/api/tags", key="e" * 32).status == 401
    assert fleet.caller.call("/api/tags", key="f" * 32).status == 200


def test_a_client_that_sends_its_headers_slowly_is_dropped(fleet: Fleet) -> None:
    connection = fleet.caller.connect(timeout=14)
    assert connection.sock is not None
    connection.sock.sendall(b"GET /api/tags HTTP/1.1\r\nHost: localhost\r\n")
    started = time.monotonic()
    ended: list[float] = []

    def wait() -> None:
        assert connection.sock is not None
        try:
            while connection.sock.recv(4096):
                pass
        except OSError:
            pass
        ended.append(time.monotonic() - started)
    waiting = threading.Thread(target=wait)
    waiting.start()
    # others are served meanwhile
    assert fleet.caller.call("/api/tags", key=TEAM).status == 200
    waiting.join(14)
    assert ended and 9 < ended[0] < 13


def test_a_body_that_stops_short_reaches_nobody(fleet: Fleet) -> None:
    connection = fleet.caller.connect()
    assert connection.sock is not None
    head = f"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TEAM}\r\nContent-Length: 1000\r\n\r\n"
    connection.sock.sendall(head.encode() + b'{"model":"shared"}')
    time.sleep(0.2)
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
    assert eventually(lambda: fleet.logged(client="team"))
    assert fleet.logged(client="team")[0]["status"] in (400, 499) and sum(fleet.spread()) == 0


def test_large_bodies_pass_unchanged(fleet: Fleet) -> None:
    # above the buffer in memory, so that nginx holds it in a file
    text = os.urandom(1_500_000).hex()
    assert fleet.caller.chat(TEAM, fields={"images": [text]}).status == 200
    [body] = [hit.body for upstream in fleet.upstreams for hit in upstream.hits]
    assert text.encode() in body
