# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Pulls of the stand-in against a registry that misbehaves, and what stays on disk."""
from __future__ import annotations

import hashlib
import http.client
import json
import shutil
import subprocess
import threading
import time

import pytest
from ollama_double import pull as pull_module
from ollama_double import transfer

MODEL = "library/smollm2:135m"


@pytest.fixture(autouse=True)
def fixture_quick_retries(monkeypatch):
    """No second-long pauses between the tries."""
    monkeypatch.setattr(pull_module, "BACKOFF_SECONDS", 0.01)


def pull(client, registry, **more):
    return client.post("/api/pull", {"model": f"{registry.host}/{MODEL}", "insecure": True, **more})


def last_error(answer):
    status, lines = answer
    assert status == 200
    return lines[-1]["error"]


def fault(registry, **entry):
    assert registry.post("/_double/faults", entry)[0] == 200


def tags(client):
    return {entry["name"]: entry for entry in client.get("/api/tags")["models"]}


def test_a_pull_asks_for_what_the_real_one_asks_for(start_registry, start_server):
    registry, client = start_registry(), start_server()
    assert pull(client, registry)[1][-1] == {"status": "success"}
    log = registry.get("/_double/stats")["log"]
    layers = (len(log) - 1) // 3
    assert [entry["method"] for entry in log] == ["GET"] + ["HEAD", "GET", "GET"] * layers
    assert all(entry["range"].startswith("bytes=0-") for entry in log[3::3])
    raw = (client.app.store.manifests_dir / registry.host / "library" / "smollm2" / "135m").read_bytes()
    assert tags(client)[f"{registry.host}/{MODEL}"]["digest"] == hashlib.sha256(raw).hexdigest()
    assert not list(client.app.store.blobs.glob("*partial*"))


def test_pull_over_a_redirect_and_with_a_token(start_registry, start_server):
    blobs = start_registry()
    registry = start_registry("--token", "--redirect", blobs.host.replace("127.0.0.1", "localhost"))
    client = start_server()
    client.app.puller.key.parent.mkdir(parents=True)
    client.app.puller.key.write_text("key", encoding="ascii")
    assert pull(client, registry)[1][-1] == {"status": "success"}
    assert "blob_range" not in registry.get("/_double/stats")["kinds"]
    assert blobs.get("/_double/stats")["kinds"]["blob_range"]["requests"] == 5


@pytest.mark.parametrize(("entry", "error"), [
    ({"fault": "no_location"}, "http: no Location header in response"),
    ({"fault": "wrong_bytes", "kind": "blob_range"}, "digest mismatch, file must be downloaded again: want sha256:"),
    ({"fault": "no_length"}, "digest mismatch, file must be downloaded again: want sha256:"),
    ({"fault": "status", "status": 503, "kind": "blob_head"}, "503: "),
    ({"fault": "status", "status": 404, "kind": "manifest"}, "pull model manifest: file does not exist"),
    ({"fault": "status", "status": 500, "kind": "manifest", "body": "oops"}, "pull model manifest: 500: oops"),
    ({"fault": "foreign_realm", "realm": "evil.example"}, 'pull model manifest: realm host "evil.example" does not match original host "'),
])
def test_errors_come_as_the_last_line(start_registry, start_server, entry, error):
    registry, client = start_registry(), start_server()
    fault(registry, **entry)
    assert last_error(pull(client, registry)).startswith(error)
    assert not tags(client)
    registry.ask("DELETE", "/_double/faults")
    assert pull(client, registry)[1][-1] == {"status": "success"}, "what is left behind does not stop the next pull"


def test_errors_without_a_stream_have_a_status(start_registry, start_server):
    registry, client = start_registry(), start_server()
    fault(registry, fault="status", status=404)
    assert pull(client, registry, stream=False) == (500, {"error": "pull model manifest: file does not exist"})


def test_without_insecure_it_is_https(start_registry, start_server):
    registry, client = start_registry(), start_server()
    error = last_error(pull(client, registry, insecure=False))
    assert error.startswith(f'pull model manifest: Get "https://{registry.host}/v2/library/smollm2/manifests/135m": ')
    error = last_error(client.post("/api/pull", {"model": f"http://{registry.host}/{MODEL}"}))
    assert 'Get "https://' in error, "a scheme in the name changes nothing"


def test_https_with_a_certificate_of_ones_own(start_registry, start_server, tmp_path, monkeypatch):
    openssl = shutil.which("openssl")
    if not openssl:
        pytest.skip("makes its certificate with openssl, which is not here")
    pem = tmp_path / "cert.pem"
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=registry"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(pem) + ".key", "-out", str(pem)]
    subprocess.run(command + names, check=True, capture_output=True, timeout=20)
    registry, client = start_registry("--cert", str(pem), "--key", str(pem) + ".key"), start_server()
    name = {"model": f"{registry.host}/{MODEL}", "insecure": False}
    transfer.trust.cache_clear()
    assert "tls: failed to verify certificate: x509: " in last_error(client.post("/api/pull", name))
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    assert "x509" in last_error(client.post("/api/pull", name)), "the trust store is read once"
    transfer.trust.cache_clear()
    assert client.post("/api/pull", name)[1][-1] == {"status": "success"}
    monkeypatch.undo()
    transfer.trust.cache_clear()


def test_nobody_listens(start_server):
    error = last_error(start_server().post("/api/pull", {"model": "127.0.0.1:1/library/m", "insecure": True}))
    assert error == 'pull model manifest: Get "http://127.0.0.1:1/v2/library/m/manifests/latest": dial tcp 127.0.0.1:1: connect: connection refused'


def test_a_cut_connection_is_resumed(start_registry, start_server):
    registry, client = start_registry(), start_server()
    fault(registry, fault="cut_after_bytes", bytes=1_000_000, kind="blob_range", count=1)
    assert pull(client, registry)[1][-1] == {"status": "success"}
    ranges = [entry["range"] for entry in registry.get("/_double/stats")["log"] if entry["range"]]
    assert ranges[1].startswith("bytes=1000000-")


def test_an_error_page_in_place_of_a_range_is_tried_again(start_registry, start_server):
    registry, client = start_registry(), start_server()
    fault(registry, fault="status", status=503, kind="blob_range", count=2)
    assert pull(client, registry)[1][-1] == {"status": "success"}


def test_expired_addresses_end_a_pull(start_registry, start_server):
    registry, client = start_registry(), start_server()
    fault(registry, fault="expire_seconds", seconds=-1)
    assert last_error(pull(client, registry)) == "max retries exceeded: EOF"


def test_a_server_that_ignores_ranges_ruins_a_resumed_part(start_registry, start_server):
    registry, client = start_registry(), start_server()
    fault(registry, fault="no_range")
    fault(registry, fault="cut_after_bytes", bytes=1_000_000, kind="blob_range", count=1)
    assert last_error(pull(client, registry)).startswith("digest mismatch")


def test_retries_end(start_registry, start_server):
    registry, client = start_registry(), start_server()
    fault(registry, fault="cut_after_bytes", bytes=0, kind="blob_range")
    assert last_error(pull(client, registry)).startswith("max retries exceeded: ")


def test_partial_state_stays_for_the_next_pull(start_registry, start_server):
    registry, client = start_registry(), start_server()
    fault(registry, fault="stall_after_bytes", bytes=2_000_000, kind="blob_range", seconds=5)
    connection = http.client.HTTPConnection(client.host, timeout=5)
    connection.request("POST", "/api/pull", json.dumps({"model": f"{registry.host}/{MODEL}", "insecure": True}))
    answer = connection.getresponse()
    completed = 0
    while completed < 2_000_000:
        completed = json.loads(answer.readline()).get("completed", 0)
    answer.close()
    connection.close()
    blobs = client.app.store.blobs
    partial = next(path for path in blobs.glob("sha256-*-partial"))
    assert partial.stat().st_size > 4_000_000, "sparse, but of full length"
    registry.ask("DELETE", "/_double/faults")
    registry.post("/_double/stats")
    # It takes a tick until the server sees that the client is gone; until then a new pull would join the stalled download.
    time.sleep(0.2)
    assert pull(client, registry)[1][-1] == {"status": "success"}
    assert registry.get("/_double/stats")["kinds"]["blob_range"]["bytes"] < 4_000_000
    assert not list(blobs.glob("*partial*"))


def test_pulls_of_one_model_at_once_share_the_download(start_registry, start_server):
    registry, client = start_registry(), start_server()
    fault(registry, fault="rate", bytes_per_second=8_000_000, kind="blob_range")
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(pull(client, registry))) for _number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer[1][-1] for answer in answers] == [{"status": "success"}] * 3
    assert registry.get("/_double/stats")["kinds"]["blob_range"]["bytes"] < 4_300_000


def test_progress_lines(start_registry, start_server):
    registry, client = start_registry(), start_server()
    fault(registry, fault="rate", bytes_per_second=16_000_000, kind="blob_range")
    lines = pull(client, registry)[1]
    progress = [line for line in lines if "digest" in line]
    assert any(0 < line.get("completed", 0) < line["total"] for line in progress)
    assert all(line["status"] == f"pulling {line['digest'][7:19]}" for line in progress)
    again = pull(client, registry)[1]
    assert [line.get("completed") for line in again if "digest" in line] == [line.get("total") for line in again if "digest" in line]
    assert [line["status"] for line in again[-3:]] == ["verifying sha256 digest", "writing manifest", "success"]


def test_a_moved_tag_removes_the_old_layers(start_registry, start_server):
    registry, client = start_registry(), start_server()
    pull(client, registry)
    before = tags(client)[f"{registry.host}/{MODEL}"]["digest"]
    registry.post("/_double/republish", {"name": "smollm2:135m", "seed": 42})
    statuses = [line["status"] for line in pull(client, registry)[1]]
    assert statuses[-2:] == ["removing unused layers", "success"]
    after = tags(client)[f"{registry.host}/{MODEL}"]["digest"]
    assert after != before
    assert sum(path.stat().st_size > 4_000_000 for path in client.app.store.blobs.iterdir()) == 1


def test_a_blob_on_disk_is_trusted_by_its_name(start_registry, start_server):
    registry, client = start_registry(), start_server()
    pull(client, registry)
    blob = max(client.app.store.blobs.iterdir(), key=lambda path: path.stat().st_size)
    blob.write_bytes(b"rotten")
    registry.post("/_double/stats")
    assert pull(client, registry)[1][-1] == {"status": "success"}
    assert blob.read_bytes() == b"rotten"
    assert "blob_range" not in registry.get("/_double/stats")["kinds"]


def test_push(start_registry, start_server):
    registry, client = start_registry(), start_server()
    pull(client, registry)
    mine = f"{registry.host}/me/mine:1"
    assert client.post("/api/copy", {"source": f"{registry.host}/{MODEL}", "destination": mine})[0] == 200
    assert client.post("/api/create", {"model": mine, "from": mine, "system": "mine"})[1][-1] == {"status": "success"}
    lines = client.post("/api/push", {"model": mine, "insecure": True})[1]
    assert lines[0] == {"status": "retrieving manifest"}
    assert [line["status"] for line in lines[-2:]] == ["pushing manifest", "success"]
    digest = tags(client)[mine]["digest"]
    client.ask("DELETE", "/api/delete", {"model": mine})
    assert client.post("/api/pull", {"model": mine, "insecure": True})[1][-1] == {"status": "success"}
    assert client.post("/api/show", {"model": mine})[1]["system"] == "mine"
    assert len(digest) == 64


def test_a_stalled_download_does_not_hold_up_another(start_registry, start_server):
    registry, client = start_registry(), start_server()
    fault(registry, fault="stall_after_bytes", bytes=1000, kind="blob_range", seconds=3, name="library/llama3.2")
    slow = threading.Thread(target=client.post, args=("/api/pull", {"model": f"{registry.host}/library/llama3.2:1b", "insecure": True}), daemon=True)
    slow.start()
    began = time.monotonic()
    assert pull(client, registry)[1][-1] == {"status": "success"}
    assert time.monotonic() - began < 2.5


@pytest.mark.parametrize(("total", "ranges"), [
    (0, []), (5, [(0, 5)]), (250_000_000, [(0, 100_000_000), (100_000_000, 100_000_000), (200_000_000, 50_000_000)]),
])
def test_ranges(total, ranges):
    assert pull_module.split(total) == ranges
    assert len(pull_module.split(16_000_000_000)) == 16
    assert max(size for _offset, size in pull_module.split(40_000_000_000)) == 1_000_000_000
