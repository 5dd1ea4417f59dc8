# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the stand-in's registry has on offer: manifests by name, blobs by digest, uploads under way."""
from __future__ import annotations

import hashlib
import json
import secrets
import threading
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Iterable

from . import catalogue, names


class Shelf:
    """Manifests and blobs. Models of the catalogue are made when they are first asked for."""

    def __init__(self, specs: Iterable[catalogue.ModelSpec], cache: Path) -> None:
        self.blobs = catalogue.BlobCache(cache)
        self._lock = threading.RLock()
        self._specs = {_key(spec.name): spec for spec in specs}
        self._manifests: dict[tuple[str, str], bytes] = {}
        self._by_digest: dict[str, bytes] = {}
        self._uploads: dict[str, Path] = {}

    def names(self) -> list[str]:
        """All models on offer as `namespace/model:tag`."""
        with self._lock:
            return sorted(f"{repository}:{tag}" for repository, tag in set(self._specs) | set(self._manifests))

    def manifest(self, repository: str, reference: str) -> bytes | None:
        """The manifest under a tag or a digest, byte for byte the same each time."""
        with self._lock:
            if reference.startswith("sha256:"):
                return self._by_digest.get(reference)
            key = (repository.lower(), reference.lower())
            if key not in self._manifests and key in self._specs:
                self._put(key, catalogue.build(self._specs[key], self.blobs))
            return self._manifests.get(key)

    def requires(self, repository: str, tag: str) -> str:
        """The least Ollama version that a catalogue entry asks for, or an empty string."""
        with self._lock:
            spec = self._specs.get((repository.lower(), tag.lower()))
            return spec.requires if spec else ""

    def publish(self, repository: str, tag: str, raw: bytes) -> list[str]:
        """Take a pushed manifest; the digests that it names and that are missing (then nothing is taken)."""
        document = json.loads(raw)
        entries = list(document.get("layers") or [])
        # A config with no digest is legal in old manifests; there is nothing to check then.
        entries += [document["config"]] if (document.get("config") or {}).get("digest") else []
        missing = [entry["digest"] for entry in entries if self.blob(entry["digest"]) is None]
        if not missing:
            with self._lock:
                self._put((repository.lower(), tag.lower()), raw)
        return missing

    def republish(self, name: str, seed: int) -> str:
        """Give a name of the catalogue other content, as when a tag moves; the new digest."""
        key = _key(name)
        with self._lock:
            spec = replace(self._specs[key], seed=seed)
            self._specs[key] = spec
            raw = catalogue.build(spec, self.blobs)
            self._put(key, raw)
        return "sha256:" + hashlib.sha256(raw).hexdigest()

    def blob(self, digest: str) -> Path | None:
        """The file of a digest, None when the registry does not have it."""
        path = self.blobs.path(digest)
        if not digest.startswith("sha256:") or "/" in digest:
            return None
        if not path.exists():
            # A digest of the catalogue may be asked for before its manifest, by a client that holds a lock file.
            self._make_all()
        return path if path.exists() else None

    def start_upload(self) -> str:
        """A new upload; its identifier."""
        upload = secrets.token_hex(16)
        path = self.blobs.directory / f"upload-{upload}"
        path.touch()
        with self._lock:
            self._uploads[upload] = path
        return upload

    def append(self, upload: str, stream: BinaryIO, length: int) -> bool:
        """Add a part to an upload; False when there is no such upload."""
        path = self._uploads.get(upload)
        if path is None:
            return False
        with path.open("ab") as target:
            while length > 0:
                piece = stream.read(min(length, 1 << 20))
                if not piece:
                    break
                target.write(piece)
                length -= len(piece)
        return True

    def finish(self, upload: str, digest: str) -> bool:
        """End an upload; False when its bytes are not what the digest says."""
        with self._lock:
            path = self._uploads.pop(upload, None)
        if path is None:
            return False
        with path.open("rb") as stream:
            found = "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()
        if found != digest:
            path.unlink()
            return False
        path.replace(self.blobs.path(digest))
        return True

    def _put(self, key: tuple[str, str], raw: bytes) -> None:
        self._manifests[key] = raw
        self._by_digest["sha256:" + hashlib.sha256(raw).hexdigest()] = raw

    def _make_all(self) -> None:
        with self._lock:
            for repository, tag in list(self._specs):
                self.manifest(repository, tag)


def _key(name: str) -> tuple[str, str]:
    parsed = names.parse(name)
    return parsed.repository.lower(), parsed.tag.lower()
