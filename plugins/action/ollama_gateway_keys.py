# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The whole of module ollama_gateway_keys: the file is on the controller, and only Ansible itself there has the vault passwords."""

from __future__ import annotations

import os
from typing import Any

from ansible.plugins.action import ActionBase

from ansible_collections.gpufleet.ollama.plugins.plugin_utils import _keys
from ansible_collections.gpufleet.ollama.plugins.plugin_utils._model import ModelError

ARGUMENT_SPEC: dict[str, Any] = {
    "path": {"type": "path", "required": True},
    "clients": {"type": "list", "elements": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "rotate": {"type": "bool", "default": False},
    "retire": {"type": "bool", "default": False},
    "grace_seconds": {"type": "int", "default": 604800},
}


class ActionModule(ActionBase):
    """Keep the file. No host is connected to."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Entry point."""
        super().run(tmp, task_vars)
        args = self.validate_argument_spec(argument_spec=ARGUMENT_SPEC, mutually_exclusive=[("rotate", "retire")])[1]
        if args["state"] == "absent" and (args["rotate"] or args["retire"]):
            return {"failed": True, "changed": False, "msg": "rotate and retire need state=present: a client that is absent has no keys"}
        if args["grace_seconds"] < 0:
            return {"failed": True, "changed": False, "msg": f"grace_seconds is {args['grace_seconds']}: give 0 or more"}
        wish = _keys.Wish(args["clients"], args["state"], args["rotate"], args["retire"], args["grace_seconds"])
        try:
            # Ansible has no public way to its vault passwords; the name is the same from 2.17 to 2.21
            return _keys.ensure(os.path.abspath(args["path"]), self._loader._vault, wish, self._task.check_mode)
        except ModelError as error:
            return {"failed": True, "changed": False, "msg": str(error)}
