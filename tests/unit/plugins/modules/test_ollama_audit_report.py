"""Module ollama_audit_report, which is all action plugin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import yaml
from audit_fleet import answers, data

from ansible_collections.gpufleet.ollama.plugins.action import ollama_audit_report

KEY = "main-chain-test-key-0123456789abcdef"


def variables() -> dict[str, dict[str, Any]]:
    """The variables of the hosts of a play, as the playbook registers them."""
    found = data()
    result = {
        name: {"group_names": item["groups"], "__audit_look": {"facts": item["facts"]}, "__audit_wanted": item["wanted"]}
        for name, item in found["hosts"].items()
    }
    ports = [{key: value for key, value in item.items() if key != "from"} for item in found["probes"]["ports"]]
    result["gpu1"]["__audit_seen"] = {
        "ports": ports[1:], "gateways": [{"host": "gw", "address": "10.0.0.1", "port": 443, "name": "llm.example.org", "answers": answers()}],
    }
    for values in result.values():
        values.setdefault("__audit_seen", {"ports": [], "gateways": []})
        # registered by a task that runs once
        values["__audit_seen_here"] = {"ports": ports[:1], "gateways": []}
        values["ollama_gateway_clients"] = [{"name": "team-a", "keys": [{"key": KEY}]}]
        values["ollama_monitoring_mail_password"] = "mail-hunter2-mail"
        values["vault_gateway_keys"] = {"team-a": [{"key": KEY, "made": "2026-01-01"}]}
    return result


def run(hostvars: dict[str, dict[str, Any]], check: bool = False, **args: Any) -> dict[str, Any]:
    """Run the plugin."""
    task = MagicMock(async_val=0, check_mode=check, args={"hosts": list(hostvars), **args})
    plugin = ollama_audit_report.ActionModule(task, MagicMock(), MagicMock(), MagicMock(), MagicMock(), MagicMock())
    return plugin.run(task_vars={"hostvars": hostvars, "groups": {"all": list(hostvars), **data()["inventory"]}})


@pytest.mark.parametrize("check", [False, True])
def test_writes_and_judges(tmp_path: Path, check: bool) -> None:
    """The same in check mode: a report is no state of a host."""
    result = run(variables(), check, path=str(tmp_path / "audit"))
    assert not result["changed"] and not result.get("failed") and result["failed_rows"] == []
    assert [Path(path).name for path in result["paths"]] == ["audit.html", "audit.json", "audit.xml"]
    report = json.loads(Path(result["paths"][1]).read_text(encoding="utf-8"))
    acl = next(row for row in report["rows"] if row["id"] == "network-acl")
    # what each saw counts once
    assert sorted(item["asked"].partition(":")[0] for item in acl["evidence"]) == ["controller", "gpu1"]


def test_failed_rows_and_hosts_that_were_not_reached(tmp_path: Path) -> None:
    """A host that nothing is known of fails a row, with what Ansible said of it if it said anything."""
    hostvars = variables()
    hostvars["gpu2"] = {"group_names": ["ollama", "other"]}
    hostvars["gpu1"]["__audit_look"] = {"failed": True, "msg": "MODULE FAILURE"}
    result = run(hostvars, path=str(tmp_path))
    assert "hosts-reached" in result["failed_rows"]
    assert any("gpu1 connect to the host: MODULE FAILURE" in line for line in result["table"])
    assert any("gpu2 (ollama): it was not reached" in line for line in result["table"])


@pytest.mark.parametrize(("seen", "says"), [({"unreachable": True, "msg": "Connection reset by peer"}, "Connection reset by peer"), (None, "a task before")])
def test_a_host_that_could_not_ask_others(tmp_path: Path, seen: dict[str, Any] | None, says: str) -> None:
    """It was looked at, and is not well all the same; without a checklist no host asks."""
    hostvars = variables()
    hostvars["gpu2"]["__audit_seen"] = seen
    result = run(hostvars, path=str(tmp_path))
    assert result["failed_rows"] == ["hosts-reached"] and any("gpu2 ask other hosts: " in line and says in line for line in result["table"])
    assert not any(says in line for line in run(hostvars, path=str(tmp_path), name="status", checklist=False)["table"])


def test_groups_outside_of_the_play(tmp_path: Path) -> None:
    """With --limit: they are in the inventory."""
    hostvars = variables()
    result = run({host: hostvars[host] for host in ("gpu1", "gpu2")}, path=str(tmp_path))
    assert "tls" not in result["failed_rows"] and "health-monitored" not in result["failed_rows"]


@pytest.mark.parametrize("name", ["audit", "status"])
def test_a_report_is_begun_before_a_host_is_connected_to(tmp_path: Path, name: str) -> None:
    """Where all hosts fail the play ends at once: then this is what is left, and no report of an earlier run."""
    [play] = yaml.safe_load((Path(__file__).resolve().parents[4] / f"playbooks/{name}.yml").read_text(encoding="utf-8"))
    first = play["tasks"][0]
    assert play["gather_facts"] is False and first["run_once"]
    options = {key: value for key, value in first["gpufleet.ollama.ollama_audit_report"].items() if key in ("name", "checklist")}
    result = run({"gw": {"group_names": ["gateway"]}, "gpu1": {"group_names": ["ollama"]}}, path=str(tmp_path), **options)
    assert Path(result["paths"][0]).name == f"{name}.html"
    assert {"hosts-reached", "tls", "authentication"} <= set(result["failed_rows"]) or name == "status"
    assert any("gpu1 (ollama): it was not reached" in line for line in result["table"])


def test_secrets_that_are_words_of_the_report(tmp_path: Path) -> None:
    """They hide no row that failed."""
    hostvars = variables()
    hostvars["gw"]["vault_word"] = "hosts-reached"
    hostvars["gpu2"] = {"group_names": ["ollama"]}
    assert "hosts-reached" in run(hostvars, path=str(tmp_path))["failed_rows"]


def test_secrets_of_the_inventory_are_nowhere(tmp_path: Path) -> None:
    """Whatever a host says."""
    hostvars = variables()
    hostvars["gpu1"]["__audit_look"]["facts"]["problems"] = {"x": f"{KEY} and mail-hunter2-mail"}
    result = run(hostvars, path=str(tmp_path))
    texts = [json.dumps(result), *(Path(path).read_text(encoding="utf-8") for path in result["paths"])]
    assert all(KEY not in text and "mail-hunter2-mail" not in text and "(hidden) and (hidden)" in text for text in texts)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    """It says where and why."""
    (tmp_path / "file").write_text("", encoding="utf-8")
    result = run(variables(), path=str(tmp_path / "file/audit"))
    assert result["failed"] and "cannot write the report to" in result["msg"]


def test_status(tmp_path: Path) -> None:
    """Without the checklist no row fails."""
    result = run(variables(), path=str(tmp_path), name="status", checklist=False)
    assert [Path(path).name for path in result["paths"]] == ["status.html", "status.json"] and result["failed_rows"] == []
