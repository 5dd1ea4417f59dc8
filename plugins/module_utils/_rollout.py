# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""A release and configurations put to work on a host, tested, and taken back when the test fails.

What served last (the release, the files of each instance, the models that it listed) is kept in a file beside the releases. It is
written only after a successful test, so a rollout that was killed half-way is taken up, or taken back, by the next one.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import subprocess
import time
from contextlib import contextmanager, suppress
from typing import Any, Iterator, NamedTuple

from ansible_collections.gpufleet.ollama.plugins.module_utils import _ps, _release, _units, _upstream
from ansible_collections.gpufleet.ollama.plugins.module_utils._client import OllamaClient, OllamaError
from ansible_collections.gpufleet.ollama.plugins.module_utils._names import display_name
from ansible_collections.gpufleet.ollama.plugins.module_utils._store import PRIVATE_DIR

KEPT = ".served.json"
LINK = "current"
TEMPLATE_UNIT = "ollama@.service"
DROP_IN = "instance.conf"
POLL_SECONDS = 0.3
SHARE_TOLERANCE = 0.05
NETWORK_FILESYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "ceph", "glusterfs", "lustre", "gpfs", "beegfs", "9p", "virtiofs", "fuse")
# how many versions that served are remembered
HISTORY = 10
# longest silence of an instance that is asked what it has
ASK_SECONDS = 30


class RolloutError(Exception):
    """The rollout failed; the text says why, and what serves now."""


FAILURES = (_units.UnitError, OllamaError, _upstream.UpstreamError, OSError)


class Instance(NamedTuple):
    """An instance as it is wanted: its name, API, configuration id, store and GPUs (text)."""

    name: str
    url: str
    config_id: str
    store: str
    gpus: str

    @property
    def unit(self) -> str:
        """Its unit."""
        return unit_of(self.name)


class Settings(NamedTuple):
    """How a rollout is done: see the options of module ollama_rollout."""

    root: str
    version: str
    release_pending: bool
    config_dir: str
    unit_dir: str
    force: list[str]
    ready_timeout: int
    settle_seconds: int
    smoke_model: str
    gpu_required: bool
    keep_versions: int
    remove_stores: bool
    adopt: bool
    store: str
    home: str


class Plan(NamedTuple):
    """What is to be done: link before, instances to restart, to test, units to enable, names to remove, versions to delete."""

    link: str
    states: dict[str, _units.UnitState]
    target: dict[str, _units.UnitState]
    restart: list[Instance]
    test: list[Instance]
    enable: list[str]
    removed: list[str]
    old_versions: list[str]
    upstream: _upstream.Upstream | None


def unit_of(name: str) -> str:
    """The unit of an instance."""
    return f"ollama@{name}.service"


class Rollout:
    """One host."""

    def __init__(self, instances: list[Instance], settings: Settings) -> None:
        self.instances = instances
        self.settings = settings
        self.link = os.path.join(settings.root, LINK)
        self.kept_path = os.path.join(settings.root, KEPT)
        self.kept = self._load()
        # what the tests of this run found: name -> models, shares
        self.found: dict[str, dict[str, Any]] = {}

    # what is, and what is to be done

    def _load(self) -> dict[str, Any]:
        """What served last: version, history (versions, newest first), files (path -> mode and content), instances (name -> what is known of it)."""
        try:
            with open(self.kept_path, encoding="utf-8") as file:
                kept = json.load(file)
            return kept if isinstance(kept, dict) and {"version", "files", "instances"} <= set(kept) else {}
        except (OSError, ValueError):
            return {}

    def _save(self, kept: dict[str, Any]) -> None:
        """Write it whole or not at all; only root reads it, since an environment may hold a proxy's password."""
        if kept == self._load():
            return
        temporary = f"{self.kept_path}.new"
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            json.dump(kept, file, indent=1, sort_keys=True)
        os.replace(temporary, self.kept_path)

    def plan(self) -> Plan:
        """What is to be done, without doing any of it."""
        settings = self.settings
        release_id = _release.release_id(settings.root, settings.version)
        if settings.release_pending:
            release_id = "(to be installed)"
        elif not release_id:
            raise RolloutError(f"Ollama {settings.version} is not installed in {settings.root}: run the tasks with the tag install first")
        if settings.smoke_model:
            try:
                display_name(settings.smoke_model)
            except ValueError as error:
                raise RolloutError(str(error)) from None
        states = {item.unit: _units.read(item.unit) for item in self.instances}
        target = {item.unit: _units.UnitState(True, True, True, True, item.config_id, release_id) for item in self.instances}
        restart, test = [], []
        for item in self.instances:
            state = states[item.unit]
            if item.unit in settings.force:
                state = states[item.unit] = state._replace(current=False)
            if state._replace(enabled=True, known=True) != target[item.unit]:
                restart.append(item)
            if item in restart or self._ids_that_served(item.name) != (item.config_id, release_id):
                test.append(item)
        link = _release.read_link(self.link)
        # a link that a killed run left says nothing about what served
        served = [settings.version, self.kept.get("version") or link, *self.kept.get("history", [])]
        found = sorted(os.path.basename(path)[: -len(".env")] for path in glob.glob(os.path.join(settings.config_dir, "*.env")))
        return Plan(
            link=link,
            states=states,
            target=target,
            restart=restart,
            test=test,
            enable=[unit for unit, state in states.items() if not state.enabled],
            removed=[name for name in found if name not in [item.name for item in self.instances]],
            old_versions=old_versions(settings.root, served, settings.keep_versions),
            upstream=_upstream.find() if settings.adopt else None,
        )

    def _ids_that_served(self, name: str) -> tuple[str, str]:
        known = self.kept.get("instances", {}).get(name, {})
        return known.get("config_id", ""), known.get("release_id", "")

    # doing it

    def run(self, plan: Plan) -> None:
        """Do it. RolloutError when it fails; what served before then serves again, where that was possible."""
        kept = self._baseline(plan)
        try:
            self._forward(plan, kept)
        except FAILURES as error:
            raise RolloutError(self._back(plan, kept, str(error))) from None
        except Exception as error:  # pylint: disable=broad-exception-caught
            # whatever a release answers that no Ollama answers, the host is not left with it
            raise RolloutError(self._back(plan, kept, f"{type(error).__name__}: {error}")) from None
        self._save(self._record(kept))
        self._clean(plan, kept)

    def _baseline(self, plan: Plan) -> dict[str, Any]:
        """What served last, with the models that its instances list right now; kept on disk before the first change."""
        kept = self.kept
        if "upstream" in kept and not plan.upstream:
            # somebody removed it since
            kept = {}
        if plan.upstream and not kept.get("instances"):
            # said once: what a killed or failed run left is not what served
            known = kept.get("upstream") or plan.upstream.known(self.settings.store)
            kept = {"version": "", "files": {}, "instances": {}, "upstream": known}
        elif not kept and plan.link not in ("", self.settings.version):
            # the record was lost: the files are what they are, but there is a release to go back to
            serving = [item for item in self.instances if plan.states[item.unit].running and answers(item.url, plan.link)]
            known_now = {item.name: self._known(item, plan.states[item.unit], []) for item in serving}
            kept = {"version": plan.link, "files": {}, "instances": known_now} if known_now else {}
        for name, known in kept.get("instances", {}).items():
            state = plan.states.get(unit_of(name)) or _units.read(unit_of(name))
            if state.running and (state.config_id, state.release_id) == (known["config_id"], known["release_id"]):
                try:
                    known["models"] = names_of(OllamaClient(known["url"], ASK_SECONDS))
                except (OllamaError, OSError, ValueError, KeyError):
                    # it serves no more: what it listed when it did still counts
                    continue
        # what was made up of a lost record has passed no test, so it is not kept
        if (self.kept or "upstream" in kept) and (plan.test or plan.link != self.settings.version):
            self._save(kept)
        return kept

    def _forward(self, plan: Plan, kept: dict[str, Any]) -> None:
        if plan.upstream:
            # beside instances of ours it is only in the way, and its models are nobody's
            taken_over = "upstream" in kept
            if taken_over:
                plan.upstream.check(self.settings.store)
            plan.upstream.stop()
            if taken_over:
                plan.upstream.move(self.settings.store, self.settings.home)
        for name in plan.removed:
            # its port may be another instance's now
            stop(unit_of(name))
        # not one that a killed run has moved already
        self._stop_movers(plan.restart, kept)
        if plan.link != self.settings.version:
            _release.switch_link(self.link, self.settings.version)
        if plan.restart or plan.enable or plan.removed:
            _units.systemctl("daemon-reload")
        for unit in plan.enable:
            _units.systemctl("enable", unit)
        for item in self.instances:
            starts = restarts_of(item.unit)
            # one that a killed run started, and that has ended since, is none that stays up
            if item in plan.restart or (item in plan.test and starts):
                restart(item.unit)
                starts = 0
                config_id = _units.read(item.unit).config_id
                # a process that has ended already names none, and left its last words
                if config_id not in ("", item.config_id):
                    raise _units.UnitError(
                        f"{item.unit} runs with the configuration {config_id} and not {item.config_id}: its files are not written yet (see the tags)"
                    )
            self._wait_for_answer(item.unit, item.url, self.settings.version, starts)
            if item in plan.test:
                self._test(item, kept)

    @staticmethod
    def _stop_movers(instances: list[Instance], kept: dict[str, Any]) -> None:
        """Two instances that change ports would be in each other's way."""
        for item in instances:
            if kept.get("instances", {}).get(item.name, {}).get("url", item.url) != item.url:
                _units.systemctl("stop", item.unit)

    def _wait_for_answer(self, unit: str, url: str, version: str, starts: int) -> None:
        """Wait until the API answers with this version, without another restart. The port is open before that, so it says nothing."""
        client = OllamaClient(url, ASK_SECONDS)
        until = time.monotonic() + self.settings.ready_timeout
        while True:
            values = _units.show(unit, "ActiveState", "NRestarts", "Result")
            if values.get("ActiveState") not in ("active", "activating", "reloading") or int(values.get("NRestarts") or 0) > starts:
                raise _units.UnitError(f"{unit} does not stay up ({values.get('Result')}){last_words(unit)}")
            try:
                answer = client.version()
                break
            except OllamaError as error:
                if time.monotonic() > until:
                    raise _units.UnitError(f"{unit} did not answer within {self.settings.ready_timeout} s: {error}{last_words(unit)}") from None
            time.sleep(POLL_SECONDS)
        if answer != version:
            raise OllamaError(f"{unit} answers that it is Ollama {answer}, and not {version}")

    def _test(self, item: Instance, kept: dict[str, Any]) -> None:
        """The smoke test of an instance that answers: its models are there, it runs one where asked to, and it stays up."""
        known = kept.get("instances", {}).get(item.name, {})
        client = OllamaClient(item.url, max(self.settings.ready_timeout, ASK_SECONDS))
        listed = {name.lower() for name in names_of(client)}
        before = known.get("models", []) if known.get("store") == item.store else []
        if "upstream" in kept and item.store == self.settings.store:
            before = kept["upstream"]["models"]
        lost = sorted(name for name in before if name.lower() not in listed)
        if lost:
            raise OllamaError(f"{item.unit} lists {len(listed)} models and listed {len(before)} before: {', '.join(lost[:5])} lost")
        shares = self._test_inference(item, client, known)
        if not shares and known.get("gpus") == item.gpus:
            shares = known.get("shares", {})
        self.found[item.name] = {"models": sorted(listed), "shares": shares}
        pid = _units.show(item.unit, "MainPID")
        time.sleep(self.settings.settle_seconds)
        # 0 while systemd waits to start it again
        if pid == {"MainPID": "0"} or _units.show(item.unit, "MainPID") != pid:
            raise _units.UnitError(f"{item.unit} ended {self.settings.settle_seconds} s after its start{last_words(item.unit)}")

    def _test_inference(self, item: Instance, client: OllamaClient, known: dict[str, Any]) -> dict[str, float]:
        """Run a model where that is asked for. Returns the share of it that is on the GPU."""
        gpu_expected = self.settings.gpu_required and item.gpus != "none"
        model = self.settings.smoke_model or (_ps.smallest_model(client) if gpu_expected else "")
        # the models of a new host come after its first start
        if not model or client.find(model) is None:
            return {}
        with _cold(item.name):
            share = _ps.try_model(client, model)["processor_gpu"]
        before = known.get("shares", {}).get(model, 0.0) if known.get("gpus") == item.gpus else 0.0
        if gpu_expected and share == 0:
            raise OllamaError(f"{item.unit} runs {model} on the CPU, and a GPU is required{last_words(item.unit)}")
        # where only a part fits, that part is not the same to the byte
        if share < before - SHARE_TOLERANCE:
            raise OllamaError(f"{item.unit} has {share:.0%} of {model} on the GPU and had {before:.0%} before{last_words(item.unit)}")
        return {model: share}

    # going back

    def _back(self, plan: Plan, kept: dict[str, Any], cause: str) -> str:
        """Put everything back to what served before. Returns the sentences for the user."""
        if not kept:
            return f"{cause}. Nothing served on this host before, so there is nothing to go back to"
        # beside instances of ours an upstream one is only in the way
        upstream = plan.upstream if "upstream" in kept else None
        before = upstream.what if upstream else f"Ollama {kept['version']}"
        try:
            for item in self.instances:
                if item.name not in kept["instances"]:
                    stop(item.unit)
            if upstream:
                upstream.back(self.settings.store, kept["upstream"])
                # a later run begins as the first one did
                for path in (self.link, self.kept_path):
                    if os.path.lexists(path):
                        os.unlink(path)
            else:
                self._restore(kept)
        except Exception as error:  # pylint: disable=broad-exception-caught
            return f"{cause}. Going back to {before} failed too: {error}"
        now = "and that answers" if not upstream or kept["upstream"]["wanted"] else "which did not run"
        return f"{cause}. The host went back to {before}, with the configuration that it had, {now}"

    def _restore(self, kept: dict[str, Any]) -> None:
        for files in [kept["files"], *(known["files"] for known in kept["instances"].values())]:
            for path, file in files.items():
                put_back(path, file)
        _release.switch_link(self.link, kept["version"])
        _units.systemctl("daemon-reload")
        self._stop_movers(self.instances, kept)
        # one that cannot go back must not keep the others from it
        problems = []
        for name, known in kept["instances"].items():
            unit = unit_of(name)
            try:
                state = _units.read(unit)
                if not state.enabled:
                    _units.systemctl("enable", unit)
                if not state.running or (state.config_id, state.release_id) != (known["config_id"], known["release_id"]):
                    restart(unit)
                self._wait_for_answer(unit, known["url"], kept["version"], restarts_of(unit))
            except FAILURES as error:
                problems.append(str(error))
        if problems:
            raise _units.UnitError("; ".join(problems))

    # afterwards

    def _record(self, kept: dict[str, Any]) -> dict[str, Any]:
        """What serves now."""
        settings = self.settings
        instances = {}
        for item in self.instances:
            state = _units.read(item.unit)
            known = self._known(item, state, [os.path.join(settings.config_dir, f"{item.name}.env"), self._drop_in(item.name)])
            old = kept.get("instances", {}).get(item.name, {})
            instances[item.name] = {**known, "models": old.get("models", []), "shares": old.get("shares", {}), **self.found.get(item.name, {})}
        shared = read_files([os.path.join(settings.unit_dir, TEMPLATE_UNIT)])
        history = list(dict.fromkeys([settings.version, *kept.get("history", [])]))[:HISTORY]
        return {"version": settings.version, "history": history, "files": shared, "instances": instances}

    @staticmethod
    def _known(item: Instance, state: _units.UnitState, files: list[str]) -> dict[str, Any]:
        return {
            "url": item.url,
            "store": item.store,
            "gpus": item.gpus,
            "config_id": state.config_id,
            "release_id": state.release_id,
            "files": read_files(files),
            "models": [],
            "shares": {},
        }

    def _drop_in(self, name: str) -> str:
        return os.path.join(self.settings.unit_dir, f"{unit_of(name)}.d", DROP_IN)

    def _clean(self, plan: Plan, kept: dict[str, Any]) -> None:
        """Remove what has a successor that works, or is wanted no more."""
        settings = self.settings
        stores = {os.path.realpath(item.store) for item in self.instances}
        for name in plan.removed:
            environment = os.path.join(settings.config_dir, f"{name}.env")
            store = store_in(environment)
            shutil.rmtree(os.path.dirname(self._drop_in(name)), ignore_errors=True)
            if settings.remove_stores and store and os.path.realpath(store) not in stores:
                remove_store(store)
            os.unlink(environment)
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(settings.config_dir, f"{name}.warm.json"))
        if plan.removed:
            _units.systemctl("daemon-reload")
        if plan.upstream:
            plan.upstream.remove(kept.get("upstream", {}))
        for version in plan.old_versions:
            shutil.rmtree(os.path.join(settings.root, version))


@contextmanager
def _cold(name: str) -> Iterator[None]:
    """Keep the warm models of an instance from loading for a while: they would be in the way of a test, or it in theirs."""
    unit = f"ollama-warm@{name}.service"
    waiting = _units.show(unit, "ActiveState").get("ActiveState") == "activating"
    if waiting:
        _units.systemctl("stop", unit)
    try:
        yield
    finally:
        if waiting:
            _units.systemctl("start", "--no-block", unit)


def versions(root: str) -> list[str]:
    """The releases on disk, the one that was installed last first."""
    # not by way of the link
    records = [path for path in glob.glob(os.path.join(root, "*", _release.RECORD)) if not os.path.islink(os.path.dirname(path))]
    return [os.path.basename(os.path.dirname(path)) for path in sorted(records, key=os.path.getmtime, reverse=True)]


def old_versions(root: str, served: list[str], keep: int) -> list[str]:
    """The releases that are too many: those that served (the present one first) stay before those that never did."""
    found = versions(root)
    order = [name for name in dict.fromkeys([*served, *found]) if name in found or name == served[0]]
    return sorted(order[max(keep, 1):])


def answers(url: str, version: str) -> bool:
    """Whether an instance serves this version now."""
    try:
        return OllamaClient(url, ASK_SECONDS).version() == version
    except OllamaError:
        return False


def names_of(client: OllamaClient) -> list[str]:
    """The models that an instance lists."""
    return sorted(item["name"] for item in client.models())


def restarts_of(unit: str) -> int:
    """How often systemd has started a unit again by itself."""
    return int(_units.show(unit, "NRestarts").get("NRestarts") or 0)


def forget_failures(unit: str) -> None:
    """A unit that failed too often is not started before its count is reset; systemd refuses that for a unit it has not loaded."""
    subprocess.run(["systemctl", "reset-failed", unit], capture_output=True, check=False)


def stop(unit: str) -> None:
    """Stop a unit, now and at boot, whether it is known or not."""
    if _units.read(unit).known:
        _units.systemctl("disable", "--now", unit)
        forget_failures(unit)


def restart(unit: str) -> None:
    """Start a unit anew; the text of a failure holds its last words."""
    forget_failures(unit)
    try:
        _units.systemctl("restart", unit)
    except _units.UnitError:
        raise _units.UnitError(f"{unit} does not start{last_words(unit)}") from None


def last_words(unit: str) -> str:
    """The last lines that a unit logged, as the end of a sentence.

    The line with the whole environment, which Ollama logs at start, is left out: a proxy's URL may hold a password.
    """
    done = subprocess.run(["journalctl", "--no-pager", "-q", "-o", "cat", "-n", "30", "-u", unit], capture_output=True, text=True, check=False)
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip() and " env=" not in line]
    # what systemd itself says of the unit comes after, and says less
    own = [line for line in lines if unit not in line and not line.startswith(("Started ", "Starting ", "Stopped ", "Stopping ", "Failed to start "))]
    words = (own or lines)[-3:]
    return f"; its last words were: {' | '.join(line[:300] for line in words)}" if words else ""


def read_files(paths: list[str]) -> dict[str, dict[str, Any]]:
    """Text and mode of the files that exist."""
    found = {}
    for path in paths:
        if os.path.isfile(path):
            with open(path, encoding="utf-8") as file:
                found[path] = {"mode": os.stat(path).st_mode & 0o777, "content": file.read()}
    return found


def put_back(path: str, file: dict[str, Any]) -> None:
    """Write a file as it was, whole or not at all."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    temporary = f"{path}.gpufleet-new"
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, file["mode"]), "w", encoding="utf-8") as target:
        target.write(file["content"])
    # whatever root's umask is
    os.chmod(temporary, file["mode"])
    os.replace(temporary, path)


def store_in(environment: str) -> str:
    """The store that an environment file names."""
    with open(environment, encoding="utf-8") as file:
        for line in file:
            if line.startswith("OLLAMA_MODELS="):
                return line.split("=", 1)[1].strip().strip('"')
    return ""


def is_shared(path: str, mounts: str = "/proc/self/mounts") -> bool:
    """Whether a directory is a mount point, or lies on a network filesystem: then it may be other hosts' too."""
    real = os.path.realpath(path)
    if os.path.ismount(real):
        return True
    with open(mounts, encoding="utf-8") as file:
        entries = [line.split() for line in file]
    # the mount that is nearest above; a later one covers an earlier one of the same place
    above = [(len(entry[1]), number, entry[2]) for number, entry in enumerate(entries) if f"{real}/".startswith(f"{entry[1].rstrip('/')}/")]
    return bool(above) and max(above)[2].split(".")[0] in NETWORK_FILESYSTEMS


def remove_store(store: str) -> None:
    """Remove a store, and nothing that is none. What other hosts may serve stays."""
    if is_shared(store):
        return
    for part in ("blobs", "manifests", PRIVATE_DIR):
        shutil.rmtree(os.path.join(store, part), ignore_errors=True)
    try:
        os.rmdir(store)
    except OSError:
        # other files, or a mount point: not ours to remove
        return
