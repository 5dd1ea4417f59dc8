"""Which instance gets a request, and what happens when it does not answer."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

from fleet import Fleet, key
from stand_in import eventually

TEAM = key("team")


def balance(fleet: Fleet, method: str, **weights: int) -> None:
    """Another way of choosing, and weights of hosts."""
    def change(routing: dict[str, Any], _clients: dict[str, Any]) -> None:
        routing["balance"] = method
        for peer in routing["peers"]:
            peer["weight"] = weights.get(peer["host"], 1)
    fleet.edit(change)
    fleet.gateway.stop()
    fleet.gateway.start()


def join(threads: list[threading.Thread]) -> None:
    """Wait for all."""
    for thread in threads:
        thread.join()


def test_least_conn_counts_running_requests_over_all_workers(fleet: Fleet) -> None:
    join(fleet.slow_chats(TEAM, 9, 2))
    assert fleet.spread() == [3, 3, 3, 0]
    assert eventually(lambda: [upstream["inflight"] for upstream in json.loads(fleet.gateway.management("/upstreams"))] == [0, 0, 0, 0])


def test_least_conn_by_weight(fleet: Fleet) -> None:
    balance(fleet, "least_conn", gpu1=4)
    join(fleet.slow_chats(TEAM, 12, 2))
    assert fleet.spread() == [8, 2, 2, 0]


def test_round_robin_by_weight(fleet: Fleet) -> None:
    balance(fleet, "round_robin", gpu1=2)
    connection = fleet.caller.connect()  # one connection is one worker
    for _unused in range(12):
        fleet.caller.send(connection, "/api/chat", {"model": "shared"}, TEAM)
        assert connection.getresponse().read()
    assert fleet.spread() == [6, 3, 3, 0]


def test_ip_hash_keeps_a_network_with_an_instance(fleet: Fleet) -> None:
    balance(fleet, "ip_hash")
    used = set()
    for network in range(1, 20):
        fleet.clear()
        for host in (1, 2, 200):
            assert fleet.caller.chat(TEAM, address=f"127.0.{network}.{host}").status == 200
        assert sorted(fleet.spread()) == [0, 0, 0, 3]
        used.add(fleet.spread().index(3))
    assert used == {0, 1, 2}


def test_random_spreads(fleet: Fleet) -> None:
    balance(fleet, "random")
    for _unused in range(60):
        assert fleet.caller.chat(TEAM).status == 200
    assert min(fleet.spread()[:3]) >= 8 and fleet.spread()[3] == 0


def test_a_refused_connection_goes_to_the_next_host_and_backups_come_last(fleet: Fleet) -> None:
    for number in (0, 1):
        fleet.upstreams[number].stop()
    for _unused in range(4):
        assert fleet.caller.chat(TEAM).status == 200
    assert fleet.spread() == [0, 0, 4, 0]
    fleet.upstreams[2].stop()
    for _unused in range(4):
        assert fleet.caller.chat(TEAM).status == 200
    assert fleet.spread() == [0, 0, 4, 4]
    assert fleet.metric('ollama_gateway_upstream_failures_total{host="gpu3",instance="default"}') == 2  # max_fails, then it was left out
    assert fleet.states()[2] == "down"
    fleet.upstreams[2].start()
    assert eventually(lambda: fleet.states()[2] == "up", 8)
    fleet.clear()
    for _unused in range(3):
        assert fleet.caller.chat(TEAM).status == 200
    assert fleet.spread() == [0, 0, 3, 0]


def test_a_request_that_was_sent_is_never_sent_again(fleet: Fleet) -> None:
    answer = fleet.caller.chat(TEAM, close=True)
    assert (answer.status, sum(fleet.spread())) == (502, 1)
    assert fleet.logged(status=502)[0]["reason"] == "upstream"
    assert fleet.caller.chat(TEAM, status=500).body == b'{"error":"as it was told"}'
    assert sum(fleet.spread()) == 2
    # an instance that answered at all is not held for down
    assert fleet.states() == ["up"] * 4


def test_nobody_answers(fleet: Fleet) -> None:
    for upstream in fleet.upstreams:
        upstream.stop()
    answer = fleet.caller.chat(TEAM)
    assert (answer.status, answer.headers["retry-after"], answer.data) == (502, "5", {"error": "no Ollama instance answers"})
    assert fleet.logged(status=502)[0]["reason"] == "upstream"
    # those that seem down are tried all the same
    assert fleet.caller.chat(TEAM).status == 502
    assert fleet.caller.chat(TEAM).status == 502
    assert fleet.states() == ["down"] * 4
    fleet.upstreams[1].start()
    assert fleet.caller.chat(TEAM).status == 200


def test_a_host_that_swallows_packets(fleet: Fleet) -> None:
    # 192.0.2.0/24 is for documentation: nobody answers
    def change(routing: dict[str, Any], _clients: dict[str, Any]) -> None:
        for peer in routing["peers"][1:]:
            peer["backup"] = True
        routing["peers"][0]["address"] = "192.0.2.1"
    fleet.edit(change)
    fleet.gateway.stop()
    fleet.gateway.start()
    started = time.monotonic()
    assert fleet.caller.chat(TEAM).status == 200
    assert time.monotonic() - started < 6


def test_a_model_goes_only_where_it_lives(fleet: Fleet) -> None:
    for name in ("only2", "ONLY2:latest", "registry.ollama.ai/library/only2"):
        assert fleet.caller.chat(TEAM, name).status == 200
    assert fleet.spread() == [0, 3, 0, 0]
    fleet.upstreams[1].stop()
    assert fleet.caller.chat(TEAM, "only2").status == 502
    with fleet.drained("gpu2"):
        assert eventually(lambda: fleet.caller.chat(TEAM, "only2").status == 503, 3)
    assert fleet.spread() == [0, 3, 0, 0]


def test_the_instance_that_an_admin_asks_for(fleet: Fleet) -> None:
    for _unused in range(3):
        assert fleet.caller.call("/api/ps", key=key("admin")).status == 200
        assert fleet.caller.call("/api/pull", {"model": "shared"}, key("admin")).status == 200
    assert fleet.spread() == [6, 0, 0, 0]
    for _unused in range(3):
        assert fleet.caller.call("/api/ps", key=key("admin"), X_Gateway_Instance="gpu3/default").status == 200
    assert fleet.spread() == [6, 0, 3, 0]
    answer = fleet.caller.call("/api/ps", key=key("admin"), X_Gateway_Instance="gpu9/default")
    assert answer.status == 400 and "host/instance" in answer.data["error"]
    # others do not choose
    for _unused in range(6):
        assert fleet.caller.call("/api/version", key=TEAM, X_Gateway_Instance="gpu4/default").status == 200
    assert fleet.spread()[3] == 0
    fleet.upstreams[0].stop()
    # it is not known to be down yet, and the request goes nowhere else
    assert fleet.caller.call("/api/ps", key=key("admin"), X_Gateway_Instance="gpu1/default").status == 502
