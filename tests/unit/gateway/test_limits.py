"""Rates, concurrency and budgets of tokens, each client by itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from fleet import Fleet, key
from stand_in import Answer, eventually


def statuses(fleet: Fleet, client: str, count: int) -> list[int]:
    """Status codes of requests one after the other, as fast as they go."""
    connection = fleet.caller.connect()
    found = []
    for _unused in range(count):
        fleet.caller.send(connection, "/api/tags", key=key(client))
        answer = connection.getresponse()
        answer.read()
        found.append(answer.status)
    return found


def test_each_client_has_its_own_rate(fleet: Fleet) -> None:
    assert statuses(fleet, "slow", 3) == [200, 429, 429]  # 1r/s, no burst
    # at once, before the second is over
    answer = fleet.caller.call("/v1/models", key=key("slow"))
    assert (answer.status, answer.headers["retry-after"], answer.data["error"]["code"]) == (429, "1", "rate_limit_exceeded")
    assert statuses(fleet, "brisk", 5) == [200, 200, 200, 429, 429]  # 2r/s and 2 above it
    assert statuses(fleet, "team", 30) == [200] * 30
    assert fleet.logged(client="slow", status=429)[0]["reason"] == "rate"
    assert eventually(lambda: fleet.caller.call("/api/tags", key=key("slow")).status == 200, 3)


def busy(fleet: Fleet, client: str, count: int, seconds: float) -> list[Answer]:
    """Chats at once; returns all answers."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda _: fleet.caller.chat(key(client), wait=seconds), range(count)))


def test_concurrency_is_exact_over_two_workers(fleet: Fleet) -> None:
    answers = busy(fleet, "five", 30, 1.5)
    assert sorted(answer.status for answer in answers) == [200] * 5 + [429] * 25
    refused = next(answer for answer in answers if answer.status == 429)
    assert refused.headers["retry-after"] == "1" and "under way" in refused.data["error"]
    assert sum(fleet.spread()) == 5
    assert eventually(lambda: fleet.metric('ollama_gateway_client_generations{client="five"}') == 0)
    # what is no generation is not counted
    assert fleet.caller.call("/api/tags", key=key("five")).status == 200


def test_a_slot_is_given_back_however_a_request_ends(fleet: Fleet) -> None:
    held = 'ollama_gateway_client_generations{client="five"}'
    for path, act in (("/api/chat", {"wait": 20}), ("/api/chat", {"chunks": 100, "delay": 0.1}), ("/v1/chat/completions", {"wait": 20})):
        connections = [fleet.caller.connect() for _unused in range(5)]
        for connection in connections:
            fleet.caller.send(connection, path, {"model": "shared", "act": act}, key("five"))
        assert eventually(lambda: fleet.metric(held) == 5)
        assert fleet.caller.chat(key("five")).status == 429
        for connection in connections:
            connection.close()
        assert eventually(lambda: fleet.metric(held) == 0, 2)
    assert [fleet.caller.chat(key("five"), close=True).status for _unused in range(6)] == [502] * 6
    assert fleet.caller.chat(key("five"), status=500).status == 500
    for _unused in range(6):
        with pytest.raises(Exception):  # noqa: B017  the answer has no end
            fleet.caller.chat(key("five"), die_after=1)
    assert fleet.caller.call("/api/chat", {"model": ""}, key("five")).status == 400
    assert eventually(lambda: fleet.metric(held) == 0, 2)
    assert [answer.status for answer in busy(fleet, "five", 5, 0.3)] == [200] * 5


def test_what_a_killed_worker_held_is_given_back(fleet: Fleet) -> None:
    held = 'ollama_gateway_client_generations{client="five"}'
    threads = [threading.Thread(target=lambda: pytest.raises(Exception, fleet.caller.chat, key("five"), wait=20), daemon=True) for _unused in range(5)]
    for thread in threads:
        thread.start()
    assert eventually(lambda: fleet.metric(held) == 5)
    assert fleet.gateway.process is not None
    listed = subprocess.run(["pgrep", "-P", str(fleet.gateway.process.pid)], capture_output=True, text=True, check=True)
    # one after the other: whoever is left gives back what the dead one held, and no more
    for worker in reversed(listed.stdout.split()):
        os.kill(int(worker), signal.SIGKILL)
        time.sleep(0.3)
        assert eventually(lambda: fleet.metric(held) == sum(thread.is_alive() for thread in threads), 12)
    assert fleet.metric(held) == 0
    assert eventually(lambda: fleet.caller.chat(key("five")).status == 200, 3)
    assert eventually(lambda: [upstream["inflight"] for upstream in json.loads(fleet.gateway.management("/upstreams"))] == [0, 0, 0, 0])


@pytest.mark.parametrize(
    ("client", "path", "act", "counted"),
    [
        ("budget-native", "/api/chat", {"tokens": [15, 15]}, 30),
        ("budget-openai", "/v1/chat/completions", {"tokens": [15, 15]}, 30),
        ("budget-anthropic", "/v1/messages", {"tokens": [15, 15]}, 30),
        ("budget-native", "/api/generate", {"tokens": [15, 15], "stream": False}, 30),
        # what does not say how many it were is counted by its pieces
        ("budget-none", "/v1/chat/completions", {"usage": False, "chunks": 30}, None),
        ("budget-none", "/api/chat", {"usage": False, "chunks": 30}, None),
    ],
)
def test_tokens_of_a_minute(fleet: Fleet, client: str, path: str, act: dict, counted: int | None) -> None:
    if time.time() % 60 > 55:
        time.sleep(60.5 - time.time() % 60)
    assert fleet.caller.chat(key(client), path=path, **act).status == 200
    [line] = fleet.logged(client=client, status=200)
    assert int(line["tokens_in"] or 0) + int(line["tokens_out"] or 0) == (counted or 0)
    answer = fleet.caller.chat(key(client), path=path, **act)
    left = 60 - time.time() % 60
    assert answer.status == 429 and abs(int(answer.headers["retry-after"]) - left) <= 1.5
    assert b"the tokens of this minute are used up" in answer.body
    # only generations cost tokens, and only this client's
    assert fleet.caller.call("/api/tags", key=key(client)).status == 200
    assert fleet.caller.chat(key("team"), path=path).status == 200


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
def test_an_answer_that_does_not_say_costs_one_token_a_piece(fleet: Fleet, path: str) -> None:
    # 19 pieces, the last one too: 20 are allowed
    if time.time() % 60 > 55:
        time.sleep(60.5 - time.time() % 60)
    for count, status in ((1, 200), (2, 200), (1, 429)):
        assert fleet.caller.chat(key("budget-none"), path=path, usage=False, chunks=18).status == status
        assert len(fleet.logged(count, client="budget-none", status=status)) == count


def test_tokens_of_a_day(fleet: Fleet) -> None:
    assert fleet.caller.chat(key("budget-day"), tokens=[10, 9]).status == 200
    # the one that crosses the line is still given
    assert fleet.caller.chat(key("budget-day"), tokens=[10, 9]).status == 200
    assert len(fleet.logged(2, client="budget-day")) == 2
    answer = fleet.caller.chat(key("budget-day"))
    assert answer.status == 429 and abs(int(answer.headers["retry-after"]) - (86400 - time.time() % 86400)) <= 2


def test_the_cap_is_written_into_what_ollama_gets(fleet: Fleet) -> None:
    for path, fields, wanted in (
        ("/api/chat", {}, b'"options":{"num_predict":100}'),
        ("/v1/chat/completions", {"max_completion_tokens": 7}, b'"max_tokens":7'),
        ("/v1/responses", {}, b'"max_output_tokens":100'),
    ):
        fleet.clear()
        assert fleet.caller.chat(key("capped"), path=path, fields=fields).status == 200
        [body] = [hit.body for upstream in fleet.upstreams for hit in upstream.hits]
        assert wanted in body
    assert fleet.caller.chat(key("capped"), fields={"options": {"num_predict": 101}}).status == 400
    assert fleet.caller.chat(key("capped"), fields={"options": {"num_predict": -1}}).status == 400
