"""The store on disk."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Any, Iterator

import pytest

from ansible_collections.gpufleet.ollama.plugins.module_utils import _store
from ansible_collections.gpufleet.ollama.plugins.module_utils._manifests import MAX_BYTES, Layer, Manifest, ManifestError
from ansible_collections.gpufleet.ollama.plugins.module_utils._names import parse
from ansible_collections.gpufleet.ollama.plugins.module_utils._store import Store, StoreError, as_root, open_file, sha256_file


OWNER = (12345, 12346)


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
    assert store.publish(parse(name), manifest, staged) == []
    return manifest


def remember(store: Store, manifest: Manifest) -> None:
    """Note the blobs of a manifest as verified, as they are now."""
    store.remember({layer.digest: identity for layer in manifest.layers if (identity := store.identity(layer.digest))})


@pytest.fixture(name="owned")
def make_owned() -> Iterator[Store]:
    """An empty store of another user, in a place that this user can reach."""
    if os.geteuid() != 0:
        pytest.skip("only root can act as another user")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        store = Store(os.path.join(folder, "models"))
        os.makedirs(store.blobs)
        for path in (store.path, store.blobs):
            os.chown(path, *OWNER)
        yield store


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
    store.remember({})
    store.remove(parse("a"))
    store.tidy()
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
    remember(store, manifest)
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


def test_what_cannot_be_read_is_not_taken_for_gone(owned: Store) -> None:
    """The models of a directory that is closed to the reader are still there: their blobs are nobody's to delete."""
    with owned.as_owner():
        put(owned, "a", b"weights")
        put(owned, "b", b"others")
    os.chmod(os.path.join(owned.manifests, "registry.ollama.ai/library/b"), 0o700)
    os.chown(os.path.join(owned.manifests, "registry.ollama.ai/library/b"), 0, 0)
    with owned.as_owner():
        for ask in (owned.names, owned.used, owned.orphans):
            with pytest.raises(PermissionError):
                ask()


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
    remember(store, manifest)
    assert store.unverified(manifest.layers) == []
    os.unlink(store.blob_path(manifest.layers[1].digest))
    assert store.unverified(manifest.layers) == []
    remember(store, manifest)
    journal = Path(store.private, "verified.json")
    assert list(json.loads(journal.read_text(encoding="utf-8"))) == [manifest.layers[0].digest]
    for text in ("", "{", "[]", '{"x": 1}', "[" * 100_000, " " * (MAX_BYTES + 1)):
        journal.write_text(text, encoding="utf-8")
        assert store.unverified(manifest.layers) == [manifest.layers[0]]
    remember(store, manifest)
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


def test_everything_belongs_to_the_owner(owned: Store) -> None:
    """Root writes as the user whose store it is, and is root again afterwards, also after an error."""
    groups = os.getgroups()
    with owned.as_owner(), owned.as_owner():
        assert (os.geteuid(), os.getegid(), os.getgroups()) == (*OWNER, [])
        put(owned, "h.x/n/m:t", b"weights")
        with as_root():
            assert os.geteuid() == 0
        assert os.geteuid() == OWNER[0]
    with pytest.raises(ValueError), owned.as_owner():
        raise ValueError
    assert (os.geteuid(), os.getegid(), os.getgroups()) == (0, 0, groups)
    for folder, _folders, files in os.walk(owned.path):
        paths = [folder, *(os.path.join(folder, file) for file in files)]
        assert {(os.stat(path).st_uid, os.stat(path).st_gid) for path in paths} == {OWNER}, folder
    assert list(owned.names()) == [parse("h.x/n/m:t")]


def test_root_is_not_led_elsewhere(owned: Store, tmp_path: Path) -> None:
    """The owner of the store puts links where root would write: nothing of root's is written or given away."""
    victim = tmp_path / "victim"
    victim.write_text("precious", encoding="utf-8")
    with owned.as_owner():
        owned.make_directories()
    os.symlink(victim, os.path.join(owned.staging, "x.lock"))
    with owned.as_owner(), pytest.raises(OSError, match="no regular file"), owned.lock("x"):
        pass
    # as a whole directory, too
    os.rename(owned.manifests, f"{owned.manifests}.old")
    os.symlink(tmp_path, owned.manifests)
    with owned.as_owner(), pytest.raises(PermissionError):
        put(owned, "a", b"weights")
    os.rename(owned.blobs, f"{owned.blobs}.old")
    os.symlink("/usr", owned.blobs)
    os.chown(owned.blobs, *OWNER, follow_symlinks=False)
    assert owned.owner() == OWNER
    status = victim.stat()
    assert (status.st_uid, victim.read_text(encoding="utf-8"), os.listdir(tmp_path)) == (0, "precious", ["victim"])


def test_pipes_do_not_block(store: Store) -> None:
    """A pipe where a file should be is an error or nothing, and nobody waits for it."""
    manifest = put(store, "a", b"weights")
    for path in (store.part_path("x"), os.path.join(store.staging, "x.lock"), store.manifest_path(parse("a:b")), store.blob_path(digest_of(b"y"))):
        os.mkfifo(path)
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
        with pytest.raises(OSError, match="no regular file"):
            open_file(store.part_path("x"), flags)
    with pytest.raises(OSError, match="no regular file"), store.lock("x"):
        pass
    with pytest.raises(ManifestError, match="no regular file"):
        store.read(parse("a:b"))
    with pytest.raises(OSError, match="no regular file"):
        sha256_file(store.blob_path(digest_of(b"y")))
    journal = os.path.join(store.private, "verified.json")
    os.unlink(journal)
    os.mkfifo(journal)
    assert store.unverified(manifest.layers) == manifest.layers


def test_locks_are_private(store: Store) -> None:
    """Who can open a lock can hold it, so nobody else can; those of earlier versions are mended. Who measures the store sees what is there."""
    store.make_directories()
    os.chmod(store.staging, 0o700)
    Path(store.staging, "x.lock").touch(0o644)
    store.make_directories()
    with store.lock("x"), store.lock("y"):
        assert os.stat(store.staging).st_mode & 0o777 == 0o755
        assert {os.stat(os.path.join(store.staging, file)).st_mode & 0o777 for file in os.listdir(store.staging)} == {0o600}


def test_waiting_is_told(store: Store) -> None:
    """Now and then while another holds the lock, or at once."""
    store.make_directories()
    holder, told = store.lock("x"), []
    holder.__enter__()  # pylint: disable=unnecessary-dunder-call

    def waiting() -> None:
        told.append(1)
        holder.__exit__(None, None, None)

    with pytest.raises(BlockingIOError), store.lock("x", wait=False):
        pass
    with store.lock("x", waiting):
        assert told == [1]


def test_long_manifest(store: Store) -> None:
    """A file that is too long for a manifest is not read."""
    put(store, "a", b"weights")
    os.truncate(store.manifest_path(parse("a")), 1 << 40)
    with pytest.raises(ManifestError, match="more than"):
        store.read(parse("a"))


def test_only_what_was_hashed_is_remembered(store: Store) -> None:
    """A blob that changed after its identity was taken is not verified."""
    manifest = put(store, "a", b"weights")
    layer = manifest.layers[0]
    before = store.identity(layer.digest)
    Path(store.blob_path(layer.digest)).write_bytes(b"WEIGHTS")
    os.utime(store.blob_path(layer.digest), ns=(5, 5))
    store.remember({layer.digest: before})
    assert store.unverified([layer]) == [layer]


def test_publish_tells_what_is_gone(store: Store) -> None:
    """Without all blobs there is no manifest."""
    store.make_directories()
    manifest = manifest_of(b"weights")
    assert store.publish(parse("a"), manifest, {}) == manifest.layers and store.names() == {}


def test_remove(store: Store) -> None:
    """The manifest goes with the blobs that no other manifest names, in any spelling, and with directories that are empty then."""
    kept = put(store, "a", b"shared", b"template")
    put(store, "x/b", b"shared", b"own")
    store.remove(parse("X/B"))
    assert [name.display for name in store.names()] == ["a:latest"] and store.missing(kept.layers) == []
    assert sorted(os.listdir(store.blobs)) == sorted(layer.file for layer in kept.layers)
    assert os.listdir(os.path.join(store.manifests, "registry.ollama.ai")) == ["library"]
    broken = Path(store.manifests, "registry.ollama.ai/library/a/broken")
    broken.write_bytes(b"")
    with pytest.raises(StoreError, match=f"{broken} is no manifest"):
        store.remove(parse("a"))
    broken.unlink()
    store.remove(parse("a"))
    assert os.listdir(store.manifests) == os.listdir(store.blobs) == []


def test_tidy(store: Store) -> None:
    """What broke off long ago goes, unless somebody is at it; what is young, or of a server, stays."""
    store.make_directories()
    digests = [f"sha256-{number * 64}" for number in "123"]
    ours = [os.path.join(store.staging, name) for name in (*(f"{digest}.part" for digest in digests), f"{digests[0]}.part.map", ".x.1.2.new")]
    theirs = os.path.join(store.blobs, f"{digests[0]}-partial")
    for path in (*ours, theirs):
        Path(path).write_bytes(b"x")
    assert set(store.partials()) == {*ours, theirs}
    store.tidy()
    assert set(store.partials()) == {*ours, theirs}
    for path in (ours[0], *ours[2:], theirs):
        os.utime(path, (1, 1))
    with store.lock(digests[2]):
        store.tidy()
    assert set(store.partials()) == {ours[1], ours[2], theirs}


def test_sha256_file(tmp_path: Path) -> None:
    """Of files longer than a piece as well, and of an empty one."""
    for data in (b"", b"x", b"x" * (_store.BUFFER * 2 + 7)):
        (tmp_path / "x").write_bytes(data)
        assert sha256_file(str(tmp_path / "x")) == digest_of(data)
