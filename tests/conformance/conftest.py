# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the conformance suite runs against: the server of OLLAMA_URL, or else the stand-in, started here.

Nothing outside this file knows the stand-in.
"""
from __future__ import annotations

import contextlib
import os
import re
import secrets
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator

import pytest

HERE = Path(__file__).resolve().parent
DOUBLE = HERE.parent / "double"
sys.path[:0] = [str(HERE), str(DOUBLE)]

from api_client import Ollama, Registry  # noqa: E402  # pylint: disable=wrong-import-position

OLLAMA_URL = os.environ.get("OLLAMA_URL", "")
REGISTRY_URL = os.environ.get("OLLAMA_REGISTRY_URL", "")
REGISTRY_MODEL = os.environ.get("OLLAMA_REGISTRY_MODEL", "smollm2:135m")
REGISTRY_EMBED_MODEL = "all-minilm:latest"


def pytest_configure(config: pytest.Config) -> None:
    """The marks by which parts of the suite can be left out."""
    config.addinivalue_line("markers", "pull: the server must reach the registry")
    config.addinivalue_line("markers", "inference: needs a model that can answer; see OLLAMA_TEST_MODEL")
    config.addinivalue_line("markers", "embedding: needs a model that can embed; see OLLAMA_TEST_EMBED_MODEL")


@pytest.fixture(scope="session", name="ollama")
def fixture_ollama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ollama]:
    """The server under test."""
    if OLLAMA_URL:
        yield Ollama(OLLAMA_URL)
        return
    home = tmp_path_factory.mktemp("ollama")
    environ = {
        "HOME": str(home),
        "OLLAMA_MODELS": str(home / "models"),
        "OLLAMA_HOST": "127.0.0.1:0",
        "OLLAMA_DOUBLE_TOKEN_RATE": "500",
        "OLLAMA_DOUBLE_VERSION": "0.34.4",
    }
    with _process(["-m", "ollama_double", "serve"], environ, home, r"Listening on (\S+) \(version") as address:
        yield Ollama(f"http://{address}")


@pytest.fixture(scope="session", name="default_settings")
def fixture_default_settings() -> bool:
    """True when the server is known to listen on loopback, with no OLLAMA_ORIGINS: what is refused then must be refused."""
    return not OLLAMA_URL or os.environ.get("OLLAMA_DEFAULT_SETTINGS", "") == "1"


@pytest.fixture(scope="session", name="registry")
def fixture_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """The registry that the server pulls from."""
    if REGISTRY_URL:
        yield Registry(REGISTRY_URL, REGISTRY_MODEL, os.environ.get("OLLAMA_REGISTRY_PUSH", "") == "1")
        return
    directory = tmp_path_factory.mktemp("registry")
    command = ["-m", "ollama_double.registry", "--listen", "127.0.0.1:0", "--cache", str(directory / "blobs")]
    with _process(command, {}, directory, r"registry on (\S+) with") as url:
        yield Registry(url, REGISTRY_MODEL, True)


@contextlib.contextmanager
def _process(command: list[str], environ: dict[str, str], directory: Path, pattern: str) -> Iterator[str]:
    """Run a part of the stand-in; yields what its log says about its address."""
    log = directory / "log"
    with log.open("wb") as stream:
        full = {**os.environ, "PYTHONPATH": str(DOUBLE), **environ}
        process = subprocess.Popen([sys.executable, *command], env=full, stdout=stream, stderr=stream)  # pylint: disable=consider-using-with
    try:
        end = time.monotonic() + 30
        while not (found := re.search(pattern, log.read_text(encoding="utf-8"))):
            assert process.poll() is None and time.monotonic() < end, log.read_text(encoding="utf-8")
            time.sleep(0.02)
        yield found[1]
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="session", name="before")
def fixture_before(ollama: Ollama) -> dict[str, dict[str, Any]]:
    """The models that were there before any test: they are read, never changed."""
    return ollama.tags()


@pytest.fixture(scope="session", name="own_pulls")
def fixture_own_pulls(ollama: Ollama, before: dict[str, dict[str, Any]]) -> Iterator[set[str]]:
    """Names that the suite pulled; they are deleted at the end, unless they were there before."""
    names: set[str] = set()
    yield names
    _remove(ollama, names - set(before))


def _remove(ollama: Ollama, names: Iterable[str]) -> None:
    """Delete models. One that is not loaded is not unloaded either: its weights may be loaded under another name."""
    loaded = ollama.loaded()
    for name in names:
        if name in loaded:
            ollama.unload(name)
        ollama.delete(name)


@pytest.fixture(scope="session", name="pulled")
def fixture_pulled(ollama: Ollama, registry: Registry, own_pulls: set[str]) -> str:
    """The name of a model that was pulled from the registry."""
    return _pull(ollama, registry, registry.model, own_pulls)


def _pull(ollama: Ollama, registry: Registry, model: str, own_pulls: set[str]) -> str:
    name = registry.name(model)
    answer = ollama.post("/api/pull", {"model": name, "insecure": registry.insecure, "stream": False})
    if answer.status != 200 and re.search(r"dial tcp|lookup|connect|timeout", answer.text):
        pytest.skip(f"{ollama.url} does not reach {registry.url}: set OLLAMA_REGISTRY_URL to a registry that it reaches ({answer.text})")
    assert answer.status == 200, answer.text
    own_pulls.add(name)
    # A name on the default registry is shown without it.
    return next(shown for shown in ollama.tags() if shown == name or f"registry.ollama.ai/library/{shown}" == name)


@pytest.fixture(scope="session", name="chat_model")
def fixture_chat_model(ollama: Ollama, request: pytest.FixtureRequest) -> str:
    """A model that can answer."""
    return _usable(ollama, request, "OLLAMA_TEST_MODEL", "completion", REGISTRY_MODEL)


@pytest.fixture(scope="session", name="embed_model")
def fixture_embed_model(ollama: Ollama, request: pytest.FixtureRequest) -> str:
    """A model that can embed."""
    return _usable(ollama, request, "OLLAMA_TEST_EMBED_MODEL", "embedding", REGISTRY_EMBED_MODEL)


def _usable(ollama: Ollama, request: pytest.FixtureRequest, variable: str, capability: str, default: str) -> str:
    before = request.getfixturevalue("before")
    chosen = os.environ.get(variable, "")
    if chosen:
        return chosen if ":" in chosen.rpartition("/")[2] else f"{chosen}:latest"
    if not OLLAMA_URL:
        return _pull(ollama, request.getfixturevalue("registry"), default, request.getfixturevalue("own_pulls"))
    able = [entry for entry in _local(before) if capability in (entry.get("capabilities") or [])]
    if not able:
        pytest.skip(f"{ollama.url} has no model with the capability {capability}: pull one, or set {variable} to the name of one")
    return min(able, key=lambda entry: entry["size"])["name"]


@pytest.fixture(scope="session", name="any_model")
def fixture_any_model(before: dict[str, dict[str, Any]], request: pytest.FixtureRequest) -> str:
    """Some model that copies and custom models can be made from: one of the server's own, or one that is pulled."""
    if os.environ.get("OLLAMA_TEST_MODEL"):
        return request.getfixturevalue("chat_model")
    if OLLAMA_URL and _local(before):
        return min(_local(before), key=lambda entry: entry["size"])["name"]
    return request.getfixturevalue("pulled")


def _local(models: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The models with weights of their own: names of cloud models are listed, too."""
    return [entry for entry in models.values() if entry["details"]["format"] == "gguf" and not entry.get("remote_host")]


@pytest.fixture(name="new_name")
def fixture_new_name(ollama: Ollama) -> Iterator[Callable[..., str]]:
    """Makes names that no model has; the models that a test makes under them are deleted after it."""
    made = []

    def make(pattern: str = "{}:test") -> str:
        made.append(pattern.format(f"conformance-{secrets.token_hex(4)}"))
        return made[-1]

    yield make
    _remove(ollama, made)


@pytest.fixture(name="idle")
def fixture_idle(ollama: Ollama) -> Iterator[Callable[[str], str]]:
    """Unloads a model before a test looks at its loading, and again after it."""
    used = []

    def start(name: str) -> str:
        used.append(name)
        ollama.unload(name)
        return name

    yield start
    for name in used:
        ollama.unload(name)
