#!/usr/bin/python
# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: ollama_rollout
short_description: Put a release and configurations to work, and go back when they do not serve
version_added: 0.1.0
description:
  - Takes a host from what serves now to an installed release (see M(gpufleet.ollama.ollama_release)) and to the units and environments
    that lie on it. Points the link C(current) at the release and restarts, one after the other, the instances whose process runs with
    another release or configuration; the others are left alone. Stops instances that are wanted no more.
  - Each restarted instance is tested. It answers C(/api/version) with the wanted version, it stays up, it lists every model that it
    listed before, and, where asked for, it runs a model with no smaller share of it on the GPU than before.
  - When an instance fails, the release, the files and the instances that served before are put back and the module fails with the cause.
  - Old releases and removed instances are deleted after that only.
author:
  - gpufleet.ollama contributors (@gpufleet)
attributes:
  check_mode:
    support: full
    description: Says what would be switched, restarted and removed, also on a host without systemd units yet.
  diff_mode:
    support: full
    description: Shows release and instances before and after.
options:
  version:
    description: Version that is to serve.
    type: str
    required: true
  instances:
    description: The instances that the host is to have.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Its name; the unit is C(ollama@NAME.service).
        type: str
        required: true
      url:
        description: URL of its API.
        type: str
        required: true
      config_id:
        description: Id of the configuration that its files name in C(GPUFLEET_CONFIG_ID).
        type: str
        required: true
      store:
        description: Its model directory. Models are compared with those before only where this is the same.
        type: path
        required: true
      gpus:
        description: V(all), V(none), or the ids of its GPUs. The share on the GPU is compared only where this is the same.
        type: str
        default: all
  root:
    description: Directory of the releases.
    type: path
    default: /opt/ollama
  release_pending:
    description: The release is to be installed by a task before this one, which check mode left out.
    type: bool
    default: false
  config_dir:
    description: Directory of the environments, C(NAME.env).
    type: path
    default: /etc/ollama
  unit_dir:
    description: Directory of the units.
    type: path
    default: /etc/systemd/system
  force:
    description: Units to be restarted whatever their processes say. For files that were just put right after a change by hand.
    type: list
    elements: str
    default: []
  ready_timeout:
    description: How long an instance may take from its start to its first answer, in seconds.
    type: int
    default: 120
  settle_seconds:
    description: How long a restarted instance must stay up after its tests, in seconds.
    type: int
    default: 3
  smoke_model:
    description: Model that each restarted instance runs once, where it has it. Empty means none, or the smallest one with O(gpu_required).
    type: str
    default: ""
  gpu_required:
    description: An instance that may use GPUs must have at least a part of the model on one.
    type: bool
    default: false
  keep_versions:
    description: How many releases stay on disk, the present one and the one before it among them.
    type: int
    default: 2
  remove_stores:
    description: Delete the store of a removed instance, with its models, when no other instance has it.
    type: bool
    default: false
  adopt:
    description:
      - Take the place of an Ollama that the upstream install script put on the host. Its models become those of O(store) without a
        download, its key that of O(home). It is removed after the test, and started again when the test fails.
    type: bool
    default: false
  store:
    description: Store that takes the models of an adopted Ollama.
    type: path
    default: /var/lib/ollama/models
  home:
    description: Home of the service, which takes the key of an adopted Ollama.
    type: path
    default: /var/lib/ollama
"""

EXAMPLES = r"""
- name: Put the release to work
  gpufleet.ollama.ollama_rollout:
    version: 0.34.4
    instances:
      - name: default
        url: http://127.0.0.1:11434
        config_id: 5feceb66ffc86f38
        store: /var/lib/ollama/models
"""

RETURN = r"""
previous:
  description: Version that served before; empty when there was none.
  type: str
  returned: success
  sample: 0.32.9
restarted:
  description: Units that were started or restarted, or would be in check mode.
  type: list
  elements: str
  returned: success
  sample: [ollama@default.service]
removed:
  description: Instances that were removed, or would be in check mode.
  type: list
  elements: str
  returned: success
  sample: [team-a]
deleted_versions:
  description: Old releases that were deleted, or would be in check mode.
  type: list
  elements: str
  returned: success
  sample: [0.31.2]
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpufleet.ollama.plugins.module_utils._rollout import FAILURES, Instance, Plan, Rollout, RolloutError, Settings, unit_of

INSTANCE = {
    "name": {"type": "str", "required": True},
    "url": {"type": "str", "required": True},
    "config_id": {"type": "str", "required": True},
    "store": {"type": "path", "required": True},
    "gpus": {"type": "str", "default": "all"},
}


def describe(plan: Plan, version: str) -> dict[str, str]:
    """The diff: release, adopted Ollama, instances, old releases."""
    before, after = [f"release {plan.link or '(none)'}"], [f"release {version}"]
    if plan.upstream:
        before.append(plan.upstream.what)
    for unit, target in plan.target.items():
        before.append(f"{unit} {plan.states[unit].describe()}")
        after.append(f"{unit} {target.describe()}")
    before += [f"{unit_of(name)} not wanted any more" for name in plan.removed]
    before += [f"old release {old}" for old in plan.old_versions]
    return {"before": "\n".join(before) + "\n", "after": "\n".join(after) + "\n"}


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "version": {"type": "str", "required": True},
            "instances": {"type": "list", "elements": "dict", "required": True, "options": INSTANCE},
            "root": {"type": "path", "default": "/opt/ollama"},
            "release_pending": {"type": "bool", "default": False},
            "config_dir": {"type": "path", "default": "/etc/ollama"},
            "unit_dir": {"type": "path", "default": "/etc/systemd/system"},
            "force": {"type": "list", "elements": "str", "default": []},
            "ready_timeout": {"type": "int", "default": 120},
            "settle_seconds": {"type": "int", "default": 3},
            "smoke_model": {"type": "str", "default": ""},
            "gpu_required": {"type": "bool", "default": False},
            "keep_versions": {"type": "int", "default": 2},
            "remove_stores": {"type": "bool", "default": False},
            "adopt": {"type": "bool", "default": False},
            "store": {"type": "path", "default": "/var/lib/ollama/models"},
            "home": {"type": "path", "default": "/var/lib/ollama"},
        },
        supports_check_mode=True,
    )
    params = dict(module.params)
    rollout = Rollout([Instance(**item) for item in params.pop("instances")], Settings(**params))
    try:
        plan = rollout.plan()
        if not module.check_mode:
            rollout.run(plan)
    except (RolloutError, *FAILURES) as error:
        module.fail_json(msg=str(error))
    diff = describe(plan, params["version"])
    module.exit_json(
        changed=diff["before"] != diff["after"],
        previous=plan.link,
        restarted=[item.unit for item in plan.restart],
        removed=plan.removed,
        deleted_versions=plan.old_versions,
        diff=diff,
    )


if __name__ == "__main__":
    main()
