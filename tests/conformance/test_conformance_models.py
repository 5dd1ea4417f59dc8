# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Models of the store: tags, show, copy, delete, blobs, and the OpenAI list of them."""
from __future__ import annotations

import hashlib
import re
import secrets
import time
from datetime import datetime

import pytest

MISSING = "conformance-no-such-model:none"


def instant(text):
    """The moment of a timestamp, nanoseconds cut off."""
    return datetime.fromisoformat(re.sub(r"(\.[0-9]{6})[0-9]*", r"\1", text).replace("Z", "+00:00"))


def test_tags_list_every_model(ollama, any_model):
    """3.2: an item of /api/tags has name, model (equal, tag always present), modified_at, size, digest, details."""
    entry = ollama.tags()[any_model]
    assert entry["model"] == entry["name"]
    assert ":" in entry["name"].rpartition("/")[2]
    assert entry["size"] > 0
    assert instant(entry["modified_at"]).tzinfo
    for key in ("parent_model", "format", "family", "families", "parameter_size", "quantization_level"):
        assert key in entry["details"]


def test_digests_have_no_prefix(ollama, any_model):
    """3.2: digest: 64 hex digits, no `sha256:` in front."""
    assert re.match(r"^[0-9a-f]{64}$", ollama.tags()[any_model]["digest"])


def test_capabilities_are_listed(ollama, any_model):
    """0, 3.2: since 0.30 /api/tags names the capabilities, as /api/show does."""
    known = {"completion", "tools", "insert", "vision", "audio", "embedding", "thinking", "image"}
    listed = ollama.tags()[any_model]["capabilities"]
    assert listed and set(listed) <= known
    assert set(listed) == set(ollama.show(any_model)["capabilities"])


def test_tags_are_sorted_newest_first(ollama, any_model, new_name):
    """3.2: /api/tags is sorted, newest modified first."""
    # The order is by whole seconds: in the next one the copy is the newest.
    time.sleep(1.1)
    name = new_name()
    ollama.copy(any_model, name)
    listed = ollama.get("/api/tags").json["models"]
    moments = [int(instant(entry["modified_at"]).timestamp()) for entry in listed]
    assert moments == sorted(moments, reverse=True)
    assert listed[0]["name"] == name


def test_head_of_tags(ollama):
    """3.2: GET/HEAD /api/tags."""
    head = ollama.request("HEAD", "/api/tags")
    assert (head.status, head.body) == (200, b"")


def test_show(ollama, any_model):
    """3.2: /api/show: model_info always an object, details, capabilities, modified_at; empty parts are left out."""
    shown = ollama.show(any_model)
    assert isinstance(shown["model_info"], dict)
    assert shown["model_info"]["general.architecture"]
    assert shown["capabilities"]
    assert shown["details"]["format"] == ollama.tags()[any_model]["details"]["format"]
    assert all(shown[key] for key in ("license", "parameters", "template", "system") if key in shown)


def test_modelfile_names_the_blob_by_its_path(ollama, any_model):
    """3.2: `modelfile` holds the absolute path of the blob in FROM."""
    assert re.search(r"^FROM /.*/blobs/sha256-[0-9a-f]{64}$", ollama.show(any_model)["modelfile"], re.MULTILINE)


def test_show_takes_the_old_field_and_model_wins(ollama, any_model):
    """3.2, 9: `name` still works; `model` comes first when both are given."""
    assert ollama.post("/api/show", {"name": any_model}).status == 200
    assert ollama.post("/api/show", {"model": any_model, "name": MISSING}).status == 200
    assert ollama.post("/api/show", {"model": "", "name": any_model}).status == 200


def test_show_of_no_model(ollama):
    """3.2: 404 `model 'x:latest' not found`: the tag is always shown; 400 `model is required`."""
    answer = ollama.post("/api/show", {"model": "conformance-no-such-model"})
    assert (answer.status, answer.error) == (404, "model 'conformance-no-such-model:latest' not found")
    answer = ollama.post("/api/show", {"model": ""})
    assert (answer.status, answer.error) == (400, "model is required")


def test_names_match_whatever_their_case(ollama, any_model, new_name):
    """3.1: the case of a new name is kept, but names are matched case-insensitively against existing ones."""
    name = new_name("Mixed-{0}:Tag-{0}")
    assert ollama.copy(any_model, name).status == 200
    assert name in ollama.tags()
    assert ollama.post("/api/show", {"model": name.lower()}).status == 200
    assert ollama.copy(any_model, name.upper()).status == 200
    assert [found for found in ollama.tags() if found.lower() == name.lower()] == [name]
    assert ollama.delete(name.upper()).status == 200
    assert name not in ollama.tags()


def test_default_host_and_namespace_are_not_shown(ollama, any_model, new_name):
    """3.1, 3.2: defaults registry.ollama.ai / library / latest; shown in the shortest form, with the tag."""
    name = new_name("{}:latest")
    assert ollama.copy(any_model, "registry.ollama.ai/library/" + name.partition(":")[0]).status == 200
    assert name in ollama.tags()


def test_names_with_a_host_are_shown_whole(ollama, any_model, new_name):
    """3.1: `host[:port]/namespace/model:tag` keeps its host: an alias on a mirror's name is another model."""
    name = new_name("mirror.example:5000/library/{}:1b")
    assert ollama.copy(any_model, name).status == 200
    assert name in ollama.tags()


def test_copy_shares_the_digest_and_has_no_body(ollama, any_model, new_name):
    """3.2: /api/copy: 200, empty body. 5.2: same blobs, same digest."""
    name = new_name()
    answer = ollama.copy(any_model, name)
    assert (answer.status, answer.body) == (200, b"")
    tags = ollama.tags()
    assert tags[name]["digest"] == tags[any_model]["digest"]
    assert tags[name]["size"] == tags[any_model]["size"], "shared blobs count for every name"


def test_copy_onto_itself_changes_nothing(ollama, any_model, new_name):
    """3.2: copying is idempotent, onto a model's own name, too."""
    name = new_name()
    ollama.copy(any_model, name)
    before = ollama.tags()[name]["digest"]
    assert ollama.copy(name, name).status == 200
    assert ollama.copy(any_model, name).status == 200
    assert ollama.tags()[name]["digest"] == before


def test_copy_of_no_model(ollama, any_model, new_name):
    """3.2: 404 `model "x" not found` in double quotes; 400 `source "x" is invalid`, `destination ..`."""
    answer = ollama.copy(MISSING, new_name())
    assert (answer.status, answer.error) == (404, f'model "{MISSING}" not found')
    answer = ollama.copy("a/b/c/d", new_name())
    assert (answer.status, answer.error) == (400, 'source "a/b/c/d" is invalid')
    answer = ollama.copy(any_model, "-x")
    assert (answer.status, answer.error) == (400, 'destination "-x" is invalid')


def test_delete_has_no_body_and_the_model_is_gone(ollama, any_model, new_name):
    """3.2: DELETE /api/delete with a JSON body: 200, empty body; then 404 `model 'x' not found`."""
    name = new_name()
    ollama.copy(any_model, name)
    answer = ollama.delete(name)
    assert (answer.status, answer.body) == (200, b"")
    assert name not in ollama.tags()
    answer = ollama.delete(name)
    assert (answer.status, answer.error) == (404, f"model '{name}' not found")


def test_delete_keeps_layers_that_others_use(ollama, any_model, new_name):
    """4: delete removes layers that no other manifest uses, and no other ones."""
    first, second = new_name(), new_name()
    ollama.copy(any_model, first)
    ollama.copy(first, second)
    ollama.delete(first)
    path = re.search(r"^FROM .*sha256-([0-9a-f]{64})$", ollama.show(second)["modelfile"], re.MULTILINE)
    assert ollama.request("HEAD", f"/api/blobs/sha256:{path[1]}").status == 200


def test_delete_takes_the_old_field(ollama, any_model, new_name):
    """3.2: `model` (or `name`)."""
    name = new_name()
    ollama.copy(any_model, name)
    assert ollama.request("DELETE", "/api/delete", {"name": name}).status == 200
    assert name not in ollama.tags()


@pytest.mark.parametrize(("name", "error"), [("", "model is required"), ("a/b/c/d", 'name "a/b/c/d" is invalid')])
def test_delete_of_no_name(ollama, name, error):
    """3.2: 400 `model is required`, `name "x" is invalid`."""
    answer = ollama.delete(name)
    assert (answer.status, answer.error) == (400, error)


@pytest.mark.parametrize("digest", ["sha256:abc", "md5:" + "0" * 64, "sha256:" + "g" * 64])
def test_blobs_with_a_bad_digest(ollama, digest):
    """3.2: /api/blobs: 400 `invalid digest format`."""
    assert ollama.request("HEAD", f"/api/blobs/{digest}").status == 400
    answer = ollama.request("POST", f"/api/blobs/{digest}", data=b"x")
    assert (answer.status, answer.error) == (400, "invalid digest format")


def test_blobs_are_201_then_200(ollama):
    """3.2: HEAD 404; POST 201 stored, 200 already there; HEAD 200."""
    data = b"conformance " + secrets.token_bytes(16)
    path = "/api/blobs/sha256:" + hashlib.sha256(data).hexdigest()
    assert ollama.request("HEAD", path).status == 404
    assert ollama.request("POST", path, data=data).status == 201
    assert ollama.request("HEAD", path).status == 200
    assert ollama.request("POST", path, data=data).status == 200


def test_blobs_that_are_not_what_they_say(ollama):
    """3.2: 400 `digest mismatch, expected "..", got ".."`; the bytes are still stored under their true digest."""
    data = b"conformance " + secrets.token_bytes(16)
    said = "sha256:" + hashlib.sha256(b"other" + data).hexdigest()
    true = "sha256:" + hashlib.sha256(data).hexdigest()
    answer = ollama.request("POST", f"/api/blobs/{said}", data=data)
    assert (answer.status, answer.error) == (400, f'digest mismatch, expected "{said}", got "{true}"')
    assert ollama.request("HEAD", f"/api/blobs/{said}").status == 404
    assert ollama.request("HEAD", f"/api/blobs/{true}").status == 200


def test_openai_list(ollama, any_model):
    """3.5: GET /v1/models: `{"object": "list", "data": [{id, object: "model", created, owned_by}]}`."""
    answer = ollama.get("/v1/models").json
    assert answer["object"] == "list"
    entry = {found["id"]: found for found in answer["data"]}[any_model]
    assert entry["object"] == "model"
    assert entry["created"] == int(instant(ollama.tags()[any_model]["modified_at"]).timestamp())
    assert entry["owned_by"]


def test_openai_list_is_null_when_empty(ollama):
    """3.5: `data` is null, not an empty list, when there are no models."""
    if ollama.tags():
        pytest.skip("the server has models; to see this, run this test alone against an empty server")
    assert ollama.get("/v1/models").json["data"] is None


def test_openai_model(ollama, any_model, new_name):
    """3.5: GET /v1/models/{id}; errors as `{"error": {message, type, param, code}}`."""
    name = new_name()
    ollama.copy(any_model, name)
    entry = ollama.get(f"/v1/models/{name}").json
    assert (entry["id"], entry["object"]) == (name, "model")
    answer = ollama.get(f"/v1/models/{MISSING}")
    assert answer.status == 404
    assert answer.json["error"]["type"] == "not_found_error"
    assert {"message", "param", "code"} <= set(answer.json["error"])
