# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Dashboards and the operations guide, without a fleet: their queries are PromQL, and what they take from recording rules is recorded."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "tests/rig"))

import dashboards  # noqa: E402

PROMTOOL = shutil.which("promtool", path=f"{ROOT}/.venv/prometheus/usr/bin:{os.environ['PATH']}")
PAGES = sorted((ROOT / "docs/operations").glob("*.md"))
GUIDE = [query for page in PAGES for query in re.findall(r"```promql\n(.*?)\n```", page.read_text(encoding="utf-8"), re.S)]
QUERIES = [query for _dashboard, _panel, query in dashboards.queries()] + GUIDE


@pytest.mark.skipif(not PROMTOOL, reason="there is no promtool: tests/rig/bootstrap test brings it")
def test_every_query_is_promql(tmp_path: Path) -> None:
    """As the expression of a rule, promtool reads it."""
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(QUERIES)]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}), encoding="utf-8")
    done = subprocess.run([str(PROMTOOL), "check", "rules", "--lint=none", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(QUERIES)} rules found" in done.stdout and len(GUIDE) > 15


def test_every_recorded_series_is_recorded() -> None:
    """Names with colons come from our rules, and each of these is used by a panel, by the guide or by an alert."""
    folder = ROOT / "roles/ollama_monitoring/files/rules"
    rules = [rule for path in folder.glob("*.yml") for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]
    recorded = {rule["record"] for rule in rules if "record" in rule}
    asked = set(re.findall(r"[a-z_0-9]+(?::[a-z_0-9]+)+", " ".join([*QUERIES, *(rule["expr"] for rule in rules)])))
    assert asked == recorded


def test_variables_and_panels() -> None:
    """A variable that a query uses is there to be chosen, and none is without use; titles are unique within a dashboard."""
    for name, (_title, variables, panels) in dashboards.DASHBOARDS.items():
        used = {variable for panel in panels for query in panel.queries.values() for variable in re.findall(r"\$(\w+)", query)}
        assert used == set(variables), name
        assert len({panel.title for panel in panels}) == len(panels), name
