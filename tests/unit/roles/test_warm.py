"""The program that loads models after a start, run as systemd runs it, against a server on loopback (a stand-in)."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable

import pytest
from ollama_double.model import Model

WARM = Path(__file__).parents[3] / "roles/ollama/files/warm.py"
Warm = Callable[..., Any]


@pytest.fixture
def warm(tmp_path: Path) -> Warm:
    """Run it for a URL with models, pairs of a name and its keep_alive; status, result and what it says come back."""

    def run(url: str, *models: tuple[str, Any], options: tuple[str, ...] = (), status: int = 0) -> tuple[dict[str, Any], str]:
        config = tmp_path / "default.warm.json"
        config.write_text(json.dumps({"url": url, "models": [{"name": name, "keep_alive": value} for name, value in models]}), encoding="utf-8")
        # a proxy that must not be asked
        environ = {**os.environ, "http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9", "no_proxy": ""}
        command = [sys.executable, "-I", str(WARM), str(config), *options]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == status, done.stderr
        return json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}, done.stderr

    return run


def loaded(server: Any) -> dict[str, str]:
    """What /api/ps shows: expires_at by name."""
    return {item["name"]: item["expires_at"] for item in server.get("/api/ps")["models"]}


def add(server: Any, start_registry: Callable[..., Any], *models: str) -> None:
    """Pull further models, under their short names."""
    host = start_registry().host
    for model in models:
        assert server.post("/api/pull", {"model": f"{host}/library/{model}", "insecure": True, "stream": False})[0] == 200
        assert server.post("/api/copy", {"source": f"{host}/library/{model}", "destination": model})[0] == 200


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_loads_once(pulled: Callable[..., Any], start_registry: Callable[..., Any], warm: Warm) -> None:
    """What is there and cold is loaded, embedding models too; what is not there is said; the second run has nothing to do."""
    server, name = pulled()
    add(server, start_registry, "all-minilm")
    models = (("all-minilm", -1), ("llama3.2:1b", "24h"), (name, "24h"))
    plan, _said = warm(server.url, *models, options=("--dry-run",))
    expected = {"loaded": ["all-minilm", name], "already": [], "missing": ["llama3.2:1b"], "failed": []}
    assert plan == expected and loaded(server) == {}
    done, said = warm(server.url, *models)
    assert done == expected and "llama3.2:1b is not in the store: skipped" in said and f"{name} loaded in" in said
    expiry = loaded(server)
    assert set(expiry) == {"all-minilm:latest", name}
    assert int(expiry["all-minilm:latest"][:4]) > 2300 and int(expiry[name][:4]) < 2300
    again, _said = warm(server.url, *models)
    assert again == {**expected, "loaded": [], "already": ["all-minilm", name]}
    assert loaded(server) == expiry


@pytest.mark.parametrize("keep_alive", ["-1", -1, "-1m"])
def test_forever(pulled: Callable[..., Any], warm: Warm, keep_alive: Any) -> None:
    """A request of somebody else may have shortened the stay; text without a unit, which the API refuses, becomes a number."""
    server, name = pulled()
    for body in ({"model": name}, {"model": name, "keep_alive": "10m"}):
        assert server.post("/api/generate", body)[0] == 200
        assert warm(server.url, (name, keep_alive), options=("--dry-run",))[0]["loaded"] == [name]
        assert warm(server.url, (name, keep_alive))[0]["loaded"] == [name]
        assert int(loaded(server)[name][:4]) > 2300
        assert warm(server.url, (name, keep_alive))[0]["already"] == [name]


@pytest.mark.parametrize("keep_alive", ["300", 300, "5m", None])
def test_finite(pulled: Callable[..., Any], warm: Warm, keep_alive: Any) -> None:
    """Seconds as text or number, a duration, or what the instance has; a longer stay of somebody else remains."""
    server, name = pulled(OLLAMA_KEEP_ALIVE="300s")
    assert warm(server.url, (name, keep_alive))[0]["loaded"] == [name]
    assert int(loaded(server)[name][:4]) < 2300
    assert server.post("/api/generate", {"model": name, "keep_alive": -1})[0] == 200
    assert warm(server.url, (name, keep_alive))[0]["already"] == [name]
    assert int(loaded(server)[name][:4]) > 2300


def test_shared_weights(pulled: Callable[..., Any], warm: Warm) -> None:
    """Names that share weights share the runner: the second is loaded with the first, whoever was named first."""
    server, name = pulled()
    assert server.post("/api/create", {"model": "bot", "from": name, "system": "You are a bot.", "stream": False})[0] == 200
    assert warm(server.url, (name, "1h"), ("bot", "1h"))[0] == {"loaded": [name], "already": ["bot"], "missing": [], "failed": []}
    assert list(loaded(server)) == [name]
    # the same manifest under another name, and another spelling
    assert server.post("/api/copy", {"source": name, "destination": "copy"})[0] == 200
    assert warm(server.url, ("copy:latest", "1h"), (name.upper(), "1h"), (f"registry.ollama.ai/library/{name}", "1h"))[0]["loaded"] == []


def test_not_all_fit(pulled: Callable[..., Any], start_registry: Callable[..., Any], warm: Warm) -> None:
    """Ollama unloads one for the other without a word; here it is a failure."""
    server, name = pulled(OLLAMA_MAX_LOADED_MODELS="1")
    add(server, start_registry, "llama3.2:1b")
    done, said = warm(server.url, (name, -1), ("llama3.2:1b", -1), status=1)
    assert done["loaded"] == ["llama3.2:1b"] and [item["name"] for item in done["failed"]] == [name]
    assert f"{name} failed: it was unloaded for another one" in said


def test_a_model_that_fails(pulled: Callable[..., Any], warm: Warm) -> None:
    """With the API's own words; the others are still loaded."""
    server, name = pulled()
    assert server.post("/api/copy", {"source": name, "destination": "other"})[0] == 200
    done, said = warm(server.url, ("other", "1d"), (name, "1h"), status=1)
    assert done["loaded"] == [name] and done["failed"][0]["name"] == "other"
    assert "answered 400" in done["failed"][0]["error"] and 'unknown unit "d"' in done["failed"][0]["error"] and "other failed" in said


def test_old_server(pulled: Callable[..., Any], start_registry: Callable[..., Any], warm: Warm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 0.30 only /api/show knows what a model can do."""
    server, _name = pulled()
    add(server, start_registry, "all-minilm")
    whole = Model.list_entry
    monkeypatch.setattr(Model, "list_entry", lambda self: {key: value for key, value in whole(self).items() if key != "capabilities"})
    assert "capabilities" not in server.get("/api/tags")["models"][0]
    assert warm(server.url, ("all-minilm", "1h"))[0]["loaded"] == ["all-minilm"]


def test_waits(start_server: Callable[..., Any], warm: Warm) -> None:
    """The instance may be slow to answer."""
    port = free_port()
    timer = threading.Timer(1, lambda: start_server(OLLAMA_HOST=f"127.0.0.1:{port}"))
    timer.start()
    assert warm(f"http://127.0.0.1:{port}", ("llama3.2", -1), options=("--wait", "20"))[0]["missing"] == ["llama3.2"]
    timer.join()


def test_nothing_answers(warm: Warm) -> None:
    """One sentence; in a dry run it is not there yet, and all is to be loaded."""
    url = f"http://127.0.0.1:{free_port()}"
    result, said = warm(url, ("llama3.2", -1), options=("--wait", "0.5"), status=1)
    assert result == {} and said.startswith("warm: no Ollama to load models into: ") and len(said.splitlines()) == 1
    began = time.monotonic()
    assert warm(url, ("llama3.2", -1), options=("--dry-run",))[0] == {"loaded": ["llama3.2"], "already": [], "missing": [], "failed": []}
    assert time.monotonic() - began < 5


def test_bad_configuration(tmp_path: Path) -> None:
    """The file is the playbook's: it says so."""
    (tmp_path / "bad.json").write_text('{"models": [{"name": 1}]}', encoding="utf-8")
    for path, words in ((tmp_path / "none.json", "cannot be read (No such file or directory)"), (tmp_path / "bad.json", "is not the configuration")):
        done = subprocess.run([sys.executable, str(WARM), str(path)], capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode == 1 and words in done.stderr and len(done.stderr.splitlines()) == 1


def test_it_is_a_plain_file() -> None:
    """The unit runs the interpreter."""
    assert not WARM.stat().st_mode & 0o111 and not WARM.read_bytes().startswith(b"#!")
