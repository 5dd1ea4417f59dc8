"""The store on disk."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpufleet.ollama.plugins.module_utils import _store
from ansible_collections.gpufleet.ollama.plugins.module_utils._manifests import Layer, Manifest, ManifestError
from ansible_collections.gpufleet.ollama.plugins.module_utils._names import parse
from ansible_collections.gpufleet.ollama.plugins.module_utils._store import Store, sha256_file


def digest_of(data: bytes) -> str:
    """sha256:<hex>"""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def manifest_of(*blobs: bytes) -> Manifest:
    """A manifest with layers of this content."""
    layers = [{"mediaType": "application/vnd.ollama.image.model", "digest": digest_of(data), "size": len(data)} for data in blobs]
    return Manifest(json.dumps({"schemaVersion": 2, "layers": layers}).encode())


def put(store: Store, name: str, *blobs: bytes) -> Manifest:
    """A model, as the puller puts it there."""
    store.make_directories()
    manifest = manifest_of(*blobs)
    staged = {}
    for data in blobs:
        path = store.part_path(digest_of(data))
        Path(path).write_bytes(data)
        staged[digest_of(data)] = path
    store.publish(parse(name), manifest, staged)
    return manifest


@pytest.fixture(name="store")
def make_store(tmp_path: Path) -> Store:
    """A store that does not exist yet."""
    return Store(str(tmp_path / "models"))


def test_reading_makes_nothing(store: Store) -> None:
    """Of a store that is not there everything can be asked."""
    layer = Layer(digest_of(b"x"), 1, "model")
    assert (store.names(), store.read(parse("a")), store.blob_size(layer.digest), store.missing([layer])) == ({}, None, None, [layer])
    assert (store.used(), store.orphans(), store.partials(), store.bytes(), store.staged_bytes([layer])) == ((set(), []), {}, {}, 0, 0)
    assert store.unverified([layer]) == [] and store.free() > 0 and store.owner() == (os.geteuid(), os.getegid())
    store.remember([layer.digest])
    assert not os.path.exists(store.path)


def test_publish(store: Store) -> None:
    """Blobs and manifest are there, in the modes that others need, with the present time, and nothing is left of the staging."""
    mask = os.umask(0o077)
    try:
        manifest = put(store, "llama3.2:1b", b"weights", b"template")
    finally:
        os.umask(mask)
    path = os.path.join(store.manifests, "registry.ollama.ai/library/llama3.2/1b")
    assert store.names() == {parse("llama3.2:1b"): path} and Path(path).read_bytes() == manifest.raw
    found = store.read(parse("LLaMA3.2:1B"))
    assert found and found.digest == manifest.digest and store.missing(manifest.layers) == [] and store.bytes() == 15
    for folder, _folders, files in os.walk(store.path):
        assert os.stat(folder).st_mode & 0o777 == 0o755, folder
        assert all(os.stat(os.path.join(folder, file)).st_mode & 0o777 == 0o644 for file in files if not file.endswith(".lock"))
    assert store.partials() == {} and [file for file in os.listdir(store.staging) if not file.endswith(".lock")] == []
    assert store.unverified(manifest.layers) == []


def test_publish_freshens_what_was_there(store: Store) -> None:
    """A blob that was there may be older than the hour after which a starting server deletes it; it stays verified."""
    manifest = put(store, "a", b"weights")
    path = store.blob_path(manifest.layers[0].digest)
    os.utime(path, (1, 1))
    store.remember([manifest.layers[0].digest])
    store.publish(parse("b"), manifest, {})
    assert time.time() - os.stat(path).st_mtime < 60 and store.unverified(manifest.layers) == []
    # one that was never verified is not verified by that
    other = b"other"
    Path(store.blob_path(digest_of(other))).write_bytes(other)
    store.publish(parse("c"), manifest_of(other), {})
    assert store.unverified(manifest_of(other).layers) == manifest_of(other).layers


def test_spelling(store: Store) -> None:
    """Names are matched without case, and keep the spelling that is there."""
    put(store, "Mirror:5000/Lib/LLaMA:Q4", b"1")
    assert store.manifest_path(parse("mirror:5000/lib/llama:q4")) == os.path.join(store.manifests, "Mirror:5000/Lib/LLaMA/Q4")
    assert store.manifest_path(parse("mirror:5000/lib/llama:new")) == os.path.join(store.manifests, "Mirror:5000/Lib/LLaMA/new")
    put(store, "mirror:5000/lib/llama:q4", b"2")
    assert len(store.names()) == 1


def test_foreign_files(store: Store) -> None:
    """What lies at another depth is no model; a file that is no manifest is named, and keeps blobs from being taken for unused."""
    put(store, "a", b"weights")
    lost = Path(store.blobs, f"sha256-{'0' * 64}")
    lost.write_bytes(b"lost")
    Path(store.manifests, "README").write_text("x", encoding="utf-8")
    deep = Path(store.manifests, "h/n/m/t/deep")
    deep.mkdir(parents=True)
    (deep / "x").write_text("x", encoding="utf-8")
    assert len(store.names()) == 1 and store.orphans() == {f"sha256:{'0' * 64}": 4} and store.bytes() == 11
    broken = Path(store.manifests, "registry.ollama.ai/library/a/broken")
    broken.write_bytes(b"")
    assert store.used()[1] == [str(broken)] and store.orphans() == {}
    with pytest.raises(ManifestError, match=f"{broken}: this is no manifest"):
        store.read(parse("a:broken"))
    assert store.read(parse("a")) and store.read(parse("h/n/m:t")) is None


def test_partials(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What downloads left, with the bytes that it takes on disk; blobs are none."""
    put(store, "a", b"weights")
    names = [f"sha256-{'1' * 64}{end}" for end in ("-partial", "-partial-0", ".tmp")]
    for name in names:
        Path(store.blobs, name).write_bytes(b"x" * 5000)
    sparse = Path(store.part_path(f"sha256:{'2' * 64}"))
    with sparse.open("wb") as file:
        file.truncate(1 << 30)
    found = store.partials()
    assert set(found) == {*(os.path.join(store.blobs, name) for name in names), str(sparse)}
    assert found[os.path.join(store.blobs, names[0])] >= 5000 and found[str(sparse)] == 0
    assert store.staged_bytes([Layer(f"sha256:{'2' * 64}", 1 << 30, "model")]) == 0 and store.orphans() == {}
    # one that is gone before it is looked at
    listdir = os.listdir
    monkeypatch.setattr(_store.os, "listdir", lambda folder: [*listdir(folder), f"sha256-{'3' * 64}-partial", f"sha256-{'3' * 64}"])
    assert store.partials() == found and store.orphans() == {}


def test_staged_bytes_are_at_most_the_layer(store: Store) -> None:
    """A block more than the layer is no byte more."""
    store.make_directories()
    layer = Layer(digest_of(b"abc"), 3, "model")
    Path(store.part_path(layer.digest)).write_bytes(b"abc")
    assert store.staged_bytes([layer, Layer(digest_of(b"none"), 4, "model")]) == 3


def test_missing_by_size(store: Store) -> None:
    """A blob of another size is as good as none."""
    manifest = put(store, "a", b"weights", b"template")
    Path(store.blob_path(digest_of(b"weights"))).write_bytes(b"short")
    assert store.missing(manifest.layers) == [manifest.layers[0]]


def test_verified_journal(store: Store) -> None:
    """What was touched since is not verified; a damaged journal verifies nothing; blobs that are gone are forgotten."""
    manifest = put(store, "a", b"weights", b"template")
    os.utime(store.blob_path(manifest.layers[0].digest), ns=(1, 1))
    assert store.unverified(manifest.layers) == [manifest.layers[0]]
    store.remember([manifest.layers[0].digest])
    assert store.unverified(manifest.layers) == []
    os.unlink(store.blob_path(manifest.layers[1].digest))
    assert store.unverified(manifest.layers) == []
    store.remember([manifest.layers[0].digest])
    journal = Path(store.private, "verified.json")
    assert list(json.loads(journal.read_text(encoding="utf-8"))) == [manifest.layers[0].digest]
    for text in ("", "{", "[]", '{"x": 1}'):
        journal.write_text(text, encoding="utf-8")
        assert store.unverified(manifest.layers) == [manifest.layers[0]]
    store.remember([manifest.layers[0].digest])
    assert store.unverified(manifest.layers) == []


def test_write_is_whole_or_not_at_all(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk leaves the old file and no temporary one."""
    store.make_directories()
    path = os.path.join(store.private, "x.json")
    store.write(path, b"old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(_store.os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            store.write(path, b"new")
    assert Path(path).read_bytes() == b"old" and os.listdir(store.staging) == []


def _hold(path: str, pipe: Any) -> None:
    with Store(path).lock("x"):
        pipe.send("held")
        pipe.recv()


def test_lock(store: Store) -> None:
    """Another process waits, and gets the lock when the holder is gone, even when it was killed."""
    store.make_directories()
    ours, theirs = multiprocessing.Pipe()
    holder = multiprocessing.get_context("fork").Process(target=_hold, args=(store.path, theirs))
    holder.start()
    assert ours.poll(10) and ours.recv() == "held"
    waiting, told = multiprocessing.Pipe()
    second = multiprocessing.get_context("fork").Process(target=_hold, args=(store.path, told))
    second.start()
    assert not waiting.poll(0.3)
    holder.kill()
    assert waiting.poll(10) and waiting.recv() == "held"
    waiting.send("go on")
    for process in (holder, second):
        process.join(10)
    with store.lock("x"), store.lock("y"):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_everything_belongs_to_the_owner(store: Store) -> None:
    """Root writes for the user whose store it is, the locks and the directories too."""
    os.makedirs(store.blobs)
    os.chown(store.blobs, 12345, 12346)
    put(store, "h.x/n/m:t", b"weights")
    for folder, _folders, files in os.walk(store.path):
        paths = [os.path.join(folder, file) for file in files] + ([folder] if folder != store.path else [])
        assert {(os.stat(path).st_uid, os.stat(path).st_gid) for path in paths} <= {(12345, 12346)}, folder
    assert list(store.names()) == [parse("h.x/n/m:t")]


def test_set_aside(store: Store) -> None:
    """A corrupt blob leaves the blobs and can still be looked at."""
    manifest = put(store, "a", b"weights")
    path = store.set_aside(manifest.layers[0].digest)
    assert Path(path).read_bytes() == b"weights" and path.startswith(store.private) and store.missing(manifest.layers) == manifest.layers


def test_sha256_file(tmp_path: Path) -> None:
    """Of files longer than a piece as well, and of an empty one."""
    for data in (b"", b"x", b"x" * (_store.BUFFER * 2 + 7)):
        (tmp_path / "x").write_bytes(data)
        assert sha256_file(str(tmp_path / "x")) == digest_of(data)
