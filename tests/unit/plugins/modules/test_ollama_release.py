"""Module ollama_release with archives of the stand-in, served by its release host on loopback."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import pytest

from ansible_collections.gpufleet.ollama.plugins.module_utils import _release
from ansible_collections.gpufleet.ollama.plugins.modules import ollama_release

DOUBLE = Path(__file__).resolve().parents[3] / "double"

pytestmark = pytest.mark.skipif(not shutil.which("zstd"), reason="zstd is not installed here; the Molecule scenarios unpack on hosts")


class Releases:
    """Releases on a web server, and the module bound to them and to a root directory."""

    def __init__(self, files: Path, root: Path, server: Any, run_module: Callable[..., Any]) -> None:
        self.files, self.root, self.server, self.url, self.run_module = files, root, server, server.url, run_module
        self.sums: dict[str, str] = {}

    def build(self, version: str, *options: str) -> None:
        """Put a release on the server."""
        out = self.files / f"v{version}"
        command = [sys.executable, "-m", "ollama_double.release", "--version", version, "--out", str(out), *options]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(DOUBLE)}, capture_output=True)
        self.sums[version] = (out / "sha256sum.txt").read_text(encoding="utf-8").split()[0]

    def install(self, version: str, check: bool = False, sha256: str = "") -> dict[str, Any]:
        """Run the module."""
        archive = {"url": f"{self.url}/files/v{version}/ollama-linux-amd64.tar.zst", "sha256": sha256 or self.sums.get(version, "0" * 64)}
        return self.run_module(ollama_release.main, check=check, version=version, root=str(self.root), archives=[archive], timeout=20)

    def current(self) -> str:
        """What the link points to."""
        return _release.read_link(str(self.root / "current"))


@pytest.fixture
def releases(tmp_path: Path, start_registry: Callable[..., Any], run_module: Callable[..., Any]) -> Releases:
    """A server with version 1.0.0, nothing installed."""
    files = tmp_path / "files"
    files.mkdir()
    found = Releases(files, tmp_path / "root/ollama", start_registry("--files", str(files)), run_module)
    found.build("1.0.0")
    return found


def test_install_then_nothing(releases: Releases) -> None:
    """A release is installed once, belongs to nobody else, and leaves no archive behind."""
    result = releases.install("1.0.0")
    assert result["changed"] and result["previous"] == "" and result["download_bytes"] > 0
    assert (releases.root / "current/bin/ollama").stat().st_mode & 0o777 == 0o755
    assert (releases.root / "current/lib/ollama").is_dir()
    assert sorted(path.name for path in releases.root.iterdir()) == ["1.0.0", "current"]
    assert not releases.install("1.0.0")["changed"]


def test_check_mode(releases: Releases) -> None:
    """The plan names the bytes; nothing is made, not even the root directory."""
    result = releases.install("1.0.0", check=True)
    assert result["changed"] and result["download_bytes"] > 0 and "MB" in result["diff"]["after"]
    assert not releases.root.exists()


def test_upgrade_and_downgrade_keep_both(releases: Releases) -> None:
    """Another version comes beside the first; going back downloads nothing."""
    releases.install("1.0.0")
    releases.build("2.0.0")
    assert releases.install("2.0.0")["previous"] == "1.0.0" and releases.current() == "2.0.0"
    assert releases.install("1.0.0")["download_bytes"] == 0 and releases.current() == "1.0.0"


@pytest.mark.parametrize(
    ("options", "sha256", "message"),
    [
        ((), "0" * 64, "is not the archive that was pinned"),
        (("--truncate",), "", "cannot be unpacked"),
        (("--answers-version", "9.9.9"), "", "does not say that it is 2.0.0"),
        (None, "", "answered 404"),
    ],
    ids=["checksum", "truncated", "version", "missing"],
)
def test_a_bad_release_touches_nothing(releases: Releases, options: tuple[str, ...] | None, sha256: str, message: str) -> None:
    """The release that was there stays, and nothing of the bad one is left."""
    releases.install("1.0.0")
    if options is not None:
        releases.build("2.0.0", *options)
    result = releases.install("2.0.0", sha256=sha256)
    assert result["failed"] and message in result["msg"]
    assert releases.current() == "1.0.0"
    assert sorted(path.name for path in releases.root.iterdir()) == ["1.0.0", "current"]


def test_other_archive_of_the_same_version_replaces_it(releases: Releases) -> None:
    """The record holds the archives' sums: the same version from another archive is another release."""
    releases.install("1.0.0")
    releases.build("1.0.0", "--hide-models")
    assert releases.install("1.0.0")["changed"]
    assert not releases.install("1.0.0")["changed"]


def test_full_disk_stops_before_the_first_byte(releases: Releases, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too little space: one sentence with both numbers, nothing made."""
    monkeypatch.setattr(_release.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    result = releases.install("1.0.0")
    assert result["failed"] and "is too full for Ollama 1.0.0" in result["msg"]
    assert not releases.root.exists()


def test_broken_download_is_tried_again(releases: Releases, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is cut once costs a try; one that is always cut is said to be that, and not a full disk or a wrong archive."""
    monkeypatch.setattr(_release.time, "sleep", lambda seconds: None)
    assert releases.server.ask("POST", "/_double/faults", {"fault": "cut_after_bytes", "bytes": 100, "kind": "file", "count": 1})[0] < 300
    assert releases.install("1.0.0")["changed"]
    releases.build("2.0.0")
    assert releases.server.ask("POST", "/_double/faults", {"fault": "cut_after_bytes", "bytes": 100, "kind": "file"})[0] < 300
    assert "broke off 3 times" in releases.install("2.0.0")["msg"]
    assert releases.current() == "1.0.0"


def test_umask_of_root_does_not_matter(releases: Releases) -> None:
    """With a closed umask, as on hardened hosts, the service's user still reads the release."""
    old = os.umask(0o077)
    try:
        assert releases.install("1.0.0")["changed"]
    finally:
        os.umask(old)
    for path in (releases.root, releases.root / "1.0.0", releases.root / "1.0.0/lib/ollama", releases.root / "1.0.0/bin/ollama"):
        assert path.stat().st_mode & 0o005 == 0o005, path


def test_no_server(run_module: Callable[..., Any], tmp_path: Path) -> None:
    """An unreachable server is one sentence that names the option to set."""
    archives = [{"url": "http://127.0.0.1:9/x.tar.zst", "sha256": "0" * 64}]
    result = run_module(ollama_release.main, check=True, version="1.0.0", root=str(tmp_path), archives=archives, timeout=5)
    assert result["failed"] and "Set ollama_release_url" in result["msg"]
