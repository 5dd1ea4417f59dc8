# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What models there are, by the store on disk and by the server, and how many bytes are missing to those that are wanted.

Either of the two may be absent: a bare host has neither, a host whose store belongs to a container may show only the server.
"""

from __future__ import annotations

import json
from typing import Any, Iterable, Mapping, NamedTuple

from ansible_collections.gpufleet.ollama.plugins.module_utils import _ps
from ansible_collections.gpufleet.ollama.plugins.module_utils._client import OllamaClient, OllamaUnreachable
from ansible_collections.gpufleet.ollama.plugins.module_utils._gguf import GgufError, file_reader, read_metadata
from ansible_collections.gpufleet.ollama.plugins.module_utils._manifests import Layer, Manifest, locked
from ansible_collections.gpufleet.ollama.plugins.module_utils._names import Name, parse
from ansible_collections.gpufleet.ollama.plugins.module_utils._store import NoFile, Store, read_file

# what a server loads into memory; the rest of a model are texts
WEIGHTS = ("model", "projector", "adapter", "tensor", "draft")
# item of the result: key of Ollama's details, and of the config in the store
_DETAILS = {
    "format": ("format", "model_format"),
    "family": ("family", "model_family"),
    "parameter_size": ("parameter_size", "model_type"),
    "quantization": ("quantization_level", "file_type"),
}
_NOT_LOADED = {"loaded": False, "size_vram": 0, "processor_gpu": None, "expires_at": ""}


class Server(NamedTuple):
    """What a server says: version, items of C(/api/tags) by the key of the name, items of C(_ps.loaded)."""

    version: str
    models: dict[str, dict[str, Any]]
    loaded: list[dict[str, Any]]


def ask(client: OllamaClient | None) -> Server | None:
    """Ask a server; None when there is none. OllamaError when something else answers, or answers an error."""
    if client is None:
        return None
    try:
        version = client.version()
        models, loaded = client.models(), _ps.loaded(client)
    except OllamaUnreachable:
        return None
    return Server(version, {key: item for item in models if (key := _key(item["name"]))}, loaded)


def _key(name: str) -> str:
    try:
        return parse(name).key
    except ValueError:
        return ""


class Survey:
    """The models of one instance.

    Args: C(store), None when the disk is not to be looked at; C(server), None when none answers; C(lock), the lock file, name -> entry;
    C(metadata) reads the header of the weights, too. C(warnings) says what could not be read. Raises ManifestError for a damaged lock,
    ValueError for a name that is none, OSError for a store that cannot be read.
    """

    def __init__(self, store: Store | None, server: Server | None, lock: Mapping[str, Any], metadata: bool = False) -> None:
        self.store = store
        self.server = server
        self.lock = {parse(name).key: locked(name, entry) for name, entry in lock.items()}
        self.metadata = metadata
        self.warnings: list[str] = []
        self.broken: list[str] = []
        self.manifests = self._manifests()

    def _manifests(self) -> dict[str, tuple[Name, Manifest]]:
        found = {}
        for name, path in (self.store.names() if self.store else {}).items():
            try:
                # a hidden file is no model to Ollama either, and keeps it from pruning
                parse(name.display)
                manifest = self.store.read_path(path)
            except ValueError:
                self.broken.append(path)
                continue
            if manifest:
                found[name.key] = (name, manifest)
        return found

    def models(self) -> list[dict[str, Any]]:
        """All models, those of the store and those that only the server knows, by name."""
        listed = self.server.models if self.server else {}
        found = [self._of_store(name, manifest, listed.get(key, {})) for key, (name, manifest) in self.manifests.items()]
        found += [self._of_server(key, item) for key, item in listed.items() if key not in self.manifests]
        return sorted(found, key=lambda model: model["name"])

    def _of_store(self, name: Name, manifest: Manifest, item: dict[str, Any]) -> dict[str, Any]:
        digest = manifest.digest.partition(":")[2]
        # a server with another store may have something else under the name
        fits = item if item.get("digest") == digest else {}
        details, config = fits.get("details") or {}, self._config(name, manifest)
        missing = self.store.missing(manifest.layers)
        return {
            "name": name.display,
            "digest": digest,
            "size": manifest.size,
            **{key: str(details.get(of_api) or config.get(of_config) or "") for key, (of_api, of_config) in _DETAILS.items()},
            "capabilities": fits.get("capabilities") or [],
            **self._loaded(name.key, digest),
            "stale": self._stale(name.key, digest),
            "complete": not missing,
            "unverified_bytes": sum(layer.size for layer in self.store.unverified(manifest.layers)),
            "weights_bytes": sum(layer.size for layer in manifest.layers if layer.kind in WEIGHTS),
            "metadata": self._metadata(name, manifest) if self.metadata else {},
        }

    def _of_server(self, key: str, item: dict[str, Any]) -> dict[str, Any]:
        digest, details = item.get("digest", ""), item.get("details") or {}
        return {
            "name": item["name"],
            "digest": digest,
            "size": item.get("size", 0),
            **{name: str(details.get(of_api) or "") for name, (of_api, _config) in _DETAILS.items()},
            "capabilities": item.get("capabilities") or [],
            **self._loaded(key, digest),
            "stale": self._stale(key, digest),
            "complete": None,
            "unverified_bytes": None,
            "weights_bytes": item.get("size", 0),
            "metadata": {},
        }

    def _config(self, name: Name, manifest: Manifest) -> dict[str, Any]:
        if not manifest.config:
            return {}
        try:
            found = json.loads(read_file(self.store.blob_path(manifest.config.digest)))
        except FileNotFoundError:
            # complete says so
            return {}
        except (NoFile, ValueError, RecursionError):
            self.warnings.append(f"the config of {name.display} is damaged: {self.store.blob_path(manifest.config.digest)}")
            return {}
        return found if isinstance(found, dict) else {}

    def _metadata(self, name: Name, manifest: Manifest) -> dict[str, Any]:
        weights = manifest.first("model")
        if not weights or self.store.missing([weights]):
            return {}
        try:
            return read_metadata(file_reader(self.store.blob_path(weights.digest)))
        except GgufError as error:
            self.warnings.append(f"the weights of {name.display} say nothing of the model: {error}")
            return {}

    def _loaded(self, key: str, digest: str) -> dict[str, Any]:
        """Names of the same weights share a runner, which is listed under one of them."""
        runners = self.server.loaded if self.server else []
        item = next((item for item in runners if _key(item["name"]) == key or (digest and item["digest"] == digest)), None)
        return {"loaded": True, **{name: item[name] for name in _NOT_LOADED if name != "loaded"}} if item else _NOT_LOADED

    def _stale(self, key: str, digest: str) -> bool | None:
        manifest = self.lock.get(key)
        return manifest.digest != f"sha256:{digest}" if manifest else None

    def wanted(self, names: Iterable[str]) -> dict[str, Any]:
        """What is missing to models that are wanted.

        missing_bytes: of their layers that are not in the store, each once, without what is downloaded of them already, staged_bytes. A locked
        model counts as its lock has it, another one as its manifest has it. absent: those that are not there. unknown: those of them
        that are not locked either, so that nobody knows their size. Both as names with their tags.
        """
        needed: dict[str, Layer] = {}
        absent, unknown = set(), set()
        for name in map(parse, names):
            manifest = self.lock.get(name.key) or self.manifests.get(name.key, (name, None))[1]
            if not self._is_there(name.key):
                absent.add(name.display)
                if not manifest:
                    unknown.add(name.display)
            if manifest and not self._served(name.key, manifest):
                needed.update({layer.digest: layer for layer in manifest.layers})
        missing = self.store.missing(needed.values()) if self.store else list(needed.values())
        staged = self.store.staged_bytes(missing) if self.store else 0
        return {
            "missing_bytes": sum(layer.size for layer in missing) - staged,
            "staged_bytes": staged,
            "absent": sorted(absent),
            "unknown": sorted(unknown),
        }

    def _is_there(self, key: str) -> bool:
        return key in self.manifests or bool(self.server and key in self.server.models)

    def _served(self, key: str, manifest: Manifest) -> bool:
        """Without a store only the server can tell that nothing is missing."""
        return not self.store and bool(self.server) and f"sha256:{self.server.models.get(key, {}).get('digest')}" == manifest.digest

    def disk(self) -> dict[str, Any]:
        """The store as a whole; null and empty when the disk is not to be looked at."""
        if not self.store:
            return {"store_bytes": None, "free_bytes": None, "orphaned_blobs": [], "partial_blobs": [], "broken_manifests": []}
        return {
            "store_bytes": self.store.bytes(),
            "free_bytes": self.store.free(),
            "orphaned_blobs": [{"digest": digest, "size": size} for digest, size in self.store.orphans().items()],
            "partial_blobs": [{"path": path, "size": size} for path, size in self.store.partials().items()],
            "broken_manifests": sorted(self.broken),
        }
