#!/usr/bin/python
# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

# The action plugin of this name does it all.
from __future__ import annotations

DOCUMENTATION = r"""
module: ollama_audit_report
short_description: Judge what an audit found, and write the report
version_added: 0.1.0
description:
  - Compares what M(gpufleet.ollama.ollama_audit_facts) and M(gpufleet.ollama.ollama_audit_probe) found with the rows of the audit, and writes a page,
    JSON, and with O(checklist) JUnit, on the machine that runs Ansible. No host is connected to.
  - The playbooks C(audit) and C(status) use it. It reads what they registered (C(__audit_wanted), C(__audit_look), C(__audit_seen)).
  - Secrets of the inventory are taken out of everything that it writes and returns.
author:
  - gpufleet.ollama contributors (@gpufleet)
attributes:
  check_mode:
    support: full
    description: The same as without. The report is written in check mode, too, since it is no state of any host.
  diff_mode:
    support: none
    description: There is nothing to show.
options:
  path:
    description: Directory of the report, made for its owner only.
    type: path
    required: true
  name:
    description: Name of the files, without their ending.
    type: str
    default: audit
  hosts:
    description: The hosts of the report. One that nothing is known of was not reached.
    type: list
    elements: str
    required: true
  title:
    description: Title of the page.
    type: str
    default: Audit of the fleet
  checklist:
    description: Whether the rows are judged.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Judge and write
  gpufleet.ollama.ollama_audit_report:
    path: audit
    hosts: "{{ ansible_play_hosts_all }}"
  run_once: true
  register: report
"""

RETURN = r"""
paths:
  description: The files.
  type: list
  elements: str
  returned: success
  sample: [audit/audit.html, audit/audit.json, audit/audit.xml]
table:
  description: The report for a terminal, line by line.
  type: list
  elements: str
  returned: success
  sample: ["pass  required     tls                   TLS at the load balancer"]
summary:
  description: How many rows pass, fail, and do not apply, and how many of each priority fail.
  type: dict
  returned: success
  sample: {pass: 30, fail: 2, not applicable: 6, required failed: 0, recommended failed: 2, optional failed: 0}
failed_rows:
  description: Ids of the required rows that fail.
  type: list
  elements: str
  returned: success
  sample: []
"""
