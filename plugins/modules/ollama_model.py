#!/usr/bin/python
# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: ollama_model
short_description: Pull or delete a model of an Ollama instance
version_added: 0.1.0
description:
  - Makes sure that a model is present or absent, through the API of Ollama.
  - Names are exact. V(llama3.2) means V(llama3.2:latest), and is not present because V(llama3.2:1b) is.
  - The result is C(changed) only when the digest behind the name changes.
author:
  - gpufleet.ollama contributors (@gpufleet)
extends_documentation_fragment:
  - gpufleet.ollama.connection
attributes:
  check_mode:
    support: full
    description: Nothing is pulled or deleted. An instance that does not answer is taken for one without models.
  diff_mode:
    support: full
    description: Shows the digest before and after; after a pull in check mode it is not known yet.
options:
  name:
    description: Name of the model, C([host/][namespace/]model[:tag]).
    type: str
    required: true
    aliases: [model]
  state:
    description: V(present) pulls the model if it is missing; V(absent) deletes it.
    type: str
    choices: [present, absent]
    default: present
  refresh:
    description: Ask the registry also when the model is present, and take what the tag means there now.
    type: bool
    default: false
  insecure:
    description: Speak plain HTTP to the registry in the name. It does not switch off certificate checks.
    type: bool
    default: false
  retries:
    description: How often a pull that broke off is started again. Ollama goes on where it was.
    type: int
    default: 3
"""

EXAMPLES = r"""
- name: Pull a model
  gpufleet.ollama.ollama_model:
    name: llama3.2:1b

- name: Delete a model of an instance on another port
  gpufleet.ollama.ollama_model:
    name: llama3.2:1b
    state: absent
    url: http://127.0.0.1:11435
"""

RETURN = r"""
name:
  description: Name of the model as the instance shows it, with its tag.
  type: str
  returned: success
  sample: llama3.2:latest
digest:
  description: SHA-256 of the model's manifest, 64 hex digits. Empty when the model is absent, or not yet there in check mode.
  type: str
  returned: success
  sample: baf6a787fdffd633537aa2eb51cfd54cb93ff08e28040095462bb63daf552878
size:
  description: Size of the model in bytes. 0 when it is absent.
  type: int
  returned: success
  sample: 1321098329
"""

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpufleet.ollama.plugins.module_utils._client import (
    CONNECTION_SPEC,
    OllamaClient,
    OllamaError,
    OllamaUnreachable,
)
from ansible_collections.gpufleet.ollama.plugins.module_utils._names import display_name


class Model:
    """One model of one instance, and the decision what is to be done about it."""

    def __init__(self, client: OllamaClient, params: dict[str, Any], check_mode: bool) -> None:
        self.client = client
        self.params = params
        self.check_mode = check_mode
        self.name = display_name(params["name"])

    def read(self) -> dict[str, Any]:
        """The model as it is: digest and size, empty when it is absent."""
        try:
            item = self.client.find(self.name)
        except OllamaUnreachable:
            if not self.check_mode:
                raise
            item = None
        return {"digest": item["digest"], "size": item["size"]} if item else {"digest": "", "size": 0}

    def ensure(self) -> dict[str, Any]:
        """Bring the model into the wanted state and return the module's result."""
        before = after = self.read()
        if self.params["state"] == "absent":
            if before["digest"]:
                after = {"digest": "", "size": 0}
                if not self.check_mode:
                    self.client.delete(self.name)
        elif not before["digest"] or self.params["refresh"]:
            if not self.check_mode:
                self.pull()
                after = self.read()
                if not after["digest"]:
                    raise OllamaError(f"{self.name} was pulled without an error, but {self.client.url} does not list it")
            elif not before["digest"]:
                after = {"digest": "(to be pulled)", "size": 0}
        return {
            "changed": before["digest"] != after["digest"],
            "name": self.name,
            "digest": "" if after["digest"].startswith("(") else after["digest"],
            "size": after["size"],
            "diff": {"before": self.describe(before), "after": self.describe(after)},
        }

    def describe(self, state: dict[str, Any]) -> str:
        """One line for the diff."""
        return f"{self.name} {state['digest'] or 'absent'}\n"

    def pull(self) -> None:
        """Pull, and start again when it breaks off: Ollama resumes, and a digest mismatch heals on the next try."""
        for attempt in range(self.params["retries"] + 1):
            try:
                for _line in self.client.pull(self.name, self.params["insecure"]):
                    pass
                return
            except OllamaError as error:
                if "file does not exist" in str(error):
                    raise OllamaError(f"{error}: the registry has no such model or tag") from None
                if attempt == self.params["retries"]:
                    raise
                time.sleep(2**attempt)


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True, "aliases": ["model"]},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "refresh": {"type": "bool", "default": False},
            "insecure": {"type": "bool", "default": False},
            "retries": {"type": "int", "default": 3},
            **CONNECTION_SPEC,
        },
        supports_check_mode=True,
    )
    client = OllamaClient(module.params["url"], module.params["timeout"])
    try:
        module.exit_json(**Model(client, module.params, module.check_mode).ensure())
    except (OllamaError, ValueError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
