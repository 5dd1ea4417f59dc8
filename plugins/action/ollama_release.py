# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The controller's part of module ollama_release: archives that lie on the controller or are decompressed there."""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from ansible import constants
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.gpufleet.ollama.plugins.module_utils._release import ARGUMENT_SPEC, CHUNK, Release, ReleaseError, sha256

Archive = dict[str, Any]
Result = dict[str, Any]


class ActionModule(ActionBase):
    """Ask the host what it needs, bring it there, and run the module on it.

    Where the host does everything by itself this is one run of the module, as if there were no action plugin.
    """

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> Result:
        """Entry point."""
        super().run(tmp, task_vars)
        args = self.validate_argument_spec(argument_spec=ARGUMENT_SPEC)[1]
        # what is absent must stay absent: the module counts what it gets
        archives = [{key: value for key, value in archive.items() if value is not None} for archive in args["archives"]]
        on_controller = args["unpack_on"] == "controller"
        if not args["download"] or not (on_controller or any("src" in archive for archive in archives)):
            return self._execute_module(module_args=self._task.args, task_vars=task_vars)
        release = Release(args["root"], args["version"], archives, args["timeout"], args["unpack_on"], here="the controller")
        copies: list[str] = []
        try:
            return self._install(release, task_vars, copies)
        except ReleaseError as error:
            return {"failed": True, "changed": False, "msg": str(error)}
        finally:
            self._remove(copies)

    def _call(self, task_vars: dict[str, Any] | None, archives: list[Archive], **args: Any) -> Result:
        return self._execute_module(module_args={**self._task.args, "archives": archives, **args}, task_vars=task_vars)

    def _install(self, release: Release, task_vars: dict[str, Any] | None, copies: list[str]) -> Result:
        """Bring the archives to a host that needs them. Where they lie on the host goes to C(copies)."""
        if release.unpack_on == "controller" and any("path" in archive for archive in release.archives):
            raise ReleaseError("an archive given by its path on the host cannot be unpacked on the controller: give its src, or unpack_on: target")
        sources = [self._find(archive["src"]) if "src" in archive else "" for archive in release.archives]
        sized = [{**archive, "size": os.path.getsize(path)} if path else archive for archive, path in zip(release.archives, sources)]
        answer = self._call(task_vars, sized, download=False)
        if answer.get("failed") or not answer.pop("missing", False):
            return answer
        for archive, path in zip(release.archives, sources):
            self._check(archive, path, release.version)
        if self._task.check_mode:
            return self._call(task_vars, [self._announce(archive, release) for archive in sized])
        try:
            with tempfile.TemporaryDirectory(prefix="ollama_release.", dir=constants.DEFAULT_LOCAL_TMP) as folder:
                ready = [self._bring(release, number, path, folder, copies) for number, path in enumerate(sources)]
        except OSError as error:
            raise ReleaseError(
                f"the controller cannot prepare Ollama {release.version} in {constants.DEFAULT_LOCAL_TMP}: {error}. "
                "ANSIBLE_LOCAL_TEMP names another directory, throttle lets fewer hosts share it"
            ) from None
        return self._call(task_vars, ready)

    def _find(self, src: str) -> str:
        """The path of a file on the controller; nothing when there is none."""
        try:
            path = str(self._find_needle("files", src))
        except AnsibleError:
            return ""
        return path if os.path.isfile(path) else ""

    @staticmethod
    def _check(archive: Archive, path: str, version: str) -> None:
        """Whether an archive on the controller is the one that was pinned."""
        if "src" not in archive:
            return
        if not path:
            raise ReleaseError(f"{archive['src']} is not on the controller: put the archive of Ollama {version} there, or correct src")
        try:
            digest = sha256(path)
        except OSError as error:
            raise ReleaseError(f"{path} cannot be read on the controller: {error}") from None
        if digest != archive["sha256"]:
            raise ReleaseError(
                f"{path} on the controller is not the archive that was pinned: its SHA-256 is {digest} and should be {archive['sha256']}. "
                "Nothing was copied; fetch the archive again"
            )

    @staticmethod
    def _announce(archive: Archive, release: Release) -> Archive:
        """With its size, where the controller is who would download it."""
        if release.unpack_on == "controller" and "size" not in archive:
            return {**archive, "size": release.announced(archive["url"])}
        return archive

    def _bring(self, release: Release, number: int, path: str, folder: str, copies: list[str]) -> Archive:
        """An archive as the module takes it: copied to the host, decompressed where that is wanted."""
        archive = release.archives[number]
        on_controller = release.unpack_on == "controller"
        if not path and not on_controller:
            return archive
        name, local, tar = os.path.basename(path or archive["url"]), path, os.path.join(folder, f"{number}.tar")
        if not path:
            local = f"{tar}.zst"
            release.download(archive["url"], archive["sha256"], local)
        found = {"sha256": archive["sha256"], "size": os.path.getsize(local)}
        if on_controller:
            found["tar_sha256"] = decompress(local, tar)
            if not path:
                os.unlink(local)
            name, local = f"{name}.tar", tar
        if self._connection._shell.tmpdir is None:
            self._make_tmp_path()
        # a name that no shell takes amiss; the module names it in its errors
        remote = self._connection._shell.join_path(self._connection._shell.tmpdir, f"{number}-{re.sub(r'[^A-Za-z0-9._-]', '_', name)}")
        copies.append(remote)
        self._transfer(local, remote)
        if on_controller:
            os.unlink(tar)
        return {**found, "path": remote}

    def _transfer(self, local: str, remote: str) -> None:
        size = os.path.getsize(local)
        try:
            self._transfer_file(local, remote)
            self._fixup_perms2((self._connection._shell.tmpdir, remote), execute=False)
        except AnsibleConnectionFailure:
            raise
        except (AnsibleError, OSError) as error:
            raise ReleaseError(
                f"the archive cannot be copied to {remote} on the host, where it needs {size / 1e9:.1f} GB (ansible_remote_tmp names another "
                f"directory): {error.__cause__ or error}"
            ) from None

    def _remove(self, copies: list[str]) -> None:
        """Remove the copies on the host, also where modules are kept for debugging: these are gigabytes."""
        for path in copies:
            try:
                done = self._low_level_execute_command(self._connection._shell.remove(path), sudoable=False)
                problem = str(done.get("stderr", "")) if done.get("rc") else ""
            except AnsibleError as error:
                problem = str(error)
            if problem:
                Display().warning(f"{path} was left on the host: {problem}")


def decompress(source: str, target: str) -> str:
    """Decompress a zstd file of any size. Returns the SHA-256 of what came out; ReleaseError when nothing here can do it."""
    digest = hashlib.sha256()
    with _reader(source) as stream, open(target, "wb") as file:
        while True:
            chunk = stream.read(CHUNK)
            if not chunk:
                break
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


@contextmanager
def _reader(source: str) -> Iterator[BinaryIO]:
    """The decompressed bytes of a file."""
    program = shutil.which("zstd")
    if program:
        with subprocess.Popen([program, "--decompress", "--stdout", "--quiet", source], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            yield process.stdout
            problem = process.stderr.read().decode(errors="replace").strip()
        if process.returncode:
            raise ReleaseError(f"{source} cannot be decompressed on the controller: {problem[-300:]}")
        return
    for name in ("compression.zstd", "zstandard"):
        try:
            library = importlib.import_module(name)
        except ImportError:
            continue
        with open(source, "rb") as packed:
            if name == "zstandard":
                stream = library.ZstdDecompressor().stream_reader(packed, read_across_frames=True)
            else:
                stream = library.ZstdFile(packed)
            try:
                with stream:
                    yield stream
            except (library.ZstdError, EOFError) as error:
                raise ReleaseError(f"{source} cannot be decompressed on the controller: {error}") from None
        return
    raise ReleaseError(
        "nothing on the controller decompresses zstd: install zstd there, or the Python package zstandard into the Python that runs Ansible"
    )
