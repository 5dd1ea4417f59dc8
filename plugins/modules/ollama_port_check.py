#!/usr/bin/python
# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: ollama_port_check
short_description: Fail when a TCP port is held by something else than the unit that is to have it
version_added: 0.1.0
description:
  - Looks up who listens on the ports, and fails with one sentence that names the process when it is not the unit that is meant to.
  - Changes nothing. Needs root to see the processes of other users.
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
  listeners:
    description: Who is to listen where.
    type: list
    elements: dict
    required: true
    suboptions:
      port:
        description: TCP port.
        type: int
        required: true
      address:
        description: Address; a listener on another address of the host does not clash. Empty means all addresses.
        type: str
        default: ""
      unit:
        description: The systemd unit that may hold the port, or a pattern such as V(ollama@*.service).
        type: str
        required: true
      option:
        description: Name of the option that sets the port, for the message.
        type: str
        required: true
"""

EXAMPLES = r"""
- name: Check that the port is free, or our own
  gpufleet.ollama.ollama_port_check:
    listeners:
      - {port: 9778, address: 10.0.0.5, unit: ollama_exporter.service, option: ollama_exporter_port}
"""

RETURN = r"""# """

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpufleet.ollama.plugins.module_utils._ports import clash, listeners


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "listeners": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "port": {"type": "int", "required": True},
                    "address": {"type": "str", "default": ""},
                    "unit": {"type": "str", "required": True},
                    "option": {"type": "str", "required": True},
                },
            },
        },
        supports_check_mode=True,
    )
    found = listeners()
    # a process that listens on IPv4 and IPv6 is one holder
    clashes = list(dict.fromkeys(message for wanted in module.params["listeners"] for message in clash(found, **wanted)))
    if clashes:
        module.fail_json(msg="; ".join(clashes))
    module.exit_json(changed=False)


if __name__ == "__main__":
    main()
