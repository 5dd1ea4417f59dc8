#!/usr/bin/python
# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: ollama_audit_probe
short_description: See which ports of a fleet answer this host, and what its gateways say to strangers
version_added: 0.1.0
description:
  - Opens a connection to each port and closes it again. Sends each gateway half a dozen requests, none of which has a key that is good.
  - Changes nothing. A gateway whose rate limit the requests meet is asked once more after a second.
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
  ports:
    description: The ports.
    type: list
    elements: dict
    default: []
    suboptions:
      host:
        description: The host, for the result.
        type: str
        required: true
      service:
        description: What is to be there, for the result.
        type: str
        default: ""
      address:
        description: Address or name of the host.
        type: str
        required: true
      port:
        description: TCP port.
        type: int
        required: true
      ssh_port:
        description: Port of the host's SSH. It is asked too where nothing comes back from O(ports[].port), so that silence is told from no way to the host.
        type: int
        default: 22
  gateways:
    description: The gateways.
    type: list
    elements: dict
    default: []
    suboptions:
      host:
        description: The host, for the result.
        type: str
        required: true
      address:
        description: Address or name of the host.
        type: str
        required: true
      port:
        description: TCP port.
        type: int
        default: 443
      name:
        description: A name that the gateway answers to.
        type: str
        required: true
"""

EXAMPLES = r"""
- name: See whether another host's Ollama can be reached from here
  gpufleet.ollama.ollama_audit_probe:
    ports:
      - {host: gpu2, service: Ollama, address: 10.0.0.12, port: 11434}
"""

RETURN = r"""
ports:
  description:
    - O(ports), each with the C(answer) - V(open), V(refused), V(silent), V(unreachable), or an error - C(control), the same of the
      SSH port (empty when it was not asked), and C(source), the address of this host that the other one sees.
  type: list
  elements: dict
  returned: success
  sample: [{host: gpu2, service: Ollama, address: 10.0.0.12, port: 11434, ssh_port: 22, answer: silent, control: open, source: 10.0.0.11}]
gateways:
  description: O(gateways), each with its answers by the name of the request, and whether TLS 1.1 was refused.
  type: list
  elements: dict
  returned: success
  sample:
    - host: gateway
      address: 10.0.0.1
      port: 443
      name: llm.example.org
      answers:
        no_key: {status: 401, body: '{"error":"..."}', tls: TLSv1.3, not_after: 1830000000.0, config: "", problem: ""}
        old_tls: refused
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpufleet.ollama.plugins.module_utils import _audit_probe


def main() -> None:
    """Entry point."""
    place = {"host": {"type": "str", "required": True}, "address": {"type": "str", "required": True}}
    module = AnsibleModule(
        argument_spec={
            "ports": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    **place, "service": {"type": "str", "default": ""}, "port": {"type": "int", "required": True}, "ssh_port": {"type": "int", "default": 22},
                },
            },
            "gateways": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {**place, "port": {"type": "int", "default": 443}, "name": {"type": "str", "required": True}},
            },
        },
        supports_check_mode=True,
    )
    module.exit_json(changed=False, **_audit_probe.probe(module.params["ports"], module.params["gateways"]))


if __name__ == "__main__":
    main()
