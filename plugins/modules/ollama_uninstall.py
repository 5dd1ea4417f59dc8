#!/usr/bin/python
# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: ollama_uninstall
short_description: Remove Ollama from a host, and nothing else
version_added: 0.1.0
description:
  - Stops and removes every instance on the host, whatever the inventory says of it, the releases, and what belongs to them.
  - Of a directory that an option names only the parts go that Ollama or this collection made, and the directory when it is empty then.
    So a store in a directory with other files takes none of them with it.
  - The models of a store that is a mount point, or lies on a network filesystem, stay - other hosts may serve them.
author:
  - gpufleet.ollama contributors (@gpufleet)
attributes:
  check_mode:
    support: full
    description: Lists what would be removed.
  diff_mode:
    support: full
    description: Shows what is removed.
options:
  root:
    description: Directory of the releases.
    type: path
    default: /opt/ollama
  home:
    description: Home of the service, which holds its key.
    type: path
    default: /var/lib/ollama
  stores:
    description: Stores beside those that the instances on the host name themselves.
    type: list
    elements: path
    default: []
  keep_models:
    description: Leave the stores and the home.
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
  files:
    description: Further files to remove, each with its directory when that is empty then.
    type: list
    elements: path
    default: []
  command:
    description: Link to the command; it is removed only when it leads into O(root).
    type: path
    default: /usr/local/bin/ollama
"""

EXAMPLES = r"""
- name: Remove Ollama but for its models
  gpufleet.ollama.ollama_uninstall:
    keep_models: true
"""

RETURN = r"""
removed:
  description: What was removed, or would be in check mode.
  type: list
  elements: str
  returned: success
  sample: [ollama@default.service, /opt/ollama/0.34.4]
kept:
  description: Stores whose models stay because other hosts may serve them.
  type: list
  elements: str
  returned: success
  sample: []
"""

import glob
import os
import shutil
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpufleet.ollama.plugins.module_utils import _rollout, _units
from ansible_collections.gpufleet.ollama.plugins.module_utils._store import PRIVATE_DIR

UNITS = (_rollout.TEMPLATE_UNIT, "ollama-gpu-nodes.service", "ollama-warm@.service")


class Uninstall:
    """What is there of Ollama on a host, and its removal."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.params = params
        environments = sorted(glob.glob(os.path.join(params["config_dir"], "*.env")))
        self.drop_ins = sorted(glob.glob(os.path.join(params["unit_dir"], "ollama@*.service.d")))
        names = {os.path.basename(path)[: -len(".env")] for path in environments}
        names |= {os.path.basename(path)[len("ollama@") : -len(".service.d")] for path in self.drop_ins}
        self.units = [_rollout.unit_of(name) for name in sorted(names)]
        stores = {os.path.normpath(path) for path in (*params["stores"], *map(_rollout.store_in, environments)) if path}
        stores = set() if params["keep_models"] else {path for path in stores if os.path.isdir(path)}
        self.kept = sorted(path for path in stores if _rollout.is_shared(path))
        self.files = [*environments, *sorted(glob.glob(os.path.join(params["config_dir"], "*.warm.json")))]
        self.files += self._existing(*(os.path.join(params["unit_dir"], unit) for unit in UNITS), *params["files"])
        if os.path.islink(params["command"]) and os.readlink(params["command"]).startswith(f"{params['root']}/"):
            self.files.append(params["command"])
        self.files += self._existing(*(os.path.join(params["root"], name) for name in (_rollout.LINK, _rollout.KEPT)))
        self.trees = [os.path.join(params["root"], name) for name in _rollout.versions(params["root"])]
        self.trees += glob.glob(os.path.join(params["root"], ".staging-*"))
        for store in sorted(stores - set(self.kept)):
            self.trees += self._existing(*(os.path.join(store, part) for part in ("blobs", "manifests", PRIVATE_DIR)))
        if not params["keep_models"]:
            self.trees += self._existing(os.path.join(params["home"], ".ollama"))
        # the deepest first: a store may lie in the home
        folders = {os.path.dirname(path) for path in params["files"]} | (stores - set(self.kept)) | {params["config_dir"], params["root"]}
        folders |= set() if params["keep_models"] else {params["home"]}
        self.folders = sorted(self._existing(*folders), key=len, reverse=True)

    @staticmethod
    def _existing(*paths: str) -> list[str]:
        return [path for path in paths if os.path.lexists(path)]

    def plan(self) -> list[str]:
        """What is to be removed, for people."""
        units = [unit for unit in self.units if _units.read(unit).known]
        return [*units, *self.files, *self.drop_ins, *self.trees]

    def run(self) -> list[str]:
        """Remove it. Returns the directories that were empty then, and went too."""
        for unit in self.units:
            _rollout.stop(unit)
        for path in self.files:
            os.unlink(path)
        for path in (*self.drop_ins, *self.trees):
            shutil.rmtree(path)
        if self.units or self.files:
            _units.systemctl("daemon-reload")
        gone = []
        for path in self.folders:
            try:
                os.rmdir(path)
                gone.append(path)
            except OSError:
                # holds something that is not ours, or is a mount point
                continue
        return gone


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "default": "/opt/ollama"},
            "home": {"type": "path", "default": "/var/lib/ollama"},
            "stores": {"type": "list", "elements": "path", "default": []},
            "keep_models": {"type": "bool", "default": False},
            "config_dir": {"type": "path", "default": "/etc/ollama"},
            "unit_dir": {"type": "path", "default": "/etc/systemd/system"},
            "files": {"type": "list", "elements": "path", "default": []},
            "command": {"type": "path", "default": "/usr/local/bin/ollama"},
        },
        supports_check_mode=True,
    )
    gone: list[str] = []
    try:
        uninstall = Uninstall(module.params)
        removed = uninstall.plan()
        if not module.check_mode:
            gone = uninstall.run()
    except (_units.UnitError, OSError) as error:
        module.fail_json(msg=f"{error}. What is left can be removed by running this again")
    for path in uninstall.kept:
        module.warn(f"the models in {path} stay: it is a mount point or on a network filesystem, and other hosts may serve them")
    removed += gone
    module.exit_json(
        changed=bool(removed), removed=removed, kept=uninstall.kept, diff={"before": "".join(f"{path}\n" for path in removed), "after": ""}
    )


if __name__ == "__main__":
    main()
