# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Backups of a store of models, and the way back. Standard library only: programs that run without Ansible use it too.

A layer is left out of a backup only when the lock proves that a registry has it. Everything else goes in: where the manifest lies proves
nothing, since Ollama files a model of one's own among those of the registry. The index holds all manifests to the byte, so a restored model
has the digest that it had. It is restored by its blobs and not built again: Ollama would rewrite the weights.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import shutil
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Callable, Iterable, Iterator, Mapping

from ansible_collections.gpufleet.ollama.plugins.module_utils._http import FetchError, Http
from ansible_collections.gpufleet.ollama.plugins.module_utils._manifests import Layer, Manifest, ManifestError, locked
from ansible_collections.gpufleet.ollama.plugins.module_utils._names import Name, parse
from ansible_collections.gpufleet.ollama.plugins.module_utils._repository import (
    BLOBS_DIR,
    INDEX_FILE,
    STAGED_DIR,
    BackupError,
    Policy,
    Repository,
    Saved,
    Snapshot,
)
from ansible_collections.gpufleet.ollama.plugins.module_utils._sideload import Lock, Options, Plan, Progress, Sideload
from ansible_collections.gpufleet.ollama.plugins.module_utils._store import Store, read_file, sha256_file

VERSION = 1
# what the collection notes of the models that it built: see _custom.py
RECORDS_DIR = "custom"
_WAIT_SECONDS = 30.0


# -- the index ------------------------------------------------------------------

@dataclass
class Place:
    """Where a layer is: in the backup, or in a registry, by the name of a model that the lock pins."""

    size: int
    place: str
    model: str = ""


@dataclass
class Index:
    """What a backup is: the models of a store and where each layer of them is. C(records) are files of the collection, by their names."""

    host: str
    store: str
    time: float
    release: str
    models: dict[Name, Manifest] = field(default_factory=dict)
    layers: dict[str, Place] = field(default_factory=dict)
    records: dict[str, bytes] = field(default_factory=dict)

    def bytes_in(self, place: str) -> int:
        """Bytes of the layers in V(backup) or V(registry)."""
        return sum(layer.size for layer in self.layers.values() if layer.place == place)

    @property
    def saved(self) -> list[Layer]:
        """The layers that are in the backup."""
        found = {layer.digest: layer for manifest in self.models.values() for layer in manifest.layers}
        return [layer for digest, layer in found.items() if self.layers[digest].place == "backup"]

    @property
    def homes(self) -> dict[str, Name]:
        """By which name a registry has a layer: not by that of a model of one's own that is made from it."""
        return {digest: parse(layer.model) for digest, layer in self.layers.items() if layer.place == "registry"}

    def same(self, other: Index | None) -> bool:
        """Whether a backup has the same models, with each layer in the same place."""
        return bool(other) and (self.models.keys(), self.layers, self.records) == (other.models.keys(), other.layers, other.records) and all(
            manifest.raw == other.models[name].raw for name, manifest in self.models.items()
        )

    def own(self) -> list[Name]:
        """The models that need the backup."""
        return [name for name, manifest in self.models.items() if any(self.layers[layer.digest].place == "backup" for layer in manifest.layers)]

    def dump(self) -> bytes:
        """The bytes of the index. Same content, same bytes."""
        document = {
            "version": VERSION, "host": self.host, "store": self.store, "release": self.release,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.time)), "timestamp": self.time,
            "models": [
                {
                    "name": name.display, "path": "/".join(name), "digest": manifest.digest, "size": manifest.size,
                    "layers": [layer.digest for layer in manifest.layers], "manifest": base64.b64encode(manifest.raw).decode("ascii"),
                }
                for name, manifest in sorted(self.models.items())
            ],
            "layers": {
                digest: {"size": layer.size, "in": layer.place, **({"model": layer.model} if layer.model else {})} for digest, layer in self.layers.items()
            },
            "records": {name: base64.b64encode(data).decode("ascii") for name, data in self.records.items()},
        }
        return json.dumps(document, indent=1, sort_keys=True).encode()

    @classmethod
    def load(cls, data: bytes) -> Index:
        """An index, with all its manifests compared with their digests. BackupError when it is damaged, or of a newer kind."""
        try:
            document = json.loads(data)
            version = document["version"]
            if version != VERSION:
                text = f"the backup has an index of version {version}, and this collection knows {VERSION}: use the one that made it"
                raise BackupError(text, "version")
            index = cls(document["host"], document["store"], float(document["timestamp"]), document["release"])
            for model in document["models"]:
                manifest, name = Manifest(base64.b64decode(model["manifest"])), Name(*model["path"].split("/"))
                if manifest.digest != model["digest"] or any(part in ("", ".", "..") for part in name):
                    raise ValueError(f"the manifest of {model['name']} has another digest than the index says")
                index.models[name] = manifest
            index.layers = {digest: Place(int(layer["size"]), layer["in"], layer.get("model", "")) for digest, layer in document["layers"].items()}
            index.records = {name: base64.b64decode(text) for name, text in document["records"].items() if os.path.basename(name) == name}
            lost = {layer.digest for manifest in index.models.values() for layer in manifest.layers} - set(index.layers)
            if lost:
                raise ValueError(f"it does not say where {sorted(lost)[0]} is")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BackupError(f"the index of the backup is damaged: {error}", "damaged") from None
        return index


def proved(lock: Mapping[str, Any]) -> dict[tuple[str, int], str]:
    """The layers that a registry has, by digest and size, with the name of a model that has them. Raises ManifestError for a damaged lock."""
    return {(layer.digest, layer.size): name for name, entry in sorted(lock.items(), reverse=True) for layer in locked(name, entry).layers}


def make_index(store: Store, lock: Mapping[str, Any], keep: Iterable[str] = (), host: str = "", release: str = "") -> Index:
    """What a backup of a store would be now. Reads manifests only.

    Args: the entries of the lock; the names of models that are to be in the backup though a registry has them; what to call the host; the
    release of Ollama that runs there, for who reads it. BackupError when there is no store, or a manifest cannot be read.
    """
    _require(store)
    index = Index(host, store.path, time.time(), release)
    try:
        pinned = proved(lock)
        for name, path in store.names().items():
            manifest = store.read_path(path)
            # deleted meanwhile
            if manifest:
                index.models[name] = manifest
    except ManifestError as error:
        raise BackupError(f"{error}. Delete the model or pull it again; nothing was saved, the last good backup stays", "store") from None
    wanted = {parse(name).key for name in keep}
    kept = {layer.digest for name, manifest in index.models.items() if name.key in wanted for layer in manifest.layers}
    for manifest in index.models.values():
        for layer in manifest.layers:
            model = "" if layer.digest in kept else pinned.get((layer.digest, layer.size), "")
            index.layers[layer.digest] = Place(layer.size, "registry" if model else "backup", model)
    index.records = _records(store, index.models)
    return index


def _require(store: Store) -> None:
    if not os.path.isdir(store.manifests):
        raise BackupError(f"{store.path} is no store of models: it has no directory manifests. Is its disk mounted?", "store")


def _records(store: Store, names: Iterable[Name]) -> dict[str, bytes]:
    """The records of what the collection built, as far as the models are there."""
    keys, result = {name.key for name in names}, {}
    folder = os.path.join(store.private, RECORDS_DIR)
    for file in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        # of one that cannot be read nobody makes use either: the model is built again
        with suppress(OSError, ValueError, KeyError, TypeError):
            data = read_file(os.path.join(folder, file))
            if file.endswith(".json") and parse(json.loads(data)["name"]).key in keys:
                result[file] = data
    return result


# -- making one -------------------------------------------------------------------

@dataclass
class Result:
    """What a backup came to: its index, its id and the bytes that the repository grew by; what could not be deleted of old ones, and why."""

    index: Index
    saved: Saved
    removed: int = 0
    warning: str = ""


class Backup:
    """Backs up a store, into a repository that is open.

    C(owners): the hosts that are to save a model first, by its name; while the
    backup of such a host does not have what this one has, this one waits for it, for C(owner_seconds) at most, so that not all send the same.
    """

    def __init__(self, store: Store, repository: Repository, lock: Mapping[str, Any], host: str, keep: Iterable[str] = (), release: str = "") -> None:
        self.store = store
        self.repository = repository
        self.host = host
        self.owners: Mapping[str, str] = {}
        self.owner_seconds = 0.0
        self._arguments = (lock, list(keep), host, release)
        self._staged = os.path.join(store.path, STAGED_DIR)

    def plan(self) -> Index:
        """What would be backed up. Nothing is touched."""
        with self.store.as_owner():
            index = make_index(self.store, *self._arguments)
            self._check_present(index)
        return index

    def newest(self) -> Index | None:
        """The index of the newest backup of this host and store, None when there is none, or it is damaged: another one is the mend of that."""
        snapshot = newest_by_store(self.repository.snapshots(self.host)).get(self.store.path)
        return _index_unless(("damaged",), self.repository, snapshot) if snapshot else None

    def run(self, policy: Policy, progress: Progress | None = None) -> Result:
        """Make a backup: whole, or not at all. Raises BackupError, OSError for a disk that fails."""
        self._wait_for_owners()
        with self._staging() as index:
            before = self._identities(index)
            self._verify(index)
            saved = self.repository.save(self._staged, self.host, _counter(progress, f"backup of {self.store.path}", index.bytes_in("backup")))
            changed = [layer for layer in index.saved if self._identity(layer) != before[layer.digest]]
            if changed:
                self._take_back(saved, index, changed[0])
        result = Result(index, saved)
        try:
            result.removed = self.repository.retain(policy)
        except BackupError as error:
            # the backup is good all the same
            result.warning = f"old backups could not be deleted: {error}"
        return result

    def _check_present(self, index: Index) -> None:
        """Everything that the backup must have is there. What a registry has need not be."""
        missing = self.store.missing(index.saved)
        if missing:
            raise self._gone(index, missing[0])
        for layer in index.saved:
            path = self.store.blob_path(layer.digest)
            if os.path.islink(path):
                raise BackupError(
                    f"the blob {path} of {self._users(index, layer)} is a link to {os.path.realpath(path)}, and a backup would hold the link alone: nothing "
                    "was saved, the last good backup stays. Put the file in its place, or mount the other disk there", "store",
                )

    @staticmethod
    def _users(index: Index, layer: Layer) -> str:
        return ", ".join(name.display for name, manifest in index.models.items() if layer in manifest.layers)

    def _gone(self, index: Index, layer: Layer) -> BackupError:
        size = self.store.blob_size(layer.digest)
        what = "was removed, or never came" if size is None else f"has {size} bytes, and should have {layer.size}"
        return BackupError(
            f"the blob {layer.digest} of {self._users(index, layer)} in {self.store.path} {what}: nothing was saved, the last good backup stays. "
            "Build the model again, restore it, or delete it", "removed",
        )

    @contextmanager
    def _staging(self) -> Iterator[Index]:
        """The index and links to the blobs, in a directory whose path is always the same, so that restic knows again what it saw before.

        A link keeps the bytes, whatever a server deletes meanwhile. Nobody publishes or deletes through us while they are made.
        """
        with ExitStack() as stack:
            with self.store.as_owner():
                _require(self.store)
                self.store.make_directories()
                stack.enter_context(self.store.lock("backup"))
                stack.callback(self._clean)
                # what a killed one left
                self._clean()
                with self.store.lock("manifests"):
                    index = make_index(self.store, *self._arguments)
                    self._check_present(index)
                    self._link(index)
            yield index

    def _link(self, index: Index) -> None:
        os.makedirs(os.path.join(self._staged, BLOBS_DIR), 0o755)
        for layer in index.saved:
            try:
                os.link(self.store.blob_path(layer.digest), self._link_path(layer), follow_symlinks=False)
            except FileNotFoundError:
                raise self._gone(index, layer) from None
            except OSError as error:
                if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                    text = f"{self.store.path} lies on a disk without hard links, which a backup needs to hold what it reads: {error}"
                    raise BackupError(text, "store") from None
                raise
        self.store.write(os.path.join(self._staged, INDEX_FILE), index.dump())

    def _link_path(self, layer: Layer) -> str:
        return os.path.join(self._staged, BLOBS_DIR, layer.file)

    def _clean(self) -> None:
        with self.store.as_owner(), suppress(FileNotFoundError):
            shutil.rmtree(self._staged)

    def _identity(self, layer: Layer) -> list[int]:
        # size, time and inode as Store.identity has them, of the link: it is there whatever becomes of the blob
        status = os.stat(self._link_path(layer), follow_symlinks=False)
        return [status.st_size, status.st_mtime_ns, status.st_ino]

    def _identities(self, index: Index) -> dict[str, list[int]]:
        return {layer.digest: self._identity(layer) for layer in index.saved}

    def _verify(self, index: Index) -> None:
        """Compare with their digests the blobs that nobody compared yet: a server trusts what it finds, and a rotten blob would replace a good one."""
        with self.store.as_owner():
            verified = self.store.verified()
            for layer in index.saved:
                # of the link, which is what is saved: the blob may be gone by now, or be another one
                before = self._identity(layer)
                if verified.get(layer.digest) == before:
                    continue
                found = sha256_file(self._link_path(layer))
                if found != layer.digest:
                    raise BackupError(
                        f"the blob {layer.digest} of {self._users(index, layer)} in {self.store.path} is damaged, its SHA-256 is {found}: nothing was "
                        "saved, the last good backup stays. Restore the model from it", "damaged",
                    )
                self.store.remember({layer.digest: before})

    def _take_back(self, saved: Saved, index: Index, layer: Layer) -> None:
        text = f"the blob {layer.digest} of {self._users(index, layer)} changed while it was backed up: this backup was taken back, the last good one stays"
        try:
            self.repository.discard(saved)
        except BackupError as error:
            text += f", but it is still in the repository as {saved.id}: {error}"
        raise BackupError(text, "changed")

    def _wait_for_owners(self) -> None:
        """Wait until the owners have saved what this host has of their models, as long as that is to be hoped for."""
        until = time.monotonic() + self.owner_seconds
        owners = {parse(name).key: owner for name, owner in self.owners.items() if owner != self.host}
        own = self._saved_by(self.host) if owners else set()
        while owners:
            wanted: dict[str, set[str]] = {}
            index = self.plan()
            saved = {layer.digest for layer in index.saved} - own
            for name, manifest in index.models.items():
                if name.key in owners:
                    wanted.setdefault(owners[name.key], set()).update(layer.digest for layer in manifest.layers if layer.digest in saved)
            lacking = [owner for owner, digests in wanted.items() if digests - self._saved_by(owner)]
            left = until - time.monotonic()
            if not lacking or left <= 0:
                return
            time.sleep(min(_WAIT_SECONDS, left))

    def _saved_by(self, host: str) -> set[str]:
        """The layers in the newest backup of each store of a host. One that cannot be understood saves nobody the work."""
        snapshots = newest_by_store(self.repository.snapshots(host)).values()
        indexes = [_index_unless(("damaged", "version"), self.repository, snapshot) for snapshot in snapshots]
        return {layer.digest for index in indexes if index for layer in index.saved}


def _index_unless(kinds: Iterable[str], repository: Repository, snapshot: Snapshot) -> Index | None:
    """The index of a backup, None for a failure of one of some kinds."""
    try:
        return Index.load(repository.index(snapshot))
    except BackupError as error:
        if error.kind not in kinds:
            raise
    return None


def _counter(progress: Progress | None, what: str, total: int) -> Callable[[int], None]:
    """Turns the bytes so far into those that came since the last call."""
    before = 0
    if progress:
        progress.begin(what, total)

    def arrived(count: int) -> None:
        nonlocal before
        if progress:
            progress.arrived(max(0, count - before))
        before = max(before, count)

    return arrived


# -- the way back -------------------------------------------------------------------

def newest_by_store(snapshots: Iterable[Snapshot]) -> dict[str, Snapshot]:
    """Of backups of a host, the newest first, the first of each store."""
    result: dict[str, Snapshot] = {}
    for snapshot in snapshots:
        result.setdefault(snapshot.store, snapshot)
    return result


def choose(repository: Repository, host: str, store: str = "", snapshot: str = "", target: str = "") -> Snapshot:
    """The backup of a host that is meant: the newest or the one whose id begins so. BackupError when there is none.

    Of a host that has backups of several stores, that of C(store); if that is not given, of the one whose path is C(target).
    """
    found = backups_of(repository, host)
    stores = sorted(newest_by_store(found))
    if store and store not in stores:
        raise BackupError(f"{repository.where} has no backup of the store {store} of {host}: it has those of {', '.join(stores)}", "missing")
    if snapshot:
        fits = [item for item in found if item.id.startswith(snapshot) and store in ("", item.store)]
        if len(fits) != 1:
            raise BackupError(f"{repository.where} has {len(fits)} backups of {host} whose id begins with {snapshot}: give one of {_listed(found)}", "missing")
        return fits[0]
    wanted = store or (target if target in stores else stores[0] if len(stores) == 1 else "")
    if not wanted:
        raise BackupError(f"{repository.where} has backups of the stores {', '.join(stores)} of {host}: say which", "missing")
    return newest_by_store(found)[wanted]


def backups_of(repository: Repository, host: str) -> list[Snapshot]:
    """The backups of a host, the newest first. BackupError when there is none."""
    found: list[Snapshot] = repository.snapshots(host)
    if not found:
        others = sorted({item.host for item in repository.snapshots()})
        raise BackupError(f"{repository.where} has no backup of {host}: " + (f"it has some of {', '.join(others)}" if others else "it is empty"), "missing")
    return found


def _listed(snapshots: Iterable[Snapshot]) -> str:
    return ", ".join(f"{item.id} ({time.strftime('%Y-%m-%d %H:%M', time.localtime(item.time))})" for item in snapshots)


class BackupSource:
    """The layers of a backup, as a source of the puller."""

    def __init__(self, repository: Repository, snapshot: Snapshot, index: Index) -> None:
        self.text = repository.text
        self.slow = False
        self._repository = repository
        self._snapshot = snapshot
        self._index = index

    def manifest(self, _name: Name, _alone: bool) -> None:
        """The index has them."""

    def blob(self, _name: Name, layer: Layer, _alone: bool) -> Any:
        """A layer, if it is in the backup."""
        if self._index.layers[layer.digest].place != "backup":
            raise FetchError(f"{self.text} does not hold it, since a registry has it: name sources of it, or set upstream", "not-found")
        return self._repository.blob(self._snapshot, layer)


class Saves(Lock):
    """What the index holds each name to."""

    def __init__(self, index: Index) -> None:
        super().__init__({})
        self._index = index

    def manifest(self, name: Name) -> Manifest | None:
        """The manifest of a name."""
        return self._index.models[name]


@dataclass
class Report:
    """What a restore brings: the plan of the puller, and of the missing layers those that come from the backup and those from a registry."""

    names: list[Name]
    plan: Plan
    backup: list[Layer]
    registry: list[Layer]

    @property
    def changed(self) -> bool:
        """Whether anything is to be done."""
        return any(model.changed for model in self.plan.models)


class Restore:
    """Brings models of a backup into a store. C(options) are those of the puller: where to get from what a registry has.

    Everything goes through the puller, so what is there is not fetched, all is compared with its digest, and a running server sees a model as
    soon as it is whole.
    """

    def __init__(self, store: Store, repository: Repository, snapshot: Snapshot, options: Options, make_http: Callable[[], Http]) -> None:
        self.store = store
        self.snapshot = snapshot
        self.index = Index.load(repository.index(snapshot))
        self._source = BackupSource(repository, snapshot, self.index)
        options.first, options.homes = [self._source], self.index.homes
        self.sideload = Sideload(store, make_http, options)

    def names(self, wanted: Iterable[str] = ()) -> list[Name]:
        """The models that are meant; all without any. BackupError for one that the backup does not have."""
        keys = {name.key: name for name in self.index.models}
        asked = {parse(text).key: text for text in wanted}
        for key, text in asked.items():
            if key not in keys:
                raise BackupError(f"the backup has no model {text}: it has {', '.join(sorted(name.display for name in keys.values())) or 'none'}", "missing")
        return [keys[key] for key in asked] if asked else list(keys.values())

    def plan(self, names: list[Name], dry: bool) -> Report:
        """What comes from where. BackupError when the disk is too small. C(dry) changes nothing at all."""
        with self.store.as_owner(), _sentences():
            # those that a registry has first: what is made from them needs their layers
            ordered = sorted(names, key=lambda name: any(self.index.layers[layer.digest].place == "backup" for layer in self.index.models[name].layers))
            plan = self.sideload.plan(ordered, Saves(self.index), dry)
        split: dict[str, list[Layer]] = {"backup": [], "registry": []}
        for layer in plan.missing:
            split[self.index.layers[layer.digest].place].append(layer)
        return Report(names, plan, split["backup"], split["registry"])

    def run(self, report: Report, progress: Progress) -> None:
        """Do it. Raises BackupError; what was whole by then stays."""
        with self.store.as_owner(), _sentences():
            self.sideload.run(report.plan, progress)
            keys = {name.key for name in report.names}
            for file, data in self.index.records.items():
                path = os.path.join(self.store.private, RECORDS_DIR, file)
                if parse(json.loads(data)["name"]).key in keys and not _same(path, data):
                    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
                    self.store.write(path, data)

    def check(self, names: Iterable[Name]) -> None:
        """Compare what is in the store with the backup, manifests to the byte and blobs by their digests. BackupError when anything differs."""
        with self.store.as_owner():
            for name in names:
                wanted, found = self.index.models[name], self.store.read(name)
                if not found or found.raw != wanted.raw:
                    raise BackupError(f"the manifest of {name.display} in {self.store.path} is not the one that was backed up", "damaged")
                for layer in wanted.layers:
                    if self.store.blob_size(layer.digest) != layer.size or sha256_file(self.store.blob_path(layer.digest)) != layer.digest:
                        raise BackupError(f"the blob {layer.digest} of {name.display} in {self.store.path} is not the one that was backed up", "damaged")


def _same(path: str, data: bytes) -> bool:
    with suppress(OSError, ValueError):
        return read_file(path) == data
    return False


@contextmanager
def _sentences() -> Iterator[None]:
    """Errors of the puller are those of the restore."""
    try:
        yield
    except FetchError as error:
        raise BackupError(str(error), error.kind) from None
