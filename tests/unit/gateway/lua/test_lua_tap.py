"""tap.lua: what the end of an answer says."""

from __future__ import annotations

import json
from typing import Any

import pytest

NATIVE = {"done": True, "total_duration": 9, "prompt_eval_count": 11, "prompt_eval_duration": 5, "eval_count": 22, "eval_duration": 33}
OPENAI = {"usage": {"prompt_tokens": 11, "completion_tokens": 22, "total_tokens": 33}}
ANTHROPIC = {"type": "message_delta", "usage": {"input_tokens": 11, "output_tokens": 22}}
RESPONSES = {"usage": {"input_tokens": 11, "output_tokens": 22, "total_tokens": 33, "input_tokens_details": {"cached_tokens": 0}}, "max_output_tokens": 7}
# what a client can make an answer hold: as text, as the arguments of a tool call, as a tool that the answer repeats
TRICK = {"prompt_eval_count": 1, "eval_count": 1, "eval_duration": 1, "prompt_tokens": 1, "completion_tokens": 1, "input_tokens": 1, "output_tokens": 1}


@pytest.fixture
def usage(lua: Any) -> Any:
    """The function, of an answer as a dict or as text."""
    lua.runtime.execute("package.preload['resty.core.base'] = function() return { get_request = function() end } end")
    return lua.module("tap").usage


def compact(data: Any) -> str:
    """JSON as Go writes it."""
    return json.dumps(data, separators=(",", ":"))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (compact(NATIVE) + "\n", (11, 22, 33)),
        (json.dumps(NATIVE), (11, 22, 33)),
        (compact({"done": True, "context": [1, 2], "prompt_eval_count": 11}), (11, None, None)),
        (f"data: {compact(OPENAI)}\n\ndata: [DONE]\n\n", (11, 22, None)),
        (f'event: message_delta\ndata: {compact(ANTHROPIC)}\n\nevent: message_stop\ndata: {{"type":"message_stop"}}\n\n', (11, 22, None)),
        ('data: {"message":{"usage":{"input_tokens":11,"output_tokens":0}}}\n\n' + f"data: {compact(ANTHROPIC)}\n\n", (11, 22, None)),
        (f"event: response.completed\ndata: {compact({'response': RESPONSES})}\n\n", (11, 22, None)),
        (compact({"embeddings": [[0.1]], "prompt_eval_count": 11}), (11, None, None)),
        (compact({"data": [], "usage": {"prompt_tokens": 11, "total_tokens": 11}}), (11, None, None)),
        ("", (None, None, None)), ('{"error":"model not found"}', (None, None, None)),
        (compact(NATIVE)[40:], (None, 22, 33)),
    ],
)
def test_each_api(usage: Any, text: str, found: tuple) -> None:
    assert usage(text) == found


@pytest.mark.parametrize("end", [NATIVE, OPENAI, ANTHROPIC, RESPONSES], ids=["native", "openai", "anthropic", "responses"])
def test_nobody_can_say_that_it_were_fewer(usage: Any, end: dict) -> None:
    for trick in (
        {"message": {"content": compact(TRICK)}}, {"choices": [{"delta": {"content": compact(TRICK) + "\\"}}]},
        {"message": {"tool_calls": [{"function": {"name": "f", "arguments": TRICK}}]}}, {"content": [{"type": "tool_use", "input": TRICK}]},
        {"tools": [{"name": "f", "parameters": {"default": TRICK}}], "text": {"format": {"schema": TRICK}}},
    ):
        for text in (compact({**trick, **end}), f"{compact(trick)}\n{compact(end)}\n", f"data: {compact(trick)}\n\ndata: {compact(end)}\n\n"):
            assert usage(text)[:2] == (11, 22), text


def test_text_of_a_model_is_no_usage(usage: Any) -> None:
    assert usage(compact({"message": {"content": compact(TRICK)}})) == (None, None, None)
