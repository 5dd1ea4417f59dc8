# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The options of a repository of backups, the same for modules and for the program of the timers. Standard library only."""

from __future__ import annotations

from typing import Any, Mapping

from ansible_collections.gpufleet.ollama.plugins.module_utils._http import shown
from ansible_collections.gpufleet.ollama.plugins.module_utils._repository import BackupError, Cas, Policy, Repository, Restic, sftp_command
from ansible_collections.gpufleet.ollama.plugins.module_utils._sizes import human_to_bytes

REPOSITORY_SPEC: dict[str, Any] = {
    "repository": {"type": "str", "default": ""},
    "format": {"type": "str", "choices": ["restic", "cas"], "default": "restic"},
    "password": {"type": "str", "no_log": True},
    "environment": {"type": "dict", "default": {}, "no_log": True},
    "restic_options": {"type": "list", "elements": "str", "default": []},
    "ssh_key_path": {"type": "str", "default": "", "no_log": False},
    "ssh_known_hosts_path": {"type": "str", "default": ""},
    "rate_limit": {"type": "str", "default": ""},
    "lock_timeout": {"type": "int", "default": 600},
}


def repository_of(options: Mapping[str, Any]) -> Repository:
    """The repository that the options mean. It is not opened. BackupError for what cannot be one."""
    secrets = {name: str(value) for name, value in (options.get("environment") or {}).items()}
    if options.get("password"):
        secrets["RESTIC_PASSWORD"] = options["password"]
    place = options.get("repository") or ""
    if place and shown(place) != place and not place.startswith("sftp:"):
        raise BackupError("repository has a password in it, and would be shown: give it as RESTIC_REPOSITORY in environment")
    place = secrets.get("RESTIC_REPOSITORY") or place
    if not place:
        raise BackupError("no repository is given: say where the backups are, such as s3:https://host/bucket, sftp:user@host:/path or /srv/backups")
    try:
        rate = human_to_bytes(options.get("rate_limit") or "")
    except ValueError as error:
        raise BackupError(f"rate_limit: {error}") from None
    if options.get("format") == "cas":
        if not place.startswith("/"):
            raise BackupError(f"{shown(place)} is no directory: format cas needs an absolute path; choose format restic for storage elsewhere")
        return Cas(place, rate)
    if not any(name in secrets for name in ("RESTIC_PASSWORD", "RESTIC_PASSWORD_FILE", "RESTIC_PASSWORD_COMMAND")):
        raise BackupError("no password is given: restic encrypts what it stores")
    key, known = options.get("ssh_key_path"), options.get("ssh_known_hosts_path")
    if bool(key) != bool(known):
        raise BackupError("give both of ssh_key_path and ssh_known_hosts_path, or none of them")
    command = sftp_command(place, key, known) if key and known else ""
    extended = [*(options.get("restic_options") or []), *([f"sftp.command={command}"] if command else [])]
    return Restic(place, secrets, extended, rate, options.get("lock_timeout", 600))


def policy_of(options: Mapping[str, Any]) -> Policy:
    """How many backups stay. BackupError for a number below 0."""
    policy = Policy(*(int(options.get(f"keep_{name}") or 0) for name in Policy._fields))
    if min(policy) < 0:
        raise BackupError("keep_daily, keep_weekly and keep_monthly are numbers of backups: give 0 or more")
    return policy
