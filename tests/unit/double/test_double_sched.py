# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Loaded models of the stand-in: keep_alive, limits, queue, slots, video memory; all that needs the server's settings."""
from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from datetime import datetime

import pytest

BUSY = {"error": "server busy, please try again.  maximum pending requests exceeded"}


def loaded(client):
    return {entry["name"]: entry for entry in client.get("/api/ps")["models"]}


def load(client, model, **more):
    return client.post("/api/generate", {"model": model, **more})


def wait_until(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def copies(client, model, count):
    """Models with weights of their own: names that share weights share the loaded model."""
    return [model] + [other_weights(client, model, number) for number in range(1, count)]


def other_weights(client, model, number):
    """A model like another one, under another digest. Nobody looks at the weights, so nobody sees that they are the same."""
    store, digest = client.app.store, f"sha256:{number:064d}"
    store.blob_path(digest).write_bytes(store.blob_path(_weights(client, model)).read_bytes())
    raw = json.dumps(_manifest(client, model)).replace(_weights(client, model), digest)
    path = store.manifests_dir / "registry.ollama.ai" / "library" / f"copy{number}" / "1"
    path.parent.mkdir(parents=True)
    path.write_text(raw, encoding="utf-8")
    return f"copy{number}:1"


def _manifest(client, model):
    name, tag = model.split(":")
    return json.loads((client.app.store.manifests_dir / "registry.ollama.ai" / "library" / name / tag).read_bytes())


def _weights(client, model):
    return _manifest(client, model)["layers"][0]["digest"]


class Reply(threading.Thread):
    """A request in the background."""

    def __init__(self, client, path, **body):
        super().__init__(daemon=True)
        self.call = (client, path, body)
        self.answer = None
        self.took = 0.0
        self.start()

    def run(self):
        began = time.monotonic()
        client, path, body = self.call
        self.answer = client.post(path, body)
        self.took = time.monotonic() - began


@pytest.mark.parametrize(("environment", "seconds"), [("", 300), ("24h", 86400), ("60", 60), ("nonsense", 300)])
def test_default_keep_alive(pulled, environment, seconds):
    client, model = pulled(OLLAMA_KEEP_ALIVE=environment)
    assert load(client, model)[1]["done_reason"] == "load"
    wait_until(lambda: model in loaded(client))
    left = datetime.fromisoformat(loaded(client)[model]["expires_at"]).timestamp() - time.time()
    assert abs(left - seconds) < 5


def test_forever_and_at_once(pulled):
    client, model = pulled(OLLAMA_KEEP_ALIVE="-1")
    load(client, model)
    assert 2300 < datetime.fromisoformat(loaded(client)[model]["expires_at"]).year < 2330
    load(client, model, prompt="hi", stream=False, keep_alive=0)
    wait_until(lambda: not loaded(client))


def test_keep_alive_runs_out(pulled):
    client, model = pulled()
    load(client, model, keep_alive="100ms")
    assert model in loaded(client)
    wait_until(lambda: not loaded(client), 2)


def test_the_last_given_keep_alive_stays_in_force(pulled):
    client, model = pulled()
    load(client, model, keep_alive="1h")
    client.post("/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": "hi"}]})
    left = datetime.fromisoformat(loaded(client)[model]["expires_at"]).timestamp() - time.time()
    assert 3500 < left < 3700


def test_names_that_share_weights_share_the_loaded_model(pulled):
    client, model = pulled()
    client.post("/api/copy", {"source": model, "destination": "alias"})
    load(client, model)
    load(client, "alias")
    assert list(loaded(client)) == [model]
    load(client, "alias", keep_alive=0)
    assert not loaded(client)


def test_another_context_reloads(pulled):
    client, model = pulled(OLLAMA_CONTEXT_LENGTH="2048")
    load(client, model)
    assert loaded(client)[model]["context_length"] == 2048
    load(client, model, options={"num_ctx": 1024})
    assert loaded(client)[model]["context_length"] == 1024
    load(client, model, options={"num_ctx": 1_000_000})
    assert loaded(client)[model]["context_length"] == 8192, "what the model was trained for"


def test_max_loaded_models_evicts_the_one_with_the_shortest_keep_alive(pulled):
    client, model = pulled(OLLAMA_MAX_LOADED_MODELS="2")
    first, second, third = copies(client, model, 3)
    load(client, first, keep_alive="1h")
    load(client, second, keep_alive="1m")
    load(client, third, keep_alive="2h")
    assert list(loaded(client)) == [third, first], "the longest to stay comes first"


def test_automatic_limit_is_three_a_gpu(pulled):
    client, model = pulled()
    for name in copies(client, model, 4):
        load(client, name)
    assert len(loaded(client)) == 3


@pytest.mark.parametrize(("share", "part"), [("gpu", 1.0), ("cpu", 0.0), ("0.5", 0.5)])
def test_share_of_video_memory(pulled, share, part):
    client, model = pulled(OLLAMA_DOUBLE_VRAM=share)
    load(client, model)
    entry = loaded(client)[model]
    assert entry["size_vram"] == int(entry["size"] * part)
    load(client, model, options={"num_gpu": 0})
    assert loaded(client)[model]["size_vram"] == 0


def test_over_the_queue_there_is_503(pulled):
    client, model = pulled(OLLAMA_MAX_QUEUE="1", OLLAMA_DOUBLE_LOAD_SECONDS="0.6")
    first, second, third = copies(client, model, 3)
    loading = Reply(client, "/api/generate", model=first)
    time.sleep(0.1)
    queued = Reply(client, "/api/generate", model=second)
    time.sleep(0.1)
    assert load(client, third) == (503, BUSY)
    status, body = client.post("/v1/chat/completions", {"model": third, "messages": [{"role": "user", "content": "x"}]})
    assert (status, body["error"]["type"], body["error"]["message"]) == (503, "api_error", BUSY["error"])
    status, body = client.post("/v1/messages", {"model": third, "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]})
    assert (status, body["error"]["type"]) == (503, "overloaded_error")
    for reply in (loading, queued):
        reply.join()
        assert reply.answer[0] == 200


def test_a_loaded_model_is_used_past_a_full_queue(pulled):
    client, model = pulled(OLLAMA_MAX_QUEUE="1", OLLAMA_DOUBLE_LOAD_SECONDS="0.4")
    first, second, third = copies(client, model, 3)
    load(client, first)
    waiting = [Reply(client, "/api/generate", model=second), Reply(client, "/api/generate", model=third)]
    time.sleep(0.1)
    assert load(client, first)[0] == 200
    for reply in waiting:
        reply.join()


@pytest.mark.parametrize(("parallel", "least", "most"), [("1", 0.75, 1.6), ("3", 0.2, 0.6)])
def test_parallel_slots(pulled, parallel, least, most):
    client, model = pulled(OLLAMA_NUM_PARALLEL=parallel, OLLAMA_DOUBLE_TOKEN_RATE="40")
    load(client, model)
    began = time.monotonic()
    replies = [Reply(client, "/api/generate", model=model, prompt="x", stream=False, options={"num_predict": 10}) for _number in range(3)]
    for reply in replies:
        reply.join()
    assert least < time.monotonic() - began < most


def test_tokens_come_one_by_one_at_the_rate(pulled):
    client, model = pulled(OLLAMA_DOUBLE_TOKEN_RATE="20")
    connection = http.client.HTTPConnection(client.host, timeout=5)
    connection.request("POST", "/api/generate", json.dumps({"model": model, "prompt": "hello", "options": {"num_predict": 6}}))
    answer = connection.getresponse()
    times = []
    while answer.readline():
        times.append(time.monotonic())
    assert len(times) == 7
    assert 0.2 < times[5] - times[0] < 0.5


def test_clients_of_http_1_0_get_a_stream_that_ends_with_the_connection(pulled):
    client, model = pulled()
    body = json.dumps({"model": model, "prompt": "hello", "options": {"num_predict": 2}}).encode()
    with socket.create_connection(("127.0.0.1", int(client.host.rpartition(":")[2])), timeout=5) as connection:
        connection.sendall(b"POST /api/generate HTTP/1.0\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _blank, stream = answer.partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert [json.loads(line)["done"] for line in stream.splitlines()] == [False, False, True]


def test_a_client_that_leaves_frees_its_slot(pulled):
    client, model = pulled(OLLAMA_DOUBLE_TOKEN_RATE="5")
    for stream in (True, False):
        connection = http.client.HTTPConnection(client.host, timeout=5)
        connection.request("POST", "/api/generate", json.dumps({"model": model, "prompt": "word " * 200, "stream": stream}))
        time.sleep(0.3)
        connection.sock.close()
        connection.close()
        reply = Reply(client, "/api/generate", model=model, prompt="x", stream=False, options={"num_predict": 1})
        reply.join(3)
        assert reply.answer and reply.answer[0] == 200


def test_while_a_request_runs_the_model_stays(pulled):
    client, model = pulled(OLLAMA_DOUBLE_TOKEN_RATE="20")
    reply = Reply(client, "/api/generate", model=model, prompt="x", stream=False, keep_alive=0)
    wait_until(lambda: model in loaded(client))
    load(client, model, keep_alive=0)
    assert model in loaded(client)
    reply.join()
    assert reply.answer[1]["done_reason"] == "stop"
    wait_until(lambda: not loaded(client))
