# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The stand-in's registry on the wire: protocol, faults, statistics, control."""
from __future__ import annotations

import base64
import hashlib
import http.client
import json
import time

import pytest

AGENT = {"User-Agent": "ollama/0.34.4 (amd64 linux) Go/go1.24"}
SIGNED = {"Authorization": f"{base64.b64encode(b'key').decode()}:{base64.b64encode(b'signature').decode()}"}


def raw(client, method, path, headers=None, body=None):
    """One request with no redirect followed: (status, headers, body so far, whether the body was cut)."""
    connection = http.client.HTTPConnection(client.host, timeout=5)
    connection.request(method, path, body=body, headers=headers or {})
    answer = connection.getresponse()
    try:
        data, cut = answer.read(), False
    except http.client.IncompleteRead as error:
        data, cut = error.partial, True
    connection.close()
    return answer.status, answer.headers, data, cut


def fault(client, **entry):
    assert client.post("/_double/faults", entry)[0] == 200


def model_layer(client, model="smollm2", tag="135m"):
    return json.loads(raw(client, "GET", f"/v2/library/{model}/manifests/{tag}")[2])["layers"][0]


def blob_path(client):
    return f"/v2/library/smollm2/blobs/{model_layer(client)['digest']}"


def test_manifests_are_plain_text_of_no_told_length(start_registry):
    client = start_registry()
    status, headers, body, _cut = raw(client, "GET", "/v2/library/smollm2/manifests/135m")
    assert (status, headers["Content-Length"]) == (200, None)
    assert headers["Content-Type"].startswith("text/plain")
    by_digest = raw(client, "GET", f"/v2/library/smollm2/manifests/sha256:{hashlib.sha256(body).hexdigest()}")
    assert by_digest[2] == body


@pytest.mark.parametrize(("method", "path", "status"), [
    ("GET", "/v2/", 404), ("GET", "/v2/library/smollm2/tags/list", 404), ("HEAD", "/v2/library/smollm2/manifests/135m", 405),
    ("GET", "/v2/library/smollm2/manifests/none", 404), ("GET", f"/v2/library/smollm2/blobs/sha256:{'0' * 64}", 404),
])
def test_what_the_real_one_does_not_have(start_registry, method, path, status):
    assert raw(start_registry(), method, path)[0] == status


def test_blobs(start_registry):
    client = start_registry()
    layer, path = model_layer(client), blob_path(client)
    status, headers, body, _cut = raw(client, "HEAD", path)
    assert (status, headers["Content-Length"], body) == (200, str(layer["size"]), b"")
    status, headers, body, _cut = raw(client, "GET", path)
    assert (status, headers["Location"]) == (200, path)
    assert "sha256:" + hashlib.sha256(body).hexdigest() == layer["digest"]
    status, headers, part, _cut = raw(client, "GET", path, {"Range": "bytes=10-19"})
    assert (status, headers["Content-Range"], part) == (206, f"bytes 10-19/{layer['size']}", body[10:20])
    assert raw(client, "GET", path, {"Range": "bytes=-5"})[2] == body[-5:]
    assert raw(client, "GET", path, {"Range": f"bytes={layer['size']}-"})[0] == 416


def test_redirect_to_another_host(start_registry):
    client = start_registry("--redirect", "blobs.example:8443")
    status, headers, _body, _cut = raw(client, "GET", blob_path(client))
    assert status == 307
    assert headers["Location"].startswith("http://blobs.example:8443/data/library/smollm2/sha256:")
    path = headers["Location"].partition("8443")[2]
    assert raw(client, "GET", path, {"Range": "bytes=0-3"})[2] == b"GGUF"


def test_token_flow(start_registry):
    client = start_registry("--token")
    manifest = "/v2/library/smollm2/manifests/135m"
    status, headers, _body, _cut = raw(client, "GET", manifest)
    assert status == 401
    assert headers["WWW-Authenticate"].startswith(f'Bearer realm="http://{client.host}/token",service="')
    assert 'scope="repository:library/smollm2:pull"' in headers["WWW-Authenticate"]
    assert raw(client, "GET", "/token?ts=1&nonce=x")[0] == 401
    assert raw(client, "GET", "/token?ts=1&nonce=x", {"Authorization": "Basic dTpw"})[0] == 401
    token = json.loads(raw(client, "GET", "/token?ts=1&nonce=x", SIGNED)[2])["token"]
    bearer = {"Authorization": f"Bearer {token}"}
    document = json.loads(raw(client, "GET", manifest, bearer)[2])
    path = f"/v2/library/smollm2/blobs/{document['layers'][0]['digest']}"
    assert raw(client, "GET", path)[0] == 401
    location = raw(client, "GET", path, bearer)[1]["Location"]
    assert raw(client, "GET", location, {"Range": "bytes=0-3"})[2] == b"GGUF", "ranges are asked for with no token"


def test_push_and_pull_back(start_registry):
    client = start_registry()
    blob = b"some weights"
    digest = "sha256:" + hashlib.sha256(blob).hexdigest()
    entry = {"mediaType": "m", "digest": digest, "size": len(blob)}
    manifest = json.dumps({"schemaVersion": 2, "config": {}, "layers": [entry]}).encode()
    assert raw(client, "PUT", "/v2/me/mine/manifests/1", body=manifest)[0] == 400, "its blob is not there yet"
    assert raw(client, "GET", "/v2/me/mine/manifests/1")[0] == 404
    upload = raw(client, "POST", "/v2/me/mine/blobs/uploads/")[1]["Location"].partition(client.host)[2]
    assert raw(client, "PATCH", upload, body=blob[:5])[0] == 202
    assert raw(client, "PATCH", upload, body=blob[5:])[0] == 202
    assert raw(client, "PUT", f"{upload}?digest={digest}")[0] == 201
    assert raw(client, "PUT", "/v2/me/mine/manifests/1", body=manifest)[0] == 201
    assert raw(client, "GET", "/v2/me/mine/manifests/1")[2] == manifest
    assert raw(client, "GET", f"/v2/me/mine/blobs/{digest}")[2] == blob
    wrong = raw(client, "POST", "/v2/me/mine/blobs/uploads/")[1]["Location"].partition(client.host)[2]
    raw(client, "PATCH", wrong, body=b"other")
    assert raw(client, "PUT", f"{wrong}?digest={digest}")[0] == 400


@pytest.mark.parametrize("prefix", ["/files/", "/ollama/ollama/releases/download/"])
def test_files(start_registry, tmp_path, prefix):
    (tmp_path / "files" / "v1").mkdir(parents=True)
    (tmp_path / "files" / "v1" / "a.txt").write_bytes(b"0123456789")
    (tmp_path / "secret").write_bytes(b"no")
    client = start_registry("--files", str(tmp_path / "files"))
    assert raw(client, "GET", f"{prefix}v1/a.txt")[2] == b"0123456789"
    assert raw(client, "GET", f"{prefix}v1/a.txt", {"Range": "bytes=2-4"})[2] == b"234"
    for bad in ("v1/b.txt", "v1", "../secret", "%2e%2e/secret"):
        assert raw(client, "GET", prefix + bad)[0] == 404
    assert client.get("/_double/stats")["kinds"]["file"]["bytes"] == 13


def test_status_fault_with_retry_after_and_count(start_registry):
    client = start_registry()
    fault(client, fault="status", status=429, retry_after=7, count=2, kind="manifest")
    path = "/v2/library/smollm2/manifests/135m"
    answers = [raw(client, "GET", path) for _attempt in range(3)]
    assert [answer[0] for answer in answers] == [429, 429, 200]
    assert answers[0][1]["Retry-After"] == "7"
    assert client.get("/_double/faults")[0]["used"] == 2


def test_faults_hit_only_what_they_are_meant_for(start_registry):
    client = start_registry()
    fault(client, fault="status", status=500, name="library/llama*")
    assert raw(client, "GET", "/v2/library/smollm2/manifests/135m")[0] == 200
    assert raw(client, "GET", "/v2/library/llama3.2/manifests/1b")[0] == 500
    client.ask("DELETE", "/_double/faults")
    assert raw(client, "GET", "/v2/library/llama3.2/manifests/1b")[0] == 200


def test_content_faults(start_registry):
    client = start_registry()
    path, size = blob_path(client), model_layer(client)["size"]
    good = raw(client, "GET", path)[2]
    fault(client, fault="no_location", count=1)
    assert raw(client, "GET", path)[1]["Location"] is None
    fault(client, fault="no_range", count=1)
    status, _headers, body, _cut = raw(client, "GET", path, {"Range": "bytes=5-9"})
    assert (status, body) == (200, good)
    fault(client, fault="wrong_bytes", count=1)
    body = raw(client, "GET", path)[2]
    assert len(body) == size and body != good
    fault(client, fault="no_length", count=1)
    assert raw(client, "HEAD", path)[1]["Content-Length"] is None
    fault(client, fault="cut_after_bytes", bytes=1000, count=1)
    assert (raw(client, "GET", path)[2:]) == (good[:1000], True)
    assert raw(client, "GET", path)[2] == good


def test_stall_and_rate(start_registry):
    client = start_registry()
    path = blob_path(client)
    fault(client, fault="stall_after_bytes", bytes=10, seconds=0.3, count=1)
    began = time.monotonic()
    assert raw(client, "GET", path, {"Range": "bytes=0-99"})[3]
    assert time.monotonic() - began > 0.25
    fault(client, fault="rate", bytes_per_second=1000, count=1)
    began = time.monotonic()
    assert len(raw(client, "GET", path, {"Range": "bytes=0-299"})[2]) == 300
    assert time.monotonic() - began > 0.25


def test_expiring_addresses(start_registry):
    client = start_registry()
    fault(client, fault="expire_seconds", seconds=-1)
    location = raw(client, "GET", blob_path(client))[1]["Location"]
    assert raw(client, "GET", location, {"Range": "bytes=0-3"})[0] == 403


def test_foreign_realm(start_registry):
    client = start_registry("--fault", '{"fault": "foreign_realm", "realm": "evil.example"}')
    headers = raw(client, "GET", "/v2/library/smollm2/manifests/135m")[1]
    assert 'realm="https://evil.example/token"' in headers["WWW-Authenticate"]


@pytest.mark.parametrize("entry", [{}, {"fault": "fire"}, {"fault": "status", "stauts": 1}, {"fault": "status", "kind": "blobs"}, [1]])
def test_bad_faults_are_refused(start_registry, entry):
    assert start_registry().post("/_double/faults", entry)[0] == 400


def test_statistics(start_registry):
    client = start_registry()
    path, layer = blob_path(client), model_layer(client)
    assert client.post("/_double/stats")[1]["requests"] == 0
    raw(client, "HEAD", path)
    raw(client, "GET", path, {"Range": "bytes=0-99"})
    raw(client, "GET", path, {"Range": "bytes=100-149"})
    stats = client.get("/_double/stats")
    assert stats["requests"] == 3 and stats["bytes"] == 150
    assert stats["kinds"] == {"blob_head": {"requests": 1, "bytes": 0}, "blob_range": {"requests": 2, "bytes": 150}}
    assert stats["digests"] == {layer["digest"]: {"requests": 3, "bytes": 150}}
    assert stats["statuses"] == {"200": 1, "206": 2}
    assert stats["log"][-1]["range"] == "bytes=100-149"


def test_a_moved_tag_has_other_content_and_the_old_one_stays(start_registry):
    client = start_registry()
    old = model_layer(client)
    moved = client.post("/_double/republish", {"name": "smollm2:135m", "seed": 5})[1]
    new = raw(client, "GET", "/v2/library/smollm2/manifests/135m")[2]
    assert moved["digest"] == "sha256:" + hashlib.sha256(new).hexdigest()
    assert model_layer(client)["digest"] != old["digest"]
    assert raw(client, "HEAD", f"/v2/library/smollm2/blobs/{old['digest']}")[0] == 200
    assert client.post("/_double/republish", {"name": "nobody:1"})[0] == 400


def test_own_models_and_version_floor(start_registry, tmp_path):
    listed = tmp_path / "models.json"
    listed.write_text(json.dumps([{"name": "me/new:1", "size": 100000, "seed": 9, "requires": "0.35.0"}]), encoding="utf-8")
    client = start_registry("--models", str(listed))
    assert "me/new:1" in client.get("/_double/models")
    path = "/v2/me/new/manifests/1"
    assert raw(client, "GET", path, AGENT)[0] == 412
    assert raw(client, "GET", path, {"User-Agent": "ollama/0.35.1 (amd64 linux)"})[0] == 200
