# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Models put into a store without the server: by the manifests of a lock, from mirrors, bundles and registries.

Nothing that a server can find is there before it is whole and verified. Why not through the server: it cannot be held to a digest, trusts
blobs by their names, begins again after a crash, and gives up at the first 429.
"""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections import deque
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, Callable, Iterable, Mapping

from ansible_collections.gpufleet.ollama.plugins.module_utils._blobs import CHUNK_SIZE, Budget, Download, FileBlob, Part, WebBlob
from ansible_collections.gpufleet.ollama.plugins.module_utils._http import FetchError, Http, shown, split
from ansible_collections.gpufleet.ollama.plugins.module_utils._manifests import MAX_BYTES, MEDIA_TYPE, Layer, Manifest, ManifestError, locked
from ansible_collections.gpufleet.ollama.plugins.module_utils._names import DEFAULT_HOST, Name, parse
from ansible_collections.gpufleet.ollama.plugins.module_utils._sizes import bytes_to_human
from ansible_collections.gpufleet.ollama.plugins.module_utils._store import NoFile, Store, as_root, sha256_file

# retries of a source where nothing answers, while there are others to ask
QUICK_RETRIES = 1
# a source that failed in one of these ways is asked after the others from then on
_SLOW = ("unreachable", "retries", "tls", "proxy")
# a registry that says so was asked, and knows
_ANSWERS = ("not-found", "unauthorized")
_WRITE_SECONDS = 0.5
_RATE_SECONDS = 5.0
# a server deletes blobs when it starts, and when another model is deleted
_PUBLISH_TRIES = 2


@dataclass
class Model:
    """One name and what is to become of it. C(manifest) is None while nobody knows what the name means."""

    name: Name
    present: Manifest | None
    manifest: Manifest | None
    source: str
    missing: list[Layer] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether the store is not as it must be."""
        return self.manifest is None or bool(self.missing) or self.present is None or self.present.raw != self.manifest.raw


@dataclass
class Plan:
    """What is to be done. C(missing) holds each blob once; C(staged): bytes of them that have their space already; C(corrupt): bad blobs."""

    models: list[Model]
    missing: list[Layer]
    staged: int
    free: int
    hashed: int
    corrupt: list[str]

    @property
    def missing_bytes(self) -> int:
        """Bytes of the missing blobs."""
        return sum(layer.size for layer in self.missing)


@dataclass
class Options:
    """How to fetch: C(sources) are base URLs and paths of directories, in order; C(upstream): the registry of the name comes last;
    C(rate) and C(reserve) in bytes a second and bytes; C(first): sources that are none of these, such as a backup, and are asked before them;
    C(homes): the name by which others have a layer, by its digest, where that is not the name of the model."""

    sources: list[str] = field(default_factory=list)
    upstream: bool = True
    insecure: bool = False
    connections: int = 8
    rate: int = 0
    reserve: int = 0
    chunk_size: int = CHUNK_SIZE
    refresh: bool = False
    verify: bool = False
    first: list[Source] = field(default_factory=list)
    homes: dict[str, Name] = field(default_factory=dict)


class Lock:
    """The entries of a lock for names in any spelling."""

    def __init__(self, entries: Mapping[str, Any]) -> None:
        self._entries = {parse(name).key: (name, entry) for name, entry in entries.items()}

    def manifest(self, name: Name) -> Manifest | None:
        """The manifest that a name is held to, None when it is not. Raises ManifestError when the entry is damaged."""
        found = self._entries.get(name.key)
        return locked(*found) if found else None


def names_of(names: Iterable[str]) -> list[Name]:
    """Parsed names, each model once. Raises ValueError."""
    return list({name.key: name for name in reversed([parse(text) for text in names])}.values())[::-1]


def check_source(text: str) -> None:
    """Raises ValueError with a sentence when this is neither a URL nor an absolute path."""
    try:
        if not text.startswith("/"):
            split(text)
    except FetchError:
        raise ValueError(f"{shown(text)!r} is no source: give http://host[:port], https://host[:port] or the absolute path of a directory") from None


# -- sources --------------------------------------------------------------------

class WebSource:
    """A registry, or a mirror of one."""

    def __init__(self, client: Http, base: str, budget: Budget, only_default: bool) -> None:
        self.text = shown(base)
        self.slow = False
        self._http = client
        self._base = base.rstrip("/")
        self._budget = budget
        self._only_default = only_default

    def manifest(self, name: Name, alone: bool) -> Manifest | None:
        """What a name means, None when this source is not the one to ask. C(alone): there is nobody else to ask."""
        if self._only_default and name.host.lower() != DEFAULT_HOST:
            return None
        url = f"{self._base}/v2/{name.namespace}/{name.model}/manifests/{name.tag}"
        return Manifest(self._http.get(url, {"Accept": MEDIA_TYPE}, MAX_BYTES, None if alone else QUICK_RETRIES))

    def blob(self, name: Name, layer: Layer, alone: bool) -> WebBlob:
        """A layer of a model."""
        url = f"{self._base}/v2/{name.namespace}/{name.model}/blobs/{layer.digest}"
        return WebBlob(self._http, url, layer, self._budget, None if alone else QUICK_RETRIES)


class PathSource:
    """A directory of this host that is laid out as a store: a bundle, or the store of another instance."""

    def __init__(self, path: str) -> None:
        self.text = path
        self.slow = False
        self._store = Store(path)

    def manifest(self, name: Name, alone: bool) -> Manifest | None:  # pylint: disable=unused-argument
        """What a name means there, None when it is not there."""
        try:
            try:
                return self._store.read(name)
            except PermissionError:
                # what the owner of the other store may not read
                with as_root():
                    return self._store.read(name)
        except OSError as error:
            raise FetchError(f"{self.text} cannot be read: {error.strerror}", "not-found") from None

    def blob(self, name: Name, layer: Layer, alone: bool) -> FileBlob:  # pylint: disable=unused-argument
        """A layer of a model."""
        return FileBlob(self._store.blob_path(layer.digest), layer)


Source = Any  # WebSource or PathSource


# -- progress -------------------------------------------------------------------

class Progress:
    """How far the pull is, as a JSON file for whoever looks. Without a path nothing is written.

    The file is opened at once: its directory may be root's alone, and the pull is done as another user.
    """

    def __init__(self, path: str | None, models: int) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644) if path else -1
        self._length = 0
        self._lock = threading.Lock()
        self._state: dict[str, Any] = {"model": "", "completed": 0, "total": 0, "rate": 0, "models_done": 0, "models": models}
        self._base = self._layer = self._came = 0
        self._written = 0.0
        self._samples: deque[tuple[float, int]] = deque()
        if path:
            self._write()

    def waiting(self, model: Model) -> None:
        """Another pull has a layer of this model in hand."""
        with self._lock:
            self._state.update(model=f"{model.name.display} (waits for another pull)")
            self._report(False)

    def start(self, model: Model, total: int, present: int) -> None:
        """A model begins, of so many bytes, of which so many were there."""
        self.begin(model.name.display, total, present)

    def begin(self, what: str, total: int, present: int = 0) -> None:
        """The same for something that need not be a model."""
        with self._lock:
            self._base, self._layer = present, 0
            self._state.update(model=what, total=total)
            self._report(True)

    def layer(self, there: int) -> None:
        """Of the layer in hand so many bytes are there."""
        with self._lock:
            self._layer = there
            self._report(False)

    def arrived(self, count: int) -> None:
        """So many bytes of the layer in hand came."""
        with self._lock:
            self._layer += count
            self._came += count
            self._report(False)

    def layer_done(self, size: int) -> None:
        """The layer in hand is whole."""
        with self._lock:
            self._base, self._layer = self._base + size, 0

    def done(self) -> None:
        """The model is there."""
        with self._lock:
            self._state["models_done"] += 1
            self._report(True)

    def _report(self, at_once: bool) -> None:
        now = time.monotonic()
        if self._file < 0 or (not at_once and now - self._written < _WRITE_SECONDS):
            return
        self._written = now
        self._samples.append((now, self._came))
        while now - self._samples[0][0] > _RATE_SECONDS:
            self._samples.popleft()
        seconds, came = now - self._samples[0][0], self._came - self._samples[0][1]
        self._state.update(completed=self._base + self._layer, rate=int(came / seconds) if seconds else 0)
        # the pull is worth more than the news of it
        with suppress(OSError):
            self._write()

    def _write(self) -> None:
        # never shorter than before, so that no reader finds the end of what was there
        text = json.dumps(self._state).encode().ljust(self._length)
        self._length = len(text)
        os.pwrite(self._file, text, 0)


# -- the pull -------------------------------------------------------------------

class Sideload:
    """Makes a store hold models. C(make_http) is called when the first request over the network is due, which may be never."""

    def __init__(self, store: Store, make_http: Callable[[], Http], options: Options) -> None:
        self.store = store
        self.options = options
        self.fetched = 0
        self._make_http = make_http
        self._http: Http | None = None
        self._budget = Budget(options.rate)
        self._count = threading.Lock()
        self._sources: list[Source] = []
        self._registries: dict[str, WebSource] = {}
        # blobs that were hashed, by what they were then: another pull may put good ones there
        self._bad: dict[str, list[int]] = {}
        self._good: dict[str, list[int]] = {}
        for source in options.sources:
            check_source(source)

    # -- what is to be done ----------------------------------------------------

    def plan(self, names: list[Name], lock: Lock, dry: bool) -> Plan:
        """Compare the store with what is wanted. C(dry) touches nothing and asks nobody. Raises FetchError."""
        self._bad, self._good = {}, {}
        # all entries of the lock are looked at before the first request
        wanted = [lock.manifest(name) for name in names]
        models = [self._model(name, manifest, dry) for name, manifest in zip(names, wanted)]
        hashed = sum(self._verify(model.name, model.manifest, dry) for model in models if model.manifest)
        layers = list({layer.digest: layer for model in models if model.manifest for layer in model.manifest.layers}.values())
        missing = self._lacking(layers)
        absent = {layer.digest for layer in missing}
        for model in models:
            model.missing = [layer for layer in model.manifest.layers if layer.digest in absent] if model.manifest else []
        plan = Plan(models, missing, self.store.staged_bytes(missing), self.store.free(), hashed, list(self._bad))
        # in check mode the disk of a store that is not there yet may not be there yet either
        if not dry or os.path.isdir(self.store.blobs):
            self._check_space(plan)
        return plan

    def _model(self, name: Name, wanted: Manifest | None, dry: bool) -> Model:
        try:
            present = self.store.read(name)
        except ManifestError:
            # it names nothing, so a server does not show it either
            present = None
        if wanted:
            return Model(name, present, wanted, "locked")
        if present and (dry or not self.options.refresh):
            return Model(name, present, present, "present")
        return Model(name, present, None if dry else self._resolve(name), "resolved")

    def unverified(self, plan: Plan) -> int:
        """Bytes of the models' blobs in the store that were never compared with their digests."""
        layers = {layer.digest: layer for model in plan.models for layer in (model.manifest.layers if model.manifest else [])}
        return sum(layer.size for layer in self.store.unverified(layers.values()))

    def _lacking(self, layers: Iterable[Layer]) -> list[Layer]:
        """Of some layers those that have to be fetched."""
        found = [(layer, self.store.identity(layer.digest)) for layer in layers]
        return [layer for layer, identity in found if not identity or identity[0] != layer.size or identity == self._bad.get(layer.digest)]

    def _verify(self, name: Name, manifest: Manifest, dry: bool) -> int:
        """Find bad blobs. Returns the bytes that were hashed. FetchError where a good blob has another size than the manifest says."""
        # taken before: bytes that are written later are not those that were hashed
        found = {layer: identity for layer in manifest.layers if layer.digest not in self._bad and (identity := self.store.identity(layer.digest))}
        unverified, hashed = self.store.unverified(found), 0
        for layer, identity in found.items():
            fits, known = identity[0] == layer.size, layer not in unverified
            if not self.options.verify and (known or dry):
                good = known or fits
            elif identity == self._good.get(layer.digest):
                good = True
            else:
                good = self._is_good(layer)
                hashed += identity[0]
                if good:
                    self._good[layer.digest] = identity
                    if not dry:
                        self.store.remember({layer.digest: identity})
            if not good:
                self._bad[layer.digest] = identity
            elif not fits:
                text = f"the manifest of {name.display} gives a wrong size: {layer.digest} has {identity[0]} bytes, and should have {layer.size}"
                raise FetchError(text, "size")
        return hashed

    def _is_good(self, layer: Layer) -> bool:
        try:
            return sha256_file(self.store.blob_path(layer.digest)) == layer.digest
        except FileNotFoundError:
            # deleted meanwhile: it is missing, not bad
            return True
        except OSError as error:
            if error.errno in (errno.EIO, errno.EISDIR) or isinstance(error, NoFile):
                return False
            raise

    def _check_space(self, plan: Plan) -> None:
        needed = max(0, plan.missing_bytes - plan.staged)
        if needed and needed + self.options.reserve > plan.free:
            raise FetchError(
                f"{self.store.path} has {bytes_to_human(plan.free)} free; {bytes_to_human(needed)} are to come, and {bytes_to_human(self.options.reserve)} "
                f"are kept in reserve: make room, name fewer models or lower reserve. Exactly: {plan.free} free, {needed} needed, "
                f"{self.options.reserve} in reserve. Nothing was fetched", "disk", final=True,
            )

    # -- sources ----------------------------------------------------------------

    def _client(self) -> Http:
        if self._http is None:
            self._http = self._make_http()
        return self._http

    def _sources_for(self, name: Name) -> list[Source]:
        """Whom to ask, in order: those that did not answer before come last."""
        if not self._sources:
            self._sources = [
                PathSource(text) if text.startswith("/") else WebSource(self._client().direct(), text, self._budget, True) for text in self.options.sources
            ]
        found = [*self.options.first, *self._sources, *([self._registry(name)] if self.options.upstream else [])]
        return sorted(found, key=lambda source: source.slow)

    def _registry(self, name: Name) -> WebSource:
        if name.host not in self._registries:
            scheme = "http" if self.options.insecure else "https"
            self._registries[name.host] = WebSource(self._client(), f"{scheme}://{name.host}", self._budget, False)
        return self._registries[name.host]

    def _ask(self, name: Name, what: str, question: Callable[[Source, bool], Any]) -> Any:
        """The first answer of a source that is not None. Raises FetchError with what each of them said."""
        sources, errors = self._sources_for(name), []
        for source in sources:
            try:
                answer = question(source, source is sources[-1])
                if answer is not None:
                    return answer
            except ManifestError as error:
                errors.append(FetchError(f"{source.text}: {error}", "http"))
            except FetchError as error:
                source.slow = error.kind in _SLOW
                errors.append(error)
                if error.final:
                    raise FetchError(f"{what}: {error}", error.kind, final=True) from None
        kinds = {error.kind for error in errors}
        text = "; ".join(str(error) for error in errors) or "no source has it" + ("" if sources else ": name sources, or set upstream")
        raise FetchError(f"{what} cannot be had: {text}", kinds.pop() if len(kinds) == 1 else "all-sources" if kinds else "not-found")

    def _resolve(self, name: Name) -> Manifest:
        if self.options.refresh and self.options.upstream:
            registry = self._registry(name)
            try:
                # only the registry knows that a tag was moved; a mirror holds what it once was
                found = None if registry.slow else registry.manifest(name, not self.options.sources)
                if found:
                    return found
            except ManifestError:
                # a page of something between, perhaps
                registry.slow = True
            except FetchError as error:
                registry.slow = error.kind in _SLOW
                if error.final or error.kind in _ANSWERS:
                    raise FetchError(f"the manifest of {name.display} cannot be had: {error}", error.kind, error.final) from None
        return self._ask(name, f"the manifest of {name.display}", lambda source, alone: source.manifest(name, alone))

    # -- doing it ----------------------------------------------------------------

    def run(self, plan: Plan, progress: Progress) -> None:
        """Fetch what is missing and publish each model as soon as it is whole. Raises FetchError."""
        if any(model.changed for model in plan.models):
            self.store.make_directories()
        for model in plan.models:
            if model.changed and model.manifest:
                self._pull(model, model.manifest, progress)
            progress.done()
        self.store.tidy()

    def _pull(self, model: Model, manifest: Manifest, progress: Progress) -> None:
        total = sum(layer.size for layer in manifest.layers)
        for _try in range(_PUBLISH_TRIES):
            with ExitStack() as locks:
                # until all is published; in one order, so that no two pulls wait for each other
                wanted = sorted(self._lacking(manifest.layers), key=lambda layer: layer.digest)
                for layer in wanted:
                    locks.enter_context(self.store.lock(layer.file, lambda: progress.waiting(model)))
                # another pull, or a model before this one, may have brought some
                lacking = sorted(self._lacking(wanted), key=lambda layer: -layer.size)
                progress.start(model, total, total - sum(layer.size for layer in lacking))
                parts = [self._fetch(model.name, layer, progress) for layer in lacking]
                self._publish(model.name, manifest, parts)
                for part in parts:
                    # its map
                    part.drop()
            gone = self.store.missing(manifest.layers)
            if not gone:
                return
        raise FetchError(f"{model.name.display}: the blob {gone[0].digest} was deleted during the pull, as a server does at its start: run it again", "retries")

    def _publish(self, name: Name, manifest: Manifest, parts: list[Part]) -> None:
        try:
            self.store.publish(name, manifest, {part.layer.digest: part.path for part in parts})
        except OSError as error:
            raise FetchError(f"{name.display} cannot be published in {self.store.path}: {error}", "disk", final=True) from None

    def _fetch(self, name: Name, layer: Layer, progress: Progress) -> Part:
        """Have a verified part of a layer."""
        part = Part(self.store, layer, self.options.chunk_size)
        home = self.options.homes.get(layer.digest, name)
        self._ask(home, f"{layer.digest} of {name.display}", lambda source, alone: self._from(source, home, part, alone, progress))
        progress.layer_done(layer.size)
        return part

    def _from(self, source: Source, name: Name, part: Part, alone: bool, progress: Progress) -> bool:
        """Complete a part from one source. FetchError when it cannot, of kind C(digest) when the source has wrong bytes."""
        layer = part.layer
        for _try in range(2):
            blob = source.blob(name, layer, alone)
            resumed = part.open()
            progress.layer(part.present)
            arrived = self._counter(progress) if blob.network else progress.arrived
            found = Download(part, blob, self.options.connections, arrived).run()
            if found == layer.digest:
                return True
            part.drop()
            # what was there before may have been the wrong piece
            if not resumed:
                break
        raise FetchError(f"{source.text} has other bytes under this digest: their SHA-256 is {found}", "digest")

    def _counter(self, progress: Progress) -> Callable[[int], None]:
        def arrived(count: int) -> None:
            with self._count:
                self.fetched += count
            progress.arrived(count)

        return arrived
