#!/usr/bin/python
# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: ollama_backup
short_description: Back up the models of a store
version_added: 0.1.0
description:
  - Saves what no registry has of the models in a store, and an index with all manifests to the byte. A layer is left out only when O(lock) proves
    that a registry has it, so a fleet of library models costs next to nothing, and a model of one's own is safe wherever Ollama filed it.
  - Ollama may run meanwhile. What is saved is held by hard links, and is compared with its digest when nobody did that yet; a blob that is removed,
    rotten or changed meanwhile ends the backup, and the last good one stays.
  - A backup is there whole or not at all. M(gpufleet.ollama.ollama_restore) brings it back, to the same host or another one.
  - Root reads the store as its owner. The repository is used as the user that the module runs as.
requirements:
  - restic (package C(restic) of Debian 12 or 13) for O(format=restic)
author:
  - gpufleet.ollama contributors (@gpufleet)
extends_documentation_fragment:
  - gpufleet.ollama.repository
attributes:
  check_mode:
    support: full
    description: Says what would be saved, with the bytes. Nothing is written, and a repository that does not exist is taken for an empty one.
  diff_mode:
    support: full
    description: Shows the models of the newest backup and those of the store, each with its digest.
options:
  store:
    description: Directory of the models, as C(OLLAMA_MODELS) of the instance says.
    type: path
    default: /var/lib/ollama/models
  host:
    description: What the host is called in the repository. Give C(inventory_hostname), by which a restore looks for it.
    type: str
    required: true
  lock:
    description: Entries of a lock file by the names of models. Their layers are left out.
    type: dict
    default: {}
  keep:
    description: Names of models whose layers are saved though O(lock) has them.
    type: list
    elements: str
    default: []
  owners:
    description:
      - The host that is to save a model first, by the name of the model, where several hosts have it. The others wait until its backup has what they
        have of it, so that they need not send it again.
    type: dict
    default: {}
  owner_timeout:
    description: How many seconds to wait for O(owners) at most; then this host saves it itself.
    type: int
    default: 0
  force:
    description: Make a backup also when the newest one of this host has the same models.
    type: bool
    default: false
  initialise:
    description:
      - With V(missing) the repository is made where there is none. With V(never) that is a failure, so that a disk that is not mounted is no new
        repository. With V(only) it is made if need be, and nothing is saved. With V(check) it must be there, and nothing is saved.
    type: str
    choices: [missing, never, only, check]
    default: missing
  keep_daily:
    description: Backups of how many days stay, the last of each day. With this, O(keep_weekly) and O(keep_monthly) all 0, none is deleted.
    type: int
    default: 0
  keep_weekly:
    description: Backups of how many weeks stay.
    type: int
    default: 0
  keep_monthly:
    description: Backups of how many months stay.
    type: int
    default: 0
  release:
    description: Release of Ollama on the host, which the index notes for who reads it.
    type: str
    default: ""
  progress_path:
    description: File that is rewritten meanwhile, at most twice a second, as that of M(gpufleet.ollama.ollama_model).
    type: path
"""

EXAMPLES = r"""
- name: Back up to an S3 bucket
  gpufleet.ollama.ollama_backup:
    host: "{{ inventory_hostname }}"
    repository: s3:https://s3.example.com/backups/fleet
    password: "{{ vault_backup_password }}"
    environment:
      AWS_ACCESS_KEY_ID: "{{ vault_backup_key_id }}"
      AWS_SECRET_ACCESS_KEY: "{{ vault_backup_key }}"
    lock: "{{ (lookup('ansible.builtin.file', 'models.lock.yml') | from_yaml).models }}"
    keep_daily: 7

- name: Back up to a disk that is mounted, as plain files
  gpufleet.ollama.ollama_backup:
    host: "{{ inventory_hostname }}"
    format: cas
    repository: /mnt/backup/fleet
    initialise: never
"""

RETURN = r"""
models:
  description: The models of the store.
  type: list
  elements: dict
  returned: success
  contains:
    name:
      description: Name with its tag.
      type: str
      returned: success
      sample: support-bot:latest
    digest:
      description: SHA-256 of its manifest, 64 hex digits.
      type: str
      returned: success
      sample: baf6a787fdffd633537aa2eb51cfd54cb93ff08e28040095462bb63daf552878
    backup_bytes:
      description: Bytes of its layers that are in the backup.
      type: int
      returned: success
      sample: 512
    registry_bytes:
      description: Bytes of its layers that a registry has.
      type: int
      returned: success
      sample: 1321098329
  sample: [{name: support-bot:latest, digest: baf6a787fdffd633537aa2eb51cfd54cb93ff08e28040095462bb63daf552878, backup_bytes: 512, registry_bytes: 1321098329}]
backup_bytes:
  description: Bytes of all layers in the backup, each counted once.
  type: int
  returned: success
  sample: 512
registry_bytes:
  description: Bytes of the layers that were left out, each counted once.
  type: int
  returned: success
  sample: 1321098329
added_bytes:
  description: Bytes that the repository grew by. 0 in check mode.
  type: int
  returned: success
  sample: 4096
snapshot:
  description: Id of the backup in the repository. Empty in check mode, and when the newest one has the same models.
  type: str
  returned: success
  sample: 61715d5c
removed:
  description: How many old backups were deleted.
  type: int
  returned: success
  sample: 0
missing_bytes:
  description: RV(backup_bytes) when a backup was or would be made, else 0.
  type: int
  returned: success
  sample: 512
unverified_bytes:
  description: Always 0. What was not compared with its digest yet is compared by a backup.
  type: int
  returned: success
  sample: 0
seconds:
  description: Time that the module took.
  type: float
  returned: success
  sample: 5.2
kind:
  description:
    - What kind of failure it was. V(password), V(clock), V(disk), V(damaged), V(locked), V(keys), V(unreachable), V(missing), V(permission), V(removed),
      V(changed), V(store), V(version) or V(other).
  type: str
  returned: failure
  sample: unreachable
"""

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpufleet.ollama.plugins.module_utils._backup import Backup, Index
from ansible_collections.gpufleet.ollama.plugins.module_utils._backup_options import REPOSITORY_SPEC, policy_of, repository_of
from ansible_collections.gpufleet.ollama.plugins.module_utils._repository import BackupError, Repository
from ansible_collections.gpufleet.ollama.plugins.module_utils._sideload import Progress
from ansible_collections.gpufleet.ollama.plugins.module_utils._store import Store

ARGUMENT_SPEC: dict[str, Any] = {
    "store": {"type": "path", "default": "/var/lib/ollama/models"},
    "host": {"type": "str", "required": True},
    "lock": {"type": "dict", "default": {}},
    "keep": {"type": "list", "elements": "str", "default": [], "no_log": False},
    "owners": {"type": "dict", "default": {}},
    "owner_timeout": {"type": "int", "default": 0},
    "force": {"type": "bool", "default": False},
    "initialise": {"type": "str", "choices": ["missing", "never", "only", "check"], "default": "missing"},
    "keep_daily": {"type": "int", "default": 0, "no_log": False},
    "keep_weekly": {"type": "int", "default": 0, "no_log": False},
    "keep_monthly": {"type": "int", "default": 0, "no_log": False},
    "release": {"type": "str", "default": ""},
    "progress_path": {"type": "path"},
    **REPOSITORY_SPEC,
}


def listed(index: Index) -> list[dict[str, Any]]:
    """The models of an index, as the result shows them."""
    result = []
    for name, manifest in sorted(index.models.items()):
        places = [index.layers[layer.digest] for layer in manifest.layers]
        result.append({
            "name": name.display,
            "digest": manifest.digest.partition(":")[2],
            **{f"{place}_bytes": sum(layer.size for layer in places if layer.place == place) for place in ("backup", "registry")},
        })
    return result


def lines(index: Index | None) -> str:
    """The models for the diff."""
    return "".join(f"{name.display} {manifest.digest[7:]}\n" for name, manifest in sorted(index.models.items())) if index else ""


def opened(repository: Repository, make: bool, check_mode: bool) -> bool:
    """Open the repository. Returns whether it was, or in check mode has to be, made."""
    try:
        return repository.open(make=make and not check_mode)
    except BackupError as error:
        if check_mode and make and error.kind == "missing":
            return True
        raise


def ensure(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """Make a backup if there is need of one. Returns the module's result."""
    repository, policy = repository_of(params), policy_of(params)
    result: dict[str, Any] = {
        "snapshot": "", "added_bytes": 0, "removed": 0, "models": [], "backup_bytes": 0, "registry_bytes": 0, "missing_bytes": 0, "unverified_bytes": 0,
    }
    if params["initialise"] in ("only", "check"):
        made = opened(repository, params["initialise"] == "only", check_mode)
        return {**result, "changed": made, "diff": {"before": "no repository\n" if made else "repository\n", "after": "repository\n"}}
    backup = Backup(Store(params["store"]), repository, params["lock"], params["host"], params["keep"], params["release"])
    backup.owners, backup.owner_seconds = params["owners"], params["owner_timeout"]
    index = backup.plan()
    new = opened(repository, params["initialise"] == "missing", check_mode)
    newest = None if new and check_mode else backup.newest()
    changed = params["force"] or not index.same(newest)
    if changed and not check_mode:
        done = backup.run(policy, Progress(params["progress_path"], 1))
        index = done.index
        result.update(snapshot=done.saved.id, added_bytes=done.saved.added, removed=done.removed, warnings=[done.warning] if done.warning else [])
    saved = index.bytes_in("backup")
    return {
        **result, "changed": changed, "models": listed(index), "backup_bytes": saved, "registry_bytes": index.bytes_in("registry"),
        "missing_bytes": saved if changed else 0, "diff": {"before": lines(newest), "after": lines(index)},
    }


def main() -> None:
    """Entry point."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    began = time.monotonic()
    try:
        found = ensure(module.params, module.check_mode)
    except BackupError as error:
        module.fail_json(msg=str(error), kind=error.kind)
    except (ValueError, OSError) as error:
        module.fail_json(msg=str(error), kind="other")
    for warning in found.pop("warnings", []):
        module.warn(warning)
    module.exit_json(**found, seconds=round(time.monotonic() - began, 3))


if __name__ == "__main__":
    main()
