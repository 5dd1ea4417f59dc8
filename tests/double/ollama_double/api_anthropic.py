# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The Anthropic dialect of the stand-in: /v1/messages."""
from __future__ import annotations

import secrets
import time
from typing import Any

from .exchange import ApiError, Exchange, take
from .inference import Chat, Metrics, check_capabilities, find, is_cloud_refusal, loaded, resolve, say

_ERROR_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    429: "rate_limit_error", 503: "overloaded_error",
}
_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens"}


def messages(exchange: Exchange) -> None:
    """POST /v1/messages, with errors in Anthropic's form."""
    try:
        _messages(exchange)
    except ApiError as error:
        if exchange.started or is_cloud_refusal(error):
            raise
        kind = _ERROR_TYPES.get(error.status, "api_error")
        content = {"type": "error", "error": {"type": kind, "message": error.message}, "request_id": _identity("req")}
        exchange.send_json(content, error.status, "application/json")


def _messages(exchange: Exchange) -> None:
    body = exchange.json("EOF")
    chat = Chat(
        model_name=take(body, "model", str, ""),
        messages=[{"role": message.get("role"), "content": _text(message.get("content"))} for message in take(body, "messages", list, [])],
        system=_text(body.get("system")),
        options={"num_predict": take(body, "max_tokens", int, 0), "stop": take(body, "stop_sequences", list, [])},
        stream=take(body, "stream", bool, False),
        tools=bool(take(body, "tools", list, [])),
    )
    if not chat.model_name:
        raise ApiError(400, "model is required")
    if chat.options["num_predict"] <= 0:
        raise ApiError(400, "max_tokens is required and must be positive")
    if not chat.messages:
        raise ApiError(400, "messages is required")
    name = resolve(exchange, chat.model_name, ApiError(400, "model is required"))
    model = find(exchange, name, ApiError(404, f"model '{chat.model_name}' not found"))
    check_capabilities(model, chat)
    metrics = Metrics()
    with loaded(exchange, model, chat.options, None) as runner:
        metrics.loaded = time.monotonic_ns()
        tokens: list[str] = []
        reason = "stop"
        for token, reply in say(exchange, runner, model, chat, metrics):
            if chat.stream and not tokens:
                _begin(exchange, chat)
            tokens.append(token)
            reason = reply.reason
            if chat.stream:
                delta = {"type": "text_delta", "text": token}
                _event(exchange, "content_block_delta", index=0, delta=delta)
        usage = {"input_tokens": metrics.prompt_tokens, "output_tokens": metrics.tokens}
        if chat.stream:
            _event(exchange, "content_block_stop", index=0)
            _event(exchange, "message_delta", delta={"stop_reason": _STOP_REASONS[reason]}, usage=usage)
            _event(exchange, "message_stop")
            return
        content = [{"type": "text", "text": "".join(tokens)}]
        answer = {**_head(chat), "content": content, "stop_reason": _STOP_REASONS[reason], "usage": usage}
        exchange.send_json(answer, 200, "application/json")


def _begin(exchange: Exchange, chat: Chat) -> None:
    usage = {"input_tokens": max(sum(len(message["content"].split()) for message in chat.messages), 1), "output_tokens": 0}
    _event(exchange, "message_start", message={**_head(chat), "content": [], "usage": usage})
    _event(exchange, "content_block_start", index=0, content_block={"type": "text", "text": ""})


def _head(chat: Chat) -> dict[str, Any]:
    return {"id": _identity("msg"), "type": "message", "role": "assistant", "model": chat.model_name}


def _event(exchange: Exchange, name: str, **content: Any) -> None:
    exchange.event({"type": name, **content}, name)


def _identity(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(12)}"


def _text(content: Any) -> str:
    """Text of a string or of a list of content blocks."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(block.get("text", "") for block in content if isinstance(block, dict) and block.get("type") == "text")
    return ""
