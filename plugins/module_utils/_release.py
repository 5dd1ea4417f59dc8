# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Releases of Ollama on disk: downloaded, verified, unpacked beside one another, and compared with what was unpacked."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import subprocess
import time
from http.client import HTTPException
from typing import Any, NamedTuple
from urllib.error import HTTPError, URLError

from ansible.module_utils.urls import open_url

RECORD = ".release.json"
# an EnvironmentFile of the service: a process tells from which copy of a release it was started
ENVIRONMENT = "release.env"
VARIABLE = "GPUFLEET_RELEASE_ID"
# an unpacked release is about three times its archive (0.32: 1.4 GB and 3.9 GB)
UNPACKED_FACTOR = 3.5
CHUNK = 1 << 20
TRIES = 3
TIMES = ("mtime_ns", "ctime_ns")
# a tree that went wrong as a whole would fill the screen
SHOWN = 20

PLACES = ["url", "src", "path"]
# the action plugin checks the same before it asks the host
ARGUMENT_SPEC: dict[str, Any] = {
    "version": {"type": "str", "required": True},
    "archives": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "url": {"type": "str"},
            "src": {"type": "path"},
            # no type path: the action plugin would expand the controller's home
            "path": {"type": "str"},
            "sha256": {"type": "str", "required": True},
            "tar_sha256": {"type": "str"},
            "size": {"type": "int"},
        },
        "required_one_of": [PLACES],
        "mutually_exclusive": [PLACES],
    },
    "root": {"type": "path", "default": "/opt/ollama"},
    "unpack_on": {"type": "str", "choices": ["target", "controller"], "default": "target"},
    "verify": {"type": "str", "choices": ["quick", "full"], "default": "quick"},
    "download": {"type": "bool", "default": True},
    "timeout": {"type": "int", "default": 60},
}


class BrokenOff(Exception):
    """A download ended before its end."""


class ReleaseError(Exception):
    """The release cannot be had; the text is for the user."""


class Finding(NamedTuple):
    """What is on the disk: C(text) says it in a line, the bare version when all is well and nothing when there is nothing.

    C(missing): it has to be installed. C(damaged): relative paths that are not as they were unpacked. C(record): what the record has to
    say instead of what it says; None when it may stay.
    """

    text: str
    missing: bool
    damaged: list[str]
    record: dict[str, Any] | None


class Release:
    """One version under C(root), made of archives.

    Args: C(root) directory that holds a directory per version; C(version); C(archives), a list of dicts as in ARGUMENT_SPEC, where what
    was not given is absent or None; C(timeout) in seconds, the longest silence within a download; C(unpack_on) target or controller;
    C(here) the machine that downloads, for messages.
    """

    def __init__(
        self, root: str, version: str, archives: list[dict[str, Any]], timeout: int, unpack_on: str = "target", here: str = "this host"
    ) -> None:
        self.root = root
        self.version = version
        self.archives = archives
        self.timeout = timeout
        self.unpack_on = unpack_on
        self.here = here
        self.path = os.path.join(root, version)
        self.staging = os.path.join(root, f".staging-{version}")

    # what is there

    def inspect(self, full: bool) -> Finding:
        """Compare the disk with the record, and read files only where their times differ or C(full) wants it. Changes nothing."""
        try:
            with open(os.path.join(self.path, RECORD), encoding="utf-8") as file:
                record = json.load(file)
            archives = record["archives"]
        except (OSError, ValueError, KeyError, TypeError):
            return Finding(f"{self.version} without a record" if os.path.lexists(self.path) else "", True, [], None)
        if archives != [archive["sha256"] for archive in self.archives]:
            return Finding(f"{self.version} of other archives", True, [], None)
        if not record.get("files") or not record.get("release_id"):
            return Finding(f"{self.version} without a list of its files", False, [], record)
        try:
            damaged, files = compare(self.path, record["files"], full)
        except OSError as error:
            raise ReleaseError(f"Ollama {self.version} in {self.root} cannot be read: {error}") from None
        found = record if files == record["files"] else {**record, "files": files}
        if damaged:
            return Finding(self._damage(damaged), True, damaged[:SHOWN], None)
        if not self._environment_fits(record["release_id"]):
            return Finding(self._damage([ENVIRONMENT]), False, [ENVIRONMENT], found)
        return Finding(self.version, False, [], None if found is record else found)

    def _damage(self, names: list[str]) -> str:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        return f"{self.version} damaged: {', '.join(names[:SHOWN])}{more}"

    def _environment_fits(self, identity: str) -> bool:
        path = os.path.join(self.path, ENVIRONMENT)
        try:
            status = os.lstat(path)
            fits = stat.S_ISREG(status.st_mode) and stat.S_IMODE(status.st_mode) == 0o644 and is_ours(status)
            return fits and release_id(self.root, self.version) == identity
        except OSError:
            return False

    def others(self) -> list[str]:
        """The other versions under the root."""
        names = sorted(os.listdir(self.root)) if os.path.isdir(self.root) else []
        found = [name for name in names if os.path.isfile(os.path.join(self.root, name, RECORD))]
        return [name for name in found if name != self.version and not os.path.islink(os.path.join(self.root, name))]

    def mend(self, record: dict[str, Any]) -> None:
        """Write the record and the environment file anew; nothing is unpacked. A record without files gets those that are there."""
        try:
            # it tells when the release was installed
            age = os.stat(os.path.join(self.path, RECORD)).st_mtime_ns
            record = {**record, "files": record.get("files") or survey(self.path), "release_id": record.get("release_id") or self._new_id()}
            shutil.rmtree(self.staging, ignore_errors=True)
            os.umask(0o022)
            os.mkdir(self.staging, 0o755)
            self._write(self.staging, record)
            os.utime(os.path.join(self.staging, RECORD), ns=(age, age))
            for name in (ENVIRONMENT, RECORD):
                os.replace(os.path.join(self.staging, name), os.path.join(self.path, name))
        except OSError as error:
            raise ReleaseError(f"the record of Ollama {self.version} in {self.root} cannot be written: {error}") from None
        finally:
            shutil.rmtree(self.staging, ignore_errors=True)

    def _new_id(self) -> str:
        """The random part makes a repaired release another one: what still runs from the damaged files is found by it."""
        sums = " ".join(archive["sha256"] for archive in self.archives)
        return f"{hashlib.sha256(sums.encode()).hexdigest()[:12]}-{secrets.token_hex(4)}"

    @staticmethod
    def _write(folder: str, record: dict[str, Any]) -> None:
        for name, text in ((ENVIRONMENT, f'{VARIABLE}="{record["release_id"]}"\n'), (RECORD, json.dumps(record))):
            path = os.path.join(folder, name)
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(path, 0o644)

    # what an installation needs

    def size(self, ask: bool = True) -> int:
        """Bytes of the archives, as they were given or, with C(ask), as the server announces them; unknown ones count nothing."""
        total = 0
        for archive in self.archives:
            known = archive.get("size")
            if known is None and archive.get("path"):
                known = os.path.getsize(archive["path"]) if os.path.isfile(archive["path"]) else 0
            elif known is None and archive.get("url") and ask:
                known = self.announced(archive["url"])
            total += known or 0
        return total

    def announced(self, url: str) -> int:
        """Bytes of a file, as its server announces them."""
        with self._open(url, "HEAD") as response:
            return int(response.headers.get("Content-Length") or 0)

    def _open(self, url: str, method: str) -> Any:
        try:
            return open_url(url, method=method, timeout=self.timeout, decompress=False)
        except HTTPError as error:
            raise ReleaseError(
                f"{url} answered {error.code}: is there an Ollama {self.version}? Check ollama_version and ollama_release_url"
            ) from None
        except (URLError, OSError, HTTPException, ValueError) as error:
            raise ReleaseError(f"{url} cannot be reached: {error}. Set ollama_release_url to a mirror that {self.here} reaches") from None

    def check_space(self, size: int) -> None:
        """Stop before the first byte when archives and unpacked files do not fit."""
        existing = self.root
        while not os.path.isdir(existing):
            existing = os.path.dirname(existing)
        # an archive that is to be brought counts as well, wherever it will lie; one that is here has taken its room already
        brought = 0.0 if all(archive.get("path") for archive in self.archives) else UNPACKED_FACTOR if self.unpack_on == "controller" else 1.0
        need = int(size * (brought + UNPACKED_FACTOR))
        free = shutil.disk_usage(existing).free
        if free < need:
            raise ReleaseError(
                f"the disk of {self.root} is too full for Ollama {self.version}: {need / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free"
            )

    def check_programs(self) -> None:
        """Stop before the first byte when the host cannot unpack."""
        if not shutil.which("tar"):
            raise ReleaseError("this host has no tar: install it, for example with the package tar")
        if self.unpack_on == "target" and not shutil.which("zstd"):
            raise ReleaseError("this host has no zstd: install zstd, or set unpack_on: controller (ollama_unpack_on)")

    # the installation

    def install(self) -> None:
        """Download, verify and unpack; nothing that runs is touched. What a killed run left behind is removed first."""
        old = os.path.join(self.staging, "old")
        if os.path.isdir(old) and not os.path.lexists(self.path):
            # killed between the two renames: what served is here, and its processes still start from its place
            os.rename(old, self.path)
        shutil.rmtree(self.staging, ignore_errors=True)
        # the service's user reads the release, whatever root's umask is
        os.umask(0o022)
        try:
            os.makedirs(self.staging, mode=0o755, exist_ok=True)
            os.chmod(self.root, 0o755)
            tree = os.path.join(self.staging, "tree")
            os.mkdir(tree, 0o755)
            for number, archive in enumerate(self.archives):
                self._add(archive, tree, os.path.join(self.staging, f"{number}.tar.zst"))
            self._check_binary(tree)
            archives = [archive["sha256"] for archive in self.archives]
            self._write(tree, {"version": self.version, "archives": archives, "release_id": self._new_id(), "files": survey(tree)})
            self._swap(tree)
        except OSError as error:
            raise ReleaseError(f"Ollama {self.version} cannot be written to {self.root}: {error}") from None
        finally:
            shutil.rmtree(self.staging, ignore_errors=True)

    def _swap(self, tree: str) -> None:
        """Put the tree into its place. What was there goes, or comes back."""
        old = os.path.join(self.staging, "old")
        there = os.path.lexists(self.path)
        if there:
            os.rename(self.path, old)
        try:
            os.rename(tree, self.path)
        except OSError:
            if there:
                os.rename(old, self.path)
            raise

    def _add(self, archive: dict[str, Any], tree: str, temporary: str) -> None:
        """Unpack one archive into the tree."""
        if archive.get("path"):
            self._verify(archive["path"], archive.get("tar_sha256") or archive["sha256"])
            self._unpack(archive["path"], tree, archive["path"], compressed=not archive.get("tar_sha256"))
        elif archive.get("url"):
            self.download(archive["url"], archive["sha256"], temporary)
            self._unpack(temporary, tree, archive["url"])
            os.unlink(temporary)
        else:
            raise ReleaseError(f"{archive['src']} is on the controller: only a task that names gpufleet.ollama.ollama_release copies it from there")

    def _verify(self, path: str, wanted: str) -> None:
        try:
            digest = sha256(path)
        except OSError as error:
            raise ReleaseError(f"the archive {path} cannot be read on this host: {error}. Nothing was installed") from None
        if digest != wanted:
            raise ReleaseError(f"{path} is not the archive that was pinned: its SHA-256 is {digest} and should be {wanted}. Nothing was installed")

    def download(self, url: str, wanted: str, path: str) -> None:
        """Download and verify. A download that breaks off or stalls is tried again; wrong bytes are not."""
        for attempt in range(1, TRIES + 1):
            try:
                digest = self._fetch(url, path)
                break
            except BrokenOff as error:
                if attempt == TRIES:
                    raise ReleaseError(f"the download of {url} broke off {TRIES} times, at last with: {error}. Nothing was installed") from None
                time.sleep(attempt)
        if digest != wanted:
            raise ReleaseError(f"{url} is not the archive that was pinned: its SHA-256 is {digest} and should be {wanted}. Nothing was installed")

    def _fetch(self, url: str, path: str) -> str:
        """One try. Returns the SHA-256."""
        digest = hashlib.sha256()
        with self._open(url, "GET") as response, open(path, "wb") as file:
            size, done = int(response.headers.get("Content-Length") or 0), 0
            while True:
                try:
                    chunk = response.read(CHUNK)
                except (OSError, HTTPException) as error:
                    raise BrokenOff(str(error) or repr(error)) from None
                if not chunk:
                    break
                digest.update(chunk)
                file.write(chunk)
                done += len(chunk)
        if size and done < size:
            raise BrokenOff(f"{done} of {size} bytes came")
        return digest.hexdigest()

    @staticmethod
    def _unpack(file: str, tree: str, name: str, compressed: bool = True) -> None:
        # --no-same-owner: everything belongs to root, whatever the archive says
        command = ["tar", "--extract", "--no-same-owner", "--directory", tree, "--file", file]
        if compressed:
            command.append("--use-compress-program=zstd")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ReleaseError(f"{name} cannot be unpacked: {done.stderr.strip()[-300:]}")

    def _check_binary(self, tree: str) -> None:
        """The binary runs on this machine and is of the version that it is said to be."""
        binary = os.path.join(tree, "bin", "ollama")
        try:
            # the address keeps it from asking a running server; HOME from writing into root's
            done = subprocess.run(
                [binary, "--version"], capture_output=True, text=True, check=False, timeout=60,
                env={"PATH": "/usr/bin:/bin", "HOME": self.staging, "OLLAMA_HOST": "127.0.0.1:1"},
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ReleaseError(f"bin/ollama of the archive does not run on this host: {error}") from None
        words = (done.stdout + done.stderr).split()
        if done.returncode or self.version not in words:
            raise ReleaseError(f"bin/ollama of the archive does not say that it is {self.version}, but {' '.join(words)[-200:]!r}")


# trees of files

def survey(top: str) -> dict[str, dict[str, Any]]:
    """Every file of a tree by its path from the top: what kind it is, and what can be compared later.

    Files: mode, size, sha256, mtime_ns, ctime_ns. Directories: mode. Links: target. The files are on the disk, and not only in memory, when
    this returns: a power cut then leaves no half release that its record calls whole.
    """
    found = {}
    for name, status in scan(top).items():
        path = os.path.join(top, name)
        found[name] = describe(path, status)
        if stat.S_ISREG(status.st_mode):
            found[name]["sha256"] = sha256(path, sync=True)
    return found


def compare(top: str, table: dict[str, dict[str, Any]], full: bool) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Compare a tree with what C(survey) said of it: (paths that differ, are missing or too many; the table with the times of today).

    A file whose times alone differ is read before it counts: a restored backup has the right content. Files keep their times when a
    directory above them is renamed, so those of the staging directory hold for the final place.
    """
    found = scan(top)
    damaged = set(table) ^ set(found)
    today = dict(table)
    for name in set(table) & set(found):
        path, wanted = os.path.join(top, name), table[name]
        have = describe(path, found[name])
        if not is_ours(found[name]) or any(wanted.get(key) != have[key] for key in have if key not in TIMES):
            damaged.add(name)
        elif have["kind"] == "file" and (full or any(wanted.get(key) != have[key] for key in TIMES)):
            try:
                fits = sha256(path) == wanted.get("sha256")
            except OSError:
                # a disk that cannot read it any more
                fits = False
            if fits:
                today[name] = {**wanted, **have}
            else:
                damaged.add(name)
    # names that are no UTF-8 cannot be reported as they are
    return sorted(name.encode(errors="backslashreplace").decode() for name in damaged), today


def scan(top: str) -> dict[str, os.stat_result]:
    """Status of everything in a tree and of its top (C(.)), links not followed; without the record and the environment file."""
    def fail(error: OSError) -> None:
        raise error

    names = ["."]
    for folder, folders, files in os.walk(top, onerror=fail):
        names += [os.path.relpath(os.path.join(folder, name), top) for name in folders + files]
    return {name: os.lstat(os.path.join(top, name)) for name in names if name not in (RECORD, ENVIRONMENT)}


def describe(path: str, status: os.stat_result) -> dict[str, Any]:
    """What can be known of a file without reading it."""
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISREG(status.st_mode):
        return {"kind": "file", "mode": mode, "size": status.st_size, "mtime_ns": status.st_mtime_ns, "ctime_ns": status.st_ctime_ns}
    if stat.S_ISLNK(status.st_mode):
        return {"kind": "link", "target": os.readlink(path)}
    return {"kind": "dir" if stat.S_ISDIR(status.st_mode) else "other", "mode": mode}


def is_ours(status: os.stat_result) -> bool:
    """Whoever else owns a file of root's release could change it."""
    return os.geteuid() != 0 or status.st_uid == 0


def sha256(path: str, sync: bool = False) -> str:
    """SHA-256 of a file, 64 hex digits. OSError when it cannot be read."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while True:
            chunk = file.read(CHUNK)
            if not chunk:
                break
            digest.update(chunk)
        if sync:
            os.fsync(file.fileno())
    return digest.hexdigest()


# what others ask

def release_id(root: str, version: str) -> str:
    """Id of an installed release, as its processes name it in their environment; empty when there is none."""
    try:
        with open(os.path.join(root, version, ENVIRONMENT), encoding="utf-8") as file:
            found = re.fullmatch(rf'{VARIABLE}="([0-9a-f-]+)"\n', file.read())
    except (OSError, ValueError):
        return ""
    return found[1] if found else ""


def read_link(link: str) -> str:
    """Name of the directory that a link points to, or nothing."""
    return os.path.basename(os.readlink(link)) if os.path.islink(link) else ""


def switch_link(link: str, target: str) -> None:
    """Point a link at a target in one step: it is never missing."""
    temporary = f"{link}.new"
    if os.path.lexists(temporary):
        os.unlink(temporary)
    os.symlink(target, temporary)
    os.replace(temporary, link)
