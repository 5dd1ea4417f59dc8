# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Backs up the models of a host, or tries out the backup of another one, and tells node_exporter how it went.

usage: ollama_backup.py backup|drill|clean CONFIG
CONFIG is a JSON file, as the role ollama_backup writes it: the options of a repository by the names of module ollama_backup, and host, stores, lock
(the entries of the lock file), keep, owners, owner_timeout, prunes, keep_daily, keep_weekly, keep_monthly, textfile_dir, state_dir, program; for a
drill also drill_hosts, drill_models, drill_dir, sources, upstream, insecure, proxy, reserve, user. Place, password and keys of the repository are in
the environment, as restic wants them. `clean` removes what a drill left that was killed.

The status is 0 when all went well, and 1 when anything failed; then the sentence that says why is the last line.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import time
from contextlib import suppress
from typing import Any, Mapping

# the role installs the library beside this file, in the folders of its own name
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

# pylint: disable=wrong-import-position
from ansible_collections.gpufleet.ollama.plugins.module_utils import _backup, _drill  # noqa: E402
from ansible_collections.gpufleet.ollama.plugins.module_utils._backup_options import policy_of, repository_of  # noqa: E402
from ansible_collections.gpufleet.ollama.plugins.module_utils._http import Http, proxies_of  # noqa: E402
from ansible_collections.gpufleet.ollama.plugins.module_utils._repository import BackupError, Policy  # noqa: E402
from ansible_collections.gpufleet.ollama.plugins.module_utils._sideload import Options  # noqa: E402
from ansible_collections.gpufleet.ollama.plugins.module_utils._sizes import bytes_to_human, human_to_bytes  # noqa: E402
from ansible_collections.gpufleet.ollama.plugins.module_utils._store import Store, StoreError  # noqa: E402

# the data of the repository is read in so many parts, another one each time
PARTS = 12

HELP = {
    "ollama_backup_success": "Whether the last backup of this host ended well.",
    "ollama_backup_last_run_timestamp_seconds": "When the last backup of this host ended, well or not.",
    "ollama_backup_last_success_timestamp_seconds": "When the last backup of this host ended that ended well.",
    "ollama_backup_duration_seconds": "How long the last backup took.",
    "ollama_backup_size_bytes": "Bytes of the layers in the last good backup.",
    "ollama_backup_registry_bytes": "Bytes of the layers that the last good backup left to a registry.",
    "ollama_backup_added_bytes": "Bytes that the last good backup added to the repository.",
    "ollama_backup_models": "Models in the last good backup.",
    "ollama_backup_retention_success": "Whether old backups could be deleted after the last good one.",
    "ollama_backup_drill_success": "Whether the last drill of the backup of a host ended well.",
    "ollama_backup_drill_last_run_timestamp_seconds": "When the last drill of the backup of a host ended, well or not.",
    "ollama_backup_drill_last_success_timestamp_seconds": "When the last drill of the backup of a host ended that ended well.",
    "ollama_backup_drill_duration_seconds": "How long the last drill took.",
}


class Metrics:
    """What is told to node_exporter, and remembered until the next time: values by metric and the host that they are about, empty for this one."""

    def __init__(self, config: Mapping[str, Any], name: str) -> None:
        self._path = os.path.join(config["textfile_dir"], f"gpufleet_ollama_{name}.prom")
        self._state = os.path.join(config["state_dir"], f"{name}.json")
        self.values: dict[str, dict[str, float]] = {}
        with suppress(OSError, ValueError):
            with open(self._state, encoding="utf-8") as file:
                self.values = json.load(file)

    def set(self, host: str, **values: float) -> None:
        """New values, by the names of the metrics without what they all begin with."""
        for name, value in values.items():
            self.values.setdefault(f"ollama_backup_{name}", {})[host] = float(value)

    def only(self, hosts: list[str]) -> None:
        """Forget hosts that are no longer asked about."""
        kept = {name: {host: value for host, value in found.items() if host in hosts} for name, found in self.values.items()}
        self.values = {name: found for name, found in kept.items() if found}

    def write(self) -> None:
        """Tell and remember."""
        lines = []
        for name, found in sorted(self.values.items()):
            lines += [f"# HELP {name} {HELP[name]}", f"# TYPE {name} gauge"]
            for host, value in sorted(found.items()):
                label = f'{{backup_host="{host}"}}' if host else ""
                lines.append(f"{name}{label} {value:.3f}" if value % 1 else f"{name}{label} {value:.0f}")
        put(self._path, "\n".join(lines) + "\n")
        put(self._state, json.dumps(self.values, sort_keys=True))


def put(path: str, text: str) -> None:
    """Put a file into its place whole."""
    temporary = f"{path}.{os.getpid()}.new"
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o644)
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def options_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the repository, with the secrets of the environment."""
    return {**config, "environment": dict(os.environ)}


def release_of(program: str) -> str:
    """The release that runs now, by the directory that the link in the path of the program leads to; empty when nobody can tell."""
    found = re.search(r"/([0-9]+\.[0-9]+\.[0-9][\w.-]*)/bin/", os.path.realpath(program))
    return found[1] if found else ""


def backup(config: Mapping[str, Any]) -> None:
    """Back up all stores. Raises BackupError and OSError for the first that fails, after the others."""
    metrics, began, problems = Metrics(config, "backup"), time.time(), []
    totals: dict[str, float] = {"size_bytes": 0, "registry_bytes": 0, "added_bytes": 0, "models": 0, "retention_success": 1}
    try:
        repository = repository_of(options_of(config))
        # never made here: a disk that is not mounted would be a new repository
        repository.open()
        for number, path in enumerate(config["stores"]):
            try:
                one = _backup.Backup(Store(path), repository, config["lock"], config["host"], config["keep"], release_of(config["program"]))
                one.owners, one.owner_seconds = config["owners"], config["owner_timeout"]
                last = number == len(config["stores"]) - 1
                done = one.run(policy_of(config) if config["prunes"] and last and not problems else Policy())
            except (BackupError, OSError, ValueError) as error:
                problems.append(error)
                continue
            size, registry = done.index.bytes_in("backup"), done.index.bytes_in("registry")
            print(
                f"{path}: {len(done.index.models)} models, {bytes_to_human(size)} in the backup {done.saved.id}, {bytes_to_human(done.saved.added)} of it "
                f"new, {bytes_to_human(registry)} left to a registry" + (f"; {done.removed} old backups deleted" if done.removed else ""), flush=True,
            )
            if done.warning:
                print(done.warning, flush=True)
            found = {
                "size_bytes": size, "registry_bytes": registry, "added_bytes": done.saved.added, "models": len(done.index.models),
                "retention_success": 0 if done.warning else 1,
            }
            totals = {name: min(totals[name], value) if name == "retention_success" else totals[name] + value for name, value in found.items()}
    except (BackupError, OSError, ValueError) as error:
        problems.append(error)
    now = time.time()
    metrics.set("", success=not problems, last_run_timestamp_seconds=now, duration_seconds=now - began)
    if not problems:
        metrics.set("", last_success_timestamp_seconds=now, **totals)
    # of a host whose backup never ended well the alert must see an age, too: since 1970
    metrics.values.setdefault("ollama_backup_last_success_timestamp_seconds", {"": 0.0})
    metrics.write()
    if problems:
        raise problems[0]


def drill(config: Mapping[str, Any]) -> None:
    """Try out the backups of other hosts. Raises BackupError and OSError for the first that fails, after the others."""
    metrics, problems = Metrics(config, "drill"), []
    metrics.only(config["drill_hosts"])
    for host in config["drill_hosts"]:
        began = time.time()
        try:
            repository = repository_of(options_of(config))
            repository.open()
            options = Options(
                sources=list(config["sources"]), upstream=config["upstream"], insecure=config["insecure"], reserve=human_to_bytes(config["reserve"])
            )
            part = f"{int(began // (7 * 86400)) % PARTS + 1}/{PARTS}"
            one = _drill.Drill(
                repository, host, os.path.join(config["drill_dir"], "scratch"), config["user"], config["program"], options,
                lambda: Http(f"ollama/{release_of(config['program']) or '0.99.0'}", proxies=proxies_of(config["proxy"] or None)),
                lambda line: print(line, flush=True),
            )
            one.run(config["drill_models"], part)
            error: Exception | None = None
        except (BackupError, OSError, ValueError, KeyError, StoreError) as caught:
            error = caught
            problems.append(caught)
            print(f"{host}: {caught}", flush=True)
        now = time.time()
        metrics.set(host, drill_success=error is None, drill_last_run_timestamp_seconds=now, drill_duration_seconds=now - began)
        if error is None:
            metrics.set(host, drill_last_success_timestamp_seconds=now)
        metrics.write()
    if problems:
        raise problems[0]


def clean(config: Mapping[str, Any]) -> None:
    """Remove what a drill left that was killed."""
    _drill.clean(os.path.join(config["drill_dir"], "scratch"))


def main(arguments: list[str]) -> int:
    """Command line."""
    work = {"backup": backup, "drill": drill, "clean": clean}
    if len(arguments) != 2 or arguments[0] not in work:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        with open(arguments[1], encoding="utf-8") as file:
            config = json.load(file)
        work[arguments[0]](config)
    except (BackupError, OSError, ValueError, KeyError, TypeError, StoreError) as error:
        print(f"{arguments[0]} of {socket.gethostname()} failed: {error if str(error) else repr(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
