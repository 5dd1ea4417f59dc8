"""Module ollama_model_prune against a server on loopback (stand-in)."""

from __future__ import annotations

from typing import Any, Callable

import pytest

from ansible_collections.gpufleet.ollama.plugins.modules import ollama_model_prune


@pytest.fixture
def prune(pulled: Callable[..., Any], run_module: Callable[..., Any]) -> Any:
    """An instance with smollm2:135m under two names, and the module bound to it."""
    server, _model = pulled()

    def run(*keep: str, check: bool = False) -> dict[str, Any]:
        return run_module(ollama_model_prune.main, check=check, keep=list(keep), url=server.url, timeout=20)

    run.names = lambda: sorted(item["name"] for item in server.get("/api/tags")["models"])  # type: ignore[attr-defined]
    return run


def test_all_others_go(prune: Any) -> None:
    """What is not named is deleted, in any spelling of what is named; the second run changes nothing."""
    before = prune.names()
    assert len(before) == 2
    planned = prune("SmolLM2:135M", check=True)
    assert planned["changed"] and prune.names() == before
    result = prune("SmolLM2:135M", "not-there")
    assert result["removed"] == planned["removed"] == [name for name in before if name != "smollm2:135m"]
    assert prune.names() == result["kept"] == ["smollm2:135m"]
    assert result["diff"]["after"] == "smollm2:135m\n" and len(result["diff"]["before"].splitlines()) == 2
    assert not prune("smollm2:135m")["changed"]


def test_names_are_exact(prune: Any) -> None:
    """x is x:latest: it does not keep x:135m."""
    assert "smollm2:135m" in prune("smollm2", check=True)["removed"]


def test_nothing_to_keep_is_refused(prune: Any) -> None:
    """An empty list would delete all."""
    assert "keep is empty" in prune()["msg"] and len(prune.names()) == 2


def test_bad_name_deletes_nothing(prune: Any) -> None:
    """A name that is none stops before the first deletion."""
    assert "is no model name" in prune("a/b/c/d")["msg"] and len(prune.names()) == 2


def test_no_server(run_module: Callable[..., Any]) -> None:
    """Nobody answers: nothing to delete in check mode, else an error."""
    args = {"keep": ["smollm2"], "url": "http://127.0.0.1:9", "timeout": 5}
    assert not run_module(ollama_model_prune.main, check=True, **args)["changed"]
    assert "no Ollama answers" in run_module(ollama_model_prune.main, **args)["msg"]
