# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""A small client of Ollama's API, for modules. Standard library and Ansible's own only."""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from http.client import HTTPException
from typing import IO, Any, Iterator
from urllib.error import HTTPError, URLError

from ansible.module_utils.urls import open_url

from ansible_collections.gpufleet.ollama.plugins.module_utils._names import parse


class OllamaError(Exception):
    """The API refused, or answered what it should not; the text is for the user. C(status) is that of HTTP, 0 when it is not the reason."""

    status = 0


class OllamaUnreachable(OllamaError):
    """Nothing answers at the URL."""


CONNECTION_SPEC = {
    "url": {"type": "str", "default": "http://127.0.0.1:11434"},
    "timeout": {"type": "int", "default": 300},
}


class OllamaClient:
    """One instance of Ollama.

    Args: C(url) such as V(http://127.0.0.1:11434); C(timeout) in seconds, the longest silence within an answer.
    """

    def __init__(self, url: str, timeout: int) -> None:
        self.url = url.rstrip("/")
        self.timeout = timeout

    def _open(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        """Send a request; C(body) is JSON, or a file that is sent as it is. A status of 400 and above becomes OllamaError with the API's own text."""
        data = body if body is None or hasattr(body, "read") else json.dumps(body)
        try:
            return open_url(self.url + path, method=method, data=data, headers=headers, timeout=self.timeout, use_proxy=False)
        except HTTPError as error:
            problem = OllamaError(f"{method} {self.url + path} answered {error.code}: {_error_text(error.read())}")
            problem.status = error.code
            raise problem from None
        except (URLError, OSError, HTTPException) as error:
            raise OllamaUnreachable(f"no Ollama answers at {self.url}: {error}") from None

    def _json(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            raw = self._open(method, path, body).read()
        except (OSError, HTTPException) as error:
            raise OllamaUnreachable(f"{self.url + path} broke off: {error}") from None
        if not raw:
            return {}
        try:
            answer = json.loads(raw)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise OllamaError(f"{self.url + path} is no Ollama: it answered {raw[:80]!r}")
        return answer

    def version(self) -> str:
        """Version of the server, without a C(v)."""
        answer = self._json("GET", "/api/version")
        if not isinstance(answer.get("version"), str):
            raise OllamaError(f"{self.url}/api/version is no Ollama: it answered {str(answer)[:80]}")
        return answer["version"]

    def models(self) -> list[dict[str, Any]]:
        """Items of C(/api/tags): name, digest (64 hex digits), size (bytes), details and more."""
        found = self._json("GET", "/api/tags").get("models")
        if not isinstance(found, list) or not all(isinstance(item, dict) and isinstance(item.get("name"), str) for item in found):
            raise OllamaError(f"{self.url}/api/tags is no Ollama: it answered no list of models, but {str(found)[:80]}")
        return found

    def find(self, name: str) -> dict[str, Any] | None:
        """The model of exactly this name (tag V(latest) when none is given), or None."""
        wanted = parse(name).key
        for item in self.models():
            # a name that Ollama allows and we do not is never the one that was asked for
            with suppress(ValueError):
                if parse(item["name"]).key == wanted:
                    return item
        return None

    def show(self, name: str) -> dict[str, Any]:
        """C(/api/show): capabilities, modelfile, details and more; what is empty is left out."""
        return self._json("POST", "/api/show", {"model": name})

    def ps(self) -> list[dict[str, Any]]:
        """Items of C(/api/ps), the loaded models: name, digest, size and size_vram (bytes), expires_at and more."""
        return self._json("GET", "/api/ps").get("models") or []

    def generate(self, name: str, prompt: str, **more: Any) -> dict[str, Any]:
        """One answer of C(/api/generate), not a stream. C(more) are further fields of the request, such as options."""
        return self._json("POST", "/api/generate", {"model": name, "prompt": prompt, "stream": False, **more})

    def embed(self, name: str, text: str, **more: Any) -> dict[str, Any]:
        """The vector of a text, from C(/api/embed). C(more) are further fields of the request."""
        return self._json("POST", "/api/embed", {"model": name, "input": text, **more})

    def delete(self, name: str) -> None:
        """Delete a model."""
        self._json("DELETE", "/api/delete", {"model": name})

    def pull(self, name: str, insecure: bool = False) -> Iterator[dict[str, Any]]:
        """Pull a model; yields the status lines of the stream."""
        return self._stream(f"pull of {name}", "/api/pull", {"model": name, "insecure": insecure})

    def create(self, name: str, **fields: Any) -> Iterator[dict[str, Any]]:
        """Build a model; yields the status lines of the stream. C(fields) are those of C(/api/create): from or files, system and more.

        Ollama pulls a base that it does not have: see that it has it.
        """
        return self._stream(f"build of {name}", "/api/create", {"model": name, **fields})

    def has_blob(self, digest: str) -> bool:
        """Whether the store has the blob C(sha256:<hex>)."""
        try:
            self._open("HEAD", f"/api/blobs/{digest}").close()
        except OllamaError as error:
            if error.status != 404:
                raise
            return False
        return True

    def upload_blob(self, digest: str, file: IO[bytes]) -> None:
        """Send an open file, from its beginning, as the blob C(sha256:<hex>). Ollama compares the bytes with the digest."""
        file.seek(0)
        headers = {"Content-Length": str(os.fstat(file.fileno()).st_size), "Content-Type": "application/octet-stream"}
        self._open("POST", f"/api/blobs/{digest}", file, headers).close()

    def _stream(self, what: str, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The lines of a stream.

        An error after the first line comes with status 200 as a last line C({"error": ...}): it is raised like any other.
        """
        response = self._open("POST", path, {**body, "stream": True})
        last: dict[str, Any] = {}
        try:
            for line in response:
                last = json.loads(line)
                if "error" in last:
                    raise OllamaError(f"{what} failed: {last['error']}")
                yield last
        except socket.timeout:
            raise OllamaError(f"{what} stalled: nothing came for {self.timeout} s") from None
        except (OSError, HTTPException, ValueError, RecursionError) as error:
            raise OllamaError(f"{what} broke off: {error}") from None
        if last.get("status") != "success":
            raise OllamaError(f"{what} ended without success; its last word was {last.get('status')!r}")


def _error_text(raw: bytes) -> str:
    try:
        return str(json.loads(raw)["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return raw[:200].decode("utf-8", "replace").strip() or "(no text)"
