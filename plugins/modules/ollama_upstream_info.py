#!/usr/bin/python
# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: ollama_upstream_info
short_description: Look for an Ollama that the upstream install script put on the host
version_added: 0.1.0
description:
  - Says whether C(ollama.service), or the binary of the install script, is on the host, where its models are, and what would keep
    M(gpufleet.ollama.ollama_rollout) from taking its place.
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
    description: Store that is to take its models.
    type: path
    default: /var/lib/ollama/models
"""

EXAMPLES = r"""
- name: Look for an Ollama that was installed in another way
  gpufleet.ollama.ollama_upstream_info:
"""

RETURN = r"""
found:
  description: Whether there is one.
  type: bool
  returned: success
  sample: true
what:
  description: Its name in a sentence; empty when there is none.
  type: str
  returned: success
  sample: the Ollama of /etc/systemd/system/ollama.service
store:
  description: Its model directory.
  type: str
  returned: success
  sample: /usr/share/ollama/.ollama/models
active:
  description: Whether it runs.
  type: bool
  returned: success
  sample: true
problems:
  description: What keeps its place from being taken, each a sentence with the mend.
  type: list
  elements: str
  returned: success
  sample: []
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpufleet.ollama.plugins.module_utils import _units, _upstream


def main() -> None:
    """Entry point."""
    module = AnsibleModule(argument_spec={"store": {"type": "path", "default": "/var/lib/ollama/models"}}, supports_check_mode=True)
    try:
        found = _upstream.find()
        if found is None:
            module.exit_json(changed=False, found=False, what="", store="", active=False, problems=[])
        problems = found.problems(module.params["store"])
    except (_units.UnitError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, found=True, what=found.what, store=found.store, active=found.active, problems=problems)


if __name__ == "__main__":
    main()
