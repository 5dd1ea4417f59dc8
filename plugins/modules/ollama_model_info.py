#!/usr/bin/python
# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: ollama_model_info
short_description: What models an instance of Ollama has, and what is missing to those that it is to have
version_added: 0.1.0
description:
  - Lists the models of a store on disk and of the server that serves it, compares them with a lock file, and counts the bytes that the wanted
    ones still need.
  - It works without a server, without a store, and on a host that has neither yet.
author:
  - gpufleet.ollama contributors (@gpufleet)
attributes:
  check_mode:
    support: full
    description: Reads only.
  diff_mode:
    support: none
    description: Changes nothing.
options:
  store:
    description: Directory of the models of the instance (its C(OLLAMA_MODELS)), which need not exist. Empty means that the disk is not looked at.
    type: path
    default: ""
  url:
    description: Base URL of the instance, as seen from the host that the module runs on. Empty means that no server is asked.
    type: str
    default: http://127.0.0.1:11434
  timeout:
    description: Longest silence within an answer, in seconds.
    type: int
    default: 30
  lock:
    description: The lock file of the models; names, and the entry of each.
    type: dict
    default: {}
  name:
    description: Names of the models that the instance is to have.
    type: list
    elements: str
    default: []
  metadata:
    description: Whether the header of the weights of each model in the store is read.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: See what models there are and how many bytes are missing
  gpufleet.ollama.ollama_model_info:
    store: /var/lib/ollama/models
    lock: "{{ lookup('ansible.builtin.file', 'models.lock') | from_json }}"
    name: [llama3.2:1b, helpdesk]
"""

RETURN = r"""
models:
  description: The models, those of the store and those that only the server lists, sorted by name.
  type: list
  elements: dict
  returned: success
  contains:
    name:
      description: Name in its shortest form, with the tag.
      type: str
      returned: success
      sample: llama3.2:1b
    digest:
      description: SHA-256 of the manifest, 64 hex digits.
      type: str
      returned: success
      sample: baf6a787fdffd633537aa2eb51cfd54cb93ff08e28040095462bb63daf552878
    size:
      description: Bytes of all that the manifest names.
      type: int
      returned: success
      sample: 1321098329
    format:
      description: Format of the weights.
      type: str
      returned: success
      sample: gguf
    family:
      description: Architecture.
      type: str
      returned: success
      sample: llama
    parameter_size:
      description: Number of parameters, as Ollama shows it.
      type: str
      returned: success
      sample: 1.2B
    quantization:
      description: Type of the weights.
      type: str
      returned: success
      sample: Q8_0
    capabilities:
      description: What the server says that it can; empty when none answers, and before Ollama 0.30.
      type: list
      elements: str
      returned: success
      sample: [completion, tools]
    loaded:
      description: Whether the server has it in memory, perhaps under another name of the same digest.
      type: bool
      returned: success
      sample: true
    size_vram:
      description: Bytes of it in the memory of GPUs; 0 when it is not loaded.
      type: int
      returned: success
      sample: 1900000000
    processor_gpu:
      description: Share of it in the memory of GPUs, 0.0 to 1.0; null when it is not loaded.
      type: float
      returned: success
      sample: 1.0
    expires_at:
      description: When it is unloaded, as the server says; empty when it is not loaded.
      type: str
      returned: success
      sample: "2026-11-22T12:05:00Z"
    stale:
      description: Whether the lock names another digest; null when the model is not locked.
      type: bool
      returned: success
      sample: false
    complete:
      description: Whether every blob is there, in the right size; null when only the server lists it.
      type: bool
      returned: success
      sample: true
    unverified_bytes:
      description: Bytes of its blobs that were never compared with their digests, or were touched since; null when only the server lists it.
      type: int
      returned: success
      sample: 0
    weights_bytes:
      description: Bytes of the weights, projector and adapter. The whole size when only the server lists it.
      type: int
      returned: success
      sample: 1321082688
    metadata:
      description: What the header of the weights says; empty when it was not asked for or cannot be read.
      type: dict
      returned: success
      sample: {architecture: llama, block_count: 16, context_length: 131072, embedding_length: 2048}
  sample: []
missing_bytes:
  description:
    - Bytes that the models in O(name) still need, each blob once, without RV(staged_bytes). They are known of models that are locked, and of
      those that are there and not complete.
  type: int
  returned: success
  sample: 1321098329
staged_bytes:
  description: Bytes of them that were downloaded before and are kept to go on from.
  type: int
  returned: success
  sample: 0
absent:
  description: Those of O(name) that are not there.
  type: list
  elements: str
  returned: success
  sample: [helpdesk:latest]
unknown:
  description: Those of RV(absent) that are not locked, so that their size is not known.
  type: list
  elements: str
  returned: success
  sample: [helpdesk:latest]
store_bytes:
  description: Bytes of all blobs of the store; null without O(store).
  type: int
  returned: success
  sample: 1321098329
free_bytes:
  description: Bytes that are free where the store is, or will be; null without O(store).
  type: int
  returned: success
  sample: 51539607552
orphaned_blobs:
  description: Blobs that no manifest names, C(digest) and C(size). Empty while a manifest cannot be read, since it may name them.
  type: list
  elements: dict
  returned: success
  sample: [{digest: "sha256:6e4c38e1172f42fdbff13edf9a7a017679fb82b0fde415a3e8b3c31c6ed4a4e4", size: 1321082688}]
partial_blobs:
  description: What downloads left that broke off or still go on, C(path) and C(size), the bytes on disk.
  type: list
  elements: dict
  returned: success
  sample: []
broken_manifests:
  description: Files among the manifests that are none. Ollama deletes no unused blobs while there is one.
  type: list
  elements: str
  returned: success
  sample: []
server_reachable:
  description: Whether a server answered.
  type: bool
  returned: success
  sample: true
version:
  description: Version of the server; empty when none answered.
  type: str
  returned: success
  sample: 0.34.4
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpufleet.ollama.plugins.module_utils._client import OllamaClient, OllamaError
from ansible_collections.gpufleet.ollama.plugins.module_utils._models import Survey, ask
from ansible_collections.gpufleet.ollama.plugins.module_utils._store import Store


def inspect(params: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The module's result, and warnings."""
    server = ask(OllamaClient(params["url"], params["timeout"]) if params["url"] else None)
    survey = Survey(Store(params["store"]) if params["store"] else None, server, params["lock"], params["metadata"])
    result = {
        "models": survey.models(),
        **survey.wanted(params["name"]),
        **survey.disk(),
        "server_reachable": server is not None,
        "version": server.version if server else "",
    }
    return result, survey.warnings


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "store": {"type": "path", "default": ""},
            "url": {"type": "str", "default": "http://127.0.0.1:11434"},
            "timeout": {"type": "int", "default": 30},
            "lock": {"type": "dict", "default": {}},
            "name": {"type": "list", "elements": "str", "default": []},
            "metadata": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    try:
        result, warnings = inspect(module.params)
    except (OllamaError, OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    for warning in warnings:
        module.warn(warning)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
