# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Releases of Ollama on disk: downloaded, verified and unpacked beside one another, then switched by one link."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import time
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError

from ansible.module_utils.urls import open_url

RECORD = ".release.json"
# an unpacked release is about three times its archive (0.32: 1.4 GB and 3.9 GB)
UNPACKED_FACTOR = 3.5
CHUNK = 1 << 20
TRIES = 3


class BrokenOff(Exception):
    """A download ended before its end."""


class ReleaseError(Exception):
    """The release cannot be had; the text is for the user."""


class Release:
    """One version under C(root), made of archives.

    Args: C(root) directory that holds a directory per version; C(version); C(archives), a list of dicts C(url) and
    C(sha256) (64 hex digits); C(timeout) in seconds, the longest silence within a download.
    """

    def __init__(self, root: str, version: str, archives: list[dict[str, str]], timeout: int) -> None:
        self.root = root
        self.version = version
        self.archives = archives
        self.timeout = timeout
        self.path = os.path.join(root, version)
        self.staging = os.path.join(root, f".staging-{version}")

    def is_installed(self) -> bool:
        """True when exactly these archives were unpacked whole."""
        try:
            with open(os.path.join(self.path, RECORD), encoding="utf-8") as file:
                return json.load(file)["archives"] == [archive["sha256"] for archive in self.archives]
        except (OSError, ValueError, KeyError):
            return False

    def download_size(self) -> int:
        """Bytes of the archives, as the server announces them."""
        return sum(self._announced(archive["url"]) for archive in self.archives)

    def _announced(self, url: str) -> int:
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
            raise ReleaseError(f"{url} cannot be reached: {error}. Set ollama_release_url to a mirror that this host reaches") from None

    def check_space(self, size: int) -> None:
        """Stop before the first byte when archives and unpacked files do not fit."""
        existing = self.root
        while not os.path.isdir(existing):
            existing = os.path.dirname(existing)
        need = int(size * (1 + UNPACKED_FACTOR))
        free = shutil.disk_usage(existing).free
        if free < need:
            raise ReleaseError(
                f"the disk of {self.root} is too full for Ollama {self.version}: {need / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free"
            )

    def install(self) -> None:
        """Download, verify and unpack; nothing that runs is touched. What a killed run left behind is removed first."""
        shutil.rmtree(self.staging, ignore_errors=True)
        # the service's user reads the release, whatever root's umask is
        os.umask(0o022)
        try:
            os.makedirs(self.staging, mode=0o755, exist_ok=True)
            os.chmod(self.root, 0o755)
            tree = os.path.join(self.staging, "tree")
            os.mkdir(tree, 0o755)
            for number, archive in enumerate(self.archives):
                file = os.path.join(self.staging, f"{number}.tar.zst")
                self._download(archive, file)
                self._unpack(file, tree, archive["url"])
                os.unlink(file)
            self._check_binary(tree)
            with open(os.path.join(tree, RECORD), "w", encoding="utf-8") as record:
                json.dump({"version": self.version, "archives": [archive["sha256"] for archive in self.archives]}, record)
            if os.path.lexists(self.path):
                os.rename(self.path, os.path.join(self.staging, "old"))
            os.rename(tree, self.path)
        except OSError as error:
            raise ReleaseError(f"Ollama {self.version} cannot be written to {self.root}: {error}") from None
        finally:
            shutil.rmtree(self.staging, ignore_errors=True)

    def _download(self, archive: dict[str, str], path: str) -> None:
        """Download and verify. A download that breaks off or stalls is tried again; wrong bytes are not."""
        url = archive["url"]
        for attempt in range(1, TRIES + 1):
            try:
                digest = self._fetch(url, path)
                break
            except BrokenOff as error:
                if attempt == TRIES:
                    raise ReleaseError(f"the download of {url} broke off {TRIES} times, at last with: {error}. Nothing was installed") from None
                time.sleep(attempt)
        if digest != archive["sha256"]:
            raise ReleaseError(
                f"{url} is not the archive that was pinned: its SHA-256 is {digest} and should be {archive['sha256']}. Nothing was installed"
            )

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
    def _unpack(file: str, tree: str, url: str) -> None:
        # --no-same-owner: everything belongs to root, whatever the archive says
        command = ["tar", "--extract", "--use-compress-program=zstd", "--no-same-owner", "--directory", tree, "--file", file]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ReleaseError(f"{url} cannot be unpacked: {done.stderr.strip()[-300:]}")

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
