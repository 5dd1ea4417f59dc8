# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The download of one blob: in chunks, on several connections, resumed, and hashed while it comes."""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import re
import threading
import time
from contextlib import suppress
from typing import Any, Callable

from ansible_collections.gpufleet.ollama.plugins.module_utils._http import MIN_RATE, Again, Connection, FetchError, Http, Pace, describe, receive, shown
from ansible_collections.gpufleet.ollama.plugins.module_utils._manifests import Layer
from ansible_collections.gpufleet.ollama.plugins.module_utils._store import BUFFER, NoFile, Store, as_root, open_file

# what a crash can lose on each connection
CHUNK_SIZE = 8 << 20

_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")
_EXPIRED = (400, 401, 403)
# how long a buffer may be filled before somebody looks whether it is still wanted
_FILL_SECONDS = 0.25

Write = Callable[[memoryview, int], None]


class Stopped(Exception):
    """Another thread failed; nothing is to be said about this one."""


class Budget:
    """Bytes that may come in a second, on all connections together (a token bucket). A rate of 0 is no limit."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._lock = threading.Lock()
        self._time = time.monotonic()
        self._left = 0.0

    @property
    def piece(self) -> int:
        """Bytes to read at once: a slow rate is not kept in big leaps."""
        return min(BUFFER, max(self.rate // 20, 4096)) if self.rate else BUFFER

    def take(self, count: int, sleep: Callable[[float], Any]) -> float:
        """Wait until so many bytes were due. Returns the seconds."""
        if not self.rate:
            return 0.0
        with self._lock:
            now = time.monotonic()
            self._left = min(self.rate / 10, self._left + (now - self._time) * self.rate) - count
            self._time = now
            wait = -self._left / self.rate
        if wait <= 0:
            return 0.0
        sleep(wait)
        return wait


class Part:
    """A blob that is put together in the staging directory.

    Beside its file lies a map: a line with the chunk size, then a byte for each chunk, 1 when it is there. The map may know more than the
    disk after a power cut; the digest tells. Only who holds the lock of the layer may touch it.
    """

    def __init__(self, store: Store, layer: Layer, chunk_size: int) -> None:
        self.layer = layer
        self.chunk_size = chunk_size
        self.path = store.part_path(layer.digest)
        self.map_path = f"{self.path}.map"
        self.chunks = bytearray(-(-layer.size // chunk_size))
        self._head = f"{chunk_size}\n".encode()
        self._file = self._map = -1

    def range(self, index: int) -> tuple[int, int]:
        """First byte of a chunk, and the byte after its last."""
        start = index * self.chunk_size
        return start, min(start + self.chunk_size, self.layer.size)

    @property
    def present(self) -> int:
        """Bytes of the chunks that are there."""
        ranges = (self.range(index) for index, there in enumerate(self.chunks) if there)
        return sum(end - start for start, end in ranges)

    def open(self) -> bool:
        """Open it, or make it in its full size. True when chunks of it were there. FetchError of kind C(disk)."""
        try:
            self.chunks[:] = self._open_begun() or bytes(len(self.chunks))
            if self._file < 0:
                # never written over: what is there may be a file of somebody else
                self.drop()
                self._file = open_file(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
                self._map = open_file(self.map_path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
                os.pwrite(self._map, self._head + self.chunks, 0)
            if self.layer.size:
                self._allocate()
        except OSError as error:
            self.close()
            if not any(self.chunks):
                self.drop()
            raise disk_error(self.path, error) from None
        return any(self.chunks)

    def _open_begun(self) -> bytes:
        """Open what is there, when it can be gone on with. Returns its map."""
        raw = b""
        with suppress(FileNotFoundError, NoFile):
            self._file = open_file(self.path, os.O_RDWR)
            self._map = open_file(self.map_path, os.O_RDWR)
            raw = os.pread(self._map, len(self._head) + len(self.chunks) + 1, 0)
        known = raw[len(self._head):]
        if raw.startswith(self._head) and len(known) == len(self.chunks) and os.fstat(self._file).st_size == self.layer.size:
            return known
        self.close()
        return b""

    def _allocate(self) -> None:
        """Take the whole space now: a disk that is too small shows before the first byte."""
        os.ftruncate(self._file, self.layer.size)
        try:
            os.posix_fallocate(self._file, 0, self.layer.size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise

    def write(self, data: memoryview, position: int) -> None:
        """Write bytes to their place."""
        try:
            while data:
                count = os.pwrite(self._file, data, position)
                data, position = data[count:], position + count
        except OSError as error:
            raise disk_error(self.path, error) from None

    def mark(self, index: int) -> None:
        """Note that a chunk is there."""
        self.chunks[index] = 1
        try:
            os.pwrite(self._map, b"\1", len(self._head) + index)
        except OSError as error:
            raise disk_error(self.map_path, error) from None

    def read(self, buffer: memoryview, position: int) -> int:
        """Fill a buffer from a place; returns how many bytes came."""
        return os.preadv(self._file, [buffer], position)

    def sync(self) -> None:
        """Wait until the bytes are on the disk."""
        try:
            os.fsync(self._file)
        except OSError as error:
            raise disk_error(self.path, error) from None

    def close(self) -> None:
        """Let go of the files; they stay."""
        for descriptor in (self._file, self._map):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._map = -1

    def drop(self) -> None:
        """Delete what was staged."""
        for path in (self.path, self.map_path):
            with suppress(FileNotFoundError):
                os.unlink(path)


def disk_error(path: str, error: OSError) -> FetchError:
    """A disk that is full or broken: no source can help. What is staged stays."""
    return FetchError(f"{path} cannot be written: {error.strerror or error}. What came so far is kept: make room and run it again", "disk", final=True)


# -- where the bytes come from --------------------------------------------------

class WebBlob:
    """A blob of a registry or a mirror. Its address there may lead to another, which is asked for once and again when it has expired."""

    network = True

    def __init__(self, client: Http, url: str, layer: Layer, budget: Budget, unreachable: int | None) -> None:
        self.http = client
        self.url = url
        self.layer = layer
        self.budget = budget
        self.unreachable = unreachable
        self._direct = ""
        self._lock = threading.Lock()

    def locate(self) -> None:
        """Learn the address before many ask for it at once. Raises FetchError."""
        connection = Connection(self.http)
        try:
            self.http.again(lambda: self.ask(connection, 0, 1), self.unreachable)
        finally:
            connection.close()

    def reader(self, stopped: threading.Event) -> WebReader:
        """For one thread."""
        return WebReader(self, stopped)

    def ask(self, connection: Connection, start: int, end: int) -> http.client.HTTPResponse:
        """The answer to a request for a range. Raises Again and FetchError."""
        headers = {"Range": f"bytes={start}-{end - 1}"}
        direct = self._direct
        if not direct:
            # the others wait for the first, so that the registry is asked once
            with self._lock:
                direct = self._direct
                if not direct:
                    response, self._direct = self.http.follow(connection, self.url, headers)
                    return self._check(connection, response, start, end)
        response = connection.ask(direct, headers)
        if response.status in (200, 206):
            return self._check(connection, response, start, end)
        if (response.status in _EXPIRED and direct != self.url) or 300 <= response.status < 400:
            connection.close()
            self._forget(direct)
            raise Again(f"the address of {shown(self.url)} expired", after=0)
        raise self.http.refusal(connection, response, direct)

    def _forget(self, direct: str) -> None:
        with self._lock:
            if self._direct == direct:
                self._direct = ""

    def close(self) -> None:
        """Its readers have the connections."""

    def _check(self, connection: Connection, response: http.client.HTTPResponse, start: int, end: int) -> http.client.HTTPResponse:
        size = self.layer.size
        if response.status == 200 and (start, end) == (0, size) and response.length in (None, size):
            return response
        found = _RANGE.fullmatch(response.getheader("Content-Range") or "")
        if response.status == 206 and found and found[3] in ("*", str(size)) and (int(found[1]), int(found[2])) == (start, end - 1):
            return response
        connection.close()
        total = found[3] if found else str(response.length) if response.status == 200 else "?"
        if total not in ("?", "None", "*", str(size)):
            raise FetchError(f"{shown(self.url)} has {total} bytes, and should have {size}", "size")
        raise FetchError(f"{shown(self.url)} does not answer ranges as it should: status {response.status}", "http")


class WebReader:
    """Chunks of a blob on one connection."""

    def __init__(self, blob: WebBlob, stopped: threading.Event) -> None:
        self._blob = blob
        self._stopped = stopped
        self._connection = Connection(blob.http)
        self._buffer = memoryview(bytearray(blob.budget.piece))

    def read(self, start: int, end: int, write: Write) -> None:
        """Bring the bytes from C(start) up to but not including C(end), and go on where it was when that breaks off."""
        position = start

        def step() -> None:
            nonlocal position
            began, clock, pace = position, time.monotonic(), Pace(self._blob.http.timeout, self._blob.url)
            if self._stopped.is_set():
                raise Stopped
            try:
                response = self._blob.ask(self._connection, position, end)
                while position < end:
                    count = self._receive(response, end - position)
                    if self._stopped.is_set():
                        raise Stopped
                    write(self._buffer[:count], position)
                    position += count
                    pace.came(count)
                    waited = self._blob.budget.take(count, self._stopped.wait)
                    pace.waited(waited)
                    clock += waited
            except Again as error:
                self._connection.close()
                # a few bytes are no reason to go on for ever
                error.moved = position - began >= MIN_RATE * max(1.0, time.monotonic() - clock)
                raise

        self._blob.http.again(step, self._blob.unreachable, self._stopped.wait)

    def _receive(self, response: http.client.HTTPResponse, limit: int) -> int:
        """Fill the buffer, but go back with less when that takes long. Returns the bytes."""
        view, count, text = self._buffer[:limit], 0, "the connection was cut"
        until = time.monotonic() + _FILL_SECONDS
        try:
            while count < len(view) and time.monotonic() < until and not self._stopped.is_set():
                found = receive(response, view[count:])
                if not found:
                    break
                count += found
        except (http.client.HTTPException, OSError, ValueError) as error:
            text = describe(error)
        if not count:
            raise Again(f"{shown(self._blob.url)} broke off: {text}")
        return count

    def interrupt(self) -> None:
        """Wake the thread that waits for bytes."""
        self._connection.interrupt()

    def close(self) -> None:
        """End the connection."""
        self._connection.close()


class FileBlob:
    """A blob in another store on this host. It is opened here, since root's is only the main thread."""

    network = False

    def __init__(self, path: str, layer: Layer) -> None:
        self.path = path
        try:
            self.file = os.fdopen(open_foreign(path), "rb", buffering=0)
        except OSError as error:
            raise FetchError(f"{path} cannot be read: {error.strerror}", "not-found") from None
        size = os.fstat(self.file.fileno()).st_size
        if size != layer.size:
            self.close()
            raise FetchError(f"{path} has {size} bytes, and should have {layer.size}", "size")

    def locate(self) -> None:
        """It is where it is."""

    def reader(self, stopped: threading.Event) -> FileReader:
        """For one thread."""
        return FileReader(self, stopped)

    def close(self) -> None:
        """Let go of the file."""
        self.file.close()


def open_foreign(path: str) -> int:
    """A file of a source, which the owner of the store may not be allowed to read, and root is."""
    try:
        return open_file(path, os.O_RDONLY, follow=True)
    except PermissionError:
        # no links here: they could lead to what nobody else is to read
        with as_root():
            return open_file(path, os.O_RDONLY)


class FileReader:
    """Chunks of a file."""

    def __init__(self, blob: FileBlob, stopped: threading.Event) -> None:
        self._blob = blob
        self._stopped = stopped
        self._buffer = memoryview(bytearray(BUFFER))

    def read(self, start: int, end: int, write: Write) -> None:
        """Bring the bytes from C(start) up to but not including C(end)."""
        while start < end:
            if self._stopped.is_set():
                raise Stopped
            try:
                count = os.preadv(self._blob.file.fileno(), [self._buffer[:end - start]], start)
            except OSError as error:
                raise FetchError(f"{self._blob.path} cannot be read: {error.strerror}", "not-found") from None
            if not count:
                raise FetchError(f"{self._blob.path} became shorter while it was read", "size")
            write(self._buffer[:count], start)
            start += count

    def interrupt(self) -> None:
        """A file does not keep it waiting."""

    def close(self) -> None:
        """The blob has the file."""


# -- the download ---------------------------------------------------------------

class Download:
    """Brings what a part lacks, on several connections, while one more thread hashes what is there from the beginning on.

    C(arrived) is called with the number of bytes that came, from any thread.
    """

    def __init__(self, part: Part, blob: WebBlob | FileBlob, connections: int, arrived: Callable[[int], None]) -> None:
        self._part = part
        self._blob = blob
        self._arrived = arrived
        self._lacking = [index for index, there in enumerate(part.chunks) if not there][::-1]
        # a disk reads best from front to back
        self._workers = min(connections if blob.network else 1, len(self._lacking))
        self._stopped = threading.Event()
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._readers: list[WebReader | FileReader] = []
        self._digest = hashlib.sha256()

    def run(self) -> str:
        """Returns the digest of the whole part C(sha256:<hex>), which is on the disk then. Raises FetchError."""
        try:
            if self._workers > 1:
                self._blob.locate()
            self._work()
            if self._error:
                raise self._error
            self._part.sync()
        finally:
            self._part.close()
            self._blob.close()
        return f"sha256:{self._digest.hexdigest()}"

    def _work(self) -> None:
        threads = [threading.Thread(target=self._guard, args=(work,), daemon=True) for work in [self._fetch] * self._workers + [self._hash]]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        finally:
            # at an interrupt; they still use the files then
            self._stop(None)

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Stopped:
            pass
        except BaseException as error:  # pylint: disable=broad-exception-caught
            self._stop(error)

    def _stop(self, error: BaseException | None) -> None:
        with self._changed:
            self._error = self._error or error
            self._stopped.set()
            self._changed.notify_all()
            for reader in self._readers:
                reader.interrupt()

    def _next(self) -> int | None:
        with self._changed:
            return self._lacking.pop() if self._lacking and not self._stopped.is_set() else None

    def _fetch(self) -> None:
        reader = self._blob.reader(self._stopped)
        with self._changed:
            self._readers.append(reader)
        try:
            while (index := self._next()) is not None:
                reader.read(*self._part.range(index), self._write)
                with self._changed:
                    self._part.mark(index)
                    self._changed.notify_all()
        finally:
            reader.close()

    def _write(self, data: memoryview, position: int) -> None:
        self._part.write(data, position)
        self._arrived(len(data))

    def _hash(self) -> None:
        buffer = memoryview(bytearray(BUFFER))
        for index in range(len(self._part.chunks)):
            with self._changed:
                self._changed.wait_for(lambda index=index: self._part.chunks[index] or self._stopped.is_set())
            position, end = self._part.range(index)
            while position < end:
                if self._stopped.is_set():
                    raise Stopped
                count = self._part.read(buffer[:end - position], position)
                if not count:
                    raise FetchError(f"{self._part.path} became shorter while it was read", "disk", final=True)
                self._digest.update(buffer[:count])
                position += count
