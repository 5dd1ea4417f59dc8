"""Load for a gateway: many requests at once over TLS, each judged by its whole answer. Standard library only; bounded by its callers."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
import time
from typing import Any, NamedTuple


class Result(NamedTuple):
    """A request: when it began and ended, its status (0: none came), the answer's lines, whether it came to its end, and what went wrong."""

    began: float
    ended: float
    status: int
    lines: list[str]
    complete: bool
    problem: str

    @property
    def good(self) -> bool:
        """Whether it was answered wholly."""
        return self.status == 200 and self.complete


def context(ca: str) -> ssl.SSLContext:
    """Trust this authority (PEM)."""
    return ssl.create_default_context(cadata=ca)


async def _read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    parts = []
    while size := int((await reader.readline()).split(b";")[0], 16):
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readline()
    return b"".join(parts)


async def request(address: str, port: int, name: str, tls: ssl.SSLContext, key: str, path: str, body: dict[str, Any]) -> Result:
    """Send one request on a connection of its own, and read the answer to its end."""
    began, status, content, problem = time.time(), 0, b"", ""
    try:
        reader, writer = await asyncio.open_connection(address, port, ssl=tls, server_hostname=name)
        data = json.dumps(body).encode()
        writer.write(
            f"POST {path} HTTP/1.1\r\nHost: {name}\r\nAuthorization: Bearer {key}\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data
        )
        await writer.drain()
        status = int((await reader.readline()).split()[1])
        headers = {}
        while line := (await reader.readline()).strip().decode():
            headers[line.partition(":")[0].lower()] = line.partition(":")[2].strip()
        content = await _read_body(reader, headers)
        writer.close()
    except (OSError, asyncio.IncompleteReadError, ValueError, IndexError) as error:
        problem = repr(error)
    lines = content.decode(errors="replace").splitlines()
    complete = not problem and bool(lines) and '"done":true' in lines[-1].replace(" ", "")
    return Result(began, time.time(), status, lines, complete, problem or (lines[-1][:200] if lines and not complete else ""))


class Loop:
    """Requests one after the other in several tracks, from the start to the end of a with block; in C(results)."""

    def __init__(self, targets: list[tuple[str, int, str]], tls: ssl.SSLContext, key: str, body: dict[str, Any], tracks: int = 4) -> None:
        self.results: list[Result] = []
        self.targets, self.tls, self.key, self.body, self.tracks = targets, tls, key, body, tracks
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    async def _track(self, number: int) -> None:
        address, port, name = self.targets[number % len(self.targets)]
        while not self._stop.is_set():
            self.results.append(await request(address, port, name, self.tls, self.key, "/api/generate", self.body))
            await asyncio.sleep(0.15)

    async def _run(self) -> None:
        await asyncio.gather(*(self._track(number) for number in range(self.tracks)))

    def __enter__(self) -> "Loop":
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join(120)

    @property
    def failed(self) -> list[Result]:
        """Requests without a whole answer."""
        return [result for result in self.results if not result.good]


def at_once(targets: list[tuple[str, int, str]], tls: ssl.SSLContext, key: str, body: dict[str, Any], count: int) -> list[Result]:
    """So many requests at the same time, spread over the targets."""

    async def run() -> list[Result]:
        return list(await asyncio.gather(*(request(*targets[number % len(targets)], tls, key, "/api/generate", body) for number in range(count))))

    return asyncio.run(run())
