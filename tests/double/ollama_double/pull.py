# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Pulls of the stand-in: the client side of the registry protocol, with ranges, resumed parts and digest checks."""
from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import json
import socket
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Callable
from urllib.parse import urlsplit

from .names import Name
from .store import MANIFEST_TYPE, BadManifest, InvalidDigest, Manifest, Store
from .transfer import Registry, TransferError, direct_url, open_url

Progress = Callable[[dict[str, Any]], None]
MEGABYTE = 1_000_000
LEAST_PART, LARGEST_PART, PARTS = 100 * MEGABYTE, 1000 * MEGABYTE, 16
RETRIES = 6
BACKOFF_SECONDS = 1.0
TICK_SECONDS = 0.06
_PIECE = 256 << 10


class Cancelled(Exception):
    """Nobody waits for the download any more."""


@dataclass
class Part:
    """A range of a blob under download; its state is kept beside the partial file for a later resume."""

    number: int
    offset: int
    size: int
    completed: int = 0

    def save(self, path: Path) -> None:
        """Write the state."""
        state = {"N": self.number, "Offset": self.offset, "Size": self.size, "Completed": self.completed}
        path.write_text(json.dumps(state, separators=(",", ":")) + "\n", encoding="utf-8")


@dataclass
class Download:
    """One blob on its way; requests that want the same digest share it."""

    digest: str
    path: Path
    parts: list[Part] = field(default_factory=list)
    users: int = 0
    error: BaseException | None = None
    done: threading.Event = field(default_factory=threading.Event)
    stop: threading.Event = field(default_factory=threading.Event)
    sockets: list[socket.socket] = field(default_factory=list)

    def cancel(self) -> None:
        """End it, reads that hang included."""
        self.stop.set()
        for connection in list(self.sockets):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def partial(self) -> Path:
        """The file that the parts are written into."""
        return self.path.with_name(f"{self.path.name}-partial")

    def part_path(self, part: Part) -> Path:
        """The state file of a part."""
        return self.path.with_name(f"{self.path.name}-partial-{part.number}")

    def status(self) -> dict[str, Any]:
        """The progress line; zeros are left out."""
        return progress_line("pulling", self.digest, sum(part.size for part in self.parts), sum(part.completed for part in self.parts))

    def run(self, registry: Registry, url: str) -> None:
        """Learn the ranges, fetch everything, then give the file its name."""
        registry = replace(registry, on_socket=self.sockets.append)
        try:
            self._prepare(registry, url)
            self._run(registry, url)
        except BaseException as error:  # pylint: disable=broad-exception-caught
            self.error = error

    def _prepare(self, registry: Registry, url: str) -> None:
        """The parts of an interrupted download, or new ones from the length that HEAD tells."""
        parts = []
        for state in self.path.parent.glob(f"{self.path.name}-partial-*"):
            saved = json.loads(state.read_text(encoding="utf-8"))
            parts.append(Part(saved["N"], saved["Offset"], saved["Size"], saved["Completed"]))
        if not parts:
            with registry.request("HEAD", url) as answer:
                total = int(answer.headers.get("Content-Length") or 0)
            parts = [Part(number, offset, size) for number, (offset, size) in enumerate(split(total))]
            for part in parts:
                part.save(self.part_path(part))
        self.parts = sorted(parts, key=lambda part: part.number)

    def _run(self, registry: Registry, url: str) -> None:
        with self.partial.open("ab"):
            pass
        with self.partial.open("r+b") as stream:
            stream.truncate(sum(part.size for part in self.parts))
        target = direct_url(registry, url)
        # Daemons, since a server that stops waits for nobody.
        errors: list[BaseException] = []
        threads = [threading.Thread(target=self._part, args=(target, part, errors), daemon=True) for part in self.parts if part.completed < part.size]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        for part in self.parts:
            self.part_path(part).unlink(missing_ok=True)
        self.partial.rename(self.path)

    def _part(self, url: str, part: Part, errors: list[BaseException]) -> None:
        try:
            self._with_retries(url, part)
        except BaseException as error:  # pylint: disable=broad-exception-caught
            errors.append(error)
            self.cancel()

    def _with_retries(self, url: str, part: Part) -> None:
        """One range; a stalled one is tried again without being counted."""
        failed: Exception | None = None
        attempt = 0
        while attempt < RETRIES:
            try:
                self._fetch(url, part)
                return
            except TimeoutError:
                continue
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    raise
                failed = error
            except (TransferError, http.client.HTTPException) as error:
                failed = error
            finally:
                part.save(self.part_path(part))
            if self.stop.wait(BACKOFF_SECONDS * 2**attempt):
                raise Cancelled
            attempt += 1
        raise TransferError(f"max retries exceeded: {failed}")

    def _range(self, url: str, begin: int, end: int) -> Any:
        return open_url("GET", url, {"Range": f"bytes={begin}-{end - 1}"}, on_socket=self.sockets.append)

    def _fetch(self, url: str, part: Part) -> None:
        # The status is not looked at: a server that ignores the range ruins the part, which the digest then shows.
        begin, end = part.offset + part.completed, part.offset + part.size
        with self.partial.open("r+b") as stream, self._range(url, begin, end) as answer:
            stream.seek(begin)
            before = part.completed
            while part.completed < part.size:
                if self.stop.is_set():
                    raise Cancelled
                piece = answer.read1(min(_PIECE, part.size - part.completed))
                if not piece:
                    if getattr(answer, "length", None):
                        raise TransferError("unexpected EOF")
                    # It ended as it said it would, before the range did: an error page. Nothing of it counts.
                    part.completed = before
                    raise TransferError("EOF")
                stream.write(piece)
                part.completed += len(piece)


class Puller:
    """All downloads of a server."""

    def __init__(self, store: Store, version: str, key: Path) -> None:
        self.store = store
        self.version = version
        self.key = key
        self._lock = threading.Lock()
        self._downloads: dict[str, Download] = {}

    def registry(self, name: Name, insecure: bool) -> Registry:
        """A client for the registry of a name."""
        return Registry(name.host, insecure, self.version, self.key)

    def pull(self, name: Name, insecure: bool, say: Progress, wanted: Callable[[], bool]) -> None:
        """Pull a model, saying each step; `wanted` turns false when the client is gone."""
        old = self._old_digests(name)
        say({"status": "pulling manifest"})
        registry = self.registry(name, insecure)
        raw, manifest = self._manifest(registry, name)
        digests = [layer["digest"] for layer in manifest.all_layers]
        fetched = {digest for digest in digests if self._blob(registry, name, digest, say, wanted)}
        say({"status": "verifying sha256 digest"})
        for digest in digests:
            if digest in fetched:
                self._verify(digest)
        say({"status": "writing manifest"})
        self.store.write_manifest(name, raw)
        unused = old - set(digests)
        if unused and not self.store.no_prune:
            say({"status": "removing unused layers"})
            self.store.remove_unused(unused)
        say({"status": "success"})

    def _old_digests(self, name: Name) -> set[str]:
        try:
            return {layer["digest"] for layer in self.store.manifest(name).all_layers}
        except (FileNotFoundError, BadManifest):
            return set()

    @staticmethod
    def _manifest(registry: Registry, name: Name) -> tuple[bytes, Manifest]:
        try:
            with registry.request("GET", f"/v2/{name.repository}/manifests/{name.tag}", {"Accept": MANIFEST_TYPE}) as answer:
                raw = answer.read()
            document = json.loads(raw)
            if not isinstance(document, dict):
                raise ValueError("json: cannot unmarshal into Go value of type manifest.Manifest")
        except (TransferError, OSError, ValueError, http.client.HTTPException) as error:
            raise TransferError(f"pull model manifest: {error}") from error
        return raw, Manifest(name, raw, document, 0.0)

    def _blob(self, registry: Registry, name: Name, digest: str, say: Progress, wanted: Callable[[], bool]) -> bool:
        """Make sure that a blob is there; True when it was downloaded now. A blob on disk is trusted as it is."""
        if not digest:
            raise TransferError(f"{name.repository}: digest is empty")
        try:
            path = self.store.blob_path(digest)
        except InvalidDigest as error:
            raise TransferError(str(error)) from error
        download = self._join(registry, name, digest, path)
        if download is None:
            size = path.stat().st_size
            say(progress_line("pulling", digest, size, size))
            return False
        try:
            while not download.done.wait(TICK_SECONDS):
                say(download.status())
                if not wanted():
                    raise Cancelled
        finally:
            with self._lock:
                download.users -= 1
                if not download.users:
                    download.cancel()
        if download.error:
            raise download.error
        return True

    def _join(self, registry: Registry, name: Name, digest: str, path: Path) -> Download | None:
        """The download of a digest, started when nobody else did; None when the blob is there."""
        while True:
            with self._lock:
                download = self._downloads.get(digest)
                if download is None and path.exists():
                    return None
                if download is None:
                    download = self._downloads[digest] = Download(digest, path)
                    url = f"{registry.base}/v2/{name.repository}/blobs/{digest}"
                    threading.Thread(target=self._run, args=(download, registry, url), daemon=True).start()
                if not download.stop.is_set():
                    download.users += 1
                    return download
            # Its last user has just left; once it has stopped, a new one takes its parts over.
            download.done.wait()

    def _run(self, download: Download, registry: Registry, url: str) -> None:
        download.run(registry, url)
        with self._lock:
            self._downloads.pop(download.digest, None)
        download.done.set()

    def _verify(self, digest: str) -> None:
        path = self.store.blob_path(digest)
        with path.open("rb") as stream:
            found = f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
        if found != digest:
            path.unlink()
            raise TransferError(f"digest mismatch, file must be downloaded again: want {digest}, got {found}")


def split(total: int) -> list[tuple[int, int]]:
    """The ranges of a blob: sixteen, none smaller than 100 MB or larger than 1000 MB."""
    size = min(max(total // PARTS, LEAST_PART), LARGEST_PART)
    return [(offset, min(size, total - offset)) for offset in range(0, total, size)]


def progress_line(verb: str, digest: str, total: int, completed: int) -> dict[str, Any]:
    """A progress line; zero counts are left out, as in the real stream."""
    line: dict[str, Any] = {"status": f"{verb} {digest[7:19]}", "digest": digest}
    return line | {key: count for key, count in (("total", total), ("completed", completed)) if count}


def push(puller: Puller, name: Name, insecure: bool, say: Progress) -> None:
    """Push a model: the blobs that the registry lacks, then the manifest."""
    say({"status": "retrieving manifest"})
    try:
        manifest = puller.store.manifest(name) if name.is_valid else None
    except (FileNotFoundError, BadManifest) as error:
        say({"status": "couldn't retrieve manifest"})
        raise TransferError(f"open {puller.store.manifests_dir / name.path}: no such file or directory") from error
    if manifest is None:
        say({"status": "couldn't retrieve manifest"})
        raise TransferError(f"unqualified name: {name.full}")
    registry = puller.registry(name, insecure)
    for layer in manifest.all_layers:
        _push_blob(puller.store, registry, name, layer, say)
    say({"status": "pushing manifest"})
    document = json.dumps(manifest.document, separators=(",", ":"), ensure_ascii=False).encode()
    registry.request("PUT", f"/v2/{name.repository}/manifests/{name.tag}", {"Content-Type": MANIFEST_TYPE}, document).close()
    say({"status": "success"})


def _push_blob(store: Store, registry: Registry, name: Name, layer: dict[str, Any], say: Progress) -> None:
    digest, size = layer["digest"], layer["size"]
    try:
        registry.request("HEAD", f"/v2/{name.repository}/blobs/{digest}").close()
        say(progress_line("pushing", digest, size, size))
        return
    except TransferError as error:
        if str(error) != "file does not exist":
            raise
    with registry.request("POST", f"/v2/{name.repository}/blobs/uploads/", data=b"") as answer:
        location = answer.headers.get("Docker-Upload-Location") or answer.headers.get("Location") or ""
    say(progress_line("pushing", digest, size, 0))
    with store.blob_path(digest).open("rb") as stream:
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size), "Content-Range": f"0-{max(size - 1, 0)}"}
        with registry.request("PATCH", location, headers, stream) as answer:
            location = answer.headers.get("Docker-Upload-Location") or answer.headers.get("Location") or location
    separator = "&" if urlsplit(location).query else "?"
    registry.request("PUT", f"{location}{separator}digest={digest}", {"Content-Length": "0"}, b"").close()
    say(progress_line("pushing", digest, size, size))
