#!/usr/bin/python
# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: ollama_custom_model
short_description: Build a model of an Ollama instance from another one or from a GGUF file
version_added: 0.1.0
description:
  - Builds a model through the API of Ollama, from a model of its store or from a GGUF file, with parameters and texts of its own.
  - It is built when it is absent, when its definition differs from the one that it was built from, when what it is built from has changed, and
    when it is no longer what was built. For that a record of each model is kept in the store, in C(.gpufleet/custom). A model that has no
    record is built once.
  - What the definition leaves out comes from the base. Ollama cannot take a text away that the base has.
  - Ollama stores a rewritten copy of a GGUF file, so a build needs twice the room of the file for a while. The file that was uploaded is deleted
    again unless a model uses it; after a build that failed Ollama does it, at a start more than an hour later.
  - Run as root it reads the files at O(from) and O(adapters) as root, and touches the store as the owner of the store.
  - M(gpufleet.ollama.ollama_model) with O(gpufleet.ollama.ollama_model#module:state=absent) deletes such a model like any other.
author:
  - gpufleet.ollama contributors (@gpufleet)
extends_documentation_fragment:
  - gpufleet.ollama.connection
attributes:
  check_mode:
    support: full
    description:
      - Nothing is built, uploaded, downloaded or recorded. Files at O(from) are hashed. A base or a file that is not there is taken for one that
        comes before, and an instance that does not answer for one without models.
  diff_mode:
    support: full
    description: Shows the definition before and after; of long texts the first line and a hash.
options:
  name:
    description: Name of the model, C([host/][namespace/]model[:tag]).
    type: str
    required: true
    aliases: [model]
  store:
    description: Directory of the models of this instance (its C(OLLAMA_MODELS)), on this host.
    type: path
    required: true
  from:
    description:
      - What the model is built from; the name of a model that the instance has, the absolute path of a GGUF file on this host, or its URL.
      - A model is never pulled for this.
    type: str
    required: true
  sha256:
    description: SHA-256 of the file at O(from), 64 hex digits. Needed for a URL. A file at a path is compared with it before anything is done.
    type: str
  adapters:
    description: An adapter (LoRA) in a GGUF file. Ollama takes one.
    type: list
    elements: dict
    suboptions:
      path:
        description: Absolute path of the file on this host. Exactly one of O(adapters[].path) and O(adapters[].url) is needed.
        type: path
      url:
        description: URL of the file.
        type: str
      sha256:
        description: SHA-256 of the file, 64 hex digits. Needed for a URL.
        type: str
  template:
    description: Template of the prompt, in Go's syntax.
    type: str
  system:
    description: System prompt.
    type: str
  license:
    description: A text, or a list of them; added to those of the base.
    type: raw
  parameters:
    description:
      - Parameters such as C(num_ctx), C(temperature) and C(stop). Numbers may be given as text.
      - A name that Ollama does not know is an error here; Ollama itself would ignore it.
    type: dict
  messages:
    description: The beginning of each chat with the model.
    type: list
    elements: dict
    suboptions:
      role:
        description: Who says it.
        type: str
        choices: [system, user, assistant]
        required: true
      content:
        description: What is said.
        type: str
        required: true
  quantize:
    description: Type that the weights are quantised to, such as V(q4_K_M). They must be F16, BF16 or F32.
    type: str
  reserve:
    description: Space that is left free on the disk of the store, such as V(10G), when a file is uploaded.
    type: str
    default: 1G
  proxy:
    description:
      - The proxies that files at a URL are downloaded through, instead of those of the environment (C(http_proxy), C(https_proxy), C(no_proxy)).
        An empty one means none.
      - The instance at O(url) is never asked through one.
    type: dict
    suboptions:
      https:
        description: URL of the proxy for URLs of https, perhaps with a name and a password.
        type: str
      http:
        description: URL of the proxy for URLs of http, perhaps with a name and a password.
        type: str
      bypass:
        description: Hosts that are asked directly, as C(no_proxy) has them.
        type: str
"""

EXAMPLES = r"""
- name: Build a model with a longer context and a system prompt
  gpufleet.ollama.ollama_custom_model:
    name: helpdesk
    store: /var/lib/ollama/models
    from: llama3.2:1b
    system: You answer questions about our printers.
    parameters:
      num_ctx: 16384
      temperature: 0.2

- name: Build a model from a file on an internal server
  gpufleet.ollama.ollama_custom_model:
    name: ourmodel:7b
    store: /var/lib/ollama/models
    from: https://files.example.org/ourmodel-7b-f16.gguf
    sha256: c238986e61d40c0cc5f4a9b9e40b9eea104350b77efa34741fc134e105cb9533
    quantize: q4_K_M
    template: "{{ '{{ .System }} {{ .Prompt }}' }}"
"""

RETURN = r"""
name:
  description: Name of the model as the instance shows it, with its tag.
  type: str
  returned: success
  sample: helpdesk:latest
digest:
  description: SHA-256 of the model's manifest, 64 hex digits. Empty when it is to be built, in check mode.
  type: str
  returned: success
  sample: baf6a787fdffd633537aa2eb51cfd54cb93ff08e28040095462bb63daf552878
size:
  description: Size of the model in bytes. 0 when it is to be built, in check mode.
  type: int
  returned: success
  sample: 1321098329
base_digest:
  description: Digest of the model that it is built from, 64 hex digits. Empty when it is built from a file, and while the base is not there.
  type: str
  returned: success
  sample: 9077fe9d2ae1a4a41a868836b56b8163731a8fe16621397028c2c76f838c6907
reason:
  description: Why it was built, or would be. Empty when it is as it should be.
  type: str
  returned: success
  sample: its definition has changed
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpufleet.ollama.plugins.module_utils._client import CONNECTION_SPEC, OllamaClient, OllamaError
from ansible_collections.gpufleet.ollama.plugins.module_utils._custom import Builder, CustomError, Definition, bytes_of
from ansible_collections.gpufleet.ollama.plugins.module_utils._http import PROXY_SPEC, Http, proxies_of
from ansible_collections.gpufleet.ollama.plugins.module_utils._store import Store, StoreError

RETRIES = 2
ARGUMENT_SPEC = {
    "name": {"type": "str", "required": True, "aliases": ["model"]},
    "store": {"type": "path", "required": True},
    "from": {"type": "str", "required": True},
    "sha256": {"type": "str"},
    "adapters": {
        "type": "list",
        "elements": "dict",
        "options": {"path": {"type": "path"}, "url": {"type": "str"}, "sha256": {"type": "str"}},
        "required_one_of": [["path", "url"]],
        "mutually_exclusive": [["path", "url"]],
    },
    "template": {"type": "str"},
    "system": {"type": "str"},
    "license": {"type": "raw"},
    "parameters": {"type": "dict"},
    "messages": {
        "type": "list",
        "elements": "dict",
        "options": {
            "role": {"type": "str", "choices": ["system", "user", "assistant"], "required": True},
            "content": {"type": "str", "required": True},
        },
    },
    "quantize": {"type": "str"},
    "reserve": {"type": "str", "default": "1G"},
    **PROXY_SPEC,
    **CONNECTION_SPEC,
}


def main() -> None:
    """Entry point."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    params = module.params
    client = OllamaClient(params["url"], params["timeout"])
    try:
        definition, reserve = Definition(params), bytes_of(params["reserve"])
        http = Http("gpufleet.ollama", params["timeout"], RETRIES, proxies=proxies_of(params["proxy"]))
        result = Builder(client, http, Store(params["store"]), definition, reserve, module.check_mode).ensure()
    except (CustomError, OllamaError, StoreError, OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
