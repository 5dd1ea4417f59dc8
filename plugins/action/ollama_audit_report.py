# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The whole of module ollama_audit_report: what the hosts said is on the controller already, and so is where the report goes."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase

from ansible_collections.gpufleet.ollama.plugins.plugin_utils import _audit_plan, _audit_report
from ansible_collections.gpufleet.ollama.plugins.plugin_utils._audit_fleet import NOT_REACHED
from ansible_collections.gpufleet.ollama.plugins.plugin_utils._model import FLEET_GROUPS

ARGUMENT_SPEC: dict[str, Any] = {
    "path": {"type": "path", "required": True},
    "name": {"type": "str", "default": "audit"},
    "hosts": {"type": "list", "elements": "str", "required": True},
    "title": {"type": "str", "default": "Audit of the fleet"},
    "checklist": {"type": "bool", "default": True},
}
# variables of the collection that hold secrets, and those of operators by their names
_VARIABLES = re.compile(
    r"ollama_(gateway_(clients|users)|monitoring_(users|receivers|mail_password|grafana_admin_password|watchdog_url))|vault_\w+|\w*password\w*"
)
_LEAVES = re.compile(r"key|\w*password\w*|\w*secret\w*|\w*token\w*|sha256|url")


def secrets_in(value: Any, inside: bool = False) -> Iterator[str]:
    """The texts under keys whose names say that they are secret. C(inside): all of them are."""
    if isinstance(value, str):
        if inside:
            yield f"{value}"
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from secrets_in(inner, inside or bool(_LEAVES.fullmatch(str(key))))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from secrets_in(inner, inside)


class ActionModule(ActionBase):
    """Judge and write. No host is connected to."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Entry point."""
        super().run(tmp, task_vars)
        args = self.validate_argument_spec(argument_spec=ARGUMENT_SPEC)[1]
        hostvars = (task_vars or {})["hostvars"]
        hosts = [str(host) for host in args["hosts"]]
        groups = (task_vars or {})["groups"]
        data = {
            "now": time.time(),
            "hosts": {host: self._host(hostvars[host], args["checklist"]) for host in hosts},
            "probes": self._probes(hostvars, hosts),
            # with --limit the play has not all of them
            "inventory": {group: list(groups.get(group) or []) for group in FLEET_GROUPS},
        }
        judged = _audit_report.build(data, args["title"], args["checklist"])
        failed = [row["id"] for row in judged["rows"] if row["verdict"] == "fail" and row["priority"] == "required"]
        report = _audit_report.scrubbed(judged, self._secrets(hostvars, hosts))
        directory = os.path.abspath(args["path"])
        try:
            paths = _audit_report.write(directory, args["name"], report)
        except OSError as error:
            return {"failed": True, "changed": False, "msg": f"cannot write the report to {directory}: {error.strerror}"}
        return {"changed": False, "paths": paths, "table": _audit_report.table(report), "summary": report["summary"], "failed_rows": failed}

    @staticmethod
    def _host(values: Mapping[str, Any], checklist: bool) -> dict[str, Any]:
        """What was found of a host. One that failed when it was to ask others has facts, and a problem all the same."""
        look, seen = (values.get(name) or {} for name in ("__audit_look", "__audit_seen"))
        groups = [group for group in FLEET_GROUPS if group in (values.get("group_names") or [])]
        facts = look.get("facts")
        problem = "" if facts else str(look.get("msg") or "")
        if facts and checklist and "ports" not in seen:
            problem = str(seen.get("msg") or NOT_REACHED)
        return {"groups": groups, "facts": facts, "wanted": values.get("__audit_wanted") or {}, "problem": problem}

    @staticmethod
    def _probes(hostvars: Mapping[str, Any], hosts: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
        """What the hosts saw of one another, each with who saw it."""
        found: dict[str, list[dict[str, Any]]] = {"ports": [], "gateways": []}
        for host in hosts:
            for variable, asker in (("__audit_seen", host), ("__audit_seen_here", _audit_plan.CONTROLLER)):
                answer = hostvars[host].get(variable) or {}
                for kind, items in found.items():
                    items += [{**item, "from": asker} for item in answer.get(kind) or []]
        # a task that runs once is registered for every host
        return {kind: list({repr(sorted(item.items(), key=str)): item for item in items}.values()) for kind, items in found.items()}

    @staticmethod
    def _secrets(hostvars: Mapping[str, Any], hosts: Iterable[str]) -> set[str]:
        """The secrets of the inventory, none of which may stand in a report whatever a host says."""
        found: set[str] = set()
        for host in hosts:
            values = hostvars[host]
            for name in list(values):
                if not _VARIABLES.fullmatch(str(name)):
                    continue
                try:
                    found.update(secrets_in(values[name], not str(name).startswith("ollama_gateway_") and not str(name).endswith(("_users", "_receivers"))))
                except AnsibleError:
                    # a vault that was not opened: then nobody has its secrets
                    continue
        return found
