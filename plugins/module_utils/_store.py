# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The store of models on disk. Nothing else in the collection knows its layout.

C(manifests/<host>/<namespace>/<model>/<tag>) are the manifests, C(blobs/sha256-<hex>) the layers. A server reads the manifests anew for
each list, so what is put there is there. What a server must not find goes to C(.gpufleet), which it never looks at: a foreign file
among the blobs is deleted at its start, and one among the manifests is a model, or keeps it from pruning (Ollama's manifest/paths.go and
server/images.go).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import stat
import time
from contextlib import contextmanager, suppress
from typing import Any, Callable, Iterable, Iterator, Mapping

from ansible_collections.gpufleet.ollama.plugins.module_utils._manifests import MAX_BYTES, Layer, Manifest, ManifestError
from ansible_collections.gpufleet.ollama.plugins.module_utils._names import Name

PRIVATE_DIR = ".gpufleet"
BUFFER = 1 << 20

_BLOB = re.compile(r"sha256-[0-9a-f]{64}")
# what Ollama's own downloads leave: <blob>-partial, <blob>-partial-0, <blob>.tmp
_PARTIAL = re.compile(r"sha256-[0-9a-f]{64}(-partial(-[0-9]+)?|\.tmp)")
# what our own leave among what is staged: parts with their maps, and files that were not whole yet
_STAGED = re.compile(r".*\.(part|part\.map|new)")
# what was not touched for so long is given up
_OLD_SECONDS = 7 * 24 * 3600
_LOCK_SECONDS = 0.2
_MODE = 0o755


class StoreError(Exception):
    """The store is not as it must be; the text is for the user."""


class NoFile(OSError):
    """Where a regular file should be is something else, such as a link or a pipe."""


class Store:
    """A store, which need not exist yet. Reading makes nothing.

    C(path) is what OLLAMA_MODELS says. Who may be root reads and writes within C(as_owner).
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
        """The models that the store lists: name, and the path of its manifest. Files at another depth are none.

        OSError where a directory cannot be read: its models would seem to be gone, and their blobs nobody's.
        """
        result = {}
        for folder, folders, files in os.walk(self.manifests, onerror=raise_unless_gone):
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
            return Manifest(read_file(path))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except (ValueError, NoFile) as error:
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
                total += min(os.lstat(self.part_path(layer.digest)).st_blocks * 512, layer.size)
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
        # before the manifests: one that comes meanwhile has its own
        sizes = self.sizes()
        used, broken = self.used()
        return {} if broken else {digest: size for digest, size in sizes.items() if digest not in used}

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
            # a download may end, and a server may delete, meanwhile; a link may lead anywhere
            with suppress(FileNotFoundError, PermissionError):
                found.append((name, os.stat(os.path.join(folder, name))))
        return found

    def sizes(self) -> dict[str, int]:
        """All blobs, digest -> bytes."""
        return {name.replace("-", ":", 1): status.st_size for name, status in self._files(self.blobs, _BLOB)}

    def bytes(self) -> int:
        """Bytes of all blobs."""
        return sum(self.sizes().values())

    def free(self) -> int:
        """Bytes that may be written where the store is, or will be."""
        path = self.path
        while not os.path.isdir(path):
            path = os.path.dirname(path)
        status = os.statvfs(path)
        # root may use more, the services of the host may not
        return status.f_bavail * status.f_frsize

    # -- what was verified, so that nothing is hashed twice -------------------

    def verified(self) -> dict[str, list[int]]:
        """The journal: digest -> the identity that the blob had when its bytes were compared with it."""
        try:
            found = json.loads(read_file(self._verified_path))
        except (FileNotFoundError, NotADirectoryError, NoFile, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def unverified(self, layers: Iterable[Layer]) -> list[Layer]:
        """Of layers whose blobs are there: those whose bytes were never compared with their digest, or were touched since."""
        journal = self.verified()
        return [layer for layer in layers if (identity := self.identity(layer.digest)) and journal.get(layer.digest) != identity]

    def identity(self, digest: str) -> list[int] | None:
        """What tells a blob from another one or a changed one without reading it: size, time (ns) and inode. None when it is not there."""
        try:
            return _identity(self.blob_path(digest))
        except FileNotFoundError:
            return None

    def remember(self, identities: Mapping[str, list[int]]) -> None:
        """Note blobs as verified: digest -> the identity that was taken before the bytes were hashed."""
        if not identities:
            return
        self.make_directories()
        with self.lock("verified"):
            journal = {digest: found for digest, found in self.verified().items() if os.path.exists(self.blob_path(digest))}
            self.write(self._verified_path, json.dumps({**journal, **identities}, sort_keys=True).encode())

    # -- writing ------------------------------------------------------------

    def owner(self) -> tuple[int, int]:
        """User and group of what is written, by their ids."""
        found = []
        for look in (os.lstat, os.stat):
            for path in (self.blobs, self.path):
                with suppress(FileNotFoundError, NotADirectoryError):
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
        """Make what is missing of the store."""
        for path in (self.path, self.blobs, self.manifests, self.private):
            self._make_directory(path)
        # others may see what is there, the exporter for one, but not write there. What they must not open, since who can open a lock can
        # hold it, is closed to them by its own mode
        self._make_directory(self.staging, ours=True)

    @staticmethod
    def _make_directory(path: str, ours: bool = False) -> None:
        """One that is there keeps its mode, but for one that is C(ours)."""
        try:
            os.mkdir(path, _MODE)
        except FileExistsError:
            if not ours or stat.S_IMODE(os.stat(path).st_mode) == _MODE:
                return
        except FileNotFoundError:
            os.makedirs(path, _MODE)
        # others read the store too, a mirror for one, whatever the umask is
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fchmod(descriptor, _MODE)
        finally:
            os.close(descriptor)

    @contextmanager
    def lock(self, name: str, waiting: Callable[[], Any] | None = None, wait: bool = True) -> Iterator[None]:
        """Hold a lock of this store; others who want it wait. The file stays: removing it would let two hold it.

        C(waiting) is called now and then while another holds it. Without C(wait) it is a BlockingIOError then.
        """
        descriptor = open_file(os.path.join(self.staging, f"{name}.lock"), os.O_RDWR | os.O_CREAT)
        try:
            os.fchmod(descriptor, 0o600)
            while not _locked(descriptor, wait):
                if waiting:
                    waiting()
                time.sleep(_LOCK_SECONDS)
            yield
        finally:
            os.close(descriptor)

    def write(self, path: str, data: bytes) -> None:
        """Write a file of the store whole or not at all, readable by all."""
        temporary = os.path.join(self.staging, f".{os.path.basename(path)}.{os.getpid()}.{time.monotonic_ns()}.new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fchmod(file.fileno(), 0o644)
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        sync_directory(os.path.dirname(path))

    def publish(self, name: Name, manifest: Manifest, staged: dict[str, str]) -> list[Layer]:
        """Make a model appear: the staged files (digest -> path), which were verified, become blobs, and the manifest comes last.

        The blobs get the present time: a server that starts between the two deletes unnamed blobs that are older than an hour.
        Returns the layers that were deleted meanwhile; the model does not appear then.
        """
        # so that nobody deletes for another name what this one needs
        with self.lock("manifests"):
            published = {}
            for digest, path in staged.items():
                os.utime(path)
                os.chmod(path, 0o644)
                published[digest] = _identity(path)
                os.replace(path, self.blob_path(digest))
            sync_directory(self.blobs)
            self.remember(published)
            # blobs that were there may be old, and named by nobody until now
            for layer in manifest.layers:
                if layer.digest not in staged:
                    self._freshen(layer)
            gone = self.missing(manifest.layers)
            if not gone:
                self._write_manifest(name, manifest)
        return gone

    def _write_manifest(self, name: Name, manifest: Manifest) -> None:
        path = self.manifest_path(name)
        parts = os.path.relpath(os.path.dirname(path), self.manifests).split(os.sep)
        for depth in range(1, len(parts) + 1):
            self._make_directory(os.path.join(self.manifests, *parts[:depth]))
        self.write(path, manifest.raw)

    def _freshen(self, layer: Layer) -> None:
        before = self.identity(layer.digest)
        verified = not self.unverified([layer])
        with suppress(FileNotFoundError):
            os.utime(self.blob_path(layer.digest))
        after = self.identity(layer.digest)
        if verified and before and after and (before[0], before[2]) == (after[0], after[2]):
            self.remember({layer.digest: after})

    def remove(self, name: Name) -> None:
        """Delete a model that no server has: its manifest, and its blobs that no other manifest names. Raises StoreError."""
        if not os.path.exists(self.manifest_path(name)):
            return
        self.make_directories()
        with self.lock("manifests"):
            self.check_manifests()
            manifest, path = self.read(name), self.manifest_path(name)
            if not manifest:
                return
            os.unlink(path)
            sync_directory(os.path.dirname(path))
            used, broken = self.used()
            for layer in manifest.layers:
                if not broken and layer.digest not in used:
                    with suppress(FileNotFoundError):
                        os.unlink(self.blob_path(layer.digest))
            # those of its directories that are empty now: its model, namespace and host
            with suppress(OSError):
                for _level in range(3):
                    path = os.path.dirname(path)
                    os.rmdir(path)

    def check_manifests(self) -> None:
        """StoreError while a manifest cannot be read: nobody knows which blobs it names."""
        broken = self.used()[1]
        if broken:
            raise StoreError(f"{broken[0]} is no manifest that can be read, so nobody knows which blobs it names: delete it or pull its model again")

    def tidy(self) -> None:
        """Delete what our own downloads left that broke off long ago, unless somebody is at it."""
        for path in self.partials():
            folder, file = os.path.split(path)
            with suppress(OSError):
                if folder != self.staging or time.time() - os.lstat(path).st_mtime < _OLD_SECONDS:
                    continue
                # sha256-<hex>.part has the lock of its layer
                with self.lock(file.partition(".")[0] or "verified", wait=False):
                    os.unlink(path)


@contextmanager
def as_root() -> Iterator[None]:
    """Within C(as_owner): go back to root for a moment. Only while no other thread is at work, since it holds for all."""
    uid = os.geteuid()
    if os.getresuid()[2] == 0:
        os.seteuid(0)
    try:
        yield
    finally:
        os.seteuid(uid)


def raise_unless_gone(error: OSError) -> None:
    """For os.walk, which leaves out by itself whatever it cannot list."""
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise error


def _locked(descriptor: int, wait: bool) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if not wait:
            raise
        return False
    return True


def _identity(path: str) -> list[int]:
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def open_file(path: str, flags: int, follow: bool = False) -> int:
    """The descriptor of a regular file, which belongs to its owner alone when it is made. NoFile for what may block, and for links."""
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW), 0o600)
    except OSError as error:
        # a link, and a pipe or a socket where nobody listens
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise NoFile(error.errno, "it is no regular file", path) from None
        raise
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    raise NoFile(errno.EINVAL, "it is no regular file", path)


def read_file(path: str, limit: int = MAX_BYTES) -> bytes:
    """A file of at most C(limit) bytes. ValueError when it is longer."""
    with os.fdopen(open_file(path, os.O_RDONLY, follow=True), "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"it has more than {limit} bytes")
    return data


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
    with os.fdopen(open_file(path, os.O_RDONLY, follow=True), "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return f"sha256:{digest.hexdigest()}"
