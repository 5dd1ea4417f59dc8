"""Module ollama_smoke_test, against a server on loopback (a stand-in) and a journal made up."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Callable

import pytest

from ansible_collections.gpufleet.ollama.plugins.module_utils._client import OllamaClient
from ansible_collections.gpufleet.ollama.plugins.modules import ollama_smoke_test

Pulled = Callable[..., Any]
RunModule = Callable[..., dict[str, Any]]
UNIT = "ollama@default.service"
CPU = 'level=INFO source=types.go:60 msg="inference compute" id=cpu library=cpu compute="" name=cpu'
GPUS = [f'level=INFO source=types.go:42 msg="inference compute" id=GPU-{number} library=CUDA compute=9.0 name=CUDA{number}' for number in (0, 1)]


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set the lines that the unit logged at its start."""

    def set_lines(*lines: str) -> None:
        (tmp_path / "lines").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    for name, command in (("systemctl", "echo abc123"), ("journalctl", f"cat {tmp_path}/lines")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{command}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    set_lines(CPU)
    return set_lines


def smoke(run_module: RunModule, server: Any, **options: Any) -> dict[str, Any]:
    """Run the module."""
    return run_module(ollama_smoke_test.main, url=server.url, unit=UNIT, timeout=20, **options)


def test_on_the_gpu(pulled: Pulled, run_module: RunModule, journal: Callable[..., None]) -> None:
    """The smallest model is tried, and its share and the devices come back."""
    server, name = pulled(OLLAMA_DOUBLE_VRAM="gpu")
    journal(*GPUS)
    result = smoke(run_module, server, devices=2)
    assert (result["changed"], result["gpu_share"]) == (False, 1.0) and result["model"].endswith(name)
    assert result["devices"] == [{"id": "GPU-0", "library": "CUDA"}, {"id": "GPU-1", "library": "CUDA"}]
    assert len(server.get("/api/ps")["models"]) == 1


def test_on_the_cpu(pulled: Pulled, run_module: RunModule, journal: Callable[..., None]) -> None:
    """Good where no GPU is asked for; the CPU is no device. It fails where one is, with the model's name."""
    server, name = pulled(OLLAMA_DOUBLE_VRAM="cpu")
    result = smoke(run_module, server, model=name)
    assert (result["model"], result["gpu_share"], result["devices"]) == (name, 0.0, [])
    journal(*GPUS)
    result = smoke(run_module, server, model=name, devices=1)
    assert result["failed"] and result["msg"].startswith(f"{UNIT} runs {name} on the CPU, and is to have 1 GPUs")


def test_part_on_the_gpu(pulled: Pulled, run_module: RunModule, journal: Callable[..., None]) -> None:
    """A part is enough: not every model fits."""
    server, name = pulled(OLLAMA_DOUBLE_VRAM="0.25")
    journal(*GPUS)
    assert smoke(run_module, server, model=name, devices=2)["gpu_share"] == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize(("lines", "found"), [([CPU], "0 GPUs at its start (none)"), (GPUS[:1], "1 GPUs at its start (GPU-0)")])
def test_too_few_devices(pulled: Pulled, run_module: RunModule, journal: Callable[..., None], lines: list[str], found: str) -> None:
    """What the server found at its start is compared before any model is loaded."""
    server, _name = pulled(OLLAMA_DOUBLE_VRAM="gpu")
    journal(*lines)
    result = smoke(run_module, server, devices=2)
    assert result["failed"] and f"{UNIT} found {found}" in result["msg"] and "is to have 2: see nvidia-smi" in result["msg"]
    assert server.get("/api/ps")["models"] == []


def test_journal_without_the_start(pulled: Pulled, run_module: RunModule, journal: Callable[..., None]) -> None:
    """After weeks of requests the lines of the start are gone: the model alone tells."""
    server, _name = pulled(OLLAMA_DOUBLE_VRAM="gpu")
    journal()
    assert smoke(run_module, server, devices=2)["gpu_share"] == 1.0
    server, _name = pulled(OLLAMA_DOUBLE_VRAM="cpu")
    assert "on the CPU" in smoke(run_module, server, devices=2)["msg"]


def test_no_model_yet(start_server: Callable[..., Any], run_module: RunModule, journal: Callable[..., None]) -> None:
    """An empty store proves nothing, and that is no failure."""
    journal(*GPUS)
    result = smoke(run_module, start_server(OLLAMA_DOUBLE_VRAM="gpu"), devices=2)
    assert "msg" not in result and (result["model"], result["gpu_share"]) == ("", None)


def test_loaded_model_is_the_proof(pulled: Pulled, run_module: RunModule, journal: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one is loaded none is asked for an answer, unless a certain one is wanted."""
    server, name = pulled(OLLAMA_DOUBLE_VRAM="gpu")
    journal(*GPUS)
    asked = []
    generate = OllamaClient.generate
    monkeypatch.setattr(OllamaClient, "generate", lambda self, model, *args, **more: asked.append(model) or generate(self, model, *args, **more))
    assert server.post("/api/generate", {"model": name})[0] == 200
    assert smoke(run_module, server, devices=1)["model"] == name and not asked
    assert smoke(run_module, server, devices=1, model=name)["model"] == name and asked == [name]


def test_check_mode(pulled: Pulled, run_module: RunModule, journal: Callable[..., None]) -> None:
    """No model is loaded; one that is there is looked at."""
    server, name = pulled(OLLAMA_DOUBLE_VRAM="cpu")
    journal(*GPUS)
    result = smoke(run_module, server, devices=1, check=True)
    assert (result["model"], result["gpu_share"]) == ("", None) and server.get("/api/ps")["models"] == []
    assert server.post("/api/generate", {"model": name})[0] == 200
    assert smoke(run_module, server, devices=1, check=True)["failed"]


@pytest.mark.parametrize(("model", "text"), [("nope", "has no model nope to try"), ("a/b/c/d", "is no model name")])
def test_wanted_model_is_missing(pulled: Pulled, run_module: RunModule, journal: Callable[..., None], model: str, text: str) -> None:
    """It fails in words."""
    server, _name = pulled()
    journal(CPU)
    result = smoke(run_module, server, model=model)
    assert result["failed"] and text in result["msg"]


def test_no_server(run_module: RunModule, journal: Callable[..., None]) -> None:
    """It fails in words."""
    journal(CPU)
    result = run_module(ollama_smoke_test.main, url="http://127.0.0.1:9", unit=UNIT, timeout=5)
    assert result["failed"] and "no Ollama answers at http://127.0.0.1:9" in result["msg"]
