"""What make demo does before any container starts: the download of the release, and the room for it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Iterator

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/rig"))

import demo  # noqa: E402
import hosts  # noqa: E402
import upstream  # noqa: E402

DATA = os.urandom(3 << 20)


class Handler(BaseHTTPRequestHandler):
    """A release host; ends early when it is told to."""

    stop_after: int | None = None
    ranges = True
    asked: list[str] = []

    def do_HEAD(self) -> None:  # pylint: disable=invalid-name
        """Size only."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(DATA)))
        self.end_headers()

    def do_GET(self) -> None:  # pylint: disable=invalid-name
        """The file, or the rest of it."""
        wanted = self.headers.get("Range", "")
        Handler.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.ranges else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(DATA) - 1}/{len(DATA)}")
        self.send_header("Content-Length", str(len(DATA) - start))
        self.end_headers()
        self.wfile.write(DATA[start : self.stop_after])

    def log_message(self, *args: Any) -> None:  # pylint: disable=arguments-differ
        """Silence."""


@pytest.fixture(name="cache", autouse=True)
def release_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A release host on loopback, and an empty cache."""
    monkeypatch.setattr(Handler, "stop_after", None)
    monkeypatch.setattr(Handler, "ranges", True)
    monkeypatch.setattr(Handler, "asked", [])
    monkeypatch.setattr(demo, "CACHE", tmp_path)
    monkeypatch.setattr(demo, "engine_needs", lambda size: [])
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        monkeypatch.setattr(demo, "OFFICIAL", f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield tmp_path
        server.shutdown()


def fetch(digest: str = hashlib.sha256(DATA).hexdigest()) -> Path | None:
    """The archive as make demo gets it."""
    return demo.official_archive("1.2.3", {f"ollama-linux-{upstream.architecture()}.tar.zst": digest})


def test_download_is_kept() -> None:
    """Fetched once."""
    path = fetch()
    assert path and path.read_bytes() == DATA and fetch() == path
    assert Handler.asked == [""]


@pytest.mark.parametrize("ranges", [True, False], ids=["resumed", "started again"])
def test_interrupted_download(ranges: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence; the next run goes on, or starts again where the server knows no ranges. What is served never has half a file."""
    monkeypatch.setattr(Handler, "stop_after", 1 << 20)
    with pytest.raises(hosts.RigError, match=r"stopped after 1\.0 MB: .*; make demo goes on from there"):
        fetch()
    assert not (demo.CACHE / "releases").exists()
    monkeypatch.setattr(Handler, "stop_after", None)
    monkeypatch.setattr(Handler, "ranges", ranges)
    path = fetch()
    assert path and path.read_bytes() == DATA
    assert Handler.asked == ["", f"bytes={1 << 20}-"]


def test_another_file_is_refused_and_removed(cache: Path) -> None:
    """The pinned checksum decides; the next run starts anew."""
    with pytest.raises(hosts.RigError, match="is not the pinned archive"):
        fetch("0" * 64)
    assert not [path for path in cache.rglob("*") if path.is_file() and path.stat().st_size]


def test_no_room(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Said before the first byte is fetched; what the engine needs on the same disk is added."""
    monkeypatch.setattr(demo, "engine_needs", lambda size: [(cache, 10**15, "the Ollama hosts")])
    with pytest.raises(hosts.RigError, match=r"GB are needed \(0\.0 GB in .* for the download, 1000000\.0 GB in .* for the Ollama hosts\); make room"):
        fetch()
    assert not Handler.asked


def test_disk_fills_up(cache: Path) -> None:
    """A disk that fills while it downloads (a small tmpfs, and a server that does not say the size): one sentence."""
    small = cache / "partial"
    small.mkdir()
    if os.getuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], check=False).returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        with pytest.raises(hosts.RigError, match=r"stopped after [01]\.\d MB: No space left on device"):
            demo.download(f"{demo.OFFICIAL}/file", small / "file", "file")
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in is taken."""
    monkeypatch.setattr(demo, "OFFICIAL", "http://127.0.0.1:1")
    assert fetch() is None


def test_standin_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unchanged release keeps its files and the container's key; another option builds again."""
    monkeypatch.setattr(upstream, "RELEASES", tmp_path / "releases")
    sums = upstream.build_release("1.2.3")
    archive = tmp_path / f"releases/v1.2.3/ollama-linux-{upstream.architecture()}.tar.zst"
    assert sums == {archive.name: hashlib.sha256(archive.read_bytes()).hexdigest()}
    before, key = archive.stat().st_mtime_ns, upstream._key(tmp_path / "releases", (), {})  # pylint: disable=protected-access
    assert upstream.build_release("1.2.3") == sums
    (tmp_path / "releases-v1.2.3.key").unlink()
    assert upstream.build_release("1.2.3") == sums
    assert (archive.stat().st_mtime_ns, upstream._key(tmp_path / "releases", (), {})) == (before, key)  # pylint: disable=protected-access
    assert upstream.build_release("1.2.3", "--exit-at-start", "no") != sums
    assert upstream._key(tmp_path / "releases", (), {}) != key  # pylint: disable=protected-access


def test_down_needs_no_engine_and_no_tools(tmp_path: Path) -> None:
    """Plain Python, without the packages of make demo and without docker."""
    command = [sys.executable, "-S", "tests/rig/demo.py", "down"]
    done = subprocess.run(command, cwd=ROOT, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "no Docker engine on this machine" in done.stdout
