#!/usr/bin/python
# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: ollama_smoke_test
short_description: Let an Ollama instance run a model, and prove that it runs on the GPU
version_added: 0.1.0
description:
  - Lets a model answer with one token (or one vector) and looks where it ran. Ollama falls back to the CPU without an error, so an
    answer alone proves nothing where GPUs are expected.
  - With O(devices) fails when no part of the model is in the memory of a GPU, or when the server found fewer devices at its start.
  - Where a model is loaded already and O(model) is not given, that one is the proof, and none is loaded.
author:
  - gpufleet.ollama contributors (@gpufleet)
extends_documentation_fragment:
  - gpufleet.ollama.connection
attributes:
  check_mode:
    support: full
    description: No model is loaded; the ones that are loaded are looked at.
  diff_mode:
    support: none
    description: There is nothing to show.
options:
  model:
    description: Name of the model. Empty means the smallest one of the store.
    type: str
    default: ""
  unit:
    description: The unit of systemd that the instance is; its journal names the devices.
    type: str
    required: true
  devices:
    description: How many GPUs the instance must have found. V(0) means that it may run on the CPU.
    type: int
    default: 0
"""

EXAMPLES = r"""
- name: Prove that the instance uses its GPU
  gpufleet.ollama.ollama_smoke_test:
    url: http://127.0.0.1:11434
    unit: ollama@default.service
    devices: 1
"""

RETURN = r"""
model:
  description: The model that is the proof; empty when there was none to try.
  type: str
  returned: success
  sample: smollm2:135m
gpu_share:
  description: Share of it in the memory of GPUs, 0.0 to 1.0; null when there was none to try.
  type: float
  returned: success
  sample: 1.0
devices:
  description: The GPUs that the server found at its start, C(id) and C(library) of each.
  type: list
  elements: dict
  returned: success
  sample: [{id: GPU-2d0f1c0e-6d35-4c4c-a7b0-0d2b6f9f9a11, library: CUDA}]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpufleet.ollama.plugins.module_utils import _ps
from ansible_collections.gpufleet.ollama.plugins.module_utils._client import CONNECTION_SPEC, OllamaClient, OllamaError


def test(client: OllamaClient, unit: str, wanted: str, devices: int, check_mode: bool) -> dict[str, Any]:
    """The module's result. OllamaError when the instance does not do what is expected."""
    said = _ps.compute_devices(unit)
    found = [{"id": item.get("id", ""), "library": item["library"]} for item in said if item.get("library", "cpu") != "cpu"]
    # after weeks of requests the journal may have dropped the lines of the start: then only the model can tell
    if said and len(found) < devices:
        names = ", ".join(item["id"] for item in found) or "none"
        raise OllamaError(f"{unit} found {len(found)} GPUs at its start ({names}) and is to have {devices}: see nvidia-smi and journalctl -u {unit}")
    models = _ps.loaded(client)
    proof = None
    if models and not wanted:
        proof = models[0]
    elif not check_mode and (name := wanted or _ps.smallest_model(client)):
        proof = _ps.try_model(client, name)
    if proof and devices and not proof["processor_gpu"]:
        raise OllamaError(f"{unit} runs {proof['name']} on the CPU, and is to have {devices} GPUs: see nvidia-smi and journalctl -u {unit}")
    return {"model": proof["name"] if proof else "", "gpu_share": proof["processor_gpu"] if proof else None, "devices": found}


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "model": {"type": "str", "default": ""},
            "unit": {"type": "str", "required": True},
            "devices": {"type": "int", "default": 0},
            **CONNECTION_SPEC,
        },
        supports_check_mode=True,
    )
    params = module.params
    client = OllamaClient(params["url"], params["timeout"])
    try:
        result = test(client, params["unit"], params["model"], params["devices"], module.check_mode)
    except OllamaError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
