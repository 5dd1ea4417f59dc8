# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""All rule files together: every alert has a case in which it fires and one in which it stays silent, and a section in a runbook."""

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
RULES = sorted((ROOT / "roles/ollama_monitoring/files/rules").glob("*.yml"))
CASES = ROOT / "tests/rules"
RUNBOOKS = ROOT / "docs/runbooks"
PROMTOOL = shutil.which("promtool", path=f"{ROOT}/.venv/prometheus/usr/bin:{os.environ['PATH']}")
FIRING = 'sum by (alertname) (ALERTS{alertstate="firing"})'
# fires always: there is no silence to show
ALWAYS = ("Watchdog",)

needs_promtool = pytest.mark.skipif(not PROMTOOL, reason="there is no promtool: tests/rig/bootstrap test brings it")


def load(path: Path) -> Any:
    """A YAML file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def rules_of(path: Path) -> list[dict[str, Any]]:
    """The rules of a file."""
    return [rule for group in load(path)["groups"] for rule in group["rules"]]


# alert -> its file and itself
ALERTS = {rule["alert"]: (path, rule) for path in RULES for rule in rules_of(path) if "alert" in rule}
WITH_ALERTS = sorted({path.stem for path, _rule in ALERTS.values()})


def promtool(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run it."""
    return subprocess.run([str(PROMTOOL), *map(str, arguments)], capture_output=True, text=True, check=False)


@needs_promtool
def test_promtool_takes_the_rules() -> None:
    """All of them together: expressions, the templates of the texts, and no rule twice."""
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", *RULES)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
@pytest.mark.parametrize("name", WITH_ALERTS)
def test_cases(name: str) -> None:
    """What is in tests/rules."""
    done = promtool("test", "rules", CASES / f"{name}.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def firing_in(case: dict[str, Any]) -> set[str]:
    """The alerts that a case expects to fire, of all that there are."""
    found: set[str] = set()
    for test in case["promql_expr_test"]:
        assert test["expr"] == FIRING, case["name"]
        for sample in test["exp_samples"]:
            match = re.fullmatch(r'\{alertname="(\w+)"\}', sample["labels"])
            assert match and sample["value"] == 1, case["name"]
            found.add(match[1])
    return found


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_both_cases(alert: str) -> None:
    """A case is the alert's whose name begins with it; it expects the alert, or it does not."""
    path, _rule = ALERTS[alert]
    document = load(CASES / path.name)
    assert f"../../{path.relative_to(ROOT)}" in document["rule_files"]
    own = [case for case in document["tests"] if case["name"].split()[0] == alert]
    for case in own:
        # what the name says is what is tested
        assert (alert in firing_in(case)) == (case["name"].split()[1] == "fires"), case["name"]
    wanted = {True} if alert in ALWAYS else {True, False}
    assert {alert in firing_in(case) for case in own} == wanted


def test_cases_are_of_alerts_that_there_are() -> None:
    """A case of another name would count for nobody."""
    for path in CASES.glob("*.yml"):
        for case in load(path)["tests"]:
            assert case["name"].split()[0] in ALERTS, case["name"]


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_leads_to_its_section(alert: str) -> None:
    """The annotation is a path in the collection with a heading that is there, and the section says what a section has to say."""
    _path, rule = ALERTS[alert]
    page, _hash, anchor = rule["annotations"]["runbook"].partition("#")
    assert page.startswith("docs/runbooks/") and anchor == alert.lower()
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", (ROOT / page).read_text(encoding="utf-8"), re.M | re.S))
    assert alert in sections
    for part in ("means", "look at", "mend"):
        assert f"**{part}**" in sections[alert].lower(), f"{alert}: {part}"
    assert rule["labels"]["severity"] in ("warning", "critical") or alert in ALWAYS
    assert {"summary", "description"} <= set(rule["annotations"])


def test_runbooks_have_no_other_alert() -> None:
    """A section of an alert that is gone would lead nowhere."""
    headings = [heading for path in RUNBOOKS.glob("*.md") for heading in re.findall(r"^## ([A-Z]\w+)$", path.read_text(encoding="utf-8"), re.M)]
    assert sorted(headings) == sorted(ALERTS)
