#!/usr/bin/python
# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

# The action plugin of this name does it all.

from __future__ import annotations

DOCUMENTATION = r"""
module: ollama_gateway_keys
short_description: Make and rotate the API keys of a gateway's clients
version_added: 0.1.0
description:
  - Keeps a file of the controller with the variable C(vault_gateway_keys), encrypted with Ansible's vault. For each client it holds a list of
    keys, the newest first, which an entry of C(ollama_gateway_clients) takes as C(keys).
  - Keys are made of 48 random letters and digits. They are in no result, diff or log. What names a key is its id, the first 8 hex digits of
    its SHA-256.
  - A key that has expired is dropped whenever its client is named.
  - The file is replaced whole, with mode 0600. It stays encrypted with the vault password and the vault id that it has; a new one gets
    C(vault_encrypt_identity), or else the first password that Ansible was given. A link is followed. Of comments only the first lines are
    kept, and no other variable may be in the file.
  - A file that is not encrypted is refused, since its keys may be known to others.
  - Several plays may change the file at the same time. A change that an editor made meanwhile is an error, and is kept.
  - It runs within Ansible on the controller, on behalf of any host, and connects to none. Use C(run_once).
author:
  - gpufleet.ollama contributors (@gpufleet)
attributes:
  check_mode:
    support: full
    description: Writes nothing; a key that would be made has no id yet.
  diff_mode:
    support: full
    description: Shows a line for each key, with its id, when it was made and when it expires.
options:
  path:
    description:
      - The file on the controller, for example C(prod/group_vars/all/gateway_keys.yml). Its directory must be there.
      - A relative path begins where C(ansible-playbook) was started.
    type: path
    required: true
  clients:
    description: Names of the clients. Keys of other clients stay as they are.
    type: list
    elements: str
    required: true
  state:
    description:
      - With V(present) each client has at least one key.
      - With V(absent) it has none.
    type: str
    choices: [present, absent]
    default: present
  rotate:
    description:
      - Make a new key beside the old ones, which expire O(grace_seconds) from now. An earlier expiry stays.
      - A client whose rotation began, so that all its keys but the newest expire, is left as it is.
    type: bool
    default: false
  retire:
    description: Drop all keys but the newest.
    type: bool
    default: false
  grace_seconds:
    description: How long the old keys stay valid with O(rotate). The default is a week.
    type: int
    default: 604800
"""

EXAMPLES = r"""
- name: Make a key for a new client
  gpufleet.ollama.ollama_gateway_keys:
    path: "{{ inventory_dir }}/group_vars/all/gateway_keys.yml"
    clients: [team-b]
  run_once: true

- name: Make new keys, and let the old ones expire in three days
  gpufleet.ollama.ollama_gateway_keys:
    path: "{{ inventory_dir }}/group_vars/all/gateway_keys.yml"
    clients: [team-a, team-b]
    rotate: true
    grace_seconds: 259200
  run_once: true

- name: Drop the old keys
  gpufleet.ollama.ollama_gateway_keys:
    path: "{{ inventory_dir }}/group_vars/all/gateway_keys.yml"
    clients: [team-a, team-b]
    retire: true
  run_once: true
"""

RETURN = r"""
path:
  description: The whole path of the file.
  returned: success
  type: str
  sample: /home/op/fleet/prod/group_vars/all/gateway_keys.yml
clients:
  description: The clients that were asked for, with their keys.
  returned: success
  type: list
  elements: dict
  sample: [{name: team-a, count: 1, keys: [{id: 5c6a2e0f, made: "2026-11-27T09:00:00Z", expires: ""}]}]
  contains:
    name:
      description: Name of the client.
      type: str
    count:
      description: How many keys it has.
      type: int
    keys:
      description: Its keys, the newest first.
      type: list
      elements: dict
      contains:
        id:
          description: The first 8 hex digits of the key's SHA-256. Empty for a key that check mode foresees.
          type: str
        made:
          description: When it was made, in UTC. Empty when that is not known.
          type: str
        expires:
          description: From when on it is refused, in UTC. Empty for never.
          type: str
added:
  description: Ids of the keys that were made.
  returned: success
  type: list
  elements: str
  sample: [5c6a2e0f]
removed:
  description: Ids of the keys that were dropped.
  returned: success
  type: list
  elements: str
  sample: [9d1f4b7a]
"""
