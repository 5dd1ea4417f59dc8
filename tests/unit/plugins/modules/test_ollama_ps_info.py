"""Module ollama_ps_info and what it is made of, against a server on loopback (a stand-in) and a journal made up."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from ansible_collections.gpufleet.ollama.plugins.module_utils import _ps
from ansible_collections.gpufleet.ollama.plugins.module_utils._client import OllamaClient, OllamaError, OllamaUnreachable
from ansible_collections.gpufleet.ollama.plugins.modules import ollama_ps_info

Pulled = Callable[..., Any]
GPU_LINES = [
    'time=2026-11-22T19:00:00.000+01:00 level=INFO source=routes.go:1 msg="server config" env="map[OLLAMA_HOST:0.0.0.0 msg=\\"inference compute\\"]"',
    'time=2026-11-22T19:00:01.000+01:00 level=INFO source=types.go:42 msg="inference compute" id=GPU-1111 filter_id="" library=CUDA compute=9.0 '
    'name=CUDA0 description="NVIDIA H100 80GB HBM3" libdirs=ollama,cuda_v13 driver=13.0 pci_id=0000:19:00.0 type=discrete total="79.6 GiB" '
    'available="79.2 GiB"',
    'time=2026-11-22T19:00:01.000+01:00 level=INFO source=types.go:42 msg="inference compute" id=GPU-2222 library=CUDA name="an \\"odd\\" \\x01 one"',
    '[GIN] 2026/11/22 - 19:00:02 | 200 |     424.828µs |       127.0.0.1 | GET      "/api/tags"',
    'time=2026-11-22T19:00:02.000+01:00 level=INFO source=routes.go:2 msg="vram-based default context" total_vram="159.2 GiB" default_num_ctx=262144',
]
SYSTEMCTL = """#!/bin/sh
[ "$*" = "show --value --property=InvocationID ollama@default.service" ] || exit 1
cat "$JOURNAL/invocation"
"""
JOURNALCTL = """#!/bin/sh
[ "$*" = "--no-pager -o cat _SYSTEMD_INVOCATION_ID=abc123" ] || exit 1
cat "$JOURNAL/lines" || exit 1
"""


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of a stand-in for systemctl and journalctl: files invocation and lines."""
    for name, text in (("systemctl", SYSTEMCTL), ("journalctl", JOURNALCTL)):
        (tmp_path / name).write_text(text, encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "invocation").write_text("abc123\n", encoding="utf-8")
    (tmp_path / "lines").write_text("\n".join(GPU_LINES), encoding="utf-8")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("JOURNAL", str(tmp_path))
    return tmp_path


def client_of(server: Any) -> OllamaClient:
    """The client under test."""
    return OllamaClient(server.url, 20)


def add(server: Any, start_registry: Callable[..., Any], *models: str) -> None:
    """Pull further models, under their short names."""
    host = start_registry().host
    for model in models:
        assert server.post("/api/pull", {"model": f"{host}/library/{model}", "insecure": True, "stream": False})[0] == 200
        assert server.post("/api/copy", {"source": f"{host}/library/{model}", "destination": model})[0] == 200
        assert server.ask("DELETE", "/api/delete", {"model": f"{host}/library/{model}"})[0] == 200


@pytest.mark.parametrize(("vram", "share"), [("gpu", 1.0), ("cpu", 0.0), ("0.5", 0.5)])
def test_share(pulled: Pulled, run_module: Callable[..., Any], vram: str, share: float) -> None:
    """What /api/ps says about a model that was tried."""
    server, name = pulled(OLLAMA_DOUBLE_VRAM=vram)
    assert _ps.try_model(client_of(server), name)["processor_gpu"] == pytest.approx(share, abs=0.001)
    result = run_module(ollama_ps_info.main, url=server.url)
    assert not result["changed"] and result["compute"] == []
    assert result["gpu_share"] == pytest.approx(share, abs=0.001)
    [model] = result["models"]
    assert set(model) == {"name", "digest", "size", "size_vram", "processor_gpu", "expires_at", "context_length"}
    assert (model["name"], model["digest"]) == (name, server.get("/api/ps")["models"][0]["digest"])
    assert model["size"] > 0 and model["size_vram"] == pytest.approx(model["size"] * share, abs=1) and model["context_length"] > 0


def test_nothing_loaded(pulled: Pulled, run_module: Callable[..., Any]) -> None:
    """No model proves nothing: null, neither good nor bad."""
    server, _name = pulled(OLLAMA_DOUBLE_VRAM="cpu")
    result = run_module(ollama_ps_info.main, url=server.url, check=True)
    assert (result["changed"], result["models"], result["gpu_share"]) == (False, [], None)


def test_worst_share() -> None:
    """The smallest share is the one to look at, and a model that is still loading has no size."""

    class Client(OllamaClient):
        def ps(self) -> list[dict[str, Any]]:
            return [{"name": "a:1", "size": 8, "size_vram": 8}, {"name": "b:1", "size": 8, "size_vram": 2}, {"name": "c:1", "size": 0, "size_vram": 0}]

    models = _ps.loaded(Client("http://127.0.0.1:9", 1))
    assert [model["processor_gpu"] for model in models] == [1.0, 0.25, 0.0]
    assert models[0]["context_length"] is None
    assert _ps.gpu_share(models[:2]) == 0.25


def test_no_server(run_module: Callable[..., Any]) -> None:
    """It fails in words."""
    result = run_module(ollama_ps_info.main, url="http://127.0.0.1:9", timeout=5)
    assert result["failed"] and "no Ollama answers at http://127.0.0.1:9" in result["msg"]


def test_compute(pulled: Pulled, run_module: Callable[..., Any], journal: Path) -> None:
    """The devices of the unit's present invocation."""
    server, _name = pulled()
    result = run_module(ollama_ps_info.main, url=server.url, unit="ollama@default.service")
    assert [device["id"] for device in result["compute"]] == ["GPU-1111", "GPU-2222"]
    (journal / "invocation").write_text("\n", encoding="utf-8")
    assert run_module(ollama_ps_info.main, url=server.url, unit="ollama@default.service")["compute"] == []


def test_journal_that_cannot_be_read(pulled: Pulled, run_module: Callable[..., Any], journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No devices and no journal are two things."""
    server, _name = pulled()
    (journal / "lines").unlink()
    result = run_module(ollama_ps_info.main, url=server.url, unit="ollama@default.service")
    assert result["failed"] and "journalctl" in result["msg"] and "No such file" in result["msg"]
    monkeypatch.setenv("PATH", str(journal / "nowhere"))
    assert "cannot run systemctl" in run_module(ollama_ps_info.main, url=server.url, unit="ollama@default.service")["msg"]


def test_parse_compute() -> None:
    """Plain and quoted values; lines that only mention the words are no devices."""
    first, second = _ps.parse_compute(GPU_LINES)
    assert first == {
        "id": "GPU-1111",
        "filter_id": "",
        "library": "CUDA",
        "compute": "9.0",
        "name": "CUDA0",
        "description": "NVIDIA H100 80GB HBM3",
        "libdirs": "ollama,cuda_v13",
        "driver": "13.0",
        "pci_id": "0000:19:00.0",
        "type": "discrete",
        "total": "79.6 GiB",
        "available": "79.2 GiB",
    }
    assert second["name"] == 'an \\"odd\\" \\x01 one'


@pytest.mark.parametrize(("vram", "libraries"), [("cpu", ["cpu"]), ("gpu", ["CUDA"])])
def test_parse_what_the_server_logs(capfd: pytest.CaptureFixture[str], tmp_path: Path, vram: str, libraries: list[str]) -> None:
    """The lines of the stand-in, which are those of Ollama."""
    from ollama_double import env, serve  # pylint: disable=import-outside-toplevel

    serve._log_devices(env.load({"HOME": str(tmp_path), "OLLAMA_DOUBLE_VRAM": vram, "CUDA_VISIBLE_DEVICES": ""}))  # pylint: disable=protected-access
    devices = _ps.parse_compute(capfd.readouterr().err.splitlines())
    assert [device["library"] for device in devices] == libraries
    assert all(device["total"].endswith(" GiB") and device["id"] for device in devices)


def test_a_long_journal_is_not_read_to_its_end() -> None:
    """The devices are in its first lines; what comes after them is a line for each request."""
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        yield from GPU_LINES
        while read < 10_000:
            read += 1
            yield "[GIN] a request"

    def run(command: list[str]) -> Any:
        return ["abc\n"] if command[0] == "systemctl" else endless()

    assert len(_ps.compute_devices("a.service", run)) == 2
    assert read <= _ps.LINES_AFTER_COMPUTE


def test_the_rest_of_the_journal_is_let_go(journal: Path) -> None:
    """journalctl does not stay behind when enough was read, and its end is no error."""
    script = f"#!/bin/sh\necho $$ >{journal}/pid\ncat {journal}/lines\nyes '[GIN] a request' | head -n 500\nexec sleep 20\n"
    (journal / "journalctl").write_text(script, encoding="utf-8")
    began = time.monotonic()
    assert len(_ps.compute_devices("ollama@default.service")) == 2
    assert time.monotonic() - began < 10
    assert not (Path("/proc") / (journal / "pid").read_text(encoding="utf-8").strip()).exists()


def test_try_an_embedding_model(pulled: Pulled, start_registry: Callable[..., Any]) -> None:
    """It cannot generate, so it is asked for a vector."""
    server, _name = pulled(OLLAMA_DOUBLE_VRAM="gpu")
    add(server, start_registry, "all-minilm:latest")
    assert _ps.try_model(client_of(server), "all-minilm")["name"] == "all-minilm:latest"


def test_try_before_tags_had_capabilities(pulled: Pulled, start_registry: Callable[..., Any]) -> None:
    """Then /api/show tells what a model can."""

    class Old(OllamaClient):
        def models(self) -> list[dict[str, Any]]:
            return [{key: value for key, value in item.items() if key != "capabilities"} for item in super().models()]

    server, name = pulled()
    add(server, start_registry, "all-minilm:latest")
    for model in (name, "all-minilm:latest"):
        assert _ps.try_model(Old(server.url, 20), model)["name"] == model


def test_try_an_alias(pulled: Pulled) -> None:
    """Names of one model share the runner, which keeps the name that came first."""
    server, name = pulled()
    assert server.post("/api/copy", {"source": name, "destination": "alias:1"})[0] == 200
    # a manifest of its own, on the same weights
    assert server.post("/api/create", {"model": "tuned:1", "from": name, "system": "Be brief.", "stream": False})[0] == 200
    digests = {item["name"]: item["digest"] for item in server.get("/api/tags")["models"]}
    assert digests["alias:1"] == digests[name] != digests["tuned:1"]
    for model in (name, "alias:1", "tuned:1"):
        assert _ps.try_model(client_of(server), model)["name"] == name


@pytest.mark.parametrize(
    ("names", "found"),
    [(["A:latest", "b:1"], "A:latest"), (["c:1", "b:1"], "b:1"), (["c:1"], None)],
    ids=["name", "digest", "neither"],
)
def test_which_entry_is_the_tried_model(names: list[str], found: str | None) -> None:
    """Its name first, also where its tag means something newer by now; then its digest. No need to ask for Modelfiles then."""

    class Client(OllamaClient):
        def models(self) -> list[dict[str, Any]]:
            return [{"name": "a:latest", "digest": "new", "capabilities": ["completion"]}]

        def generate(self, name: str, prompt: str, **more: Any) -> dict[str, Any]:
            return {}

        def show(self, name: str) -> dict[str, Any]:
            if found:
                raise AssertionError("asked for a Modelfile")
            return {"modelfile": f"# FROM {name}\nFROM /blobs/{name}\n"}

        def ps(self) -> list[dict[str, Any]]:
            return [{"name": name, "digest": {"b:1": "new"}.get(name, "old"), "size": 1, "size_vram": 1} for name in names]

    client = Client("http://127.0.0.1:9", 1)
    if found:
        assert _ps.try_model(client, "a")["name"] == found
    else:
        with pytest.raises(OllamaError, match="does not list it"):
            _ps.try_model(client, "a")


def test_try_where_idle_models_are_unloaded_at_once(pulled: Pulled) -> None:
    """OLLAMA_KEEP_ALIVE=0 leaves nothing to look at, so the model is kept for a moment."""
    server, name = pulled(OLLAMA_KEEP_ALIVE="0")
    assert _ps.try_model(client_of(server), name)["name"] == name


def test_try_leaves_the_time_of_a_loaded_model_alone(pulled: Pulled) -> None:
    """A model that is to stay for ever stays for ever."""
    server, name = pulled()
    assert server.post("/api/generate", {"model": name, "keep_alive": -1})[0] == 200
    assert _ps.try_model(client_of(server), name)["expires_at"] > "2200"


def test_try_fails_in_words(pulled: Pulled, monkeypatch: pytest.MonkeyPatch) -> None:
    """No such model, no name, an error of the API, not loaded afterwards, a server that is gone."""
    server, name = pulled()
    client = client_of(server)
    with pytest.raises(OllamaError, match="has no model nope to try"):
        _ps.try_model(client, "nope")
    with pytest.raises(OllamaError, match="is no model name"):
        _ps.try_model(client, "a/b/c/d")
    with monkeypatch.context() as patch:
        patch.setattr(OllamaClient, "ps", lambda _self: [])
        with pytest.raises(OllamaError, match="answered, but .* does not list it among the loaded models"):
            _ps.try_model(client, name)
    with monkeypatch.context() as patch:
        patch.setattr(OllamaClient, "models", lambda _self: [{"name": name, "digest": "", "capabilities": ["completion"]}])
        assert server.ask("DELETE", "/api/delete", {"model": name})[0] == 200
        with pytest.raises(OllamaError, match=f"{name} does not run: POST .* answered 404: model '{name}' not found"):
            _ps.try_model(client, name)
    with pytest.raises(OllamaUnreachable):
        _ps.try_model(OllamaClient("http://127.0.0.1:9", 5), name)


def test_smallest_model(pulled: Pulled, start_registry: Callable[..., Any], start_server: Callable[..., Any]) -> None:
    """By size; an empty store has none."""
    server, _name = pulled()
    add(server, start_registry, "llama3.2:1b", "all-minilm:latest")
    assert _ps.smallest_model(client_of(server)) == "all-minilm:latest"
    empty = start_server(OLLAMA_MODELS=str(server.app.store.manifests_dir.parent.parent / "empty"))
    assert _ps.smallest_model(client_of(empty)) is None


def test_smallest_model_runs_here() -> None:
    """Remote models are a few hundred bytes, and run elsewhere."""

    class Client(OllamaClient):
        def models(self) -> list[dict[str, Any]]:
            return [
                {"name": "gpt-oss:120b-cloud", "size": 1},
                {"name": "other:cloud", "size": 2},
                {"name": "stub:1", "size": 3, "remote_host": "https://ollama.com"},
                {"name": "stub:2", "size": 3, "remote_model": "kimi"},
                {"name": "b:1", "size": 400},
                {"name": "a:1", "size": 400},
            ]

    assert _ps.smallest_model(Client("http://127.0.0.1:9", 1)) == "a:1"
