# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Inference of the stand-in, whatever the dialect: which model, which checks, and the reply token by token."""
from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import Any, Iterator

from . import names
from .answers import Answer, answer
from .exchange import ApiError, Exchange
from .model import Model, open_model
from .sched import Busy, Gave, Runner
from .store import BadManifest

_CLOUD_OFF = "ollama cloud is disabled"
CLOUD_INFERENCE = "remote model is unavailable"
CLOUD_DETAILS = "remote model details are unavailable"


@dataclass
class Chat:
    """A request for text in no particular dialect."""

    model_name: str
    messages: list[dict[str, Any]]
    system: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    keep_alive: int | None = None
    stream: bool = True
    wanted_format: Any = None
    tools: bool = False
    suffix: bool = False
    think: Any = None
    verb: str = "chat"


@dataclass
class Metrics:
    """The counters at the end of a reply; times in nanoseconds."""

    started: int = field(default_factory=time.monotonic_ns)
    loaded: int = 0
    prompt_tokens: int = 0
    tokens: int = 0

    def as_json(self) -> dict[str, int]:
        """The fields of the last object."""
        now = time.monotonic_ns()
        load = max(self.loaded - self.started, 1)
        return {
            "total_duration": now - self.started,
            "load_duration": load,
            "prompt_eval_count": self.prompt_tokens,
            "prompt_eval_duration": 1_000_000,
            "eval_count": self.tokens,
            "eval_duration": max(now - self.loaded, 1),
        }


def resolve(exchange: Exchange, text: str, empty: ApiError) -> names.Name:
    """The existing name for what a request calls a model; `empty` is raised for no name at all."""
    if not text.strip():
        raise empty
    try:
        base, source = names.split_source(text)
    except names.ConflictingSuffix as error:
        raise ApiError(400, str(error)) from error
    name = names.parse(base)
    if not name.is_valid:
        raise ApiError(400, "invalid model name")
    if source == "cloud":
        refuse_cloud(exchange, CLOUD_INFERENCE)
    return exchange.app.store.existing(name)


def refuse_cloud(exchange: Exchange, operation: str) -> None:
    """Cloud models: forbidden where the cloud is off, and otherwise beyond a stand-in."""
    if exchange.app.settings.cloud["disabled"]:
        raise ApiError(403, f"{_CLOUD_OFF}: {operation}")
    raise ApiError(502, "the stand-in for Ollama has no cloud")


def is_cloud_refusal(error: ApiError) -> bool:
    """This refusal comes before any dialect is spoken, so it is in Ollama's own form in all of them."""
    return error.message.startswith(_CLOUD_OFF)


def find(exchange: Exchange, name: names.Name, missing: ApiError) -> Model:
    """The model of a name; `missing` is raised when it is not there."""
    try:
        return open_model(exchange.app.store, name)
    except FileNotFoundError as error:
        raise missing from error
    except BadManifest as error:
        raise ApiError(500, str(error)) from error


_INTEGERS = {
    "num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "num_keep", "seed", "num_predict", "top_k", "repeat_last_n",
}
_NUMBERS = {"top_p", "min_p", "typical_p", "temperature", "repeat_penalty", "presence_penalty", "frequency_penalty"}


def check_options(options: dict[str, Any]) -> None:
    """Refuse options of a wrong type, numbers in quotes for example: with 500, as Ollama does. Unknown ones are ignored."""
    for key, content in options.items():
        number = isinstance(content, (int, float)) and not isinstance(content, bool)
        wanted = ""
        if content is None or (key in _INTEGERS | _NUMBERS and number):
            continue
        if key in _INTEGERS:
            wanted = "integer"
        elif key in _NUMBERS:
            wanted = "float32"
        elif key == "use_mmap" and not isinstance(content, bool):
            wanted = "boolean"
        elif key == "stop" and not isinstance(content, list):
            wanted = "array"
        if wanted:
            raise ApiError(500, f'option "{key}" must be of type {wanted}')


@contextlib.contextmanager
def loaded(exchange: Exchange, model: Model, options: dict[str, Any], keep_alive: int | None) -> Iterator[Runner]:
    """The model in memory for the length of a request, or the error that the scheduler gives."""
    check_options({**model.options, **options})
    try:
        with exchange.app.scheduler.lease(model, options, keep_alive, exchange.gone) as runner:
            yield runner
    except Busy as error:
        raise ApiError(503, str(error)) from error
    except Gave as error:
        raise ApiError(499, "request canceled") from error


def check_capabilities(model: Model, chat: Chat) -> None:
    """The refusals before a model is loaded."""
    have = model.capabilities
    if chat.think and "thinking" not in have:
        raise ApiError(400, f'"{chat.model_name}" does not support thinking')
    if "completion" not in have:
        raise ApiError(400, f'"{chat.model_name}" does not support {chat.verb}')
    lacking = [word for word, wanted in (("tools", chat.tools), ("insert", chat.suffix)) if wanted and word not in have]
    if lacking:
        raise ApiError(400, f"{model.name.full} does not support {lacking[0]}")


def say(exchange: Exchange, runner: Runner, model: Model, chat: Chat, metrics: Metrics) -> Iterator[tuple[str, Answer]]:
    """The reply, one token after the other at the settled rate; it ends early when the client is gone."""
    system = chat.system or model.system
    prompt = ""
    for message in chat.messages:
        if message.get("role") == "system":
            system = str(message.get("content") or "")
        elif message.get("role") == "user":
            prompt = str(message.get("content") or "")
    reply = answer(prompt, system, {**model.options, **chat.options}, chat.wanted_format)
    metrics.prompt_tokens = max(reply.prompt_tokens, 1)
    rate = exchange.app.settings.token_rate
    try:
        with exchange.app.scheduler.slot(runner, exchange.gone):
            began = time.monotonic()
            for number, token in enumerate(reply.tokens, 1):
                due = began + number / rate if rate > 0 else began
                while (left := due - time.monotonic()) > 0:
                    time.sleep(min(left, 0.1))
                    if exchange.gone():
                        raise Gave
                metrics.tokens = number
                yield token, reply
    except Gave as error:
        raise ApiError(499, "request canceled") from error
