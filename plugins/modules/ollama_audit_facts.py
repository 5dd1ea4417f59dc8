#!/usr/bin/python
# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: ollama_audit_facts
short_description: Gather what an audit of a fleet wants to know of a host
version_added: 0.1.0
description:
  - Reads how the units of the fleet are set up and run, who listens where, what the instances answer, the modes of files with secrets, what nginx is
    configured to do, the clock, swap, room on disks, how logs are kept, and on a host with Prometheus what that says.
  - Writes nothing. What it returns holds no key, no password and no digest of one.
  - A part that cannot be read is named in RV(facts) with the reason, and the module does not fail.
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
  instances:
    description: The instances that the host is to have.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name.
        type: str
        required: true
      url:
        description: Where it answers.
        type: str
        required: true
      models_dir:
        description: Its store.
        type: path
        required: true
      models:
        description: Names of the models that it is to have.
        type: list
        elements: str
        default: []
  lock:
    description: What pins the models, the mapping C(models) of a lock file.
    type: dict
    default: {}
  requests:
    description: URLs of the host's own services that are asked, by any name.
    type: dict
    default: {}
  prometheus:
    description: The Prometheus of the host, where it has one.
    type: dict
    suboptions:
      url:
        description: Where it answers.
        type: str
        required: true
      user:
        description: A user that it knows. Empty when it asks for none.
        type: str
        default: ""
      password_path:
        description: The file on the host with the password of that user.
        type: path
        default: /etc/prometheus/web-password
      queries:
        description: Queries, by any name.
        type: dict
        default: {}
      plots:
        description: Queries that are answered for a range of time, by any name.
        type: dict
        default: {}
      seconds:
        description: How long that range is, up to now.
        type: int
        default: 86400
      points:
        description: How many points a series has.
        type: int
        default: 96
  gpu:
    description: Options of M(gpufleet.ollama.gpu_info), where they are not its defaults.
    type: dict
    default: {}
  sandbox:
    description: Whether to measure how exposed the units are, which takes seconds.
    type: bool
    default: true
  parts:
    description: Only these parts of RV(facts). Empty means all.
    type: list
    elements: str
    default: []
  root_dir:
    description: Where the system's files are.
    type: path
    default: /
"""

EXAMPLES = r"""
- name: Look at the host
  gpufleet.ollama.ollama_audit_facts:
    instances:
      - {name: default, url: "http://127.0.0.1:11434", models_dir: /var/lib/ollama/models, models: ["llama3.2:1b"]}
  register: found

- name: Show who listens where
  gpufleet.ollama.ollama_audit_facts:
    parts: [sockets]
"""

RETURN = r"""
facts:
  description: What was found, by part. C(problems) holds a sentence for each part that could not be looked at.
  type: dict
  returned: success
  sample:
    problems: {}
    virtual: none
    swap: []
    sockets: [{address: 127.0.0.1, port: 11434, pid: 812, command: ollama, unit: "ollama@default.service"}]
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpufleet.ollama.plugins.module_utils import _audit_facts


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "instances": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str", "required": True},
                    "url": {"type": "str", "required": True},
                    "models_dir": {"type": "path", "required": True},
                    "models": {"type": "list", "elements": "str", "default": []},
                },
            },
            "lock": {"type": "dict", "default": {}},
            "requests": {"type": "dict", "default": {}},
            "prometheus": {
                "type": "dict",
                "options": {
                    "url": {"type": "str", "required": True},
                    "user": {"type": "str", "default": ""},
                    "password_path": {"type": "path", "default": "/etc/prometheus/web-password", "no_log": False},
                    "queries": {"type": "dict", "default": {}},
                    "plots": {"type": "dict", "default": {}},
                    "seconds": {"type": "int", "default": 86400},
                    "points": {"type": "int", "default": 96},
                },
            },
            "gpu": {"type": "dict", "default": {}},
            "sandbox": {"type": "bool", "default": True},
            "parts": {"type": "list", "elements": "str", "default": []},
            "root_dir": {"type": "path", "default": "/"},
        },
        supports_check_mode=True,
    )
    module.exit_json(changed=False, facts=_audit_facts.gather(module.params))


if __name__ == "__main__":
    main()
