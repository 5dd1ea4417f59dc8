"""Hosts that are taken out, and instances that the probes find down."""

from __future__ import annotations

import json
import time

from fleet import Fleet, key
from stand_in import eventually

TEAM = key("team")


def test_a_drained_host_gets_nothing_new(fleet: Fleet) -> None:
    [running] = fleet.slow_chats(TEAM, 1, 3)
    [busy] = [number for number, upstream in enumerate(fleet.upstreams) if upstream.running]
    with fleet.drained(f"gpu{busy + 1}"):
        time.sleep(1.5)
        fleet.clear()
        for _unused in range(12):
            assert fleet.caller.chat(TEAM).status == 200
        assert fleet.spread()[busy] == 0 and fleet.states()[busy] == "drained"
        running.join()
        assert fleet.logged(status=200)[-1]["completion"] == "OK" and not fleet.upstreams[busy].cancelled
        # and from the first request after a restart
        fleet.gateway.stop()
        fleet.gateway.start()
        for _unused in range(6):
            assert fleet.caller.chat(TEAM).status == 200
        assert fleet.spread()[busy] == 0
    assert eventually(lambda: fleet.caller.chat(TEAM).status == 200 and fleet.spread()[busy] > 0, 4)


def test_all_drained(fleet: Fleet) -> None:
    with fleet.drained("gpu1"), fleet.drained("gpu2"), fleet.drained("gpu3"), fleet.drained("gpu4"):
        assert eventually(lambda: fleet.caller.chat(TEAM).status == 503, 3)
        answer = fleet.caller.chat(TEAM, path="/v1/chat/completions")
        assert (answer.status, answer.headers["retry-after"], answer.data["error"]["code"]) == (503, "5", "unavailable")
        assert fleet.caller.call("/health").status == 503
        assert json.loads(fleet.gateway.management("/ready")) == {"usable": 0, "total": 4}
    assert eventually(lambda: fleet.caller.call("/health").status == 200, 3)


def test_probes_mark_down_and_up(fleet: Fleet) -> None:
    fleet.upstreams[0].probe_status = 500
    # the first probe is at the start, the second 5 seconds later
    fleet.gateway.stop()
    fleet.gateway.start()
    assert eventually(lambda: fleet.states()[0] == "down", 8)
    assert fleet.metric('ollama_gateway_upstream_up{host="gpu1",instance="default"}') == 0
    for _unused in range(9):
        assert fleet.caller.chat(TEAM).status == 200
    assert fleet.spread()[0] == 0
    fleet.upstreams[0].probe_status = 200
    assert eventually(lambda: fleet.states()[0] == "up", 8)
