# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Where backups of stores lie: a repository of restic, or a directory of plain files. Standard library only.

Both hold, for each backup, an index and the blobs that it says are in the backup, by their digests. Both have the same methods; what they
raise is BackupError, whose text is for the user.
"""

from __future__ import annotations

import calendar
import errno
import fcntl
import hashlib
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import closing, contextmanager, suppress
from email.utils import parsedate_to_datetime
from typing import IO, Any, Callable, Iterable, Iterator, Mapping, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from ansible_collections.gpufleet.ollama.plugins.module_utils._blobs import Budget, FileBlob
from ansible_collections.gpufleet.ollama.plugins.module_utils._http import FetchError, shown
from ansible_collections.gpufleet.ollama.plugins.module_utils._manifests import Layer
from ansible_collections.gpufleet.ollama.plugins.module_utils._store import (
    BUFFER,
    PRIVATE_DIR,
    as_root,
    open_file,
    raise_unless_gone,
    read_file,
    sync_directory,
)

INDEX_FILE = "index.json"
BLOBS_DIR = "blobs"
# what is backed up lies here while that goes on: see _backup.py
STAGED_DIR = f"{PRIVATE_DIR}/backup"
# an index holds all manifests of a store
MAX_INDEX_BYTES = 256 << 20
TAG = "gpufleet-ollama"

_MARK = "gpufleet-backup.json"
_CONNECT_SECONDS = 10
# S3 refuses from a quarter of an hour on, and a clock that is kept is never so far off
_SKEW_SECONDS = 300
# old releases of restic name a new backup by as many only
_ID_CHARACTERS = 8
# what restic, its backends and what they speak to say, and what it means; the first that fits counts
_MEANINGS = (
    ("password", r"wrong password|no key found|empty password", "the password of the repository {where} is wrong"),
    (
        "clock", r"RequestTimeTooSkewed|request time and the (current|server's) time is too large|certificate has expired or is not yet valid",
        "the clock of this host is wrong, and the storage of {where} refuses it for that: see timedatectl",
    ),
    ("disk", r"no space left on device|disk quota exceeded|XMinioStorageFull|QuotaExceeded", "the disk is full, of the repository {where} or of the cache"),
    (
        "damaged", r"ciphertext verification failed|invalid data returned|hash mismatch|hashes? do(es)? not match|does not match id|wrong data returned|"
        r"repository contains errors|Fatal: .*pack .*(damaged|truncated)|unexpected EOF|data seems to be corrupted|failed to decrypt",
        "the repository {where} is damaged: see restic check --read-data, and take an older backup",
    ),
    ("locked", r"repository is already locked", "the repository {where} is locked by another process: wait for it, or run restic unlock when there is none"),
    (
        "keys", r"Access ?Denied|InvalidAccessKeyId|SignatureDoesNotMatch|403 Forbidden|401 Unauthorized|Permission denied \(|Access Key Id",
        "the storage of {where} refuses the keys that it was given",
    ),
    ("unreachable", r"Host key verification failed", "the host of {where} is not in known_hosts, or has another key than there"),
    (
        "unreachable", r"connection refused|no such host|no route to host|network is unreachable|i/o timeout|connection reset|server misbehaving|"
        r"Could not resolve|Connection (timed out|closed|refused)|dial tcp|unable to start the sftp session|502 Bad|503 Service|504 Gateway|"
        r"SlowDown|InternalError|subsystem request failed|kex_exchange",
        "the repository {where} cannot be reached",
    ),
    ("permission", r"permission denied", "the repository {where} cannot be read or written: permission denied"),
    ("missing", r"NoSuchBucket|specified bucket does not exist", "there is no bucket of that name at {where}: make it first"),
    (
        "missing", r"Is there a repository at the following location|unable to open config file|config file does not exist|"
        r"repository does not exist|no such file or directory.*config",
        "there is no repository at {where}",
    ),
)


class BackupError(Exception):
    """A backup or a restore is not possible; the text is for the user.

    C(kind): password, clock, disk, damaged, locked, keys, unreachable, missing, permission, removed, changed, store, version, or other.
    """

    def __init__(self, text: str, kind: str = "other") -> None:
        super().__init__(text)
        self.kind = kind


class Snapshot(NamedTuple):
    """A backup: its id in the repository, when it was made (seconds since 1970), of which host and which store (path)."""

    id: str
    time: float
    host: str
    store: str


class Saved(NamedTuple):
    """A backup that was just made: its id, and the bytes that it added to the repository."""

    id: str
    added: int


class Policy(NamedTuple):
    """How many backups stay: the last of each of so many days, weeks and months. All 0 keeps everything."""

    daily: int = 0
    weekly: int = 0
    monthly: int = 0


def kept(snapshots: Iterable[Snapshot], policy: Policy) -> set[str]:
    """The ids that a policy keeps, of backups of one store, as restic does it. The newest always stays."""
    newest_first = sorted(snapshots, key=lambda snapshot: snapshot.time, reverse=True)
    result = {snapshot.id for snapshot in newest_first[:1]}
    for count, form in ((policy.daily, "%Y-%m-%d"), (policy.weekly, "%G-%V"), (policy.monthly, "%Y-%m")):
        first: dict[str, str] = {}
        for snapshot in newest_first:
            first.setdefault(time.strftime(form, time.localtime(snapshot.time)), snapshot.id)
        result |= set(list(first.values())[:count])
    return result if any(policy) else {snapshot.id for snapshot in newest_first}


def explain(said: str, where: str) -> BackupError:
    """What went wrong, in a sentence, from what restic said; with its own last words, since they name the place."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    words = next((line for line in reversed(lines) if "Fatal" in line), lines[-1] if lines else "it said nothing")
    for kind, pattern, text in _MEANINGS:
        if re.search(pattern, said, re.IGNORECASE):
            return BackupError(f"{text.format(where=where)} (restic: {words[:300]})", kind)
    return BackupError(f"restic failed with the repository {where}: {words[:500]}")


def _clock_text(where: str, skew: float) -> str:
    way = "fast" if skew > 0 else "slow"
    return f"the clock of this host is {abs(skew) / 60:.0f} minutes {way} by that of {where}, whose storage refuses requests for that: see timedatectl"


# -- restic -------------------------------------------------------------------

def sftp_command(repository: str, key: str, known_hosts: str) -> str:
    """The command for restic's option sftp.command: ssh with a key and known hosts of its own. Empty for what is no SFTP repository.

    Forms: C(sftp:user@host:path) and C(sftp://user@host:port/path).
    """
    if not repository.startswith("sftp:"):
        return ""
    rest = repository[len("sftp:"):]
    port: int | None = None
    if rest.startswith("//"):
        parts = urlsplit(repository)
        target, port = parts.netloc.rpartition(":")[0] if parts.port else parts.netloc, parts.port
    else:
        target = rest.partition(":")[0]
    words = ["ssh", "-i", key, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", f"UserKnownHostsFile={known_hosts}", "-o", "StrictHostKeyChecking=yes"]
    return " ".join([*words, *(["-p", str(port)] if port else []), target, "-s", "sftp"])


def endpoint(repository: str) -> tuple[str, int] | None:
    """Host and port that a repository is reached at, None when that is not to be seen: a directory, or a provider whose address restic knows."""
    backend, _colon, rest = repository.partition(":")
    if backend not in ("s3", "rest", "sftp"):
        return None
    if backend == "sftp":
        parts = urlsplit(f"ssh:{rest}" if rest.startswith("//") else f"ssh://{rest.partition(':')[0]}")
    else:
        parts = urlsplit(rest if "://" in rest else f"https://{rest}")
    try:
        port = parts.port
    except ValueError:
        raise BackupError(f"{shown(repository)} is no repository: its port is no number") from None
    if not parts.hostname:
        raise BackupError(f"{shown(repository)} is no repository: give for example s3:https://host/bucket, sftp:user@host:/path, rest:https://host/ or /path")
    return parts.hostname, port or {"http": 80, "ssh": 22}.get(parts.scheme, 443)


class Restic:
    """A repository of restic.

    Args: C(repository) as restic names it; C(environment) what it must be given, the password and keys; these are on no command line.
    C(options) are restic's extended ones; C(rate) bytes per second in each direction, 0 for no limit; C(lock_seconds) how long to wait for others.
    """

    def __init__(
        self, repository: str, environment: Mapping[str, str], options: Iterable[str] = (), rate: int = 0, lock_seconds: float = 600, binary: str = "restic",
    ) -> None:
        self.where = shown(repository)
        self.text = f"the backup in {self.where}"
        self._repository = repository
        self._environment = {
            "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), "HOME": os.environ.get("HOME", "/root"), "RESTIC_PROGRESS_FPS": "1",
            **{name: value for name, value in os.environ.items() if name.startswith("RESTIC_CACHE") or name.lower().endswith("_proxy")},
            **environment, "RESTIC_REPOSITORY": repository,
        }
        limit = [f"--limit-{way}={max(rate // 1024, 1)}" for way in ("upload", "download")] if rate else []
        self._command = [binary, *(part for option in options for part in ("-o", option)), *limit]
        self._own_command = any(option.startswith(("sftp.command", "sftp.args")) for option in options)
        self._lock_seconds = lock_seconds

    # running it

    def _start(self, *arguments: str, folder: str = "/", errors: IO[str] | int | None = None) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                [*self._command, *arguments], env=self._environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
            )
        except FileNotFoundError:
            raise BackupError(f"there is no program {self._command[0]}: install the package restic") from None

    def _run(self, *arguments: str, folder: str = "/", line: Callable[[bytes], Any] | None = None) -> bytes:
        """What a command prints. It is tried again while another process has the repository locked. C(line) is called with each line that comes."""
        until = time.monotonic() + self._lock_seconds
        while True:
            with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
                with self._start(*arguments, folder=folder, errors=errors) as process:
                    output = []
                    for found in process.stdout or ():
                        output.append(found)
                        if line:
                            line(found)
                errors.seek(0)
                said = errors.read()
            if process.returncode == 0:
                return b"".join(output)
            # with --json some errors are in the output
            problem = explain(said or b"".join(output[-5:]).decode("utf-8", "replace"), self.where)
            if problem.kind == "keys" and (skew := self._clock_skew()):
                raise BackupError(_clock_text(self.where, skew), "clock")
            if problem.kind != "locked" or time.monotonic() >= until:
                raise problem
            time.sleep(min(5.0, self._lock_seconds))
            # removes the locks of those who died
            with suppress(BackupError), self._start("unlock", errors=subprocess.DEVNULL) as process:
                process.communicate()

    def _clock_skew(self) -> float:
        """Seconds by which this host is ahead of the storage, 0 when that is little or nobody knows.

        Storage that refuses a request for its time says so only in the body, and restic asks first for what has none.
        """
        place = endpoint(self._repository)
        if not place or self._repository.startswith("sftp"):
            return 0
        kind = http.client.HTTPConnection if ":http://" in self._repository else http.client.HTTPSConnection
        with suppress(OSError, http.client.HTTPException, ValueError, TypeError), closing(kind(*place, timeout=_CONNECT_SECONDS)) as connection:
            connection.request("HEAD", "/")
            date = connection.getresponse().getheader("Date")
            skew = time.time() - parsedate_to_datetime(date or "").timestamp()
            return skew if abs(skew) > _SKEW_SECONDS else 0
        return 0

    def check_reachable(self) -> None:
        """BackupError where nobody answers: restic would try for a quarter of an hour."""
        place = None if self._own_command else endpoint(self._repository)
        proxied = any(name.lower() in ("http_proxy", "https_proxy") and value for name, value in self._environment.items())
        if not place or proxied:
            return
        try:
            socket.create_connection(place, _CONNECT_SECONDS).close()
        except OSError as error:
            raise BackupError(f"the repository {self.where} cannot be reached: {place[0]} port {place[1]}: {error.strerror or error}", "unreachable") from None

    def open(self, make: bool = False) -> bool:
        """See that it can be used. Where there is none it is made, but only with C(make): a disk that is not mounted must not look like a new one.

        Returns whether it was, or with C(make) would have to be, made.
        """
        self.check_reachable()
        try:
            self._run("cat", "--no-lock", "config")
        except BackupError as error:
            if error.kind != "missing" or "bucket" in str(error).partition(" (restic")[0] or not make:
                raise
            try:
                self._run("init")
            except BackupError:
                # another host was faster, or it is said now why it is no use
                self._run("cat", "--no-lock", "config")
                return False
            return True
        return False

    # its passwords: each opens a key of its own

    def key(self) -> str:
        """Id of the key that the password opens."""
        return next(str(item["id"]) for item in _json_of(self._run("key", "list", "--json", "--no-lock")) if item.get("current"))

    def add_password(self, password: str) -> None:
        """Let another password open it, too."""
        with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
            file.write(password)
            file.flush()
            self._run("key", "add", f"--new-password-file={file.name}")

    def remove_key(self, key: str) -> None:
        """Take a key away, and its password with it. It cannot be the one that is used here."""
        self._run("key", "remove", key)

    # reading

    def snapshots(self, host: str = "") -> list[Snapshot]:
        """The backups that are there, the newest first."""
        found = json.loads(self._run("snapshots", "--json", "--no-lock", "--tag", TAG, *(["--host", host] if host else [])) or b"null") or []
        result = [
            Snapshot(item["id"][:_ID_CHARACTERS], _epoch(item["time"]), item["hostname"], item["paths"][0].removesuffix(f"/{STAGED_DIR}")) for item in found
        ]
        return sorted(result, key=lambda snapshot: snapshot.time, reverse=True)

    def index(self, snapshot: Snapshot) -> bytes:
        """The index of a backup."""
        return self._run("dump", "--no-lock", snapshot.id, f"/{INDEX_FILE}")

    def blob(self, snapshot: Snapshot, layer: Layer) -> DumpBlob:
        """A layer of a backup, for the puller. FetchError when it cannot be had."""
        errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # pylint: disable=consider-using-with
        try:
            # the password is root's, and so may be the repository
            with as_root():
                process = self._start("dump", "--no-lock", snapshot.id, f"/{BLOBS_DIR}/{layer.file}", errors=errors)
        except BackupError as error:
            raise FetchError(str(error), error.kind, final=True) from None
        return DumpBlob(self, process, errors)

    def check(self, part: str = "") -> None:
        """Read the repository, or a C(part) of its data such as 3/12, and compare all with what it is to be. BackupError when it is damaged."""
        try:
            self._run("check", *([f"--read-data-subset={part}"] if part else ["--read-data"]))
        except BackupError as error:
            if error.kind in ("other", "missing"):
                raise BackupError(f"the repository {self.where} is damaged: {error}", "damaged") from None
            raise

    # writing

    def save(self, staged: str, host: str, arrived: Callable[[int], Any]) -> Saved:
        """Back up what is staged. C(arrived) is called with the bytes that were looked at so far."""
        summary: dict[str, Any] = {}

        def line(text: bytes) -> None:
            with suppress(ValueError):
                said = json.loads(text)
                if said.get("message_type") == "summary":
                    summary.update(said)
                elif said.get("message_type") == "status":
                    arrived(int(said.get("bytes_done") or 0))

        for last in (False, True):
            summary.clear()
            try:
                # links have a new ctime each time, the files are the same
                self._run("backup", "--json", "--ignore-ctime", "--host", host, "--tag", TAG, ".", folder=staged, line=line)
                break
            except BackupError:
                # made without a file that could not be read; or with one that the repository had lost, which only the next try finds whole
                if summary.get("snapshot_id"):
                    # storage that only lets add keeps it; what could not be read is what is to be said
                    with suppress(BackupError):
                        self.discard(Saved(summary["snapshot_id"], 0))
                if last or not summary.get("snapshot_id"):
                    raise
        if not summary.get("snapshot_id"):
            raise BackupError(f"restic ended without an error, and named no snapshot in {self.where}")
        return Saved(summary["snapshot_id"][:_ID_CHARACTERS], int(summary.get("data_added") or 0))

    def discard(self, saved: Saved) -> None:
        """Take back a backup that was just made."""
        self._run("forget", saved.id)

    def retain(self, policy: Policy) -> int:
        """Delete backups that are not to be kept, of all hosts. Returns how many."""
        if not any(policy):
            return 0
        counts = [f"--keep-{name}={count}" for name, count in policy._asdict().items() if count]
        # the last one as well, however old it is
        found = self._run("forget", "--json", "--tag", TAG, "--group-by", "host,paths", "--keep-last=1", *counts)
        removed = sum(len(group.get("remove") or []) for group in _json_of(found))
        if removed:
            self._run("prune", "--max-unused=10%")
        return removed


def _json_of(text: bytes) -> list[dict[str, Any]]:
    """The list in what restic printed, which may have other lines behind it."""
    for line in text.splitlines():
        with suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, list):
                return found
    return []


def _epoch(text: str) -> float:
    """Seconds since 1970 of V(2026-11-27T18:14:10.123456789+01:00)."""
    found = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(?:Z|([+-])(\d\d):(\d\d))", text)
    if not found:
        raise BackupError(f"restic gives a time that cannot be read: {text!r}")
    offset = (int(found[4]) * 3600 + int(found[5]) * 60) * (-1 if found[3] == "-" else 1) if found[3] else 0
    return calendar.timegm(time.strptime(found[1], "%Y-%m-%dT%H:%M:%S")) + float(found[2] or 0) - offset


class DumpBlob:
    """A blob that restic writes to a pipe: from the beginning, to one reader."""

    network = False

    def __init__(self, owner: Restic, process: subprocess.Popen[bytes], errors: IO[str]) -> None:
        self.owner = owner
        self.process = process
        self.errors = errors

    def locate(self) -> None:
        """It comes by itself."""

    def reader(self, stopped: threading.Event) -> DumpReader:
        """For one thread."""
        return DumpReader(self, stopped)

    def close(self) -> None:
        """End restic. It is root's as we are, whoever we act as."""
        self.process.kill()
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()
        self.errors.close()


class DumpReader:
    """Ranges of a blob in their order; what lies between them is thrown away, since a pipe cannot go on where it was."""

    def __init__(self, blob: DumpBlob, stopped: threading.Event) -> None:
        self._blob = blob
        self._stopped = stopped
        self._position = 0
        self._buffer = memoryview(bytearray(BUFFER))

    def read(self, start: int, end: int, write: Callable[[memoryview, int], None]) -> None:
        """Bring the bytes from C(start) up to but not including C(end)."""
        while self._position < end and not self._stopped.is_set():
            bound = start if self._position < start else end
            count = self._blob.process.stdout.readinto(self._buffer[:bound - self._position])  # type: ignore[union-attr]
            if not count:
                raise self._broken()
            if self._position >= start:
                write(self._buffer[:count], self._position)
            self._position += count

    def _broken(self) -> FetchError:
        status = self._blob.process.wait()
        self._blob.errors.seek(0)
        said = self._blob.errors.read()
        if status == 0:
            return FetchError(f"{self._blob.owner.text} has only {self._position} bytes of it", "size")
        problem = explain(said, self._blob.owner.where)
        return FetchError(str(problem), "digest" if problem.kind == "damaged" else problem.kind)

    def interrupt(self) -> None:
        """Wake the thread that waits for bytes: the pipe ends with the process."""
        self._blob.process.kill()

    def close(self) -> None:
        """The blob has the process."""


# -- plain files --------------------------------------------------------------

class Cas:
    """A directory: C(blobs/sha256-<hex>) of all hosts, each once, and C(indexes/<host>/<store>/<time>.json). No encryption.

    As long as it is used it is locked: shared by those who add, exclusively by who deletes.
    """

    def __init__(self, path: str, rate: int = 0) -> None:
        self.where = path
        self.text = f"the backup in {path}"
        self._budget = Budget(rate)
        self._blobs = os.path.join(path, BLOBS_DIR)
        self._indexes = os.path.join(path, "indexes")
        self._temporary = os.path.join(path, "tmp")

    def open(self, make: bool = False) -> bool:
        """See that it can be used. Where there is none it is made, but only with C(make): a disk that is not mounted must not look like a new one."""
        mark = os.path.join(self.where, _MARK)
        if os.path.isfile(mark):
            return False
        if not make:
            raise BackupError(f"there is no repository at {self.where}: is its disk mounted?", "missing")
        with _told(self.where):
            for folder in (self.where, self._blobs, self._indexes, self._temporary):
                os.makedirs(folder, 0o700, exist_ok=True)
            self._write(mark, b'{"version": 1}\n')
        return True

    @contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        with _told(self.where):
            descriptor = open_file(os.path.join(self.where, ".lock"), os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(descriptor, kind)
                yield
            finally:
                os.close(descriptor)

    def snapshots(self, host: str = "") -> list[Snapshot]:
        """The backups that are there, the newest first.

        BackupError where a directory cannot be read: its backups would seem to be gone, and their blobs nobody's.
        """
        result = []
        with _told(self.where):
            top = os.path.join(self._indexes, _quoted(host)) if host else self._indexes
            for folder, _folders, files in os.walk(top, onerror=raise_unless_gone):
                for file in files:
                    found = re.fullmatch(r"(\d+)\.json", file)
                    if found:
                        relative = os.path.relpath(os.path.join(folder, file), self._indexes)
                        parts = relative.split(os.sep)
                        result.append(Snapshot(relative, int(found[1]) / 1e6, unquote(parts[0]), unquote(parts[1])))
        return sorted(result, key=lambda snapshot: snapshot.time, reverse=True)

    def index(self, snapshot: Snapshot) -> bytes:
        """The index of a backup."""
        with _told(self.where):
            return read_file(os.path.join(self._indexes, snapshot.id), MAX_INDEX_BYTES)

    def blob(self, _snapshot: Snapshot, layer: Layer) -> FileBlob:
        """A layer of a backup, for the puller. FetchError when it cannot be had."""
        return FileBlob(os.path.join(self._blobs, layer.file), layer)

    def check(self, part: str = "") -> None:
        """Compare all blobs, or a C(part) of them such as 3/12, with their digests. BackupError when one is another."""
        number, _slash, of = (part or "1/1").partition("/")
        with self._locked(fcntl.LOCK_SH):
            for name in sorted(os.listdir(self._blobs))[int(number) - 1::int(of)]:
                digest = hashlib.sha256()
                with open(os.path.join(self._blobs, name), "rb", buffering=0) as file:
                    while data := file.read(BUFFER):
                        digest.update(data)
                if f"sha256-{digest.hexdigest()}" != name:
                    raise BackupError(f"the repository {self.where} is damaged: blobs/{name} has other bytes than its name says", "damaged")

    def save(self, staged: str, host: str, arrived: Callable[[int], Any]) -> Saved:
        """Back up what is staged. Blobs that are there are not written again; the index comes last."""
        added = done = 0
        folder = os.path.join(staged, BLOBS_DIR)
        with self._locked(fcntl.LOCK_SH):
            for name in sorted(os.listdir(folder)):
                size = os.stat(os.path.join(folder, name)).st_size
                target = os.path.join(self._blobs, name)
                if not os.path.exists(target) or os.path.getsize(target) != size:
                    self._copy(os.path.join(folder, name), target, name, lambda count, before=done: arrived(before + count))
                    added += size
                done += size
                arrived(done)
            sync_directory(self._blobs)
            index = read_file(os.path.join(staged, INDEX_FILE), MAX_INDEX_BYTES)
            store = staged.removesuffix(f"/{STAGED_DIR}")
            snapshot = os.path.join(_quoted(host), _quoted(store), f"{int(time.time() * 1e6)}.json")
            os.makedirs(os.path.join(self._indexes, os.path.dirname(snapshot)), 0o700, exist_ok=True)
            self._write(os.path.join(self._indexes, snapshot), index)
        return Saved(snapshot, added + len(index))

    def _copy(self, source: str, target: str, name: str, arrived: Callable[[int], Any]) -> None:
        """Copy a blob, hashing it on the way: what lies here is what its name says."""
        digest, done, buffer = hashlib.sha256(), 0, memoryview(bytearray(self._budget.piece))
        descriptor, temporary = tempfile.mkstemp(dir=self._temporary)
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as output, open(source, "rb", buffering=0) as file:
                while count := file.readinto(buffer):
                    digest.update(buffer[:count])
                    _write_all(output, buffer[:count])
                    done += count
                    arrived(done)
                    self._budget.take(count, time.sleep)
                os.fsync(output.fileno())
            if f"sha256-{digest.hexdigest()}" != name:
                raise BackupError(f"the blob {name} changed while it was backed up: nothing was saved, the last good backup stays", "changed")
            os.replace(temporary, target)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            raise

    def _write(self, path: str, data: bytes) -> None:
        descriptor, temporary = tempfile.mkstemp(dir=self._temporary)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        sync_directory(os.path.dirname(path))

    def discard(self, saved: Saved) -> None:
        """Take back a backup that was just made; its blobs go with the next C(retain)."""
        with _told(self.where):
            os.unlink(os.path.join(self._indexes, saved.id))

    def retain(self, policy: Policy) -> int:
        """Delete backups that are not to be kept, of all hosts, and blobs that none names. Returns how many backups."""
        if not any(policy):
            return 0
        removed = 0
        with self._locked(fcntl.LOCK_EX):
            groups: dict[tuple[str, str], list[Snapshot]] = {}
            for snapshot in self.snapshots():
                groups.setdefault((snapshot.host, snapshot.store), []).append(snapshot)
            named: set[str] = set()
            for group in groups.values():
                stay = kept(group, policy)
                for snapshot in group:
                    if snapshot.id in stay:
                        # one that cannot be read may name any of them
                        named |= {digest.replace(":", "-") for digest in json.loads(self.index(snapshot))["layers"]}
                    else:
                        os.unlink(os.path.join(self._indexes, snapshot.id))
                        removed += 1
            for name in os.listdir(self._blobs):
                if name not in named:
                    os.unlink(os.path.join(self._blobs, name))
            shutil.rmtree(self._temporary)
            os.mkdir(self._temporary, 0o700)
        return removed


def _write_all(file: Any, data: memoryview) -> None:
    while data:
        data = data[file.write(data):]


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Errors of the disk as sentences."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BackupError(f"the disk of the repository {where} is full: nothing was saved, the last good backup stays", "disk") from None
        kind = "permission" if isinstance(error, PermissionError) else "missing" if isinstance(error, FileNotFoundError) else "unreachable"
        raise BackupError(f"the repository {where} cannot be used: {error.filename or where}: {error.strerror or error}", kind) from None
    except ValueError as error:
        raise BackupError(f"the repository {where} is damaged: {error}", "damaged") from None


def _quoted(text: str) -> str:
    """A text as the name of a file."""
    return quote(text, safe="").replace(".", "%2E")


Repository = Any  # Restic or Cas
