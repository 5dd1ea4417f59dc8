# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What Prometheus and Alertmanager are told: alert rules as the operator wants them, and who gets which alert.

Each function raises C(ModelError) with a sentence that says what is wrong and how to mend it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from ansible_collections.gpufleet.ollama.plugins.plugin_utils._environment import ModelError

# of the histograms of the gateway, see metrics.lua
BUCKETS = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
SEVERITIES = ("critical", "warning")
# above it, an alert at 14.4 times the pace could never fire
MAX_RATIO = 0.06
WATCHDOG = "Watchdog"

_DURATION = re.compile(r"0|([0-9]+(ms|s|m|h|d|w))+")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
# bcrypt's own alphabet; the last of 22 characters has two bits only
_BCRYPT = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_LAST = ".Oeu"
_NEEDS = {"mail": ("to",), "webhook": ("url",), "slack": ("url", "channel")}


def alert_rules(files: Mapping[str, str], waits: Mapping[str, Any], disabled: Iterable[str], objectives: Mapping[str, Any]) -> dict[str, str]:
    """Rule files as the operator wants them.

    Args: C(files), name -> text. C(waits), alert -> how long its condition must hold (C(ollama_monitoring_alert_for)). C(disabled), alerts that are
    left out. C(objectives) with error_ratio and slow_ratio (shares), answer_seconds and first_token_seconds (each a bucket of the gateway).
    Returns name -> text. A file in which nothing is another stays as it is, with its comments.
    """
    out = set(disabled)
    _known(files, [("ollama_monitoring_alert_for", waits), ("ollama_monitoring_alerts_disabled", out)])
    for alert, wait in waits.items():
        if not _DURATION.fullmatch(str(wait)):
            raise ModelError(f"ollama_monitoring_alert_for: {wait!r} of {alert} is no time: give one such as 30s, 5m or 1h30m, or 0s for at once")
    recorded = _objectives(objectives)
    result = {}
    for name, text in files.items():
        document = yaml.safe_load(text)
        changed = False
        for group in document["groups"]:
            kept = [rule for rule in group["rules"] if rule.get("alert") not in out]
            changed = changed or len(kept) < len(group["rules"])
            group["rules"] = kept
            for rule in kept:
                wanted = {**rule, **recorded.get(rule.get("record", ""), {})}
                if rule.get("alert") in waits:
                    wanted["for"] = str(waits[rule["alert"]])
                changed = changed or wanted != rule
                rule.update(wanted)
        result[name] = yaml.safe_dump(document, sort_keys=False, width=1000, allow_unicode=True) if changed else text
    return result


def _known(files: Mapping[str, str], options: Iterable[tuple[str, Iterable[str]]]) -> None:
    alerts = {rule["alert"] for text in files.values() for group in yaml.safe_load(text)["groups"] for rule in group["rules"] if "alert" in rule}
    for option, names in options:
        strange = sorted(set(names) - alerts)
        if strange:
            raise ModelError(f"{option} names {', '.join(map(str, strange))}, which is no alert of the collection: known are {', '.join(sorted(alerts))}")


def _objectives(given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Name of a recorded objective -> what its rule gets."""
    result: dict[str, dict[str, Any]] = {}
    for name in ("error_ratio", "slow_ratio"):
        value = float(given[name])
        if not 0 < value <= MAX_RATIO:
            raise ModelError(f"ollama_monitoring_objective_{name} is {value:g}: give a share above 0 and up to {MAX_RATIO}, such as 0.01 for one in a hundred")
        result[f"ollama_objective:{name}"] = {"expr": f"vector({value:g})"}
    for name in ("answer", "first_token"):
        value = float(given[f"{name}_seconds"])
        if value not in BUCKETS:
            raise ModelError(
                f"ollama_monitoring_objective_{name}_seconds is {value:g}: the gateway counts by the limits "
                f"{', '.join(f'{limit:g}' for limit in BUCKETS)}; give one of them"
            )
        result[f"ollama_objective:{name}"] = {"labels": {"le": f"{value:g}"}}
    return result


def web_users(raw: Iterable[Mapping[str, Any]], host: str) -> list[dict[str, Any]]:
    """C(ollama_monitoring_users), checked, each with the salt of its bcrypt hash: derived from host and name, so that a second run makes the same
    hash. A salt need be unique, not secret."""
    result: dict[str, dict[str, Any]] = {}
    for user in raw:
        name, password = str(user["name"]), str(user["password"])
        if not _NAME.fullmatch(name) or name in result:
            raise ModelError(f"ollama_monitoring_users: {name!r} stands there twice or is no name: give each user one of letters, digits and . _ -")
        # bcrypt sees no more than 72 bytes
        if not 12 <= len(password.encode()) <= 72:
            raise ModelError(f"ollama_monitoring_users: the password of {name} must have 12 to 72 characters; make one with openssl rand -base64 18")
        digest = hashlib.sha256(f"{host}:{name}".encode()).digest()
        salt = "".join(_BCRYPT[byte % 64] for byte in digest[:21]) + _LAST[digest[21] % 4]
        result[name] = {"name": name, "password": password, "salt": salt}
    return list(result.values())


def alertmanager_config(receivers: Iterable[Mapping[str, Any]], options: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of Alertmanager.

    Args: C(receivers), C(ollama_monitoring_receivers). C(options) with group_wait, group_interval, repeat_interval (times as Prometheus writes
    them), watchdog_url and watchdog_interval, and of the mail server smarthost, from, username, password and tls_enabled.
    Every receiver gets the alerts of its severities. The Watchdog goes to its own URL alone, or nowhere. What a host that is down has to say of
    itself beside HostDown is held back.
    """
    entries = list(receivers)
    _check_receivers(entries, options)
    # repeated at the first group interval after the repeat interval
    routes: list[dict[str, Any]] = [
        {
            "receiver": "watchdog", "matchers": [f'alertname="{WATCHDOG}"'], "group_wait": "0s", "group_interval": "5s",
            "repeat_interval": options["watchdog_interval"],
        }
    ]
    named: list[dict[str, Any]] = [{"name": "nobody"}, {"name": "watchdog"}]
    if options["watchdog_url"]:
        named[1]["webhook_configs"] = [{"url": options["watchdog_url"], "send_resolved": False}]
    for entry in entries:
        severities = list(entry.get("severities") or SEVERITIES)
        routes.append({"receiver": entry["name"], "matchers": [f'severity=~"{"|".join(severities)}"'], "continue": True})
        named.append({"name": entry["name"], **_configs(entry)})
    return {
        "global": _mail(options) if options["smarthost"] else {},
        "route": {
            "receiver": "nobody", "group_by": ["alertname", "host"], "group_wait": options["group_wait"], "group_interval": options["group_interval"],
            "repeat_interval": options["repeat_interval"], "routes": routes,
        },
        "inhibit_rules": [
            {"source_matchers": ['alertname="HostDown"'], "target_matchers": ['alertname!="HostDown"'], "equal": ["host"]},
            # of the two that speak of the same, the one that wakes somebody
            *(
                {"source_matchers": [f'alertname="{alert}"'], "target_matchers": [f'alertname="{alert}SlowBurn"'], "equal": []}
                for alert in ("GatewayErrorRate", "GatewayLatency", "GatewayFirstToken")
            ),
        ],
        "receivers": named,
    }


def scrape_configs(jobs: Iterable[Mapping[str, Any]], own: Mapping[str, Any], more: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The scrape jobs of Prometheus.

    Args: C(jobs), each with a name and either the C(file) of its targets or, for what runs beside Prometheus, its C(target) and C(labels). C(own), how
    those are asked. C(more), job -> settings in Prometheus' own words (C(ollama_monitoring_scrape_options)).
    """
    entries = list(jobs)
    names = [job["name"] for job in entries]
    strange = sorted(set(more) - set(names))
    if strange:
        raise ModelError(f"ollama_monitoring_scrape_options has {', '.join(map(str, strange))}, which is no job: known are {', '.join(names)}")
    result = []
    for job in entries:
        given = more.get(job["name"]) or {}
        fixed = {"job_name", "file_sd_configs", "static_configs"} & set(given)
        if fixed:
            raise ModelError(f"ollama_monitoring_scrape_options: {', '.join(sorted(fixed))} of {job['name']} come from the inventory: leave them out")
        if "file" in job:
            targets: dict[str, Any] = {"file_sd_configs": [{"files": [job["file"]]}]}
        else:
            targets = {"static_configs": [{"targets": [job["target"]], "labels": dict(job["labels"])}], **own}
        result.append({"job_name": job["name"], **targets, **given})
    return result


def _check_receivers(entries: list[Mapping[str, Any]], options: Mapping[str, Any]) -> None:
    taken = {"nobody", "watchdog"}
    for entry in entries:
        name, kind = str(entry["name"]), str(entry["type"])
        if not _NAME.fullmatch(name) or name in taken:
            raise ModelError(
                f"ollama_monitoring_receivers: {name!r} is taken or is no name: give each receiver one of letters, digits and . _ -, "
                "other than nobody and watchdog"
            )
        taken.add(name)
        missing = [field for field in _NEEDS[kind] if not entry.get(field)]
        if missing:
            raise ModelError(f"ollama_monitoring_receivers: {name} is of the type {kind} and has no {' and no '.join(missing)}: give it")
        if kind == "mail" and not (options["smarthost"] and options["from"]):
            raise ModelError(
                f"ollama_monitoring_receivers: {name} wants mail, and nobody sends it: set ollama_monitoring_mail_smarthost and ollama_monitoring_mail_from"
            )
        _check_url(f"the url of {name} in ollama_monitoring_receivers", entry.get("url"))
    _check_url("ollama_monitoring_watchdog_url", options["watchdog_url"])
    for option in ("group_wait", "group_interval", "repeat_interval", "watchdog_interval"):
        if not _DURATION.fullmatch(str(options[option])):
            raise ModelError(f"ollama_monitoring_{'' if 'watchdog' in option else 'alert_'}{option} is {options[option]!r}: give a time such as 30s, 5m or 4h")


def _check_url(where: str, value: Any) -> None:
    # its text may be a secret
    if value and not re.match(r"https?://[^\s/]", str(value)):
        raise ModelError(f"{where} is no URL: give one that begins with http:// or https://")


def _mail(options: Mapping[str, Any]) -> dict[str, Any]:
    result = {"smtp_smarthost": options["smarthost"], "smtp_from": options["from"], "smtp_require_tls": bool(options["tls_enabled"])}
    if options["username"]:
        result |= {"smtp_auth_username": options["username"], "smtp_auth_password": options["password"]}
    return result


def _configs(entry: Mapping[str, Any]) -> dict[str, Any]:
    if entry["type"] == "mail":
        return {"email_configs": [{"to": entry["to"], "send_resolved": True}]}
    if entry["type"] == "slack":
        text = "{{ range .Alerts }}{{ .Annotations.summary }}\n{{ .Annotations.description }}\n{{ .Annotations.runbook }}\n{{ end }}"
        return {"slack_configs": [{"api_url": entry["url"], "channel": entry["channel"], "send_resolved": True, "text": text}]}
    return {"webhook_configs": [{"url": entry["url"], "send_resolved": True}]}
