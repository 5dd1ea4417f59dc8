# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The part of the data model that is about backups: who saves what first, who deletes old ones, who tries out whose.

Each function takes plain inventory values and raises C(ModelError) with a sentence that says what is wrong and how to mend it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.gpufleet.ollama.plugins.module_utils._names import parse
from ansible_collections.gpufleet.ollama.plugins.module_utils._repository import BackupError, endpoint
from ansible_collections.gpufleet.ollama.plugins.module_utils._sizes import human_to_bytes
from ansible_collections.gpufleet.ollama.plugins.plugin_utils._environment import ModelError, suggestion
from ansible_collections.gpufleet.ollama.plugins.plugin_utils._model import DEFAULT_INSTANCES, instances, model_name
from ansible_collections.gpufleet.ollama.plugins.plugin_utils._models import DEFAULT_STORE, manifest, store_models

_PREFIX = "ollama_backup_"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# see roles/ollama_backup/templates/sandbox.conf.j2
_HIDDEN = re.compile(r"/(home|root|run/user|tmp|var/tmp)(/|$)")
_FORMS = "such as s3:https://host/bucket, sftp:user@host:/path, rest:https://host/ or /srv/backups"


def backup_plan(options: Mapping[str, Any], host: str, hostvars: Mapping[str, Mapping[str, Any]], hosts: Iterable[str]) -> dict[str, Any]:
    """What a host has to do, from its options of role ollama_backup, which are checked.

    Args: the C(options), by their names without C(ollama_backup_); the inventory name; the variables of all hosts; the hosts of the group ollama.
    Returns owners (name of a model -> the host that saves it first, where that is another one), prunes (bool: deletes old backups of the repository),
    drills (the hosts whose backups are tried out here) and together (the hosts that save to the same repository, this one among them).
    """
    fleet = list(hosts)
    _check(options, host)
    own = str(options["repository"])
    # those that save to the same place; a host that stands alone there waits for nobody
    together = [other for other in fleet if other == host or _shares(hostvars[other], own)]
    return {
        "owners": _owners(options.get("owners") or {}, host, hostvars, together, fleet),
        "prunes": together[:1] == [host],
        "drills": _drills(options.get("drill_hosts") or [], host, together, fleet),
        "together": together,
    }


def _shares(values: Mapping[str, Any], repository: str) -> bool:
    return bool(values.get(f"{_PREFIX}enabled")) and values.get(f"{_PREFIX}repository") == repository


def _check(options: Mapping[str, Any], host: str) -> None:
    """ModelError for what cannot be."""
    where, repository = f"of {host}", options.get("repository") or ""
    if not repository:
        raise ModelError(f"ollama_backup_repository {where} is empty: say where backups go, {_FORMS}")
    if options.get("format") == "cas" and not repository.startswith("/"):
        raise ModelError(f"ollama_backup_repository {where} is no directory, which ollama_backup_format: cas needs: give an absolute path, or take restic")
    if repository.startswith("/") and re.search(r"[\s%\"'\\]|/\.\.?(/|$)", repository):
        # it stands in a unit file
        raise ModelError(f"ollama_backup_repository {where} is {repository!r}: choose a path without blanks, %, quotes, backslashes, . and ..")
    if _HIDDEN.match(repository):
        raise ModelError(f"ollama_backup_repository {where} is {repository}, which the sandbox of the units hides: give another, such as /srv/backups")
    try:
        endpoint(repository)
        human_to_bytes(str(options.get("rate_limit") or ""))
    except BackupError as error:
        raise ModelError(f"ollama_backup_repository {where}: {error}") from None
    except ValueError as error:
        raise ModelError(f"ollama_backup_rate_limit {where}: {error}") from None
    for store in options.get("stores") or []:
        if f"{repository}/".startswith(f"{store}/"):
            raise ModelError(f"ollama_backup_repository {where} is {repository}, inside the store {store}: both would be lost together; give another disk")
    if options.get("format") != "cas" and not options.get("password"):
        raise ModelError(f"ollama_backup_password {where} is empty: restic encrypts what it stores. Put one into the vault, and a copy where the fleet is not")
    password = str(options.get("password") or "")
    if password != password.strip():
        raise ModelError(f"ollama_backup_password {where} begins or ends with a blank, which restic cuts off where it reads it from a file: take it away")
    key, known = options.get("ssh_key"), options.get("ssh_known_hosts")
    own_command = any(str(option).startswith(("sftp.command=", "sftp.args=")) for option in options.get("restic_options") or [])
    if repository.startswith("sftp:") and not own_command and not (key and known):
        raise ModelError(f"ollama_backup_repository {where} is reached by SFTP: give ollama_backup_ssh_key, and ollama_backup_ssh_known_hosts from ssh-keyscan")
    for count in ("keep_daily", "keep_weekly", "keep_monthly"):
        if int(options.get(count) or 0) < 0:
            raise ModelError(f"ollama_backup_{count} {where} is {options[count]}: give 0 or more")
    backup_environment(options.get("environment") or {}, "", "")


def _owners(given: Mapping[str, Any], host: str, hostvars: Mapping[str, Mapping[str, Any]], together: list[str], fleet: list[str]) -> dict[str, str]:
    """The owners of models that this host has, and does not own."""
    mine = _custom(host, hostvars[host])
    explicit = {}
    for name, owner in given.items():
        if owner not in fleet:
            raise ModelError(f"ollama_backup_owners has {owner!r} for {name}, which is no host of the group ollama{suggestion(str(owner), fleet)}")
        explicit[parse(model_name(name)).key] = str(owner)
    result = {}
    for key, name in mine.items():
        owner = explicit.get(key) or next((other for other in together if other == host or key in _custom(other, hostvars[other])), host)
        if owner != host:
            result[name] = owner
    return result


def _custom(host: str, values: Mapping[str, Any]) -> dict[str, str]:
    """The models of one's own that a host writes to its stores: key and name."""
    models = manifest(values.get("ollama_models") or [])
    mount = values.get("ollama_models_mount") or {}
    writer = mount.get("writer") in (None, "", host)
    found = instances(values.get("ollama_instances") or DEFAULT_INSTANCES, "127.0.0.1", values.get("ollama_models_dir") or DEFAULT_STORE, writer)
    return {parse(item["name"]).key: item["name"] for store in store_models(found, models) for item in store["custom"]}


def _drills(given: Iterable[str], host: str, together: list[str], fleet: list[str]) -> list[str]:
    """Whose backups are tried out here: those that are named, or that of the next host, so that each is tried out on another host."""
    for other in given:
        if other not in fleet:
            raise ModelError(f"ollama_backup_drill_hosts has {other!r}, which is no host of the group ollama{suggestion(str(other), fleet)}")
    return list(given) or [together[(together.index(host) + 1) % len(together)]]


def backup_environment(environment: Mapping[str, Any], repository: str, password: str) -> str:
    """The environment of restic as a file for systemd. ModelError for a name or a value that cannot stand there."""
    lines = []
    own = {name: value for name, value in (("RESTIC_REPOSITORY", repository), ("RESTIC_PASSWORD", password)) if value}
    for name, value in sorted({**environment, **own}.items()):
        if not _VARIABLE.fullmatch(str(name)):
            raise ModelError(f"ollama_backup_environment has {name!r}: give the names of environment variables, such as AWS_ACCESS_KEY_ID")
        text = str(value)
        if re.search(r"[\x00-\x1f]", text):
            raise ModelError(f"{name} for the backup has a line break or another control character in it: give it in one line")
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        lines.append(f'{name}="{escaped}"\n')
    return "".join(lines)


def backup_report(results: Iterable[Mapping[str, Any]]) -> list[str]:
    """A line for each model, from the results of a loop of M(gpufleet.ollama.ollama_backup): what is saved of it, and what a registry has."""
    return [
        f"{model['name']}: {model['backup_bytes']} bytes in the backup, {model['registry_bytes']} bytes that a registry has"
        for result in results for model in result.get("models") or []
    ]
