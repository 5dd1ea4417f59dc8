# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Servers of the stand-in inside the test process, on free ports of the loopback address."""
from __future__ import annotations

import json
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/double"), str(ROOT / ".venv/collections")]

# pylint: disable=wrong-import-position
from ollama_double import env, registry  # noqa: E402
from ollama_double.server import App, Server  # noqa: E402


class Client:
    """JSON requests to one of the servers."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.host = url.partition("://")[2]
        self.app: Any = None

    def ask(self, method: str, path: str, content: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        """Status and body; the body is JSON, a list of JSON lines, or bytes."""
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method, headers=headers or {})
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                status, kind, body = answer.status, answer.headers.get("Content-Type", ""), answer.read()
        except urllib.error.HTTPError as error:
            status, kind, body = error.code, error.headers.get("Content-Type", ""), error.read()
        if "ndjson" in kind:
            return status, [json.loads(line) for line in body.splitlines()]
        return status, json.loads(body) if "json" in kind else body

    def get(self, path: str) -> Any:
        """The body of a GET."""
        return self.ask("GET", path)[1]

    def post(self, path: str, content: Any = None) -> tuple[int, Any]:
        """A POST."""
        return self.ask("POST", path, {} if content is None else content)


@pytest.fixture
def start_registry(tmp_path: Path) -> Iterator[Callable[..., Client]]:
    """Start registries with command line options; a client of it comes back."""
    running = []

    def start(*options: str) -> Client:
        arguments = registry.parser().parse_args(["--listen", "127.0.0.1:0", "--cache", str(tmp_path / "registry"), *options])
        running.append(registry.make_server(arguments))
        threading.Thread(target=running[-1].serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return Client(f"http://127.0.0.1:{running[-1].server_address[1]}")

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., Client]]:
    """Start servers with environment variables; a client of it comes back, the application as its `app`."""
    running = []

    def start(**environ: str) -> Client:
        defaults = {
            "HOME": str(tmp_path / "home"),
            "OLLAMA_HOST": "127.0.0.1:0",
            "OLLAMA_DOUBLE_TOKEN_RATE": "0",
            "OLLAMA_DOUBLE_VRAM": "cpu",
        }
        app = App(env.load({**defaults, **environ}))
        running.append(Server(app))
        threading.Thread(target=running[-1].serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        client = Client(f"http://127.0.0.1:{running[-1].server_address[1]}")
        client.app = app
        return client

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.fixture
def pulled(start_registry: Callable[..., Client], start_server: Callable[..., Client]) -> Callable[..., tuple[Client, str]]:
    """Start a server with a model in its store: (client, name of the model)."""
    def start(model: str = "smollm2:135m", **environ: str) -> tuple[Client, str]:
        client = start_server(**environ)
        name = f"{start_registry().host}/library/{model}"
        status, lines = client.post("/api/pull", {"model": name, "insecure": True})
        assert (status, lines[-1]) == (200, {"status": "success"})
        assert client.post("/api/copy", {"source": name, "destination": model})[0] == 200
        return client, model
    return start
