# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The OpenAI dialect of the stand-in. It has no keep_alive and no num_ctx: the environment's defaults apply."""
from __future__ import annotations

import base64
import functools
import random
import struct
import time
from datetime import datetime
from typing import Any, Callable

from .api_generate import embeddings_of
from .api_store import list_models as list_entries
from .api_store import show_model
from .exchange import ApiError, Exchange, take
from .inference import Chat, Metrics, check_capabilities, find, is_cloud_refusal, loaded, resolve, say
from .names import parse

_FINGERPRINT = "fp_ollama"


def openai_errors(endpoint: Callable[[Exchange], None]) -> Callable[[Exchange], None]:
    """Errors in OpenAI's form."""
    @functools.wraps(endpoint)
    def wrapped(exchange: Exchange) -> None:
        try:
            endpoint(exchange)
        except ApiError as error:
            if exchange.started:
                raise
            if is_cloud_refusal(error):
                raise
            kind = {400: "invalid_request_error", 404: "not_found_error"}.get(error.status, "api_error")
            content = {"error": {"message": error.message, "type": kind, "param": None, "code": None}}
            exchange.send_json(content, error.status, "application/json")
    return wrapped


@openai_errors
def chat_completions(exchange: Exchange) -> None:
    """POST /v1/chat/completions"""
    body = exchange.json("EOF")
    given = take(body, "messages", list, [])
    if not given:
        raise ApiError(400, "[] is too short - 'messages'")
    chat = _chat(body, [{"role": message.get("role"), "content": text_of(message)} for message in given])
    chat.tools = bool(take(body, "tools", list, []))
    wanted = take(body, "response_format", dict, {})
    chat.wanted_format = "json" if wanted.get("type") == "json_object" else (wanted.get("json_schema") or {}).get("schema")
    name = resolve(exchange, chat.model_name, ApiError(400, "model is required"))
    identity = f"chatcmpl-{random.randrange(999)}"
    first = True

    def chunk(token: str | None, reason: str | None) -> list[dict[str, Any]]:
        nonlocal first
        delta = {} if token is None else ({"role": "assistant"} if first else {}) | {"content": token}
        first = False
        return [{"index": 0, "delta": delta, "finish_reason": reason}]

    def whole(text: str, reason: str) -> list[dict[str, Any]]:
        return [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}]

    _run(exchange, body, chat, name, (identity, "chat.completion.chunk", "chat.completion"), chunk, whole)


@openai_errors
def completions(exchange: Exchange) -> None:
    """POST /v1/completions"""
    body = exchange.json("EOF")
    prompt = take(body, "prompt", str, "")
    chat = _chat(body, [{"role": "user", "content": prompt}])
    chat.verb = "generate"
    chat.suffix = bool(take(body, "suffix", str, ""))
    name = resolve(exchange, chat.model_name, ApiError(404, f"model '{chat.model_name}' not found"))

    def chunk(token: str | None, reason: str | None) -> list[dict[str, Any]]:
        return [{"text": token or "", "index": 0, "finish_reason": reason}]

    def whole(text: str, reason: str) -> list[dict[str, Any]]:
        return [{"text": text, "index": 0, "finish_reason": reason}]

    identity = f"cmpl-{random.randrange(999)}"
    _run(exchange, body, chat, name, (identity, "text_completion", "text_completion"), chunk, whole)


@openai_errors
def embeddings(exchange: Exchange) -> None:
    """POST /v1/embeddings"""
    body = exchange.json("EOF")
    encoding = take(body, "encoding_format", str, "")
    if encoding.lower() not in ("", "float", "base64"):
        raise ApiError(400, f"Invalid value for 'encoding_format' = {encoding}. Supported values: ['float', 'base64'].")
    given = body.get("input")
    if given is None or given == []:
        raise ApiError(400, "invalid input")
    wanted = {"model": body.get("model"), "input": [""] if given == "" else given, "dimensions": body.get("dimensions")}
    made = embeddings_of(exchange, wanted, None)
    data: list[dict[str, Any]] = []
    for index, vector in enumerate(made["embeddings"]):
        shown: Any = vector
        if encoding.lower() == "base64":
            shown = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        data.append({"object": "embedding", "embedding": shown, "index": index})
    count = made.get("prompt_eval_count", 0)
    usage = {"prompt_tokens": count, "total_tokens": count}
    exchange.send_json({"object": "list", "data": data, "model": made["model"], "usage": usage}, 200, "application/json")


@openai_errors
def list_models(exchange: Exchange) -> None:
    """GET /v1/models; `data` is null when there are no models."""
    data = [_model(entry["name"], entry["modified_at"]) for entry in list_entries(exchange)]
    exchange.send_json({"object": "list", "data": data or None}, 200, "application/json")


@openai_errors
def one_model(exchange: Exchange) -> None:
    """GET /v1/models/<name>"""
    shown = show_model(exchange, {"name": exchange.parameter})
    exchange.send_json(_model(exchange.parameter, shown["modified_at"]), 200, "application/json")


def _model(name: str, modified: str) -> dict[str, Any]:
    created = int(datetime.fromisoformat(modified).timestamp())
    return {"id": name, "object": "model", "created": created, "owned_by": parse(name).namespace}


def _chat(body: dict[str, Any], messages: list[dict[str, Any]]) -> Chat:
    options: dict[str, Any] = {}
    if take(body, "max_tokens", int) is not None:
        options["num_predict"] = body["max_tokens"]
    if body.get("stop"):
        options["stop"] = [body["stop"]] if isinstance(body["stop"], str) else body["stop"]
    return Chat(take(body, "model", str, ""), messages, options=options, stream=take(body, "stream", bool, False))


def text_of(message: Any) -> str:
    """The text of a message, whose content may be a string or a list of parts."""
    if not isinstance(message, dict):
        raise ApiError(400, "json: cannot unmarshal into Go struct field ChatCompletionRequest.messages of type openai.Message")
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content if isinstance(part, dict) and part.get("type") in ("text", "input_text", "output_text"))
    if message.get("tool_calls"):
        return ""
    raise ApiError(400, "invalid message content type: <nil>")


def _run(
    exchange: Exchange, body: dict[str, Any], chat: Chat, name: Any, labels: tuple[str, str, str],
    chunk: Callable[[str | None, str | None], list[dict[str, Any]]], whole: Callable[[str, str], list[dict[str, Any]]],
) -> None:
    """The reply as events or as one object."""
    identity, chunk_label, whole_label = labels
    model = find(exchange, name, ApiError(404, f"model '{chat.model_name}' not found"))
    check_capabilities(model, chat)
    with_usage = bool(take(body, "stream_options", dict, {}).get("include_usage"))
    # In this one dialect every chunk has counts when the last one has them, all zero.
    nothing = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    counted = {"usage": nothing} if with_usage and chunk_label == "text_completion" else {}
    created = int(time.time())
    metrics = Metrics()

    def made(label: str, choices: list[dict[str, Any]], **extra: Any) -> dict[str, Any]:
        head = {"id": identity, "object": label, "created": created, "model": chat.model_name}
        return {**head, "system_fingerprint": _FINGERPRINT, "choices": choices, **extra}

    with loaded(exchange, model, chat.options, None) as runner:
        metrics.loaded = time.monotonic_ns()
        tokens: list[str] = []
        reason = "stop"
        for token, reply in say(exchange, runner, model, chat, metrics):
            tokens.append(token)
            reason = reply.reason
            if chat.stream:
                exchange.event(made(chunk_label, chunk(token, None), **counted))
        usage = {
            "prompt_tokens": metrics.prompt_tokens,
            "completion_tokens": metrics.tokens,
            "total_tokens": metrics.prompt_tokens + metrics.tokens,
        }
        if not chat.stream:
            exchange.send_json(made(whole_label, whole("".join(tokens), reason), usage=usage), 200, "application/json")
            return
        exchange.event(made(chunk_label, chunk(None, reason), **counted))
        if with_usage:
            exchange.event(made(chunk_label, [], usage=usage))
        exchange.event("[DONE]")
