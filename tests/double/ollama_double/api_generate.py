# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ollama's own inference endpoints of the stand-in: generate, chat, embed, embeddings, ps."""
from __future__ import annotations

import time
from typing import Any, Callable

from .answers import embedding, shortened, tokens_of
from .durations import now_utc, parse_keep_alive
from .exchange import ApiError, Exchange, take
from .inference import Chat, Metrics, check_capabilities, find, loaded, resolve, say
from .model import Model


def keep_alive_of(body: dict[str, Any]) -> int | None:
    """The request's keep_alive in nanoseconds."""
    try:
        return parse_keep_alive(body.get("keep_alive"))
    except ValueError as error:
        raise ApiError(400, str(error)) from error


def generate(exchange: Exchange) -> None:
    """POST /api/generate; an empty prompt loads the model, with keep_alive 0 it unloads it."""
    body = exchange.json()
    chat = Chat(
        model_name=take(body, "model", str, ""),
        messages=[{"role": "user", "content": take(body, "prompt", str, "")}],
        system=take(body, "system", str, ""),
        options=take(body, "options", dict, {}),
        keep_alive=keep_alive_of(body),
        stream=take(body, "stream", bool, True),
        wanted_format=body.get("format"),
        suffix=bool(take(body, "suffix", str, "")),
        think=body.get("think"),
        verb="generate",
    )
    if take(body, "raw", bool, False) and (chat.system or body.get("template") or body.get("context")):
        raise ApiError(400, "raw mode does not support template, system, or context")
    not_found = ApiError(404, f"model '{chat.model_name}' not found")
    model = find(exchange, resolve(exchange, chat.model_name, not_found), not_found)

    def piece(token: str) -> dict[str, Any]:
        return {"response": token}

    def last(tokens: list[str]) -> dict[str, Any]:
        return {"context": [len(token) for token in tokens]}

    _run(exchange, model, chat, bool(chat.messages[0]["content"]), piece, last)


def chat_native(exchange: Exchange) -> None:
    """POST /api/chat; no messages load the model, with keep_alive 0 they unload it."""
    body = exchange.json()
    chat = Chat(
        model_name=take(body, "model", str, ""),
        messages=take(body, "messages", list, []),
        options=take(body, "options", dict, {}),
        keep_alive=keep_alive_of(body),
        stream=take(body, "stream", bool, True),
        wanted_format=body.get("format"),
        tools=bool(take(body, "tools", list, [])),
        think=body.get("think"),
    )
    name = resolve(exchange, chat.model_name, ApiError(400, "model is required"))
    model = find(exchange, name, ApiError(404, f"model '{chat.model_name}' not found"))

    def piece(token: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": token}}

    def last(_tokens: list[str]) -> dict[str, Any]:
        return {}

    _run(exchange, model, chat, bool(chat.messages), piece, last)


def _run(
    exchange: Exchange, model: Model, chat: Chat, asked: bool,
    piece: Callable[[str], dict[str, Any]], last: Callable[[list[str]], dict[str, Any]],
) -> None:
    """Load, unload or reply, in a stream or in one object."""
    def made(content: dict[str, Any]) -> dict[str, Any]:
        return {"model": chat.model_name, "created_at": now_utc(), **content}

    if not asked and chat.keep_alive == 0:
        exchange.app.scheduler.unload(model)
        exchange.send_json(made({**piece(""), "done": True, "done_reason": "unload"}))
        return
    check_capabilities(model, chat)
    metrics = Metrics()
    with loaded(exchange, model, chat.options, chat.keep_alive) as runner:
        metrics.loaded = time.monotonic_ns()
        if not asked:
            exchange.send_json(made({**piece(""), "done": True, "done_reason": "load"}))
            return
        tokens: list[str] = []
        reason = "stop"
        for token, reply in say(exchange, runner, model, chat, metrics):
            tokens.append(token)
            reason = reply.reason
            if chat.stream:
                exchange.line(made({**piece(token), "done": False}))
        text = "" if chat.stream else "".join(tokens)
        end = made({**piece(text), "done": True, "done_reason": reason, **last(tokens), **metrics.as_json()})
        if chat.stream:
            exchange.line(end)
        else:
            exchange.send_json(end)


def embed(exchange: Exchange) -> None:
    """POST /api/embed; no input loads the model."""
    body = exchange.json()
    exchange.send_json(embeddings_of(exchange, body, keep_alive_of(body)))


def embeddings_of(exchange: Exchange, body: dict[str, Any], keep_alive: int | None) -> dict[str, Any]:
    """The answer of /api/embed; other dialects use it, too."""
    text = take(body, "model", str, "")
    name = resolve(exchange, text, ApiError(404, f"model '{text}' not found"))
    given = body.get("input")
    if given is not None and not isinstance(given, str) and not (isinstance(given, list) and all(isinstance(item, str) for item in given)):
        raise ApiError(400, "invalid input type")
    inputs = [given] if isinstance(given, str) and given else given if isinstance(given, list) else []
    model = find(exchange, name, ApiError(404, f'model "{text}" not found, try pulling it first'))
    metrics = Metrics()
    dimensions = take(body, "dimensions", int, 0)
    with loaded(exchange, model, take(body, "options", dict, {}), keep_alive) as runner:
        metrics.loaded = time.monotonic_ns()
        if not inputs:
            return {"model": text, "embeddings": []}
        with exchange.app.scheduler.slot(runner, exchange.gone):
            vectors = [embedding(item, model.embedding_length or 64) for item in inputs]
        if dimensions:
            vectors = [shortened(vector, dimensions) for vector in vectors]
        counted = metrics.as_json()
        return {
            "model": text,
            "embeddings": vectors,
            "total_duration": counted["total_duration"],
            "load_duration": counted["load_duration"],
            "prompt_eval_count": sum(max(len(tokens_of(item)), 1) for item in inputs),
        }


def embeddings(exchange: Exchange) -> None:
    """POST /api/embeddings, the old form with one prompt."""
    body = exchange.json()
    text = take(body, "model", str, "")
    name = resolve(exchange, text, ApiError(400, "model is required"))
    model = find(exchange, name, ApiError(404, f'model "{text}" not found, try pulling it first'))
    prompt = take(body, "prompt", str, "")
    with loaded(exchange, model, take(body, "options", dict, {}), keep_alive_of(body)) as runner:
        if not prompt:
            exchange.send_json({"embedding": []})
            return
        with exchange.app.scheduler.slot(runner, exchange.gone):
            exchange.send_json({"embedding": embedding(prompt, model.embedding_length or 64)})


def processes(exchange: Exchange) -> None:
    """GET /api/ps"""
    exchange.send_json({"models": exchange.app.scheduler.entries()})
