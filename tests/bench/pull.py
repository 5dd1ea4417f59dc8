# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How fast ollama_model fetches, against curl and SHA-256 of the same bytes from the same server: `python tests/bench/pull.py`.

The server is a process of its own on loopback that answers with sendfile. Rounds alternate, and the best of each counts. The pull does more
than curl: it writes to the disk (fsync) before a blob counts as there, and keeps a map of what it has.
"""
from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import resource
import shutil
import socket
import socketserver
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / ".venv/collections")]

# pylint: disable=wrong-import-position
from ansible_collections.gpufleet.ollama.plugins.module_utils._http import Http  # noqa: E402
from ansible_collections.gpufleet.ollama.plugins.module_utils._names import parse  # noqa: E402
from ansible_collections.gpufleet.ollama.plugins.module_utils._manifests import MEDIA_TYPE, lock_entry  # noqa: E402
from ansible_collections.gpufleet.ollama.plugins.module_utils._sideload import Lock, Options, Progress, Sideload  # noqa: E402
from ansible_collections.gpufleet.ollama.plugins.module_utils._store import Store, sha256_file  # noqa: E402

WANTED = 0.9


class Handler(socketserver.StreamRequestHandler):
    """GETs of one file, with ranges, on connections that stay open."""

    def handle(self) -> None:
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        size = os.path.getsize(self.server.file)  # type: ignore[attr-defined]
        with open(self.server.file, "rb") as file:  # type: ignore[attr-defined]
            while self.rfile.readline():
                head = b"".join(iter(self.rfile.readline, b"\r\n"))
                found = re.search(rb"(?i)^range: bytes=(\d+)-(\d+)\r$", head, re.M)
                start, end = (int(found[1]), int(found[2]) + 1) if found else (0, size)
                status = f"206 Partial Content\r\nContent-Range: bytes {start}-{end - 1}/{size}" if found else "200 OK"
                self.connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {end - start}\r\n\r\n".encode())
                while start < end:
                    start += os.sendfile(self.connection.fileno(), file.fileno(), start, end - start)


class FileServer(socketserver.ThreadingTCPServer):
    """A thread for each connection."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, file: str) -> None:
        self.file = file
        super().__init__(("127.0.0.1", 0), Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no event."""


def make_blob(path: Path, size: int) -> str:
    """Bytes that cannot be compressed; returns their digest."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        while size > 0:
            piece = os.urandom(min(size, 1 << 20))
            digest.update(piece)
            file.write(piece)
            size -= len(piece)
        os.fsync(file.fileno())
    return f"sha256:{digest.hexdigest()}"


def curl(url: str, folder: Path, digest: str) -> None:
    """The plain way: fetch, then hash."""
    subprocess.run(["curl", "--silent", "--fail", "--output", str(folder / "curl"), url], check=True)
    if sha256_file(str(folder / "curl")) != digest:
        raise SystemExit("curl got other bytes")


def pull(base: str, folder: Path, size: int, digest: str, connections: int) -> None:
    """The module's way, into an empty store."""
    manifest = json.dumps({"schemaVersion": 2, "mediaType": MEDIA_TYPE, "layers": [
        {"mediaType": "application/vnd.ollama.image.model", "digest": digest, "size": size}]}).encode()
    name = parse("bench:1b")
    sideload = Sideload(Store(str(folder / "store")), Http, Options(sources=[base], upstream=False, connections=connections))
    plan = sideload.plan([name], Lock({"bench:1b": lock_entry(manifest, "registry")}), False)
    sideload.run(plan, Progress(str(folder / "progress"), 1))
    if sideload.fetched != size:
        raise SystemExit(f"{sideload.fetched} of {size} bytes were fetched")


def clocked(work: Callable[[Path], None], folder: Path) -> tuple[float, float]:
    """Seconds on the wall and of the processors."""
    folder.mkdir()
    used, began = cpu(), time.monotonic()
    work(folder)
    found = time.monotonic() - began, cpu() - used
    shutil.rmtree(folder)
    # what the one left to be written must not slow down the other
    os.sync()
    return found


def cpu() -> float:
    """Seconds of the processors that this process and the children that ended used."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main() -> int:
    """Measure and print. Status 1 when the pull is too slow."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--size", type=int, default=512, help="MiB")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--connections", type=int, default=8)
    options.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.serve:
        with FileServer(arguments.serve) as server:
            print(server.server_address[1], flush=True)
            server.serve_forever()
    with tempfile.TemporaryDirectory(prefix="ollama-bench-") as directory:
        return measure(arguments, Path(directory))


def measure(arguments: argparse.Namespace, directory: Path) -> int:
    """Rounds that alternate."""
    size = arguments.size << 20
    digest = make_blob(directory / "blob", size)
    with subprocess.Popen([sys.executable, __file__, "--serve", str(directory / "blob")], stdout=subprocess.PIPE, text=True) as server:
        try:
            base = f"http://127.0.0.1:{server.stdout.readline().strip()}"  # type: ignore[union-attr]
            ways = {
                "curl + SHA-256": lambda folder: curl(f"{base}/v2/library/bench/blobs/{digest}", folder, digest),
                "pull": lambda folder: pull(base, folder, size, digest, arguments.connections),
            }
            times: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
            for number in range(arguments.rounds * len(ways)):
                way = list(ways)[number % len(ways)]
                times[way].append(clocked(ways[way], directory / "round"))
                print(f"{way:15} {times[way][-1][0]:6.2f} s, {times[way][-1][1]:6.2f} s of the processors")
        finally:
            server.kill()
    best = {way: min(wall for wall, _cpu in found) for way, found in times.items()}
    ratio = best["curl + SHA-256"] / best["pull"]
    speeds = ", ".join(f"{way} {arguments.size / seconds:.0f} MiB/s" for way, seconds in best.items())
    print(f"best: {speeds}; ratio {ratio:.2f}, wanted {WANTED}")
    return 0 if ratio >= WANTED else 1


if __name__ == "__main__":
    sys.exit(main())
