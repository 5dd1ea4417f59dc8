# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Custom models: /api/create from a model and from an uploaded file."""
from __future__ import annotations

import hashlib
import json
import secrets

import pytest


def create(ollama, name, **body):
    """Create with no stream."""
    return ollama.post("/api/create", {"model": name, "stream": False, **body})


def upload(ollama, data):
    """Upload a blob that is not there yet; its digest. Nobody reads the body of one that is there."""
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    if ollama.request("HEAD", f"/api/blobs/{digest}").status == 200:
        return digest
    assert ollama.request("POST", f"/api/blobs/{digest}", data=data).status == 201
    return digest


def parameters(shown):
    """The parameters of /api/show as pairs."""
    return [tuple(line.split(None, 1)) for line in shown.get("parameters", "").splitlines()]


def test_stream_of_a_create(ollama, any_model, new_name):
    """3.4: per layer `using existing layer` or `creating new layer`, then `writing manifest`, `success`."""
    unique = f"Conformance {secrets.token_hex(8)}."
    answer = ollama.post("/api/create", {"model": new_name(), "from": any_model, "system": unique})
    assert (answer.status, answer.content_type) == (200, "application/x-ndjson")
    statuses = [line["status"] for line in answer.lines]
    assert any(status.startswith("using existing layer sha256:") for status in statuses)
    assert f"creating new layer sha256:{hashlib.sha256(unique.encode()).hexdigest()}" in statuses
    assert statuses[-2:] == ["writing manifest", "success"]


def test_create_without_a_stream(ollama, any_model, new_name):
    """3.1: with `stream: false`: 200 and the last status."""
    answer = create(ollama, new_name(), **{"from": any_model})
    assert (answer.status, answer.json["status"]) == (200, "success")


def test_what_was_given_is_shown(ollama, any_model, new_name):
    """3.4: system, license, messages and parameters of the request are the model's."""
    name = new_name()
    body = {
        "from": any_model,
        "system": "You answer in one word.",
        "license": ["first", "second"],
        "messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}],
        "parameters": {"num_ctx": 2048, "temperature": 0.5, "stop": ["A", "B"]},
    }
    assert create(ollama, name, **body).status == 200
    shown = ollama.show(name)
    assert shown["system"] == "You answer in one word."
    assert "first" in shown["license"] and "second" in shown["license"]
    assert [(message["role"], message["content"]) for message in shown["messages"]] == [("user", "hello"), ("assistant", "hi")]
    assert ("num_ctx", "2048") in parameters(shown)
    assert ("temperature", "0.5") in parameters(shown)
    assert {value.strip('"') for key, value in parameters(shown) if key == "stop"} == {"A", "B"}


def test_parameters_are_inherited_and_overridden(ollama, any_model, new_name):
    """3.4: a parameter that the request does not name is that of the base model."""
    base, name = new_name(), new_name()
    create(ollama, base, **{"from": any_model, "parameters": {"num_ctx": 1024, "top_k": 7}})
    create(ollama, name, **{"from": base, "parameters": {"num_ctx": 512}})
    found = parameters(ollama.show(name))
    assert ("num_ctx", "512") in found and ("num_ctx", "1024") not in found
    assert ("top_k", "7") in found


def test_a_custom_model_names_its_parent(ollama, any_model, new_name):
    """4: `details.parent_model` is set by FROM <model>."""
    name = new_name()
    create(ollama, name, **{"from": any_model, "system": "x"})
    assert ollama.tags()[name]["details"]["parent_model"] == any_model
    assert ollama.show(name)["details"]["parent_model"] == any_model


def test_create_again_gives_the_same_digest(ollama, any_model, new_name):
    """3.4, 4: the same request gives the same manifest, so its digest tells whether anything changed."""
    name = new_name()
    body = {"from": any_model, "system": "Same.", "parameters": {"top_k": 9, "num_ctx": 512, "stop": ["x"]}}
    create(ollama, name, **body)
    first = ollama.tags()[name]["digest"]
    create(ollama, name, **body)
    assert ollama.tags()[name]["digest"] == first


def test_create_over_a_model_replaces_it(ollama, any_model, new_name):
    """3.4: a name that is taken gets the new content."""
    name = new_name()
    create(ollama, name, **{"from": any_model, "system": "One."})
    first = ollama.tags()[name]["digest"]
    create(ollama, name, **{"from": any_model, "system": "Two."})
    assert ollama.tags()[name]["digest"] != first
    assert ollama.show(name)["system"] == "Two."


def test_the_base_model_is_left_alone(ollama, any_model, new_name):
    """4: a custom model has layers of its own only for what differs; its base stays as it is."""
    before = ollama.tags()[any_model]["digest"]
    name = new_name()
    create(ollama, name, **{"from": any_model, "system": "Other."})
    ollama.delete(name)
    assert ollama.tags()[any_model]["digest"] == before
    assert ollama.post("/api/show", {"model": any_model}).status == 200


@pytest.mark.parametrize(("body", "error"), [
    ({}, "neither 'from' or 'files' was specified"),
    ({"modelfile": "FROM x", "path": "/tmp/x"}, "neither 'from' or 'files' was specified"),
    ({"from": "a/b/c/d"}, "invalid model name"),
    ({"files": {"/absolute.gguf": "sha256:" + "0" * 64}}, "file path must be relative"),
    ({"files": {"../up.gguf": "sha256:" + "0" * 64}}, "file path must be relative"),
    ({"files": {"m.gguf": ""}}, "invalid digest format"),
])
def test_creates_that_are_400(ollama, new_name, body, error):
    """3.4: the 400s; the old fields `modelfile` and `path` are ignored."""
    answer = create(ollama, new_name(), **body)
    assert (answer.status, answer.error) == (400, error)


def test_create_with_no_name(ollama, any_model):
    """3.4: 400 `invalid model name`."""
    answer = create(ollama, "a/b/c/d", **{"from": any_model})
    assert (answer.status, answer.error) == (400, "invalid model name")


@pytest.mark.parametrize(("path", "error"), [("notes.txt", "unknown type"), ("notes.gguf", "supplied file was not in GGUF format")])
def test_files_that_are_no_models(ollama, new_name, path, error):
    """3.4: 400 `unknown type`, `supplied file was not in GGUF format`."""
    digest = upload(ollama, b"This is text, not a model. " * 40)
    name = new_name()
    answer = create(ollama, name, files={path: digest})
    assert (answer.status, answer.error) == (400, error)
    assert name not in ollama.tags()


def test_quantised_models_are_not_quantised_again(ollama, any_model, new_name):
    """3.4: `quantize` only from F16, BF16 and F32."""
    if ollama.tags()[any_model]["details"]["quantization_level"] in ("F16", "BF16", "F32"):
        pytest.skip(f"{any_model} is not quantised")
    answer = create(ollama, new_name(), **{"from": any_model, "quantize": "q4_K_M"})
    assert answer.status >= 400
    assert answer.error == "quantization is only supported for F16, BF16 and F32 models"


@pytest.mark.pull
@pytest.mark.usefixtures("pulled")
def test_model_from_an_uploaded_file(ollama, registry, new_name):
    """3.4: upload a GGUF file as a blob, then `files: {relative name: digest}`: the steps, and a model that is listed."""
    layers = json.loads(registry.manifest())["layers"]
    weights = next(layer for layer in layers if layer["mediaType"] == "application/vnd.ollama.image.model")
    digest = upload(ollama, registry.blob(weights["digest"]))
    assert digest == weights["digest"]
    name = new_name()
    answer = ollama.post("/api/create", {"model": name, "files": {"weights.gguf": digest}, "template": "{{ .Prompt }}", "system": "From a file."})
    statuses = [line.get("status") for line in answer.lines]
    assert statuses[0] == "parsing GGUF"
    assert statuses[-2:] == ["writing manifest", "success"], answer.text
    entry = ollama.tags()[name]
    assert entry["details"]["format"] == "gguf"
    assert entry["details"]["family"]
    assert ollama.show(name)["system"] == "From a file."
