# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Pull and push: the stream, its errors, and what of a registry's model arrives."""
from __future__ import annotations

import hashlib
import json

import pytest

PULL_ERROR = "pull model manifest: "


def pull(ollama, registry, name, **more):
    """Pull from the registry, over http where it is one."""
    return ollama.post("/api/pull", {"model": name, "insecure": registry.insecure, **more})


@pytest.fixture(name="fresh")
def fixture_fresh(ollama, registry, pulled, before):
    """The registry's model, deleted so that a pull has something to do."""
    if pulled in before:
        pytest.skip(f"{pulled} was there before the tests, so it is not deleted: set OLLAMA_REGISTRY_MODEL to another model")
    ollama.delete(pulled)
    yield registry.name()
    assert pull(ollama, registry, registry.name(), stream=False).status == 200


@pytest.mark.pull
def test_stream_of_a_pull(ollama, registry, fresh):
    """3.3: `pulling manifest`, lines per layer, `verifying sha256 digest`, `writing manifest`, `success`."""
    answer = pull(ollama, registry, fresh)
    assert (answer.status, answer.content_type) == (200, "application/x-ndjson")
    statuses = [line["status"] for line in answer.lines]
    assert statuses[0] == "pulling manifest"
    assert statuses[-3:] == ["verifying sha256 digest", "writing manifest", "success"]


@pytest.mark.pull
def test_progress_lines_of_a_pull(ollama, registry, fresh):
    """3.3: `pulling <first 12 hex>` with digest, total, completed; zeros are left out; layers in order, config last."""
    document = json.loads(registry.manifest())
    wanted = [layer["digest"] for layer in document["layers"]] + [document["config"]["digest"]]
    seen = []
    for line in pull(ollama, registry, fresh).lines:
        if "digest" not in line:
            continue
        assert line["status"] == f"pulling {line['digest'].removeprefix('sha256:')[:12]}"
        assert 0 <= line.get("completed", 0) <= line.get("total", 0)
        if line["digest"] not in seen:
            seen.append(line["digest"])
    assert seen == [digest for digest in wanted if digest in seen], "small blobs may have no line, the order stays"


@pytest.mark.pull
def test_digest_is_that_of_the_registrys_manifest(ollama, registry, pulled):
    """4: a pulled manifest is stored byte for byte: its SHA-256 is the digest of /api/tags (since 0.19)."""
    assert ollama.tags()[pulled]["digest"] == hashlib.sha256(registry.manifest()).hexdigest()


@pytest.mark.pull
def test_size_is_the_sum_of_the_layers(ollama, registry, pulled):
    """3.2: size: sum of layers and config."""
    document = json.loads(registry.manifest())
    assert ollama.tags()[pulled]["size"] == sum(layer["size"] for layer in document["layers"] + [document["config"]])


@pytest.mark.pull
def test_layers_can_be_looked_up_by_digest(ollama, registry, pulled):
    """3.2, 4: a listed model has its blobs, the config among them: the manifest is written last."""
    document = json.loads(registry.manifest())
    assert pulled in ollama.tags()
    for layer in document["layers"] + [document["config"]]:
        assert ollama.request("HEAD", f"/api/blobs/{layer['digest']}").status == 200


@pytest.mark.pull
def test_second_pull_has_one_line_a_layer(ollama, registry, pulled):
    """3.3: a blob already on disk gives exactly one line, completed = total; the digest stays."""
    before = ollama.tags()[pulled]["digest"]
    lines = [line for line in pull(ollama, registry, registry.name()).lines if "digest" in line]
    document = json.loads(registry.manifest())
    assert [line["digest"] for line in lines] == [layer["digest"] for layer in document["layers"] + [document["config"]]]
    assert all(line["completed"] == line["total"] for line in lines)
    assert ollama.tags()[pulled]["digest"] == before


@pytest.mark.pull
def test_second_pull_touches_the_model(ollama, registry, pulled):
    """3.3: the manifest file is rewritten, so modified_at changes: whether a pull changed anything shows in the digest."""
    before = ollama.tags()[pulled]
    pull(ollama, registry, registry.name(), stream=False)
    after = ollama.tags()[pulled]
    assert after["modified_at"] != before["modified_at"]
    assert after["digest"] == before["digest"]


@pytest.mark.pull
@pytest.mark.usefixtures("pulled")
def test_pull_without_a_stream(ollama, registry):
    """3.1: with `stream: false`: 200 and the last status."""
    answer = pull(ollama, registry, registry.name(), stream=False)
    assert (answer.status, answer.json["status"]) == (200, "success")
    assert answer.content_type == "application/json"


@pytest.mark.pull
@pytest.mark.usefixtures("pulled")
def test_pull_takes_the_old_field_and_model_wins(ollama, registry):
    """3.2: `model`, or the deprecated `name`; the command line sends `model` empty and `name` filled."""
    body = {"insecure": registry.insecure, "stream": False}
    assert ollama.post("/api/pull", {"model": "", "name": registry.name(), **body}).status == 200
    assert ollama.post("/api/pull", {"model": registry.name(), "name": "a/b/c/d", **body}).status == 200


@pytest.mark.pull
@pytest.mark.usefixtures("pulled")
def test_missing_model_in_a_stream(ollama, registry):
    """3.1, 3.3: after the first line HTTP stays 200, the error is the last line: `file does not exist`."""
    answer = pull(ollama, registry, registry.name("conformance-no-such-model:none"))
    assert answer.status == 200
    assert answer.lines == [{"status": "pulling manifest"}, {"error": f"{PULL_ERROR}file does not exist"}]


@pytest.mark.pull
@pytest.mark.usefixtures("pulled")
def test_missing_model_without_a_stream(ollama, registry):
    """3.1: with `stream: false`: 500 and the error."""
    answer = pull(ollama, registry, registry.name("conformance-no-such-model:none"), stream=False)
    assert (answer.status, answer.error) == (500, f"{PULL_ERROR}file does not exist")


@pytest.mark.parametrize("name", ["", "a/b/c/d", "host.example:5000/m", "x:"])
def test_pull_of_no_name(ollama, name):
    """3.2: 400 `invalid model name`, also when it is empty."""
    answer = ollama.post("/api/pull", {"model": name})
    assert (answer.status, answer.error) == (400, "invalid model name")


def test_registry_that_is_not_there(ollama):
    """3.3: a network error is the last line, and names the address: http with `insecure`, otherwise https."""
    for insecure, scheme in ((True, "http"), (False, "https")):
        answer = ollama.post("/api/pull", {"model": "127.0.0.1:1/library/m:1", "insecure": insecure})
        assert answer.status == 200
        assert answer.lines[-1]["error"].startswith(f'{PULL_ERROR}Get "{scheme}://127.0.0.1:1/v2/library/m/manifests/1": ')


@pytest.mark.pull
@pytest.mark.usefixtures("pulled")
def test_plain_http_only_on_request(ollama, registry):
    """5.2: without `insecure` it is https, also towards a registry that speaks http alone."""
    if not registry.insecure:
        pytest.skip("the registry speaks https")
    answer = ollama.post("/api/pull", {"model": registry.name(), "insecure": False})
    assert answer.lines[-1]["error"].startswith(f'{PULL_ERROR}Get "https://{registry.netloc}/')


@pytest.mark.pull
def test_mirrored_names_are_given_their_own_name_by_a_copy(ollama, registry, pulled, new_name):
    """5.2: mirrored names keep the host; copy to the short name: same digest; then the mirror's name can go."""
    mirror, short = new_name(f"{registry.netloc}/library/{{}}:1"), new_name("{}:1")
    ollama.copy(pulled, mirror)
    assert mirror in ollama.tags()
    ollama.copy(mirror, short)
    ollama.delete(mirror)
    tags = ollama.tags()
    assert mirror not in tags
    assert tags[short]["digest"] == tags[pulled]["digest"]
    assert ollama.post("/api/show", {"model": short}).status == 200


@pytest.mark.pull
def test_texts_of_the_layers_are_shown(ollama, registry, pulled):
    """4: layer types template, system, params, license: what the registry holds is what /api/show says."""
    shown = ollama.show(pulled)
    for layer in json.loads(registry.manifest())["layers"]:
        kind = layer["mediaType"].rpartition(".")[2]
        if kind == "license":
            assert registry.blob(layer["digest"]).decode() in shown["license"]
        elif kind == "system":
            assert shown["system"] == registry.blob(layer["digest"]).decode()
        elif kind == "params":
            assert all(key in shown["parameters"] for key in json.loads(registry.blob(layer["digest"])))


@pytest.mark.pull
def test_push(ollama, registry, pulled, new_name):
    """3.2: push: `retrieving manifest`, `pushing <12 hex>`, `pushing manifest`, `success`; what comes back is the same."""
    if not registry.may_push:
        pytest.skip("set OLLAMA_REGISTRY_PUSH=1 if the registry of OLLAMA_REGISTRY_URL takes pushes from anybody")
    name = new_name(f"{registry.netloc}/conformance/{{}}:1")
    created = ollama.post("/api/create", {"model": name, "from": pulled, "system": f"I am {name}.", "stream": False})
    assert created.status == 200
    answer = ollama.post("/api/push", {"model": name, "insecure": registry.insecure})
    statuses = [line["status"] for line in answer.lines]
    assert statuses[0] == "retrieving manifest"
    assert statuses[-2:] == ["pushing manifest", "success"]
    assert all(line["status"] == f"pushing {line['digest'][7:19]}" for line in answer.lines if "digest" in line)
    ollama.delete(name)
    assert pull(ollama, registry, name, stream=False).status == 200
    assert ollama.show(name)["system"] == f"I am {name}."


def test_push_of_no_model(ollama, new_name):
    """3.2: 400 `model is required`; a model that is not there is an error in the stream."""
    answer = ollama.post("/api/push", {"model": ""})
    assert (answer.status, answer.error) == (400, "model is required")
    answer = ollama.post("/api/push", {"model": new_name("127.0.0.1:1/library/{}:1"), "insecure": True})
    assert answer.status == 200
    assert answer.lines[0] == {"status": "retrieving manifest"}
    assert answer.lines[-1]["error"]
