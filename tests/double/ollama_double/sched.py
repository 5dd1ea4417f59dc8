# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Scheduler of the stand-in: which models are "loaded", how long they stay, who waits and who is turned away.

No model is loaded anywhere; what is kept are the rules: one load at a time, a bounded queue in front of it, slots per
model, keep_alive from the last request, eviction of the model with the shortest keep_alive.
"""
from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Callable, Iterator

from .durations import after, rfc3339
from .env import Settings
from .model import Model

Gone = Callable[[], bool]
# Options that change how a model is loaded: a request that differs in one of them reloads the model.
_LOAD_OPTIONS = ("num_batch", "main_gpu", "use_mmap", "num_thread")
_POLL_SECONDS = 0.05


class Busy(Exception):
    """The queue is full."""

    def __init__(self) -> None:
        super().__init__("server busy, please try again.  maximum pending requests exceeded")


class Gave(Exception):
    """The client went away while it waited."""


@dataclass
class Runner:
    """A loaded model."""

    model: Model
    context: int
    gpu_layers: int
    load_options: tuple[Any, ...]
    slots: int
    size: int
    size_vram: int
    session: int
    references: int = 0
    expires: datetime | None = None
    deadline: float | None = None
    waiting: deque[object] = field(default_factory=deque)
    busy: int = 0

    def entry(self) -> dict[str, Any]:
        """The item of /api/ps. While a request runs the expiry may lie in the past: it is set when the model is idle."""
        expires = self.expires or after(self.session)
        return {
            "name": self.model.name.display,
            "model": self.model.name.display,
            "size": self.size,
            "digest": self.model.manifest.digest,
            "details": self.model.details(full=False),
            "expires_at": rfc3339(expires),
            "size_vram": self.size_vram,
            "context_length": self.context,
        }


@dataclass
class _Request:
    model: Model
    wish: "_Wish"
    keep_alive: int | None
    gone: Gone
    runner: Runner | None = None
    error: Exception | None = None


@dataclass(frozen=True)
class _Wish:
    """How a request wants its model loaded."""

    context: int
    gpu_layers: int
    options: tuple[Any, ...]

    def suits(self, runner: Runner) -> bool:
        """True when the loaded model will do."""
        layers_fit = self.gpu_layers < 0 or self.gpu_layers == runner.gpu_layers
        return layers_fit and self.context == runner.context and self.options == runner.load_options


class Scheduler:
    """All loaded models of a server."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._change = threading.Condition()
        self._loaded: dict[str, Runner] = {}
        self._pending: deque[_Request] = deque()
        self._idle = True
        for target in (self._load_loop, self._expiry_loop):
            threading.Thread(target=target, daemon=True).start()

    def entries(self) -> list[dict[str, Any]]:
        """The models of /api/ps, the longest to stay first."""
        with self._change:
            runners = sorted(self._loaded.values(), key=lambda runner: (runner.expires or after(runner.session)).timestamp(), reverse=True)
            return [runner.entry() for runner in runners]

    @contextlib.contextmanager
    def lease(self, model: Model, options: dict[str, Any], keep_alive: int | None, gone: Gone) -> Iterator[Runner]:
        """A loaded model for the length of a request; Busy when the queue is full, Gave when the client left."""
        runner = self._get(model, self._wish(model, options), keep_alive, gone)
        try:
            yield runner
        finally:
            self._release(runner)

    @contextlib.contextmanager
    def slot(self, runner: Runner, gone: Gone) -> Iterator[None]:
        """One of the parallel slots of a model; requests wait for it in order and without limit."""
        ticket = object()
        with self._change:
            runner.waiting.append(ticket)
            try:
                while runner.busy >= runner.slots or runner.waiting[0] is not ticket:
                    self._change.wait(_POLL_SECONDS)
                    if gone():
                        raise Gave
                runner.busy += 1
            finally:
                runner.waiting.remove(ticket)
                self._change.notify_all()
        try:
            yield
        finally:
            with self._change:
                runner.busy -= 1
                self._change.notify_all()

    def unload(self, model: Model) -> None:
        """Unload as soon as the model is idle; nothing happens when it is not loaded."""
        with self._change:
            runner = self._loaded.get(model.key)
            if runner is not None:
                runner.expires = after(0)
                self._expire_when_idle(runner)

    # -- inside -------------------------------------------------------------------------------------------------

    def _wish(self, model: Model, options: dict[str, Any]) -> _Wish:
        chosen = {**model.options, **options}
        context = max(int(chosen.get("num_ctx") or self.settings.default_context), 4)
        if model.context_length:
            context = min(context, model.context_length)
        layers = int(chosen.get("num_gpu", -1))
        return _Wish(context, layers, tuple(chosen.get(key) for key in _LOAD_OPTIONS))

    def _get(self, model: Model, wish: _Wish, keep_alive: int | None, gone: Gone) -> Runner:
        with self._change:
            runner = self._loaded.get(model.key)
            if runner is not None and wish.suits(runner):
                return self._use(runner, keep_alive)
            # The loader holds one request itself; the queue is what waits behind that one.
            if len(self._pending) >= self.settings.max_queue and not (self._idle and not self._pending):
                raise Busy
            request = _Request(model, wish, keep_alive, gone)
            self._pending.append(request)
            self._change.notify_all()
            while request.runner is None and request.error is None:
                self._change.wait(_POLL_SECONDS)
                if request.runner is None and gone():
                    request.error = Gave()
            if request.runner is None:
                raise request.error or Gave()
            return request.runner

    def _use(self, runner: Runner, keep_alive: int | None) -> Runner:
        runner.references += 1
        runner.deadline = None
        if keep_alive is not None:
            runner.session = keep_alive
        return runner

    def _release(self, runner: Runner) -> None:
        with self._change:
            runner.references -= 1
            if runner.references == 0:
                if runner.session <= 0:
                    self._drop(runner)
                else:
                    runner.deadline = time.monotonic() + runner.session / 1e9
                    runner.expires = after(runner.session)
            self._change.notify_all()

    def _expire_when_idle(self, runner: Runner) -> None:
        runner.session, runner.deadline = 0, None
        if runner.references == 0:
            self._drop(runner)

    def _drop(self, runner: Runner) -> None:
        if self._loaded.get(runner.model.key) is runner:
            del self._loaded[runner.model.key]
        self._change.notify_all()

    def _expiry_loop(self) -> None:
        with self._change:
            while True:
                now = time.monotonic()
                for runner in list(self._loaded.values()):
                    if runner.deadline is not None and runner.deadline <= now and runner.references == 0:
                        self._drop(runner)
                due = min((runner.deadline for runner in self._loaded.values() if runner.deadline is not None), default=now + 60)
                self._change.wait(min(max(due - now, 0.001), 60))

    def _load_loop(self) -> None:
        while True:
            with self._change:
                self._idle = True
                while not self._pending:
                    self._change.wait()
                self._idle = False
                request = self._pending.popleft()
            if request.error is None:
                self._serve(request)

    def _serve(self, request: _Request) -> None:
        """Give a queued request its model: the loaded one, or a new one after room was made for it."""
        with self._change:
            while True:
                if request.error is not None:
                    return
                victim = self._loaded.get(request.model.key)
                if victim is not None and request.wish.suits(victim):
                    self._hand_over(request, victim)
                    return
                if victim is None and len(self._loaded) < self.settings.max_loaded_models:
                    break
                victim = victim or self._least_wanted()
                self._expire_when_idle(victim)
                if self._loaded.get(victim.model.key) is victim:
                    self._change.wait(_POLL_SECONDS)
        ready = time.monotonic() + self.settings.load_seconds
        while time.monotonic() < ready and request.error is None:
            time.sleep(min(_POLL_SECONDS, max(ready - time.monotonic(), 0)))
        with self._change:
            if request.error is None:
                runner = self._new_runner(request)
                self._loaded[request.model.key] = runner
                self._hand_over(request, runner)

    def _hand_over(self, request: _Request, runner: Runner) -> None:
        request.runner = self._use(runner, request.keep_alive)
        self._change.notify_all()

    def _least_wanted(self) -> Runner:
        ordered = sorted(self._loaded.values(), key=lambda runner: (runner.session, runner.model.name.full))
        return next((runner for runner in ordered if runner.references == 0), ordered[0])

    def _new_runner(self, request: _Request) -> Runner:
        model, wish = request.model, request.wish
        slots = self.settings.num_parallel if "completion" in model.capabilities else 1
        head = model.head
        # Keys and values of every layer in half precision, for each slot.
        per_token = 4 * int(head.key("block_count", 1)) * int(head.key("embedding_length", 1)) if head else 0
        size = model.manifest.size + per_token * wish.context * slots
        share = 0.0 if wish.gpu_layers == 0 else self.settings.gpu_share
        return Runner(
            model=model,
            context=wish.context,
            gpu_layers=wish.gpu_layers,
            load_options=wish.options,
            slots=slots,
            size=size,
            size_vram=int(size * share),
            session=self.settings.keep_alive,
        )
