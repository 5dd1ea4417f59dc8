"""Manifests and the entries of a lock."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from ansible_collections.gpufleet.ollama.plugins.module_utils._manifests import LAYER_TYPE, Layer, Manifest, ManifestError, lock_entry, locked

A, B, C = (f"sha256:{letter * 64}" for letter in "abc")


def raw(*layers: tuple[str, int, str], config: Any = None, **more: Any) -> bytes:
    """The bytes of a manifest."""
    items = [{"mediaType": f"{LAYER_TYPE}{kind}", "digest": digest, "size": size} for digest, size, kind in layers]
    config = {"digest": C, "size": 7, "mediaType": "application/vnd.docker.container.image.v1+json"} if config is None else config
    return json.dumps({"schemaVersion": 2, "config": config, "layers": items, **more}).encode()


def test_manifest() -> None:
    """Digest of the exact bytes, layers with the config last, and the size as Ollama counts it."""
    data = raw((A, 10, "model"), (B, 3, "template"))
    manifest = Manifest(data)
    assert manifest.raw == data and manifest.digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert manifest.layers == [Layer(A, 10, "model"), Layer(B, 3, "template"), Layer(C, 7, "config")]
    assert (manifest.size, manifest.config, manifest.first("template"), manifest.first("system")) == (20, Layer(C, 7, "config"), Layer(B, 3, "template"), None)
    assert manifest.layers[0].file == f"sha256-{'a' * 64}"
    assert Manifest(data + b"\n").digest != manifest.digest


def test_odd_manifests() -> None:
    """A layer that is named twice is one file and counts twice; an old config has no digest; a kind may be anything."""
    twice = Manifest(raw((A, 10, "license"), (A, 10, "license")))
    assert len(twice.layers) == 2 and twice.size == 27
    old = Manifest(raw((A, 10, "model"), config={"digest": "", "size": 0}))
    assert old.config is None and old.layers == [Layer(A, 10, "model")] and old.size == 10
    assert Manifest(raw(config={"digest": C, "size": 7})).layers == [Layer(C, 7, "config")]
    assert Manifest(raw((A, 0, "something.new"), layers=[{"digest": A, "size": 0}])).layers[0].size == 0


@pytest.mark.parametrize("data", [
    b"", b"{", b"\xff", b"[]", b"null", b"1", b"{}", b"<html>not found</html>", b"[" * 100_000,
    raw(config={}), raw(layers={"a": 1}), raw(layers=[1]), raw(layers=["x"]), raw(layers=[{"digest": A}]), raw(layers=[{"size": 1}]),
    raw((A, -1, "model")), raw((A[:-1], 1, "model")), raw((A.upper(), 1, "model")), raw(("sha256:../../" + "a" * 58, 1, "model")), raw((f"{A}\n", 1, "model")),
    raw(layers=[{"digest": A, "size": True}]), raw(layers=[{"digest": A, "size": "1"}]), raw(layers=[{"digest": A, "size": 1.5}]),
    raw(layers=[{"digest": 1, "size": 1}]), raw((A, 1, "model"), config={"digest": "x", "size": 1}),
])
def test_what_is_no_manifest(data: bytes) -> None:
    """Nothing else than ManifestError, whatever the bytes are."""
    with pytest.raises(ManifestError, match="manifest"):
        Manifest(data)


def test_lock_entry_and_back() -> None:
    """An entry holds the exact bytes, through JSON too."""
    data = raw((A, 10, "model")) + b"\n\t"
    entry = lock_entry(data, "https://registry.ollama.ai", {"architecture": "llama"})
    assert entry["size"] == 17 and entry["origin"] == "https://registry.ollama.ai" and entry["metadata"] == {"architecture": "llama"}
    assert entry["layers"] == [{"kind": "model", "digest": A, "size": 10}, {"kind": "config", "digest": C, "size": 7}]
    manifest = locked("a", json.loads(json.dumps(entry)))
    assert manifest.raw == data and manifest.digest == entry["manifest_digest"]
    assert lock_entry(data, "x")["metadata"] == {}


@pytest.mark.parametrize(("change", "message"), [
    ({"manifest": None}, "the lock of m has no manifest: make it again with the playbook gpufleet.ollama.lock"),
    ({"manifest": "{"}, "the lock of m is damaged: this is no manifest"),
    ({"manifest_digest": A}, f"the lock of m is damaged: its manifest has the digest sha256:.* and manifest_digest says {A}"),
    ({"manifest_digest": None}, "manifest_digest says None"),
])
def test_damaged_lock(change: dict[str, Any], message: str) -> None:
    """A hand or a merge that changed an entry is noticed."""
    entry = {**lock_entry(raw((A, 10, "model")), "x"), **change}
    with pytest.raises(ManifestError, match=message):
        locked("m", entry)


@pytest.mark.parametrize("entry", [None, "x", [], {}])
def test_no_lock_entry(entry: Any) -> None:
    """What is no entry has the same sentence."""
    with pytest.raises(ManifestError, match="the lock of m has no manifest"):
        locked("m", entry)


def test_layers_of_an_entry_are_for_the_reader() -> None:
    """Only the manifest counts: layers that somebody edited change nothing."""
    entry = lock_entry(raw((A, 10, "model")), "x")
    entry["layers"] = [{"kind": "model", "digest": B, "size": 1}]
    assert locked("m", entry).layers[0] == Layer(A, 10, "model")


def test_bytes_that_are_no_text() -> None:
    """A manifest that JSON reads in another encoding cannot be locked as text."""
    with pytest.raises(ManifestError, match="is no UTF-8 text"):
        lock_entry(raw((A, 10, "model")).decode().encode("utf-16"), "x")
