"""A gateway with four stand-ins for Ollama behind it, and what tests ask it."""

from __future__ import annotations

import contextlib
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import local
from stand_in import Caller, StandIn, eventually

# the clients, each with a key of its name: see key()
CLIENTS: dict[str, dict[str, Any]] = {
    "admin": {"classes": ["chat", "embed", "read", "admin"]},
    "team": {"models": ["shared", "only2", "stranger"]},
    "slow": {"rate": "1r/s", "burst": 0},
    "brisk": {"rate": "2r/s", "burst": 2},
    "five": {"concurrency": 5},
    "capped": {"max_predict": 100},
    "rotated": {},
    **{f"budget-{form}": {"tokens_per_minute": 20} for form in ("native", "openai", "none", "anthropic")},
    "budget-day": {"tokens_per_day": 20},
}


def key(name: str) -> str:
    """The API key of a client."""
    return f"key-of-{name}-".ljust(40, "0")


class Fleet:
    """The gateway and its stand-ins: gpu1, gpu2 (which alone has the model only2), gpu3, and gpu4, a backup."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.upstreams = [StandIn(local.free_port()).start() for _unused in range(4)]
        models = ["shared", {"name": "stranger"}]
        host_options = {f"gpu{number}": {"ollama_models": models + (["Only2"] if number == 2 else [])} for number in range(1, 5)}
        hosts = local.upstream_hosts([upstream.port for upstream in self.upstreams], **host_options)
        hosts["gpu4"]["ollama_instances"][0]["gpus"] = "none"
        clients = [{"name": name, "key": key(name), **policy} for name, policy in CLIENTS.items()]
        given = {"ollama_gateway_clients": clients, "ollama_gateway_rate": "1000r/s", "ollama_gateway_burst": 1000, **options}
        self.gateway = local.LocalGateway(folder, hosts, **given).start()
        self.caller = Caller(self.gateway.port, str(self.gateway.ca))
        self._written = {name: (folder / name).read_text(encoding="utf-8") for name in ("routing.json", "clients.json")}

    def edit(self, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
        """Change what was written for the Lua code (routing, clients): quicker than to render all of it anew."""
        routing, clients = (json.loads((self.gateway.folder / name).read_text(encoding="utf-8")) for name in self._written)
        change(routing, clients)
        clients["config_id"] = uuid.uuid4().hex[:16]
        for name, data in zip(self._written, (routing, clients)):
            (self.gateway.folder / name).write_text(json.dumps(data), encoding="utf-8")

    def reset(self) -> "Fleet":
        """As rendered, with nothing counted and nobody down."""
        self.gateway.stop()
        for name, text in self._written.items():
            (self.gateway.folder / name).write_text(text, encoding="utf-8")
        for path in [*(self.gateway.folder / "drained").iterdir(), *(self.gateway.folder / "logs").iterdir()]:
            path.unlink()
        for upstream in self.upstreams:
            upstream.reset()
        self.gateway.start()
        return self

    def slow_chats(self, api_key: str, count: int, seconds: float) -> list[threading.Thread]:
        """Chats that are under way when this returns, each in a thread."""
        threads = []
        for number in range(count):
            threads.append(threading.Thread(target=self.caller.chat, args=(api_key,), kwargs={"wait": seconds}))
            threads[-1].start()
            assert eventually(lambda wanted=number + 1: sum(upstream.running for upstream in self.upstreams) == wanted)
        return threads

    def spread(self) -> list[int]:
        """How many requests each stand-in got."""
        return [len(upstream.hits) for upstream in self.upstreams]

    def clear(self) -> None:
        """Forget the requests so far."""
        for upstream in self.upstreams:
            upstream.hits.clear()

    def states(self) -> list[str]:
        """What the gateway holds each instance for."""
        return [upstream["state"] for upstream in json.loads(self.gateway.management("/upstreams"))]

    def metric(self, series: str) -> float:
        """The value of a series, 0 when it is not there."""
        for line in self.gateway.management("/metrics").splitlines():
            if line.startswith(f"{series} "):
                return float(line.rpartition(" ")[2])
        return 0

    def logged(self, count: int = 1, **fields: Any) -> list[dict[str, Any]]:
        """The log lines with these fields; waits until there are as many. A client has its answer before nginx writes the line."""
        def found() -> list[dict[str, Any]]:
            return [line for line in self.gateway.log() if all(line[name] == value for name, value in fields.items())]
        eventually(lambda: len(found()) >= count)
        return found()

    def drained(self, host: str) -> Any:
        """Drain a host while the block runs."""
        path = self.gateway.folder / "drained" / host

        @contextlib.contextmanager
        def block() -> Iterator[None]:
            path.touch()
            try:
                yield
            finally:
                path.unlink()
        return block()

    def close(self) -> None:
        """End all of it."""
        self.gateway.stop()
        for upstream in self.upstreams:
            upstream.stop()
