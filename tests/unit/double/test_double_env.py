# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Environment and durations, parsed as Ollama does."""
from __future__ import annotations

import pytest
from ollama_double import durations, env
from ollama_double.durations import FOREVER, MINUTE, SECOND


def settings(**environ):
    return env.load({"HOME": "/nowhere", "OLLAMA_DOUBLE_VRAM": "cpu", **environ})


@pytest.mark.parametrize(("text", "nanoseconds"), [
    ("0", 0), ("10m", 10 * MINUTE), ("-1m", -MINUTE), ("1h30m", 90 * MINUTE), ("1.5s", 3 * SECOND // 2), ("300ms", 300_000_000),
    ("24h", 24 * 60 * MINUTE), ("1us", 1000), ("+5s", 5 * SECOND), (".5s", SECOND // 2),
])
def test_durations(text, nanoseconds):
    assert durations.parse_duration(text) == nanoseconds


@pytest.mark.parametrize(("text", "problem"), [
    ("-1", 'time: missing unit in duration "-1"'), ("300", 'time: missing unit in duration "300"'),
    ("1d", 'time: unknown unit "d" in duration "1d"'), ("", 'time: invalid duration ""'), ("forever", 'time: invalid duration "forever"'),
    ("-", 'time: invalid duration "-"'), ("300000000h", 'time: invalid duration "300000000h"'),
])
def test_bad_durations(text, problem):
    with pytest.raises(ValueError) as caught:
        durations.parse_duration(text)
    assert str(caught.value) == problem


@pytest.mark.parametrize(("value", "nanoseconds"), [
    (None, None), (300, 300 * SECOND), (0, 0), (-1, FOREVER), (0.5, SECOND // 2), ("10m", 10 * MINUTE), ("-1m", FOREVER), ("0", 0),
])
def test_keep_alive_of_requests(value, nanoseconds):
    assert durations.parse_keep_alive(value) == nanoseconds


@pytest.mark.parametrize(("value", "problem"), [
    ("-1", "missing unit"), ("300", "missing unit"), (True, "Unsupported type: 'bool'"), ([1], "Unsupported type"), ({}, "Unsupported type"),
])
def test_bad_keep_alive_of_requests(value, problem):
    with pytest.raises(ValueError, match=problem):
        durations.parse_keep_alive(value)


@pytest.mark.parametrize(("text", "nanoseconds"), [
    ("", 5 * MINUTE), ("24h", 24 * 60 * MINUTE), ("-1", FOREVER), ("-1m", FOREVER), ("0", 0), ("300", 300 * SECOND),
    ("1d", 5 * MINUTE), ("forever", 5 * MINUTE), (' "10m" ', 10 * MINUTE),
])
def test_keep_alive_of_the_environment(text, nanoseconds):
    assert settings(OLLAMA_KEEP_ALIVE=text).keep_alive == nanoseconds


@pytest.mark.parametrize(("text", "expected"), [
    ("", False), ("0", False), ("f", False), ("false", False), ("FALSE", False), ("False", False),
    ("1", True), ("true", True), ("no", True), ("off", True), ("yes", True), (" '1' ", True),
])
def test_booleans_are_true_unless_they_spell_false(text, expected):
    assert settings(OLLAMA_NOPRUNE=text).no_prune is expected


@pytest.mark.parametrize(("text", "address"), [
    ("", ("http", "127.0.0.1", 11434)), ("0.0.0.0", ("http", "0.0.0.0", 11434)), ("http://0.0.0.0", ("http", "0.0.0.0", 80)),
    ("https://h", ("https", "h", 443)), ("h", ("http", "h", 11434)), (":8080", ("http", "", 8080)), ("h:99999", ("http", "h", 11434)),
    ("http://h:bad", ("http", "h", 80)), ("[::1]:5000", ("http", "::1", 5000)), ("::1", ("http", "::1", 11434)), ("h:1/path", ("http", "h", 1)),
])
def test_host(text, address):
    assert env.host_address(text) == address


def test_numbers_that_are_none_give_the_default_and_a_warning():
    found = settings(OLLAMA_NUM_PARALLEL="four", OLLAMA_MAX_QUEUE="-1", OLLAMA_MAX_LOADED_MODELS="2")
    assert (found.num_parallel, found.max_queue, found.max_loaded_models) == (1, 512, 2)
    assert len(found.warnings) == 2


def test_origins_at_which_the_start_fails():
    assert "http://app.example" in env.origins("http://app.example,https://*.example")
    for text in ("app.example", "http://*.*", "app://x"):
        with pytest.raises(env.StartError) as caught:
            env.origins(text)
        assert caught.value.status == 2


@pytest.mark.parametrize(("gib", "count", "context"), [(0, 1, 4096), (22, 1, 4096), (24, 1, 32768), (24, 2, 262144), (80, 1, 262144)])
def test_default_context_by_video_memory(gib, count, context):
    uuids = ",".join(f"GPU-{number}" for number in range(count))
    found = settings(OLLAMA_DOUBLE_VRAM="gpu", OLLAMA_DOUBLE_VRAM_GIB=str(gib), CUDA_VISIBLE_DEVICES=uuids)
    assert (found.default_context, len(found.gpus)) == (context, count)
    assert settings(OLLAMA_CONTEXT_LENGTH="8192").default_context == 8192


@pytest.mark.parametrize(("knob", "visible", "nodes", "share"), [
    ("auto", "", ["/dev/nvidia0"], 1.0), ("auto", "", [], 0.0), ("auto", "-1", ["/dev/nvidia0"], 0.0), ("gpu", "", [], 1.0),
    ("cpu", "0", ["/dev/nvidia0"], 0.0), ("0.5", "", [], 0.5), ("gpu", "-1", [], 0.0),
])
def test_gpu_share(monkeypatch, knob, visible, nodes, share):
    monkeypatch.setattr(env.glob, "glob", lambda _pattern: nodes)
    found = settings(OLLAMA_DOUBLE_VRAM=knob, CUDA_VISIBLE_DEVICES=visible)
    assert (found.gpu_share, bool(found.gpus)) == (share, share > 0)


def test_cloud_can_be_off_by_environment_and_by_file(tmp_path):
    assert settings().cloud == {"disabled": False, "source": "none"}
    assert settings(OLLAMA_NO_CLOUD="1").cloud == {"disabled": True, "source": "env"}
    (tmp_path / ".ollama").mkdir()
    (tmp_path / ".ollama" / "server.json").write_text('{"disable_ollama_cloud": true}', encoding="utf-8")
    assert settings(HOME=str(tmp_path)).cloud == {"disabled": True, "source": "config"}
    assert settings(HOME=str(tmp_path), OLLAMA_NO_CLOUD="1").cloud == {"disabled": True, "source": "both"}


def test_no_home_no_start():
    with pytest.raises(env.StartError, match="HOME is not defined"):
        env.load({})
