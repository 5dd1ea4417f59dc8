"""Module ollama_model against a server and a registry on loopback (stand-ins)."""

from __future__ import annotations

from typing import Any, Callable

import pytest

from ansible_collections.gpufleet.ollama.plugins.modules import ollama_model


@pytest.fixture
def fleet(start_registry: Callable[..., Any], start_server: Callable[..., Any], run_module: Callable[..., Any]) -> Any:
    """A server, its registry, and the module bound to both."""

    class Fleet:
        registry = start_registry()
        server = start_server()
        name = f"{registry.host}/library/smollm2:135m"

        def run(self, name: str | None = None, check: bool = False, **args: Any) -> dict[str, Any]:
            return run_module(
                ollama_model.main, check=check, name=name or self.name, url=self.server.url, insecure=True, retries=0, timeout=20, **args
            )

        def digests(self) -> dict[str, str]:
            return {item["name"]: item["digest"] for item in self.server.get("/api/tags")["models"]}

    return Fleet()


def test_pull_then_nothing(fleet: Any) -> None:
    """A missing model is pulled and changed; the second run changes nothing and asks no registry."""
    first = fleet.run()
    assert first["changed"] and first["digest"] == fleet.digests()[fleet.name] and first["size"] > 1_000_000
    asked = fleet.registry.get("/_double/stats")
    second = fleet.run()
    assert not second["changed"] and second["digest"] == first["digest"]
    assert fleet.registry.get("/_double/stats") == asked


def test_check_mode_pulls_nothing(fleet: Any) -> None:
    """Check mode says what would be done, and the diff shows it."""
    result = fleet.run(check=True)
    assert result["changed"] and result["digest"] == ""
    assert "absent" in result["diff"]["before"] and "to be pulled" in result["diff"]["after"]
    assert fleet.digests() == {}


def test_check_mode_without_a_server(run_module: Callable[..., Any]) -> None:
    """On a bare host there is no server yet: the plan is to pull."""
    result = run_module(ollama_model.main, check=True, name="smollm2:135m", url="http://127.0.0.1:9", timeout=5)
    assert result["changed"]


def test_no_server_is_an_error(run_module: Callable[..., Any]) -> None:
    """Without check mode a server that does not answer is an error that names the URL."""
    result = run_module(ollama_model.main, name="smollm2:135m", url="http://127.0.0.1:9", timeout=5)
    assert result["failed"] and "no Ollama answers at http://127.0.0.1:9" in result["msg"]


def test_names_are_exact(fleet: Any) -> None:
    """x is x:latest; it is not present because x:135m is, and case does not matter."""
    fleet.run()
    result = fleet.run(name=fleet.name.replace(":135m", ""), check=True)
    assert result["changed"] and result["name"].endswith("smollm2:latest")
    assert not fleet.run(name=fleet.name.replace("smollm2", "SMOLLM2"), check=True)["changed"]


def test_missing_in_the_registry(fleet: Any) -> None:
    """An unknown tag fails at once, in words that say so."""
    result = fleet.run(name=fleet.name.replace("135m", "nope"))
    assert result["failed"] and "the registry has no such model or tag" in result["msg"]


def test_refresh_is_changed_only_by_a_new_digest(fleet: Any) -> None:
    """A refresh pulls again, which rewrites the manifest file, but is no change while the tag means the same."""
    fleet.run()
    assert not fleet.run(refresh=True)["changed"]


def test_error_in_the_stream(fleet: Any) -> None:
    """An error after the first line comes with status 200; it is a failure all the same, and nothing is left half there."""
    assert fleet.registry.ask("POST", "/_double/faults", {"fault": "wrong_bytes"})[0] < 300
    result = fleet.run()
    assert result["failed"] and "digest mismatch" in result["msg"]
    assert fleet.digests() == {}


def test_absent(fleet: Any) -> None:
    """A model is deleted once."""
    fleet.run()
    assert fleet.run(state="absent", check=True)["changed"] and fleet.digests()
    assert fleet.run(state="absent")["changed"] and not fleet.digests()
    assert not fleet.run(state="absent")["changed"]


def test_bad_name(fleet: Any) -> None:
    """A name that is none stops before any request."""
    assert "is no model name" in fleet.run(name="a/b/c/d")["msg"]
