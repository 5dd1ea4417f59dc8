# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Bring the gateway's audit log into the journal, each line as an entry with the id of its request in the field REQUEST_ID.

usage: gateway_log.py LOG STATE [SOCKET]    the socket of the journal; another one is for tests

Why not nginx' own syslog: it drops a line when the receiver's queue is full. Here the journal is waited for, and STATE says how far every file was
read, so that a stop of this program or of the journal loses nothing (what was sent just before a kill comes a second time).

Rotation renames the file, and nginx writes into the renamed one until it has opened the new one. So a file that was renamed is read on for a while
beside the new one. What was rotated while the program did not run is found under the name that logrotate gives, LOG.1.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import sys
import time
from typing import IO, Any

JOURNAL = "/run/systemd/journal/socket"
IDENTIFIER = "gpufleet-gateway"
POLL_SECONDS = 0.5
# nginx opens its new file within moments
RENAMED_SECONDS = 60.0
CHUNK = 1 << 20
# far above what nginx takes as a request line, far below what the journal's socket takes
LONGEST = 100_000


def entry(line: bytes) -> bytes:
    """A line as an entry in the journal's own protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL)."""
    text = line[:LONGEST]
    fields = [b"MESSAGE=" + text, b"PRIORITY=6", b"SYSLOG_IDENTIFIER=" + IDENTIFIER.encode()]
    try:
        request = json.loads(text)["id"]
    # a line that is nested too deep is not of nginx, and is handed on as it is
    except (ValueError, KeyError, TypeError, RecursionError):
        request = None
    if isinstance(request, str) and request.isalnum():
        fields.append(b"REQUEST_ID=" + request.encode())
    return b"\n".join(fields) + b"\n"


class Journal:
    """The journal of the host, which is waited for."""

    def __init__(self, path: str = JOURNAL) -> None:
        self.path = path
        self.socket: socket.socket | None = None

    def send(self, data: bytes) -> None:
        """Hand over an entry; while the journal is away or has no room, try again."""
        while True:
            try:
                if self.socket is None:
                    self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                    self.socket.connect(self.path)
                # blocks while the queue is full
                self.socket.send(data)
                return
            except OSError as error:
                if error.errno not in (errno.ECONNREFUSED, errno.ENOENT, errno.ENOTCONN, errno.ECONNRESET, errno.EPIPE, errno.ENOBUFS):
                    raise
                if self.socket is not None:
                    self.socket.close()
                self.socket = None
                time.sleep(0.2)


class Followed:
    """A file that is read from an offset on, whatever it is called meanwhile."""

    def __init__(self, file: IO[bytes], offset: int) -> None:
        self.file = file
        self.offset = offset
        self.renamed_at: float | None = None

    @property
    def inode(self) -> int:
        """What the file is known by in the state."""
        return os.fstat(self.file.fileno()).st_ino

    def lines(self) -> list[bytes]:
        """The next whole lines; the end of a line that is still being written is left for the next time."""
        if os.fstat(self.file.fileno()).st_size < self.offset:
            # emptied in place
            self.offset = 0
        self.file.seek(self.offset)
        data = self.file.read(CHUNK)
        end = data.rfind(b"\n") + 1
        if not end and len(data) == CHUNK:
            # no line of nginx: never wait for its end
            end = CHUNK
        self.offset += end
        return [line for line in data[:end].split(b"\n") if line]


class Follower:
    """The log under its name, and the files that had the name before."""

    def __init__(self, log: str, state: str, journal: Journal) -> None:
        self.log = log
        self.state = state
        self.journal = journal
        self.files: list[Followed] = []
        self.known = self._read_state()
        # older first
        for path in (f"{log}.1", log):
            self._open(path, only_known=path != log)
        self.known = {}

    def _read_state(self) -> dict[int, int]:
        try:
            with open(self.state, encoding="ascii") as file:
                return {int(inode): int(offset) for inode, offset in json.load(file).items()}
        except (FileNotFoundError, ValueError, AttributeError):
            return {}

    def _open(self, path: str, only_known: bool = False) -> None:
        try:
            file = open(path, "rb", buffering=0)  # noqa: SIM115
        except FileNotFoundError:
            return
        followed = Followed(file, 0)
        if only_known and followed.inode not in self.known:
            file.close()
            return
        followed.offset = self.known.get(followed.inode, 0)
        self.files.append(followed)

    def step(self, now: float) -> int:
        """Send what is new. Returns how many lines that were."""
        self._look_for_rotation(now)
        sent = 0
        for followed in self.files:
            for line in followed.lines():
                self.journal.send(entry(line))
                sent += 1
        if sent:
            self._write_state()
        self._close_renamed(now)
        return sent

    def _look_for_rotation(self, now: float) -> None:
        try:
            inode = os.stat(self.log).st_ino
        except FileNotFoundError:
            # between the renaming and the new file
            inode = None
        for followed in self.files:
            if followed.inode == inode:
                followed.renamed_at = None
            elif followed.renamed_at is None:
                followed.renamed_at = now
        if inode is not None and all(followed.inode != inode for followed in self.files):
            self._open(self.log)

    def _close_renamed(self, now: float) -> None:
        for followed in list(self.files):
            unread = os.fstat(followed.file.fileno()).st_size > followed.offset
            if followed.renamed_at is not None and now - followed.renamed_at > RENAMED_SECONDS and not unread:
                followed.file.close()
                self.files.remove(followed)

    def _write_state(self) -> None:
        temporary = f"{self.state}.new"
        with open(temporary, "w", encoding="ascii") as file:
            json.dump({str(followed.inode): followed.offset for followed in self.files}, file)
        os.replace(temporary, self.state)


def main(arguments: list[str]) -> int:
    """Follow until SIGTERM, which waits for the end of a step."""
    follower = Follower(arguments[0], arguments[1], Journal(*arguments[2:]))
    stopped: list[Any] = []
    signal.signal(signal.SIGTERM, lambda *_signal: stopped.append(True))
    while not stopped:
        if not follower.step(time.monotonic()):
            time.sleep(POLL_SECONDS)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
