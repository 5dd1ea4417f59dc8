"""A store with models of a registry (stand-in) and of one's own, and repositories of all kinds for its backups, on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any, Callable

from ansible_collections.gpufleet.ollama.plugins.module_utils._backup import Backup, Index, Report, Restore, Result, choose
from ansible_collections.gpufleet.ollama.plugins.module_utils._http import Http
from ansible_collections.gpufleet.ollama.plugins.module_utils._manifests import MEDIA_TYPE, Manifest, lock_entry
from ansible_collections.gpufleet.ollama.plugins.module_utils._names import parse
from ansible_collections.gpufleet.ollama.plugins.module_utils._repository import Policy, Repository, Restic
from ansible_collections.gpufleet.ollama.plugins.module_utils._sideload import Lock, Options, Progress, Sideload
from ansible_collections.gpufleet.ollama.plugins.module_utils._store import Store

ROOT = Path(__file__).resolve().parents[3]
BASE = "smollm2:135m"
OWN = "support-bot:latest"
ADAPTED = "adapted:1b"
PASSWORD = {"RESTIC_PASSWORD": "not a secret"}
KEEP_ALL = Policy()


def restic_program() -> str:
    """Where restic is; empty when this machine has none."""
    unpacked = ROOT / ".venv/restic/usr/bin/restic"
    return str(unpacked) if unpacked.exists() else shutil.which("restic") or ""


class Rig:
    """A registry, a host's store, and the lock."""

    def __init__(self, start_registry: Callable[..., Any], folder: Path) -> None:
        self.registry = start_registry()
        self.folder = folder
        self.store = Store(str(folder / "a/models"))
        self.lock: dict[str, Any] = {}

    def fill(self) -> None:
        """The store as a host has it: two models of the registry, and two that are made from one of them."""
        for name in (BASE, "all-minilm:latest"):
            parsed = parse(name)
            raw = self.registry.get(f"/v2/{parsed.namespace}/{parsed.model}/manifests/{parsed.tag}")
            self.lock[name] = lock_entry(raw, "registry.ollama.ai")
        self.pull(self.store, *self.lock)
        base = self.store.read(parse(BASE))
        assert base
        weights = base.first("model")
        assert weights
        self.make(OWN, [(weights.digest, weights.size, "model"), (b"You answer support questions.", "system")])
        self.make(ADAPTED, [(weights.digest, weights.size, "model"), (random.Random(3).randbytes(3 << 20), "adapter")])

    def pull(self, store: Store, *names: str) -> None:
        """Models of the registry into a store."""
        found = Sideload(store, lambda: Http("ollama/9.0.0", 5, 0), self.options())
        wanted = [parse(name) for name in names]
        found.run(found.plan(wanted, Lock(self.lock), False), Progress(None, len(wanted)))

    def options(self, **more: Any) -> Options:
        """Where a puller gets from."""
        return Options(**{"sources": [self.registry.url], "upstream": False, "chunk_size": 256 << 10, **more})

    def make(self, name: str, parts: list[Any]) -> Manifest:
        """A model of one's own: layers are (bytes, kind), or (digest, size, kind) for those that are there."""
        layers = []
        for part in [(json.dumps({"name": name}).encode(), "config"), *parts]:
            digest, size = (part[0], part[1]) if len(part) == 3 else (f"sha256:{hashlib.sha256(part[0]).hexdigest()}", len(part[0]))
            if len(part) == 2:
                Path(self.store.blob_path(digest)).write_bytes(part[0])
            layers.append({"mediaType": f"application/vnd.ollama.image.{part[-1]}", "digest": digest, "size": size})
        config = {**layers[0], "mediaType": "application/vnd.docker.container.image.v1+json"}
        manifest = Manifest(json.dumps({"schemaVersion": 2, "mediaType": MEDIA_TYPE, "config": config, "layers": layers[1:]}).encode() + b"\n")
        path = Path(self.store.manifest_path(parse(name)))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(manifest.raw)
        # as the collection notes what it built
        record = Path(self.store.private) / "custom" / f"{name.replace(':', '@')}.json"
        record.parent.mkdir(exist_ok=True)
        record.write_text(json.dumps({"name": name, "hash": "1", "digest": manifest.digest[7:]}), encoding="utf-8")
        return manifest

    def backup(self, repository: Repository, policy: Policy = KEEP_ALL, **more: Any) -> Result:
        """A backup of the host's store."""
        return Backup(self.store, repository, **{"lock": self.lock, "host": "gpu1", **more}).run(policy)

    def restore(self, repository: Repository, store: Store, *names: str, dry: bool = False, **options: Any) -> tuple[Restore, Report]:
        """A restore into a store, of all models unless some are named."""
        found = Restore(store, repository, choose(repository, "gpu1"), self.options(**options), lambda: Http("ollama/9.0.0", 5, 0))
        wanted = found.names(names)
        report = found.plan(wanted, dry)
        if not dry:
            found.run(report, Progress(None, len(wanted)))
            found.check(wanted)
        return found, report

    def sent(self) -> int:
        """Bytes of blobs that the registry sent since the last call."""
        count = self.registry.get("/_double/stats")["kinds"].get("blob_range", {}).get("bytes", 0)
        self.registry.post("/_double/stats")
        return count


def tree(store: Store) -> dict[str, bytes]:
    """All that a server sees of a store."""
    return {
        os.path.relpath(os.path.join(folder, file), store.path): Path(folder, file).read_bytes()
        for top in (store.blobs, store.manifests) for folder, _folders, files in os.walk(top) for file in files
    }


def content(folder: str | Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def restic(repository: str, cache: Path, password: str = "not a secret", **more: Any) -> Restic:
    """A repository of restic with its cache in a folder."""
    environment = {"RESTIC_PASSWORD": password, "RESTIC_CACHE_DIR": str(cache), **more.pop("environment", {})}
    return Restic(repository, environment, **{"lock_seconds": 2, "binary": restic_program(), **more})


def own_bytes(index: Index) -> int:
    """What the models of one's own have beside the base's weights."""
    return sum(layer.size for layer in index.saved)
