#!/usr/bin/python
# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: ollama_ps_info
short_description: Tell where the loaded models of an Ollama instance run
version_added: 0.1.0
description:
  - Lists the loaded models with the share of each that is in the memory of GPUs, and the devices that the server found at its start.
  - Ollama falls back to the CPU without an error, and stays healthy. RV(gpu_share) and RV(compute) tell that it did.
  - No model is loaded by this module. Where none is, RV(gpu_share) proves nothing and is null.
author:
  - gpufleet.ollama contributors (@gpufleet)
extends_documentation_fragment:
  - gpufleet.ollama.connection
attributes:
  check_mode:
    support: full
    description: The same as without.
  diff_mode:
    support: none
    description: There is nothing to show.
options:
  unit:
    description:
      - The unit of systemd that the instance is. Its journal since its last start says which devices the server found.
      - Needs the right to read the journal. Without this option RV(compute) is empty.
    type: str
"""

EXAMPLES = r"""
- name: See where the models run
  gpufleet.ollama.ollama_ps_info:
    url: http://127.0.0.1:11434
    unit: ollama@default.service
  register: running

- name: Fail when a model, or the whole server, fell back to the CPU
  gpufleet.ollama.ollama_ps_info:
    unit: ollama@default.service
  register: running
  failed_when: >-
    (running.gpu_share is not none and running.gpu_share == 0)
    or running.compute | selectattr('library', 'equalto', 'cpu') | length > 0
"""

RETURN = r"""
models:
  description: The loaded models, the one that stays longest first.
  type: list
  elements: dict
  returned: success
  contains:
    name:
      description: Name under which it was loaded. Another name of the same weights is served by it, too.
      type: str
      returned: success
      sample: llama3.2:1b
    digest:
      description: SHA-256 of the model's manifest, 64 hex digits.
      type: str
      returned: success
      sample: baf6a787fdffd633537aa2eb51cfd54cb93ff08e28040095462bb63daf552878
    size:
      description: Bytes that it takes, with its context.
      type: int
      returned: success
      sample: 2147483648
    size_vram:
      description: Bytes of these that are in the memory of GPUs.
      type: int
      returned: success
      sample: 2147483648
    processor_gpu:
      description: Share of the model in the memory of GPUs, 0.0 to 1.0.
      type: float
      returned: success
      sample: 1.0
    expires_at:
      description: When it will be unloaded if nobody asks it.
      type: str
      returned: success
      sample: "2026-11-22T12:05:00.123456789+01:00"
    context_length:
      description: Tokens that it was loaded for. Null before Ollama 0.10.
      type: int
      returned: success
      sample: 32768
  sample:
    - name: llama3.2:1b
      digest: baf6a787fdffd633537aa2eb51cfd54cb93ff08e28040095462bb63daf552878
      size: 2147483648
      size_vram: 2147483648
      processor_gpu: 1.0
      expires_at: "2026-11-22T12:05:00.123456789+01:00"
      context_length: 32768
compute:
  description:
    - The devices that the server found at its start, with all that its version logs about them, as text. One with the id and the
      library V(cpu) where it found no GPU.
    - Empty without O(unit), when the unit does not run, while the server still looks, and when the journal no longer reaches back.
  type: list
  elements: dict
  returned: success
  sample:
    - id: GPU-5a3d2c1b-8e7f-4a6b-9c0d-112233445566
      library: CUDA
      compute: "9.0"
      name: CUDA0
      description: NVIDIA H100 80GB HBM3
      driver: "13.0"
      pci_id: "0000:19:00.0"
      total: 79.6 GiB
      available: 79.2 GiB
gpu_share:
  description: The smallest RV(models[].processor_gpu). Null when no model is loaded.
  type: float
  returned: success
  sample: 1.0
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpufleet.ollama.plugins.module_utils import _ps
from ansible_collections.gpufleet.ollama.plugins.module_utils._client import CONNECTION_SPEC, OllamaClient, OllamaError


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={"unit": {"type": "str"}, **CONNECTION_SPEC},
        supports_check_mode=True,
    )
    unit = module.params["unit"]
    try:
        models = _ps.loaded(OllamaClient(module.params["url"], module.params["timeout"]))
        compute = _ps.compute_devices(unit) if unit else []
    except OllamaError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, models=models, compute=compute, gpu_share=_ps.gpu_share(models))


if __name__ == "__main__":
    main()
