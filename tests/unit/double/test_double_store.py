# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The stand-in's store: layout, exact bytes, pruning."""
from __future__ import annotations

import hashlib
import json
import os
import stat
import time

import pytest
from ollama_double import catalogue, gguf, names
from ollama_double.store import BadManifest, InvalidDigest, Store

OLD = 3700


@pytest.fixture(name="store")
def fixture_store(tmp_path):
    return Store(tmp_path)


def add_model(store, text="m:1b", blob=b"weights"):
    digest, size, _new = store.add_blob([blob])
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": digest, "size": size}
    config, size, _new = store.add_blob([b"{}"])
    return store.write_layers(names.parse(text), {"mediaType": "config", "digest": config, "size": size}, [layer])


def age(store, seconds=OLD):
    for path in store.blobs.iterdir():
        os.utime(path, (time.time() - seconds,) * 2)


def test_layout_and_modes(store):
    manifest = add_model(store)
    path = store.root / "manifests/registry.ollama.ai/library/m/1b"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == manifest.digest
    assert path.read_bytes().endswith(b"}\n")
    blob = store.root / "blobs" / f"sha256-{hashlib.sha256(b'weights').hexdigest()}"
    assert blob.read_bytes() == b"weights"
    assert stat.S_IMODE(blob.stat().st_mode) == 0o644
    assert manifest.size == len(b"weights") + 2


def test_pulled_manifests_keep_their_bytes(store):
    raw = b'{ "schemaVersion": 2,\n "layers": [] }'
    assert store.write_manifest(names.parse("m"), raw).raw == raw
    assert (store.root / "manifests/registry.ollama.ai/library/m/latest").read_bytes() == raw


@pytest.mark.parametrize("digest", ["", "sha256:abc", "md5:" + "0" * 64, "sha256:" + "g" * 64, "../x"])
def test_bad_digests(store, digest):
    with pytest.raises(InvalidDigest, match="invalid digest format"):
        store.blob_path(digest)


def test_delete_keeps_shared_blobs_and_removes_empty_directories(store):
    add_model(store, "a:1")
    store.copy(names.parse("a:1"), names.parse("mirror:5000/library/b:1"))
    store.delete(names.parse("a:1"))
    assert len(list(store.blobs.iterdir())) == 2
    assert not (store.root / "manifests/registry.ollama.ai").exists()
    store.delete(names.parse("mirror:5000/library/b:1"))
    assert not list(store.blobs.iterdir())
    with pytest.raises(FileNotFoundError):
        store.delete(names.parse("a:1"))


def test_prune_removes_what_is_unused_and_older_than_an_hour(store):
    add_model(store)
    store.add_blob([b"orphan"])
    (store.blobs / f"sha256-{'0' * 64}-partial").write_bytes(b"half")
    (store.blobs / "stray.txt").write_bytes(b"?")
    age(store)
    store.add_blob([b"young orphan"])
    assert store.prune() == "total unused blobs removed: 3"
    assert {path.name for path in store.blobs.iterdir()} == {
        f"sha256-{hashlib.sha256(blob).hexdigest()}" for blob in (b"weights", b"{}", b"young orphan")
    }


def test_prune_within_the_hour_removes_nothing(store):
    store.add_blob([b"orphan"])
    age(store, 3500)
    assert store.prune() == "total unused blobs removed: 0"


@pytest.mark.parametrize("stray", [".DS_Store", "._x", "broken"])
def test_a_bad_file_among_the_manifests_switches_the_prune_off(store, stray):
    add_model(store)
    store.add_blob([b"orphan"])
    (store.root / "manifests/registry.ollama.ai/library/m" / stray).write_bytes(b"")
    age(store)
    assert store.prune().startswith("corrupt manifests detected")
    assert len(list(store.blobs.iterdir())) == 3
    assert list(store.manifests()) == [names.parse("m:1b")]
    with pytest.raises(BadManifest):
        store.manifests(strict=True)


def test_no_prune(tmp_path):
    store = Store(tmp_path, no_prune=True)
    store.add_blob([b"orphan"])
    age(store)
    assert store.prune() == "prune is off"
    assert len(list(store.blobs.iterdir())) == 1


def test_old_blob_names_are_mended(store):
    manifest = add_model(store)
    for path in list(store.blobs.iterdir()):
        path.rename(path.with_name(path.name.replace("-", ":")))
    store.prune()
    assert all(store.blob_path(layer["digest"]).exists() for layer in manifest.all_layers)


def test_catalogue_gives_the_same_bytes_each_time(tmp_path):
    for spec in catalogue.DEFAULT:
        raw = [catalogue.build(spec, catalogue.BlobCache(tmp_path / cache)) for cache in ("one", "two")]
        assert raw[0] == raw[1]
        layer = json.loads(raw[0])["layers"][0]
        assert 0.9 < layer["size"] / spec.size < 1.1
        head = gguf.read_head(tmp_path / "one" / layer["digest"].replace(":", "-"))
        assert head.key("context_length") == spec.context_length
        assert (head.key("pooling_type") is not None) == ("embedding" in spec.capabilities)


def test_another_seed_gives_other_weights(tmp_path):
    cache = catalogue.BlobCache(tmp_path)
    first, second = (json.loads(catalogue.build(catalogue.ModelSpec("m", seed=seed), cache)) for seed in (1, 2))
    assert first["layers"][0]["digest"] != second["layers"][0]["digest"]
    assert first["layers"][0]["size"] == second["layers"][0]["size"]


def test_the_end_of_a_gguf_file_is_where_its_tensors_end(tmp_path):
    path = tmp_path / "model.gguf"
    model = gguf.completion_model("library/m", 1 << 20, 1, 2048, "{{ x }}")
    path.write_bytes(b"".join(model.chunks()))
    head = gguf.read_head(path)
    assert [tensor.name for tensor in head.tensors] == [tensor.name for tensor in model.tensors]
    assert head.metadata["tokenizer.ggml.tokens"][:3] == ["<unk>", "<s>", "</s>"]
    assert head.parameter_count > 900_000
    for damaged in (b"", b"GGUF", path.read_bytes()[:100], b"text"):
        path.write_bytes(damaged)
        with pytest.raises(gguf.NotGguf):
            gguf.read_head(path)


@pytest.mark.parametrize(("count", "shown"), [(902_000, "902K"), (3_938_752, "3.94M"), (7_000_000, "7M"), (1_235_814_432, "1.2B"), (999, "999")])
def test_numbers_of_weights_for_people(count, shown):
    assert gguf.human_count(count) == shown


@pytest.mark.parametrize("entry", [{}, {"name": "a/b/c/d"}, {"name": "m", "sise": 1}])
def test_bad_catalogue_entries(entry):
    with pytest.raises(catalogue.BadCatalogue):
        catalogue.from_json(entry)
