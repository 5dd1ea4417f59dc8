# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What holds for all endpoints: who answers, errors, methods, names, keep_alive, Host and Origin."""
from __future__ import annotations

import re

import pytest

MISSING = "conformance-no-such-model:none"
WITH_BODY = [
    ("POST", "/api/show"), ("POST", "/api/pull"), ("POST", "/api/push"), ("DELETE", "/api/delete"), ("POST", "/api/copy"),
    ("POST", "/api/create"), ("POST", "/api/generate"), ("POST", "/api/chat"), ("POST", "/api/embed"), ("POST", "/api/embeddings"),
]


def test_root_says_that_it_runs(ollama):
    """3.2: GET/HEAD `/`: 200, text `Ollama is running`."""
    assert ollama.get("/").text == "Ollama is running"
    head = ollama.request("HEAD", "/")
    assert (head.status, head.body) == (200, b"")


def test_version_is_bare(ollama):
    """3.2: /api/version is `{"version": "0.33.0"}`, no `v` in front; HEAD works, too."""
    answer = ollama.get("/api/version")
    assert answer.status == 200
    assert re.match(r"^[0-9]+\.[0-9]+\.[0-9]+", answer.json["version"])
    assert ollama.request("HEAD", "/api/version").status == 200


def test_status_tells_of_the_cloud(ollama):
    """3.2: /api/status: `{"cloud": {"disabled": .., "source": none|env|config|both}}`."""
    cloud = ollama.get("/api/status").json["cloud"]
    assert isinstance(cloud["disabled"], bool)
    assert cloud["source"] in ("none", "env", "config", "both")
    assert cloud["disabled"] == (cloud["source"] != "none")


def test_json_has_its_content_type(ollama):
    """3.1: JSON: `application/json; charset=utf-8`."""
    assert ollama.get("/api/version").headers["Content-Type"] == "application/json; charset=utf-8"


def test_unknown_paths_are_404_in_text(ollama):
    """3.1: unknown path: 404, text `404 page not found`."""
    answer = ollama.get("/api/conformance-nothing")
    assert (answer.status, answer.text.strip()) == (404, "404 page not found")


@pytest.mark.parametrize(("method", "path", "allowed"), [
    ("GET", "/api/generate", "POST"), ("POST", "/api/tags", "GET"), ("POST", "/api/delete", "DELETE"), ("PUT", "/api/version", "GET"),
    ("GET", "/v1/chat/completions", "POST"),
])
def test_wrong_methods_are_405_in_text(ollama, method, path, allowed):
    """3.1: wrong method: 405, text `405 method not allowed`, with `Allow`."""
    answer = ollama.request(method, path)
    assert (answer.status, answer.text.strip()) == (405, "405 method not allowed")
    assert allowed in answer.headers["Allow"]


@pytest.mark.parametrize(("method", "path"), WITH_BODY)
def test_no_body_is_400(ollama, method, path):
    """3.1: empty body: 400 `missing request body`, as `{"error": "..."}`."""
    answer = ollama.request(method, path, data=b"")
    assert (answer.status, answer.error) == (400, "missing request body")


@pytest.mark.parametrize(("method", "path"), WITH_BODY)
def test_bad_json_is_400(ollama, method, path):
    """3.1: bad JSON: 400 with the decoder's text."""
    answer = ollama.request(method, path, data=b"{model: x}")
    assert answer.status == 400
    assert answer.error


def test_content_type_and_unknown_fields_do_not_matter(ollama):
    """3.1: the Content-Type of requests is ignored; unknown JSON fields are ignored."""
    data = f'{{"model": "{MISSING}", "conformance": true}}'.encode()
    answer = ollama.request("POST", "/api/show", data=data, headers={"Content-Type": "text/plain"})
    assert (answer.status, answer.error) == (404, f"model '{MISSING}' not found")


@pytest.mark.parametrize("name", [
    "localhost:5000/m", "a/b/c/d", "x:", "m@sha256:" + "0" * 64, "[::1]:5000/ns/m", "-a", "a b", "a//b", "n.s/m", "m" * 81,
])
def test_names_that_are_none(ollama, name):
    """3.1: the table of invalid names: a host needs a namespace, at most three path parts, no digest, no empty part."""
    answer = ollama.post("/api/show", {"model": name})
    assert (answer.status, answer.error) == (400, "invalid model name")


@pytest.mark.parametrize("name", ["m", "ns/m", "host.example:5000/ns/m:tag", "_m.2-x:1b", "N/M:T"])
def test_names_that_could_be_one(ollama, name):
    """3.1: `[host/][namespace/]model[:tag]`: a valid name of no model is 404, not 400."""
    unique = name.replace("m", "conformance-none").replace("M", "Conformance-None")
    assert ollama.post("/api/show", {"model": unique}).status == 404


@pytest.mark.parametrize(("value", "problem"), [
    ("-1", 'time: missing unit in duration "-1"'), ("300", 'time: missing unit in duration "300"'), (True, "Unsupported type: 'bool'"),
])
@pytest.mark.parametrize("path", ["/api/generate", "/api/chat", "/api/embed"])
def test_keep_alive_that_is_none(ollama, path, value, problem):
    """3.1: a keep_alive string needs a unit: "-1" and "300" are 400, and so are booleans."""
    answer = ollama.post(path, {"model": MISSING, "keep_alive": value})
    assert (answer.status, answer.error) == (400, problem)


@pytest.mark.parametrize("value", [-1, 0, 300, 0.5, "10m", "-1m", "1h30m", "0", None])
def test_keep_alive_that_is_one(ollama, value):
    """3.1: a number is seconds, a string a duration with a unit; the request then fails for its model alone."""
    assert ollama.post("/api/generate", {"model": MISSING, "keep_alive": value}).status == 404


def test_local_host_names_pass(ollama):
    """3.6: Host: `localhost` is always allowed, so a proxy in front sends that."""
    for host in ("localhost", "localhost:11434", "127.0.0.1", "ollama.localhost", "gpu1.internal"):
        assert ollama.request("GET", "/api/version", headers={"Host": host}).status == 200


def test_foreign_host_names_are_refused_on_loopback(ollama, default_settings):
    """3.6: Host: anything else is 403 with an empty body, only when the listener is loopback."""
    answer = ollama.request("GET", "/api/version", headers={"Host": "evil.example"})
    if answer.status == 200 and not default_settings:
        pytest.skip("the server listens on more than loopback, where Host is not checked")
    assert (answer.status, answer.body) == (403, b"")


def test_foreign_origins_are_refused(ollama, default_settings):
    """3.6: Origin: a page of another site is 403 with an empty body; no Origin means no check."""
    assert ollama.get("/api/version").status == 200
    answer = ollama.request("GET", "/api/version", headers={"Origin": "http://evil.example"})
    if answer.status == 200 and not default_settings:
        pytest.skip("the server's OLLAMA_ORIGINS allows every origin")
    assert (answer.status, answer.body) == (403, b"")


def test_local_origins_pass(ollama):
    """2, 3.6: localhost on any port is always among the origins."""
    answer = ollama.request("GET", "/api/version", headers={"Origin": "http://localhost:3000"})
    assert answer.status == 200
    assert answer.headers["Access-Control-Allow-Origin"] in ("*", "http://localhost:3000")
