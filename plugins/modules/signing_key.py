#!/usr/bin/python
# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: signing_key
short_description: Bring the key that a package repository is signed with, known by its fingerprint
version_added: 0.1.0
description:
  - Fetches an armored OpenPGP key and writes it to a file only when every key in it has a fingerprint that is wanted.
  - A file that holds such a key already is left as it is, and nothing is fetched.
author:
  - gpufleet.ollama contributors (@gpufleet)
attributes:
  check_mode:
    support: full
    description: The key is fetched and checked, and not written.
  diff_mode:
    support: none
    description: A key says nothing to a reader.
options:
  url:
    description: Where the key is.
    type: str
    required: true
  fingerprints:
    description: Fingerprints that the key may have, each with all its hex digits; blanks and colons in them do not count.
    type: list
    elements: str
    required: true
  path:
    description: The file. Its directory must be there.
    type: path
    required: true
  advice:
    description: What the operator can do when it fails, in a sentence; it ends the message.
    type: str
    default: ""
  timeout:
    description: Longest silence of the server, in seconds.
    type: int
    default: 10
"""

EXAMPLES = r"""
- name: Trust the key of the repository
  gpufleet.ollama.signing_key:
    url: https://apt.example.org/gpg.key
    fingerprints: [C95B321B61E88C1809C4F759DDCAE044F796ECB0]
    path: /usr/share/keyrings/example.asc
"""

RETURN = r"""
fingerprints:
  description: Fingerprints of the keys in the file.
  type: list
  elements: str
  returned: success
  sample: [C95B321B61E88C1809C4F759DDCAE044F796ECB0]
"""

import os
import tempfile
import time

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import fetch_url

from ansible_collections.gpufleet.ollama.plugins.module_utils import _openpgp, _probe

TRIES = 3
PAUSE = 2.0
# a key has some kilobytes
MAX_BYTES = 1 << 20


def fetch(module: AnsibleModule, url: str, timeout: int) -> str:
    """The text at a URL. KeyProblem when it does not come."""
    for attempt in range(TRIES):
        answer, info = fetch_url(module, url, timeout=timeout)
        if info["status"] == 200:
            return answer.read(MAX_BYTES).decode("utf-8", "replace")
        if attempt < TRIES - 1:
            time.sleep(PAUSE)
    raise _openpgp.KeyProblem(f"it cannot be fetched: {info['msg']}")


def present(path: str, wanted: list[str]) -> list[str]:
    """The fingerprints of the file that is there; empty when there is none, or another one."""
    try:
        return _openpgp.check(_probe.read(path), wanted)
    except _openpgp.KeyProblem:
        return []


def write(module: AnsibleModule, path: str, text: str) -> None:
    """Put a key into its place, whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=module.tmpdir)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    module.atomic_move(temporary, path)


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            # public, whatever their name says
            "fingerprints": {"type": "list", "elements": "str", "required": True, "no_log": False},
            "path": {"type": "path", "required": True},
            "advice": {"type": "str", "default": ""},
            "timeout": {"type": "int", "default": 10},
        },
        supports_check_mode=True,
    )
    params = module.params
    path = params["path"]
    try:
        # a wrong option is said before anything is fetched
        wanted = [_openpgp.fingerprint(value) for value in params["fingerprints"]]
        found, changed = present(path, wanted), False
        if not found:
            text = fetch(module, params["url"], params["timeout"])
            found, changed = _openpgp.check(text, wanted), True
            if not module.check_mode:
                write(module, path, text)
    except _openpgp.KeyProblem as error:
        advice = f". {params['advice']}" if params["advice"] else ""
        module.fail_json(msg=f"{params['url']}: {error}. Nothing was trusted{advice}")
    # apt reads it as a user of its own
    if os.path.exists(path):
        changed = module.set_mode_if_different(path, 0o644, changed)
    module.exit_json(changed=changed, fingerprints=found)


if __name__ == "__main__":
    main()
