"""Repositories of backups: storage over S3 (moto) and SFTP on loopback, and what goes wrong with them, each with its sentence."""

from __future__ import annotations

import hashlib
import http.server
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from ansible_collections.gpufleet.ollama.plugins.module_utils._backup import Index
from ansible_collections.gpufleet.ollama.plugins.module_utils._repository import BackupError, Restic, endpoint, explain, sftp_command
from ansible_collections.gpufleet.ollama.plugins.module_utils._store import Store

from backup_rig import ADAPTED, ROOT, Rig, restic, restic_program, tree

needs_restic = pytest.mark.skipif(not restic_program(), reason="restic is not on this machine")
KEYS = {"AWS_ACCESS_KEY_ID": "backup", "AWS_SECRET_ACCESS_KEY": "not a secret", "AWS_DEFAULT_REGION": "us-east-1"}
SKEWED = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>RequestTimeTooSkewed</Code><Message>The difference between the request time and the '
    b"current time is too large.</Message><RequestTime>20261127T120000Z</RequestTime></Error>"
)


def free_port() -> int:
    """A port of loopback that nobody has."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """An S3 server with the bucket backups; its URL."""
    server = Path(sys.executable).with_name("moto_server")
    if not server.exists():
        pytest.skip("moto is not installed")
    url = f"http://127.0.0.1:{free_port()}"
    with subprocess.Popen([str(server), "-H", "127.0.0.1", "-p", url.rpartition(":")[2]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            until = time.monotonic() + 60
            while True:
                try:
                    urllib.request.urlopen(urllib.request.Request(f"{url}/backups", method="PUT"), timeout=5).close()
                    break
                except OSError:
                    assert time.monotonic() < until, "the S3 server does not start"
                    time.sleep(0.2)
            yield url
        finally:
            process.kill()


@pytest.fixture
def rig(start_registry: Callable[..., Any], tmp_path: Path) -> Rig:
    """A host whose store is filled."""
    found = Rig(start_registry, tmp_path)
    found.fill()
    return found


def refused(kind: str, call: Callable[[], Any]) -> str:
    """The words of a BackupError."""
    with pytest.raises(BackupError) as caught:
        call()
    assert caught.value.kind == kind, caught.value
    return str(caught.value)


def round_trip(rig: Rig, repository: Restic) -> None:
    """There and back, and again for nothing."""
    assert repository.open(make=True) and not repository.open()
    first = rig.backup(repository)
    again = rig.backup(repository)
    assert first.saved.added > 3 << 20 and again.saved.added < 20_000
    other = Store(str(rig.folder / "b/models"))
    rig.restore(repository, other)
    assert tree(other) == tree(rig.store)


@needs_restic
def test_s3(rig: Rig, s3: str, tmp_path: Path) -> None:
    """An S3 bucket."""
    round_trip(rig, restic(f"s3:{s3}/backups/fleet", tmp_path / "cache", environment=KEYS))


@needs_restic
def test_a_bucket_that_is_missing(s3: str, tmp_path: Path) -> None:
    """restic makes no bucket by itself when it is only asked for one; its name is told."""
    said = refused("missing", restic(f"s3:{s3}/none/fleet", tmp_path / "cache", environment=KEYS).open)
    assert "/none/fleet" in said


@needs_restic
def test_sftp(rig: Rig, tmp_path: Path) -> None:
    """A directory over SFTP."""
    server = ROOT / ".venv/restic/usr/bin/sftp-server"
    program = str(server) if server.exists() else shutil.which("sftp-server", path="/usr/lib/openssh")
    if not program:
        pytest.skip("there is no sftp-server on this machine")
    repository = restic(f"sftp:backup@storage:{tmp_path}/repository", tmp_path / "cache", options=[f"sftp.command={program}"])
    round_trip(rig, repository)


@needs_restic
def test_the_storage_goes_away(rig: Rig, tmp_path: Path) -> None:
    """Nobody listens, or nobody has that name: said at once, whoever wants what."""
    for repository in (
        f"s3:http://127.0.0.1:{free_port()}/backups", f"rest:http://user:geheim@127.0.0.1:{free_port()}/", "s3:https://nowhere.invalid/backups",
        f"sftp://backup@127.0.0.1:{free_port()}//srv/backup",
    ):
        began = time.monotonic()
        said = refused("unreachable", lambda repository=repository: restic(repository, tmp_path / "cache", environment=KEYS).open(make=True))
        assert "cannot be reached" in said and "geheim" not in said and time.monotonic() - began < 20


@needs_restic
def test_a_wrong_password(rig: Rig, tmp_path: Path) -> None:
    """Said so, on all ways; what is there stays."""
    good = restic(str(tmp_path / "repository"), tmp_path / "cache")
    good.open(make=True)
    saved = rig.backup(good).saved
    wrong = restic(str(tmp_path / "repository"), tmp_path / "cache", password="another")
    for call in (wrong.open, lambda: wrong.open(make=True), lambda: rig.backup(wrong), wrong.snapshots):
        assert "the password of the repository" in refused("password", call)
    assert [item.id for item in good.snapshots()] == [saved.id]


class Refuses(http.server.BaseHTTPRequestHandler):
    """An S3 server whose clock is ahead: it finds every request too old."""

    def do_GET(self) -> None:
        """Any request."""
        self.send_response(403)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(SKEWED) if self.command != "HEAD" else 0))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(SKEWED)

    def date_time_string(self, timestamp: float | None = None) -> str:
        """For the header Date."""
        return super().date_time_string(int(timestamp or time.time()) + 1500)

    do_HEAD = do_PUT = do_POST = do_GET

    def log_message(self, *_args: Any) -> None:
        """Nothing."""


@needs_restic
def test_a_clock_that_is_wrong(tmp_path: Path) -> None:
    """Storage that refuses a request for its time: the sentence names the clock."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        repository = restic(f"s3:http://127.0.0.1:{server.server_port}/backups", tmp_path / "cache", environment=KEYS)
        said = refused("clock", lambda: repository.open(make=True))
        server.shutdown()
    assert "the clock of this host is 25 minutes slow" in said


@needs_restic
def test_a_repository_that_another_one_has_locked(rig: Rig, tmp_path: Path) -> None:
    """It waits, and then says so. The lock of a process that is gone is no lock."""
    repository = restic(str(tmp_path / "repository"), tmp_path / "cache", lock_seconds=0)
    repository.open(make=True)
    rig.backup(repository)
    # one that holds an exclusive lock, as long as its input does not end
    environment = {**os.environ, "RESTIC_PASSWORD": "not a secret", "RESTIC_REPOSITORY": str(tmp_path / "repository")}
    with subprocess.Popen([restic_program(), "backup", "--stdin"], env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        try:
            until = time.monotonic() + 20
            while not list((tmp_path / "repository/locks").iterdir()) and time.monotonic() < until:
                time.sleep(0.05)
            assert "is locked by another process" in refused("locked", repository.check)
        finally:
            process.kill()
    patient = restic(str(tmp_path / "repository"), tmp_path / "cache", lock_seconds=20)
    patient.check()


# restic at a file that it cannot read, with storage that only lets add
ONLY_ADDS = """#!/bin/sh
for word; do
    case $word in
        forget) echo "Fatal: unable to remove <snapshot/1>: 403 Forbidden" >&2; exit 1 ;;
        backup) %s "$@" && echo "error: read blobs/sha256-1: input/output error" >&2; exit 3 ;;
    esac
done
exec %s "$@"
"""


@needs_restic
def test_a_file_that_cannot_be_read_and_storage_that_only_lets_add(rig: Rig, tmp_path: Path) -> None:
    """What was made without the file cannot be taken back; it is said what could not be read all the same."""
    program = tmp_path / "restic"
    program.write_text(ONLY_ADDS % ((restic_program(),) * 2), encoding="utf-8")
    program.chmod(0o755)
    repository = restic(str(tmp_path / "repository"), tmp_path / "cache", binary=str(program))
    repository.open(make=True)
    assert "input/output error" in refused("other", lambda: rig.backup(repository))


@needs_restic
def test_no_secret_is_on_a_command_line(rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the password nor the place, which may hold one."""
    commands: list[list[str]] = []
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command, **more: (commands.append(command), popen(command, **more))[1])
    repository = restic(str(tmp_path / "repository"), tmp_path / "cache", rate=50 << 20)
    repository.open(make=True)
    rig.backup(repository)
    rig.restore(repository, Store(str(rig.folder / "b/models")), ADAPTED)
    words = " ".join(word for command in commands for word in command)
    assert len(commands) > 5 and "not a secret" not in words and str(tmp_path / "repository") not in words
    assert "--limit-upload=51200" in words and "--limit-download=51200" in words


@needs_restic
def test_with_nothing_but_restic(rig: Rig, tmp_path: Path) -> None:
    """As docs/operations/backup.md says it: what is in a backup lies there by its digests, and the index beside it."""
    repository = restic(str(tmp_path / "repository"), tmp_path / "cache")
    repository.open(make=True)
    saved = rig.backup(repository)
    environment = {**os.environ, "RESTIC_PASSWORD": "not a secret", "RESTIC_REPOSITORY": str(tmp_path / "repository")}
    command = [restic_program(), "restore", saved.saved.id, "--target", str(tmp_path / "out")]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    blobs = {f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}" for path in (tmp_path / "out/blobs").iterdir()}
    assert blobs == {layer.digest for layer in saved.index.saved}
    assert Index.load((tmp_path / "out/index.json").read_bytes()).dump() == saved.index.dump()


def test_without_restic(tmp_path: Path) -> None:
    """It says what to install."""
    assert "install the package restic" in refused("other", lambda: restic(str(tmp_path), tmp_path, binary="/nowhere/restic").open(make=True))


def test_where_a_repository_is() -> None:
    """Host and port of each form."""
    for text, place in {
        "/srv/backup": None, "local:/srv/backup": None, "b2:bucket:path": None, "s3:s3.amazonaws.com/bucket": ("s3.amazonaws.com", 443),
        "s3:http://10.0.0.9:9000/bucket/path": ("10.0.0.9", 9000), "rest:https://me:secret@backup.example/": ("backup.example", 443),
        "sftp:backup@nas:/srv": ("nas", 22), "sftp://backup@nas:2222//srv": ("nas", 2222), "sftp:nas:/srv": ("nas", 22),
    }.items():
        assert endpoint(text) == place, text
    for text in ("s3:", "rest:http://:8000/", "s3:http://a:b/c"):
        with pytest.raises(BackupError):
            endpoint(text)


def test_sftp_with_a_key_of_its_own() -> None:
    """ssh asks nothing and nobody, and trusts only what it was told."""
    for text, tail in {"sftp:backup@nas:/srv": "backup@nas -s sftp", "sftp://backup@nas:2222//srv": "-p 2222 backup@nas -s sftp"}.items():
        command = sftp_command(text, "/etc/k", "/etc/h")
        assert command.endswith(tail) and " -i /etc/k " in command and "UserKnownHostsFile=/etc/h" in command and "StrictHostKeyChecking=yes" in command
    assert sftp_command("/srv/backup", "k", "h") == ""


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("Fatal: wrong password or no key found", "password"),
        ("Save(<data/1>) returned error: write: no space left on device\nFatal: unable to save snapshot", "disk"),
        ("Fatal: unable to open config file: Stat: dial tcp 10.0.0.9:9000: connect: connection refused\nIs there a repository", "unreachable"),
        ("ssh: Could not resolve hostname nas: Name or service not known\nFatal: unable to start the sftp session, error: EOF", "unreachable"),
        ("backup@nas: Permission denied (publickey).\nFatal: unable to start the sftp session, error: EOF", "keys"),
        ("Fatal: unable to open config file: Stat: The Access Key Id you provided does not exist in our records.\nIs there a repository", "keys"),
        ("Fatal: unable to open config file: open /srv/config: permission denied\nIs there a repository at the following location?", "permission"),
        ("Fatal: unable to open config file: stat /srv/config: no such file or directory\nIs there a repository at the following location?", "missing"),
        ("Fatal: repository does not exist: unable to open config file: stat /srv/config: no such file or directory", "missing"),
        ("Load(<data/1>, 0, 0) returned error: ciphertext verification failed", "damaged"),
        ("Fatal: create bucket failed: The difference between the request time and the current time is too large.", "clock"),
        ("something new", "other"),
        ("", "other"),
    ],
)
def test_what_restic_says(said: str, kind: str) -> None:
    """Each message has its kind, and restic's own words at the end."""
    problem = explain(said, "/srv/backup")
    assert problem.kind == kind and "/srv/backup" in str(problem)
