"""Module ollama_model_info against a server on loopback (a stand-in), its store, and neither."""

from __future__ import annotations

import http.server
import json
import shutil
import threading
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from ansible_collections.gpufleet.ollama.plugins.module_utils._client import OllamaClient, OllamaError
from ansible_collections.gpufleet.ollama.plugins.module_utils._manifests import lock_entry
from ansible_collections.gpufleet.ollama.plugins.module_utils._store import Store
from ansible_collections.gpufleet.ollama.plugins.modules import ollama_model_info

RunModule = Callable[..., dict[str, Any]]
Pulled = Callable[..., Any]
NAME = "smollm2:135m"
DEAD_URL = "http://127.0.0.1:9"
NOT_LOADED = {"loaded": False, "size_vram": 0, "processor_gpu": None, "expires_at": ""}


def info(run_module: RunModule, store: Any = "", url: str = "", **args: Any) -> dict[str, Any]:
    """The result."""
    return run_module(ollama_model_info.main, store=str(store), url=url, timeout=20, **args)


def only(result: dict[str, Any], name: str = NAME) -> dict[str, Any]:
    """The model of a name."""
    return next(model for model in result["models"] if model["name"] == name)


def store_of(server: Any) -> Path:
    """Where the server keeps its models."""
    return Path(server.app.store.root)


def manifest_path(store: Path) -> Path:
    """The manifest of the model."""
    return store / "manifests/registry.ollama.ai/library/smollm2/135m"


def weights_path(store: Path) -> Path:
    """The largest blob."""
    return max((store / "blobs").glob("sha256-*"), key=lambda path: path.stat().st_size)


@pytest.fixture
def served() -> Iterator[Callable[[dict[str, Any]], str]]:
    """A server that answers what it is told, by path; its URL comes back."""
    running = []

    def start(answers: dict[str, Any]) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:  # pylint: disable=invalid-name
                body = answers[self.path] if isinstance(answers[self.path], bytes) else json.dumps(answers[self.path]).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_args: Any) -> None:
                pass

        running.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=running[-1].serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return f"http://127.0.0.1:{running[-1].server_address[1]}"

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def test_bare_host(run_module: RunModule, tmp_path: Path) -> None:
    """Neither store nor server: nothing is there, everything is unknown, and nothing is made."""
    result = info(run_module, tmp_path / "models", DEAD_URL, name=["llama3.2"])
    assert not result["changed"] and "failed" not in result
    assert (result["models"], result["server_reachable"], result["version"]) == ([], False, "")
    assert (result["absent"], result["unknown"], result["missing_bytes"]) == (["llama3.2:latest"], ["llama3.2:latest"], 0)
    assert result["store_bytes"] == 0 and result["free_bytes"] > 0 and not (tmp_path / "models").exists()
    nothing = info(run_module)
    assert (nothing["models"], nothing["store_bytes"], nothing["free_bytes"], nothing["orphaned_blobs"]) == ([], None, None, [])


def test_store_and_server_agree(pulled: Pulled, run_module: RunModule) -> None:
    """The store alone says the same as both together, but for what only the server can know; so does the server alone."""
    server, _name = pulled()
    listed = next(item for item in server.get("/api/tags")["models"] if item["name"] == NAME)
    both, disk, api = (info(run_module, *where, metadata=True) for where in ((store_of(server), server.url), (store_of(server),), ("", server.url)))
    model = only(both)
    assert {key: model[key] for key in ("digest", "size", "capabilities")} == {key: listed[key] for key in ("digest", "size", "capabilities")}
    assert (model["format"], model["family"], model["quantization"]) == ("gguf", "llama", "Q8_0")
    assert model["parameter_size"] == listed["details"]["parameter_size"]
    assert (model["stale"], model["complete"], model["loaded"]) == (None, True, False)
    assert model["metadata"]["architecture"] == "llama" and model["metadata"]["block_count"] == 2
    assert model["weights_bytes"] == weights_path(store_of(server)).stat().st_size and model["unverified_bytes"] == model["size"]
    assert only(disk) == {**model, "capabilities": []} and not disk["server_reachable"]
    assert only(api) == {**model, "complete": None, "unverified_bytes": None, "weights_bytes": model["size"], "metadata": {}}
    assert both["server_reachable"] and both["version"] == server.get("/api/version")["version"]
    assert both["store_bytes"] == model["size"] and both["orphaned_blobs"] == both["partial_blobs"] == both["broken_manifests"] == []


def test_loaded(pulled: Pulled, run_module: RunModule) -> None:
    """A loaded model is seen under its name, and under the others of its digest."""
    server, _name = pulled(OLLAMA_DOUBLE_VRAM="gpu")
    assert {key: only(info(run_module, url=server.url))[key] for key in NOT_LOADED} == NOT_LOADED
    server.post("/api/generate", {"model": NAME, "keep_alive": 600, "stream": False})
    server.post("/api/create", {"model": "other", "from": NAME, "system": "x", "stream": False})
    for where in ((store_of(server), server.url), ("", server.url)):
        result = info(run_module, *where)
        found = [model for model in result["models"] if model["name"].endswith(NAME)]
        assert len(found) == 2 and all(model["loaded"] and model["processor_gpu"] == 1.0 and model["size_vram"] and model["expires_at"] for model in found)
        assert not only(result, "other:latest")["loaded"]


def test_lock(pulled: Pulled, run_module: RunModule) -> None:
    """Stale is what the lock has in another way; a damaged lock is an error."""
    server, _name = pulled()
    store = store_of(server)
    entry = lock_entry(manifest_path(store).read_bytes(), "x")
    assert only(info(run_module, store, lock={"SMOLLM2:135m": entry}))["stale"] is False
    other = lock_entry(manifest_path(store).read_bytes() + b"\n", "x")
    for where in ((store,), ("", server.url)):
        assert only(info(run_module, *where, lock={NAME: other}))["stale"] is True
    result = info(run_module, store, lock={NAME: {**entry, "manifest_digest": "sha256:0"}})
    assert result["failed"] and f"the lock of {NAME} is damaged" in result["msg"]
    assert "is no model name" in info(run_module, store, lock={"a b": entry})["msg"]
    assert "is no model name" in info(run_module, store, name=["a b"])["msg"]


def test_missing_bytes(pulled: Pulled, run_module: RunModule, tmp_path: Path) -> None:
    """What wanted models still need: each blob once, without what is staged."""
    server, _name = pulled()
    store, empty = store_of(server), Store(str(tmp_path / "empty"))
    entry = lock_entry(manifest_path(store).read_bytes(), "x")
    lock = {NAME: entry, "again": entry, "third": entry}
    there = info(run_module, store, lock=lock, name=[NAME, "again"])
    assert (there["missing_bytes"], there["absent"], there["unknown"]) == (0, ["again:latest"], [])
    gone = info(run_module, empty.path, lock=lock, name=["again", NAME, "unheard"])
    assert (gone["missing_bytes"], gone["absent"], gone["unknown"]) == (entry["size"], ["again:latest", NAME, "unheard:latest"], ["unheard:latest"])
    empty.make_directories()
    weights = max(entry["layers"], key=lambda layer: layer["size"])
    Path(empty.part_path(weights["digest"])).write_bytes(b"x" * 1_000_000)
    staged = info(run_module, empty.path, lock=lock, name=[NAME])
    assert 1_000_000 <= staged["staged_bytes"] < 1_100_000 and staged["missing_bytes"] == entry["size"] - staged["staged_bytes"]
    assert [item["size"] for item in staged["partial_blobs"]] == [staged["staged_bytes"]]
    # only the server to ask
    assert info(run_module, "", server.url, lock=lock, name=[NAME])["missing_bytes"] == 0
    assert info(run_module, "", server.url, lock=lock, name=["third"])["missing_bytes"] == entry["size"]


def test_incomplete(pulled: Pulled, run_module: RunModule) -> None:
    """A model with a lost or cut blob is not complete; what is lost is missing when the model is wanted."""
    server, _name = pulled()
    store = store_of(server)
    weights = weights_path(store)
    size = weights.stat().st_size
    weights.write_bytes(b"cut")
    result = info(run_module, store, name=[NAME], metadata=True)
    assert only(result)["complete"] is False and only(result)["metadata"] == {}
    assert (result["missing_bytes"], result["absent"], result["unknown"]) == (size, [], [])
    assert info(run_module, store)["missing_bytes"] == 0
    shutil.rmtree(store / "blobs")
    lost = info(run_module, store, name=[NAME])
    assert (only(lost)["complete"], only(lost)["family"], lost["missing_bytes"], lost["store_bytes"]) == (False, "", only(lost)["size"], 0)


def test_damaged_files(pulled: Pulled, run_module: RunModule) -> None:
    """Broken manifests and blobs are named, and the rest is still listed."""
    server, _name = pulled()
    store = store_of(server)
    broken = [manifest_path(store).with_name(name) for name in (".7b.tmp", "empty")]
    broken[0].write_bytes(manifest_path(store).read_bytes())
    broken[1].write_bytes(b"")
    (store / "blobs" / f"sha256-{'0' * 64}").write_bytes(b"lost")
    weights = weights_path(store)
    weights.write_bytes(b"x" * weights.stat().st_size)
    manifest = json.loads(manifest_path(store).read_text(encoding="utf-8"))
    (store / "blobs" / manifest["config"]["digest"].replace(":", "-")).write_bytes(b"\xff" * manifest["config"]["size"])
    result = info(run_module, store, metadata=True)
    assert result["broken_manifests"] == sorted(map(str, broken)) and result["orphaned_blobs"] == []
    model = only(result)
    assert (model["family"], model["metadata"], model["complete"]) == ("", {}, True)
    warnings = " ".join(result["warnings"])
    assert f"the config of {NAME} is damaged" in warnings and f"the weights of {NAME} say nothing of the model" in warnings
    for path in broken:
        path.unlink()
    assert info(run_module, store)["orphaned_blobs"] == [{"digest": f"sha256:{'0' * 64}", "size": 4}]


@pytest.mark.parametrize("config", [b"[" * 100_000, b'{"model_family": "' + b"x" * (5 << 20) + b'"}'])
def test_damaged_config(pulled: Pulled, run_module: RunModule, config: bytes) -> None:
    """What is nested too deep, or far too long, is a warning; not more than some megabytes are read."""
    store = store_of(pulled()[0])
    manifest = json.loads(manifest_path(store).read_text(encoding="utf-8"))
    (store / "blobs" / manifest["config"]["digest"].replace(":", "-")).write_bytes(config)
    result = info(run_module, store)
    assert only(result)["family"] == "" and f"the config of {NAME} is damaged" in " ".join(result["warnings"])


def test_server_with_another_store(pulled: Pulled, run_module: RunModule, tmp_path: Path) -> None:
    """What only the server lists is listed with it; what it has under the name of another model is not mixed up with that."""
    server, _name = pulled()
    other = tmp_path / "other"
    shutil.copytree(store_of(server), other)
    manifest_path(other).write_bytes(manifest_path(other).read_bytes() + b"\n")
    server.post("/api/create", {"model": "new", "from": NAME, "stream": False})
    result = info(run_module, other, server.url)
    assert only(result)["capabilities"] == [] and only(result)["complete"] is True
    assert only(result, "new:latest")["complete"] is None and [model["name"] for model in result["models"]] == sorted(m["name"] for m in result["models"])


@pytest.mark.parametrize("tags", [{}, {"models": None}, {"models": {}}, {"models": [1]}, {"models": [{"digest": "x"}]}, [], 1, "x", b"<html>", b"[" * 100_000])
def test_something_else_answers(run_module: RunModule, served: Callable[..., str], tags: Any) -> None:
    """What is no list of models is an error with a sentence, for all who ask the client."""
    url = served({"/api/version": {"version": "1.2.3"}, "/api/tags": tags})
    result = info(run_module, url=url)
    assert result["failed"] and f"{url}/api/tags is no Ollama: it answered" in result["msg"]
    with pytest.raises(OllamaError):
        OllamaClient(url, 5).find("a")


def test_names_that_are_not_ours(run_module: RunModule, served: Callable[..., str]) -> None:
    """A name that is refused here does not keep the others from being found."""
    models = [{"name": "a..b:latest", "digest": "0" * 64, "size": 1}, {"name": "good:latest", "digest": "1" * 64, "size": 2}]
    url = served({"/api/version": {"version": "1.2.3"}, "/api/tags": {"models": models}, "/api/ps": {"models": None}})
    assert (OllamaClient(url, 5).find("GOOD") or {}).get("size") == 2
    assert [model["name"] for model in info(run_module, url=url)["models"]] == ["good:latest"]
