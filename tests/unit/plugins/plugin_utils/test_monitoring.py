# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What Prometheus and Alertmanager are told; amtool and promtool judge it where they are there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.gpufleet.ollama.plugins.plugin_utils import _monitoring
from ansible_collections.gpufleet.ollama.plugins.plugin_utils._environment import ModelError

ROOT = Path(__file__).parents[4]
TOOLS = f"{ROOT}/.venv/prometheus/usr/bin:{os.environ['PATH']}"
AMTOOL, PROMTOOL = shutil.which("amtool", path=TOOLS), shutil.which("promtool", path=TOOLS)
RULES = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "roles/ollama_monitoring/files/rules").glob("*.yml")}
DEFAULTS = yaml.safe_load((ROOT / "roles/ollama_monitoring/defaults/main.yml").read_text(encoding="utf-8"))
OBJECTIVES = {name: DEFAULTS[f"ollama_monitoring_objective_{name}"] for name in ("error_ratio", "slow_ratio", "answer_seconds", "first_token_seconds")}
OPTIONS = {
    "group_wait": "30s", "group_interval": "5m", "repeat_interval": "4h", "watchdog_url": "", "watchdog_interval": "5m", "smarthost": "", "from": "",
    "username": "", "password": "", "tls_enabled": True,
}
MAIL = {"smarthost": "mail.example.org:587", "from": "fleet@example.org", "username": "fleet", "password": "mail-secret"}
RECEIVERS = [
    {"name": "night", "type": "mail", "to": "ops@example.org", "severities": ["critical"]},
    {"name": "chat", "type": "slack", "url": "https://hooks.example.org/secret", "channel": "#fleet"},
    {"name": "hook", "type": "webhook", "url": "http://127.0.0.1:9999/hook", "severities": ["warning"]},
]


def rules(**options: Any) -> dict[str, str]:
    """The files with options."""
    given = {"waits": {}, "disabled": [], "objectives": OBJECTIVES, **options}
    return _monitoring.alert_rules(RULES, given["waits"], given["disabled"], given["objectives"])


def rule(name: str, text: str) -> dict[str, Any]:
    """A rule of a file."""
    return next(rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"] if name in (rule.get("alert"), rule.get("record")))


def test_defaults_leave_every_file_as_it_is() -> None:
    """The objectives in the file are the defaults of the role, and comments stay."""
    assert rules() == RULES


def test_a_wait_an_alert_that_is_not_wanted_and_objectives() -> None:
    """Only what is named is another."""
    found = rules(waits={"InstanceDown": "10s", "GatewayErrorRate": "0s"}, disabled=["OllamaPartlyOnCpu"], objectives={
        "error_ratio": 0.05, "slow_ratio": 0.02, "answer_seconds": 2.5, "first_token_seconds": 1.0,
    })
    assert {name for name in RULES if found[name] != RULES[name]} == {"ollama.yml", "gateway.yml", "objectives.yml"}
    assert rule("InstanceDown", found["ollama.yml"]) == {**rule("InstanceDown", RULES["ollama.yml"]), "for": "10s"}
    assert rule("GatewayErrorRate", found["gateway.yml"])["for"] == "0s"
    assert "OllamaPartlyOnCpu" not in found["ollama.yml"] and "OllamaCpuFallback" in found["ollama.yml"]
    assert rule("ollama_objective:error_ratio", found["objectives.yml"])["expr"] == "vector(0.05)"
    assert rule("ollama_objective:answer", found["objectives.yml"])["labels"] == {"le": "2.5"}
    assert rule("ollama_objective:first_token", found["objectives.yml"])["labels"] == {"le": "1"}


def test_limits_are_those_of_the_gateway() -> None:
    """A limit that the histograms do not have would never match."""
    source = (ROOT / "roles/ollama_gateway/files/lua/gpufleet/metrics.lua").read_text(encoding="utf-8")
    line = next(line for line in source.splitlines() if line.startswith("local BUCKETS"))
    assert tuple(float(number) for number in line.partition("{")[2].partition("}")[0].split(",")) == _monitoring.BUCKETS


@pytest.mark.parametrize("options, message", [
    ({"waits": {"InstanceGone": "1m"}}, "ollama_monitoring_alert_for names InstanceGone"),
    ({"waits": {"InstanceDown": "soon"}}, "'soon' of InstanceDown is no time"),
    ({"waits": {"InstanceDown": 30}}, "30 of InstanceDown is no time"),
    ({"disabled": ["Nothing"]}, "ollama_monitoring_alerts_disabled names Nothing"),
    ({"objectives": {**OBJECTIVES, "error_ratio": 0.2}}, "objective_error_ratio is 0.2"),
    ({"objectives": {**OBJECTIVES, "slow_ratio": 0}}, "objective_slow_ratio is 0"),
    ({"objectives": {**OBJECTIVES, "answer_seconds": 90}}, "objective_answer_seconds is 90: the gateway counts by"),
])
def test_wrong_wishes(options: dict[str, Any], message: str) -> None:
    """Each says what is wrong."""
    with pytest.raises(ModelError) as error:
        rules(**options)
    assert message in str(error.value)


def takes(config: dict[str, Any], folder: Path) -> None:
    """amtool has no objection."""
    path = folder / "alertmanager.yml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    done = subprocess.run([str(AMTOOL), "check-config", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def route_of(config: dict[str, Any], folder: Path, *labels: str) -> set[str]:
    """Who gets an alert, as amtool says."""
    path = folder / "alertmanager.yml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    done = subprocess.run([str(AMTOOL), "config", "routes", "test", f"--config.file={path}", *labels], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return set(done.stdout.strip().split(","))


@pytest.mark.skipif(not AMTOOL, reason="there is no amtool: tests/rig/bootstrap test brings it")
def test_amtool_takes_the_configuration(tmp_path: Path) -> None:
    """With nothing, and with everything."""
    takes(_monitoring.alertmanager_config([], OPTIONS), tmp_path)
    config = _monitoring.alertmanager_config(RECEIVERS, {**OPTIONS, **MAIL, "watchdog_url": "https://watch.example.org/ping/secret"})
    takes(config, tmp_path)
    assert config["global"]["smtp_auth_password"] == "mail-secret"
    assert route_of(config, tmp_path, "alertname=InstanceDown", "severity=critical") == {"night", "chat"}
    assert route_of(config, tmp_path, "alertname=GpuHot", "severity=warning") == {"chat", "hook"}
    assert route_of(config, tmp_path, "alertname=Watchdog", "severity=none") == {"watchdog"}


@pytest.mark.skipif(not AMTOOL, reason="there is no amtool: tests/rig/bootstrap test brings it")
def test_without_receivers_nobody_gets_anything(tmp_path: Path) -> None:
    """Which Alertmanager accepts."""
    config = _monitoring.alertmanager_config([], OPTIONS)
    assert route_of(config, tmp_path, "alertname=InstanceDown", "severity=critical") == {"nobody"}
    assert [receiver for receiver in config["receivers"] if len(receiver) > 1] == []


@pytest.mark.parametrize("receivers, options, message", [
    ([{"name": "nobody", "type": "webhook", "url": "http://a"}], {}, "'nobody' is taken or is no name"),
    ([RECEIVERS[2], RECEIVERS[2]], {}, "'hook' is taken"),
    ([{"name": "a", "type": "slack", "url": "https://a"}], {}, "a is of the type slack and has no channel"),
    ([{"name": "a", "type": "webhook"}], {}, "a is of the type webhook and has no url"),
    ([RECEIVERS[0]], {}, "night wants mail, and nobody sends it: set ollama_monitoring_mail_smarthost"),
    ([{"name": "a", "type": "webhook", "url": "secret-token"}], {}, "the url of a in ollama_monitoring_receivers is no URL"),
    ([], {"watchdog_url": "ping"}, "ollama_monitoring_watchdog_url is no URL"),
    ([], {"repeat_interval": "often"}, "ollama_monitoring_alert_repeat_interval is 'often'"),
    ([], {"watchdog_interval": "1 minute"}, "ollama_monitoring_watchdog_interval is '1 minute'"),
])
def test_wrong_receivers(receivers: list[dict[str, Any]], options: dict[str, Any], message: str) -> None:
    """Each says what is wrong, and shows no secret."""
    with pytest.raises(ModelError) as error:
        _monitoring.alertmanager_config(receivers, {**OPTIONS, **options})
    assert message in str(error.value) and "secret" not in str(error.value)


def test_users() -> None:
    """A salt that bcrypt takes, the same in every run and another for every host."""
    given = [{"name": "ops", "password": "a-long-password"}]
    [user] = _monitoring.web_users(given, "mon1")
    assert len(user["salt"]) == 22 and user["salt"][-1] in ".Oeu"
    assert _monitoring.web_users(given, "mon1") == [user] and _monitoring.web_users(given, "mon2")[0]["salt"] != user["salt"]
    for wrong, message in (("short", "the password of ops must have 12"), ("x" * 73, "the password of ops must have 12")):
        with pytest.raises(ModelError, match=message):
            _monitoring.web_users([{"name": "ops", "password": wrong}], "mon1")
    with pytest.raises(ModelError, match="stands there twice"):
        _monitoring.web_users(given * 2, "mon1")


JOBS = [{"name": "prometheus", "target": "10.0.0.9:9090", "labels": {"host": "mon"}}, {"name": "node", "file": "/etc/prometheus/targets/node.yml"}]


@pytest.mark.skipif(not PROMTOOL, reason="there is no promtool: tests/rig/bootstrap test brings it")
def test_promtool_takes_the_configuration(tmp_path: Path) -> None:
    """Jobs as the role makes them, with TLS and passwords."""
    own = {"scheme": "https", "tls_config": {"insecure_skip_verify": True}, "basic_auth": {"username": "ops", "password_file": str(tmp_path / "password")}}
    (tmp_path / "password").write_text("x", encoding="utf-8")
    found = _monitoring.scrape_configs(JOBS, own, {"node": {"scrape_interval": "1m", "scheme": "https"}})
    assert found[0]["static_configs"] == [{"targets": ["10.0.0.9:9090"], "labels": {"host": "mon"}}] and found[0]["scheme"] == "https"
    assert found[1] == {"job_name": "node", "file_sd_configs": [{"files": ["/etc/prometheus/targets/node.yml"]}], "scrape_interval": "1m", "scheme": "https"}
    alerting = {"alertmanagers": [{**own, "static_configs": [{"targets": ["10.0.0.9:9093"]}]}]}
    for name, text in rules(waits={"InstanceDown": "0s"}).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    path = tmp_path / "prometheus"
    path.write_text(json.dumps({"scrape_configs": found, "alerting": alerting, "rule_files": [str(tmp_path / "*.yml")]}), encoding="utf-8")
    done = subprocess.run([str(PROMTOOL), "check", "config", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_wrong_scrape_options() -> None:
    """A job that is none, and what is not the operator's."""
    with pytest.raises(ModelError, match="has ollamas, which is no job: known are prometheus, node"):
        _monitoring.scrape_configs(JOBS, {}, {"ollamas": {}})
    with pytest.raises(ModelError, match="job_name of node come from the inventory"):
        _monitoring.scrape_configs(JOBS, {}, {"node": {"job_name": "x"}})
