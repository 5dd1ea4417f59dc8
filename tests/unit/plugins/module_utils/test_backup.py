"""Backups and their restore, with a registry on loopback (stand-in) and repositories of restic and of plain files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from ansible_collections.gpufleet.ollama.plugins.module_utils import _backup
from ansible_collections.gpufleet.ollama.plugins.module_utils._backup import Backup, Index, choose
from ansible_collections.gpufleet.ollama.plugins.module_utils._blobs import Part
from ansible_collections.gpufleet.ollama.plugins.module_utils._names import parse
from ansible_collections.gpufleet.ollama.plugins.module_utils._repository import BackupError, Cas, Policy, Repository, Restic, Snapshot, kept
from ansible_collections.gpufleet.ollama.plugins.module_utils._store import Store

from backup_rig import ADAPTED, BASE, OWN, Rig, content, restic, restic_program, tree

needs_restic = pytest.mark.skipif(not restic_program(), reason="restic is not on this machine")
each_kind = pytest.mark.parametrize("repository", [pytest.param("cas"), pytest.param("restic", marks=needs_restic)], indirect=True)
KINDS = [pytest.param("cas"), pytest.param("restic", marks=needs_restic)]


@pytest.fixture
def rig(start_registry: Callable[..., Any], tmp_path: Path) -> Rig:
    """A host whose store is filled."""
    found = Rig(start_registry, tmp_path)
    found.fill()
    found.sent()
    return found


@pytest.fixture
def repository(request: pytest.FixtureRequest, tmp_path: Path) -> Repository:
    """A new repository in a directory: plain files, unless a test is about each kind."""
    found: Any = Cas(str(tmp_path / "repository"))
    if getattr(request, "param", "cas") == "restic":
        found = restic(str(tmp_path / "repository"), tmp_path / "cache")
    assert found.open(make=True)
    return found


def layers(rig: Rig, name: str) -> dict[str, int]:
    """Digests and sizes of a model of the lock."""
    return {layer["digest"]: layer["size"] for layer in rig.lock[name]["layers"]}


def refused(kind: str, call: Callable[[], Any]) -> str:
    """The words of a BackupError."""
    with pytest.raises(BackupError) as caught:
        call()
    assert caught.value.kind == kind, caught.value
    return str(caught.value)


@each_kind
def test_back_and_forth(rig: Rig, repository: Repository, tmp_path: Path) -> None:
    """What the registry has is not in the backup; after the store is wiped another host gets all of it, to the byte."""
    done = rig.backup(repository)
    base = sum({layer["digest"]: layer["size"] for entry in rig.lock.values() for layer in entry["layers"]}.values())
    own = sum(len(data) for name, data in tree(rig.store).items() if name.startswith("blobs")) - base
    assert done.index.bytes_in("backup") == own > 3 << 20 and done.index.bytes_in("registry") == base > 4 << 20
    stored = sum(len(data) for data in content(tmp_path / "repository").values())
    assert own < done.saved.added + 4096 and stored < own + 200_000
    was = tree(rig.store)
    other = Store(str(tmp_path / "b/models"))
    _restore, report = rig.restore(repository, other)
    assert tree(other) == was
    assert sum(layer.size for layer in report.backup) == own and sum(layer.size for layer in report.registry) == base
    # to learn where a large blob is costs a byte
    assert 0 <= rig.sent() - base <= 2
    # a server deletes at its start blobs that are old and that it finds no name for
    assert all(time.time() - os.stat(other.blob_path(digest)).st_mtime < 600 for digest in other.sizes())
    # the collection does not build them again
    assert content(Path(other.private, "custom")) == content(Path(rig.store.private, "custom"))
    again, report = rig.restore(repository, other)
    assert not report.changed and rig.sent() == 0 and again.index.host == "gpu1"


@each_kind
def test_second_backup_moves_nothing(rig: Rig, repository: Repository, tmp_path: Path) -> None:
    """Unchanged, or touched by a server: no blob is written again, only an index."""
    first = rig.backup(repository)
    before = sum(len(data) for data in content(tmp_path / "repository").values())
    for digest in rig.store.sizes():
        os.utime(rig.store.blob_path(digest))
    second = rig.backup(repository)
    assert second.saved.id != first.saved.id and second.saved.added < 20_000
    assert sum(len(data) for data in content(tmp_path / "repository").values()) - before < 60_000
    assert [item.id for item in repository.snapshots("gpu1")] == [second.saved.id, first.saved.id]
    assert not os.path.exists(os.path.join(rig.store.private, "backup"))


def test_a_backup_is_a_plan_first(rig: Rig, repository: Repository) -> None:
    """The plan of a backup, and the dry run of a restore, say the bytes and touch nothing."""
    was = content(rig.store.path)
    plan = Backup(rig.store, repository, rig.lock, "gpu1").plan()
    assert content(rig.store.path) == was
    done = rig.backup(repository)
    assert plan.layers == done.index.layers and {name.display for name in plan.own()} == {OWN, ADAPTED}
    other = Store(str(rig.folder / "c/models"))
    _restore, report = rig.restore(repository, other, dry=True)
    assert report.changed and report.plan.missing_bytes == done.index.bytes_in("backup") + done.index.bytes_in("registry")
    assert not os.path.exists(other.path) and rig.sent() == 0


def test_only_some_models(rig: Rig, repository: Repository) -> None:
    """One model brings the layers that it needs, those of the model that it is made from by that one's name."""
    rig.backup(repository)
    other = Store(str(rig.folder / "d/models"))
    rig.restore(repository, other, "Support-Bot")
    assert [name.display for name in other.names()] == [OWN] and list(content(Path(other.private, "custom"))) == ["support-bot@latest.json"]
    assert "it has adapted:1b" in refused("missing", lambda: rig.restore(repository, other, "nope"))


def test_where_a_layer_is_filed_proves_nothing(rig: Rig, repository: Repository) -> None:
    """Without a lock all goes in; so it does for a model that is to be kept; a lock that was damaged is refused."""
    done = rig.backup(repository, lock={})
    assert done.index.bytes_in("registry") == 0 and done.index.bytes_in("backup") == rig.store.bytes()
    kept_one = rig.backup(repository, keep=["SMOLLM2:135m"])
    assert kept_one.index.bytes_in("registry") == sum(size for digest, size in layers(rig, "all-minilm:latest").items() if digest not in layers(rig, BASE))
    broken = {BASE: {**rig.lock[BASE], "manifest_digest": "sha256:" + "0" * 64}}
    assert "is damaged" in refused("store", lambda: rig.backup(repository, lock=broken))
    other = Store(str(rig.folder / "e/models"))
    rig.restore(repository, other, BASE, sources=[])
    assert rig.sent() == 0


@each_kind
def test_a_blob_that_is_removed_meanwhile(rig: Rig, repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the manifests and the links: nothing is saved, the last good backup stays. Once it is linked it may go."""
    good = rig.backup(repository)
    manifest = rig.store.read(parse(ADAPTED))
    assert manifest
    layer = manifest.first("adapter")
    assert layer
    blob = Path(rig.store.blob_path(layer.digest))
    data, link = blob.read_bytes(), os.link
    monkeypatch.setattr(os, "link", lambda *paths, **options: (blob.unlink(missing_ok=True), link(*paths, **options)))
    said = refused("removed", lambda: rig.backup(repository))
    assert layer.digest in said and ADAPTED in said and "the last good backup stays" in said
    monkeypatch.setattr(os, "link", link)
    assert [item.id for item in repository.snapshots()] == [good.saved.id]
    assert "never came" in refused("removed", lambda: rig.backup(repository))
    blob.write_bytes(data)
    monkeypatch.setattr(repository, "save", lambda *args, save=repository.save: (blob.unlink(), save(*args))[1])
    rig.backup(repository)
    other = Store(str(rig.folder / "f/models"))
    rig.restore(repository, other, ADAPTED)


@each_kind
def test_a_blob_that_changes_meanwhile(rig: Rig, repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backup that has other bytes than the index says is taken back."""
    good = rig.backup(repository)
    blob = Path(rig.store.blob_path(rig.make(OWN, [(b"another one" * 1000, "system")]).layers[0].digest))
    save = repository.save

    def slow(*args: Any) -> Any:
        result = save(*args)
        blob.write_bytes(b"nothing good" * 1000)
        return result

    monkeypatch.setattr(repository, "save", slow)
    assert OWN in refused("changed", lambda: rig.backup(repository))
    assert [item.id for item in repository.snapshots()] == [good.saved.id]


def test_a_rotten_blob_does_not_replace_a_good_one(rig: Rig, repository: Repository) -> None:
    """A server trusts what it has; a backup does not."""
    good = rig.backup(repository)
    layer = rig.make("rotten:1b", [(b"x" * 5000, "system")]).layers[0]
    Path(rig.store.blob_path(layer.digest)).write_bytes(b"y" * 5000)
    assert "rotten:1b" in refused("damaged", lambda: rig.backup(repository))
    assert [item.id for item in repository.snapshots()] == [good.saved.id]


@each_kind
def test_a_rotten_blob_that_is_deleted_meanwhile(rig: Rig, repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is saved is the link, so it is the link that is compared."""
    good = rig.backup(repository)
    layer = rig.make("rotten:1b", [(b"x" * 5000, "system")]).layers[0]
    blob = Path(rig.store.blob_path(layer.digest))
    blob.write_bytes(b"y" * 5000)
    identities = Backup._identities
    monkeypatch.setattr(Backup, "_identities", lambda *args: (blob.unlink(), identities(*args))[1])
    assert "rotten:1b" in refused("damaged", lambda: rig.backup(repository))
    assert [item.id for item in repository.snapshots()] == [good.saved.id]


@each_kind
def test_a_blob_that_is_a_link(rig: Rig, repository: Repository) -> None:
    """To another disk, say: a server reads it, a backup would hold the link. Said by the plan as well; of what a registry has it does not matter."""
    blobs = [Path(rig.store.blob_path(digest)) for digest in (parse_layer(rig, ADAPTED), *layers(rig, BASE))]
    elsewhere = rig.folder / "disk"
    elsewhere.mkdir()
    for blob in blobs:
        blob.rename(elsewhere / blob.name)
        blob.symlink_to(elsewhere / blob.name)
    for call in (lambda: rig.backup(repository), Backup(rig.store, repository, rig.lock, "gpu1").plan):
        said = refused("store", call)
        assert f"is a link to {elsewhere / blobs[0].name}" in said and ADAPTED in said
    assert not repository.snapshots()
    blobs[0].unlink()
    (elsewhere / blobs[0].name).rename(blobs[0])
    rig.backup(repository)


def largest(folder: Path) -> Path:
    """The largest file of a repository."""
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def flip(folder: Path) -> None:
    """Another byte in it."""
    path = largest(folder)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)


@each_kind
def test_a_flipped_byte_in_the_repository(rig: Rig, repository: Repository, tmp_path: Path) -> None:
    """A check that reads sees it, and a restore never publishes it."""
    rig.backup(repository)
    repository.check()
    flip(tmp_path / "repository")
    assert "damaged" in refused("damaged", repository.check)
    other = Store(str(rig.folder / "g/models"))
    with pytest.raises(BackupError) as caught:
        rig.restore(repository, other, ADAPTED)
    assert ADAPTED in str(caught.value) and not other.names()
    # what is not in that pack is still to be had
    rig.restore(repository, other, BASE)
    # the mend of docs/runbooks/backup.md
    os.unlink(largest(tmp_path / "repository"))
    if isinstance(repository, Restic):
        environment = {**os.environ, "RESTIC_PASSWORD": "not a secret", "RESTIC_REPOSITORY": str(tmp_path / "repository")}
        subprocess.run([restic_program(), "rebuild-index"], env=environment, check=True, capture_output=True)
    rig.backup(repository)
    rig.restore(repository, other, ADAPTED)
    rig.restore(repository, Store(str(rig.folder / "k/models")))


def test_a_store_that_is_not_there(rig: Rig, repository: Repository) -> None:
    """A disk that is not mounted is no empty store; manifests that cannot be read are no models that are gone."""
    said = refused("store", lambda: Backup(Store(str(rig.folder / "nowhere")), repository, rig.lock, "gpu1").run(Policy()))
    assert "Is its disk mounted?" in said and not repository.snapshots() and not os.path.exists(rig.folder / "nowhere/manifests")
    Path(rig.store.manifest_path(parse(OWN))).write_text("{", encoding="utf-8")
    assert "support-bot/latest" in refused("store", lambda: rig.backup(repository))


@each_kind
def test_which_backup_is_meant(rig: Rig, repository: Repository) -> None:
    """By host, by store where it has several, by the beginning of an id."""
    assert "it is empty" in refused("missing", lambda: choose(repository, "gpu1"))
    first, second = rig.backup(repository).saved.id, rig.backup(repository).saved.id
    assert "it has some of gpu1" in refused("missing", lambda: choose(repository, "gpu2"))
    assert choose(repository, "gpu1").id == second and choose(repository, "gpu1", snapshot=first).id == first
    assert choose(repository, "gpu1", target="/elsewhere").store == rig.store.path
    assert f"it has those of {rig.store.path}" in refused("missing", lambda: choose(repository, "gpu1", "/elsewhere"))
    assert "give one of" in refused("missing", lambda: choose(repository, "gpu1", snapshot="zzz"))
    rig.store = Store(str(rig.folder / "second/models"))
    rig.pull(rig.store, BASE)
    rig.backup(repository)
    assert choose(repository, "gpu1", rig.store.path).store == choose(repository, "gpu1", target=rig.store.path).store == rig.store.path
    assert rig.store.path in refused("missing", lambda: choose(repository, "gpu1", target="/elsewhere"))
    assert "0 backups of gpu1 whose id" in refused("missing", lambda: choose(repository, "gpu1", rig.store.path, first))


def test_a_repository_that_is_missing(tmp_path: Path) -> None:
    """It is made only by who says so: else a disk that is not mounted would hide the good ones."""
    for repository in (Cas(str(tmp_path / "none")), *([restic(str(tmp_path / "none"), tmp_path / "cache")] if restic_program() else [])):
        assert "there is no repository at" in refused("missing", repository.open)
        assert not (tmp_path / "none").exists()


@each_kind
def test_retention(rig: Rig, repository: Repository, tmp_path: Path) -> None:
    """What no backup names any more goes; the last one stays, and is whole."""
    rig.backup(repository)
    for folder in (rig.store.blob_path(parse_layer(rig, ADAPTED)), rig.store.manifest_path(parse(ADAPTED))):
        os.unlink(folder)
    last = rig.backup(repository, Policy(daily=1))
    assert last.removed == 1 and last.warning == "" and [item.id for item in repository.snapshots()] == [last.saved.id]
    assert sum(len(data) for data in content(tmp_path / "repository").values()) < 1 << 20
    rig.restore(repository, Store(str(rig.folder / "h/models")))


def test_backups_that_cannot_be_listed(rig: Rig, repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not gone: retention deletes nothing, neither them nor their blobs, and says why."""
    rig.backup(repository, host="gpu2")
    for path in (rig.store.blob_path(parse_layer(rig, ADAPTED)), rig.store.manifest_path(parse(ADAPTED))):
        os.unlink(path)
    scandir, before = os.scandir, content(tmp_path / "repository/blobs")

    def fails(path: Any = ".") -> Any:
        if isinstance(path, str) and "indexes/gpu2/" in path:
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fails)
    done = rig.backup(repository, Policy(daily=1))
    assert "indexes/gpu2/" in done.warning and done.removed == 0 and content(tmp_path / "repository/blobs").items() >= before.items()
    assert "cannot be used" in refused("permission", repository.snapshots)
    monkeypatch.setattr(os, "scandir", scandir)
    assert {item.host for item in repository.snapshots()} == {"gpu1", "gpu2"}


def parse_layer(rig: Rig, name: str) -> str:
    """The digest of the adapter of a model."""
    manifest = rig.store.read(parse(name))
    return next(layer.digest for layer in manifest.layers if layer.kind == "adapter") if manifest else ""


def test_what_a_policy_keeps() -> None:
    """The last of each day, week and month."""
    day = 86400
    snapshots = [Snapshot(str(hour), 1_700_000_000 + hour * day / 2, "gpu1", "/m") for hour in range(120)]
    assert kept(snapshots, Policy()) == {item.id for item in snapshots}
    assert len(kept(snapshots, Policy(daily=3))) == 3 and "119" in kept(snapshots, Policy(daily=3))
    assert 3 < len(kept(snapshots, Policy(daily=3, weekly=4))) <= 7
    assert len(kept(snapshots, Policy(monthly=12))) == 3


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A disk of a size that a function is given; its folder."""
    folders = []

    def mount(size: str) -> Path:
        folder = tmp_path / f"small-{len(folders)}"
        folder.mkdir()
        if os.getuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=False).returncode:
            pytest.skip("mounting a tmpfs needs root")
        folders.append(folder)
        return folder

    yield mount
    for folder in folders:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_repository_whose_disk_is_full(rig: Rig, kind: str, small_disk: Callable[[str], Path], tmp_path: Path) -> None:
    """One sentence; the last good backup is there and whole."""
    folder = small_disk("6m") / "repository"
    repository: Any = Cas(str(folder)) if kind == "cas" else restic(str(folder), tmp_path / "cache")
    repository.open(make=True)
    good = rig.backup(repository)
    rig.make("more:1b", [(os.urandom(5 << 20), "adapter")])
    said = refused("disk", lambda: rig.backup(repository))
    assert "full" in said and str(folder) in said
    assert [item.id for item in repository.snapshots()] == [good.saved.id]
    rig.restore(repository, Store(str(rig.folder / "i/models")), ADAPTED)


def test_a_target_whose_disk_is_too_small(rig: Rig, repository: Repository, small_disk: Callable[[str], Path]) -> None:
    """Refused before the first byte."""
    rig.backup(repository)
    store = Store(str(small_disk("2m") / "models"))
    assert "are to come" in refused("disk", lambda: rig.restore(repository, store))
    assert not store.names() and rig.sent() == 0


@each_kind
def test_a_restore_that_was_broken_off(rig: Rig, repository: Repository) -> None:
    """It goes on with what came: pieces that are there are kept, those between them are brought."""
    rig.backup(repository)
    other = Store(str(rig.folder / "l/models"))
    other.make_directories()
    manifest = rig.store.read(parse(ADAPTED))
    layer = manifest.first("adapter") if manifest else None
    assert layer
    data = Path(rig.store.blob_path(layer.digest)).read_bytes()
    part = Part(other, layer, 256 << 10)
    part.open()
    for index in (0, 2, 5):
        start, end = part.range(index)
        part.write(memoryview(data)[start:end], start)
        part.mark(index)
    part.close()
    _restore, report = rig.restore(repository, other, ADAPTED)
    assert report.plan.staged > 0 and tree(other).items() <= tree(rig.store).items()


def test_owners_go_first(rig: Rig, repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host waits for who is to save a model first, as long as it may; then it saves it itself."""
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            rig.backup(repository)

    monkeypatch.setattr(_backup.time, "sleep", pause)
    second = Backup(rig.store, repository, rig.lock, "gpu2")
    second.owners, second.owner_seconds = {"support-bot": "gpu1", "adapted:1b": "gpu1", "elsewhere": "gpu9"}, 3600
    done = second.run(Policy())
    assert len(pauses) == 2 and done.saved.added < 20_000
    assert {item.host for item in repository.snapshots()} == {"gpu1", "gpu2"}
    third = Backup(rig.store, repository, rig.lock, "gpu3")
    third.owners, third.owner_seconds = {"adapted:1b": "gpu9"}, 0
    third.run(Policy())
    assert len(pauses) == 2


def no_pause(_seconds: float) -> None:
    """Nobody is to be waited for."""
    raise AssertionError("it waits")


def waiting(rig: Rig, repository: Repository, host: str, **owners: str) -> Backup:
    """A backup of a host that would wait for an hour."""
    found = Backup(rig.store, repository, rig.lock, host)
    found.owners, found.owner_seconds = {f"{model}:latest": owner for model, owner in owners.items()}, 3600
    return found


def test_an_owner_with_several_stores(rig: Rig, repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever it saved last: what is in the newest backup of any of them is saved."""
    monkeypatch.setattr(_backup.time, "sleep", no_pause)
    rig.backup(repository)
    first, rig.store = rig.store, Store(str(rig.folder / "second/models"))
    rig.pull(rig.store, BASE)
    rig.backup(repository)
    rig.store = first
    assert waiting(rig, repository, "gpu2", **{"support-bot": "gpu1"}).run(Policy()).saved.added < 20_000


def test_what_the_host_has_saved_itself(rig: Rig, repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """It moves no byte, so nobody is waited for, though the owner is gone for good."""
    monkeypatch.setattr(_backup.time, "sleep", no_pause)
    rig.backup(repository, host="gpu2")
    assert waiting(rig, repository, "gpu2", **{"support-bot": "gpu9"}).run(Policy()).saved.added < 20_000


@pytest.mark.parametrize("text", ["{", '{"version": 2}'])
def test_an_index_that_cannot_be_understood(rig: Rig, repository: Repository, tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damaged, or of a newer collection: no other host is held up by it. A new backup is the mend of a damaged one."""
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        rig.backup(repository, host="gpu1")

    monkeypatch.setattr(_backup.time, "sleep", pause)
    saved = rig.backup(repository).saved.id
    (tmp_path / "repository/indexes" / saved).write_text(text, encoding="utf-8")
    assert waiting(rig, repository, "gpu2", **{"support-bot": "gpu1"}).run(Policy()).saved.added < 20_000 and len(pauses) == 1
    # the damaged one is the newest
    for item in repository.snapshots("gpu1"):
        (tmp_path / "repository/indexes" / item.id).write_text(text, encoding="utf-8")
    backup = Backup(rig.store, repository, rig.lock, "gpu1")
    if text == "{":
        assert backup.newest() is None
    else:
        assert "use the one that made it" in refused("version", backup.newest)


def test_index(rig: Rig) -> None:
    """It reads back as it was, and damage is found."""
    index = _backup.make_index(rig.store, rig.lock, host="gpu1", release="0.34.4")
    text = index.dump()
    assert Index.load(text) == index or Index.load(text).dump() == text
    document = json.loads(text)
    assert document["version"] == 1 and document["release"] == "0.34.4" and len(document["models"]) == 4
    home = document["layers"][document["models"][0]["layers"][0]]
    assert set(home) <= {"size", "in", "model"}
    for change in (
        lambda found: found["models"][0].update(digest="sha256:" + "0" * 64), lambda found: found["layers"].popitem(), lambda found: found.pop("models"),
        lambda found: found.update(version=2),
    ):
        document = json.loads(text)
        change(document)
        with pytest.raises(BackupError):
            Index.load(json.dumps(document).encode())
    document = json.loads(text)
    document["models"][0]["path"] = "../../../etc"
    with pytest.raises(BackupError):
        Index.load(json.dumps(document).encode())


@each_kind
def test_as_root_in_a_store_of_another(start_registry: Callable[..., Any], repository: Repository) -> None:
    """Root leaves nothing of its own in the store of the service, neither of a backup nor of a restore."""
    if os.getuid() != 0:
        pytest.skip("only root can be another user")
    # the folders of pytest are root's alone
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        rig = Rig(start_registry, Path(folder))
        rig.fill()
        other = Store(str(rig.folder / "b/models"))
        os.makedirs(other.path)
        # the registry is in this process, which acts as the other user
        bundle = shutil.copytree(rig.store.path, f"{folder}/bundle")
        subprocess.run(["chown", "-R", "65534:65534", rig.store.path, other.path], check=True)
        rig.backup(repository)
        rig.restore(repository, other, sources=[bundle])
        assert tree(other) == tree(rig.store)
        for store in (rig.store, other):
            owners = {os.lstat(os.path.join(folder, name)).st_uid for folder, folders, files in os.walk(store.path) for name in [*folders, *files]}
            assert owners == {65534}
