# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Trying a backup out: all of it is read, a model is restored into a scratch directory, and an Ollama that serves nobody else answers with it.

Standard library only: the program of a timer does it.
"""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from typing import Any, Callable, Iterable, Iterator, Mapping

from ansible_collections.gpufleet.ollama.plugins.module_utils._backup import Index, Restore, backups_of, newest_by_store
from ansible_collections.gpufleet.ollama.plugins.module_utils._http import FetchError, Http
from ansible_collections.gpufleet.ollama.plugins.module_utils._manifests import Layer
from ansible_collections.gpufleet.ollama.plugins.module_utils._names import Name, parse
from ansible_collections.gpufleet.ollama.plugins.module_utils._repository import BackupError, Repository, Snapshot
from ansible_collections.gpufleet.ollama.plugins.module_utils._sideload import Options, Progress
from ansible_collections.gpufleet.ollama.plugins.module_utils._store import BUFFER, Store

UNIT = "gpufleet-drill-ollama.service"
MODELS_DIR = "models"
_START_SECONDS = 60
_ANSWER_SECONDS = 900
# it goes by itself if whoever started it is killed
_LIFE_SECONDS = 3600
# a host saves its stores one after the other, and each of them daily: one that stays behind the newest for longer it has no more
_BEHIND_SECONDS = 2 * 86400
# what the instance may not: it reads a few files, and listens on loopback
_SANDBOX = (
    "ProtectSystem=strict", "ProtectHome=yes", "PrivateTmp=yes", "PrivateDevices=yes", "NoNewPrivileges=yes", "CapabilityBoundingSet=", "ProtectProc=invisible",
    "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK", "IPAddressDeny=any", "IPAddressAllow=localhost", "RestrictNamespaces=yes",
    "RestrictSUIDSGID=yes", "RestrictRealtime=yes", "LockPersonality=yes", "ProtectKernelTunables=yes", "ProtectKernelModules=yes", "ProtectControlGroups=yes",
    "ProtectClock=yes", "ProtectHostname=yes", "UMask=0077", f"RuntimeMaxSec={_LIFE_SECONDS}", "Nice=10", "KillMode=control-group",
)


class Drill:
    """One drill of one host's backup.

    Args: an open repository; the host; the C(scratch) directory, which is this drill's own and goes with it; the user that Ollama runs as; the path
    of its C(program); C(options) of the puller. C(say) is called with a line about each step.
    """

    def __init__(
        self, repository: Repository, host: str, scratch: str, user: str, program: str, options: Options, make_http: Callable[[], Http],
        say: Callable[[str], Any] = lambda _line: None,
    ) -> None:
        self.repository = repository
        self.host = host
        self.scratch = scratch
        self.user = user
        self.program = program
        self.options = options
        self.make_http = make_http
        self.say = say

    def run(self, wanted: Iterable[str] = (), part: str = "") -> list[dict[str, Any]]:
        """Do it, for the newest backup of each store of the host. Returns what was proved of each. Raises BackupError; nothing is left either way.

        C(wanted): the models to restore and to ask; without any the smallest one of each store that needs the backup. C(part): of the repository's
        data such as 3/12, that is read beside the backups themselves.
        """
        indexes = {snapshot: Index.load(self.repository.index(snapshot)) for snapshot in self._current()}
        names = asked(indexes, wanted)
        result = [self._one(snapshot, index, names[snapshot]) for snapshot, index in indexes.items()]
        if part:
            self.repository.check(part)
            self.say(f"{self.host}: part {part} of the repository was read, and is whole")
        return result

    def _current(self) -> list[Snapshot]:
        """The newest backup of each store that the host still saves. Retention keeps the last one of the others: they are no proof, and no failure."""
        newest = list(newest_by_store(backups_of(self.repository, self.host)).values())
        result = [snapshot for snapshot in newest if newest[0].time - snapshot.time <= _BEHIND_SECONDS]
        for snapshot in newest[len(result):]:
            self.say(f"{self.host}: {snapshot.store} was not saved since {_day(snapshot)}, and is left out")
        return result

    def _one(self, snapshot: Snapshot, index: Index, names: list[str]) -> dict[str, Any]:
        """One backup: all of it is read, and some models answer."""
        with ExitStack() as stack:
            stack.callback(clean, self.scratch)
            clean(self.scratch)
            self.say(f"{self.host}: backup {snapshot.id} of {snapshot.store} from {_day(snapshot)}, {len(index.models)} models")
            count = self._read_all(snapshot, index)
            self.say(f"{self.host}: {len(index.saved)} layers of the backup, {count} bytes, have the digests that they must have")
            answers = self._answers(snapshot, names, stack)
            return {"snapshot": snapshot.id, "time": snapshot.time, "bytes": count, "models": answers}

    def _read_all(self, snapshot: Snapshot, index: Index) -> int:
        """Every layer of the backup, hashed and thrown away."""
        for layer in index.saved:
            found = digest_of(self.repository, snapshot, layer)
            if found != layer.digest:
                raise BackupError(f"{layer.digest} has other bytes in {self.repository.text}: their SHA-256 is {found}", "damaged")
        return index.bytes_in("backup")

    def _answers(self, snapshot: Snapshot, wanted: list[str], stack: ExitStack) -> list[str]:
        """Restore some models, and let each answer. Returns their names."""
        if not wanted:
            self.say(f"{self.host}: it has no model that is to answer")
            return []
        account = pwd.getpwnam(self.user)
        # who passes through may not look in
        os.makedirs(self.scratch, 0o711)
        store = Store(os.path.join(self.scratch, MODELS_DIR))
        for path in (store.path, store.blobs, store.manifests):
            os.mkdir(path, 0o700)
            os.chown(path, account.pw_uid, account.pw_gid)
        restore = Restore(store, self.repository, snapshot, self.options, self.make_http)
        names = restore.names(wanted)
        restore.run(restore.plan(names, False), Progress(None, len(names)))
        restore.check(names)
        self.say(f"{self.host}: restored {', '.join(name.display for name in names)}, to the byte")
        port = stack.enter_context(instance(self.program, store.path, account))
        for name in names:
            self.say(f"{self.host}: {name.display} answers: {ask(port, name.display)}")
        return [name.display for name in names]


def _day(snapshot: Snapshot) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(snapshot.time))


def asked(indexes: Mapping[Snapshot, Index], wanted: Iterable[str]) -> dict[Snapshot, list[str]]:
    """Which models of each backup are to answer: those that are wanted, as far as it has them; or the smallest. BackupError for one that none has."""
    keys = {parse(text).key: text for text in wanted}
    if not keys:
        return {snapshot: smallest(index) for snapshot, index in indexes.items()}
    result = {snapshot: [keys[name.key] for name in index.models if name.key in keys] for snapshot, index in indexes.items()}
    lost = sorted(set(keys.values()) - {text for found in result.values() for text in found})
    if lost:
        has = sorted({name.display for index in indexes.values() for name in index.models})
        raise BackupError(f"the backup has no model {', '.join(lost)}: it has {', '.join(has) or 'none'}", "missing")
    return result


def smallest(index: Index) -> list[str]:
    """The smallest model that needs the backup; of all if none does."""
    names = index.own() or list(index.models)
    found = min(names, key=lambda name: (index.models[name].size, name), default=None)
    return [full(found)] if found else []


def full(name: Name) -> str:
    """A name that says all of its parts."""
    return f"{name.host}/{name.namespace}/{name.model}:{name.tag}"


def digest_of(repository: Repository, snapshot: Snapshot, layer: Layer) -> str:
    """The digest that a layer really has in the repository. BackupError when it cannot be read."""
    digest = hashlib.sha256()
    try:
        blob = repository.blob(snapshot, layer)
        try:
            reader = blob.reader(_Never())
            # in pieces, so that the reader's own memory is all that it takes
            for start in range(0, layer.size, 64 * BUFFER):
                reader.read(start, min(start + 64 * BUFFER, layer.size), lambda data, _position: digest.update(data))
        finally:
            blob.close()
    except FetchError as error:
        raise BackupError(f"{layer.digest} cannot be read: {error}", "damaged" if error.kind in ("digest", "size", "not-found") else error.kind) from None
    return f"sha256:{digest.hexdigest()}"


class _Never:
    """Nobody stops it."""

    @staticmethod
    def is_set() -> bool:
        """No."""
        return False


# -- the instance -----------------------------------------------------------------

@contextmanager
def instance(program: str, store: str, account: pwd.struct_passwd) -> Iterator[int]:
    """An Ollama on a free port of loopback, in a sandbox, without GPUs, with a store of its own. Gives the port."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = int(found.getsockname()[1])
    environment = {
        "OLLAMA_HOST": f"127.0.0.1:{port}", "OLLAMA_MODELS": store, "OLLAMA_NOPRUNE": "1", "OLLAMA_NO_CLOUD": "1", "HOME": os.path.dirname(store),
        "CUDA_VISIBLE_DEVICES": "-1", "HIP_VISIBLE_DEVICES": "-1", "GGML_VK_VISIBLE_DEVICES": "-1",
    }
    command = [
        "systemd-run", "--quiet", "--collect", f"--unit={UNIT}", f"--uid={account.pw_uid}", f"--gid={account.pw_gid}",
        *(f"--property={line}" for line in (*_SANDBOX, f"ReadWritePaths={os.path.dirname(store)}")),
        *(f"--setenv={name}={value}" for name, value in environment.items()), "--", program, "serve",
    ]
    # its key is made in its home
    os.chown(os.path.dirname(store), account.pw_uid, account.pw_gid)
    stop()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BackupError(f"the instance of the drill does not start: {done.stderr.strip()[-300:]}")
    try:
        _wait(port)
        yield port
    finally:
        stop()


def stop() -> None:
    """End the instance, if there is one."""
    with suppress(FileNotFoundError):
        subprocess.run(["systemctl", "stop", UNIT], capture_output=True, check=False)


def _wait(port: int) -> None:
    until = time.monotonic() + _START_SECONDS
    while True:
        try:
            request(port, "GET", "/api/version", timeout=5)
            return
        except BackupError as error:
            if time.monotonic() >= until:
                raise BackupError(f"the instance of the drill does not answer within {_START_SECONDS} s: {error}") from None
        time.sleep(0.2)


def request(port: int, method: str, path: str, body: Mapping[str, Any] | None = None, timeout: float = _ANSWER_SECONDS) -> dict[str, Any]:
    """A JSON answer of the instance. BackupError for anything else."""
    connection = HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = json.loads(response.read())
    except (OSError, HTTPException, ValueError) as error:
        raise BackupError(f"{path} of the instance of the drill gives no answer: {error!r}") from None
    finally:
        connection.close()
    if response.status != 200 or not isinstance(answer, dict):
        raise BackupError(f"{path} of the instance of the drill answers {response.status}: {str(answer)[:200]}")
    return answer


def ask(port: int, name: str) -> str:
    """Let a model answer: with a few words, or with a vector when that is what it makes. Returns the beginning of it."""
    capabilities = request(port, "POST", "/api/show", {"model": name}).get("capabilities") or []
    if "embedding" in capabilities and "completion" not in capabilities:
        vectors = request(port, "POST", "/api/embed", {"model": name, "input": "Are you there?"}).get("embeddings") or []
        if not vectors or not vectors[0]:
            raise BackupError(f"{name} gives an empty vector")
        return f"a vector of {len(vectors[0])} numbers"
    text = request(port, "POST", "/api/generate", {"model": name, "prompt": "Are you there?", "stream": False, "options": {"num_predict": 8}}).get("response")
    if not text:
        raise BackupError(f"{name} gives an empty answer")
    return repr(str(text)[:60])


def clean(scratch: str) -> None:
    """Leave nothing: of this drill, or of one that was killed."""
    stop()
    with suppress(FileNotFoundError):
        shutil.rmtree(scratch)
