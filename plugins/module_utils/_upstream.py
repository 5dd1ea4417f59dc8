# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""An Ollama that the upstream install script put on a host, and how its place is taken without moving its models over the network.

What the script does is read in its source (scripts/install.sh): unit ollama.service, binary in /usr/local/bin (or /usr/bin), libraries
beside it in lib/ollama, user ollama with the home /usr/share/ollama, which holds the models and the key.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
import shutil
import time
from typing import Any, NamedTuple

from ansible_collections.gpufleet.ollama.plugins.module_utils import _units
from ansible_collections.gpufleet.ollama.plugins.module_utils._client import OllamaClient, OllamaError

UNIT = "ollama.service"
UNIT_DIR = "/etc/systemd/system"
BINARIES = ("/usr/local/bin/ollama", "/usr/bin/ollama")
KEY_FILES = ("id_ed25519", "id_ed25519.pub")
# how long the old service may take to answer when it is started again
BACK_SECONDS = 120


class UpstreamError(Exception):
    """The place of the old Ollama cannot be taken; the text is for the user."""


class Upstream(NamedTuple):
    """What the install script left: unit file (empty when there is none), whether it runs or would at boot, binary, home, store, URL."""

    unit_file: str
    wanted: bool
    active: bool
    binary: str
    home: str
    store: str
    url: str

    @property
    def what(self) -> str:
        """Its name in a sentence."""
        return f"the Ollama of {self.unit_file or self.binary}"

    def models(self) -> list[str]:
        """The models that it lists; nothing when it does not run."""
        if not self.active:
            return []
        try:
            return sorted(item["name"] for item in OllamaClient(self.url, 30).models())
        except OllamaError:
            return []

    def problems(self, store: str) -> list[str]:
        """Why its models cannot become the ones of C(store), each a sentence with the mend."""
        found = []
        if self.unit_file and not self.unit_file.startswith(f"{UNIT_DIR}/"):
            found.append(f"{self.unit_file} belongs to a package: remove that package, its models stay in {self.store}")
        if not self._has_models_for(store):
            return found
        if has_models(store):
            found.append(f"{store} and {self.store} both hold models: remove one of them, or set ollama_models_dir to {self.store}")
        elif os.stat(self.store).st_dev != os.stat(existing(store)).st_dev or os.path.ismount(store) or os.path.ismount(self.store):
            found.append(f"{self.store} is on another disk than {store}: set ollama_models_dir to {self.store}, or move the models yourself")
        return found

    def _has_models_for(self, store: str) -> bool:
        """Whether it has models that are not in C(store) already."""
        return has_models(self.store) and os.path.realpath(self.store) != os.path.realpath(store)

    def known(self, store: str) -> dict[str, Any]:
        """What must be known to give it its place back: its models, whether it ran, whose its store was, and whether that is moved."""
        status = os.stat(existing(self.store))
        moved = self._has_models_for(store)
        return {"models": self.models(), "wanted": self.wanted, "store": self.store, "uid": status.st_uid, "gid": status.st_gid, "moved": moved}

    def check(self, store: str) -> None:
        """UpstreamError when its place cannot be taken."""
        problems = self.problems(store)
        if problems:
            raise UpstreamError("; ".join(problems))

    def stop(self) -> None:
        """Stop it."""
        if self.unit_file:
            _units.systemctl("stop", UNIT)

    def move(self, store: str, home: str) -> None:
        """Make its store and key ours. A link in the old place lets it start again."""
        owner = pwd.getpwnam("ollama")
        if self._has_models_for(store):
            for part in ("blobs", "manifests", ""):
                if os.path.isdir(os.path.join(store, part)):
                    os.rmdir(os.path.join(store, part))
            os.makedirs(os.path.dirname(store), mode=0o755, exist_ok=True)
            os.rename(self.store, store)
            os.symlink(store, self.store)
        chown(store, owner.pw_uid, owner.pw_gid)
        keys = os.path.join(home, ".ollama")
        if not os.path.exists(os.path.join(keys, KEY_FILES[0])):
            os.makedirs(keys, mode=0o755, exist_ok=True)
            for name in KEY_FILES:
                if os.path.isfile(os.path.join(self.home, ".ollama", name)):
                    shutil.copy2(os.path.join(self.home, ".ollama", name), os.path.join(keys, name))
            chown(keys, owner.pw_uid, owner.pw_gid)

    def back(self, store: str, known: dict[str, Any]) -> None:
        """Give it its store back and start it. C(known) is what method known said before."""
        place = known["store"]
        if known["moved"]:
            if os.path.islink(place):
                os.unlink(place)
            # else it was never moved
            if not os.path.lexists(place):
                os.rename(store, place)
        if os.path.isdir(place):
            chown(place, known["uid"], known["gid"])
        if not known["wanted"]:
            return
        _units.systemctl("start", UNIT)
        client, until = OllamaClient(self.url, 30), time.monotonic() + BACK_SECONDS
        while True:
            try:
                client.version()
                return
            except OllamaError as error:
                if time.monotonic() > until:
                    raise UpstreamError(f"{UNIT} does not answer: {error}") from None
            time.sleep(0.5)

    def remove(self, known: dict[str, Any]) -> None:
        """Remove it: its successor works. C(known) is what method known said before; empty when nothing of it was taken over."""
        if self.unit_file:
            _units.systemctl("disable", UNIT)
            os.unlink(self.unit_file)
            shutil.rmtree(f"{UNIT_DIR}/{UNIT}.d", ignore_errors=True)
            _units.systemctl("daemon-reload")
        if os.path.isfile(self.binary) and not os.path.islink(self.binary):
            os.unlink(self.binary)
            shutil.rmtree(os.path.join(os.path.dirname(os.path.dirname(self.binary)), "lib/ollama"), ignore_errors=True)
        # only the link that method move made
        if known.get("moved") and os.path.islink(known["store"]):
            os.unlink(known["store"])


def find() -> Upstream | None:
    """The Ollama of the install script, or None."""
    values = _units.show(UNIT, "FragmentPath", "ActiveState", "MainPID", "User", "Environment", "UnitFileState", "ExecStart")
    unit_file = values.get("FragmentPath", "")
    binary = next((path for path in BINARIES if os.path.isfile(path) and not os.path.islink(path)), "")
    if not unit_file and not binary:
        return None
    active = values.get("ActiveState") in ("active", "activating")
    environment = dict(entry.split("=", 1) for entry in shlex.split(values.get("Environment", "")) if "=" in entry)
    if active:
        environment.update(_units.process_environment(values.get("MainPID", "0")))
    try:
        home = environment.get("HOME") or pwd.getpwnam(values.get("User") or "ollama").pw_dir
    except KeyError:
        home = "/usr/share/ollama"
    return Upstream(
        unit_file=unit_file,
        wanted=active or values.get("UnitFileState") == "enabled",
        active=active,
        binary=binary,
        home=home,
        # the place itself: it may be a link to a disk, which is not to be moved to another one
        store=os.path.realpath(environment.get("OLLAMA_MODELS") or os.path.join(home, ".ollama/models")),
        url=client_url(environment.get("OLLAMA_HOST", "")),
    )


def client_url(host: str) -> str:
    """Where a server with this OLLAMA_HOST is reached from its own host (envconfig/config.go: a URL without a port has that of its scheme)."""
    scheme, _separator, rest = host.strip().strip("\"'").rpartition("://")
    # IPv6 without brackets has no port
    found = re.fullmatch(r"(\[.*\]|[^:]*)(?::([^:]*))?", rest.partition("/")[0])
    address, port = found.groups("") if found else (f"[{rest.partition('/')[0]}]", "")
    if not port.isdigit():
        port = {"http": "80", "https": "443"}.get(scheme, "11434")
    return f"http://{'127.0.0.1' if address in ('', '0.0.0.0', '[::]') else address}:{port}"


def has_models(store: str) -> bool:
    """True when a store holds a blob or a manifest."""
    return any(os.path.isdir(path) and os.listdir(path) for path in (os.path.join(store, part) for part in ("blobs", "manifests")))


def existing(path: str) -> str:
    """A path, or the nearest of its parents that exists."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path


def chown(top: str, uid: int, gid: int) -> None:
    """Give a tree to a user."""
    for folder, folders, files in os.walk(top):
        for path in [folder, *(os.path.join(folder, name) for name in folders + files)]:
            os.lchown(path, uid, gid)
