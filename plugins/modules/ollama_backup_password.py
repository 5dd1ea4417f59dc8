#!/usr/bin/python
# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: ollama_backup_password
short_description: Change the password of a repository of backups
version_added: 0.1.0
description:
  - Lets a new password open a repository of restic beside the old one, and takes the old one away later, when all hosts have the new one.
  - Nothing of the data is written anew. Who has a copy of the repository from before, and the old password, can still read that.
  - A repository of O(format=cas) has no password, and none is changed.
requirements:
  - restic (package C(restic) of Debian 12 or 13)
author:
  - gpufleet.ollama contributors (@gpufleet)
extends_documentation_fragment:
  - gpufleet.ollama.repository
attributes:
  check_mode:
    support: full
    description: Says whether a password would be added or taken away.
  diff_mode:
    support: full
    description: Says which of the two open the repository, and shows none of them.
options:
  old_password:
    description: The password before.
    type: str
    required: true
  state:
    description:
      - With V(present) O(password) opens the repository, and so does O(old_password) if it did.
      - With V(only) O(old_password) does not open it any more. O(password) must do so already.
    type: str
    choices: [present, only]
    default: present
  allow_missing:
    description: Whether a repository that is not there needs nothing, since it is made with O(password) afterwards, and is no failure.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Let the new password in
  gpufleet.ollama.ollama_backup_password:
    repository: s3:https://s3.example.com/backups/fleet
    password: "{{ vault_backup_password }}"
    old_password: "{{ vault_backup_old_password }}"
    environment: "{{ vault_backup_environment }}"

- name: Take the old one away
  gpufleet.ollama.ollama_backup_password:
    repository: s3:https://s3.example.com/backups/fleet
    password: "{{ vault_backup_password }}"
    old_password: "{{ vault_backup_old_password }}"
    environment: "{{ vault_backup_environment }}"
    state: only
"""

RETURN = r"""
opens:
  description: Which of V(password) and V(old_password) open the repository now, in check mode before.
  type: list
  elements: str
  returned: success
  sample: [password]
kind:
  description: What kind of failure it was, as that of M(gpufleet.ollama.ollama_backup).
  type: str
  returned: failure
  sample: password
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpufleet.ollama.plugins.module_utils._backup_options import REPOSITORY_SPEC, repository_of
from ansible_collections.gpufleet.ollama.plugins.module_utils._repository import BackupError, Restic

ARGUMENT_SPEC: dict[str, Any] = {
    **REPOSITORY_SPEC,
    "old_password": {"type": "str", "required": True, "no_log": True},
    "state": {"type": "str", "choices": ["present", "only"], "default": "present"},
    "allow_missing": {"type": "bool", "default": False},
}


def opens(repository: Restic) -> bool:
    """Whether its password is right. BackupError when nobody can tell."""
    try:
        repository.open()
    except BackupError as error:
        if error.kind == "password":
            return False
        raise
    return True


def ensure(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """Add or take away a password. Returns the module's result."""
    if params["password"] == params["old_password"]:
        raise BackupError("password and old_password are the same: give a new password, and the one that it takes the place of")
    if params["password"] and params["password"] != params["password"].strip():
        raise BackupError("password begins or ends with a blank, which restic cuts off where it reads it from a file: give one without")
    # a file with a password would win over both
    environment = {name: value for name, value in params["environment"].items() if not name.startswith("RESTIC_PASSWORD")}
    new, old = (repository_of({**params, "environment": environment, "password": params[name]}) for name in ("password", "old_password"))
    if not isinstance(new, Restic):
        return {"changed": False, "opens": [], "diff": {"before": "", "after": ""}}
    try:
        before = {"password": opens(new), "old_password": opens(old)}
    except BackupError as error:
        if error.kind == "missing" and params["allow_missing"]:
            return {"changed": False, "opens": [], "diff": {"before": "", "after": ""}}
        raise
    if not any(before.values()):
        raise BackupError(f"neither password nor old_password opens the repository {new.where}", "password")
    if params["state"] == "only" and not before["password"]:
        raise BackupError(f"password does not open the repository {new.where} yet, so old_password stays: add it first, with state=present", "password")
    after = {**before, "password": True} if params["state"] == "present" else {"password": True, "old_password": False}
    if after != before and not check_mode:
        if params["state"] == "present":
            old.add_password(params["password"])
        # it may have been added twice, by two hosts at once
        while params["state"] == "only" and opens(old):
            new.remove_key(old.key())
        if not opens(new):
            raise BackupError(f"the repository {new.where} does not open with the new password: the old one was not taken away", "password")
    names = [[name for name, good in found.items() if good] for found in (before, after)]
    before_text, after_text = ("".join(f"{name} opens it\n" for name in found) for found in names)
    return {"changed": after != before, "opens": names[0 if check_mode else 1], "diff": {"before": before_text, "after": after_text}}


def main() -> None:
    """Entry point."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    try:
        module.exit_json(**ensure(module.params, module.check_mode))
    except BackupError as error:
        module.fail_json(msg=str(error), kind=error.kind)


if __name__ == "__main__":
    main()
