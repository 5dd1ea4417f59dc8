# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What comes out of an audit: one report, as a table for the terminal, as JSON, as JUnit and as a page.

What hosts said is shown as text everywhere, with what is secret taken out.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from typing import Any
from xml.etree import ElementTree

import jinja2

from ansible_collections.gpufleet.ollama.plugins.plugin_utils import _audit, _audit_plan, _audit_plots
from ansible_collections.gpufleet.ollama.plugins.plugin_utils._audit_fleet import NOT_REACHED, Fleet, Host, bytes_text

TEMPLATES = os.path.normpath(os.path.join(os.path.dirname(__file__), "..", "..", "playbooks", "templates"))
HIDDEN = "(hidden)"
# shorter ones are words that may stand anywhere
MIN_SECRET = 8
PLOT_SECONDS = 86400
WORDS = {_audit.PASS: "pass", _audit.FAIL: "FAIL", _audit.NOT_APPLICABLE: "-"}
# what XML has no place for, not even escaped
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def scrubbed(value: Any, secrets: Iterable[str]) -> Any:
    """The same with every secret taken out of every text, in keys too."""
    found = sorted({secret for secret in secrets if len(secret) >= MIN_SECRET}, key=len, reverse=True)
    if not found:
        return value
    pattern = re.compile("|".join(map(re.escape, found)))

    def walk(item: Any) -> Any:
        if isinstance(item, str):
            return pattern.sub(HIDDEN, item)
        if isinstance(item, Mapping):
            return {walk(key): walk(inner) for key, inner in item.items()}
        return [walk(inner) for inner in item] if isinstance(item, (list, tuple)) else item

    return walk(value)


def build(data: Mapping[str, Any], title: str, checklist: bool) -> dict[str, Any]:
    """The report of what was found (see C(_audit_fleet.Fleet)): title, made, hosts, models, plots, and with a C(checklist) rows and summary."""
    fleet = Fleet(data)
    rows = _audit.evaluate(fleet) if checklist else []
    names = [name for name, host in fleet.hosts.items() if "ollama" in host.groups]
    return {
        "title": title,
        "made": datetime.datetime.fromtimestamp(fleet.now, datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "time": fleet.now,
        "checklist": checklist,
        "rows": rows,
        "summary": _audit.summary(rows),
        "hosts": [_host(fleet, host, rows) for host in fleet.hosts.values()],
        "models": {"hosts": names, "rows": _matrix(fleet, names)},
        "plots": _series(fleet),
    }


def _host(fleet: Fleet, host: Host, rows: list[dict[str, Any]]) -> dict[str, Any]:
    facts = host.facts or {}
    gpu = facts.get("gpu") or {"gpus": [], "driver": {}, "verdict": "none", "reasons": []}
    failed = sum(row["verdict"] == _audit.FAIL and any(item["host"] == host.name and item["good"] is False for item in row["evidence"]) for row in rows)
    problems = [host.problem] if host.problem else [] if host.facts is not None else [NOT_REACHED]
    problems += [f"{item['name']}: {item['problem']}" for item in facts.get("instances") or [] if item["problem"]]
    problems += gpu["reasons"] if gpu["verdict"] == "fail" else []
    return {
        "name": host.name,
        "groups": host.groups,
        "failed": failed,
        "problems": problems,
        "instances": [
            {"name": item["name"], "version": item["version"], "loaded": [model["name"] for model in item["loaded"]]} for item in facts.get("instances") or []
        ],
        "gpus": _cards(gpu["gpus"]),
        "driver": gpu["driver"].get("loaded") or "",
        "disks": [f"{item['path']}: {bytes_text(item['free'])} of {bytes_text(item['size'])} free" for item in facts.get("disks") or []],
        "upstreams": _upstreams(facts),
    }


def _cards(cards: list[Mapping[str, Any]]) -> list[str]:
    """GPUs in words, those of one kind together."""
    kinds: dict[tuple[str, Any], int] = {}
    for card in cards:
        kind = (card["name"] or f"{card['vendor']} GPU", card["memory_bytes"])
        kinds[kind] = kinds.get(kind, 0) + 1
    return [f"{count} × {name}" + (f", {bytes_text(memory)}" if memory else "") for (name, memory), count in kinds.items()]


def _upstreams(facts: Mapping[str, Any]) -> str:
    found = ((facts.get("requests") or {}).get("upstreams") or {}).get("json")
    if not isinstance(found, list):
        return ""
    return f"{sum(item.get('state') == 'up' for item in found)} of {len(found)} instances up"


def _matrix(fleet: Fleet, names: list[str]) -> list[dict[str, Any]]:
    """Every model that is somewhere, or should be, and what it is on each host."""
    found: dict[str, dict[str, str]] = {}
    about: dict[str, str] = {}
    for name in names:
        for instance in (fleet.hosts[name].facts or {}).get("instances") or []:
            for model in instance["models"]:
                state = "loaded" if model["loaded"] else "damaged" if model["complete"] is False else "not as locked" if model["stale"] else "there"
                before = found.setdefault(model["name"], {}).get(name)
                found[model["name"]][name] = "loaded" if "loaded" in (before, state) else state
                about[model["name"]] = f"{model['parameter_size']} {model['quantization']} {bytes_text(model['size'])}".strip()
            for absent in instance["absent"]:
                found.setdefault(absent, {}).setdefault(name, "missing")
    return [{"name": model, "about": about.get(model, ""), "states": [states.get(name, "") for name in names]} for model, states in sorted(found.items())]


def _series(fleet: Fleet) -> list[dict[str, Any]]:
    """The plots of the first Prometheus that answered: title and series."""
    for host in fleet.group("monitoring"):
        plots = ((host.facts or {}).get("prometheus") or {}).get("plots")
        if plots:
            return [{"title": title, "series": series or []} for title, series in plots.items()]
    return []


# -- forms --------------------------------------------------------------------------

def table(report: Mapping[str, Any]) -> list[str]:
    """The checklist for a terminal: a line for each row, and below what failed its evidence and its mend."""
    lines = []
    for host in report["hosts"]:
        state = "; ".join(host["problems"]) or ", ".join(f"{item['name']} {item['version']}" for item in host["instances"]) or "well"
        lines.append(f"{host['name']} ({', '.join(host['groups'])}): {state}")
    for row in report["rows"]:
        lines.append(f"{WORDS[row['verdict']]:<4}  {row['priority']:<11}  {row['id']:<20}  {row['item']}")
        if row["verdict"] == _audit.FAIL:
            bad = [item for item in row["evidence"] if item["good"] is False]
            lines += [f"        {' '.join(filter(None, (item['host'], item['asked'])))}: {item['answer']}" for item in bad[:5]]
            lines += [f"        and {len(bad) - 5} more"] if len(bad) > 5 else []
            lines.append(f"        mend: {row['mend']}")
    if report["checklist"]:
        counts = report["summary"]
        lines.append(
            f"{counts[_audit.PASS]} pass, {counts[_audit.FAIL]} fail ({counts['required failed']} of them required), "
            f"{counts[_audit.NOT_APPLICABLE]} do not apply"
        )
    # a terminal would obey what a host put there
    return [re.sub(r"[\x00-\x1f\x7f-\x9f]", "?", line) for line in lines]


def junit(report: Mapping[str, Any]) -> str:
    """The rows in JUnit's XML, which continuous integration reads. Only a required row that failed is a failure, as for the exit code; another one
    that failed counts as skipped, with its evidence."""
    suites = ElementTree.Element("testsuites", name=_xml(report["title"]))
    for category in dict.fromkeys(row["category"] for row in report["rows"]):
        rows = [row for row in report["rows"] if row["category"] == category]
        failures = [row for row in rows if row["verdict"] == _audit.FAIL and row["priority"] == "required"]
        skipped = [row for row in rows if row["verdict"] != _audit.PASS and row not in failures]
        suite = ElementTree.SubElement(
            suites, "testsuite", name=category, tests=str(len(rows)), failures=str(len(failures)), errors="0", skipped=str(len(skipped)),
        )
        for row in rows:
            case = ElementTree.SubElement(suite, "testcase", classname=f"audit.{category}", name=_xml(f"{row['id']}: {row['item']}"))
            evidence = _xml("\n".join(f"{item['host']} {item['asked']}: {item['answer']}" for item in row["evidence"]))
            if row in failures:
                ElementTree.SubElement(case, "failure", type=row["priority"], message=_xml(row["mend"])).text = evidence
            elif row in skipped:
                why = f"{row['priority']} row failed: {row['mend']}" if row["verdict"] == _audit.FAIL else _audit.NOT_APPLICABLE
                ElementTree.SubElement(case, "skipped", message=_xml(why))
            ElementTree.SubElement(case, "system-out").text = evidence
    ElementTree.indent(suites)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suites, encoding="unicode") + "\n"


def _xml(text: str) -> str:
    return _NOT_XML.sub("?", text)


def page(report: Mapping[str, Any]) -> str:
    """The page: all in one file, without scripts, with everything that is not of the template escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )
    plots = (_audit_plots.plot(item["title"], item["series"], report["time"], PLOT_SECONDS, item["title"] in _audit_plan.SHARES) for item in report["plots"])
    return environment.get_template("audit.html.j2").render(report, shown_plots=[item for item in plots if item])


def write(directory: str, name: str, report: Mapping[str, Any]) -> list[str]:
    """Write the report in all its forms, each file whole or not at all, for its owner only. Returns the paths. OSError when it cannot be."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    texts = {"html": page(report), "json": json.dumps(report, indent=2, ensure_ascii=False) + "\n"}
    if report["checklist"]:
        texts["xml"] = junit(report)
    paths = []
    for ending, text in texts.items():
        path = os.path.join(directory, f"{name}.{ending}")
        # mkstemp makes it 0600
        handle, temporary = tempfile.mkstemp(dir=directory, prefix=f".{name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as file:
                file.write(text)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
        paths.append(path)
    return paths
