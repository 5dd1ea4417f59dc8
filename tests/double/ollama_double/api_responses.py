# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""OpenAI's newer dialect of the stand-in: /v1/responses, for text."""
from __future__ import annotations

import random
import time
from typing import Any

from .api_openai import openai_errors, text_of
from .exchange import ApiError, Exchange, take
from .inference import Chat, Metrics, check_capabilities, find, loaded, resolve, say


@openai_errors
def responses(exchange: Exchange) -> None:
    """POST /v1/responses"""
    body = exchange.json("EOF")
    options = {"num_predict": body["max_output_tokens"]} if take(body, "max_output_tokens", int) else {}
    chat = Chat(
        model_name=take(body, "model", str, ""),
        messages=_messages(body),
        options=options,
        stream=take(body, "stream", bool, False),
        tools=bool(take(body, "tools", list, [])),
    )
    name = resolve(exchange, chat.model_name, ApiError(400, "model is required"))
    model = find(exchange, name, ApiError(404, f"model '{chat.model_name}' not found"))
    check_capabilities(model, chat)
    metrics = Metrics()
    events = _Events(exchange, chat, time.time())
    with loaded(exchange, model, chat.options, None) as runner:
        metrics.loaded = time.monotonic_ns()
        tokens: list[str] = []
        # With no input at all the model is only loaded.
        for token, _reply in say(exchange, runner, model, chat, metrics) if chat.messages else ():
            if chat.stream:
                events.token(token, first=not tokens)
            tokens.append(token)
        usage = {
            "input_tokens": metrics.prompt_tokens,
            "output_tokens": metrics.tokens,
            "total_tokens": metrics.prompt_tokens + metrics.tokens,
        }
        if chat.stream:
            events.end("".join(tokens), usage)
        else:
            exchange.send_json(events.response("completed", "".join(tokens), usage), 200, "application/json")


class _Events:
    """The parts of one response."""

    def __init__(self, exchange: Exchange, chat: Chat, created: float) -> None:
        self.exchange = exchange
        self.chat = chat
        self.created = int(created)
        self.identity = f"resp_{random.randrange(999999)}"
        self.item = f"msg_{random.randrange(999999)}"
        self.number = 0

    def token(self, token: str, first: bool) -> None:
        """A piece of the text; the first one opens the response."""
        if first:
            self._send("response.created", response=self.response("in_progress", None))
            self._send("response.in_progress", response=self.response("in_progress", None))
            self._send("response.output_item.added", output_index=0, item=self._message("in_progress", None))
            self._send("response.content_part.added", item_id=self.item, output_index=0, content_index=0, part=_part(""))
        self._send("response.output_text.delta", item_id=self.item, output_index=0, content_index=0, delta=token)

    def end(self, text: str, usage: dict[str, int]) -> None:
        """Close what was opened."""
        place = {"item_id": self.item, "output_index": 0, "content_index": 0}
        self._send("response.output_text.done", **place, text=text)
        self._send("response.content_part.done", **place, part=_part(text))
        self._send("response.output_item.done", output_index=0, item=self._message("completed", text))
        self._send("response.completed", response=self.response("completed", text, usage))

    def response(self, status: str, text: str | None, usage: dict[str, int] | None = None) -> dict[str, Any]:
        """The whole object."""
        return {
            "id": self.identity,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "model": self.chat.model_name,
            "output": [] if text is None else [self._message(status, text)],
            "usage": usage,
            "store": False,
        }

    def _message(self, status: str, text: str | None) -> dict[str, Any]:
        content = [] if text is None else [_part(text)]
        return {"id": self.item, "type": "message", "status": status, "role": "assistant", "content": content}

    def _send(self, name: str, **content: Any) -> None:
        self.exchange.event({"type": name, "sequence_number": self.number, **content}, name)
        self.number += 1


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _messages(body: dict[str, Any]) -> list[dict[str, Any]]:
    """Input is a string or a list of messages; `instructions` are a system message in front."""
    given = body.get("input") or []
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not isinstance(given, list):
        raise ApiError(400, "input must be a string or array")
    messages = [{"role": item.get("role"), "content": text_of(item)} for item in given if isinstance(item, dict) and item.get("role")]
    instructions = take(body, "instructions", str, "")
    return ([{"role": "system", "content": instructions}] if instructions else []) + messages
