"""Module ollama_registry_info against the stand-in of the registry."""

from __future__ import annotations

import hashlib
from typing import Any, Callable

import pytest

from ansible_collections.gpufleet.ollama.plugins.module_utils._gguf import MIN_PIECE
from ansible_collections.gpufleet.ollama.plugins.module_utils._manifests import Manifest, locked
from ansible_collections.gpufleet.ollama.plugins.modules import ollama_registry_info

DEAD = "http://127.0.0.1:9"
Ask = Callable[..., dict[str, Any]]


@pytest.fixture
def ask(run_module: Callable[..., Any]) -> Ask:
    """Run the module, with mirrors only and without patience unless told otherwise."""

    def run(*names: str, **options: Any) -> dict[str, Any]:
        known = {"upstream": False, "retries": 0, "timeout": 5}
        return run_module(ollama_registry_info.main, name=list(names), **{**known, **options})

    return run


def test_entries(start_registry: Callable[..., Any], ask: Ask) -> None:
    """Exact bytes, all layers, what the weights say; a name in two spellings is one; only a part of the weights is read."""
    registry = start_registry()
    result = ask("smollm2:135m", "SmolLM2:135m", "all-minilm", sources=[f"{registry.url}/"], check=True)
    raw = registry.get("/v2/library/smollm2/manifests/135m")
    entry = result["models"]["smollm2:135m"]
    assert not result["changed"] and list(result["models"]) == ["all-minilm:latest", "smollm2:135m"]
    assert locked("smollm2:135m", entry).raw == entry["manifest"].encode() == raw
    assert entry["manifest_digest"] == f"sha256:{hashlib.sha256(raw).hexdigest()}" and entry["layers"][0]["kind"] == "model"
    assert (entry["origin"], entry["metadata"]["context_length"]) == ("registry.ollama.ai", 8192)
    assert result["models"]["all-minilm:latest"]["metadata"]["pooling_type"] == 1
    # a piece of each file, of some megabytes
    assert registry.get("/_double/stats")["kinds"]["blob_range"] == {"requests": 2, "bytes": 2 * MIN_PIECE}


def test_redirected_blobs(start_registry: Callable[..., Any], ask: Ask) -> None:
    """Weights behind a redirect to another host, as the real registry has them."""
    registry = start_registry()
    redirecting = start_registry("--redirect", registry.host)
    assert ask("llama3.2:1b", sources=[redirecting.url])["models"]["llama3.2:1b"]["metadata"]["head_count_kv"] == 4


def test_registry_of_the_name(start_registry: Callable[..., Any], ask: Ask) -> None:
    """A mirror is not asked for names of other registries: it could only know the model of another one."""
    registry, mirror = start_registry(), start_registry()
    name = f"{registry.host}/library/smollm2:135m"
    result = ask(name, sources=[mirror.url], upstream=True, insecure=True)
    assert result["models"][name]["origin"] == registry.host
    assert ask(name, sources=[mirror.url])["msg"] == f"{name}: nobody is asked for it: give sources for names of registry.ollama.ai, or set upstream to true"


def test_sources_in_order(start_registry: Callable[..., Any], ask: Ask) -> None:
    """The first that has the model decides; one that is gone, or answers nonsense, is passed over."""
    first, second = start_registry(), start_registry()
    second.post("/_double/republish", {"name": "smollm2:135m", "seed": 99})
    moved = ask("smollm2:135m", sources=[DEAD, second.url, first.url])["models"]["smollm2:135m"]["manifest_digest"]
    assert ask("smollm2:135m", sources=[first.url, second.url])["models"]["smollm2:135m"]["manifest_digest"] != moved
    first.post("/_double/faults", {"fault": "status", "kind": "manifest", "status": 404})
    assert ask("smollm2:135m", sources=[first.url, second.url])["models"]["smollm2:135m"]["manifest_digest"] == moved


def test_metadata_is_no_must(start_registry: Callable[..., Any], ask: Ask) -> None:
    """Without ranges there is a warning, and the entry all the same; nothing is read that is not wanted."""
    registry = start_registry()
    registry.post("/_double/faults", {"fault": "status", "kind": "blob_range", "status": 404})
    result = ask("smollm2:135m", sources=[registry.url], metadata=False)
    assert result["models"]["smollm2:135m"]["metadata"] == {} and "header of its weights" not in str(result)
    result = ask("smollm2:135m", sources=[registry.url])
    assert result["models"]["smollm2:135m"]["metadata"] == {}
    assert "smollm2:135m: the header of its weights cannot be read, so the memory that it takes stays unknown: " in str(result["warnings"])


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ({"fault": "status", "status": 404}, "answered 404 Not Found: check the name and the tag in the library of the registry"),
        ({"fault": "status", "status": 412}, "wants a newer Ollama for this model"),
        ({"fault": "status", "status": 412}, "a newer release of this collection may be let in"),
        ({"fault": "status", "status": 401}, "a model that needs an account cannot be locked"),
        ({"fault": "status", "status": 503}, "503"),
    ],
)
def test_refused(start_registry: Callable[..., Any], ask: Ask, fault: dict[str, Any], says: str) -> None:
    """The name, the URL and the mend."""
    registry = start_registry()
    registry.post("/_double/faults", {**fault, "kind": "manifest"})
    result = ask("smollm2:135m", sources=[registry.url])
    assert result["failed"] and result["msg"].startswith("smollm2:135m: ") and says in result["msg"]
    assert f"{registry.url}/v2/library/smollm2/manifests/135m" in result["msg"]


@pytest.mark.parametrize(("place", "body"), [("{}", None), (DEAD, None), ("http://[bad", None), ("{}", b"<html>")])
def test_passwords_stay_out_of_messages(
    start_registry: Callable[..., Any], ask: Ask, monkeypatch: pytest.MonkeyPatch, place: str, body: bytes | None,
) -> None:
    """A source is named without them, whatever is wrong with it."""
    if body:
        monkeypatch.setattr(ollama_registry_info.Http, "get", lambda *_args: body)
    source = place.format(start_registry().url).replace("//", "//user:secret@")
    result = ask("none:1b", sources=[source])
    assert result["failed"] and result["msg"].startswith("none:1b: ") and "secret" not in result["msg"]
    # once, and with the host
    assert result["msg"].count("://") <= 1 or "[bad" in place


def test_no_manifest(start_registry: Callable[..., Any], ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in between answers with a page of its own."""
    monkeypatch.setattr(ollama_registry_info.Http, "get", lambda *_args: b"<html>log in</html>")
    result = ask("smollm2:135m", sources=["http://proxy"])
    assert result["failed"] and "this is no manifest: b'<html>log in</html>'" in result["msg"] and result["msg"].endswith("answers in its place")


def test_all_problems_at_once(start_registry: Callable[..., Any], ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each model that cannot be had; a source that cannot be reached is tried once."""
    registry, tried = start_registry(), []
    get = ollama_registry_info.Http.get
    monkeypatch.setattr(ollama_registry_info.Http, "get", lambda self, url, *args: tried.append(url) or get(self, url, *args))
    result = ask("none:1b", "smollm2:7b", sources=[registry.url, DEAD])
    assert "none:1b: " in result["msg"] and "smollm2:7b: " in result["msg"] and "check the way to it, name a mirror" in result["msg"]
    assert len([url for url in tried if url.startswith(DEAD)]) == 1


def test_bad_name(ask: Ask) -> None:
    """Before anything is asked."""
    assert "'a b' is no model name" in ask("a b")["msg"]


def test_client_is_never_too_old(start_registry: Callable[..., Any], ask: Ask, tmp_path: Any) -> None:
    """Whether a host can run a model is no question of the lock."""
    (tmp_path / "models.json").write_text('[{"name": "new:1b", "size": 1048576, "seed": 1, "capabilities": ["completion"], "requires": "9.0.0"}]')
    registry = start_registry("--models", str(tmp_path / "models.json"))
    entry = ask("new:1b", sources=[registry.url])["models"]["new:1b"]
    assert Manifest(entry["manifest"].encode()).digest == entry["manifest_digest"]


def test_nothing_to_ask(ask: Ask) -> None:
    """No names, no answer."""
    assert ask()["models"] == {}
