"""Module ollama_release with archives of the stand-in, served by its release host on loopback."""

from __future__ import annotations

import hashlib
import json
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

    def install(self, version: str, check: bool = False, sha256: str = "", **more: Any) -> dict[str, Any]:
        """Run the module."""
        archive = {"url": f"{self.url}/files/v{version}/ollama-linux-amd64.tar.zst", "sha256": sha256 or self.sums.get(version, "0" * 64)}
        return self.run_module(
            ollama_release.main, check=check, version=version, root=str(self.root), timeout=20, **{"archives": [archive], **more}
        )

    def names(self) -> list[str]:
        """What is in the root directory."""
        return sorted(path.name for path in self.root.iterdir())

    def record(self) -> dict[str, Any]:
        """The record of version 1.0.0."""
        return json.loads((self.root / "1.0.0/.release.json").read_text(encoding="utf-8"))


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
    assert result["changed"] and result["damaged"] == [] and result["download_bytes"] > 0
    tree = releases.root / "1.0.0"
    assert (tree / "bin/ollama").stat().st_mode & 0o777 == 0o755
    assert (tree / "lib/ollama").is_dir()
    assert releases.names() == ["1.0.0"]
    # systemd reads it as root, and so may everybody
    assert (tree / "release.env").read_text(encoding="utf-8") == f'GPUFLEET_RELEASE_ID="{result["release_id"]}"\n'
    assert (tree / "release.env").stat().st_mode & 0o777 == 0o644
    again = releases.install("1.0.0")
    assert not again["changed"] and again["release_id"] == result["release_id"] and again["download_bytes"] == 0
    assert again["diff"]["before"] == again["diff"]["after"] == "1.0.0\n" and "missing" not in again


def test_link_is_not_touched(releases: Releases) -> None:
    """What serves is another module's business."""
    releases.install("1.0.0")
    (releases.root / "current").symlink_to("1.0.0")
    releases.build("2.0.0")
    result = releases.install("2.0.0")
    assert _release.read_link(str(releases.root / "current")) == "1.0.0" and releases.names() == ["1.0.0", "2.0.0", "current"]
    assert result["diff"]["before"] == "1.0.0\n" and result["diff"]["after"].startswith("1.0.0\n2.0.0 (download of ")


def test_check_mode(releases: Releases) -> None:
    """The plan names the bytes; nothing is made, not even the root directory."""
    result = releases.install("1.0.0", check=True)
    assert result["changed"] and result["download_bytes"] > 0 and result["release_id"] == ""
    assert result["diff"]["before"] == "no version\n" and "MB" in result["diff"]["after"]
    assert not releases.root.exists()


def test_question_installs_nothing(releases: Releases) -> None:
    """download: false says what is to be done, and asks no server."""
    releases.server.ask("POST", "/_double/stats")
    result = releases.install("1.0.0", download=False)
    assert result["missing"] and not result["changed"] and result["release_id"] == "" and not releases.root.exists()
    assert releases.server.get("/_double/stats")["requests"] == 0
    releases.install("1.0.0")
    assert not releases.install("1.0.0", download=False)["missing"]


def test_upgrade_and_downgrade_keep_both(releases: Releases) -> None:
    """Another version comes beside the first; going back downloads nothing."""
    releases.install("1.0.0")
    releases.build("2.0.0")
    assert releases.install("2.0.0")["changed"]
    assert not releases.install("1.0.0")["changed"] and releases.names() == ["1.0.0", "2.0.0"]


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
    assert releases.names() == ["1.0.0"]
    assert not releases.install("1.0.0")["changed"]


def test_other_archive_of_the_same_version_replaces_it(releases: Releases) -> None:
    """The record holds the archives' sums: the same version from another archive is another release."""
    releases.install("1.0.0")
    releases.build("1.0.0", "--hide-models")
    result = releases.install("1.0.0")
    assert result["changed"] and result["damaged"] == [] and result["diff"]["before"] == "1.0.0 of other archives\n"
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
    assert releases.names() == ["1.0.0"]


def test_umask_of_root_does_not_matter(releases: Releases) -> None:
    """With a closed umask, as on hardened hosts, the service's user still reads the release."""
    old = os.umask(0o077)
    try:
        assert releases.install("1.0.0")["changed"]
    finally:
        os.umask(old)
    for path in (releases.root, releases.root / "1.0.0", releases.root / "1.0.0/lib/ollama", releases.root / "1.0.0/bin/ollama"):
        assert path.stat().st_mode & 0o005 == 0o005, path


def flip(path: Path) -> None:
    """Other content of the same length, with the same time of change."""
    status, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_damage_is_found_and_repaired(releases: Releases) -> None:
    """The plan names the files; the release comes again from its archives, as another one."""
    first = releases.install("1.0.0")["release_id"]
    tree = releases.root / "1.0.0"
    flip(tree / "bin/ollama")
    # a leftover library can send a whole server to the CPU
    (tree / "lib/ollama/libggml-old.so").write_bytes(b"old")
    (tree / "lib/ollama/libllama.so").unlink()
    names = ["bin/ollama", "lib/ollama/libggml-old.so", "lib/ollama/libllama.so"]
    plan = releases.install("1.0.0", check=True)
    assert plan["changed"] and plan["damaged"] == names and plan["release_id"] == "" and plan["download_bytes"] > 0
    assert plan["diff"]["before"] == f"1.0.0 damaged: {', '.join(names)}\n" and plan["diff"]["after"].startswith("1.0.0 (download of")
    result = releases.install("1.0.0")
    assert result["changed"] and result["damaged"] == names and releases.names() == ["1.0.0"]
    # the same archives, another copy
    assert result["release_id"] != first and result["release_id"].split("-")[0] == first.split("-")[0]
    again = releases.install("1.0.0", verify="full")
    assert not again["changed"] and again["release_id"] == result["release_id"]


def test_much_damage_does_not_fill_the_screen(releases: Releases) -> None:
    """Twenty names, and how many more."""
    releases.install("1.0.0")
    for number in range(25):
        (releases.root / f"1.0.0/lib/x{number:02}").touch()
    plan = releases.install("1.0.0", check=True)
    assert len(plan["damaged"]) == 20 and plan["diff"]["before"].endswith("lib/x19 and 5 more\n")


def test_damaged_release_stays_when_it_cannot_be_repaired(releases: Releases) -> None:
    """It may well serve still."""
    releases.install("1.0.0")
    flip(releases.root / "1.0.0/bin/ollama")
    before = (releases.root / "1.0.0/bin/ollama").read_bytes()
    shutil.rmtree(releases.files / "v1.0.0")
    assert releases.install("1.0.0")["failed"]
    assert (releases.root / "1.0.0/bin/ollama").read_bytes() == before and releases.names() == ["1.0.0"]


def test_restored_backup_is_no_damage(releases: Releases, monkeypatch: pytest.MonkeyPatch) -> None:
    """The right content with other times: read once, then known. Check mode does not write that down."""
    releases.install("1.0.0")
    path = releases.root / "1.0.0/bin/ollama"
    path.write_bytes(path.read_bytes())
    read: list[str] = []
    real = _release.sha256
    monkeypatch.setattr(_release, "sha256", lambda name, sync=False: read.append(name) or real(name, sync))
    age = (releases.root / "1.0.0/.release.json").stat().st_mtime_ns
    for check, wanted in ((True, 1), (False, 2), (False, 2)):
        assert not releases.install("1.0.0", check=check)["changed"] and len(read) == wanted
    # when it was installed is still told by the record
    assert (releases.root / "1.0.0/.release.json").stat().st_mtime_ns == age and releases.names() == ["1.0.0"]


def test_full_reads_everything(releases: Releases) -> None:
    """What a disk lost without a trace in the times: only reading finds it."""
    releases.install("1.0.0")
    path = releases.root / "1.0.0/lib/ollama/libllama.so"
    flip(path)
    record = releases.record()
    record["files"]["lib/ollama/libllama.so"]["ctime_ns"] = path.stat().st_ctime_ns
    (releases.root / "1.0.0/.release.json").write_text(json.dumps(record), encoding="utf-8")
    assert not releases.install("1.0.0")["changed"]
    assert releases.install("1.0.0", verify="full")["damaged"] == ["lib/ollama/libllama.so"]


def test_record_without_files_gets_them(releases: Releases) -> None:
    """An installation of a former version of this module is taken as it is, without a download."""
    releases.install("1.0.0")
    tree = releases.root / "1.0.0"
    (tree / ".release.json").write_text(json.dumps({"version": "1.0.0", "archives": [releases.sums["1.0.0"]]}), encoding="utf-8")
    (tree / "release.env").unlink()
    plan = releases.install("1.0.0", check=True)
    assert plan["changed"] and plan["release_id"] == "" and "without a list of its files" in plan["diff"]["before"]
    result = releases.install("1.0.0")
    assert result["changed"] and result["download_bytes"] == 0 and result["release_id"]
    assert set(releases.record()["files"]) >= {".", "bin/ollama", "lib/ollama"}
    assert not releases.install("1.0.0", verify="full")["changed"]


def test_lost_environment_file_is_written_anew(releases: Releases) -> None:
    """No download and no new id for a file that can be derived."""
    identity = releases.install("1.0.0")["release_id"]
    (releases.root / "1.0.0/release.env").write_text('GPUFLEET_RELEASE_ID="0"\n', encoding="utf-8")
    result = releases.install("1.0.0")
    assert result["changed"] and result["damaged"] == ["release.env"] and result["download_bytes"] == 0 and result["release_id"] == identity
    assert not releases.install("1.0.0")["changed"]


def test_archive_on_the_host(releases: Releases, tmp_path: Path) -> None:
    """An archive by its path, packed or already decompressed: verified, unpacked and left there; the record holds the archive's sum."""
    packed, tar = releases.files / "v1.0.0/ollama-linux-amd64.tar.zst", tmp_path / "x.tar"
    subprocess.run(["zstd", "-dq", str(packed), "-o", str(tar)], check=True)
    archive = {"sha256": releases.sums["1.0.0"], "path": str(packed)}
    unpacked = {**archive, "path": str(tar), "tar_sha256": hashlib.sha256(tar.read_bytes()).hexdigest()}
    result = releases.install("1.0.0", archives=[archive])
    assert result["changed"] and result["download_bytes"] == packed.stat().st_size and packed.exists()
    assert not releases.install("1.0.0", archives=[unpacked])["changed"]
    shutil.rmtree(releases.root)
    assert releases.install("1.0.0", archives=[unpacked])["changed"]
    assert not releases.install("1.0.0", archives=[archive])["changed"]
    shutil.rmtree(releases.root)
    assert "is not the archive that was pinned" in releases.install("1.0.0", archives=[{**unpacked, "tar_sha256": "0" * 64}])["msg"]
    assert "cannot be read on this host" in releases.install("1.0.0", archives=[{**archive, "path": "/nowhere"}])["msg"]


def test_host_without_zstd(releases: Releases, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence before the download; the plan does not need it, a task before this one may install it."""
    monkeypatch.setattr(_release.shutil, "which", lambda name: None if name == "zstd" else f"/usr/bin/{name}")
    assert releases.install("1.0.0", check=True)["changed"]
    assert "install zstd, or set unpack_on: controller" in releases.install("1.0.0")["msg"]
    assert not releases.root.exists()


@pytest.mark.parametrize("archive", [{}, {"url": "http://127.0.0.1:9/x", "src": "/x"}], ids=["none", "two"])
def test_archive_has_one_place(releases: Releases, archive: dict[str, str]) -> None:
    """Neither none nor two."""
    assert "url" in releases.install("1.0.0", archives=[{"sha256": "0" * 64, **archive}])["msg"]


def test_no_server(run_module: Callable[..., Any], tmp_path: Path) -> None:
    """An unreachable server is one sentence that names the option to set."""
    archives = [{"url": "http://127.0.0.1:9/x.tar.zst", "sha256": "0" * 64}]
    result = run_module(ollama_release.main, check=True, version="1.0.0", root=str(tmp_path), archives=archives, timeout=5)
    assert result["failed"] and "Set ollama_release_url" in result["msg"]
