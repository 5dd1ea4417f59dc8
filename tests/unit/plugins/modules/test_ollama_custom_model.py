"""Module ollama_custom_model against a server on loopback (a stand-in) and its store."""

from __future__ import annotations

import fcntl
import hashlib
import http.server
import json
import os
import shutil
import tempfile
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from ollama_double import gguf

from ansible_collections.gpufleet.ollama.plugins.module_utils import _custom, _http
from ansible_collections.gpufleet.ollama.plugins.module_utils._client import OllamaClient, OllamaError
from ansible_collections.gpufleet.ollama.plugins.modules import ollama_custom_model

BASE = "smollm2:135m"
NAME = "helpdesk:latest"


def weights(path: Path, seed: int = 1) -> str:
    """Write a small GGUF file; its SHA-256."""
    path.write_bytes(b"".join(gguf.completion_model("tiny", 300_000, seed, 512, "{{ .Prompt }}").chunks()))
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Fleet:
    """A server with a base model, its store, and the module bound to both."""

    def __init__(self, server: Any, run_module: Callable[..., Any]) -> None:
        self.server = server
        self.store = Path(server.app.store.root)
        self._run = run_module

    def run(self, check: bool = False, **args: Any) -> dict[str, Any]:
        """The module's result."""
        known = {"name": "helpdesk", "store": str(self.store), "from": BASE, "url": self.server.url, "timeout": 20, "reserve": "0"}
        return self._run(ollama_custom_model.main, check=check, **{**known, **args})

    def digests(self) -> dict[str, str]:
        """What the server lists."""
        return {item["name"]: item["digest"] for item in self.server.get("/api/tags")["models"]}

    def show(self) -> dict[str, Any]:
        """/api/show of the model."""
        return self.server.post("/api/show", {"model": NAME})[1]

    @property
    def record(self) -> Path:
        """The file of the record."""
        return self.store / ".gpufleet/custom/helpdesk@latest.json"

    def tree(self) -> dict[str, int]:
        """All files of the store and when they were written."""
        return {str(path): path.stat().st_mtime_ns for path in sorted(self.store.rglob("*")) if path.is_file()}


@pytest.fixture
def fleet(pulled: Callable[..., Any], run_module: Callable[..., Any]) -> Fleet:
    """A server that has the base."""
    return Fleet(pulled(BASE)[0], run_module)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test need not wait between tries."""
    monkeypatch.setattr(_http, "pause", lambda _attempt, _after: 0)


@pytest.fixture
def creates(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that were built, as the module's client asked for it."""
    asked: list[str] = []
    create = _custom.OllamaClient.create
    monkeypatch.setattr(_custom.OllamaClient, "create", lambda self, name, **more: asked.append(name) or create(self, name, **more))
    return asked


@pytest.fixture
def files(tmp_path: Path) -> Iterator[tuple[Path, str, list[str]]]:
    """A directory that is served: (directory, URL, requests). As with presigned URLs nothing but GET is allowed."""
    folder = tmp_path / "files"
    folder.mkdir()
    requests: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_args: Any) -> None:
            requests.append(self.requestline.rpartition(" ")[0])

        def do_HEAD(self) -> None:  # pylint: disable=invalid-name
            self.send_error(403)

        def do_GET(self) -> None:  # pylint: disable=invalid-name
            if self.path != "/endless":
                super().do_GET()
                return
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):
                for _piece in range(64):
                    self.wfile.write(bytes(1 << 20))
                    requests.append("1 MiB")

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}", requests
    server.shutdown()
    server.server_close()


def test_build_then_nothing(fleet: Fleet, creates: list[str]) -> None:
    """It is built once; the second run changes nothing, writes nothing and asks for no build."""
    wanted = {
        "system": "One word.", "license": "ours", "messages": [{"role": "user", "content": "hi"}],
        "parameters": {"num_ctx": "8192", "temperature": "0.2", "use_mmap": "false", "stop": "END"},
    }
    first = fleet.run(**wanted)
    assert first["changed"] and first["reason"] == "it is absent" and first["name"] == NAME
    assert first["digest"] == fleet.digests()[NAME] and first["base_digest"] == fleet.digests()[BASE] and first["size"] > 1_000_000
    params = json.loads((fleet.store / "blobs" / layer_of(fleet, "params")).read_text(encoding="utf-8"))
    assert params == {"num_ctx": 8192, "stop": ["END"], "temperature": 0.2, "use_mmap": False}
    shown = fleet.show()
    assert shown["system"] == "One word." and "ours" in shown["license"] and shown["messages"] == [{"role": "user", "content": "hi"}]
    assert fleet.record.stat().st_mode & 0o777 == 0o644 and creates == [NAME]
    before = fleet.tree()
    # the same, in other types
    wanted["parameters"] = {"temperature": 0.2, "num_ctx": 8192, "stop": ["END"], "use_mmap": False, "seed": None}
    second = fleet.run(**wanted)
    assert not second["changed"] and second["digest"] == first["digest"] and second["reason"] == ""
    assert second["diff"]["before"] == second["diff"]["after"]
    assert creates == [NAME] and fleet.tree() == before


def layer_of(fleet: Fleet, kind: str) -> str:
    """File name of the blob of a kind."""
    manifest = json.loads((fleet.store / "manifests/registry.ollama.ai/library/helpdesk/latest").read_text(encoding="utf-8"))
    return next(item["digest"] for item in manifest["layers"] if item["mediaType"].endswith(kind)).replace(":", "-")


def test_edited_system(fleet: Fleet) -> None:
    """Another text builds it again; the diff shows what was and what is to be."""
    fleet.run(system="One word.", parameters={"top_k": 5})
    result = fleet.run(system="Two words.\nNot more.", parameters={"top_k": 5})
    assert result["changed"] and result["reason"] == "its definition has changed"
    before, after = result["diff"]["before"].splitlines(), result["diff"]["after"].splitlines()
    assert set(before) - set(after) == {"system: One word."}
    assert [line for line in after if line not in before][0].startswith("system: Two words. [...] (sha256 ")
    assert f"from: {BASE} {fleet.digests()[BASE]}" in after and "parameter top_k: 5" in after
    assert fleet.show()["system"].startswith("Two words.")


def test_the_base_has_moved(fleet: Fleet) -> None:
    """Other content of the base builds it again."""
    fleet.run(system="One word.")
    assert fleet.server.post("/api/create", {"model": BASE, "from": BASE, "parameters": {"top_k": 3}, "stream": False})[0] == 200
    result = fleet.run(system="One word.")
    assert result["changed"] and result["reason"] == "what it is built from has changed" and result["base_digest"] == fleet.digests()[BASE]
    assert not fleet.run(system="One word.")["changed"]


def test_changed_by_another_hand(fleet: Fleet) -> None:
    """A model that is not what was built is built again, and the diff says so."""
    digest = fleet.run(system="One word.")["digest"]
    fleet.server.post("/api/create", {"model": NAME, "from": BASE, "system": "By hand.", "stream": False})
    result = fleet.run(system="One word.")
    assert result["changed"] and result["reason"] == "it was changed by another hand" and result["digest"] == digest
    assert f"changed by another hand: {digest} was built, and " in result["diff"]["before"]
    assert fleet.show()["system"] == "One word."


def test_deleted_by_another_hand(fleet: Fleet) -> None:
    """A record without its model is no model."""
    fleet.run(system="One word.")
    fleet.server.ask("DELETE", "/api/delete", {"model": NAME})
    result = fleet.run(system="One word.")
    assert result["changed"] and result["diff"]["before"] == f"{NAME} absent\n" and NAME in fleet.digests()


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, '{"hash": 1}', b"\xff\xfe"])
def test_damaged_record(fleet: Fleet, text: str | bytes) -> None:
    """A record that is none leads to a build, and to a good record."""
    fleet.run()
    fleet.record.write_bytes(text if isinstance(text, bytes) else text.encode())
    result = fleet.run()
    assert result["changed"] and result["reason"] == "there is no record of how it was built"
    assert not fleet.run()["changed"]


def test_check_mode_touches_nothing(fleet: Fleet, creates: list[str]) -> None:
    """Check mode says what would be done."""
    before = fleet.tree()
    result = fleet.run(check=True, system="x")
    assert result["changed"] and (result["digest"], result["size"]) == ("", 0) and "system: x" in result["diff"]["after"]
    result = fleet.run(check=True, **{"from": "llama3.2:1b"})
    assert result["changed"] and result["reason"] == "llama3.2:1b is not there yet" and "(not there yet)" in result["diff"]["after"]
    result = fleet.run(check=True, **{"from": "/nowhere/x.gguf"})
    assert result["changed"] and result["reason"] == "/nowhere/x.gguf is not there yet"
    assert fleet.tree() == before and not creates
    fleet.run(system="x")
    assert not fleet.run(check=True, system="x")["changed"]


def test_check_mode_without_a_server(run_module: Callable[..., Any], tmp_path: Path) -> None:
    """On a bare host there is neither server nor store: the plan is to build, and nothing is made."""
    args = {"name": "x", "from": BASE, "store": str(tmp_path / "store"), "url": "http://127.0.0.1:9", "timeout": 5}
    assert run_module(ollama_custom_model.main, check=True, **args)["changed"] and not (tmp_path / "store").exists()
    assert "no Ollama answers at http://127.0.0.1:9" in run_module(ollama_custom_model.main, **args)["msg"]


def test_missing_base(fleet: Fleet, creates: list[str]) -> None:
    """A base that is not there is never pulled; the error says how to mend it."""
    result = fleet.run(**{"from": "llama3.2:1b"})
    assert result["failed"] and "llama3.2:1b, which helpdesk:latest is built from, is not in the store" in result["msg"]
    assert "put it into ollama_models" in result["msg"] and not creates


@pytest.mark.parametrize(("args", "message"), [
    ({"from": "a/b/c/d"}, "is no model name"),
    ({"name": "a/b/c/d"}, "is no model name"),
    ({"name": BASE}, f"{BASE} cannot be built from itself"),
    ({"sha256": "0" * 64}, f"sha256 is for files, and {BASE} is a model"),
    ({"from": "https://example.org/x.gguf"}, "https://example.org/x.gguf has no sha256"),
    ({"from": "/x.gguf", "sha256": "abc"}, "the sha256 of /x.gguf is 'abc' and must have 64 hex digits"),
    ({"adapters": [{"path": "/a"}, {"path": "/b"}]}, "has 2 adapters, and Ollama takes one"),
    ({"adapters": [{"sha256": "0" * 64}]}, "one of the following is required: path, url"),
    ({"parameters": {"num_ctxt": 1}}, "Ollama knows no parameter num_ctxt: did you mean num_ctx?"),
    ({"parameters": {"zzz": 1}}, "Ollama knows no parameter zzz: it knows draft_num_predict, "),
    ({"parameters": {"num_ctx": "many"}}, "the parameter num_ctx is 'many' and must be a whole number"),
    ({"parameters": {"num_ctx": 1.5}}, "the parameter num_ctx is 1.5 and must be a whole number"),
    ({"parameters": {"top_k": True}}, "the parameter top_k is True and must be a whole number"),
    ({"parameters": {"temperature": "nan"}}, "the parameter temperature is 'nan' and must be a number"),
    ({"parameters": {"temperature": [1]}}, "the parameter temperature is [1] and must be a number"),
    ({"reserve": "much"}, "reserve is 'much' and must be a size, such as 10G"),
    ({"parameters": {"use_mmap": "perhaps"}}, "the parameter use_mmap is 'perhaps' and must be true or false"),
])
def test_what_cannot_be(run_module: Callable[..., Any], tmp_path: Path, args: dict[str, Any], message: str) -> None:
    """Each mistake has its sentence, before any request; check mode sees it too."""
    known = {"name": "helpdesk", "store": str(tmp_path / "store"), "from": BASE, "url": "http://127.0.0.1:9"}
    for check in (False, True):
        result = run_module(ollama_custom_model.main, check=check, **{**known, **args})
        assert result["failed"] and message in result["msg"]


def test_what_ollama_refuses(fleet: Fleet) -> None:
    """Its words are the error; no model and no record is left."""
    for args, message in (
        ({"quantize": "q4_K_M"}, "quantization is only supported for F16, BF16 and F32 models"),
        ({"template": "{{ .Prompt"}, "template error"),
        ({"from": "/nowhere/x.gguf"}, "there is no file /nowhere/x.gguf on this host"),
    ):
        result = fleet.run(**args)
        assert result["failed"] and message in result["msg"]
    assert NAME not in fleet.digests() and not fleet.record.exists()


def test_another_store(fleet: Fleet, tmp_path: Path, creates: list[str]) -> None:
    """A store that is not the server's is refused before anything is written to it."""
    result = fleet.run(store=str(tmp_path / "other"))
    assert result["failed"] and f"{tmp_path}/other is not the store of {fleet.server.url}: give its OLLAMA_MODELS" in result["msg"]
    assert not (tmp_path / "other").exists() and not creates
    # a store of its own, and no model to compare
    (tmp_path / "other/blobs").mkdir(parents=True)
    weights(tmp_path / "tiny.gguf")
    result = fleet.run(**{"from": str(tmp_path / "tiny.gguf"), "store": str(tmp_path / "other")})
    assert result["failed"] and "is not the store of" in result["msg"] and not creates


def test_file_of_the_host(fleet: Fleet, tmp_path: Path, creates: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A GGUF file is uploaded, its blob goes again when Ollama has made its own of it, and the file is hashed once."""
    path = tmp_path / "tiny.gguf"
    digest = weights(path)
    wanted = {"from": str(path), "template": "{{ .Prompt }}"}
    result = fleet.run(**wanted)
    assert result["changed"] and result["base_digest"] == "" and f"from: sha256:{digest}" in result["diff"]["after"]
    assert layer_of(fleet, "model") != f"sha256-{digest}" and not (fleet.store / f"blobs/sha256-{digest}").exists()
    hashed: list[str] = []
    sha256_of = _custom.sha256_of
    monkeypatch.setattr(_custom, "sha256_of", lambda file: hashed.append(os.readlink(f"/proc/self/fd/{file.fileno()}")) or sha256_of(file))
    assert not fleet.run(**wanted)["changed"] and not fleet.run(**wanted, sha256=digest.upper())["changed"]
    assert hashed == []
    # touched, and the same: hashed once more, and remembered
    os.utime(path, ns=(1, 1))
    assert not fleet.run(**wanted)["changed"] and not fleet.run(**wanted)["changed"]
    assert hashed == [str(path)] and creates == [NAME]
    weights(path, seed=2)
    assert fleet.run(**wanted)["reason"] == "its definition has changed" and creates == [NAME, NAME]


def test_wrong_file_of_the_host(fleet: Fleet, tmp_path: Path, creates: list[str]) -> None:
    """A file that is not the pinned one, or no GGUF file, is refused before anything is sent."""
    before = fleet.tree()
    path = tmp_path / "tiny.gguf"
    digest = weights(path)
    result = fleet.run(**{"from": str(path), "sha256": "0" * 64})
    assert result["failed"] and f"its SHA-256 is {digest} and should be {'0' * 64}" in result["msg"]
    path.write_text("This is text.", encoding="utf-8")
    assert f"{path} is no GGUF file" in fleet.run(**{"from": str(path)})["msg"]
    assert fleet.tree() == before and not creates


def test_file_at_a_url(fleet: Fleet, files: tuple[Path, str, list[str]]) -> None:
    """It is downloaded once, verified, uploaded and removed again; the second run asks nobody."""
    folder, url, requests = files
    digest = weights(folder / "tiny.gguf")
    wanted = {"from": f"{url}/tiny.gguf", "sha256": f"sha256:{digest}", "system": "x"}
    assert fleet.run(check=True, **wanted)["changed"] and requests == []
    assert fleet.run(**wanted)["changed"] and fleet.show()["system"] == "x"
    assert requests == ["GET /tiny.gguf"]
    assert all(path.suffix == ".lock" for path in (fleet.store / ".gpufleet/staging").iterdir()) and not (fleet.store / f"blobs/sha256-{digest}").exists()
    assert not fleet.run(**wanted)["changed"] and len(requests) == 1
    # the same file from another place is the same model
    (folder / "moved.gguf").write_bytes((folder / "tiny.gguf").read_bytes())
    assert not fleet.run(**{**wanted, "from": f"{url}/moved.gguf"})["changed"]


def test_wrong_file_at_a_url(fleet: Fleet, files: tuple[Path, str, list[str]], creates: list[str]) -> None:
    """Other bytes than the pinned ones are not uploaded, and do not stay; a missing file has its sentence."""
    folder, url, _requests = files
    digest = weights(folder / "tiny.gguf")
    result = fleet.run(**{"from": f"{url}/tiny.gguf", "sha256": "0" * 64})
    assert result["failed"] and f"its SHA-256 is {digest} and should be {'0' * 64}. Nothing was built" in result["msg"]
    assert all(path.suffix == ".lock" for path in (fleet.store / ".gpufleet/staging").iterdir())
    assert f"{url}/none.gguf answered 404" in fleet.run(**{"from": f"{url}/none.gguf", "sha256": "0" * 64})["msg"]
    assert not creates and not list((fleet.store / "blobs").glob(f"*{digest}"))


def test_no_room(fleet: Fleet, files: tuple[Path, str, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The room is counted before the first byte: the reserve, the sizes of files of the host, and the one that the answer names."""
    folder, url, requests = files
    wanted = {"from": f"{url}/tiny.gguf", "sha256": weights(folder / "tiny.gguf")}
    size = (folder / "tiny.gguf").stat().st_size
    says = f"the disk of {fleet.store} is too full to build {NAME}: "
    assert says in fleet.run(**wanted, reserve="1E")["msg"] and requests == []
    monkeypatch.setattr(_custom.Store, "free", lambda _self: 2 * size - 1)
    assert says in fleet.run(**wanted)["msg"] and requests == ["GET /tiny.gguf"]
    assert says in fleet.run(**{"from": str(folder / "tiny.gguf")})["msg"]
    # that of other files is counted with it
    weights(folder / "adapter.gguf", seed=2)
    monkeypatch.setattr(_custom.Store, "free", lambda _self: 4 * size - 1)
    assert says in fleet.run(**wanted, adapters=[{"path": str(folder / "adapter.gguf")}])["msg"]
    monkeypatch.setattr(_custom.Store, "free", lambda _self: 2 * size)
    assert fleet.run(**wanted)["changed"]


def test_endless_download(fleet: Fleet, files: tuple[Path, str, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of no known size is given up before it fills the disk."""
    _folder, url, requests = files
    monkeypatch.setattr(_custom.Store, "free", lambda _self: 4 << 20)
    result = fleet.run(**{"from": f"{url}/endless", "sha256": "0" * 64})
    assert result["failed"] and "is too full to build" in result["msg"] and len(requests) < 32


def test_download_that_breaks_off(fleet: Fleet, files: tuple[Path, str, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is begun anew."""
    folder, url, requests = files
    wanted = {"from": f"{url}/tiny.gguf", "sha256": weights(folder / "tiny.gguf")}
    receive, tries = _custom.receive, []

    def flaky(*args: Any) -> int:
        tries.append(args)
        return 0 if len(tries) == 2 else receive(*args)

    monkeypatch.setattr(_custom, "CHUNK", 1000)
    monkeypatch.setattr(_custom, "receive", flaky)
    assert fleet.run(**wanted)["changed"] and requests == ["GET /tiny.gguf"] * 2
    assert "http://127.0.0.1:9/x cannot be downloaded: " in fleet.run(**{**wanted, "from": "http://127.0.0.1:9/x", "sha256": "1" * 64})["msg"]


@pytest.mark.parametrize(("place", "sha256", "message"), [
    ("{}/none.gguf", "0" * 64, "/none.gguf answered 404"),
    ("{}/tiny.gguf", "0" * 64, "/tiny.gguf is not the file that was pinned"),
    ("http://user:secret@127.0.0.1:9/x", "0" * 64, "http://127.0.0.1:9/x cannot be downloaded"),
    ("{}/tiny.gguf", None, "/tiny.gguf has no sha256"),
    ("{}/tiny.gguf", "abc", "/tiny.gguf is 'abc' and must have 64 hex digits"),
    ("ftp://user:secret@h/x", "0" * 64, "ftp://h/x is neither an absolute path"),
    ("http://user:secret@[bad/x", "0" * 64, "is no URL"),
    ("{}/tiny gguf", "0" * 64, "/tiny gguf is no URL"),
    ("{}/tiny\u00e9", "0" * 64, "/tiny\u00e9 is no URL"),
])
def test_passwords_stay_out_of_messages(
    fleet: Fleet, files: tuple[Path, str, list[str]], place: str, sha256: str | None, message: str,
) -> None:
    """Neither that of a URL nor its signature is in what the module says."""
    folder, url, _requests = files
    weights(folder / "tiny.gguf")
    place = place.format(url.replace("//", "//user:secret@"))
    result = fleet.run(**{"from": f"{place}?signature=secret", "sha256": sha256})
    assert result["failed"] and message in result["msg"] and "secret" not in result["msg"]
    result = fleet.run(adapters=[{"url": f"{place}?signature=secret", "sha256": sha256}])
    assert result["failed"] and message in result["msg"] and "secret" not in result["msg"]


def test_proxy(fleet: Fleet, files: tuple[Path, str, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Files come through the proxy that is given, and not through that of the environment; the server is asked directly."""
    folder, url, requests = files
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    # where a server of files finds what a proxy is asked for
    (folder / "http:/files.invalid").mkdir(parents=True)
    wanted = {"from": "http://files.invalid/tiny.gguf", "sha256": weights(folder / "http:/files.invalid/tiny.gguf")}
    assert "cannot be downloaded" in fleet.run(**wanted)["msg"] and requests == []
    result = fleet.run(**wanted, proxy={"http": url.replace("//", "//user:secret@")})
    assert result["changed"] and requests == ["GET http://files.invalid/tiny.gguf"] and "secret" not in str(result)
    wanted = {"from": f"{url}/tiny.gguf", "sha256": weights(folder / "tiny.gguf", seed=2)}
    assert "cannot be downloaded" in fleet.run(**wanted, proxy={"http": "http://127.0.0.1:9"})["msg"]
    assert fleet.run(**wanted, proxy={"http": "http://127.0.0.1:9", "bypass": "127.0.0.1"})["changed"]
    assert fleet.run(**wanted, system="x", proxy={})["changed"]


def locked(path: Path) -> bool:
    """Whether somebody holds a lock."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_one_build_at_a_time(fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the look at what has to be uploaded to the record one lock of the store is held, and no blob goes while a manifest comes."""
    weights(tmp_path / "tiny.gguf")
    staging, seen = fleet.store / ".gpufleet/staging", []
    for holder, name, lock in (
        (_custom.OllamaClient, "has_blob", "custom"), (_custom.OllamaClient, "create", "custom"), (_custom.Builder, "_drop", "custom"),
        (_custom.Builder, "_write_record", "custom"), (_custom.Store, "used", "manifests"),
    ):
        def spy(*args: Any, name: str = name, lock: str = lock, original: Any = getattr(holder, name), **more: Any) -> Any:
            seen.append((name, locked(staging / f"{lock}.lock")))
            return original(*args, **more)

        monkeypatch.setattr(holder, name, spy)
    assert fleet.run(**{"from": str(tmp_path / "tiny.gguf")})["changed"]
    assert seen == [(name, True) for name in ("has_blob", "create", "_drop", "used", "_write_record")]
    assert not locked(staging / "custom.lock")


def test_the_file_that_was_hashed_is_sent(fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another file at its path changes nothing; a FIFO there, or in the place of the record, blocks nothing."""
    digest = weights(tmp_path / "tiny.gguf")
    weights(tmp_path / "other.gguf", seed=2)
    has_blob = _custom.OllamaClient.has_blob
    with monkeypatch.context() as patch:
        patch.setattr(
            _custom.OllamaClient, "has_blob",
            lambda *args: os.replace(tmp_path / "other.gguf", tmp_path / "tiny.gguf") or has_blob(*args),
        )
        result = fleet.run(**{"from": str(tmp_path / "tiny.gguf"), "sha256": digest})
    assert result["changed"] and f"from: sha256:{digest}" in result["diff"]["after"]
    os.mkfifo(tmp_path / "fifo")
    assert fleet.run(**{"from": str(tmp_path / "fifo")})["msg"] == f"[Errno 22] it is no regular file: '{tmp_path}/fifo'"
    fleet.record.unlink()
    os.mkfifo(fleet.record)
    assert fleet.run()["reason"] == "there is no record of how it was built" and fleet.record.is_file()


@pytest.fixture
def foreign(pulled: Callable[..., Any], run_module: Callable[..., Any]) -> Iterator[Fleet]:
    """A store of a user who is not root, with root running the module."""
    if os.geteuid() != 0:
        pytest.skip("only root can run it for another user")
    # the directories of pytest are open to root alone
    root = Path(tempfile.mkdtemp())
    root.chmod(0o755)
    fleet = Fleet(pulled(BASE, OLLAMA_MODELS=str(root / "models"))[0], run_module)
    for path in (root / "models", *(root / "models").rglob("*")):
        os.chown(path, 65534, 65534)
    yield fleet
    shutil.rmtree(root)


def test_store_of_another_user(foreign: Fleet, files: tuple[Path, str, list[str]]) -> None:
    """Files that only root can read are built from, and what is written belongs to the owner of the store."""
    folder, url, _requests = files
    digest = weights(folder / "tiny.gguf")
    (folder / "tiny.gguf").chmod(0o600)
    assert foreign.run(**{"from": str(folder / "tiny.gguf")})["changed"]
    assert foreign.run(**{"from": f"{url}/tiny.gguf", "sha256": digest}, system="x")["changed"]
    private = foreign.store / ".gpufleet"
    assert {path.stat().st_uid for path in (private, *private.rglob("*"))} == {65534} and os.geteuid() == 0


def test_links_lead_root_nowhere(foreign: Fleet, files: tuple[Path, str, list[str]], tmp_path: Path) -> None:
    """Whoever owns the store cannot make root write elsewhere, nor read a record from there."""
    folder, url, _requests = files
    digest = weights(folder / "tiny.gguf")
    custom, staging = (foreign.store / ".gpufleet" / name for name in ("custom", "staging"))
    staging.mkdir(parents=True)
    for path in (staging, staging.parent):
        os.chown(path, 65534, 65534)
    victim = tmp_path / "victim"
    victim.write_text("precious", encoding="utf-8")
    (staging / f"sha256-{digest}.gguf.part").symlink_to(victim)
    assert foreign.run(**{"from": f"{url}/tiny.gguf", "sha256": digest})["changed"]
    assert victim.read_text(encoding="utf-8") == "precious" and victim.stat().st_uid == 0
    shutil.rmtree(custom)
    (tmp_path / "elsewhere").mkdir()
    custom.symlink_to(tmp_path / "elsewhere")
    result = foreign.run(system="x")
    assert result["failed"] and "Permission denied" in result["msg"] and list((tmp_path / "elsewhere").iterdir()) == []


def test_adapter(fleet: Fleet, tmp_path: Path) -> None:
    """An adapter becomes a layer, whose blob stays since the model uses it; another one builds the model again."""
    path = tmp_path / "lora.gguf"
    digest = weights(path)
    wanted = {"adapters": [{"path": str(path), "sha256": digest}]}
    result = fleet.run(**wanted)
    assert result["changed"] and f"adapter: sha256:{digest}" in result["diff"]["after"]
    assert layer_of(fleet, "adapter") == f"sha256-{digest}" and (fleet.store / f"blobs/sha256-{digest}").exists()
    assert not fleet.run(**wanted)["changed"]
    weights(path, seed=2)
    assert "is not the file that was pinned" in fleet.run(**wanted)["msg"]
    assert fleet.run(adapters=[{"path": str(path)}])["changed"]


def test_a_blob_that_was_there_stays(fleet: Fleet, tmp_path: Path) -> None:
    """Only what was uploaded here is deleted again, and nothing is while a manifest cannot be read."""
    path = tmp_path / "tiny.gguf"
    digest = weights(path)
    blob = fleet.store / f"blobs/sha256-{digest}"
    blob.write_bytes(path.read_bytes())
    fleet.run(**{"from": str(path)})
    assert blob.exists()
    blob.unlink()
    (fleet.store / "manifests/registry.ollama.ai/library/helpdesk/broken").write_text("{", encoding="utf-8")
    fleet.run(**{"from": str(path), "system": "x"})
    assert blob.exists()


def test_blobs_of_the_client(fleet: Fleet, tmp_path: Path) -> None:
    """A blob is there or not; whatever else the server says is an error, and so are bytes of another digest."""
    client = OllamaClient(fleet.server.url, 20)
    digest = f"sha256:{weights(tmp_path / 'tiny.gguf')}"
    assert not client.has_blob(digest)
    with (tmp_path / "tiny.gguf").open("rb") as file:
        file.read(4)
        client.upload_blob(digest, file)
        assert client.has_blob(digest)
        with pytest.raises(OllamaError, match="digest mismatch"):
            client.upload_blob(f"sha256:{'0' * 64}", file)
    with pytest.raises(OllamaError, match="answered 400"):
        client.has_blob("sha256:short")


def test_names_and_records() -> None:
    """All spellings of a name have one record, and no two names share one; a long name fits into a file name."""
    store = _custom.Store("/store")
    paths = [_custom.record_path(store, name) for name in ("a", "A:latest", "registry.ollama.ai/library/a", "b/a", "h.x:5000/b/a:t", "b-a")]
    assert len(set(paths[:3])) == 1 and len(set(paths)) == 4
    assert paths[0] == "/store/.gpufleet/custom/a@latest.json"
    assert len(os.path.basename(_custom.record_path(store, f"{'h' * 300}/n/m:t"))) < 255
