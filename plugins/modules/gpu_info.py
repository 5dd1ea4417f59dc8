#!/usr/bin/python
# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_info
short_description: Tell which GPUs a host has
version_added: 0.1.0
description:
  - Tells which GPUs the host has, which device nodes lead to them, and which NVIDIA driver is loaded.
  - Everything but the memory of NVIDIA GPUs is read from the kernel. An C(nvidia-smi) that is missing, fails or hangs is no error.
  - A host without a GPU gives empty lists.
author:
  - gpufleet.ollama contributors (@gpufleet)
attributes:
  check_mode:
    support: full
    description: The same as without.
  diff_mode:
    support: none
    description: There is nothing to show.
options:
  dev_dir:
    description: Where the device nodes are.
    type: path
    default: /dev
  proc_dir:
    description: Where the kernel shows its processes and drivers.
    type: path
    default: /proc
  sys_dir:
    description: Where the kernel shows its devices.
    type: path
    default: /sys
  command:
    description:
      - The program C(nvidia-smi), which says how much memory a GPU has. It gets 20 seconds.
      - Empty, it is not run, and RV(gpus[].memory_bytes) of NVIDIA GPUs is null.
    type: str
    default: nvidia-smi
"""

EXAMPLES = r"""
# the number of GPUs is then gpu.gpus | length
- name: Look up the GPUs
  gpufleet.ollama.gpu_info:
  register: gpu

- name: Look them up without running nvidia-smi, which uses a GPU for a moment
  gpufleet.ollama.gpu_info:
    command: ""
"""

RETURN = r"""
gpus:
  description: The GPUs, by their minor number.
  type: list
  elements: dict
  returned: success
  contains:
    uuid:
      description: UUID. Empty where the driver does not say it, and for AMD cards.
      type: str
      returned: success
      sample: GPU-5a3d2c1b-8e7f-4a6b-9c0d-112233445566
    minor:
      description: Number of the node, C(/dev/nvidia0) or C(/dev/dri/renderD128).
      type: int
      returned: success
      sample: 0
    name:
      description: What the driver calls it. Empty when unknown.
      type: str
      returned: success
      sample: NVIDIA H100 80GB HBM3
    bus_id:
      description: PCI address. Empty when unknown.
      type: str
      returned: success
      sample: "0000:19:00.0"
    memory_bytes:
      description: Memory in bytes. Null when unknown.
      type: int
      returned: success
      sample: 85520809984
    vendor:
      description: V(nvidia) or V(amd).
      type: str
      returned: success
      sample: nvidia
  sample:
    - uuid: GPU-5a3d2c1b-8e7f-4a6b-9c0d-112233445566
      minor: 0
      name: NVIDIA H100 80GB HBM3
      bus_id: "0000:19:00.0"
      memory_bytes: 85520809984
      vendor: nvidia
nodes:
  description: The device nodes through which programs reach the GPUs.
  type: list
  elements: dict
  returned: success
  contains:
    path:
      description: Path of the node.
      type: str
      returned: success
      sample: /dev/nvidia0
    group:
      description: Group that it belongs to.
      type: str
      returned: success
      sample: root
    mode:
      description: Permissions, octal.
      type: str
      returned: success
      sample: "0666"
  sample:
    - path: /dev/nvidia0
      group: root
      mode: "0666"
driver_version:
  description: Version of the NVIDIA driver that is loaded. Empty when none is.
  type: str
  returned: success
  sample: 580.95.05
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpufleet.ollama.plugins.module_utils import _gpus


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "dev_dir": {"type": "path", "default": "/dev"},
            "proc_dir": {"type": "path", "default": "/proc"},
            "sys_dir": {"type": "path", "default": "/sys"},
            "command": {"type": "str", "default": "nvidia-smi"},
        },
        supports_check_mode=True,
    )
    params = module.params
    module.exit_json(
        changed=False,
        gpus=_gpus.gpus(params["dev_dir"], params["proc_dir"], params["sys_dir"], params["command"]),
        nodes=_gpus.nodes(params["dev_dir"]),
        driver_version=_gpus.driver_version(params["proc_dir"]),
    )


if __name__ == "__main__":
    main()
