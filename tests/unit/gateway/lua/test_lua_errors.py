"""errors.lua: what a refusal looks like."""

from __future__ import annotations

import json
from typing import Any

import pytest


def test_an_error_has_the_form_of_the_api_that_was_called(lua: Any) -> None:
    body = lua.module("errors").body
    assert json.loads(body("401", "/api/chat")) == {"error": "missing or wrong credentials"}
    assert json.loads(body("404", "/nothing")) == {"error": "not found"}
    openai = json.loads(body("429", "/v1/chat/completions"))
    assert openai == {"error": {"message": "too many requests", "type": "rate_limit_error", "param": None, "code": "rate_limit_exceeded"}}
    anthropic = json.loads(body("404", "/v1/messages"))
    assert anthropic == {"type": "error", "error": {"type": "not_found_error", "message": "not found"}}


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 408, 411, 413, 414, 415, 429, 500, 502, 503, 504])
def test_every_status_has_words(lua: Any, status: int) -> None:
    errors = lua.module("errors")
    for uri in ("/api/chat", "/v1/models", "/v1/messages", ""):
        found = json.loads(errors.body(str(status), uri))
        assert status == 500 or "internal error" not in json.dumps(found)
    assert errors.retry_after(str(status)) == {429: 1, 502: 5, 503: 5, 504: 5}.get(status)


@pytest.mark.parametrize("uri", ["/api/chat", "/v1/chat/completions", "/v1/messages"])
def test_a_message_cannot_break_out(lua: Any, uri: str) -> None:
    message = 'the model a","x":"%s %d\n\\ is not allowed'
    found = json.loads(lua.module("errors").body("403", uri, message))
    assert message in (found["error"], found["error"]["message"] if isinstance(found["error"], dict) else "")


def test_what_is_unknown_is_an_internal_error(lua: Any) -> None:
    assert json.loads(lua.module("errors").body("418", "/api/chat")) == {"error": "internal error"}


def test_a_refusal_ends_the_request(lua: Any) -> None:
    state = lua.table({})
    with pytest.raises(Exception):  # noqa: B017  as ngx.exit does
        lua.module("errors").reject(state, 429, "tokens", "used up", 17)
    assert (state.reason, state.message, state.retry_after) == ("tokens", "used up", 17)
