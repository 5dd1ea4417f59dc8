#!/usr/bin/python
# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: ollama_service
short_description: Run a unit of systemd with the configuration that is wanted
version_added: 0.1.0
description:
  - Makes sure that a unit runs now and at boot, and that it runs with the wanted configuration.
  - The unit's environment holds the id of its configuration in C(GPUFLEET_CONFIG_ID). The module compares the wanted id with the
    one of the running process, and restarts the unit only where they differ. So a restart that an earlier play missed is made up.
author:
  - gpufleet.ollama contributors (@gpufleet)
attributes:
  check_mode:
    support: full
    description: Says whether the unit would be started or restarted, also where it does not exist yet.
  diff_mode:
    support: full
    description: Shows what the unit runs with before and after.
options:
  unit:
    description: Name of the unit.
    type: str
    required: true
  config_id:
    description: Id of the configuration that it is to run with.
    type: str
    required: true
  force:
    description: Restart the unit whatever its process says. For files that were just put right after a change by hand.
    type: bool
    default: false
  may_wait:
    description:
      - Take a unit that ended and that systemd is about to start again for one that runs, with the configuration that it will be started with.
      - For a unit that ends whenever its peer does not answer. Any other must stay up.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Run the instance
  gpufleet.ollama.ollama_service:
    unit: ollama@default.service
    config_id: 5feceb66ffc86f38
"""

RETURN = r"""
restarted:
  description: Whether the unit was started or restarted, or would be in check mode.
  type: bool
  returned: success
  sample: true
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpufleet.ollama.plugins.module_utils import _units


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "unit": {"type": "str", "required": True},
            "config_id": {"type": "str", "required": True},
            "force": {"type": "bool", "default": False},
            "may_wait": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    unit = module.params["unit"]
    try:
        before, after = _units.ensure(
            unit, module.params["config_id"], module.params["force"], module.check_mode, may_wait=module.params["may_wait"]
        )
    except _units.UnitError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=before != after,
        restarted=before._replace(enabled=True, known=True) != after,
        diff={"before": f"{unit} {before.describe()}\n", "after": f"{unit} {after.describe()}\n"},
    )


if __name__ == "__main__":
    main()
