# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ollama's store on disk, as the stand-in keeps it: manifests and content-addressed blobs, real layout and real pruning."""
from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Iterable

from .names import Name, parse_path

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
PRUNE_GRACE_SECONDS = 3600.0
_DIGEST = re.compile(r"^sha256[:-][0-9a-fA-F]{64}$")
_PIECE = 1 << 20
# Read once at import: the umask can only be read by setting it, which other threads would notice.
_UMASK = os.umask(0)
os.umask(_UMASK)


class InvalidDigest(ValueError):
    """The text is no `sha256:<64 hex digits>`."""

    def __init__(self) -> None:
        super().__init__("invalid digest format")


class BadManifest(ValueError):
    """A file below `manifests/` that is no manifest."""


@dataclass(frozen=True)
class Manifest:
    """A manifest with its exact bytes; `digest` is their SHA-256 with no prefix, as /api/tags shows it."""

    name: Name
    raw: bytes
    document: dict[str, Any]
    modified: float

    @property
    def digest(self) -> str:
        """SHA-256 of the bytes."""
        return hashlib.sha256(self.raw).hexdigest()

    @property
    def layers(self) -> list[dict[str, Any]]:
        """The layers, config excluded."""
        return list(self.document.get("layers") or [])

    @property
    def config(self) -> dict[str, Any]:
        """The config layer, possibly empty."""
        return dict(self.document.get("config") or {})

    @property
    def all_layers(self) -> list[dict[str, Any]]:
        """Layers and, last, the config when it has a digest."""
        return self.layers + ([self.config] if self.config.get("digest") else [])

    @property
    def size(self) -> int:
        """Bytes of all layers and the config."""
        return sum(int(layer.get("size", 0)) for layer in self.all_layers)


class Store:
    """A directory with `manifests/<host>/<namespace>/<model>/<tag>` and `blobs/sha256-<hex>`."""

    def __init__(self, root: Path, no_prune: bool = False) -> None:
        self.root = root
        self.no_prune = no_prune

    # -- blobs --------------------------------------------------------------------------------------------------

    @property
    def blobs(self) -> Path:
        """The directory of the blobs, made when missing."""
        path = self.root / "blobs"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def blob_path(self, digest: str) -> Path:
        """The file of a digest; InvalidDigest when it is none."""
        if not _DIGEST.match(digest):
            raise InvalidDigest
        return self.blobs / digest.replace(":", "-")

    def add_blob(self, source: BinaryIO | Iterable[bytes], length: int | None = None) -> tuple[str, int, bool]:
        """Store bytes under their own digest: (digest, size, whether it was new)."""
        digest, size = hashlib.sha256(), 0
        handle, temporary = tempfile.mkstemp(prefix="sha256-", dir=self.blobs)
        try:
            with os.fdopen(handle, "wb") as stream:
                for piece in _pieces(source, length):
                    digest.update(piece)
                    size += stream.write(piece)
            name = f"sha256:{digest.hexdigest()}"
            path = self.blob_path(name)
            new = not path.exists()
            if new:
                os.replace(temporary, path)
                # mkstemp makes 0600; other users of the host may read models, minus the umask as for any new file.
                path.chmod(0o644 & ~_UMASK)
            os.utime(path)
        finally:
            Path(temporary).unlink(missing_ok=True)
        return name, size, new

    def blob_text(self, digest: str) -> str:
        """A small blob as text."""
        return self.blob_path(digest).read_text(encoding="utf-8", errors="replace")

    def blob_json(self, digest: str) -> Any:
        """A small blob as JSON."""
        return json.loads(self.blob_path(digest).read_bytes())

    # -- manifests ----------------------------------------------------------------------------------------------

    @property
    def manifests_dir(self) -> Path:
        """The directory of the manifests, made when missing."""
        path = self.root / "manifests"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def manifests(self, strict: bool = False) -> dict[Name, Manifest]:
        """All readable manifests; with `strict` a bad file raises BadManifest."""
        found: dict[Name, Manifest] = {}
        root = self.manifests_dir
        # Hidden files match as well: a stray `.DS_Store` is a bad manifest name.
        for path in glob.glob(os.path.join(glob.escape(str(root)), *"****"), include_hidden=True):
            if not os.path.isfile(path):
                continue
            name = parse_path(os.path.relpath(path, root))
            try:
                if name is None:
                    raise BadManifest(path)
                found[name] = self._read(name)
            except (BadManifest, FileNotFoundError) as error:
                if strict:
                    raise BadManifest(str(error)) from error
        return found

    def manifest(self, name: Name) -> Manifest:
        """The manifest of exactly this name; FileNotFoundError or BadManifest."""
        return self._read(name)

    def existing(self, name: Name) -> Name:
        """The name as the store already spells it: names match case-insensitively."""
        return name.spelled_like(self.manifests())

    def write_manifest(self, name: Name, raw: bytes) -> Manifest:
        """Write the bytes as they are, not atomically, as Ollama does."""
        path = self.manifests_dir / name.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)
        return Manifest(name, raw, json.loads(raw), path.stat().st_mtime)

    def write_layers(self, name: Name, config: dict[str, Any], layers: list[dict[str, Any]]) -> Manifest:
        """Write a manifest that was made here: compact JSON with a newline at its end."""
        document = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config, "layers": layers}
        return self.write_manifest(name, go_json(document))

    def copy(self, source: Name, destination: Name) -> None:
        """Copy a manifest; the blobs are shared."""
        if source.path != destination.path:
            self.write_manifest(destination, self.manifest(source).raw)

    def delete(self, name: Name) -> None:
        """Remove a model and the blobs that no other model uses."""
        manifest = self.manifest(name)
        (self.manifests_dir / name.path).unlink()
        self._prune_directories(self.manifests_dir)
        self.remove_unused(layer["digest"] for layer in manifest.all_layers)

    def remove_unused(self, digests: Iterable[str]) -> list[str]:
        """Remove those of the blobs that no manifest names."""
        used = self._used()
        removed = []
        for digest in set(digests) - used:
            path = self.blob_path(digest)
            if path.exists():
                path.unlink()
                removed.append(digest)
        return removed

    def prune(self, now: float | None = None) -> str:
        """The start-up prune; returns the log line.

        Blobs that nobody uses, partial downloads and foreign files go, when they are older than an hour. A bad file
        among the manifests switches the prune off, since a blob of an unreadable model would look unused.
        """
        now = time.time() if now is None else now
        self._fix_blob_names()
        if self.no_prune:
            return "prune is off"
        try:
            self.manifests(strict=True)
        except BadManifest as error:
            return f"corrupt manifests detected, skipping prune operation.  Re-pull or delete to clear: {error}"
        used, removed = self._used(), 0
        for path in self.blobs.iterdir():
            if path.is_dir() or now - path.stat().st_mtime < PRUNE_GRACE_SECONDS:
                continue
            if path.name.replace("-", ":", 1) not in used:
                path.unlink()
                removed += 1
        self._prune_directories(self.manifests_dir)
        return f"total unused blobs removed: {removed}"

    def _read(self, name: Name) -> Manifest:
        path = self.manifests_dir / name.path
        if path.is_dir():
            raise FileNotFoundError(str(path))
        raw = path.read_bytes()
        try:
            document, _end = json.JSONDecoder().raw_decode(raw.decode("utf-8").lstrip())
        except ValueError as error:
            raise BadManifest(f"{name.full}: {error}") from error
        if not isinstance(document, dict):
            raise BadManifest(f"{name.full}: not an object")
        return Manifest(name, raw, document, path.stat().st_mtime)

    def _used(self) -> set[str]:
        return {layer["digest"] for manifest in self.manifests().values() for layer in manifest.all_layers}

    def _fix_blob_names(self) -> None:
        # Before 0.1.x blobs were named with a colon.
        for path in self.blobs.glob("sha256:*"):
            path.rename(path.with_name(path.name.replace(":", "-")))

    def _prune_directories(self, top: Path) -> None:
        for entry in sorted(top.iterdir()):
            if entry.is_dir() and not entry.is_symlink():
                self._prune_directories(entry)
        if top != self.manifests_dir and not any(top.iterdir()):
            top.rmdir()


def go_json(content: Any) -> bytes:
    """JSON as Go's encoder writes it, newline included: the digest of what is made here is then that of the real one."""
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text.encode() + b"\n"


def _pieces(source: BinaryIO | Iterable[bytes], length: int | None) -> Iterable[bytes]:
    if not hasattr(source, "read"):
        yield from source
        return
    left = length
    while left is None or left > 0:
        piece = source.read(_PIECE if left is None else min(left, _PIECE))
        if not piece:
            return
        left = None if left is None else left - len(piece)
        yield piece
