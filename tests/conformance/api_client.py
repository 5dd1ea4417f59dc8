# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A small HTTP client for the conformance suite: standard library only, and it can read a stream line by line."""
from __future__ import annotations

import contextlib
import http.client
import json
import time
from dataclasses import dataclass
from typing import Any, Iterator
from urllib.parse import quote, urlsplit

# Real models load and answer slowly on a CPU; no test measures time.
TIMEOUT_SECONDS = 300


@dataclass(frozen=True)
class Answer:
    """A complete answer."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", "replace")

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The text of an error in Ollama's own form, which has nothing but that."""
        content = self.json
        assert isinstance(content.get("error"), str), self.text
        return content["error"]

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The objects of an NDJSON stream."""
        return [json.loads(line) for line in self.body.splitlines()]

    @property
    def content_type(self) -> str:
        """The media type, parameters left out."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip()

    @property
    def events(self) -> list[tuple[str, str]]:
        """The server-sent events: (name, data)."""
        found = []
        for block in self.text.split("\n\n"):
            fields = dict(line.partition(": ")[::2] for line in block.splitlines())
            if "data" in fields:
                found.append((fields.get("event", ""), fields["data"]))
        return found


class HttpClient:
    """Requests to one server, each on a connection of its own."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        self.url = f"{parts.scheme}://{parts.netloc}"
        self.secure = parts.scheme == "https"
        self.netloc = parts.netloc

    def connect(self) -> http.client.HTTPConnection:
        """A new connection."""
        kind = http.client.HTTPSConnection if self.secure else http.client.HTTPConnection
        return kind(self.netloc, timeout=TIMEOUT_SECONDS)

    def request(self, method: str, path: str, content: Any = None, data: bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
        """One request; `content` is sent as JSON, `data` as it is."""
        connection = self.connect()
        try:
            body = json.dumps(content).encode() if content is not None else data
            connection.request(method, path, body=body, headers=headers or {})
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def get(self, path: str) -> Answer:
        """GET"""
        return self.request("GET", path)

    def post(self, path: str, content: Any) -> Answer:
        """POST of JSON."""
        return self.request("POST", path, content)

    @contextlib.contextmanager
    def stream(self, path: str, content: Any) -> Iterator[http.client.HTTPResponse]:
        """A POST whose answer is read bit by bit; leaving the block closes the connection, whatever is unread."""
        connection = self.connect()
        try:
            connection.request("POST", path, body=json.dumps(content).encode())
            yield connection.getresponse()
        finally:
            connection.close()


class Ollama(HttpClient):
    """An Ollama server, with the few calls that many tests need."""

    def tags(self) -> dict[str, dict[str, Any]]:
        """The models by name."""
        return {entry["name"]: entry for entry in self.get("/api/tags").json["models"]}

    def loaded(self) -> dict[str, dict[str, Any]]:
        """The loaded models by name.

        Weights that were replaced while they were loaded stay, under the same name, until their time is over: these are left out.
        """
        tags = self.tags()
        entries = self.get("/api/ps").json["models"]
        return {entry["name"]: entry for entry in entries if tags.get(entry["name"], entry)["digest"] == entry["digest"]}

    def show(self, name: str) -> dict[str, Any]:
        """What the server says of a model."""
        answer = self.post("/api/show", {"model": name})
        assert answer.status == 200, answer.text
        return answer.json

    def delete(self, name: str) -> Answer:
        """Delete a model."""
        return self.request("DELETE", "/api/delete", {"model": name})

    def copy(self, source: str, destination: str) -> Answer:
        """Give a model a second name."""
        return self.post("/api/copy", {"source": source, "destination": destination})

    def unload(self, name: str) -> None:
        """Unload a model and wait until it is gone."""
        self.post("/api/generate", {"model": name, "keep_alive": 0})
        self.wait_until_gone(name)

    def wait_until_gone(self, name: str) -> None:
        """Wait until a model is no longer loaded: that it will be unloaded is answered before it is."""
        end = time.monotonic() + 60
        while name in self.loaded():
            assert time.monotonic() < end, f"{name} is still loaded after a minute"
            time.sleep(0.05)


class Registry(HttpClient):
    """A registry that the server can pull from."""

    def __init__(self, url: str, model: str, may_push: bool) -> None:
        super().__init__(url)
        self.model = model
        self.may_push = may_push

    @property
    def insecure(self) -> bool:
        """What a pull must say: plain http is used only on request."""
        return not self.secure

    def name(self, model: str | None = None, namespace: str = "library") -> str:
        """The name under which a server pulls a model from here."""
        return f"{self.netloc}/{namespace}/{model or self.model}"

    def manifest(self, model: str | None = None) -> bytes:
        """The manifest's bytes, as the registry serves them."""
        name, _colon, tag = (model or self.model).partition(":")
        path = f"/v2/library/{name}/manifests/{tag or 'latest'}"
        answer = self.request("GET", path, headers={"Accept": "application/vnd.docker.distribution.manifest.v2+json"})
        assert answer.status == 200, answer.text
        return answer.body

    def blob(self, digest: str) -> bytes:
        """A blob, over at most one redirect."""
        name = self.model.partition(":")[0]
        answer = self.get(f"/v2/library/{name}/blobs/{digest}")
        if answer.status == 307:
            target = urlsplit(answer.headers["Location"])
            answer = HttpClient(f"{target.scheme}://{target.netloc}").get(f"{quote(target.path)}?{target.query}")
        assert answer.status == 200, answer.text
        return answer.body
