#!/usr/bin/python
# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: ollama_info
short_description: What Ollama runs on a host
version_added: 0.1.0
description:
  - Lists the releases on the host and its instances, each with the state of its unit and what its API answers. It asks the host
    itself, not the inventory, so it is right also where the two differ.
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
  root:
    description: Directory of the releases.
    type: path
    default: /opt/ollama
  config_dir:
    description: Directory of the environments, C(NAME.env).
    type: path
    default: /etc/ollama
  timeout:
    description: How long an instance may take to answer, in seconds.
    type: int
    default: 10
"""

EXAMPLES = r"""
- name: Ask what runs
  gpufleet.ollama.ollama_info:
"""

RETURN = r"""
release:
  description: Release that the link points to; empty when there is none.
  type: str
  returned: success
  sample: 0.34.4
releases:
  description: Releases on disk.
  type: list
  elements: str
  returned: success
  sample: [0.32.9, 0.34.4]
instances:
  description:
    - A dict for each instance; C(name), C(unit), C(running), C(url), C(version) and number of C(models) as its API says, C(problem)
      when it does not answer.
  type: list
  elements: dict
  returned: success
  sample:
    - {name: default, unit: ollama@default.service, running: true, url: "http://127.0.0.1:11434", version: 0.34.4, models: 2, problem: ""}
"""

import glob
import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpufleet.ollama.plugins.module_utils import _release, _units
from ansible_collections.gpufleet.ollama.plugins.module_utils._client import OllamaClient, OllamaError
from ansible_collections.gpufleet.ollama.plugins.module_utils._rollout import LINK, unit_of, versions
from ansible_collections.gpufleet.ollama.plugins.module_utils._upstream import client_url


def instance(path: str, timeout: int) -> dict[str, Any]:
    """One instance, from its environment file and its API."""
    name = os.path.basename(path)[: -len(".env")]
    with open(path, encoding="utf-8") as file:
        environment = dict(line.strip().split("=", 1) for line in file if "=" in line and not line.startswith("#"))
    found: dict[str, Any] = {
        "name": name,
        "unit": unit_of(name),
        "running": _units.read(unit_of(name)).running,
        "url": client_url(environment.get("OLLAMA_HOST", "").strip('"')),
        "version": "",
        "models": 0,
        "problem": "",
    }
    try:
        client = OllamaClient(found["url"], timeout)
        found.update(version=client.version(), models=len(client.models()))
    except OllamaError as error:
        found["problem"] = str(error)
    return found


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "default": "/opt/ollama"},
            "config_dir": {"type": "path", "default": "/etc/ollama"},
            "timeout": {"type": "int", "default": 10},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        instances = [instance(path, params["timeout"]) for path in sorted(glob.glob(os.path.join(params["config_dir"], "*.env")))]
    except (_units.UnitError, OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=False,
        release=_release.read_link(os.path.join(params["root"], LINK)),
        releases=sorted(versions(params["root"])),
        instances=instances,
    )


if __name__ == "__main__":
    main()
