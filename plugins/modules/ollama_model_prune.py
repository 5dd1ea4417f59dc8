#!/usr/bin/python
# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: ollama_model_prune
short_description: Delete the models of an Ollama instance that are not named
version_added: 0.1.0
description:
  - Deletes all models of an instance but those that are named, through the API of Ollama.
  - Ollama deletes the layers that no other model uses.
author:
  - gpufleet.ollama contributors (@gpufleet)
extends_documentation_fragment:
  - gpufleet.ollama.connection
attributes:
  check_mode:
    support: full
    description: Nothing is deleted. An instance that does not answer is taken for one without models.
  diff_mode:
    support: full
    description: Shows the models before and after.
options:
  keep:
    description:
      - Names of the models that stay, C([host/][namespace/]model[:tag]). They need not be there.
      - An empty list is refused, as it is rather a slip than a wish to delete everything.
    type: list
    elements: str
    required: true
    aliases: [name]
"""

EXAMPLES = r"""
- name: Delete what nobody asked for
  gpufleet.ollama.ollama_model_prune:
    keep: [llama3.2:1b, all-minilm]
"""

RETURN = r"""
removed:
  description: Names of the models that were deleted, or would be in check mode.
  type: list
  elements: str
  returned: success
  sample: [smollm2:135m]
kept:
  description: Names of the models that stay.
  type: list
  elements: str
  returned: success
  sample: [llama3.2:1b]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpufleet.ollama.plugins.module_utils._client import (
    CONNECTION_SPEC,
    OllamaClient,
    OllamaError,
    OllamaUnreachable,
)
from ansible_collections.gpufleet.ollama.plugins.module_utils._names import parse


def prune(client: OllamaClient, keep: list[str], check_mode: bool) -> dict[str, Any]:
    """Delete all models but some. Returns the module's result."""
    if not keep:
        raise ValueError("keep is empty, which would delete all models: name those that stay")
    keys = {parse(name).key for name in keep}
    try:
        there = sorted(item["name"] for item in client.models())
    except OllamaUnreachable:
        if not check_mode:
            raise
        there = []
    removed = [name for name in there if not _is_kept(name, keys)]
    for name in [] if check_mode else removed:
        client.delete(name)
    kept = [name for name in there if name not in removed]
    diff = {"before": "".join(f"{name}\n" for name in there), "after": "".join(f"{name}\n" for name in kept)}
    return {"changed": bool(removed), "removed": removed, "kept": kept, "diff": diff}


def _is_kept(name: str, keys: set[str]) -> bool:
    try:
        return parse(name).key in keys
    except ValueError:
        # a name that Ollama allows and we do not is never one that was named
        return False


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={"keep": {"type": "list", "elements": "str", "required": True, "aliases": ["name"]}, **CONNECTION_SPEC},
        supports_check_mode=True,
    )
    client = OllamaClient(module.params["url"], module.params["timeout"])
    try:
        module.exit_json(**prune(client, module.params["keep"], module.check_mode))
    except (OllamaError, ValueError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
