"""What the gateway tells of itself: metrics, the audit log, its health; and what it keeps to itself."""

from __future__ import annotations

import hashlib
import http.client
import json
import re

import pytest
from fleet import Fleet, key
from stand_in import eventually

TEAM = key("team")
SERIES = re.compile(r'([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\.)*",?)*)\})? (\S+)')


def parsed(text: str) -> tuple[dict[str, str], dict[tuple[str, str], float]]:
    """Name -> type, and (name, labels) -> value; the format is checked on the way."""
    types: dict[str, str] = {}
    helped: set[str] = set()
    values: dict[tuple[str, str], float] = {}
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name = line.split(" ", 3)[2]
            assert name not in helped, f"{name} has two HELP lines"
            helped.add(name)
        elif line.startswith("# TYPE "):
            _unused, _unused, name, kind = line.split(" ")
            assert name not in types and name in helped
            types[name] = kind
        else:
            found = SERIES.fullmatch(line)
            assert found, line
            name = found[1]
            family = name if name in types else re.sub(r"_(bucket|sum|count)$", "", name)
            assert family in types and (family == name or types[family] == "histogram"), line
            assert (name, found[2] or "") not in values, f"{line} is there twice"
            values[name, found[2] or ""] = float(found[3])
    return types, values


def figures(fleet: Fleet) -> dict[tuple[str, str], float]:
    """The series as they are."""
    return parsed(fleet.gateway.management("/metrics"))[1]


def test_exact_numbers_after_known_requests(fleet: Fleet) -> None:
    for _unused in range(3):
        assert fleet.caller.chat(TEAM, tokens=[5, 7], delay=0.01).status == 200
    assert fleet.caller.chat(TEAM, "no-such-model").status == 403
    assert fleet.caller.chat(key("five"), "no-such-model", path="/v1/chat/completions").status == 200
    assert fleet.caller.chat(TEAM, status=500).status == 500
    assert fleet.caller.chat(TEAM, close=True).status == 502
    answer = fleet.caller.call("/api/chat", {"model": "shared"})
    assert (answer.status, answer.headers["www-authenticate"]) == (401, 'Bearer realm="ollama"')  # there are no users
    assert fleet.caller.call("/api/nothing/at/all", key=TEAM).status == 404
    assert fleet.caller.call("/health").status == 200
    assert eventually(lambda: sum(value for (name, _unused), value in figures(fleet).items() if name == "nginx_http_requests_total") == 9)
    values = figures(fleet)
    assert {labels: value for (name, labels), value in values.items() if name == "nginx_http_requests_total"} == {
        'route="/api/chat",status="200",client="team"': 3,
        'route="/api/chat",status="403",client="team"': 1,
        'route="/v1/chat/completions",status="200",client="five"': 1,
        'route="/api/chat",status="500",client="team"': 1,
        'route="/api/chat",status="502",client="team"': 1,
        'route="/api/chat",status="401",client=""': 1,
        'route="other",status="404",client="team"': 1,
    }
    tokens = {labels: value for (name, labels), value in values.items() if name == "ollama_gateway_tokens_total"}
    assert tokens == {
        'kind="prompt",client="team",model="shared:latest"': 15, 'kind="completion",client="team",model="shared:latest"': 21,
        # a name that is not in the manifest makes no series of its own
        'kind="prompt",client="five",model="other"': 3, 'kind="completion",client="five",model="other"': 4,
    }
    assert values["ollama_gateway_eval_seconds_total", 'model="shared:latest"'] == pytest.approx(0.21)
    outcomes = {labels: value for (name, labels), value in values.items() if name == "ollama_gateway_stream_outcomes_total"}
    assert outcomes == {
        'route="/api/chat",outcome="complete"': 3, 'route="/v1/chat/completions",outcome="complete"': 1, 'route="/api/chat",outcome="no_usage"': 1,
    }
    rejected = {labels: value for (name, labels), value in values.items() if name == "ollama_gateway_rejected_total"}
    assert rejected == {'reason="model"': 1, 'reason="auth"': 1, 'reason="path"': 1, 'reason="upstream"': 1}
    assert values["nginx_http_request_duration_seconds_count", 'route="/api/chat",model="shared:latest"'] == 4
    assert values["ollama_gateway_time_to_first_token_seconds_count", 'model="shared:latest"'] == 3


def test_what_dashboards_ask_for(fleet: Fleet) -> None:
    assert fleet.caller.chat(TEAM, wait=0.15).status == 200
    assert fleet.caller.chat(TEAM, status=503).status == 503
    assert eventually(lambda: fleet.metric('nginx_http_request_duration_seconds_count{route="/api/chat",model="shared:latest"}') == 2)
    types, values = parsed(fleet.gateway.management("/metrics"))
    # rate(nginx_http_requests_total[5m]), the same with status=~"5..", histogram_quantile over the buckets, nginx_connections_active
    assert types["nginx_http_requests_total"] == "counter" and types["nginx_http_request_duration_seconds"] == "histogram"
    assert any(name == "nginx_http_requests_total" and re.search('status="5..",', labels) for name, labels in values)
    buckets = [(labels, value) for (name, labels), value in values.items() if name == "nginx_http_request_duration_seconds_bucket"]
    edges = [re.search('le="([^"]+)"', labels)[1] for labels, _unused in buckets]  # type: ignore[index]
    assert [float(edge) for edge in edges] == sorted(map(float, edges)) and edges[-1] == "+Inf"
    counts = [value for _unused, value in buckets]
    assert counts == sorted(counts) and counts[-1] == 2 and dict(zip(edges, counts))["0.1"] == 1
    # the scrape's own connection, at least
    assert types["nginx_connections_active"] == "gauge" and values["nginx_connections_active", ""] >= 1
    assert values["nginx_connections_accepted", ""] >= values["nginx_connections_active", ""]
    assert {"ollama_gateway_upstream_up", "ollama_gateway_upstream_drained", "ollama_gateway_upstream_inflight", "ollama_gateway_config_info"} <= set(types)
    assert values["ollama_gateway_certificate_expiry_timestamp_seconds", ""] > 1.7e9


def test_nothing_that_is_secret_is_told(fleet: Fleet) -> None:
    secret, prompt = "secret-of-a-query", "a prompt that nobody reads"
    answers = [
        fleet.caller.call(f"/api/chat?q={secret}", {"model": "shared", "prompt": prompt}, TEAM),
        fleet.caller.call("/api/chat", {"model": prompt + '"', "prompt": prompt}, TEAM),
        fleet.caller.call(f"/nothing?q={secret}", {"prompt": prompt}, TEAM),
        fleet.caller.call("/api/tags", key=f"wrong-{secret}"),
        fleet.caller.call("/api/tags", Cookie=secret, X_API_Key=TEAM),
        fleet.caller.call("/api/chat", {"model": "shared", "prompt": prompt, "act": {"close": True}}, TEAM),
    ]
    assert [answer.status for answer in answers] == [200, 403, 404, 401, 200, 502]
    assert eventually(lambda: len(fleet.gateway.log()) == 6)
    told = [
        fleet.gateway.management("/metrics"), fleet.gateway.management("/upstreams"), fleet.gateway.errors(),
        (fleet.gateway.folder / "logs/access.log").read_text(encoding="utf-8"), *(json.dumps(answer.headers) for answer in answers),
    ]
    digest = hashlib.sha256(TEAM.encode()).hexdigest()
    for text in told:
        for word in (secret, prompt, TEAM, digest):
            assert word not in text
    for hit in (hit for upstream in fleet.upstreams for hit in upstream.hits):
        assert secret not in hit.path and not any(word in json.dumps(hit.headers) for word in (secret, TEAM))


def test_the_audit_log(fleet: Fleet) -> None:
    answer = fleet.caller.chat(TEAM, "SHARED", tokens=[5, 7], delay=0.02)
    [line] = fleet.logged(client="team")
    assert line["id"] == answer.headers["x-request-id"]
    assert fleet.upstreams and [hit.headers["X-Request-ID"] for upstream in fleet.upstreams for hit in upstream.hits] == [line["id"]]
    wanted = {
        "address": "127.0.0.1", "key": hashlib.sha256(TEAM.encode()).hexdigest()[:8], "user": "", "method": "POST", "route": "/api/chat",
        "model": "SHARED", "status": 200, "reason": "", "tokens_in": "5", "tokens_out": "7", "upstream_status": "200", "completion": "OK",
    }
    assert {name: line[name] for name in wanted} == wanted
    assert float(line["first_token_seconds"]) >= 0.02 and line["seconds"] >= 0.06
    assert fleet.caller.chat(TEAM, 'x"\n{"client":"admin"}').status == 403
    assert fleet.logged(status=403)[0]["model"] == "invalid"


def test_health_and_ready(fleet: Fleet) -> None:
    answer = fleet.caller.call("/health")
    assert (answer.status, answer.data) == (200, {"status": "ok"})
    assert answer.headers["x-gateway-config"] == json.loads((fleet.gateway.folder / "clients.json").read_text(encoding="utf-8"))["config_id"]
    with fleet.drained("gpu1"):
        assert eventually(lambda: json.loads(fleet.gateway.management("/ready")) == {"usable": 3, "total": 4})
        assert fleet.caller.call("/health").status == 200
        found = json.loads(fleet.gateway.management("/upstreams"))
        seen = [(item["host"], item["instance"], item["state"], item["inflight"]) for item in found[:2]]
        assert seen == [("gpu1", "default", "drained", 0), ("gpu2", "default", "up", 0)]
        assert fleet.metric('ollama_gateway_upstream_drained{host="gpu1",instance="default"}') == 1
    # the rest is not for clients
    for path in ("/metrics", "/ready", "/upstreams", "/stub_status"):
        assert fleet.caller.call(path).status == 401 and fleet.caller.call(path, key=key("admin")).status == 404
    connection = http.client.HTTPConnection("127.0.0.1", fleet.gateway.metrics_port)
    for path in ("/stub_status", "/api/tags", "/"):
        connection.request("GET", path)
        refused = connection.getresponse()
        assert refused.read() is not None and refused.status == 404
