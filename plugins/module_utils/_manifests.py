# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Manifests of models, as registries serve them and stores keep them, and the entries of a lock file.

A manifest is known by its bytes: their SHA-256 is the digest that a registry, C(/api/tags) and a lock file show. It names its layers by
theirs, so whoever holds a manifest can tell every byte of the model. Source: Ollama's manifest/manifest.go.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Mapping, NamedTuple

MEDIA_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
LAYER_TYPE = "application/vnd.ollama.image."
# far above the largest known, below what would hurt
MAX_BYTES = 4 << 20

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class ManifestError(ValueError):
    """Not a manifest, or not an entry of a lock; the text is for the user."""


class Layer(NamedTuple):
    """A blob that a manifest names: digest C(sha256:<hex>), size in bytes, and the kind, such as model, template, params or config."""

    digest: str
    size: int
    kind: str

    @property
    def file(self) -> str:
        """Its name in the directory C(blobs) of a store."""
        return self.digest.replace(":", "-")


class Manifest:
    """A manifest: its exact bytes C(raw), its digest C(sha256:<hex>), its layers with the config last."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
        try:
            document = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"this is no manifest: {raw[:60]!r} ({error})") from None
        if not isinstance(document, dict):
            raise ManifestError(f"this is no manifest: {raw[:60]!r}")
        config = document.get("config")
        layers = document.get("layers") or []
        if not isinstance(layers, list):
            raise ManifestError("this is no manifest: its layers are no list")
        # a config without a digest is legal in old manifests
        self.config = _layer(config, "config") if isinstance(config, Mapping) and config.get("digest") else None
        found = [_layer(item, "") for item in layers] + ([self.config] if self.config else [])
        # a layer may be named twice
        self.layers = list({layer.digest: layer for layer in found}.values())
        if not self.layers:
            raise ManifestError(f"this is no manifest, it names no layers: {raw[:60]!r}")
        # as /api/tags counts it
        self.size = sum(layer.size for layer in found)

    def first(self, kind: str) -> Layer | None:
        """The first layer of a kind."""
        return next((layer for layer in self.layers if layer.kind == kind), None)


def _layer(item: Any, kind: str) -> Layer:
    digest, size = (item.get("digest"), item.get("size")) if isinstance(item, Mapping) else (None, None)
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest) or isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise ManifestError(f"the manifest has a layer without a digest or a size: {str(item)[:120]}")
    return Layer(digest, size, kind or str(item.get("mediaType", "")).rpartition(".")[2])


def lock_entry(raw: bytes, origin: str, metadata: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a lock file says of a model.

    Args: the manifest's bytes, the registry that they came from, and what the header of the weights says (see _gguf.py).
    Returns manifest_digest, size (bytes), origin, layers (for the reader), metadata, manifest (the exact bytes as text).
    """
    manifest = Manifest(raw)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ManifestError(f"the manifest {manifest.digest} is no UTF-8 text") from None
    return {
        "manifest_digest": manifest.digest,
        "size": manifest.size,
        "origin": origin,
        "layers": [{"kind": layer.kind, "digest": layer.digest, "size": layer.size} for layer in manifest.layers],
        "metadata": dict(metadata or {}),
        "manifest": text,
    }


def locked(name: str, entry: Any) -> Manifest:
    """The manifest of an entry of a lock file. ManifestError when the entry was damaged, by hand or by a merge."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("manifest"), str):
        raise ManifestError(f"the lock of {name} has no manifest: make it again with the playbook gpufleet.ollama.lock")
    try:
        manifest = Manifest(entry["manifest"].encode("utf-8"))
    except ManifestError as error:
        raise ManifestError(f"the lock of {name} is damaged: {error}. Make it again with the playbook gpufleet.ollama.lock") from None
    if manifest.digest != entry.get("manifest_digest"):
        raise ManifestError(
            f"the lock of {name} is damaged: its manifest has the digest {manifest.digest}, and manifest_digest says {entry.get('manifest_digest')}. "
            "Make it again with the playbook gpufleet.ollama.lock"
        )
    return manifest
