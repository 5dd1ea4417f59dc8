# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the stand-in says in place of a model: a text that admits it, and vectors made from a hash."""
from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from dataclasses import dataclass
from typing import Any

_TOKEN = re.compile(r"\s*\S+|\s+")


@dataclass(frozen=True)
class Answer:
    """The tokens that will be said, why they end, and how many tokens were read for them."""

    tokens: list[str]
    reason: str
    prompt_tokens: int


def tokens_of(text: str) -> list[str]:
    """Words with the blanks before them: joined they are the text again."""
    return _TOKEN.findall(text)


def answer(prompt: str, system: str, options: dict[str, Any], wanted_format: Any = None) -> Answer:
    """The reply to a prompt. `num_predict` cuts it (reason `length`), `stop` ends it (reason `stop`)."""
    text = f"I am the stand-in for Ollama; no model ran. You said: {prompt}"
    if system:
        text += f" My system prompt is: {system}"
    if wanted_format:
        text = json.dumps(_of_schema(wanted_format, text) if isinstance(wanted_format, dict) else {"stand_in": text})
    for stop in options.get("stop") or []:
        if stop and stop in text:
            text = text[:text.index(stop)]
    tokens = tokens_of(text)
    limit = options.get("num_predict")
    reason = "stop"
    if isinstance(limit, int) and 0 < limit < len(tokens):
        tokens, reason = tokens[:limit], "length"
    return Answer(tokens, reason, len(tokens_of(prompt)) + len(tokens_of(system)))


def embedding(text: str, length: int) -> list[float]:
    """A unit vector that depends on the text alone."""
    raw = hashlib.shake_256(text.encode()).digest(4 * length)
    numbers = [number / 2**31 for number in struct.unpack(f"<{length}i", raw)]
    norm = math.sqrt(sum(number * number for number in numbers)) or 1.0
    return [number / norm for number in numbers]


def shortened(vector: list[float], length: int) -> list[float]:
    """The first components, at unit length again."""
    head = vector[:length]
    norm = math.sqrt(sum(number * number for number in head)) or 1.0
    return [number / norm for number in head]


def _of_schema(schema: dict[str, Any], text: str) -> Any:
    """Some value that a JSON schema allows; enough for objects, arrays and plain types."""
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type")
    if kind == "object" or "properties" in schema:
        return {key: _of_schema(inner, text) for key, inner in schema.get("properties", {}).items()}
    if kind == "array":
        return [_of_schema(schema.get("items", {}), text)] * max(int(schema.get("minItems", 1)), 1)
    return {"integer": 0, "number": 0.0, "boolean": False, "null": None}.get(kind or "string", text)
