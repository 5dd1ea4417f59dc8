"""Module ollama_restore: a store of a running server (stand-in) is filled from a backup and a registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import pytest

from ansible_collections.gpufleet.ollama.plugins.module_utils._repository import Cas
from ansible_collections.gpufleet.ollama.plugins.module_utils._store import Store
from ansible_collections.gpufleet.ollama.plugins.modules import ollama_restore

from backup_rig import BASE, OWN, Rig, tree

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def rig(start_registry: Callable[..., Any], tmp_path: Path) -> Rig:
    """A host with a backup."""
    found = Rig(start_registry, tmp_path)
    found.fill()
    repository = Cas(str(tmp_path / "repository"))
    repository.open(make=True)
    found.backup(repository)
    return found


@pytest.fixture
def server(start_server: Callable[..., Any], tmp_path: Path) -> Any:
    """Another host's server, whose store is empty."""
    return start_server(OLLAMA_MODELS=str(tmp_path / "b/models"))


@pytest.fixture
def run(rig: Rig, server: Any, run_module: Run) -> Run:
    """The module for that server."""
    defaults = {
        "host": "gpu1", "format": "cas", "repository": str(rig.folder / "repository"), "store": str(rig.folder / "b/models"), "url": server.url,
        "sources": [rig.registry.url], "upstream": False, "reserve": "0",
    }
    return lambda check=False, **args: run_module(ollama_restore.main, check=check, **{**defaults, **args})


def test_dry_run_restore_and_nothing(rig: Rig, server: Any, run: Run) -> None:
    """Check mode says what comes from where; then the running server has all models, and each answers."""
    plan = run(check=True)
    assert plan["changed"] and plan["backup_bytes"] > 3 << 20 and plan["registry_bytes"] > 4 << 20 and plan["fetched_bytes"] == 0
    assert plan["missing_bytes"] == plan["backup_bytes"] + plan["registry_bytes"] and server.get("/api/tags")["models"] == []
    done = run()
    assert done["changed"] and done["fetched_bytes"] >= done["registry_bytes"] == plan["registry_bytes"] and done["snapshot"] == plan["snapshot"]
    assert tree(Store(str(rig.folder / "b/models"))) == tree(rig.store)
    assert {item["name"]: item["digest"] for item in server.get("/api/tags")["models"]} == {model["name"]: model["digest"] for model in done["models"]}
    again = run()
    assert not again["changed"] and again["missing_bytes"] == again["unverified_bytes"] == 0 and "absent" not in again["diff"]["before"]


def test_one_model_answers(rig: Rig, server: Any, run: Run) -> None:
    """By its name; the others are not brought."""
    done = run(name=["Support-Bot"])
    assert [model["name"] for model in done["models"]] == [OWN]
    assert [item["name"] for item in server.get("/api/tags")["models"]] == [OWN]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"host": "gpu9"}, "it has some of gpu1"),
        ({"name": ["nope"]}, "the backup has no model nope"),
        ({"snapshot": "zzz"}, "give one of"),
        ({"from_store": "/var/lib/olama"}, "has no backup of the store /var/lib/olama of gpu1: it has those of"),
        ({"repository": "/nowhere"}, "is its disk mounted?"),
        ({"reserve": "9000T"}, "are to come"),
        ({"reserve": "much"}, "is no number of bytes"),
        ({"sources": []}, "since a registry has it: name sources of it, or set upstream"),
        ({"url": "http://127.0.0.1:9"}, "no Ollama answers"),
    ],
)
def test_what_is_refused(rig: Rig, run: Run, options: dict[str, Any], message: str) -> None:
    """One sentence for each."""
    done = run(**options)
    assert done["failed"] and message in done["msg"], done
    assert BASE not in [name.display for name in Store(str(rig.folder / "b/models")).names()] or "no Ollama" in message
