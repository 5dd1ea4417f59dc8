"""What goes wrong during a pull, and what must come of it, with a registry on loopback (stand-in)."""

from __future__ import annotations

import contextlib
import email.utils
import functools
import hashlib
import http.server
import json
import os
import re
import shutil
import signal
import socketserver
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from ansible_collections.gpufleet.ollama.plugins.module_utils._blobs import Part
from ansible_collections.gpufleet.ollama.plugins.module_utils._http import (
    Connection,
    FetchError,
    Http,
    connect_error,
    receive,
    redirected,
    retry_after,
    shown,
)
from ansible_collections.gpufleet.ollama.plugins.module_utils._manifests import Manifest, lock_entry
from ansible_collections.gpufleet.ollama.plugins.module_utils._names import parse
from ansible_collections.gpufleet.ollama.plugins.module_utils._sideload import Lock, Options, Plan, Progress, Sideload, check_source
from ansible_collections.gpufleet.ollama.plugins.module_utils._store import Store

ROOT = Path(__file__).resolve().parents[4]
CHUNK = 256 << 10
CONNECTIONS = 4
DEAD = "http://127.0.0.1:9"
MODEL = "smollm2:135m"

# a pull in a process of its own: python -c PULL <path> <JSON>
PULL = """
import json, sys
sys.path[:0] = [sys.argv[1]]
from ansible_collections.gpufleet.ollama.plugins.module_utils._http import Http
from ansible_collections.gpufleet.ollama.plugins.module_utils._sideload import Lock, Options, Progress, Sideload, names_of
from ansible_collections.gpufleet.ollama.plugins.module_utils._store import Store
order = json.loads(sys.argv[2])
pull = Sideload(Store(order["store"]), Http, Options(**order["options"]))
names = names_of(order["names"])
with pull.store.as_owner():
    pull.run(pull.plan(names, Lock(order["lock"]), False), Progress(None, len(names)))
print(pull.fetched)
"""


class Rig:
    """A registry, a store, and pulls from one to the other."""

    def __init__(self, start_registry: Callable[..., Any], folder: Path) -> None:
        self.registry = start_registry()
        self.folder = folder
        self.store = Store(str(folder / "store"))
        self.pauses: list[float] = []

    def manifest(self, name: str = MODEL) -> Manifest:
        """What the registry means by a name."""
        parsed = parse(name)
        return Manifest(self.registry.get(f"/v2/{parsed.namespace}/{parsed.model}/manifests/{parsed.tag}"))

    def lock(self, *names: str) -> dict[str, Any]:
        """A lock of some names, as they are now. The registry is not charged for it."""
        found = {name: lock_entry(self.manifest(name).raw, "registry") for name in names or (MODEL,)}
        self.registry.post("/_double/stats")
        return found

    def fault(self, fault: str, **more: Any) -> None:
        """A fault of the registry."""
        assert self.registry.ask("POST", "/_double/faults", {"fault": fault, **more})[0] < 300

    def bytes(self) -> int:
        """Bytes of blobs that the registry sent."""
        return self.registry.get("/_double/stats")["kinds"].get("blob_range", {}).get("bytes", 0)

    def requests(self) -> int:
        """Requests that the registry saw."""
        return self.registry.get("/_double/stats")["requests"]

    def options(self, **more: Any) -> dict[str, Any]:
        """Options of a pull."""
        return {"sources": [self.registry.url], "upstream": False, "connections": CONNECTIONS, "chunk_size": CHUNK, **more}

    def pull(self, *names: str, lock: dict[str, Any] | None = None, agent: str = "ollama/9.0.0", timeout: float = 5, **more: Any) -> tuple[Sideload, Plan]:
        """A pull in this process. Pauses are noted and not made."""
        client = Http(agent, timeout, 3, self.pauses.append)
        found = Sideload(self.store, lambda: client, Options(**self.options(**more)))
        wanted = [parse(name) for name in names or (MODEL,)]
        plan = found.plan(wanted, Lock(lock or {}), False)
        found.run(plan, Progress(None, len(wanted)))
        self.check_clean()
        return found, plan

    def refused(self, kind: str, *names: str, **more: Any) -> str:
        """The words of a pull that fails in that way; nothing is published."""
        before = set(self.store.names())
        with pytest.raises(FetchError) as caught:
            self.pull(*names, **more)
        assert caught.value.kind == kind, caught.value
        assert set(self.store.names()) == before
        self.check_clean()
        return str(caught.value)

    def start(self, *names: str, lock: dict[str, Any] | None = None, **more: Any) -> subprocess.Popen[str]:
        """A pull in another process."""
        order = {"store": self.store.path, "names": names or [MODEL], "lock": lock or {}, "options": self.options(**more)}
        command = [sys.executable, "-c", PULL, str(ROOT / ".venv/collections"), json.dumps(order)]
        # who runs in the background of a shell ignores SIGINT, and so would this process
        handlers = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=handlers)

    def wait_for_bytes(self, count: int) -> None:
        """Until the registry sent so many."""
        end = time.monotonic() + 10
        while self.bytes() < count and time.monotonic() < end:
            time.sleep(0.01)

    def check_clean(self) -> None:
        """Only whole blobs and whole manifests are where a server looks."""
        for file in os.listdir(self.store.blobs) if os.path.isdir(self.store.blobs) else []:
            assert file.startswith("sha256-") and len(file) == 71, file
        for name, path in self.store.names().items():
            manifest = self.store.read_path(path)
            assert manifest and parse(name.display) == name and not self.store.missing(manifest.layers)

    def check_whole(self, name: str = MODEL) -> None:
        """A model is there with the bytes that its digests name."""
        manifest = self.store.read(parse(name))
        assert manifest
        for layer in manifest.layers:
            assert hashlib.sha256(Path(self.store.blob_path(layer.digest)).read_bytes()).hexdigest() == layer.digest[7:]

    def weights(self, name: str = MODEL) -> Any:
        """The largest layer."""
        return max(self.manifest(name).layers, key=lambda layer: layer.size)


@pytest.fixture
def rig(start_registry: Callable[..., Any], tmp_path: Path) -> Rig:
    """A registry and an empty store."""
    return Rig(start_registry, tmp_path)


@pytest.fixture
def full_disk(rig: Rig) -> Iterator[Callable[[int], None]]:
    """Put the store on a disk of so many bytes."""
    Path(rig.store.path).mkdir()

    def mount(size: int) -> None:
        if os.getuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", rig.store.path], check=False).returncode:
            pytest.skip("mounting a tmpfs needs root")

    yield mount
    if os.path.ismount(rig.store.path):
        subprocess.run(["umount", rig.store.path], check=True)


def test_second_run_asks_and_hashes_nothing(rig: Rig) -> None:
    """Each byte once, and nothing at all the second time."""
    lock = rig.lock()
    first, plan = rig.pull(lock=lock)
    rig.check_whole()
    assert first.fetched == plan.missing_bytes == rig.manifest().size
    rig.registry.post("/_double/stats")
    again, plan = rig.pull(lock=lock)
    assert (rig.requests(), again.fetched, plan.hashed, plan.models[0].changed) == (0, 0, 0, False)


def test_names_without_a_lock(rig: Rig) -> None:
    """The manifest is asked for when there is none, and again only with refresh."""
    rig.pull()
    rig.registry.post("/_double/republish", {"name": MODEL, "seed": 99})
    assert not rig.pull()[1].models[0].changed
    assert rig.pull(refresh=True)[1].models[0].changed
    assert rig.store.read(parse(MODEL)).digest == rig.manifest().digest  # type: ignore[union-attr]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed(rig: Rig, how: signal.Signals) -> None:
    """A pull that is killed or stopped loses at most a chunk on each connection."""
    lock, weights = rig.lock(), rig.weights()
    rig.fault("rate", kind="blob_range", bytes_per_second=1 << 20)
    rig.registry.post("/_double/stats")
    with rig.start(lock=lock) as process:
        rig.wait_for_bytes(weights.size // 2)
        process.send_signal(how)
    assert process.returncode != 0
    rig.check_clean()
    assert rig.store.names() == {} and os.listdir(rig.store.blobs) == []
    rig.registry.ask("DELETE", "/_double/faults")
    sent = rig.bytes()
    again, _plan = rig.pull(lock=lock)
    rig.check_whole()
    assert sent > weights.size // 3
    assert again.fetched <= rig.manifest().size - sent + CONNECTIONS * CHUNK


def test_flipped_byte_is_found_and_replaced(rig: Rig) -> None:
    """Verify finds it, and only that blob is fetched again."""
    lock, weights = rig.lock(), rig.weights()
    rig.pull(lock=lock)
    path = Path(rig.store.blob_path(weights.digest))
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert not rig.pull(lock=lock)[1].corrupt
    pull, plan = rig.pull(lock=lock, verify=True)
    assert plan.corrupt == [weights.digest] and plan.hashed == rig.manifest().size and pull.fetched == weights.size
    rig.check_whole()
    assert rig.store.partials() == {}


def test_adopted_store_is_verified_once(rig: Rig) -> None:
    """Blobs that nobody verified are hashed on the first run, and never again; a short one is replaced in any case."""
    lock, weights = rig.lock(), rig.weights()
    rig.pull(lock=lock)
    shutil.rmtree(rig.store.private)
    assert rig.pull(lock=lock)[1].hashed == rig.manifest().size
    assert rig.pull(lock=lock)[1].hashed == 0
    os.truncate(rig.store.blob_path(weights.digest), weights.size - 1)
    pull, plan = rig.pull(lock=lock)
    assert plan.corrupt == [weights.digest] and pull.fetched == weights.size
    rig.check_whole()


def test_dry_run_touches_nothing(rig: Rig) -> None:
    """No directory, no request; what is bad is told."""
    lock = rig.lock()
    pull = Sideload(rig.store, Http, Options(**rig.options()))
    plan = pull.plan([parse(MODEL)], Lock(lock), True)
    assert plan.models[0].changed and plan.missing_bytes == lock[MODEL]["size"]
    assert rig.requests() == 0 and not os.path.exists(rig.store.path)
    rig.pull(lock=lock)
    weights = rig.weights()
    os.truncate(rig.store.blob_path(weights.digest), 5)
    before = sorted(str(path) for path in Path(rig.store.path).rglob("*"))
    assert pull.plan([parse(MODEL)], Lock(lock), True).corrupt == [weights.digest]
    assert before == sorted(str(path) for path in Path(rig.store.path).rglob("*"))


def test_disk_too_small(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused before the first byte, for all models together, with the numbers."""
    lock = rig.lock(MODEL, "all-minilm:latest")
    # a layer that both have counts once
    size = sum({layer["digest"]: layer["size"] for entry in lock.values() for layer in entry["layers"]}.values())
    monkeypatch.setattr(Store, "free", lambda self: size + 99)
    text = rig.refused("disk", *lock, lock=lock, reserve=100)
    assert rig.requests() == 0 and f"{size + 99} free" in text and "make room" in text and rig.store.path in text
    rig.pull(*lock, lock=lock, reserve=99)


def test_disk_filled_meanwhile(rig: Rig, full_disk: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else took the space: said so, and what is staged stays."""
    full_disk(6 << 20)
    rig.pull()
    lock = rig.lock("all-minilm:latest", "llama3.2:1b")
    monkeypatch.setattr(Store, "free", lambda self: 1 << 40)
    with pytest.raises(FetchError) as caught:
        rig.pull(*lock, lock=lock)
    assert caught.value.kind == "disk" and caught.value.final and "No space left" in str(caught.value)
    assert [name.display for name in rig.store.names()] == ["all-minilm:latest", MODEL]
    rig.check_clean()


def test_disk_filled_in_the_middle(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write fails in the middle: the chunks that were there are not fetched again."""
    lock, written, real = rig.lock(), [0], os.pwrite

    def pwrite(file: int, data: Any, position: int) -> int:
        written[0] += len(data)
        if written[0] > 2 << 20:
            raise OSError(28, "No space left on device")
        return real(file, data, position)

    monkeypatch.setattr(os, "pwrite", pwrite)
    rig.refused("disk", lock=lock)
    monkeypatch.setattr(os, "pwrite", real)
    assert rig.pull(lock=lock)[0].fetched < rig.manifest().size - CHUNK


def test_manifest_not_there(rig: Rig) -> None:
    """One request, no retry."""
    assert "the manifest of smollm2:nope" in rig.refused("not-found", "smollm2:nope")
    assert rig.requests() == 1 and not rig.pauses


def test_blob_not_there(rig: Rig) -> None:
    """The digest and the source are named."""
    lock, weights = rig.lock(), rig.weights()
    rig.fault("status", status=404, digest=weights.digest)
    text = rig.refused("not-found", lock=lock)
    assert weights.digest in text and rig.registry.url in text and not rig.pauses


@pytest.mark.parametrize("fault", [
    {"fault": "status", "status": 500, "count": 3},
    {"fault": "status", "status": 503, "count": 3},
    {"fault": "cut_after_bytes", "bytes": 50_000, "kind": "blob_range", "count": 24},
    {"fault": "status", "status": 503, "count": 2, "kind": "manifest"},
])
def test_recovers(rig: Rig, fault: dict[str, Any]) -> None:
    """What passes is waited for, and what came is not fetched again."""
    rig.fault(**fault)
    pull, _plan = rig.pull()
    rig.check_whole()
    assert rig.pauses or fault.get("kind") == "blob_range"
    assert pull.fetched == rig.store.read(parse(MODEL)).size  # type: ignore[union-attr]


def test_retry_after(rig: Rig) -> None:
    """The server says when."""
    rig.fault("status", status=429, retry_after=7, count=2, kind="manifest")
    rig.pull()
    assert [int(seconds) for seconds in rig.pauses] == [7, 7]


def test_gives_up_in_the_end(rig: Rig) -> None:
    """A server that never recovers: the number of tries is said, the staged chunks stay."""
    lock = rig.lock()
    rig.fault("status", status=503, kind="blob_range")
    assert "gave up after 4 tries" in rig.refused("retries", lock=lock, connections=1)


def test_stall(rig: Rig) -> None:
    """A connection that went silent is given up after the timeout, and the rest comes on another."""
    lock = rig.lock()
    rig.fault("stall_after_bytes", bytes=100_000, seconds=3, kind="blob_range", count=1)
    began = time.monotonic()
    pull, _plan = rig.pull(lock=lock, timeout=0.3)
    rig.check_whole()
    assert time.monotonic() - began < 2.5 and pull.fetched <= rig.manifest().size


def test_too_old(rig: Rig) -> None:
    """412 is final and says what to do."""
    rig.fault("status", status=412, body="this model needs Ollama 9.9.9", kind="manifest")
    text = rig.refused("too-old", sources=[rig.registry.url, DEAD])
    assert "needs Ollama 9.9.9" in text and "newer Ollama" in text and rig.requests() == 1


def test_needs_an_account(start_registry: Callable[..., Any], rig: Rig) -> None:
    """A token realm: only the server has a key."""
    private = start_registry("--token")
    assert "method: api" in rig.refused("unauthorized", sources=[private.url])


def test_wrong_bytes_are_never_published(start_registry: Callable[..., Any], rig: Rig) -> None:
    """A mirror with other bytes: the next source; none other: failure with the staging empty."""
    lock, liar = rig.lock(), start_registry()
    liar.ask("POST", "/_double/faults", {"fault": "wrong_bytes", "kind": "blob_range"})
    text = rig.refused("digest", lock=lock, sources=[liar.url])
    assert "other bytes" in text and rig.store.partials() == {}
    pull, _plan = rig.pull(lock=lock, sources=[liar.url, rig.registry.url])
    rig.check_whole()
    assert pull.fetched >= 2 * lock[MODEL]["size"]


def test_wrong_piece_of_an_earlier_run(rig: Rig) -> None:
    """Resumed and wrong: fetched clean once more from the same source."""
    lock, weights = rig.lock(), rig.weights()
    rig.store.make_directories()
    # three chunks of zeros that the map calls done
    Path(rig.store.part_path(weights.digest)).write_bytes(bytes(weights.size))
    Path(f"{rig.store.part_path(weights.digest)}.map").write_bytes(f"{CHUNK}\n".encode() + b"\1" * 3 + bytes(-(-weights.size // CHUNK) - 3))
    pull, _plan = rig.pull(lock=lock)
    rig.check_whole()
    assert weights.size < pull.fetched < 2 * weights.size + CHUNK


def test_size_differs(rig: Rig) -> None:
    """A source whose blob has another size is not read."""
    manifest = json.loads(rig.manifest().raw)
    manifest["layers"][0]["size"] += CHUNK
    lock = {MODEL: lock_entry(json.dumps(manifest).encode(), "registry")}
    assert "should have" in rig.refused("size", lock=lock)


def test_moved_tag(rig: Rig) -> None:
    """The tag means other content now: the lock decides, byte for byte."""
    lock = rig.lock()
    rig.registry.post("/_double/republish", {"name": MODEL, "seed": 99})
    rig.pull(lock=lock)
    assert rig.store.read(parse(MODEL)).raw.decode() == lock[MODEL]["manifest"]  # type: ignore[union-attr]
    assert rig.manifest().digest != lock[MODEL]["manifest_digest"]


def test_two_pulls_share_a_layer(rig: Rig) -> None:
    """Two processes want the same: each byte comes once, both succeed."""
    lock = rig.lock()
    rig.fault("rate", kind="blob_range", bytes_per_second=2 << 20)
    pulls = [rig.start(lock=lock), rig.start(lock=lock)]
    answers = [pull.communicate(timeout=30) for pull in pulls]
    assert [pull.returncode for pull in pulls] == [0, 0], answers
    rig.check_whole()
    assert sum(int(out) for out, _err in answers) == lock[MODEL]["size"]
    # and what was asked to learn the address
    assert rig.bytes() <= lock[MODEL]["size"] + 10


def test_owner(rig: Rig) -> None:
    """Root pulls into the store of another user: everything is that user's, and links that this user plants lead root nowhere."""
    if os.geteuid() != 0:
        pytest.skip("acting as another user needs root")
    lock, weights = rig.lock(), rig.weights()
    victim = rig.folder / "victim"
    victim.write_bytes(b"precious")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        os.chown(folder, 65534, 65534)
        rig.store = Store(folder)
        with rig.store.as_owner():
            rig.store.make_directories()
        os.symlink(victim, rig.store.part_path(weights.digest))
        os.symlink(victim, f"{rig.store.part_path(weights.digest)}.map")
        with rig.start(lock=lock) as process:
            assert process.communicate(timeout=20) == (f"{lock[MODEL]['size']}\n", "")
        rig.check_whole()
        files = [Path(folder), *Path(folder).rglob("*")]
        assert {(path.stat().st_uid, path.stat().st_gid) for path in files} == {(65534, 65534)}
        assert {oct(path.stat().st_mode & 0o777) for path in files if path.suffix != ".lock"} == {"0o644", "0o755"}
    assert victim.read_bytes() == b"precious" and victim.stat().st_uid == 0


def test_bundle_and_progress_of_root(rig: Rig) -> None:
    """A source and a progress file where only root may go, and the store of another user."""
    if os.geteuid() != 0:
        pytest.skip("acting as another user needs root")
    rig.pull()
    os.chmod(rig.folder, 0o700)
    bundle = rig.store
    progress = Progress(str(rig.folder / "progress"), 1)
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        os.chown(folder, 65534, 65534)
        rig.store = Store(folder)
        pull = Sideload(rig.store, Http, Options(**rig.options(sources=[bundle.path])))
        with rig.store.as_owner():
            pull.run(pull.plan([parse(MODEL)], Lock({}), False), progress)
            assert os.geteuid() == 65534
        rig.check_whole()
    assert json.loads((rig.folder / "progress").read_text(encoding="utf-8"))["models_done"] == 1


def test_manifest_with_a_wrong_size(rig: Rig) -> None:
    """It takes no good blob out of the store, verified or not."""
    rig.pull()
    weights = rig.weights()
    manifest = json.loads(rig.manifest().raw)
    next(layer for layer in manifest["layers"] if layer["digest"] == weights.digest)["size"] = 1
    lock = {"other": lock_entry(json.dumps(manifest).encode(), "registry")}
    for _known in range(2):
        assert "gives a wrong size" in rig.refused("size", "other", lock=lock)
        rig.check_whole()
        shutil.rmtree(rig.store.private)


def test_part_is_never_written_over(rig: Rig) -> None:
    """A part without a map that fits may be a file of somebody else: its bytes stay as they are."""
    rig.store.make_directories()
    layer = rig.weights()
    for raw in (None, b"", b"77\n\1"):
        path, other = Path(rig.store.part_path(layer.digest)), rig.folder / "other"
        path.unlink(missing_ok=True)
        other.write_bytes(bytes(layer.size))
        os.link(other, path)
        if raw is not None:
            Path(f"{path}.map").write_bytes(raw)
        part = Part(rig.store, layer, CHUNK)
        assert not part.open()
        part.write(memoryview(b"new"), 0)
        part.close()
        assert other.read_bytes() == bytes(layer.size) and path.read_bytes()[:3] == b"new"


def test_locked_until_published(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else may touch a part between its verification and its publication, nor its map."""
    publish, drop, held = Store.publish, Part.drop, []

    def check(store: Store, layer: Any) -> None:
        with pytest.raises(BlockingIOError), store.lock(layer.file, wait=False):
            pass
        held.append(layer.digest)

    def publish_checked(store: Store, name: Any, manifest: Manifest, staged: dict[str, str]) -> Any:
        for layer in manifest.layers:
            check(store, layer)
        return publish(store, name, manifest, staged)

    def drop_checked(part: Part) -> None:
        check(rig.store, part.layer)
        drop(part)

    monkeypatch.setattr(Store, "publish", publish_checked)
    monkeypatch.setattr(Part, "drop", drop_checked)
    rig.pull()
    assert len(held) == 3 * len(rig.manifest().layers)


def test_bad_blob_stays_until_it_can_be_replaced(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """No room, or nobody who has it: the model that was there is still there."""
    lock, weights = rig.lock(), rig.weights()
    rig.pull(lock=lock)
    path = Path(rig.store.blob_path(weights.digest))
    path.write_bytes(b"\0" * weights.size)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "free", lambda self: 0)
        rig.refused("disk", lock=lock, verify=True)
    rig.refused("not-found", lock=lock, verify=True, sources=[str(rig.folder / "none")])
    assert path.read_bytes() == b"\0" * weights.size
    assert rig.pull(lock=lock)[1].corrupt == [weights.digest]
    rig.check_whole()
    assert rig.store.partials() == {}


@pytest.mark.parametrize("times", [1, 9])
def test_deleted_during_the_pull(rig: Rig, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """A server deletes a blob while the manifest is written: fetched again, and an error when that goes on."""
    lock, weights, write = rig.lock(), rig.weights(), Store.write

    def write_and_delete(store: Store, path: str, data: bytes) -> None:
        nonlocal times
        write(store, path, data)
        if times and path.startswith(store.manifests):
            times -= 1
            os.unlink(store.blob_path(weights.digest))

    monkeypatch.setattr(Store, "write", write_and_delete)
    if times == 1:
        rig.pull(lock=lock)
        rig.check_whole()
    else:
        with pytest.raises(FetchError, match=f"{weights.digest} was deleted during the pull"):
            rig.pull(lock=lock)


@pytest.fixture
def start_raw() -> Iterator[Callable[..., str]]:
    """Start servers that answer with raw bytes: C(answer) gets the first line, the range, and the socket. Its URL comes back."""
    running = []

    def start(answer: Callable[[str, tuple[int, int], Any], None]) -> str:
        class Handler(socketserver.StreamRequestHandler):
            """One request."""

            def handle(self) -> None:
                first = self.rfile.readline().decode()
                head = b"".join(iter(self.rfile.readline, b"\r\n")).decode("latin-1")
                found = re.search("(?i)range: bytes=([0-9]+)-([0-9]+)", head)
                with contextlib.suppress(OSError):
                    answer(first, (int(found[1]), int(found[2])) if found else (0, 0), self.connection)

        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        server.block_on_close = False
        running.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("head", [
    b"302 Found\r\nLocation: http://[bad/",
    b"302 Found\r\nLocation: /bl\xf6b",
    b"302 Found\r\nLocation: /a b",
    b"302 Found\r\nLocation: http://host:99999/x?signature=SECRET",
    b"503 No\r\nRetry-After: Mon, 99999999999999999999 Jan 2020 00:00:00 GMT",
    b"206 Partial\r\nContent-Range: bytes 0-0/" + b"9" * 5000,
])
def test_hostile_source(rig: Rig, start_raw: Callable[..., str], head: bytes) -> None:
    """Whatever it answers, it is followed by the next."""
    url = start_raw(lambda _first, _range, connection: connection.sendall(b"HTTP/1.1 " + head + b"\r\nContent-Length: 0\r\n\r\n"))
    rig.pull(lock=rig.lock(), sources=[url, rig.registry.url])
    rig.check_whole()
    if b"206" not in head:
        rig.pull(refresh=True, sources=[url, rig.registry.url])
    with pytest.raises(FetchError) as caught:
        rig.pull("all-minilm:latest", lock=rig.lock("all-minilm:latest"), sources=[url])
    assert "SECRET" not in str(caught.value)


def test_drip(rig: Rig, start_raw: Callable[..., str]) -> None:
    """A source that sends a byte now and then is given up, and one that failed finally does not wait for its other connections."""
    size = rig.weights().size

    def drip(_first: str, wanted: tuple[int, int], connection: Any) -> None:
        start, end = wanted
        if start and not only_drip:
            connection.sendall(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")
            return
        connection.sendall(f"HTTP/1.1 206 P\r\nContent-Range: bytes {start}-{end}/{size}\r\nContent-Length: {end - start + 1}\r\n\r\n".encode())
        for _byte in range(start, end + 1):
            connection.sendall(b"z")
            time.sleep(0.1)

    url, lock = start_raw(drip), rig.lock()
    for only_drip, timeout in ((True, 0.4), (False, 60)):
        shutil.rmtree(rig.store.path, ignore_errors=True)
        began = time.monotonic()
        rig.pull(lock=lock, sources=[url, rig.registry.url], timeout=timeout)
        rig.check_whole()
        assert time.monotonic() - began < 10


def test_head_that_drips(start_raw: Callable[..., str]) -> None:
    """Each byte of a head begins the timeout of the socket anew."""
    def drip(_first: str, _range: tuple[int, int], connection: Any) -> None:
        for _byte in range(100):
            connection.sendall(b"H")
            time.sleep(0.1)

    began = time.monotonic()
    with pytest.raises(FetchError):
        Http(timeout=0.3, retries=0).get(start_raw(drip))
    assert time.monotonic() - began < 3


def test_chunk_of_a_negative_size(start_raw: Callable[..., str]) -> None:
    """Whatever length is told, no more than the limit is read."""
    sent = []

    def answer(_first: str, _range: tuple[int, int], connection: Any) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n")
        for _piece in range(200):
            connection.sendall(bytes(1 << 20))
            sent.append(1)

    with pytest.raises(FetchError, match="negative size"):
        Http(retries=0, timeout=5).get(start_raw(answer))
    # and what the sockets hold
    assert len(sent) < 50


def test_kept_connection(start_registry: Callable[..., Any]) -> None:
    """A body that was read to its end leaves the connection to the next request."""
    url = f"{start_registry().url}/v2/library/smollm2/manifests/135m"
    connection, sockets = Connection(Http()), set()
    for _request in range(3):
        response, buffer = connection.ask(url), memoryview(bytearray(1 << 20))
        while receive(response, buffer):
            pass
        sockets.add(id(connection._connection.sock))  # type: ignore[union-attr]  # pylint: disable=protected-access
    assert len(sockets) == 1


@pytest.mark.parametrize(("url", "text"), [
    ("https://me:secret@host:1/x?signature=secret", "https://host:1/x"),
    ("https://me:sec/ret@host/x#secret", "https://host/x"),
    ("http://me:secret@[bad/x?secret", "http://[bad/x"),
    ("me:secret@host", "host"),
    ("", ""),
])
def test_shown(url: str, text: str) -> None:
    """Neither a password nor a signature, of whatever it is."""
    assert shown(url) == text
    if "host:1" not in url:
        with pytest.raises(ValueError, match="is no source") as caught:
            check_source(f"{url}:99999" if url.startswith("https") else url)
        assert "secret" not in str(caught.value)


def test_refresh_asks_the_registry_first(start_registry: Callable[..., Any], rig: Rig) -> None:
    """A mirror holds what the tag meant before. It is asked when the registry cannot be, and not when the registry knows no such tag."""
    name, stale = f"{rig.registry.host}/library/{MODEL}", rig.folder / "stale"
    rig.pull(name, sources=[], upstream=True, insecure=True)
    shutil.copytree(rig.store.path, stale)
    rig.registry.post("/_double/republish", {"name": MODEL, "seed": 99})
    more: dict[str, Any] = {"sources": [str(stale)], "refresh": True, "upstream": True, "insecure": True}
    assert rig.pull(name, **more)[1].models[0].changed
    assert rig.store.read(parse(name)).digest == rig.manifest().digest  # type: ignore[union-attr]
    rig.fault("status", status=404, kind="manifest", count=1)
    rig.refused("not-found", name, **more)
    rig.fault("status", status=503, kind="manifest")
    assert rig.pull(name, **more)[1].models[0].changed


def test_address_that_expires(start_registry: Callable[..., Any], rig: Rig) -> None:
    """The registry hands out signed addresses for a moment: asked again, and no retry is wasted."""
    data = start_registry()
    rig.registry = start_registry("--redirect", data.host)
    lock = rig.lock()
    rig.fault("expire_seconds", seconds=0.5)
    data.ask("POST", "/_double/faults", {"fault": "rate", "bytes_per_second": 512 << 10})
    rig.pull(lock=lock)
    rig.check_whole()
    statuses = data.get("/_double/stats")["statuses"]
    assert statuses["403"] >= 1 and rig.registry.get("/_double/stats")["kinds"]["blob_range"]["requests"] > len(rig.manifest().layers)


def test_mirror_down(rig: Rig) -> None:
    """A dead source is followed by the next, and does not cost its retries for each blob."""
    rig.pull(sources=[DEAD, rig.registry.url])
    rig.check_whole()
    assert len(rig.pauses) <= 1


def test_mirror_without_the_model(rig: Rig) -> None:
    """A directory that has nothing: the next one."""
    rig.pull(sources=[str(rig.folder / "empty"), rig.registry.url])
    rig.check_whole()


def test_all_sources_down(rig: Rig) -> None:
    """A clean failure that names them, what is staged stays and is used later."""
    lock = rig.lock()
    rig.fault("rate", kind="blob_range", bytes_per_second=1 << 20)
    with rig.start(lock=lock) as process:
        rig.wait_for_bytes(2 << 20)
        process.kill()
    rig.registry.ask("DELETE", "/_double/faults")
    text = rig.refused("unreachable", lock=lock, sources=[DEAD, "http://127.0.0.1:10"])
    assert "127.0.0.1:9" in text and "127.0.0.1:10" in text
    assert rig.store.partials()
    assert rig.pull(lock=lock)[0].fetched < lock[MODEL]["size"]
    rig.check_whole()


def test_no_source_at_all(rig: Rig) -> None:
    """Neither sources nor upstream: a sentence."""
    assert "name sources, or set upstream" in rig.refused("not-found", sources=[])


def test_bundle(rig: Rig) -> None:
    """A directory that is laid out as a store gives manifests and blobs, also of other hosts; nothing is asked over the network."""
    rig.pull()
    bundle, rig.store = rig.store, Store(str(rig.folder / "other"))
    shutil.copytree(os.path.join(bundle.manifests, "registry.ollama.ai"), os.path.join(bundle.manifests, "example.com"))
    rig.registry.post("/_double/stats")
    pull, _plan = rig.pull("SmolLM2:135m", "example.com/library/smollm2:135m", sources=[bundle.path])
    assert rig.requests() == pull.fetched == 0 and len(rig.store.names()) == 2


def test_bad_bundle(rig: Rig) -> None:
    """Wrong bytes in a bundle are not taken either."""
    rig.pull()
    bundle, rig.store = rig.store, Store(str(rig.folder / "other"))
    path = Path(bundle.blob_path(rig.weights().digest))
    path.write_bytes(bytes(path.stat().st_size))
    assert "other bytes" in rig.refused("digest", sources=[bundle.path])
    rig.pull(sources=[bundle.path, rig.registry.url])
    rig.check_whole()


def test_other_registries_are_not_asked_of_a_mirror(rig: Rig) -> None:
    """A mirror knows one registry only: for manifests of others it is not asked, for blobs it is."""
    name = f"{rig.registry.host}/library/{MODEL}"
    pull, _plan = rig.pull(name, sources=[DEAD], upstream=True, insecure=True)
    assert pull.fetched and len(rig.pauses) == 1
    rig.check_whole(name)


def test_spelling_on_disk_stays(rig: Rig) -> None:
    """A manifest in another spelling is the same model and is replaced where it is."""
    rig.pull()
    folder = Path(rig.store.manifest_path(parse(MODEL))).parent
    (folder / "135m").rename(folder / "135M")
    rig.registry.post("/_double/republish", {"name": MODEL, "seed": 99})
    rig.pull(lock=rig.lock())
    assert os.listdir(folder) == ["135M"]


def test_truncated_manifest_is_replaced(rig: Rig) -> None:
    """A manifest that is none hides the model from the server: it is written anew."""
    lock = rig.lock()
    rig.pull(lock=lock)
    Path(rig.store.manifest_path(parse(MODEL))).write_bytes(b"{")
    pull, plan = rig.pull(lock=lock)
    assert plan.models[0].changed and pull.fetched == 0
    rig.check_whole()


def test_old_blobs_are_freshened(rig: Rig) -> None:
    """A server that starts deletes old blobs without a manifest: those that were there get the time of the pull, and stay verified."""
    lock = rig.lock()
    rig.pull(lock=lock)
    path = Path(rig.store.blob_path(rig.weights().digest))
    os.utime(path, (1, 1))
    Path(rig.store.manifest_path(parse(MODEL))).unlink()
    rig.pull(lock=lock)
    assert time.time() - path.stat().st_mtime < 60 and rig.pull(lock=lock)[1].hashed == 0


def test_models_appear_one_by_one(rig: Rig) -> None:
    """The first is there although the second cannot be had."""
    lock = rig.lock(MODEL, "all-minilm:latest")
    rig.fault("status", status=404, digest=rig.weights("all-minilm:latest").digest)
    with pytest.raises(FetchError):
        rig.pull(*lock, lock=lock)
    rig.check_whole()
    assert [name.display for name in rig.store.names()] == [MODEL]


def test_rate(rig: Rig) -> None:
    """Not faster than told, on all connections together."""
    lock = rig.lock("all-minilm:latest")
    size = lock["all-minilm:latest"]["size"]
    began = time.monotonic()
    rig.pull("all-minilm:latest", lock=lock, rate=size)
    assert 0.7 < time.monotonic() - began < 3


def test_progress(rig: Rig) -> None:
    """The file is whole JSON at any time and ends with everything done."""
    path, seen = rig.folder / "progress", []
    lock = rig.lock()
    pull = Sideload(rig.store, Http, Options(**rig.options(rate=6 << 20)))
    plan = pull.plan([parse(MODEL)], Lock(lock), False)
    worker = threading.Thread(target=functools.partial(pull.run, plan, Progress(str(path), 1)))
    worker.start()
    while worker.is_alive():
        seen.append(json.loads(path.read_text(encoding="utf-8")))
        time.sleep(0.02)
    last = json.loads(path.read_text(encoding="utf-8"))
    assert last["completed"] == last["total"] == lock[MODEL]["size"] and last["models_done"] == last["models"] == 1 and last["model"] == MODEL
    assert any(0 < state["completed"] < state["total"] for state in seen)


def test_progress_tells_that_it_waits(rig: Rig) -> None:
    """While another pull has a layer, and not any more afterwards."""
    path, lock, weights = rig.folder / "progress", rig.lock(), rig.weights()
    rig.store.make_directories()
    pull = Sideload(rig.store, Http, Options(**rig.options()))
    plan = pull.plan([parse(MODEL)], Lock(lock), False)
    worker = threading.Thread(target=functools.partial(pull.run, plan, Progress(str(path), 1)))
    with rig.store.lock(weights.file):
        worker.start()
        end = time.monotonic() + 5
        while "waits for another pull" not in path.read_text(encoding="utf-8") and time.monotonic() < end:
            time.sleep(0.02)
        assert "waits for another pull" in path.read_text(encoding="utf-8") and rig.store.names() == {}
    worker.join(10)
    rig.check_whole()
    assert json.loads(path.read_text(encoding="utf-8"))["model"] == MODEL


def test_https(start_registry: Callable[..., Any], rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Certificates are checked against the trust store; with an authority that it knows, mirrors and registries work over TLS."""
    openssl = shutil.which("openssl")
    if not openssl:
        pytest.skip("makes its certificate with openssl, which is not here")
    pem, key = str(rig.folder / "cert.pem"), str(rig.folder / "key.pem")
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=registry"]
    subprocess.run([*command, "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", pem], check=True, capture_output=True, timeout=20)
    host = start_registry("--cert", pem, "--key", key).host
    assert "trust store" in rig.refused("tls", sources=[f"https://{host}"]) and not rig.pauses
    monkeypatch.setenv("SSL_CERT_FILE", pem)
    rig.pull(sources=[f"https://{host}"])
    rig.pull(f"{host}/library/{MODEL}", sources=[], upstream=True)
    rig.check_whole()


def test_empty_blob(rig: Rig) -> None:
    """A layer of no bytes needs no source."""
    digest = f"sha256:{hashlib.sha256(b'').hexdigest()}"
    manifest = json.dumps({"layers": [{"digest": digest, "size": 0, "mediaType": "application/vnd.ollama.image.license"}]}).encode()
    rig.pull(lock={MODEL: lock_entry(manifest, "registry")})
    assert rig.store.blob_size(digest) == 0 and rig.requests() == 0


@pytest.mark.parametrize(("code", "words"), [(9, "check the clock"), (10, "check the clock"), (18, "trust store")])
def test_certificate(code: int, words: str) -> None:
    """A certificate that is not accepted is final for its host; one that is out of its time may mean that the host's clock is."""
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = code, "because"
    found = connect_error("mirror.example", error, None)
    assert isinstance(found, FetchError) and found.kind == "tls" and words in str(found)


@pytest.mark.parametrize(("value", "seconds"), [("7", 7), ("99999", 120), ("Thu, 01 Jan 1970 00:00:00 GMT", 0), ("soon", None), (None, None)])
def test_retry_after_header(value: str | None, seconds: float | None) -> None:
    """Seconds or a date, and not for ever."""
    assert retry_after(value) == seconds
    assert 50 < (retry_after(email.utils.formatdate(time.time() + 60, usegmt=True)) or 0) <= 60


def test_never_from_https_to_http() -> None:
    """Nor to anything that is not HTTP; what is shown holds no password and no signature."""
    assert redirected("https://a/x", "/y") == "https://a/y" and redirected("http://a/x", "https://b/y") == "https://b/y"
    for target in ("http://b/y", "file:///etc/passwd", None):
        with pytest.raises(FetchError) as caught:
            redirected("https://me:secret@a/x?signature=1", target)
        assert caught.value.kind == "redirect" and "secret" not in str(caught.value) and "signature" not in str(caught.value)


def test_proxy(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy of the environment is used with its name and password, and not for the hosts that the environment excepts."""
    asked: list[tuple[str, str]] = []

    class Proxy(http.server.BaseHTTPRequestHandler):
        """Refuses everything."""

        def do_GET(self) -> None:  # pylint: disable=invalid-name
            """Note what was asked for."""
            asked.append((self.path, self.headers.get("Proxy-Authorization", "")))
            self.send_error(404)

        do_CONNECT = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        for variable in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(variable, f"http://me:secret@127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("no_proxy", "")
        for url, kind in (("http://mirror.example/x", "not-found"), ("https://mirror.example/x", "proxy")):
            with pytest.raises(FetchError) as caught:
                Http().get(url)
            assert caught.value.kind == kind and "secret" not in str(caught.value)
        # a mirror is a host of the fleet
        rig.pull()
        for proxies, kind in (({}, "unreachable"), ({"https": "http://127.0.0.1:10"}, "unreachable"), ({"http": "socks5://me:secret@x"}, "proxy")):
            with pytest.raises(FetchError) as caught:
                Http(retries=0, proxies=proxies).get(DEAD)
            assert caught.value.kind == kind and "secret" not in str(caught.value)
        server.shutdown()
    assert [path for path, _pair in asked] == ["http://mirror.example/x", "mirror.example:443"]
    assert {pair for _path, pair in asked} == {"Basic bWU6c2VjcmV0"}
