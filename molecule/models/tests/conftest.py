"""The hosts, and the registry's counters."""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Callable

import pytest
import yaml

sys.path.insert(0, os.path.join(os.environ["MOLECULE_PROJECT_DIRECTORY"], "molecule/shared"))

from scenario import on_host  # noqa: E402

HOSTS = ("models-a", "models-b", "models-c", "models-d")
STORE = "/var/lib/ollama/models"
LOCK = f"{os.environ['MOLECULE_EPHEMERAL_DIRECTORY']}/models.lock.yml"


def ask(host: str, path: str, content: Any = None) -> Any:
    """An answer of the API of a host's first instance."""
    body = "" if content is None else f"-d '{json.dumps(content)}'"
    return json.loads(on_host(host).check_output(f"curl -sS --max-time 20 {body} http://127.0.0.1:11434{path}"))


def digests(host: str) -> dict[str, str]:
    """Name and digest of all models of a host."""
    return {item["name"]: item["digest"] for item in ask(host, "/api/tags")["models"]}


def locked() -> dict[str, Any]:
    """The lock file."""
    with open(LOCK, encoding="utf-8") as file:
        return yaml.safe_load(file)["models"]


def control(path: str, method: str = "GET", content: Any = None) -> Any:
    """A request to the stand-in's control pages."""
    body = "" if content is None else f"-H 'Content-Type: application/json' -d '{json.dumps(content)}'"
    text = on_host("models-a").check_output(f"curl -sS --max-time 20 -X {method} {body} https://registry.ollama.ai/_double/{path}")
    return json.loads(text) if text else None


def blob_bytes(stats: dict[str, Any]) -> dict[str, int]:
    """Bytes that the registry gave away, by digest."""
    return {digest: entry["bytes"] for digest, entry in stats["digests"].items() if entry["bytes"]}


@pytest.fixture
def counted() -> Callable[[], dict[str, int]]:
    """Reset the counters of the registry; the result is called to read the bytes by digest."""
    control("stats", "POST")
    return lambda: blob_bytes(control("stats"))
