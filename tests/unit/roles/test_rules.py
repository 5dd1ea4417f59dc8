# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The alert rules: promtool takes them, every alert fires and stays silent when it should, and has a section in the runbook."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
RULES = ROOT / "roles/ollama_monitoring/files/rules/gpu.yml"
CASES = ROOT / "tests/rules/gpu.yml"
RECORDED = ROOT / "tests/rules/recorded"
PROMTOOL = shutil.which("promtool", path=f"{ROOT}/.venv/prometheus/usr/bin:{os.environ['PATH']}")
FIRING = 'sum by (alertname) (ALERTS{alertstate="firing"})'
SAMPLE = re.compile(r"^([a-z_]+)(?:\{(.*)\})? ([-+.0-9e]+)$")

needs_promtool = pytest.mark.skipif(not PROMTOOL, reason="there is no promtool: tests/rig/bootstrap test brings it")


def load(path: Path) -> Any:
    """A YAML file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def promtool(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run it."""
    return subprocess.run([str(PROMTOOL), *map(str, arguments)], capture_output=True, text=True, check=False)


RULE = {rule["alert"]: rule for group in load(RULES)["groups"] for rule in group["rules"]}


@needs_promtool
def test_promtool_takes_the_rules() -> None:
    """Expressions and the templates of the texts."""
    done = promtool("check", "rules", RULES)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_cases() -> None:
    """What is in tests/rules."""
    done = promtool("test", "rules", CASES)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", RULE)
def test_every_alert_has_both_cases(alert: str) -> None:
    """One in which it fires, alone, and one in which nothing does."""
    fires = {False: 0, True: 0}
    for case in load(CASES)["tests"]:
        if case["name"].split()[0] == alert:
            assert [test["expr"] for test in case["promql_expr_test"]] == [FIRING]
            samples = case["promql_expr_test"][0]["exp_samples"]
            assert samples in ([], [{"labels": f'{{alertname="{alert}"}}', "value": 1}])
            fires[bool(samples)] += 1
    assert all(fires.values()), fires


@pytest.mark.parametrize("alert", RULE)
def test_every_alert_leads_to_its_section(alert: str) -> None:
    """The annotation is a path in the collection with a heading that is there; severities are two."""
    rule = RULE[alert]
    path, _hash, anchor = rule["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^## (.+)$", (ROOT / path).read_text(encoding="utf-8"), re.M)
    assert anchor == alert.lower() and alert in headings
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert {"summary", "description"} <= set(rule["annotations"])


def test_the_runbook_has_no_other_alert() -> None:
    """A section of an alert that is gone would lead nowhere."""
    headings = re.findall(r"^## (Gpu.+)$", (ROOT / "docs/runbooks/gpu.md").read_text(encoding="utf-8"), re.M)
    assert sorted(headings) == sorted(RULE)


def fired(samples: list[str], folder: Path, seconds: int = 45 * 60) -> set[str]:
    """The alerts that fire when a host tells the same for three quarters of an hour. Times in the samples are brought to the beginning of that."""
    series = []
    for line in samples:
        match = SAMPLE.match(line)
        assert match, line
        name, labels, value = match[1], match[2] or "", match[3]
        value = "0+60" if name.endswith("timestamp_seconds") and "xid" not in name else value
        series.append({"series": f'{name}{{{labels}{"," if labels else ""}host="gpu1",job="gpu"}}', "values": f"{value}x{seconds // 60}"})
    # promtool says what it got in the place of what was expected
    question = {"expr": FIRING, "eval_time": f"{seconds}s", "exp_samples": [{"labels": "{}", "value": 0}]}
    case = {"interval": "1m", "input_series": series, "promql_expr_test": [question]}
    path = folder / "case.yml"
    path.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [case]}), encoding="utf-8")
    done = promtool("test", "rules", path)
    got = (done.stdout + done.stderr).partition("got:")[2]
    assert done.returncode and got, done.stdout + done.stderr
    return set(re.findall(r'alertname="(\w+)"', got))


@needs_promtool
@pytest.mark.parametrize("path", sorted(RECORDED.glob("*.prom")), ids=lambda path: path.stem)
def test_alerts_fire_on_what_the_exporter_said(path: Path, tmp_path: Path) -> None:
    """Output of the real exporter, which asked the stand-in for nvidia-smi: its first line says which alerts it must lead to, and to no others."""
    lines = path.read_text(encoding="utf-8").splitlines()
    wanted = lines[0].removeprefix("# alerts:").split()
    samples = [line for line in lines if not line.startswith("#")]
    assert samples and fired(samples, tmp_path) == set(wanted)
