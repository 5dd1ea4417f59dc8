# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The OpenAI and Anthropic dialects, as clients behind a gateway use them."""
from __future__ import annotations

import base64
import json

import pytest

MISSING = "conformance-no-such-model:none"
MESSAGES = [{"role": "user", "content": "Count to ten."}]


def chat(ollama, model, **more):
    """A short chat completion."""
    return ollama.post("/v1/chat/completions", {"model": model, "messages": MESSAGES, "max_tokens": 8, **more})


@pytest.mark.inference
def test_chat_completion(ollama, chat_model):
    """3.5: /v1/chat/completions: one object with choices and usage; it does not stream unless asked."""
    answer = chat(ollama, chat_model)
    assert (answer.status, answer.content_type) == (200, "application/json")
    body = answer.json
    assert (body["object"], body["model"]) == ("chat.completion", chat_model)
    choice = body["choices"][0]
    assert choice["message"]["role"] == "assistant"
    assert choice["finish_reason"] in ("stop", "length")
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


@pytest.mark.inference
def test_max_tokens_caps_the_reply(ollama, chat_model):
    """3.5: max_tokens is the cap on the output."""
    body = chat(ollama, chat_model, max_tokens=3).json
    assert body["usage"]["completion_tokens"] <= 3


@pytest.mark.inference
def test_chat_completion_in_a_stream(ollama, chat_model):
    """3.5: server-sent events: chunks, the finish reason in the last one, then `[DONE]`."""
    answer = chat(ollama, chat_model, stream=True)
    assert (answer.status, answer.content_type) == (200, "text/event-stream")
    data = [content for _name, content in answer.events]
    assert data[-1] == "[DONE]"
    chunks = [json.loads(content) for content in data[:-1]]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-1]["choices"][0]["finish_reason"] in ("stop", "length")
    assert not any(chunk.get("usage") for chunk in chunks), "usage comes on request only"


@pytest.mark.inference
def test_usage_in_a_stream(ollama, chat_model):
    """3.5: stream_options.include_usage: the last chunk has no choices and the token counts."""
    data = [content for _name, content in chat(ollama, chat_model, stream=True, stream_options={"include_usage": True}).events]
    last = json.loads(data[-2])
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == last["usage"]["prompt_tokens"] + last["usage"]["completion_tokens"] > 0


@pytest.mark.inference
def test_parts_of_a_message(ollama, chat_model):
    """3.5: content may be a list of parts."""
    messages = [{"role": "system", "content": "Count."}, {"role": "user", "content": [{"type": "text", "text": "To ten."}]}]
    assert chat(ollama, chat_model, messages=messages).status == 200


@pytest.mark.inference
def test_no_keep_alive_in_this_dialect(ollama, chat_model, idle):
    """3.5: /v1/* has no keep_alive field: it is ignored."""
    ollama.post("/api/generate", {"model": idle(chat_model), "keep_alive": "1h"})
    assert chat(ollama, chat_model, keep_alive=0).status == 200
    assert chat_model in ollama.loaded()


@pytest.mark.inference
def test_completion(ollama, chat_model):
    """3.5: /v1/completions: text in the choices."""
    body = ollama.post("/v1/completions", {"model": chat_model, "prompt": "One, two,", "max_tokens": 4}).json
    assert body["object"] == "text_completion"
    assert isinstance(body["choices"][0]["text"], str)
    assert body["usage"]["completion_tokens"] <= 4


@pytest.mark.inference
def test_completion_in_a_stream(ollama, chat_model):
    """3.5: the same as events."""
    answer = ollama.post("/v1/completions", {"model": chat_model, "prompt": "One, two,", "max_tokens": 4, "stream": True})
    data = [content for _name, content in answer.events]
    assert data[-1] == "[DONE]"
    assert json.loads(data[-2])["choices"][0]["finish_reason"] in ("stop", "length")


@pytest.mark.parametrize(("path", "body"), [
    ("/v1/chat/completions", {"messages": MESSAGES}), ("/v1/completions", {"prompt": "x"}), ("/v1/embeddings", {"input": "x"}),
    ("/v1/responses", {"input": "x"}),
])
def test_missing_models(ollama, path, body):
    """3.5: errors `{"error": {message, type, param: null, code: null}}`; 404 is a not_found_error."""
    answer = ollama.post(path, {"model": MISSING, **body})
    assert answer.status == 404
    error = answer.json["error"]
    assert (error["type"], error["param"], error["code"]) == ("not_found_error", None, None)
    assert MISSING in error["message"]


@pytest.mark.parametrize(("path", "body"), [
    ("/v1/chat/completions", {"model": MISSING, "messages": []}), ("/v1/chat/completions", {"model": "a/b/c/d", "messages": MESSAGES}),
    ("/v1/embeddings", {"model": MISSING}), ("/v1/embeddings", {"model": MISSING, "input": []}),
    ("/v1/embeddings", {"model": MISSING, "input": "x", "encoding_format": "xml"}),
])
def test_bad_requests(ollama, path, body):
    """3.5: 400 is an invalid_request_error."""
    answer = ollama.post(path, body)
    assert (answer.status, answer.json["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.embedding
def test_embeddings(ollama, embed_model):
    """3.5: /v1/embeddings: a list of embeddings with their index."""
    body = ollama.post("/v1/embeddings", {"model": embed_model, "input": ["one", "two"]}).json
    assert (body["object"], body["model"]) == ("list", embed_model)
    assert [entry["index"] for entry in body["data"]] == [0, 1]
    assert body["data"][0]["object"] == "embedding"
    assert body["usage"]["total_tokens"] > 0


@pytest.mark.embedding
def test_embeddings_in_base64(ollama, embed_model):
    """3.5: encoding_format base64: the same numbers as packed floats."""
    plain = ollama.post("/v1/embeddings", {"model": embed_model, "input": "one"}).json["data"][0]["embedding"]
    packed = ollama.post("/v1/embeddings", {"model": embed_model, "input": "one", "encoding_format": "base64"}).json["data"][0]["embedding"]
    assert len(base64.b64decode(packed)) == 4 * len(plain)


@pytest.mark.inference
def test_response(ollama, chat_model):
    """3.5: POST /v1/responses: an object `response` with a message in its output."""
    body = ollama.post("/v1/responses", {"model": chat_model, "input": "Count to ten.", "max_output_tokens": 8}).json
    assert (body["object"], body["status"], body["model"]) == ("response", "completed", chat_model)
    message = next(item for item in body["output"] if item["type"] == "message")
    assert message["role"] == "assistant"
    assert message["content"][0]["type"] == "output_text"
    assert body["usage"]["output_tokens"] <= 8


@pytest.mark.inference
def test_response_in_a_stream(ollama, chat_model):
    """3.5: the same as named events, from response.created to response.completed."""
    answer = ollama.post("/v1/responses", {"model": chat_model, "input": "Count to ten.", "max_output_tokens": 8, "stream": True})
    assert answer.content_type == "text/event-stream"
    names = [name for name, _content in answer.events]
    assert names[0] == "response.created"
    assert "response.output_text.delta" in names
    assert names[-1] == "response.completed"


@pytest.mark.inference
def test_message(ollama, chat_model):
    """3.5: /v1/messages (since 0.14.0): one message with content blocks, a stop reason and usage."""
    answer = ollama.post("/v1/messages", {"model": chat_model, "max_tokens": 8, "messages": MESSAGES})
    assert answer.status == 200
    body = answer.json
    assert (body["type"], body["role"], body["model"]) == ("message", "assistant", chat_model)
    assert all(block["type"] in ("text", "thinking") for block in body["content"] or [])
    assert body["stop_reason"] in ("end_turn", "max_tokens", "stop_sequence")
    assert body["usage"]["output_tokens"] <= 8


@pytest.mark.inference
def test_message_in_a_stream(ollama, chat_model):
    """3.5: the same as named events, from message_start to message_stop."""
    answer = ollama.post("/v1/messages", {"model": chat_model, "max_tokens": 8, "messages": MESSAGES, "stream": True})
    assert answer.content_type == "text/event-stream"
    names = [name for name, _content in answer.events]
    assert names[0] == "message_start"
    assert names[-2:] == ["message_delta", "message_stop"]
    assert all(json.loads(content)["type"] == name for name, content in answer.events)


@pytest.mark.parametrize(("body", "status", "kind"), [
    ({"model": MISSING, "max_tokens": 8, "messages": MESSAGES}, 404, "not_found_error"),
    ({"model": MISSING, "messages": MESSAGES}, 400, "invalid_request_error"),
    ({"model": MISSING, "max_tokens": 8, "messages": []}, 400, "invalid_request_error"),
    ({"max_tokens": 8, "messages": MESSAGES}, 400, "invalid_request_error"),
])
def test_message_errors(ollama, body, status, kind):
    """3.5: errors `{"type": "error", "error": {type, message}, "request_id"}`."""
    answer = ollama.post("/v1/messages", body)
    assert answer.status == status
    assert answer.json["type"] == "error"
    assert answer.json["error"]["type"] == kind
    assert answer.json["error"]["message"]
