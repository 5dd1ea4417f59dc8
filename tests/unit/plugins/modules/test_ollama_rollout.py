"""Module ollama_rollout on a made-up host: releases in a directory, units that are real processes with a small server each, and a stand-in for systemctl.

The stand-in answers as systemd 252 does: a unit is read from disk when it is loaded and with daemon-reload only, its environment files at
each start, and a process that ends is started again after RESTART_SECONDS.
"""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Iterator

import pytest
from ansible.module_utils import urls

from ansible_collections.gpufleet.ollama.plugins.module_utils import _rollout, _units, _upstream
from ansible_collections.gpufleet.ollama.plugins.modules import ollama_rollout

Result = dict[str, Any]
Files = dict[str, tuple[int, str]]

# seconds pass that much faster, for the module and for the stand-in
FASTER = 20
RESTART_SECONDS = 5
RESULT_KEYS = ("changed", "previous", "restarted", "removed", "deleted_versions", "diff")
TEMPLATE = "[Service]\nExecStart=/opt/ollama/current/bin/ollama serve\n"
BOTH = ("a:1", "b:1")
CONTEXT = ssl.create_default_context()

# A server that does what its first argument and the variable HOW say, both JSON. Hundreds are started: without the modules json and socket
# that takes half the time.
SERVER = r"""
import _socket, os, sys, time

def json(text):
    return eval(text, {"true": True, "false": False})

how = {**json(sys.argv[1]), **json(os.environ.get("HOW", "{}"))}
print('level=INFO msg="server config" env="map[%s]"' % " ".join("%s:%s" % pair for pair in os.environ.items()), file=sys.stderr)
if "exits" in how:
    time.sleep(how.get("after", 0))
    sys.exit(how["exits"])
if how.get("deaf"):
    time.sleep(3600)
address, colon, port = os.environ["OLLAMA_HOST"].rpartition(":")
listener = _socket.socket()
listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
listener.bind((address, int(port)))
listener.listen(9)
manifests = os.path.join(os.environ["OLLAMA_MODELS"], "manifests")
share = 0.0 if os.environ.get("CUDA_VISIBLE_DEVICES") == "-1" else how.get("vram", 1.0)
loaded = []
while True:
    peer = _socket.socket(fileno=listener._accept()[0])
    request = part = peer.recv(65536)
    while part and b"\r\n\r\n" not in request:
        part = peer.recv(65536)
        request += part
    if not part:
        continue
    head, body = request.split(b"\r\n\r\n", 1)
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    while len(body) < int(fields.get(b"content-length", 0)):
        body += peer.recv(65536)
    path = head.split()[1].decode()
    models = sorted(os.listdir(manifests)) if os.path.isdir(manifests) and not how.get("hides") else []
    if path == "/api/generate":
        loaded = [json(body)["model"]]
    answer = repr({
        "/api/version": {"version": how["version"]},
        "/api/tags": {"models": [{"name": name, "digest": "d", "size": len(name), "capabilities": ["completion"]} for name in models]},
        "/api/generate": {"response": "hi"},
        "/api/ps": {"models": [{"name": name, "digest": "d", "size": 1000, "size_vram": int(1000 * share)} for name in loaded]},
    }[path]).replace("'", '"')
    odd = how.get("odd", {}).get(path, answer)
    length = len(answer) if "cut" in how else len(odd)
    peer.send(("HTTP/1.0 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (length, odd[:how.get("cut")])).encode())
    peer.close()
    if path == "/api/tags" and "dies_after" in how:
        time.sleep(how["dies_after"])
        sys.exit("panic: no more")
"""


class Clock:
    """The clock of the host."""

    @staticmethod
    def monotonic() -> float:
        """Seconds."""
        return time.monotonic() * FASTER

    @staticmethod
    def sleep(seconds: float) -> None:
        """Wait."""
        time.sleep(seconds / FASTER)


class Refused(Exception):
    """What systemctl says when it does not do it."""


@dataclass
class Unit:
    """What systemd knows of a unit."""

    enabled: bool = False
    # its files as they were read; nothing while it is not loaded
    text: str = ""
    process: subprocess.Popen[bytes] | None = None
    starts_again: float = 0.0
    restarts: int = 0
    result: str = "success"
    # it hit its start limit
    exhausted: bool = False

    @property
    def pid(self) -> int:
        """Its main process, 0 when there is none."""
        return self.process.pid if self.process and self.process.poll() is None else 0

    @property
    def state(self) -> str:
        """ActiveState."""
        return "active" if self.pid else "activating" if self.starts_again else "inactive"


class Host:
    """A host, and the module bound to it."""

    def __init__(self, top: Path, run_module: Callable[..., Result]) -> None:
        self.top = top
        self.root, self.config_dir, self.unit_dir, self.stores = (top / name for name in ("root", "etc", "units", "stores"))
        for folder in (self.root, self.config_dir, self.unit_dir, self.stores, top / "journal"):
            folder.mkdir()
        (self.unit_dir / "ollama@.service").write_text(TEMPLATE, encoding="utf-8")
        self.run_module = run_module
        self.units: dict[str, Unit] = {}
        self.ports: dict[str, int] = {}
        self.done: list[str] = []

    # what the tasks before the rollout do

    def release(self, name: str, **how: Any) -> None:
        """Install a release whose server behaves like that; again means anew, as a repair does."""
        folder = self.root / name
        (folder / "bin").mkdir(parents=True, exist_ok=True)
        if not how.pop("broken", False):
            (folder / "bin/ollama").touch()
        (folder / "how.json").write_text(json.dumps({"version": name, **how}), encoding="utf-8")
        (folder / ".release.json").write_text("{}", encoding="utf-8")
        (folder / "release.env").write_text(f'GPUFLEET_RELEASE_ID="{os.urandom(6).hex()}-{os.urandom(4).hex()}"\n', encoding="utf-8")
        # the order of the installations, however fast they follow
        age = 10**9 * (1_600_000_000 + len(list(self.root.iterdir())))
        os.utime(folder / ".release.json", ns=(age, age))

    def instance(self, name: str = "default", store: str = "store", drop_in: str = "", gpus: str = "all", port: int = 0, **environment: str) -> Result:
        """Write the files of an instance as the role does; what the module is told of it comes back."""
        port = port or self.ports.get(name) or free_port()
        self.ports[name] = port
        variables = {"OLLAMA_HOST": f"127.0.0.1:{port}", "OLLAMA_MODELS": str(self.stores / store), **environment}
        if gpus == "none":
            variables["CUDA_VISIBLE_DEVICES"] = "-1"
        config_id = hashlib.sha256(json.dumps([variables, drop_in]).encode()).hexdigest()[:16]
        lines = [f"{key}={json.dumps(value)}\n" for key, value in {**variables, "GPUFLEET_CONFIG_ID": config_id}.items()]
        write(self.config_dir / f"{name}.env", "".join(lines), 0o600)
        write(self.unit_dir / f"ollama@{name}.service.d/instance.conf", f"[Service]\n{drop_in}\n", 0o644)
        return {"name": name, "url": f"http://127.0.0.1:{port}", "config_id": config_id, "store": str(self.stores / store), "gpus": gpus}

    def models(self, *names: str, store: str = "store") -> Path:
        """Put models into a store."""
        for part in ("manifests", "blobs"):
            for name in names:
                write(self.stores / store / part / name, name, 0o644)
        return self.stores / store

    def rollout(self, version: str, *instances: Result, check: bool = False, **options: Any) -> Result:
        """Run the module."""
        places = {"root": str(self.root), "config_dir": str(self.config_dir), "unit_dir": str(self.unit_dir)}
        return self.run_module(ollama_rollout.main, check=check, version=version, instances=list(instances), **{**places, "settle_seconds": 0, **options})

    # what is there

    @property
    def link(self) -> str:
        """Where the link points to."""
        return os.readlink(self.root / "current") if (self.root / "current").is_symlink() else ""

    @property
    def kept(self) -> Path:
        """The record of what served last."""
        return self.root / ".served.json"

    def releases(self) -> list[str]:
        """The releases on disk."""
        return sorted(path.name for path in self.root.iterdir() if path.name[0].isdigit())

    def files(self) -> Files:
        """Mode and text of the files of the configuration."""
        found = [path for folder in (self.config_dir, self.unit_dir) for path in sorted(folder.rglob("*")) if path.is_file()]
        return {str(path): (stat.S_IMODE(path.stat().st_mode), path.read_text(encoding="utf-8")) for path in found}

    def everything(self) -> dict[str, tuple[int, int]]:
        """All files, with the times that any write changes."""
        return {str(path): (path.lstat().st_ino, path.lstat().st_mtime_ns) for path in sorted(self.top.rglob("*")) if path.parent.name != "journal"}

    def pids(self) -> dict[str, int]:
        """The main processes by instance; those that run."""
        return {name_of(unit): known.pid for unit, known in sorted(self.units.items()) if known.pid and "@" in unit}

    def serves(self) -> dict[str, tuple[str, str]]:
        """Ids of configuration and release that the processes were started with, by instance."""
        found = {}
        for name, pid in self.pids().items():
            variables = dict(entry.split("=", 1) for entry in Path(f"/proc/{pid}/environ").read_text(encoding="utf-8").split("\0") if entry)
            found[name] = (variables["GPUFLEET_CONFIG_ID"], variables["GPUFLEET_RELEASE_ID"])
        return found

    # systemd

    def run(self, command: list[str], **_options: Any) -> subprocess.CompletedProcess[str]:
        """In the place of subprocess.run."""
        program, *words = command
        if program == "journalctl":
            assert words[:-1] == ["--no-pager", "-q", "-o", "cat", "-n", "30", "-u"], words
            path = self._journal(words[-1])
            return subprocess.CompletedProcess(command, 0, "".join(path.read_text(encoding="utf-8").splitlines(True)[-30:]) if path.exists() else "", "")
        assert program == "systemctl", command
        try:
            return subprocess.CompletedProcess(command, 0, self._systemctl(*words), "")
        except Refused as error:
            return subprocess.CompletedProcess(command, 1, "", f"{error}\n")

    def _systemctl(self, verb: str, *words: str) -> str:
        for name in self.units:
            self._tick(name)
        if verb == "show":
            option, name = words
            wanted = option.removeprefix("--property=").split(",")
            # in systemd's order, not in the caller's
            return "".join(f"{key}={value}\n" for key, value in self._properties(name).items() if key in wanted)
        self.done.append(" ".join([verb, *words]))
        if verb == "daemon-reload":
            for name, unit in self.units.items():
                unit.text = self._text(name) if unit.text else ""
            return ""
        name = words[-1]
        if verb == "reset-failed":
            if name not in self.units or not self.units[name].text:
                raise Refused(f"Failed to reset failed state of unit {name}: Unit {name} not loaded.")
            self.units[name].restarts, self.units[name].exhausted = 0, False
            return ""
        if not self._text(name):
            raise Refused(f"Failed to {verb} {name}: Unit file {name} does not exist.")
        unit = self.units.setdefault(name, Unit())
        if verb in ("enable", "disable"):
            unit.enabled = verb == "enable"
        if verb in ("stop", "restart") or "--now" in words:
            self._stop(name)
            # a unit that does not run is unloaded
            unit.text = unit.text if verb == "restart" else ""
        if verb in ("start", "restart") and unit.exhausted:
            raise Refused(f"Job for {name} failed.\n{name}: Start request repeated too quickly.")
        if verb in ("start", "restart") and not unit.pid:
            unit.text, unit.restarts = unit.text or self._text(name), 0
            self._start(name)
        return ""

    def _properties(self, name: str) -> dict[str, Any]:
        unit = self.units.get(name, Unit())
        text = self._text(name)
        file = self._files(name)[0]
        return {
            "Restart": "always",
            "MainPID": unit.pid,
            "Result": unit.result,
            "NRestarts": unit.restarts,
            "Environment": " ".join(line.split("=", 1)[1] for line in text.splitlines() if line.startswith("Environment=")),
            "User": "".join(line.removeprefix("User=") for line in text.splitlines() if line.startswith("User=")),
            "Id": name,
            "LoadState": "loaded" if text or unit.text else "not-found",
            "ActiveState": unit.state,
            "FragmentPath": str(file) if file.exists() else "",
            "UnitFileState": "" if not text else "enabled" if unit.enabled else "disabled",
            "NeedDaemonReload": "yes" if unit.text and unit.text != text else "no",
        }

    def _files(self, name: str) -> list[Path]:
        if name == "ollama.service":
            return [self.unit_dir / name]
        return [self.unit_dir / "ollama@.service", self.unit_dir / f"{name}.d/instance.conf"]

    def _text(self, name: str) -> str:
        return "".join(path.read_text(encoding="utf-8") for path in self._files(name) if path.exists())

    def _journal(self, name: str) -> Path:
        return self.top / "journal" / name

    def _log(self, name: str, text: str) -> None:
        with self._journal(name).open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")

    def _tick(self, name: str) -> None:
        """What systemd does by itself."""
        unit = self.units[name]
        if 0 < unit.starts_again < Clock.monotonic():
            unit.restarts += 1
            try:
                self._start(name)
            except Refused:
                return
        if unit.process and unit.process.poll() is not None and not unit.starts_again:
            unit.result, unit.starts_again = "exit-code", Clock.monotonic() + RESTART_SECONDS
            self._log(name, f"{name}: Main process exited, code=exited, status=1/FAILURE\n{name}: Failed with result 'exit-code'.")

    def _stop(self, name: str) -> None:
        unit = self.units[name]
        if unit.process:
            unit.process.kill()
            unit.process.wait()
        unit.process, unit.starts_again = None, 0.0

    def _start(self, name: str) -> None:
        unit = self.units[name]
        unit.process, unit.starts_again, unit.result = None, 0.0, "success"
        self._log(name, f"Starting {name} - Ollama instance...")
        folder, environment = self.root / "current", {}
        files = [self.config_dir / f"{name_of(name)}.env", folder / "release.env"]
        if name == "ollama.service":
            folder, files = self.top / "usr/local", []
            environment = dict(line.split("=", 1)[1].strip('"').split("=", 1) for line in unit.text.splitlines() if line.startswith("Environment="))
        for file in files:
            lines = file.read_text(encoding="utf-8").splitlines()
            environment.update({key: json.loads(value) for key, value in (line.split("=", 1) for line in lines)})
        if "ExecStartPre=/bin/false" in unit.text or not (folder / "bin/ollama").exists():
            self._log(name, f"this host has no such thing\n{name}: Control process exited, code=exited, status=1/FAILURE\nFailed to start {name}.")
            unit.result, unit.starts_again = "exit-code", Clock.monotonic() + RESTART_SECONDS
            raise Refused(f'Job for {name} failed because the control process exited with error code.\nSee "systemctl status {name}" for details.')
        how = (folder / "how.json").read_text(encoding="utf-8")
        with self._journal(name).open("ab") as journal:
            unit.process = subprocess.Popen(  # pylint: disable=consider-using-with
                [sys.executable, "-I", "-S", "-c", SERVER, how], env=environment, stdout=journal, stderr=journal
            )
        self._log(name, f"Started {name} - Ollama instance.")
        if "exits" in how + environment.get("HOW", "") and "after" not in how:
            # it may be gone before systemctl is
            unit.process.wait()


def name_of(unit: str) -> str:
    """The instance of a unit."""
    return unit.removeprefix("ollama@").removesuffix(".service")


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def write(path: Path, text: str, mode: int) -> None:
    """Write a file where it does not say that already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
    path.chmod(mode)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_module: Callable[..., Result]) -> Iterator[Host]:
    """A host with the unit of all instances, and nothing else."""
    made = Host(tmp_path, run_module)
    monkeypatch.setattr(subprocess, "run", made.run)
    # certificates are read for every request otherwise, though none of them is encrypted
    monkeypatch.setattr(urls, "make_context", lambda *_args, **_more: CONTEXT)
    monkeypatch.setattr(_rollout, "time", Clock)
    monkeypatch.setattr(_upstream, "time", Clock)
    monkeypatch.setattr(_upstream, "UNIT_DIR", str(made.unit_dir))
    monkeypatch.setattr(_upstream, "BINARIES", (str(tmp_path / "usr/local/bin/ollama"),))
    yield made
    for name in made.units:
        made._stop(name)  # pylint: disable=protected-access


@pytest.fixture
def serving(host: Host) -> Host:
    """Instances a and b run 1.0.0 on one store with two models; 2.0.0 is not there yet."""
    host.release("1.0.0")
    host.models(*BOTH)
    result = host.rollout("1.0.0", host.instance("a"), host.instance("b"))
    assert result["changed"], result
    host.done.clear()
    return host


def went_back(result: Result, version: str = "1.0.0") -> str:
    """The cause, from the message of a rollout that was taken back."""
    cause, found, _rest = result["msg"].partition(f". The host went back to Ollama {version}, with the configuration that it had, and that answers")
    assert result["failed"] and found, result
    return cause


# what is done, and what is left alone


def test_first_install(host: Host) -> None:
    """Everything is started, enabled and tested; what serves is kept where only root reads it."""
    host.release("1.0.0")
    default = host.instance()
    result = host.rollout("1.0.0", default)
    assert (result["changed"], result["previous"], result["restarted"], result["removed"]) == (True, "", ["ollama@default.service"], [])
    assert "release (none)" in result["diff"]["before"] and "ollama@default.service running with configuration" in result["diff"]["after"]
    assert host.link == "1.0.0" and host.units["ollama@default.service"].enabled
    [(config_id, release_id)] = host.serves().values()
    assert config_id == default["config_id"] and release_id in (host.root / "1.0.0/release.env").read_text(encoding="utf-8")
    assert stat.S_IMODE(host.kept.stat().st_mode) == 0o600
    assert not list(host.root.glob("*.new"))


def test_nothing_to_do(serving: Host) -> None:
    """Nobody is restarted, nothing is written, systemd is only looked at."""
    before, pids = serving.everything(), serving.pids()
    result = serving.rollout("1.0.0", serving.instance("a"), serving.instance("b"))
    assert not result["changed"] and result["restarted"] == result["deleted_versions"] == [] and not serving.done
    assert serving.pids() == pids and serving.everything() == before


def test_upgrade(serving: Host) -> None:
    """Every instance is restarted once, with the new release; the one before it stays on the disk."""
    old = serving.serves()
    serving.release("2.0.0")
    result = serving.rollout("2.0.0", serving.instance("a"), serving.instance("b"))
    assert result["changed"] and result["previous"] == "1.0.0" and result["restarted"] == ["ollama@a.service", "ollama@b.service"]
    assert [line for line in serving.done if line.startswith("restart")] == ["restart ollama@a.service", "restart ollama@b.service"]
    assert all(serving.serves()[name][0] == old[name][0] and serving.serves()[name][1] != old[name][1] for name in "ab")
    assert serving.releases() == ["1.0.0", "2.0.0"] and serving.link == "2.0.0"
    assert not serving.rollout("2.0.0", serving.instance("a"), serving.instance("b"))["changed"]


def test_repaired_release(serving: Host) -> None:
    """The same version from other files: what runs from the old ones is restarted."""
    serving.release("1.0.0")
    assert serving.rollout("1.0.0", serving.instance("a"), serving.instance("b"))["restarted"] == ["ollama@a.service", "ollama@b.service"]


def test_old_releases(serving: Host) -> None:
    """What served stays before what only lies there, and two downgrades later it still does."""
    instances = (serving.instance("a"), serving.instance("b"))
    for version in ("0.1.0", "2.0.0", "3.0.0", "4.0.0"):
        serving.release(version)
    result = serving.rollout("3.0.0", *instances, keep_versions=3)
    assert result["deleted_versions"] == ["0.1.0", "2.0.0"] and serving.releases() == ["1.0.0", "3.0.0", "4.0.0"]
    serving.release("5.0.0")
    assert serving.rollout("4.0.0", *instances, keep_versions=3)["deleted_versions"] == ["5.0.0"]
    assert serving.rollout("4.0.0", *instances, keep_versions=1)["deleted_versions"] == ["1.0.0", "3.0.0"]
    assert serving.releases() == ["4.0.0"] and serving.link == "4.0.0"


def test_changed_configuration(serving: Host) -> None:
    """Only the instance whose configuration changed is restarted."""
    before = serving.pids()
    changed = serving.instance("b", OLLAMA_NUM_PARALLEL="4")
    result = serving.rollout("1.0.0", serving.instance("a"), changed)
    assert result["restarted"] == ["ollama@b.service"] and result["diff"]["before"] != result["diff"]["after"]
    assert serving.pids()["a"] == before["a"] and serving.pids()["b"] != before["b"]
    assert serving.serves()["b"][0] == changed["config_id"]


def test_changed_drop_in_is_read(serving: Host) -> None:
    """systemd reads the units anew before it starts them."""
    serving.rollout("1.0.0", serving.instance("a"), serving.instance("b", drop_in="MemoryMax=1G"))
    assert "MemoryMax=1G" in serving.units["ollama@b.service"].text


@pytest.mark.parametrize("how", ["force", "unit on disk"])
def test_files_put_right(serving: Host, how: str) -> None:
    """Files that were changed by hand leave the ids alone; the instance is restarted all the same."""
    before = serving.pids()
    instances = (serving.instance("a"), serving.instance("b"))
    if how == "unit on disk":
        path = serving.unit_dir / "ollama@b.service.d/instance.conf"
        path.write_text(path.read_text(encoding="utf-8") + "# by hand\n", encoding="utf-8")
    # a unit that is no instance here is passed over
    force = ["ollama@b.service", "ollama@other.service"] if how == "force" else []
    result = serving.rollout("1.0.0", *instances, force=force)
    assert result["changed"] and result["restarted"] == ["ollama@b.service"]
    assert serving.pids()["a"] == before["a"] and serving.pids()["b"] != before["b"]


def test_not_enabled(serving: Host) -> None:
    """A unit that would not come up at boot is enabled, not restarted."""
    before = serving.pids()
    serving.units["ollama@b.service"].enabled = False
    result = serving.rollout("1.0.0", serving.instance("a"), serving.instance("b"))
    assert result["changed"] and result["restarted"] == [] and serving.pids() == before
    assert serving.units["ollama@b.service"].enabled


def test_failed_instance(serving: Host) -> None:
    """An instance that does not run is started, also one that systemd has given up."""
    serving._stop("ollama@b.service")  # pylint: disable=protected-access
    serving.units["ollama@b.service"].exhausted = True
    result = serving.rollout("1.0.0", serving.instance("a"), serving.instance("b"))
    assert result["restarted"] == ["ollama@b.service"] and sorted(serving.pids()) == ["a", "b"]


# check mode


def bare(host: Host) -> tuple[str, list[Result], Result]:
    """A first installation."""
    host.release("2.0.0")
    return "2.0.0", [host.instance("a")], {}


def nothing(host: Host) -> tuple[str, list[Result], Result]:
    """What serves already."""
    first_install(host)
    return "1.0.0", [host.instance("a"), host.instance("b")], {}


def everything(host: Host) -> tuple[str, list[Result], Result]:
    """Another release and configuration, a new instance, one that goes, and a release too many."""
    first_install(host)
    host.release("1.5.0")
    host.release("2.0.0")
    return "2.0.0", [host.instance("a", OLLAMA_DEBUG="1"), host.instance("c")], {"remove_stores": True}


def forced(host: Host) -> tuple[str, list[Result], Result]:
    """Files put right."""
    first_install(host)
    return "1.0.0", [host.instance("a"), host.instance("b")], {"force": ["ollama@a.service"]}


def first_install(host: Host) -> None:
    """Instances a and b on 1.0.0."""
    host.release("1.0.0")
    assert host.rollout("1.0.0", host.instance("a"), host.instance("b", store="other"))["changed"]
    host.instance("b")


@pytest.mark.parametrize("case", [bare, nothing, everything, forced])
def test_check_mode(host: Host, case: Callable[[Host], tuple[str, list[Result], Result]]) -> None:
    """It says what the run then does, and touches nothing."""
    version, instances, options = case(host)
    host.done.clear()
    before, pids = host.everything(), host.pids()
    foreseen = host.rollout(version, *instances, check=True, **options)
    assert host.everything() == before and host.pids() == pids and not host.done
    done = host.rollout(version, *instances, **options)
    assert {key: foreseen[key] for key in RESULT_KEYS} == {key: done[key] for key in RESULT_KEYS}


def test_release_that_is_not_there(serving: Host) -> None:
    """Only check mode may go on without the release, which a task before it would have brought."""
    result = serving.rollout("2.0.0", serving.instance("a"), serving.instance("b"))
    assert result["failed"] and "Ollama 2.0.0 is not installed" in result["msg"] and "tag install" in result["msg"]
    serving.release("1.5.0")
    foreseen = serving.rollout("2.0.0", serving.instance("a"), serving.instance("b"), check=True, release_pending=True)
    assert foreseen["restarted"] == ["ollama@a.service", "ollama@b.service"] and foreseen["deleted_versions"] == ["1.5.0"]
    assert "(to be installed)" in foreseen["diff"]["after"] and serving.link == "1.0.0" and not serving.done


# going back

BAD_RELEASES: dict[str, tuple[dict[str, Any], str]] = {
    "does_not_start": ({"broken": True}, "ollama@a.service does not start; its last words were: this host has no such thing"),
    "exits_at_once": ({"exits": "panic: no such luck"}, "ollama@a.service does not stay up (exit-code); its last words were: panic: no such luck"),
    "exits_soon": ({"exits": "panic: no such luck", "after": 0.1}, "its last words were: panic: no such luck"),
    "another_version": ({"version": "9.9.9"}, "ollama@a.service answers that it is Ollama 9.9.9, and not 2.0.0"),
    "loses_models": ({"hides": True}, "ollama@a.service lists 0 models and listed 2 before: a:1, b:1 lost"),
    "dies_after_the_test": ({"dies_after": 0.05}, "ollama@a.service ended 4 s after its start; its last words were: panic: no more"),
    "never_answers": ({"deaf": True}, "ollama@a.service did not answer within 15 s: no Ollama answers at http://127.0.0.1:"),
    "is_something_else": ({"odd": {"/api/version": "<html>"}}, "is no Ollama: it answered"),
    "answers_oddly": ({"odd": {"/api/version": "{}"}}, ""),
    "answers_a_list": ({"odd": {"/api/version": "[]"}}, ""),
    "lists_oddly": ({"odd": {"/api/tags": "{}"}}, ""),
    "breaks_off": ({"cut": 5}, ""),
}


@pytest.mark.parametrize("kind", BAD_RELEASES)
def test_bad_release(serving: Host, kind: str) -> None:
    """The release is taken back with its link, files and processes; an instance that was not reached is left alone; the next run is a good one."""
    how, cause = BAD_RELEASES[kind]
    files, serves, pids = serving.files(), serving.serves(), serving.pids()
    serving.release("2.0.0", **how)
    # the configuration changes with it, and one file's mode
    instances = (serving.instance("a", OLLAMA_DEBUG="1", drop_in="MemoryMax=1G"), serving.instance("b"))
    (serving.config_dir / "a.env").chmod(0o640)
    assert cause in went_back(serving.rollout("2.0.0", *instances, ready_timeout=15, settle_seconds=4))
    assert serving.link == "1.0.0" and serving.files() == files and serving.serves() == serves
    assert serving.pids()["b"] == pids["b"] and "2.0.0" in serving.releases()
    assert not serving.rollout("1.0.0", serving.instance("a"), serving.instance("b"), keep_versions=3)["changed"]


BAD_CONFIGURATIONS: dict[str, tuple[dict[str, str], str]] = {
    "start_pre_fails": ({"drop_in": "ExecStartPre=/bin/false"}, "ollama@b.service does not start; its last words were: this host has no such thing"),
    "exits_at_once": ({"HOW": '{"exits": "bad origin"}'}, "ollama@b.service does not stay up (exit-code); its last words were: bad origin"),
    "loses_models": ({"HOW": '{"hides": true}'}, "ollama@b.service lists 0 models and listed 2 before: a:1, b:1 lost"),
}


@pytest.mark.parametrize("kind", BAD_CONFIGURATIONS)
def test_bad_configuration(serving: Host, kind: str) -> None:
    """Not only releases: the configuration that served is put back, and the other instance never notices."""
    files, serves, pids = serving.files(), serving.serves(), serving.pids()
    options, cause = BAD_CONFIGURATIONS[kind]
    assert cause in went_back(serving.rollout("1.0.0", serving.instance("a"), serving.instance("b", **options)))
    assert serving.files() == files and serving.serves() == serves and serving.pids()["a"] == pids["a"]


def test_second_instance_fails(serving: Host) -> None:
    """The first one, which runs with the new release already, goes back as well."""
    files, serves = serving.files(), serving.serves()
    serving.release("2.0.0")
    instances = (serving.instance("a"), serving.instance("b", HOW='{"hides": true}'))
    assert went_back(serving.rollout("2.0.0", *instances)).startswith("ollama@b.service lists 0 models")
    assert serving.files() == files and serving.serves() == serves and serving.link == "1.0.0"


def test_bad_unit_of_all_instances(serving: Host) -> None:
    """The unit that they share is put back too."""
    files = serving.files()
    (serving.unit_dir / "ollama@.service").write_text(f"{TEMPLATE}ExecStartPre=/bin/false\n", encoding="utf-8")
    went_back(serving.rollout("1.0.0", serving.instance("a"), serving.instance("b")))
    assert serving.files() == files and sorted(serving.pids()) == ["a", "b"]
    assert all(unit.text.startswith(TEMPLATE) and "false" not in unit.text for unit in serving.units.values())


def test_files_are_put_back_under_any_umask(serving: Host) -> None:
    """Their modes are what they were."""
    files = serving.files()
    serving.release("2.0.0", hides=True)
    before = os.umask(0o077)
    try:
        went_back(serving.rollout("2.0.0", serving.instance("a", OLLAMA_DEBUG="1"), serving.instance("b")))
    finally:
        os.umask(before)
    assert serving.files() == files


def test_models_that_went_between_the_runs_are_not_missed(serving: Host) -> None:
    """What counts is what was listed right before."""
    (serving.stores / "store/manifests/a:1").unlink()
    serving.release("2.0.0")
    assert serving.rollout("2.0.0", serving.instance("a"), serving.instance("b"))["changed"]


def test_models_that_came_between_the_runs_are_missed(serving: Host) -> None:
    """The same for those that were pulled after the last rollout."""
    serving.models("c:1")
    serving.release("2.0.0", hides=True)
    assert "listed 3 before: a:1, b:1, c:1 lost" in went_back(serving.rollout("2.0.0", serving.instance("a"), serving.instance("b")))


def test_other_store(serving: Host) -> None:
    """A store that was asked for is not compared with the one before."""
    assert serving.rollout("1.0.0", serving.instance("a"), serving.instance("b", store="empty"))["changed"]
    assert not serving.rollout("1.0.0", serving.instance("a"), serving.instance("b", store="empty"))["changed"]


def test_bad_first_install(host: Host) -> None:
    """There is nothing to go back to, and the message does not claim it."""
    host.release("1.0.0", exits="panic: no such luck")
    result = host.rollout("1.0.0", host.instance("a"))
    assert result["failed"] and "no such luck" in result["msg"] and "Nothing served on this host before" in result["msg"]
    assert not host.kept.exists()
    host.release("2.0.0")
    assert host.rollout("2.0.0", host.instance("a"))["changed"] and list(host.serves()) == ["a"]


@pytest.mark.parametrize("how", [{"version": "9.9.9"}, {"exits": "panic: no such luck"}, {"broken": True}])
def test_bad_first_install_twice(host: Host, how: dict[str, Any]) -> None:
    """What never served is no version to go back to."""
    host.release("1.0.0", **how)
    host.rollout("1.0.0", host.instance("a"))
    again = host.rollout("1.0.0", host.instance("a"))
    assert again["failed"] and "Nothing served on this host before" in again["msg"]
    assert not host.kept.exists()
    host.release("2.0.0", version="9.9.9")
    assert "Nothing served on this host before" in host.rollout("2.0.0", host.instance("a"))["msg"]


@pytest.mark.parametrize(("how", "cause"), [({}, "does not start"), ({"version": "9.9.9"}, "answers that it is Ollama 9.9.9")])
def test_going_back_fails_too(serving: Host, how: dict[str, str], cause: str) -> None:
    """Both causes are in the message, also where the old release starts and is not what it was."""
    serving.release("2.0.0", hides=True)
    if how:
        (serving.root / "1.0.0/how.json").write_text(json.dumps(how), encoding="utf-8")
    else:
        (serving.root / "1.0.0/bin/ollama").unlink()
    result = serving.rollout("2.0.0", serving.instance("a"), serving.instance("b"))
    assert result["failed"] and f"2 before: a:1, b:1 lost. Going back to Ollama 1.0.0 failed too: ollama@a.service {cause}" in result["msg"]


def test_one_of_two_cannot_go_back(serving: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one goes back all the same."""
    serving.release("2.0.0")
    old, restart = serving.serves(), _rollout.restart

    def refuse(unit: str) -> None:
        if serving.link == "1.0.0" and unit == "ollama@a.service":
            raise _units.UnitError("no more memory")
        restart(unit)

    monkeypatch.setattr(_rollout, "restart", refuse)
    result = serving.rollout("2.0.0", serving.instance("a"), serving.instance("b", HOW='{"hides": true}'))
    assert "b:1 lost. Going back to Ollama 1.0.0 failed too: no more memory" in result["msg"]
    assert serving.serves()["b"] == old["b"]


def test_files_that_are_not_written(serving: Host) -> None:
    """A play with the tag service alone, after the inventory changed: the files on the disk are older than what is wanted."""
    result = serving.rollout("1.0.0", {**serving.instance("a"), "config_id": "new"}, serving.instance("b"))
    assert "and not new: its files are not written yet (see the tags)" in went_back(result)


# runs that were cut short


def cut_short(monkeypatch: pytest.MonkeyPatch, roll_out: Callable[..., Result], *args: Any) -> None:
    """A rollout whose Python is killed before the first test of an instance."""

    def kill(*_args: Any, **_more: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(_rollout.Rollout, "_test", kill)
        roll_out(*args)


@pytest.mark.parametrize("good", [True, False])
def test_killed_before_the_test(serving: Host, monkeypatch: pytest.MonkeyPatch, good: bool) -> None:
    """What runs was never tested: the next run does it, with the models from before the switch, and goes back where that fails."""
    instances = (serving.instance("a"), serving.instance("b"))
    old = serving.serves()
    serving.models("c:1")
    serving.release("2.0.0", hides=not good)
    cut_short(monkeypatch, serving.rollout, "2.0.0", *instances)
    assert serving.link == "2.0.0" and serving.serves()["a"] != old["a"] and serving.serves()["b"] == old["b"]
    untested = serving.pids()["a"]
    result = serving.rollout("2.0.0", *instances)
    if good:
        assert result["restarted"] == ["ollama@b.service"] and serving.pids()["a"] == untested
        assert not serving.rollout("2.0.0", *instances)["changed"]
    else:
        assert went_back(result).startswith("ollama@a.service lists 0 models and listed 3 before: a:1, b:1, c:1 lost")
        assert serving.link == "1.0.0" and serving.serves() == old


def test_killed_while_a_port_changes(serving: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The instance that moved already is tested by the next run, and runs after it."""
    instances = (serving.instance("a", port=free_port()), serving.instance("b"))
    cut_short(monkeypatch, serving.rollout, "1.0.0", *instances)
    result = serving.rollout("1.0.0", *instances)
    assert "msg" not in result, result
    assert serving.serves()["a"][0] == instances[0]["config_id"] and sorted(serving.pids()) == ["a", "b"]


def test_killed_and_dead_since(serving: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that a killed run started, and that systemd had to start again, gets a fresh start and its test."""
    instances = (serving.instance("a"), serving.instance("b"))
    serving.release("2.0.0")
    cut_short(monkeypatch, serving.rollout, "2.0.0", *instances)
    unit = serving.units["ollama@a.service"]
    assert unit.process
    unit.process.kill()
    unit.process.wait()
    until = time.monotonic() + 10
    while not unit.restarts and time.monotonic() < until:
        serving.run(["systemctl", "show", "--property=MainPID", "ollama@a.service"])
    assert unit.restarts == 1 and "msg" not in serving.rollout("2.0.0", *instances) and unit.restarts == 0


def test_killed_and_given_up(serving: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next run wants the old version again, or a third one: what never served is not kept in its place."""
    instances = (serving.instance("a"), serving.instance("b"))
    old = serving.serves()
    serving.release("2.0.0")
    cut_short(monkeypatch, serving.rollout, "2.0.0", *instances)
    assert serving.rollout("1.0.0", *instances)["previous"] == "2.0.0"
    assert serving.serves() == old
    cut_short(monkeypatch, serving.rollout, "2.0.0", *instances)
    serving.release("3.0.0")
    assert serving.rollout("3.0.0", *instances)["deleted_versions"] == ["2.0.0"]


@pytest.mark.parametrize("text", ["", "null", "1", "[]", "{}", '{"version": "0"', None])
def test_record_lost(serving: Host, text: str | None) -> None:
    """Without the record of what served there is still a release to go back to."""
    serving.kept.unlink()
    if text is not None:
        serving.kept.write_text(text, encoding="utf-8")
    instances = (serving.instance("a"), serving.instance("b"))
    old = serving.serves()
    serving.release("2.0.0", hides=True)
    assert "2 before" in went_back(serving.rollout("2.0.0", *instances))
    assert serving.link == "1.0.0" and serving.serves() == old


# instances that come and go


def test_removed_instance(serving: Host) -> None:
    """It is stopped and will not come up at boot, and its files are gone."""
    (serving.config_dir / "b.warm.json").touch()
    result = serving.rollout("1.0.0", serving.instance("a"))
    assert result["changed"] and result["removed"] == ["b"] and result["restarted"] == []
    assert list(serving.pids()) == ["a"] and not serving.units["ollama@b.service"].enabled
    assert [path for path in serving.files() if "b." in path] == [] and not (serving.unit_dir / "ollama@b.service.d").exists()
    assert (serving.stores / "store/manifests/a:1").exists()
    assert not serving.rollout("1.0.0", serving.instance("a"))["changed"]


def test_port_of_a_removed_instance(serving: Host) -> None:
    """Another instance may have it: the old one is stopped first."""
    result = serving.rollout("1.0.0", serving.instance("a"), serving.instance("c", port=serving.ports["b"]))
    assert result.get("restarted") == ["ollama@c.service"] and result["removed"] == ["b"], result
    assert (serving.config_dir / "b.env").exists() is False


def test_removed_instance_comes_back(serving: Host) -> None:
    """Where the new one does not serve, on the same port, nothing of the old one is lost."""
    old = serving.serves()
    files = serving.files()
    new = serving.instance("c", port=serving.ports["b"], HOW='{"version": "9.9.9"}')
    assert "9.9.9" in went_back(serving.rollout("1.0.0", serving.instance("a"), new, remove_stores=True))
    assert serving.serves() == old and serving.units["ollama@b.service"].enabled and not serving.units["ollama@c.service"].enabled
    assert files.items() <= serving.files().items() and (serving.stores / "store/manifests/a:1").exists()


def test_instances_that_change_places(serving: Host) -> None:
    """Two instances swap their ports: each is tested itself, and not whoever has its port still."""
    port_a, port_b = serving.ports["a"], serving.ports["b"]
    swapped = (serving.instance("a", port=port_b), serving.instance("b", port=port_a, HOW='{"vram": 0.5}'))
    result = serving.rollout("1.0.0", *swapped, settle_seconds=3)
    assert result.get("restarted") == ["ollama@a.service", "ollama@b.service"], result
    assert {name: ids[0] for name, ids in serving.serves().items()} == {item["name"]: item["config_id"] for item in swapped}


def test_instances_that_change_places_and_back(serving: Host) -> None:
    """Where one of them does not serve, each has its own port again."""
    serves, ports = serving.serves(), dict(serving.ports)
    swapped = (serving.instance("a", port=ports["b"]), serving.instance("b", port=ports["a"], HOW='{"version": "9.9.9"}'))
    went_back(serving.rollout("1.0.0", *swapped, settle_seconds=3))
    assert serving.serves() == serves


@pytest.mark.parametrize("remove", [True, False])
def test_store_of_a_removed_instance(serving: Host, remove: bool) -> None:
    """Its models go where that is asked for, what else lies there stays, and a store that another instance has stays whole."""
    own, shared = serving.models("x:1", store="own"), serving.stores / "store"
    write(own / "notes.txt", "mine", 0o644)
    instances = (serving.instance("a"), serving.instance("b"))
    serving.rollout("1.0.0", *instances, serving.instance("own", store="own"))
    assert serving.rollout("1.0.0", instances[0], remove_stores=remove)["removed"] == ["b", "own"]
    assert sorted(path.name for path in own.iterdir()) == (["notes.txt"] if remove else ["blobs", "manifests", "notes.txt"])
    assert sorted(path.name for path in (shared / "manifests").iterdir()) == list(BOTH)


def test_shared_store_of_a_removed_instance(serving: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other hosts may serve what lies on a filesystem that they have too."""
    own = serving.models("x:1", store="own")
    monkeypatch.setattr(_rollout, "is_shared", lambda path: path == str(own))
    serving.rollout("1.0.0", serving.instance("a"), serving.instance("b", store="own"))
    assert serving.rollout("1.0.0", serving.instance("a"), remove_stores=True)["removed"] == ["b"]
    assert (own / "blobs/x:1").exists() and (own / "manifests/x:1").exists()


def test_store_by_another_path(serving: Host) -> None:
    """A link to a store that is in use is no other store."""
    (serving.stores / "link").symlink_to("store")
    serving.rollout("1.0.0", serving.instance("a"), serving.instance("b", store="link"))
    serving.rollout("1.0.0", serving.instance("a"), remove_stores=True)
    assert sorted(path.name for path in (serving.stores / "store/manifests").iterdir()) == list(BOTH)


def test_empty_store_of_a_removed_instance(serving: Host) -> None:
    """With its directory."""
    own = serving.models("x:1", store="own")
    serving.rollout("1.0.0", serving.instance("a"), serving.instance("b", store="own"))
    serving.rollout("1.0.0", serving.instance("a"), remove_stores=True)
    assert not own.exists()


# where the models run


def test_smoke_model(serving: Host) -> None:
    """It runs one where asked to, and where the host has it; a share that falls is a failure, a part that is not the same to the byte is none."""
    serving.release("2.0.0", vram=0.6)
    serving.release("3.0.0", vram=0.57)
    serving.release("4.0.0", vram=0.3)
    instances = (serving.instance("a"), serving.instance("b"))
    for version in ("2.0.0", "3.0.0"):
        assert "msg" not in serving.rollout(version, *instances, smoke_model="a:1", keep_versions=9)
    cause = went_back(serving.rollout("4.0.0", *instances, smoke_model="a:1"), "3.0.0")
    assert cause.startswith("ollama@a.service has 30% of a:1 on the GPU and had 57% before")
    # what was measured last still counts after a rollout that measured nothing
    assert "msg" not in serving.rollout("4.0.0", *instances, smoke_model="missing:1", keep_versions=9)
    serving.release("5.0.0", vram=0.3)
    assert "had 57% before" in went_back(serving.rollout("5.0.0", *instances, smoke_model="a:1", keep_versions=9), "4.0.0")


def test_gpu_required(serving: Host) -> None:
    """The smallest model is tried; an instance that may not use a GPU need not."""
    serving.release("2.0.0", vram=0.0)
    cause = went_back(serving.rollout("2.0.0", serving.instance("a"), serving.instance("b"), gpu_required=True))
    assert cause.startswith("ollama@a.service runs a:1 on the CPU, and a GPU is required")
    without = (serving.instance("a", gpus="none"), serving.instance("b", gpus="none"))
    assert "msg" not in serving.rollout("2.0.0", *without, gpu_required=True)


def test_gpus_taken_away(serving: Host) -> None:
    """The share that it had on GPUs that it is not to have any more is not asked for, now or later."""
    instances = (serving.instance("a"), serving.instance("b"))
    serving.release("2.0.0")
    assert "msg" not in serving.rollout("2.0.0", *instances, gpu_required=True)
    without = (serving.instance("a", gpus="none"), serving.instance("b", gpus="none"))
    assert "msg" not in serving.rollout("2.0.0", *without, gpu_required=True)
    serving.release("3.0.0")
    assert "msg" not in serving.rollout("3.0.0", *without, smoke_model="a:1")


def test_smoke_model_that_is_no_name(serving: Host) -> None:
    """It fails in words, and nothing stays half done."""
    serving.release("2.0.0")
    result = serving.rollout("2.0.0", serving.instance("a"), serving.instance("b"), smoke_model="a/b/c/d")
    assert "'a/b/c/d' is no model name" in result["msg"] and serving.link == "1.0.0"


def test_no_password_in_the_message(serving: Host) -> None:
    """The server logs its environment at start; that line is not among its last words."""
    proxy = serving.instance("b", HTTPS_PROXY="http://user:geheim@proxy:3128", HOW='{"exits": "panic: no such luck"}')
    result = serving.rollout("1.0.0", serving.instance("a"), proxy)
    assert "no such luck" in result["msg"] and "geheim" not in json.dumps(result)
    assert "geheim" in (serving.top / "journal/ollama@b.service").read_text(encoding="utf-8")


def test_death_between_test_and_wait(serving: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is gone when the wait begins did not stay up, though it is the same nothing at the end."""
    listed = _rollout.names_of

    def list_and_die(client: Any) -> list[str]:
        names = listed(client)
        unit = serving.units["ollama@b.service"]
        if serving.link == "2.0.0" and client.url.endswith(f":{serving.ports['b']}") and unit.process:
            unit.process.kill()
            unit.process.wait()
        return names

    monkeypatch.setattr(_rollout, "names_of", list_and_die)
    serving.release("2.0.0")
    went_back(serving.rollout("2.0.0", serving.instance("a"), serving.instance("b"), settle_seconds=3))


# an Ollama of the upstream install script


class Old:
    """What the install script left on a host."""

    def __init__(self, host: Host, store: str = "", enabled: bool = True, running: bool = True) -> None:
        self.host, self.home, self.port = host, host.top / "usr/share/ollama", free_port()
        self.store = Path(store or self.home / ".ollama/models")
        self.unit = host.unit_dir / "ollama.service"
        self.binary = host.top / "usr/local/bin/ollama"
        write(self.binary, "", 0o755)
        write(host.top / "usr/local/lib/ollama/lib.so", "", 0o644)
        (host.top / "usr/local/how.json").write_text('{"version": "0.1.0"}', encoding="utf-8")
        variables = {"HOME": self.home, "OLLAMA_HOST": f"127.0.0.1:{self.port}", "OLLAMA_MODELS": self.store}
        write(self.unit, "[Service]\nUser=ollama\n" + "".join(f'Environment="{key}={value}"\n' for key, value in variables.items()), 0o644)
        write(host.unit_dir / "ollama.service.d/override.conf", "[Service]\n", 0o644)
        for part in ("manifests", "blobs"):
            write(self.store / part / "old:1", "old", 0o644)
        write(self.home / ".ollama/id_ed25519", "key", 0o600)
        if enabled:
            host.run(["systemctl", "enable", "ollama.service"])
        if running:
            host.run(["systemctl", "start", "ollama.service"])
            wait_for(self.port)

    def adopt(self, version: str = "1.0.0", check: bool = False, **options: Any) -> Result:
        """The rollout of an instance on its port, with the store of ours."""
        options = {"store": str(self.host.stores / "store"), "home": str(self.host.top / "home"), "adopt": True, **options}
        return self.host.rollout(version, self.host.instance("a", port=self.port, **options.pop("instance", {})), check=check, **options)


def wait_for(port: int) -> None:
    """Wait until something listens."""
    until = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.01)


@pytest.fixture
def adopting(host: Host, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host with the user ollama, and with release 1.0.0 of ours installed."""
    user = SimpleNamespace(pw_uid=os.getuid(), pw_gid=os.getgid(), pw_dir=str(host.top / "usr/share/ollama"))
    monkeypatch.setattr(pwd, "getpwnam", lambda name: user)
    host.release("1.0.0")
    return host


def test_adopt(adopting: Host) -> None:
    """Its models become ours without a copy, its key too; it is gone after the test."""
    old = Old(adopting)
    inode = (old.store / "blobs/old:1").stat().st_ino
    foreseen = old.adopt(check=True)
    assert old.unit.exists() and adopting.units["ollama.service"].pid
    result = old.adopt()
    assert {key: foreseen[key] for key in RESULT_KEYS} == {key: result[key] for key in RESULT_KEYS}
    assert f"the Ollama of {old.unit}" in result["diff"]["before"] and result["changed"]
    assert (adopting.stores / "store/blobs/old:1").stat().st_ino == inode
    assert (adopting.top / "home/.ollama/id_ed25519").read_text(encoding="utf-8") == "key"
    assert stat.S_IMODE((adopting.top / "home/.ollama/id_ed25519").stat().st_mode) == 0o600
    assert not any(path.exists() for path in (old.unit, adopting.unit_dir / "ollama.service.d", old.binary, adopting.top / "usr/local/lib/ollama"))
    assert not os.path.lexists(old.store) and not adopting.units["ollama.service"].enabled
    assert json.loads(adopting.kept.read_text(encoding="utf-8"))["instances"]["a"]["models"] == ["old:1"]
    assert not old.adopt()["changed"]


def test_adopt_in_place(adopting: Host) -> None:
    """Where our store is its store, nothing moves."""
    store = adopting.stores / "store"
    old = Old(adopting, store=str(store))
    assert old.adopt()["changed"] and not store.is_symlink()
    assert sorted(path.name for path in (store / "manifests").iterdir()) == ["old:1"]


@pytest.mark.parametrize("running", [True, False])
def test_adopt_and_go_back(adopting: Host, running: bool) -> None:
    """The old one has its store again and serves; one that did not run lost no models that anybody knew of, but its version is wrong here."""
    old = Old(adopting, running=running)
    adopting.release("1.0.0", hides=True, version="9.9.9")
    result = old.adopt()
    assert result["failed"] and f". The host went back to the Ollama of {old.unit}, " in result["msg"], result
    assert (old.store / "manifests/old:1").exists() and not old.store.is_symlink() and not (adopting.stores / "store").exists()
    assert adopting.units["ollama.service"].pid and not adopting.pids()
    assert old.unit.exists() and old.binary.exists() and not adopting.units["ollama@a.service"].enabled
    assert adopting.link == "" and not adopting.kept.exists()


def test_adopt_fails_twice(adopting: Host) -> None:
    """The second time is as the first: the release that never served is not taken for what was there before."""
    old = Old(adopting)
    for how, cause in (({"broken": True}, "does not start"), ({"version": "9.9.9"}, "9.9.9"), ({"hides": True}, "listed 1 before: old:1 lost")):
        (adopting.root / "1.0.0/bin/ollama").unlink(missing_ok=True)
        adopting.release("1.0.0", **how)
        result = old.adopt()
        assert cause in result["msg"] and f"went back to the Ollama of {old.unit}" in result["msg"]
        assert adopting.units["ollama.service"].pid and (old.store / "manifests/old:1").exists() and not old.store.is_symlink()


def test_adopt_loses_no_models(adopting: Host) -> None:
    """They are compared with those that the old one listed."""
    old = Old(adopting)
    adopting.release("1.0.0", hides=True)
    assert "lists 0 models and listed 1 before: old:1 lost" in old.adopt()["msg"]


def test_adopt_and_going_back_fails(adopting: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both causes are in the message."""
    monkeypatch.setattr(_upstream, "BACK_SECONDS", 5)
    old = Old(adopting)
    adopting.release("1.0.0", hides=True)
    (adopting.top / "usr/local/how.json").write_text('{"version": "0.1.0", "deaf": true}', encoding="utf-8")
    result = old.adopt()
    assert "old:1 lost" in result["msg"] and f"Going back to the Ollama of {old.unit} failed too: ollama.service does not answer" in result["msg"]


@pytest.mark.parametrize("enabled", [True, False])
def test_adopt_cut_short(adopting: Host, monkeypatch: pytest.MonkeyPatch, enabled: bool) -> None:
    """A run that was killed after the old one was stopped is taken up by the next one, and taken back where that fails."""
    old = Old(adopting, enabled=enabled)
    adopting.release("1.0.0", hides=True)
    cut_short(monkeypatch, old.adopt)
    assert old.store.is_symlink() and not adopting.units["ollama.service"].pid
    message = old.adopt()["msg"]
    # what it listed, that it ran, and whose the models were is known from before
    assert "listed 1 before: old:1 lost" in message and f"went back to the Ollama of {old.unit}" in message and "and that answers" in message
    assert (old.store / "manifests/old:1").exists() and not old.store.is_symlink() and adopting.units["ollama.service"].pid
    adopting.release("1.0.0")
    assert old.adopt()["changed"] and not old.unit.exists() and (adopting.stores / "store/manifests/old:1").exists()


def test_adopt_cut_short_and_removed(adopting: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody removed the old one after a run was killed: there is nothing to go back to any more."""
    old = Old(adopting)
    cut_short(monkeypatch, old.adopt)
    old.unit.unlink()
    old.binary.unlink()
    adopting._stop("ollama@a.service")  # pylint: disable=protected-access
    adopting.release("1.0.0", version="9.9.9")
    assert "Nothing served on this host before" in old.adopt()["msg"]
    adopting.release("1.0.0")
    assert old.adopt()["changed"] and (adopting.stores / "store/manifests/old:1").exists()


def test_adopt_one_without_models(adopting: Host) -> None:
    """Where nothing was moved there is nothing to move back."""
    old = Old(adopting)
    shutil.rmtree(old.store)
    (adopting.stores / "store").mkdir()
    adopting.release("1.0.0", version="9.9.9")
    assert "went back" in old.adopt()["msg"] and (adopting.stores / "store").is_dir() and not old.store.exists()


def test_adopt_one_that_is_switched_off(adopting: Host) -> None:
    """What did not run before is not said to answer."""
    old = Old(adopting, enabled=False, running=False)
    adopting.release("1.0.0", version="9.9.9")
    message = old.adopt()["msg"]
    assert f"went back to the Ollama of {old.unit}" in message and not adopting.units.get("ollama.service", Unit()).pid
    assert "answers" not in message.split("went back")[1]


def test_adopt_beside_instances_of_ours(adopting: Host) -> None:
    """The install script was run on a host of ours: what it left goes, its models stay where they are and are nobody's."""
    adopting.models("a:1")
    assert adopting.rollout("1.0.0", adopting.instance("a"))["changed"]
    old = Old(adopting)
    places = {"store": str(adopting.stores / "store"), "home": str(adopting.top / "home"), "adopt": True}
    result = adopting.rollout("1.0.0", adopting.instance("a"), **places)
    assert "msg" not in result and result["changed"] and not old.unit.exists() and not old.binary.exists()
    assert (old.store / "manifests/old:1").exists() and not (adopting.stores / "store/manifests/old:1").exists()


def test_adopt_owners(adopting: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The models become the service's user's, and go back to whom they belonged."""
    old = Old(adopting)
    adopting.release("1.0.0", version="9.9.9")
    monkeypatch.setattr(pwd, "getpwnam", lambda name: {"ollama": SimpleNamespace(pw_uid=4711, pw_gid=4712, pw_dir="")}[name])
    owners: dict[str, list[tuple[int, int]]] = {}
    monkeypatch.setattr(os, "lchown", lambda path, uid, gid: owners.setdefault(path, []).append((uid, gid)))
    assert "went back" in old.adopt()["msg"]
    ours, theirs, key = adopting.stores / "store/blobs/old:1", old.store / "blobs/old:1", adopting.top / "home/.ollama/id_ed25519"
    assert owners[str(ours)] == owners[str(key)] == [(4711, 4712)] and owners[str(theirs)] == [(os.getuid(), os.getgid())]


def test_adopt_of_a_linked_store(adopting: Host) -> None:
    """Its own link, for example to a larger disk, stays what it is where our store is the place it leads to."""
    place = adopting.top / "disk/models"
    old = Old(adopting, store=str(place))
    linked = old.home / ".ollama/models"
    linked.symlink_to(place)
    old.unit.write_text(old.unit.read_text(encoding="utf-8").replace(str(place), str(linked)), encoding="utf-8")
    adopting.run(["systemctl", "daemon-reload"])
    adopting.run(["systemctl", "restart", "ollama.service"])
    wait_for(old.port)
    instance = {**adopting.instance("a", store="../disk/models", port=old.port), "store": str(place)}
    result = adopting.rollout("1.0.0", instance, store=str(place), home=str(adopting.top / "home"), adopt=True)
    assert "msg" not in result and (place / "manifests/old:1").exists() and os.readlink(linked) == str(place)


def test_adopt_refused(adopting: Host) -> None:
    """Both have models: nothing is stopped, and the message says how to go on."""
    old = Old(adopting)
    adopting.models("a:1")
    pid = adopting.units["ollama.service"].pid
    result = old.adopt()
    assert result["failed"] and "both hold models" in result["msg"] and "ollama_models_dir" in result["msg"]
    assert adopting.units["ollama.service"].pid == pid and (old.store / "manifests/old:1").exists()


def test_without_adopt(adopting: Host) -> None:
    """It is left alone where nobody asked for its place."""
    old = Old(adopting)
    assert adopting.rollout("1.0.0", adopting.instance("a"))["changed"]
    assert old.unit.exists() and adopting.units["ollama.service"].pid
