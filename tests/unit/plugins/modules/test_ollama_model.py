"""Module ollama_model against a server and a registry on loopback (stand-ins)."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Callable

import pytest

from ansible_collections.gpufleet.ollama.plugins.module_utils._manifests import lock_entry
from ansible_collections.gpufleet.ollama.plugins.module_utils._store import Store
from ansible_collections.gpufleet.ollama.plugins.modules import ollama_model

NAME = "smollm2:135m"


class Fleet:
    """A server, a registry, and the module bound to both."""

    def __init__(self, registry: Any, server: Any, store: Path, run_module: Callable[..., Any]) -> None:
        self.registry = registry
        self.server = server
        self.store = store
        self.name = f"{registry.host}/library/{NAME}"
        self._run_module = run_module

    def run(self, *names: str, check: bool = False, **args: Any) -> dict[str, Any]:
        """A sideload of names of the default registry, from the registry as a mirror."""
        defaults = {"store": str(self.store), "url": self.server.url, "sources": [self.registry.url], "upstream": False, "reserve": "0", "timeout": 20}
        return self._run_module(ollama_model.main, check=check, **{"name": list(names) or [NAME], "retries": 0, **defaults, **args})

    def api(self, name: str = "", check: bool = False, **args: Any) -> dict[str, Any]:
        """A pull by the server."""
        return self.run(name or self.name, check=check, method="api", insecure=True, **args)

    def digests(self) -> dict[str, str]:
        """What the server shows."""
        return {item["name"]: item["digest"] for item in self.server.get("/api/tags")["models"]}

    def lock(self, name: str = NAME) -> dict[str, Any]:
        """An entry of a lock for what the registry means now."""
        model, _colon, tag = name.partition(":")
        return lock_entry(self.registry.get(f"/v2/library/{model}/manifests/{tag}"), "registry")

    def requests(self) -> int:
        """Requests that the registry saw."""
        return self.registry.get("/_double/stats")["requests"]


@pytest.fixture
def fleet(start_registry: Callable[..., Any], start_server: Callable[..., Any], run_module: Callable[..., Any], tmp_path: Path) -> Fleet:
    """A server whose store is empty, and its registry."""
    store = tmp_path / "models"
    return Fleet(start_registry(), start_server(OLLAMA_MODELS=str(store)), store, run_module)


def test_sideload_then_nothing(fleet: Fleet) -> None:
    """Missing models come and the server shows them; the second run asks, fetches and hashes nothing."""
    first = fleet.run(NAME, "all-minilm")
    assert first["changed"] and first["fetched_bytes"] == first["missing_bytes"] > 4 << 20 and first["unknown"] == []
    assert {item["name"]: item["digest"] for item in first["models"]} == fleet.digests()
    assert [item["name"] for item in first["models"]] == [NAME, "all-minilm:latest"]
    assert first["models"][0]["source"] == "resolved" and first["free_bytes"] > 0 and first["seconds"] > 0
    asked = fleet.requests()
    second = fleet.run(NAME, "all-minilm")
    assert not second["changed"] and second["fetched_bytes"] == second["hashed_bytes"] == second["missing_bytes"] == 0
    assert fleet.requests() == asked and second["models"][0] == {**first["models"][0], "source": "present", "changed": False}
    assert second["diff"]["before"] == second["diff"]["after"] == first["diff"]["after"]


def test_lock_decides(fleet: Fleet) -> None:
    """A model in another version than that of the lock is replaced, by a key in any spelling."""
    locked = fleet.lock()
    digest = locked["manifest_digest"][7:]
    fleet.registry.post("/_double/republish", {"name": NAME, "seed": 99})
    other = fleet.run()["models"][0]["digest"]
    assert other != digest
    lock = {"registry.ollama.ai/library/SmolLM2:135M": locked}
    planned = fleet.run(lock=lock, check=True)
    assert planned["changed"] and planned["diff"] == {"before": f"{NAME} {other}\n", "after": f"{NAME} {digest}\n"}
    assert planned["missing_bytes"] > 4 << 20 and planned["fetched_bytes"] == 0
    result = fleet.run(lock=lock)
    assert result["models"][0] == {"name": NAME, "digest": digest, "size": locked["size"], "changed": True, "source": "locked"}
    assert fleet.digests() == {NAME: digest} and not fleet.run(lock=lock)["changed"]


def test_check_mode_touches_nothing(fleet: Fleet) -> None:
    """An absent name without a lock is not known; nobody is asked and no directory is made."""
    result = fleet.run(check=True)
    assert result["changed"] and result["unknown"] == [NAME] and result["models"][0]["digest"] == ""
    assert result["diff"] == {"before": f"{NAME} absent\n", "after": f"{NAME} (to be pulled)\n"}
    assert fleet.requests() == 0 and not fleet.store.exists()


def test_check_mode_on_a_bare_host(fleet: Fleet) -> None:
    """There is no server yet."""
    assert fleet.run(check=True, url="http://127.0.0.1:9")["changed"]
    assert fleet.api(check=True, url="http://127.0.0.1:9")["changed"]
    assert not fleet.run(check=True, url="http://127.0.0.1:9", state="absent")["changed"]


def test_without_a_server(fleet: Fleet) -> None:
    """A mirror has none: nothing is compared, and nothing can be done through it."""
    assert fleet.run(url="")["changed"]
    assert "method api needs an instance" in fleet.run(url="", method="api")["msg"]


def test_absent_without_a_server(fleet: Fleet) -> None:
    """The manifest goes with its blobs, those of other models stay; nothing while a manifest cannot be read, and nothing in check mode."""
    assert not fleet.run(url="", state="absent")["changed"] and not fleet.store.exists()
    fleet.run(NAME, "all-minilm")
    planned = fleet.run(NAME.upper(), "nope", url="", state="absent", check=True)
    assert planned["changed"] and len(fleet.digests()) == 2
    broken = fleet.store / "manifests/registry.ollama.ai/library/broken"
    broken.mkdir()
    (broken / "latest").write_bytes(b"")
    for check in (True, False):
        assert "broken/latest is no manifest" in fleet.run(url="", state="absent", check=check)["msg"] and len(fleet.digests()) == 2
    shutil.rmtree(broken)
    result = fleet.run(NAME.upper(), "nope", url="", state="absent")
    assert [item["changed"] for item in result["models"]] == [True, False] and list(fleet.digests()) == ["all-minilm:latest"]
    assert result["diff"] == planned["diff"] and "nope:latest absent" in result["diff"]["before"]
    kept = {layer["digest"].replace(":", "-") for layer in fleet.lock("all-minilm:latest")["layers"]}
    assert {path.name for path in (fleet.store / "blobs").iterdir()} == kept
    assert not fleet.run(NAME, url="", state="absent")["changed"]


def test_proxy(fleet: Fleet, start_registry: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Registries are asked through the proxies of the option instead of those of the environment; mirrors never are."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    registry: dict[str, Any] = {"sources": [], "upstream": True, "insecure": True}
    assert "through the proxy 127.0.0.1:9" in fleet.run(fleet.name, **registry)["msg"]
    result = fleet.run(fleet.name, **registry, proxy={"http": "http://me:secret@127.0.0.1:10"})
    assert "through the proxy 127.0.0.1:10" in result["msg"] and "secret" not in json.dumps(result)
    assert fleet.run(fleet.name, **registry, proxy={"http": "http://127.0.0.1:10", "bypass": "127.0.0.1"})["changed"]
    assert fleet.run("all-minilm", proxy={"http": "http://127.0.0.1:10"})["changed"]


def test_check_mode_without_a_store(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its disk, or the store of an Ollama that is taken over, may come before the pull: only then it is known whether there is room."""
    monkeypatch.setattr(Store, "free", lambda self: 0)
    lock = {NAME: fleet.lock()}
    assert fleet.run(lock=lock, check=True)["missing_bytes"] == lock[NAME]["size"]
    assert fleet.run(lock=lock)["kind"] == "disk"
    (fleet.store / "blobs").mkdir(parents=True)
    assert fleet.run(lock=lock, check=True)["kind"] == "disk"


def test_root_works_as_the_owner(fleet: Fleet, run_module: Callable[..., Any]) -> None:
    """All that is written, deleted and compared is done as the owner of the store, but for the progress file."""
    if os.geteuid() != 0:
        pytest.skip("acting as another user needs root")
    fleet.run()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        os.mkdir(f"{folder}/blobs")
        for path in (folder, f"{folder}/blobs"):
            os.chown(path, 12345, 12346)
        progress = fleet.store.parent / "progress"
        args: dict[str, Any] = {"name": [NAME], "store": folder, "url": "", "sources": [str(fleet.store)], "upstream": False, "reserve": "0"}
        assert run_module(ollama_model.main, **args, progress_path=str(progress))["changed"]
        assert {(path.stat().st_uid, path.stat().st_gid) for path in Path(folder).rglob("*")} == {(12345, 12346)}
        assert json.loads(progress.read_text(encoding="utf-8"))["models_done"] == 1 and progress.stat().st_uid == os.geteuid() == 0
        assert run_module(ollama_model.main, **args, state="absent")["changed"] and os.listdir(f"{folder}/blobs") == []


def test_version_of_the_server_is_told(start_registry: Callable[..., Any], fleet: Fleet, tmp_path: Path) -> None:
    """The registry refuses a model that the server is too old for; where there is no server, nothing is too old."""
    catalogue = tmp_path / "catalogue.json"
    catalogue.write_text(json.dumps([{"name": "new:1b", "size": 1 << 20, "requires": "0.35.0"}]), encoding="utf-8")
    registry = start_registry("--models", str(catalogue))
    result = fleet.run("new:1b", sources=[registry.url])
    assert result["failed"] and result["kind"] == "too-old" and "0.35.0" in result["msg"]
    assert fleet.run("new:1b", sources=[registry.url], url="")["changed"]


def test_server_of_another_store(fleet: Fleet, tmp_path: Path) -> None:
    """What was put into a store that the server does not use is a failure, with the question that helps."""
    result = fleet.run(store=str(tmp_path / "elsewhere"))
    assert result["failed"] and "shows no such model" in result["msg"] and "OLLAMA_MODELS" in result["msg"]


def test_no_server_is_an_error(fleet: Fleet) -> None:
    """Without check mode a server that does not answer is an error that names the URL."""
    for run in (fleet.run, fleet.api):
        assert "no Ollama answers at http://127.0.0.1:9" in run(url="http://127.0.0.1:9")["msg"]


def test_bad_blob_is_replaced(fleet: Fleet) -> None:
    """The result names it, and the diff says that the model was not whole."""
    fleet.run()
    blob = max((fleet.store / "blobs").iterdir(), key=lambda path: path.stat().st_size)
    blob.write_bytes(b"bad")
    assert fleet.run(check=True)["corrupt"] == [blob.name.replace("-", ":")] and blob.read_bytes() == b"bad"
    result = fleet.run()
    assert result["changed"] and result["corrupt"] == [blob.name.replace("-", ":")] and "(incomplete)" in result["diff"]["before"]
    assert not fleet.run(verify=True)["changed"]


def test_names_are_exact(fleet: Fleet) -> None:
    """x is x:latest; it is not present because x:135m is. Case does not matter, and a name twice is one model."""
    fleet.run()
    assert fleet.run("smollm2", check=True)["unknown"] == ["smollm2:latest"]
    result = fleet.run("SMOLLM2:135m", NAME)
    assert not result["changed"] and len(result["models"]) == 1


@pytest.mark.parametrize(("args", "words"), [
    ({"name": "a/b/c/d"}, "is no model name"),
    ({"rate_limit": "fast"}, "rate_limit is 'fast': give a number of bytes"),
    ({"reserve": "-1G"}, "reserve is '-1G'"),
    ({"connections": 0}, "connections must be at least 1"),
    ({"sources": ["mirror:8140"]}, "is no source"),
    ({"lock": {NAME: {"manifest": "{}"}}}, f"the lock of {NAME} is damaged"),
    ({"lock": {NAME: {}}}, "has no manifest"),
    ({"lock": {"a/b/c/d": {}}}, "is no model name"),
])
def test_bad_arguments(fleet: Fleet, args: dict[str, Any], words: str) -> None:
    """One sentence, before anything is asked or made."""
    assert words in fleet.run(**args)["msg"]
    assert fleet.requests() == 0 and not fleet.store.exists()


def test_damaged_entry_of_another_model(fleet: Fleet) -> None:
    """It is no reason to stop."""
    assert fleet.run(lock={"other": {"manifest": "{}"}}, check=True)["changed"]


def test_progress_needs_a_place(fleet: Fleet) -> None:
    """A folder that is not there is said before the pull."""
    assert "No such file" in fleet.run(progress_path=str(fleet.store / "no" / "progress"))["msg"]
    assert fleet.digests() == {}


def test_api_pull_then_nothing(fleet: Fleet) -> None:
    """The server pulls a missing model; the second run changes nothing and asks no registry."""
    first = fleet.api()
    assert first["changed"] and {fleet.name: first["models"][0]["digest"]} == fleet.digests() and first["models"][0]["size"] > 1_000_000
    asked = fleet.requests()
    assert not fleet.api()["changed"] and fleet.requests() == asked
    assert not fleet.api(refresh=True)["changed"] and fleet.requests() > asked


def test_api_check_mode(fleet: Fleet) -> None:
    """Check mode pulls nothing and says what it does not know."""
    result = fleet.api(check=True)
    assert result["changed"] and result["unknown"] == [fleet.name] and "to be pulled" in result["diff"]["after"] and fleet.digests() == {}
    lock = {fleet.name: fleet.lock()}
    assert lock[fleet.name]["manifest_digest"][7:] in fleet.api(check=True, lock=lock)["diff"]["after"]


def test_api_with_a_lock(fleet: Fleet) -> None:
    """Equal to the lock: no request. Another version: pulled, and a failure when the registry means something else by now."""
    lock = {fleet.name: fleet.lock()}
    assert fleet.api(lock=lock)["models"][0]["source"] == "locked"
    asked = fleet.requests()
    assert not fleet.api(lock=lock)["changed"] and fleet.requests() == asked
    fleet.registry.post("/_double/republish", {"name": NAME, "seed": 99})
    assert not fleet.api(lock=lock)["changed"]
    newer = {fleet.name: fleet.lock()}
    assert fleet.api(lock=newer)["changed"]
    result = fleet.api(lock=lock)
    assert result["failed"] and "use method: sideload" in result["msg"]


def test_api_missing_in_the_registry(fleet: Fleet) -> None:
    """An unknown tag fails at once, in words that say so."""
    assert "the registry has no such model or tag" in fleet.api(fleet.name.replace("135m", "nope"))["msg"]


def test_api_error_in_the_stream(fleet: Fleet) -> None:
    """An error after the first line comes with status 200; it is a failure all the same, and nothing is left half there."""
    assert fleet.registry.ask("POST", "/_double/faults", {"fault": "wrong_bytes"})[0] < 300
    assert "digest mismatch" in fleet.api()["msg"] and fleet.digests() == {}


def test_absent(fleet: Fleet) -> None:
    """Models are deleted once, in any spelling."""
    fleet.run(NAME, "all-minilm")
    planned = fleet.run(NAME.upper(), "nope", state="absent", check=True)
    assert planned["changed"] and len(fleet.digests()) == 2
    result = fleet.run(NAME.upper(), "nope", state="absent")
    assert [item["changed"] for item in result["models"]] == [True, False] and list(fleet.digests()) == ["all-minilm:latest"]
    assert result["diff"] == planned["diff"] and "nope:latest absent" in result["diff"]["before"]
    assert not fleet.run(NAME, state="absent")["changed"]
