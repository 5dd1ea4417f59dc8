# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The store of models on disk. Nothing else in the collection knows its layout.

C(manifests/<host>/<namespace>/<model>/<tag>) are the manifests, C(blobs/sha256-<hex>) the layers. A server reads the manifests anew for
each list, so what is put there is there. What a server must not find goes to C(.gpufleet), which it never looks at: a foreign file
among the blobs is deleted at its start, and one among the manifests is a model, or keeps it from pruning (Ollama's manifest/paths.go and
server/images.go).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import time
from contextlib import contextmanager, suppress
from typing import Iterable, Iterator

from ansible_collections.gpufleet.ollama.plugins.module_utils._manifests import Layer, Manifest, ManifestError
from ansible_collections.gpufleet.ollama.plugins.module_utils._names import Name

PRIVATE_DIR = ".gpufleet"
BUFFER = 1 << 20

_BLOB = re.compile(r"sha256-[0-9a-f]{64}")
# what Ollama's own downloads leave: <blob>-partial, <blob>-partial-0, <blob>.tmp
_PARTIAL = re.compile(r"sha256-[0-9a-f]{64}(-partial(-[0-9]+)?|\.tmp)")
# what our own leave among what is staged
_STAGED = re.compile(r".*\.part")


class StoreError(Exception):
    """The store is not as it must be; the text is for the user."""


class Store:
    """A store, which need not exist yet. Reading makes nothing.

    C(path) is what OLLAMA_MODELS says. What is written belongs to the owner of C(blobs), whoever writes it.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self.blobs = os.path.join(self.path, "blobs")
        self.manifests = os.path.join(self.path, "manifests")
        self.private = os.path.join(self.path, PRIVATE_DIR)
        self.staging = os.path.join(self.private, "staging")
        self._verified_path = os.path.join(self.private, "verified.json")

    # -- reading ------------------------------------------------------------

    def names(self) -> dict[Name, str]:
        """The models that the store lists: name, and the path of its manifest. Files at another depth are none."""
        result = {}
        for folder, folders, files in os.walk(self.manifests):
            folders.sort()
            depth = 0 if folder == self.manifests else os.path.relpath(folder, self.manifests).count(os.sep) + 1
            if depth == 3:
                folders.clear()
                parts = os.path.relpath(folder, self.manifests).split(os.sep)
                for file in sorted(files):
                    result[Name(*parts, file)] = os.path.join(folder, file)
        return result

    def manifest_path(self, name: Name) -> str:
        """Where the manifest of a name is, in the spelling that is there, or would be: Ollama matches names without case."""
        path = self.manifests
        for part in name:
            path = os.path.join(path, self._spelling(path, part))
        return path

    @staticmethod
    def _spelling(folder: str, part: str) -> str:
        if os.path.lexists(os.path.join(folder, part)):
            return part
        try:
            present = sorted(os.listdir(folder))
        except (FileNotFoundError, NotADirectoryError):
            return part
        return next((entry for entry in present if entry.lower() == part.lower()), part)

    def read(self, name: Name) -> Manifest | None:
        """The manifest of a name, None when there is none. ManifestError when it cannot be one."""
        return self.read_path(self.manifest_path(name))

    @staticmethod
    def read_path(path: str) -> Manifest | None:
        """The manifest in a file."""
        try:
            with open(path, "rb") as file:
                return Manifest(file.read())
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except ManifestError as error:
            raise ManifestError(f"{path}: {error}") from None

    def blob_path(self, digest: str) -> str:
        """Where the blob of a digest C(sha256:<hex>) is, or would be."""
        return os.path.join(self.blobs, digest.replace(":", "-"))

    def blob_size(self, digest: str) -> int | None:
        """Size of a blob in bytes, None when it is not there."""
        try:
            return os.stat(self.blob_path(digest)).st_size
        except FileNotFoundError:
            return None

    def missing(self, layers: Iterable[Layer]) -> list[Layer]:
        """Of some layers those that are not there, or not in the size that they must have."""
        return [layer for layer in layers if self.blob_size(layer.digest) != layer.size]

    def part_path(self, digest: str) -> str:
        """Where a blob is put together before it is published."""
        return os.path.join(self.staging, f"{digest.replace(':', '-')}.part")

    def staged_bytes(self, layers: Iterable[Layer]) -> int:
        """Bytes on disk of downloads of these layers that were begun: they need no further space."""
        total = 0
        for layer in layers:
            with suppress(FileNotFoundError):
                total += min(os.stat(self.part_path(layer.digest)).st_blocks * 512, layer.size)
        return total

    def used(self) -> tuple[set[str], list[str]]:
        """The digests that manifests name, and the paths of manifests that cannot be read."""
        digests: set[str] = set()
        broken = []
        for path in self.names().values():
            try:
                manifest = self.read_path(path)
            except ManifestError:
                broken.append(path)
                continue
            digests |= {layer.digest for layer in manifest.layers} if manifest else set()
        return digests, broken

    def orphans(self) -> dict[str, int]:
        """Blobs that no manifest names, digest -> bytes. Empty while any manifest is unreadable, since it may name them."""
        used, broken = self.used()
        if broken:
            return {}
        sizes = {name.replace("-", ":", 1): status.st_size for name, status in self._files(self.blobs, _BLOB)}
        return {digest: size for digest, size in sizes.items() if digest not in used}

    def partials(self) -> dict[str, int]:
        """What broken-off downloads left, of Ollama and of our own: path -> bytes on disk."""
        places = ((self.blobs, _PARTIAL), (self.staging, _STAGED))
        return {os.path.join(folder, name): status.st_blocks * 512 for folder, pattern in places for name, status in self._files(folder, pattern)}

    @staticmethod
    def _files(folder: str, pattern: re.Pattern[str]) -> list[tuple[str, os.stat_result]]:
        try:
            names = sorted(name for name in os.listdir(folder) if pattern.fullmatch(name))
        except (FileNotFoundError, NotADirectoryError):
            return []
        found = []
        for name in names:
            # a download may end, and a server may delete, meanwhile
            with suppress(FileNotFoundError):
                found.append((name, os.stat(os.path.join(folder, name))))
        return found

    def bytes(self) -> int:
        """Bytes of all blobs."""
        return sum(status.st_size for _name, status in self._files(self.blobs, _BLOB))

    def free(self) -> int:
        """Bytes that may be written where the store is, or will be."""
        path = self.path
        while not os.path.isdir(path):
            path = os.path.dirname(path)
        status = os.statvfs(path)
        # root may use more, the services of the host may not
        return status.f_bavail * status.f_frsize

    # -- what was verified, so that nothing is hashed twice -------------------

    def _journal(self) -> dict[str, list[int]]:
        try:
            with open(self._verified_path, encoding="utf-8") as file:
                found = json.load(file)
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def unverified(self, layers: Iterable[Layer]) -> list[Layer]:
        """Of layers whose blobs are there: those whose bytes were never compared with their digest, or were touched since."""
        journal = self._journal()
        return [layer for layer in layers if (identity := self.identity(layer.digest)) and journal.get(layer.digest) != identity]

    def identity(self, digest: str) -> list[int] | None:
        """What tells a blob from another one or a changed one without reading it: size, time (ns) and inode. None when it is not there."""
        try:
            status = os.stat(self.blob_path(digest))
        except FileNotFoundError:
            return None
        return [status.st_size, status.st_mtime_ns, status.st_ino]

    def remember(self, digests: Iterable[str]) -> None:
        """Note blobs as verified, as they are now."""
        new = {digest: identity for digest in digests if (identity := self.identity(digest))}
        if not new:
            return
        self.make_directories()
        with self.lock("verified"):
            journal = {digest: found for digest, found in self._journal().items() if os.path.exists(self.blob_path(digest))}
            self.write(self._verified_path, json.dumps({**journal, **new}, sort_keys=True).encode())

    # -- writing ------------------------------------------------------------

    def owner(self) -> tuple[int, int]:
        """User and group of what is written, by their ids."""
        found = []
        for look in (os.lstat, os.stat):
            for path in (self.blobs, self.path):
                with suppress(FileNotFoundError):
                    status = look(path)
                    found.append((status.st_uid, status.st_gid))
        # a user who may replace a part of the store could lead root elsewhere by a link: root's it is only when all of it is root's
        return next((owner for owner in found if owner[0]), found[0] if found else (os.geteuid(), os.getegid()))

    @contextmanager
    def as_owner(self) -> Iterator[None]:
        """Act as the owner of the store, who could make root write anywhere by links, and go back to root in the end.

        Does nothing for others than root, within itself, and for a store that is root's or is not there yet. It holds for all threads.
        """
        uid, gid = self.owner()
        if os.geteuid() != 0 or uid == 0:
            yield
            return
        before, groups = os.getegid(), os.getgroups()
        try:
            os.setgroups([])
            os.setegid(gid)
            os.seteuid(uid)
            yield
        finally:
            os.seteuid(0)
            os.setegid(before)
            os.setgroups(groups)

    def make_directories(self) -> None:
        """Make what is missing of the store, as its owner's."""
        owner = self.owner()
        for path in (self.path, self.blobs, self.manifests, self.private, self.staging):
            self._make_directory(path, owner)

    @staticmethod
    def _make_directory(path: str, owner: tuple[int, int]) -> None:
        try:
            os.mkdir(path, 0o755)
        except FileExistsError:
            return
        except FileNotFoundError:
            os.makedirs(path, 0o755)
        # others read the store too, a mirror for one, whatever the umask is
        os.chmod(path, 0o755)
        if os.geteuid() == 0:
            os.chown(path, *owner)

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold a lock of this store; others who want it wait. The file stays: removing it would let two hold it."""
        path = os.path.join(self.staging, f"{name}.lock")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if os.geteuid() == 0:
                # so that the service's user can take it, too
                os.fchown(descriptor, *self.owner())
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def write(self, path: str, data: bytes) -> None:
        """Write a file of the store whole or not at all, as the owner's, readable by all."""
        temporary = os.path.join(self.staging, f".{os.path.basename(path)}.{os.getpid()}.{time.monotonic_ns()}.new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fchmod(file.fileno(), 0o644)
                if os.geteuid() == 0:
                    os.fchown(file.fileno(), *self.owner())
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        sync_directory(os.path.dirname(path))

    def publish(self, name: Name, manifest: Manifest, staged: dict[str, str]) -> None:
        """Make a model appear: the staged files (digest -> path) become blobs, and the manifest comes last.

        The blobs get the present time: a server that starts between the two deletes unnamed blobs that are older than an hour.
        """
        for digest, path in staged.items():
            try:
                os.utime(path)
                os.chmod(path, 0o644)
                if os.geteuid() == 0:
                    os.chown(path, *self.owner())
                os.replace(path, self.blob_path(digest))
            except FileNotFoundError:
                # another pull that shares the layer was faster
                if self.blob_size(digest) is None:
                    raise
        sync_directory(self.blobs)
        # blobs that were there may be old, and named by nobody until now
        for layer in manifest.layers:
            if layer.digest not in staged:
                self._freshen(layer.digest)
        self.remember(staged)
        path = self.manifest_path(name)
        folder = os.path.dirname(path)
        parts = os.path.relpath(folder, self.manifests).split(os.sep)
        for depth in range(1, len(parts) + 1):
            self._make_directory(os.path.join(self.manifests, *parts[:depth]), self.owner())
        self.write(path, manifest.raw)

    def _freshen(self, digest: str) -> None:
        verified = not self.unverified([Layer(digest, 0, "")])
        with suppress(FileNotFoundError):
            os.utime(self.blob_path(digest))
        if verified:
            self.remember([digest])

    def set_aside(self, digest: str) -> str:
        """Take a corrupt blob out of the store, where it can be looked at; returns the path. The next one replaces it."""
        self.make_directories()
        target = os.path.join(self.private, f"{digest.replace(':', '-')}.corrupt")
        os.replace(self.blob_path(digest), target)
        return target

    def discard_aside(self, digest: str) -> None:
        """Delete what was set aside, once a good blob has taken its place."""
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(self.private, f"{digest.replace(':', '-')}.corrupt"))


def sync_directory(path: str) -> None:
    """Make renames in a directory last."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: str) -> str:
    """SHA-256 of a file as C(sha256:<hex>). With large pieces: small ones cost a third more time."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(BUFFER))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return f"sha256:{digest.hexdigest()}"
