# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Loading, unloading and answering over Ollama's own API. What a model says is nowhere looked at."""
from __future__ import annotations

import json
import time

import pytest
from test_conformance_models import instant

MISSING = "conformance-no-such-model:none"
# Few tokens are enough, and real models on a CPU are slow.
SHORT = {"num_predict": 8}
METRICS = ("total_duration", "load_duration", "prompt_eval_count", "eval_count", "eval_duration")


def load(ollama, model, **more):
    """Load for long enough, whatever the server's default is."""
    return ollama.post("/api/generate", {"model": model, "keep_alive": "1h", **more})


def generate(ollama, model, prompt="Count to ten.", **more):
    """A short reply in one object."""
    return ollama.post("/api/generate", {"model": model, "prompt": prompt, "stream": False, "options": SHORT, **more})


def chat(ollama, model, **more):
    """A short reply in one object."""
    messages = [{"role": "user", "content": "Count to ten."}]
    return ollama.post("/api/chat", {"model": model, "messages": messages, "stream": False, "options": SHORT, **more})


@pytest.mark.inference
def test_empty_prompt_loads(ollama, chat_model, idle):
    """3.5: empty prompt = load: one JSON object with `done_reason: load` after the load has finished."""
    answer = load(ollama, idle(chat_model))
    assert answer.status == 200
    body = answer.json
    assert (body["model"], body["response"], body["done"], body["done_reason"]) == (chat_model, "", True, "load")
    assert instant(body["created_at"]).utcoffset().total_seconds() == 0
    assert chat_model in ollama.loaded()


@pytest.mark.inference
def test_chat_without_messages_loads(ollama, chat_model, idle):
    """3.5: chat: the same load and unload rule with empty `messages`."""
    body = ollama.post("/api/chat", {"model": idle(chat_model), "messages": [], "keep_alive": "1h"}).json
    assert (body["message"]["role"], body["message"]["content"], body["done_reason"]) == ("assistant", "", "load")
    assert chat_model in ollama.loaded()
    body = ollama.post("/api/chat", {"model": chat_model, "messages": [], "keep_alive": 0}).json
    assert (body["done"], body["done_reason"]) == (True, "unload")
    ollama.wait_until_gone(chat_model)


@pytest.mark.inference
def test_loaded_models(ollama, chat_model, idle):
    """3.2: /api/ps: name, model, size, digest, details, expires_at, size_vram, context_length."""
    load(ollama, idle(chat_model))
    entry = ollama.loaded()[chat_model]
    assert entry["model"] == entry["name"]
    assert entry["digest"] == ollama.tags()[chat_model]["digest"]
    assert 0 <= entry["size_vram"] <= entry["size"]
    assert entry["context_length"] > 0
    assert entry["details"]["family"] == ollama.tags()[chat_model]["details"]["family"]


@pytest.mark.inference
def test_unload(ollama, chat_model, idle):
    """3.5: empty prompt + keep_alive 0 = unload: `done_reason: unload`, and it leaves /api/ps."""
    load(ollama, idle(chat_model))
    answer = ollama.post("/api/generate", {"model": chat_model, "keep_alive": 0})
    assert (answer.status, answer.json["done_reason"]) == (200, "unload")
    ollama.wait_until_gone(chat_model)


@pytest.mark.inference
def test_unload_of_what_is_not_loaded(ollama, chat_model, idle):
    """3.5: 200 even if it was not loaded; 404 if the model does not exist."""
    answer = ollama.post("/api/generate", {"model": idle(chat_model), "keep_alive": 0})
    assert (answer.status, answer.json["done_reason"]) == (200, "unload")
    assert ollama.post("/api/generate", {"model": MISSING, "keep_alive": 0}).status == 404


@pytest.mark.inference
@pytest.mark.parametrize("value", [-1, "-1m"])
def test_forever(ollama, chat_model, idle, value):
    """3.1, 3.2: negative = forever: expires_at lies about 292 years ahead."""
    ollama.post("/api/generate", {"model": idle(chat_model), "keep_alive": value})
    assert instant(ollama.loaded()[chat_model]["expires_at"]).year > 2200


@pytest.mark.inference
@pytest.mark.parametrize("value", [3600, "1h"])
def test_keep_alive_in_seconds_and_as_a_duration(ollama, chat_model, idle, value):
    """3.1: a number is seconds, a string has a unit; it counts from the end of the request."""
    ollama.post("/api/generate", {"model": idle(chat_model), "keep_alive": value})
    end = time.monotonic() + 30
    while not 3400 < (left := instant(ollama.loaded()[chat_model]["expires_at"]).timestamp() - time.time()) < 3800:
        assert time.monotonic() < end, f"expires in {left} seconds"
        time.sleep(0.05)


@pytest.mark.inference
def test_keep_alive_0_unloads_after_the_reply(ollama, chat_model, idle):
    """2: 0 = unload as soon as idle."""
    assert generate(ollama, idle(chat_model), keep_alive=0).json["done"] is True
    ollama.wait_until_gone(chat_model)


@pytest.mark.inference
def test_context_of_the_request(ollama, chat_model, idle):
    """3.2, 3.5: options.num_ctx decides how the model is loaded; /api/ps shows it."""
    load(ollama, idle(chat_model), options={"num_ctx": 512})
    assert ollama.loaded()[chat_model]["context_length"] == 512


@pytest.mark.inference
@pytest.mark.parametrize(("option", "value", "kind"), [("num_ctx", "4096", "integer"), ("temperature", "0.5", "float32"), ("stop", "x", "array")])
def test_options_of_a_wrong_type(ollama, chat_model, option, value, kind):
    """3.4, 3.5: options are JSON numbers, `stop` is a list: a number in quotes is an error, and its status is 500."""
    answer = ollama.post("/api/generate", {"model": chat_model, "options": {option: value}})
    assert (answer.status, answer.error) == (500, f'option "{option}" must be of type {kind}')


@pytest.mark.inference
def test_names_that_share_weights_share_the_loaded_model(ollama, chat_model, idle, new_name):
    """3.2: loaded models go by their weights: an alias of a loaded model is not loaded a second time."""
    alias = new_name()
    ollama.copy(chat_model, alias)
    load(ollama, idle(chat_model))
    load(ollama, alias)
    digest = ollama.tags()[chat_model]["digest"]
    assert len([entry for entry in ollama.loaded().values() if entry["digest"] == digest]) == 1


@pytest.mark.inference
def test_generate_in_a_stream(ollama, chat_model):
    """3.1, 3.5: NDJSON, one object a line; the last one has `done`, a done_reason and the counts, in nanoseconds."""
    answer = ollama.post("/api/generate", {"model": chat_model, "prompt": "Count to ten.", "options": SHORT})
    assert (answer.status, answer.content_type) == (200, "application/x-ndjson")
    assert answer.body.endswith(b"\n")
    lines = answer.lines
    assert all(line["model"] == chat_model and line["done"] is False for line in lines[:-1])
    assert lines[-1]["done"] is True
    assert lines[-1]["done_reason"] in ("stop", "length")
    assert all(isinstance(lines[-1][key], int) and lines[-1][key] > 0 for key in METRICS)


@pytest.mark.inference
def test_generate_in_one_object(ollama, chat_model):
    """3.5: `stream: false`: one JSON object with the whole reply."""
    answer = generate(ollama, chat_model)
    assert (answer.status, answer.content_type) == (200, "application/json")
    body = answer.json
    assert isinstance(body["response"], str)
    assert body["done"] is True
    assert all(body[key] > 0 for key in METRICS)


@pytest.mark.inference
def test_num_predict_caps_the_reply(ollama, chat_model):
    """3.5: a cap on the output: done_reason `length` when it is reached."""
    body = generate(ollama, chat_model, options={"num_predict": 3}).json
    assert body["eval_count"] <= 3
    assert body["done_reason"] in ("stop", "length")


@pytest.mark.inference
def test_chat_in_a_stream(ollama, chat_model):
    """3.5: every line has a message of the assistant; the last one has `done`."""
    answer = ollama.post("/api/chat", {"model": chat_model, "messages": [{"role": "user", "content": "Count."}], "options": SHORT})
    assert (answer.status, answer.content_type) == (200, "application/x-ndjson")
    lines = answer.lines
    assert all(line["message"]["role"] == "assistant" for line in lines)
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    assert all(lines[-1][key] > 0 for key in METRICS)


@pytest.mark.inference
def test_chat_in_one_object(ollama, chat_model):
    """3.5: `stream: false`: one JSON object with the whole message."""
    body = chat(ollama, chat_model).json
    assert body["message"]["role"] == "assistant"
    assert isinstance(body["message"]["content"], str)
    assert body["done_reason"] in ("stop", "length")


@pytest.mark.inference
def test_a_stream_comes_bit_by_bit(ollama, chat_model):
    """3.1, 3.5: `stream` defaults to true: the first line is there before the last one is made."""
    body = {"model": chat_model, "prompt": "Write a long story.", "options": {"num_predict": 64}}
    with ollama.stream("/api/generate", body) as answer:
        first = json.loads(answer.readline())
        rest = answer.readlines()
    assert first["done"] is False
    assert json.loads(rest[-1])["done"] is True


@pytest.mark.inference
def test_a_client_that_leaves_blocks_nobody(ollama, chat_model):
    """1.3, 3.5: when a client goes away its reply ends, and the slot is free for the next one."""
    body = {"model": chat_model, "prompt": "Write a very long story.", "options": {"num_predict": 2000}}
    with ollama.stream("/api/generate", body) as answer:
        assert answer.readline()
    assert generate(ollama, chat_model, options={"num_predict": 1}).status == 200


@pytest.mark.inference
def test_names_in_another_case_answer(ollama, chat_model):
    """3.1: names match case-insensitively; the reply repeats the name as the request spelled it."""
    body = generate(ollama, chat_model.upper(), options={"num_predict": 1})
    assert (body.status, body.json["model"]) == (200, chat_model.upper())


@pytest.mark.inference
def test_custom_models_answer(ollama, chat_model, new_name):
    """3.4, 3.5: a model made by /api/create answers, with its own parameters."""
    name = new_name()
    body = {"model": name, "from": chat_model, "system": "You count.", "parameters": {"num_predict": 2}, "stream": False}
    assert ollama.post("/api/create", body).status == 200
    answer = generate(ollama, name, options={})
    assert answer.status == 200
    assert answer.json["eval_count"] <= 2


@pytest.mark.inference
def test_what_a_model_cannot_do(ollama, chat_model):
    """3.5: 400 for a capability that the model lacks."""
    have = ollama.show(chat_model)["capabilities"]
    lacking = [word for word in ("thinking", "tools", "insert") if word not in have]
    if not lacking:
        pytest.skip(f"{chat_model} can do everything")
    tool = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}}
    if "thinking" in lacking:
        answer = chat(ollama, chat_model, think=True)
        assert (answer.status, answer.error) == (400, f'"{chat_model}" does not support thinking')
    if "tools" in lacking:
        answer = chat(ollama, chat_model, tools=[tool])
        assert answer.status == 400
        assert answer.error.endswith(" does not support tools")
    if "insert" in lacking:
        answer = generate(ollama, chat_model, suffix="end")
        assert answer.status == 400
        assert answer.error.endswith(" does not support insert")


@pytest.mark.parametrize(("path", "body", "status", "error"), [
    ("/api/generate", {"model": MISSING, "prompt": "x"}, 404, f"model '{MISSING}' not found"),
    ("/api/chat", {"model": MISSING, "messages": [{"role": "user", "content": "x"}]}, 404, f"model '{MISSING}' not found"),
    ("/api/embed", {"model": MISSING, "input": "x"}, 404, f'model "{MISSING}" not found, try pulling it first'),
    ("/api/embeddings", {"model": MISSING, "prompt": "x"}, 404, f'model "{MISSING}" not found, try pulling it first'),
    ("/api/generate", {"prompt": "x"}, 404, "model '' not found"),
    ("/api/chat", {"messages": []}, 400, "model is required"),
    ("/api/generate", {"model": "a/b/c/d"}, 400, "invalid model name"),
    ("/api/chat", {"model": "a/b/c/d"}, 400, "invalid model name"),
])
def test_models_that_are_not_there(ollama, path, body, status, error):
    """3.5: missing model 404 (generate, chat: single quotes; embed: double quotes), no name 404 or 400."""
    answer = ollama.post(path, body)
    assert (answer.status, answer.error) == (status, error)


@pytest.mark.embedding
def test_embed_one_and_many(ollama, embed_model):
    """3.5: /api/embed takes a string or a list: one vector each, all of one length, of unit length."""
    body = ollama.post("/api/embed", {"model": embed_model, "input": "one"}).json
    assert body["model"] == embed_model
    assert len(body["embeddings"]) == 1
    body = ollama.post("/api/embed", {"model": embed_model, "input": ["one", "two", "three"]}).json
    assert len(body["embeddings"]) == 3
    assert len({len(vector) for vector in body["embeddings"]}) == 1
    for vector in body["embeddings"]:
        assert abs(sum(number * number for number in vector) - 1) < 0.01
    assert body["prompt_eval_count"] > 0


@pytest.mark.embedding
def test_embed_with_no_input_loads(ollama, embed_model, idle):
    """3.5: missing or empty input loads the model and returns `"embeddings": []`."""
    answer = ollama.post("/api/embed", {"model": idle(embed_model), "keep_alive": "1h"})
    assert (answer.status, answer.json["embeddings"]) == (200, [])
    assert embed_model in ollama.loaded()
    assert ollama.post("/api/embed", {"model": embed_model, "input": ""}).json["embeddings"] == []


@pytest.mark.embedding
def test_embedding_models_are_unloaded_like_others(ollama, embed_model, idle):
    """3.5: unloading through generate works for embedding models."""
    ollama.post("/api/embed", {"model": idle(embed_model), "keep_alive": -1})
    assert instant(ollama.loaded()[embed_model]["expires_at"]).year > 2200
    answer = ollama.post("/api/generate", {"model": embed_model, "keep_alive": 0})
    assert (answer.status, answer.json["done_reason"]) == (200, "unload")
    ollama.wait_until_gone(embed_model)


@pytest.mark.embedding
def test_embed_with_fewer_dimensions(ollama, embed_model):
    """3.5: `dimensions` shortens the vectors; they have unit length again."""
    vector = ollama.post("/api/embed", {"model": embed_model, "input": "one", "dimensions": 16}).json["embeddings"][0]
    assert len(vector) == 16
    assert abs(sum(number * number for number in vector) - 1) < 0.01


@pytest.mark.embedding
@pytest.mark.parametrize("given", [5, [1, 2], {"a": 1}])
def test_embed_of_no_text(ollama, embed_model, given):
    """3.5: an input that is neither a string nor a list of strings is 400."""
    answer = ollama.post("/api/embed", {"model": embed_model, "input": given})
    assert (answer.status, answer.error) == (400, "invalid input type")


@pytest.mark.embedding
def test_old_embeddings(ollama, embed_model):
    """3.5: legacy POST /api/embeddings {model, prompt}: `{"embedding": [..]}`."""
    new = ollama.post("/api/embed", {"model": embed_model, "input": "one"}).json["embeddings"][0]
    old = ollama.post("/api/embeddings", {"model": embed_model, "prompt": "one"}).json["embedding"]
    assert len(old) == len(new)


@pytest.mark.embedding
def test_embedding_only_models_do_not_generate(ollama, embed_model):
    """3.5: generate gives 400 `"x" does not support generate`, chat `.. does not support chat`: preload with embed."""
    if "completion" in ollama.show(embed_model)["capabilities"]:
        pytest.skip(f"{embed_model} can complete as well")
    answer = ollama.post("/api/generate", {"model": embed_model})
    assert (answer.status, answer.error) == (400, f'"{embed_model}" does not support generate')
    answer = ollama.post("/api/chat", {"model": embed_model, "messages": [{"role": "user", "content": "x"}]})
    assert (answer.status, answer.error) == (400, f'"{embed_model}" does not support chat')
