#!/usr/bin/python
# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_info
short_description: Tell which GPUs a host has, their driver, and how they are
version_added: 0.1.0
description:
  - Tells which GPUs the host has, which device nodes lead to them, which NVIDIA driver is loaded and installed, whether the GPUs are fit for
    work, and whether the host must be rebooted.
  - An C(nvidia-smi) that is missing, fails or hangs is no error of the module; RV(smi.problem) and RV(health) tell of it.
  - A host without a GPU gives empty lists. C(nvidia-smi), C(modinfo) and C(dmesg) are run only on a host with something of NVIDIA.
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
  root_dir:
    description: Where C(boot), C(lib/modules) and C(run/reboot-required) are.
    type: path
    default: /
  command:
    description:
      - The program C(nvidia-smi), which says how the GPUs are. It gets 20 seconds.
      - Empty, it is not run; RV(smi) is then empty, and RV(gpus[].memory_bytes) of NVIDIA GPUs is null.
    type: str
    default: nvidia-smi
  modinfo:
    description: The program C(modinfo), which says which driver is installed for a kernel. Empty, RV(driver.modules) is.
    type: str
    default: modinfo
  kernel_log:
    description:
      - A command that prints the log of the kernel since boot, in which the driver reports errors of GPUs (XIDs).
      - It needs the right to do so; C(dmesg) is mostly for root alone. Empty, the log is not looked at.
    type: str
    default: dmesg
  expected_count:
    description: How many NVIDIA GPUs there must be. V(0) means that nobody counts.
    type: int
    default: 0
  max_temperature:
    description: Degrees Celsius above which RV(health) warns of a GPU.
    type: int
    default: 90
  fail_on_xids:
    description: XIDs in the kernel's log after which a GPU is not fit for work. By default those that need a reset or a reboot.
    type: list
    elements: int
    default: [48, 62, 64, 74, 79, 95, 119, 120]
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
devices:
  description: GPUs and NVSwitches on the PCI bus, whether a driver is loaded or not.
  type: list
  elements: dict
  returned: success
  contains:
    bus_id:
      description: PCI address.
      type: str
      returned: success
      sample: "0000:19:00.0"
    kind:
      description: V(gpu) or V(nvswitch).
      type: str
      returned: success
      sample: gpu
    vendor:
      description: V(nvidia) or V(amd).
      type: str
      returned: success
      sample: nvidia
    device_id:
      description: PCI device id.
      type: str
      returned: success
      sample: "2330"
    generation:
      description:
        - Of an NVIDIA GPU - V(kepler), V(maxwell), V(pascal), V(volta), V(turing), V(ampere), V(ada), V(hopper), V(grace_hopper), V(blackwell), V(rubin).
        - Empty when unknown.
      type: str
      returned: success
      sample: hopper
    driver:
      description: The driver that holds it, such as V(nvidia), V(nouveau), V(nova_core), V(vfio-pci) or V(amdgpu). Empty when there is none.
      type: str
      returned: success
      sample: nvidia
  sample:
    - bus_id: "0000:19:00.0"
      kind: gpu
      vendor: nvidia
      device_id: "2330"
      generation: hopper
      driver: nvidia
driver:
  description: The NVIDIA driver.
  type: dict
  returned: success
  contains:
    loaded:
      description: Version of the driver that is loaded. Empty when none is.
      type: str
      returned: success
      sample: "580.95.05"
    open:
      description: Whether that one has the open kernel modules. Null when none is loaded.
      type: bool
      returned: success
      sample: true
    installed:
      description: Version that is installed for the running kernel. Empty when none is.
      type: str
      returned: success
      sample: "580.95.05"
    modules:
      description: The installed version of each kernel that has one.
      type: dict
      returned: success
      sample:
        "6.1.0-31-amd64": "580.95.05"
  sample:
    loaded: "580.95.05"
    open: true
    installed: "580.95.05"
    modules:
      "6.1.0-31-amd64": "580.95.05"
kernel:
  description: The kernels.
  type: dict
  returned: success
  contains:
    running:
      description: Release of the running kernel.
      type: str
      returned: success
      sample: "6.1.0-31-amd64"
    newest:
      description: The newest kernel of this kind that can be booted, the running one when there is none.
      type: str
      returned: success
      sample: "6.1.0-31-amd64"
    headers:
      description: Whether modules can be built for the running kernel.
      type: bool
      returned: success
      sample: true
    newest_headers:
      description: Whether modules can be built for the newest one.
      type: bool
      returned: success
      sample: true
  sample:
    running: "6.1.0-31-amd64"
    newest: "6.1.0-31-amd64"
    headers: true
    newest_headers: true
secure_boot:
  description: Secure Boot.
  type: dict
  returned: success
  contains:
    enabled:
      description: Whether the firmware boots only what is signed.
      type: bool
      returned: success
      sample: false
    lockdown:
      description: V(none), V(integrity) or V(confidentiality); from the second on, unsigned modules are not loaded. Empty when the kernel has no lockdown.
      type: str
      returned: success
      sample: "none"
  sample:
    enabled: false
    lockdown: "none"
smi:
  description: What C(nvidia-smi) says.
  type: dict
  returned: success
  contains:
    status:
      description: Exit status. Null when it was not run, is missing, or does not answer.
      type: int
      returned: success
      sample: 0
    problem:
      description: What is wrong with it, in a sentence. Empty when nothing is.
      type: str
      returned: success
      sample: ""
    driver_version:
      description: Version of the driver.
      type: str
      returned: success
      sample: "580.95.05"
    cuda_version:
      description: The newest CUDA that the driver knows.
      type: str
      returned: success
      sample: "13.0"
    gpus:
      description: The GPUs that the driver knows.
      type: list
      elements: dict
      returned: success
      contains:
        uuid:
          description: UUID.
          type: str
          returned: success
          sample: GPU-5a3d2c1b-8e7f-4a6b-9c0d-112233445566
        bus_id:
          description: PCI address, in the form of RV(devices[].bus_id).
          type: str
          returned: success
          sample: "0000:19:00.0"
        name:
          description: What the driver calls it.
          type: str
          returned: success
          sample: "NVIDIA H100 80GB HBM3"
        architecture:
          description: What the driver calls its generation.
          type: str
          returned: success
          sample: Hopper
        persistence:
          description: Whether the driver keeps the GPU up while nobody uses it. Null when unknown.
          type: bool
          returned: success
          sample: true
        mig_current:
          description: Whether it is split by MIG. Null where it cannot be.
          type: bool
          returned: success
          sample: false
        mig_pending:
          description: Whether it will be after a reset or a reboot. Null where it cannot be.
          type: bool
          returned: success
          sample: false
        mig_devices:
          description: The MIG devices.
          type: list
          elements: dict
          returned: success
          contains:
            profile:
              description: Share of the GPU.
              type: str
              returned: success
              sample: "3g.40gb"
            uuid:
              description: UUID.
              type: str
              returned: success
              sample: MIG-0d5e3c2b-1a2b-5c3d-8e4f-998877665544
          sample:
            - profile: "3g.40gb"
              uuid: MIG-0d5e3c2b-1a2b-5c3d-8e4f-998877665544
        ecc_current:
          description: Whether its memory is checked. Null where it cannot be.
          type: bool
          returned: success
          sample: true
        ecc_pending:
          description: Whether it will be after a reboot. Null where it cannot be.
          type: bool
          returned: success
          sample: true
        ecc_uncorrected:
          description: Uncorrectable memory errors since the driver was loaded. Null when unknown.
          type: int
          returned: success
          sample: 0
        remap_pending:
          description: Whether memory rows wait to be remapped. Null when unknown, as with MIG on.
          type: bool
          returned: success
          sample: false
        remap_failure:
          description: Whether a row could not be remapped. Null when unknown.
          type: bool
          returned: success
          sample: false
        retired_pending:
          description: Whether memory pages wait to be retired. Null when unknown.
          type: bool
          returned: success
          sample: false
        recovery_action:
          description: What the driver asks for to recover it, V(None) when it is well. Empty where the driver is older than 570.
          type: str
          returned: success
          sample: None
        temperature:
          description: Degrees Celsius. Null when unknown.
          type: int
          returned: success
          sample: 41
        power_limit_watts:
          description: Power limit. Null when unknown.
          type: float
          returned: success
          sample: 700.0
        power_draw_watts:
          description: Power that it draws. Null when unknown.
          type: float
          returned: success
          sample: 69.85
        memory_bytes:
          description: Memory. Null when unknown.
          type: int
          returned: success
          sample: 85520809984
        memory_used_bytes:
          description: Memory in use. Null when unknown.
          type: int
          returned: success
          sample: 0
        fabric_state:
          description: State of the NVLink fabric, V(Completed) when it is ready. Empty where there is none.
          type: str
          returned: success
          sample: Completed
        fabric_status:
          description: How that went.
          type: str
          returned: success
          sample: Success
        slowdowns:
          description: Why the hardware slows it down - V(hw_thermal_slowdown), V(hw_power_brake_slowdown).
          type: list
          elements: str
          returned: success
          sample: []
        errors:
          description: What stands in the place of its values, such as V(GPU is lost).
          type: list
          elements: str
          returned: success
          sample: []
      sample:
        - uuid: GPU-5a3d2c1b-8e7f-4a6b-9c0d-112233445566
          bus_id: "0000:19:00.0"
          name: "NVIDIA H100 80GB HBM3"
          architecture: Hopper
          persistence: true
          mig_current: false
          mig_pending: false
          mig_devices: []
          ecc_current: true
          ecc_pending: true
          ecc_uncorrected: 0
          remap_pending: false
          remap_failure: false
          retired_pending: false
          recovery_action: None
          temperature: 41
          power_limit_watts: 700.0
          power_draw_watts: 69.85
          memory_bytes: 85520809984
          memory_used_bytes: 0
          fabric_state: Completed
          fabric_status: Success
          slowdowns: []
          errors: []
    processes:
      description: The processes that compute on them.
      type: list
      elements: dict
      returned: success
      contains:
        pid:
          description: Process id.
          type: int
          returned: success
          sample: 4201
        name:
          description: Its program.
          type: str
          returned: success
          sample: "/usr/local/lib/ollama/llama-server"
        uuid:
          description: UUID of the GPU.
          type: str
          returned: success
          sample: GPU-5a3d2c1b-8e7f-4a6b-9c0d-112233445566
      sample:
        - pid: 4201
          name: "/usr/local/lib/ollama/llama-server"
          uuid: GPU-5a3d2c1b-8e7f-4a6b-9c0d-112233445566
  sample:
    status: 9
    problem: "nvidia-smi failed with status 9: NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    driver_version: ""
    cuda_version: ""
    gpus: []
    processes: []
xids:
  description: Errors of the NVIDIA driver in the kernel's log, since boot or as far as the log goes back.
  type: list
  elements: dict
  returned: success
  contains:
    bus_id:
      description: PCI address of the GPU.
      type: str
      returned: success
      sample: "0000:19:00.0"
    xid:
      description: Number of the error.
      type: int
      returned: success
      sample: 79
    count:
      description: How often it is there.
      type: int
      returned: success
      sample: 1
  sample:
    - bus_id: "0000:19:00.0"
      xid: 79
      count: 1
health:
  description: Whether the NVIDIA GPUs are fit for work.
  type: dict
  returned: success
  contains:
    verdict:
      description: V(ok), V(warn), V(fail), or V(none) where there is no NVIDIA GPU and O(expected_count) wants none.
      type: str
      returned: success
      sample: ok
    reasons:
      description: What was found.
      type: list
      elements: dict
      returned: success
      contains:
        level:
          description: V(fail), V(warn), or V(unknown) for what is not told, which is no fault.
          type: str
          returned: success
          sample: fail
        gpu:
          description: UUID of the GPU, its PCI address where the driver does not know it, empty for the host.
          type: str
          returned: success
          sample: GPU-5a3d2c1b-8e7f-4a6b-9c0d-112233445566
        text:
          description: The reason, in a sentence.
          type: str
          returned: success
          sample: "XID 79 in the kernel's log since boot"
      sample:
        - level: fail
          gpu: GPU-5a3d2c1b-8e7f-4a6b-9c0d-112233445566
          text: "XID 79 in the kernel's log since boot"
  sample:
    verdict: ok
    reasons: []
reboot_reasons:
  description: Why the host must be rebooted, from its state, not from what a task changed. Empty on a host without an NVIDIA GPU.
  type: list
  elements: str
  returned: success
  sample:
    - "driver 570.195.03 is loaded and 580.95.05 is installed"
container:
  description: Whether this is a container, as C(systemd-detect-virt) says. V(false) where O(root_dir) is another one.
  type: bool
  returned: success
  sample: false
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpufleet.ollama.plugins.module_utils import _gpu_state


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "dev_dir": {"type": "path", "default": "/dev"},
            "proc_dir": {"type": "path", "default": "/proc"},
            "sys_dir": {"type": "path", "default": "/sys"},
            "root_dir": {"type": "path", "default": "/"},
            "command": {"type": "str", "default": "nvidia-smi"},
            "modinfo": {"type": "str", "default": "modinfo"},
            "kernel_log": {"type": "str", "default": "dmesg"},
            "expected_count": {"type": "int", "default": 0},
            "max_temperature": {"type": "int", "default": 90},
            "fail_on_xids": {"type": "list", "elements": "int", "default": [48, 62, 64, 74, 79, 95, 119, 120]},
        },
        supports_check_mode=True,
    )
    module.exit_json(changed=False, **_gpu_state.look(module.params))


if __name__ == "__main__":
    main()
