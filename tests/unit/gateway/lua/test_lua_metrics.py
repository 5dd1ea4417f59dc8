"""metrics.lua: counters and histograms, and their text."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

LINE = re.compile(r'([a-z_]+)\{((?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)*)\} ([0-9.]+)')


@pytest.fixture
def metrics(lua: Any) -> Any:
    """The module with empty memory."""
    module = lua.module("metrics")
    module.init_worker(lua.globals.DICT())
    return module


def lines(metrics: Any, lua: Any, gauges: Any = ()) -> list[str]:
    """The text, line by line."""
    return metrics.text(lua.table(list(gauges))).splitlines()


def test_what_nobody_counted_has_a_type_and_no_series(metrics: Any, lua: Any) -> None:
    text = lines(metrics, lua)
    names = [line.split(" ")[2] for line in text if line.startswith("# TYPE ")]
    assert names == [line.split(" ")[2] for line in text if line.startswith("# HELP ")]
    assert len(names) == len(set(names)) == 9 and len(text) == 18


def test_counters(metrics: Any, lua: Any) -> None:
    for _unused in range(3):
        metrics.count("r", 1, "/api/chat", "200", "team")
    metrics.count("r", 1, "/api/chat", "404", "")
    metrics.count("e", 0.25, "m")
    metrics.count("t", 0, "prompt", "team", "m")  # nothing is no series
    text = lines(metrics, lua)
    assert 'nginx_http_requests_total{route="/api/chat",status="200",client="team"} 3' in text
    assert 'nginx_http_requests_total{route="/api/chat",status="404",client=""} 1' in text
    assert 'ollama_gateway_eval_seconds_total{model="m"} 0.250000' in text
    assert not any(line.startswith("ollama_gateway_tokens_total") for line in text)


def test_a_label_is_escaped(metrics: Any, lua: Any) -> None:
    metrics.count("j", 1, 'a"b\\c\nd')
    assert 'ollama_gateway_rejected_total{reason="a\\"b\\\\c\\nd"} 1' in lines(metrics, lua)


def test_a_histogram_fits_whatever_it_got(metrics: Any, lua: Any) -> None:
    rng = random.Random(1)
    given = [0, 0.005, 0.0051, 600, 601, 1e6, *(10 ** rng.uniform(-4, 3) for _unused in range(200))]
    for seconds in given:
        metrics.observe("h", seconds, "/api/chat", "m")
    metrics.observe("h", 0.2, "/api/chat", "other")
    found = [LINE.fullmatch(line) for line in lines(metrics, lua) if line.startswith("nginx_http_request_duration") and 'model="m"' in line]
    buckets = [(match[2].rpartition('le="')[2].rstrip('"'), int(match[3])) for match in found if match and match[1].endswith("_bucket")]
    assert [edge for edge, _unused in buckets] == ["0.005", "0.025", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "30", "60", "120", "300", "600", "+Inf"]
    assert all(count == sum(seconds <= float(edge) for seconds in given) for edge, count in buckets)
    [total] = [float(match[3]) for match in found if match and match[1].endswith("_sum")]
    [count] = [int(match[3]) for match in found if match and match[1].endswith("_count")]
    assert (total, count) == (pytest.approx(sum(given)), len(given))


def test_gauges_and_other_turns(metrics: Any, lua: Any) -> None:
    labels = metrics.labelled(lua.table(["host"]), lua.table(["a"]))
    gauges = [["g_one", "Help.", [["", 1.5]]], ["g_two", "Help.", [[labels, 0]], "counter"], ["g_none", "Help.", []]]
    text = lines(metrics, lua, gauges)
    assert text[-8:] == [
        "# HELP g_one Help.", "# TYPE g_one gauge", "g_one 1.500000", "# HELP g_two Help.", "# TYPE g_two counter", 'g_two{host="a"} 0',
        "# HELP g_none Help.", "# TYPE g_none gauge",
    ]
    for number in range(2500):
        metrics.count("j", 1, f"reason{number}")
    assert len(lines(metrics, lua)) == 18 + 2500 and lua.globals.SLEPT >= 12
