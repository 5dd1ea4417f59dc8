# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The rows of an audit, and the verdict on each.

Two lists are asked of a service for production, one of its security (C(security N)) and one of its readiness (C(readiness N), by their order). Rows
that stand in both are one row here, with the stricter priority. C(fleet) marks what this collection asks beyond them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ansible_collections.gpufleet.ollama.plugins.plugin_utils import _audit_rules as rules
from ansible_collections.gpufleet.ollama.plugins.plugin_utils._audit_fleet import Check, Fleet

PRIORITIES = ("required", "recommended", "optional")
PASS, FAIL, NOT_APPLICABLE = "pass", "fail", "not applicable"


class Row(NamedTuple):
    """A row of the audit: what is asked, of which lists, how it is mended, and the check that finds out."""

    id: str
    category: str
    item: str
    priority: str
    sources: tuple[str, ...]
    mend: str
    check: Check


ROWS = (
    Row(
        "hosts-reached", "infrastructure", "Every host was looked at", "required", ("fleet",),
        "Let Ansible reach the host and become root there; take a host that is gone out of the inventory.", rules.reached,
    ),
    Row(
        "restart-policy", "infrastructure", "Restart policy", "required", ("readiness 1",),
        "Run the playbook site: it writes the units with Restart= and enables them. Take drop-ins of your own out of /etc/systemd/system.",
        rules.restart_policy,
    ),
    Row(
        "persistent-storage", "infrastructure", "Persistent storage for models", "required", ("readiness 2",),
        "Set ollama_models_dir to a directory on a disk, or mount one there with ollama_models_mount.", rules.persistent_store,
    ),
    Row(
        "resource-limits", "infrastructure", "Limits for memory, CPU, GPU", "required", ("readiness 3", "security 5"),
        "Set memory_max and cpu_quota of each instance in ollama_instances, and run the playbook site.", rules.limits,
    ),
    Row(
        "health-checks", "infrastructure", "Health checks: liveness and readiness", "required", ("readiness 4",),
        "See journalctl -u ollama@NAME on a host that does not answer; run the playbook site where a unit or the gateway is not there.", rules.health_checks,
    ),
    Row(
        "tls", "security", "TLS at the load balancer", "required", ("security 2", "readiness 5"),
        "Put a host into the group gateway and run the playbook site; let no other site of nginx on it allow older versions of TLS.", rules.tls,
    ),
    Row(
        "authentication", "security", "Authentication at the proxy", "required", ("security 3", "readiness 6"),
        "Run the playbook site, which writes the gateway's configuration anew, and remove sites of nginx that lead to an instance past it.",
        rules.authentication,
    ),
    Row(
        "bound", "security", "Ollama bound to localhost or an internal network", "required", ("security 1", "readiness 7"),
        "Set ollama_listen_address to a private address, or leave it out, and run the playbook site; stop an Ollama that is not the collection's.",
        rules.bound,
    ),
    Row(
        "rate-limiting", "security", "Rate limiting", "recommended", ("security 4", "readiness 8"),
        "Set ollama_gateway_rate and ollama_gateway_burst, and run the playbook site.", rules.rate_limit,
    ),
    Row(
        "not-root", "security", "Not running as root", "recommended", ("security 6", "readiness 9"),
        "Run the playbook site, whose units have users of their own; take drop-ins with User=root away.", rules.not_root,
    ),
    Row(
        "logs-without-prompts", "security", "Logs hold no prompts", "recommended", ("security 7",),
        "Take debug and debug_log_requests out of the instance's environment, and bodies and queries out of nginx's log formats.", rules.logs_without_prompts,
    ),
    Row(
        "network-acl", "security", "Network ACL: who may reach Ollama", "recommended", ("security 8",),
        "Let the role ollama_firewall apply its rules (ollama_firewall_state: present), or close the port in the firewall manager that the host has.",
        rules.network_acl,
    ),
    Row(
        "model-access", "security", "Model access control: pull and push for admins", "optional", ("security 9",),
        "Give the class admin in ollama_gateway_clients to those only who may pull, push and delete models.", rules.model_access,
    ),
    Row(
        "audit-log", "security", "Audit log of API requests at the proxy", "optional", ("security 10",),
        "Run the playbook site: the gateway's log names the client of each request.", rules.audit_log,
    ),
    Row(
        "other-ports", "security", "No other port is open to a host that may not reach it", "recommended", ("fleet",),
        "Let the role ollama_firewall apply its rules; stop what listens and is not of the fleet, or set ollama_firewall_default_deny_enabled.",
        rules.other_ports,
    ),
    Row(
        "secret-files", "security", "Files with keys and passwords are closed to others", "required", ("fleet",),
        "Run the playbook site, which sets the modes; change the keys that others may have read (playbook rotate_keys).", rules.secret_files,
    ),
    Row(
        "certificate", "security", f"Certificate valid for {rules.MIN_CERTIFICATE_DAYS} days and more", "required", ("fleet",),
        "Run the playbook site, which renews a certificate of the fleet's own authority; with ACME see journalctl -u certbot.", rules.certificate,
    ),
    Row(
        "key-age", "security", f"API keys not older than {rules.MAX_KEY_DAYS} days", "recommended", ("fleet",),
        "Rotate them with the playbook rotate_keys, which notes when a key was made.", rules.key_age,
    ),
    Row(
        "sandbox", "security", f"Exposure of the units at most {rules.MAX_EXPOSURE} of 10", "recommended", ("fleet",),
        "Take away drop-ins that open the sandbox, and run the playbook site; systemd-analyze security UNIT says what counts.", rules.sandbox,
    ),
    Row(
        "several-instances", "reliability", "Several instances behind a balancer", "recommended", ("readiness 10",),
        "Add an Ollama host to the inventory; put one back that was drained with the playbook drain.", rules.several_instances,
    ),
    Row(
        "models-pulled", "reliability", "Models pulled at deployment", "recommended", ("readiness 11",),
        "Run the playbook models.", rules.models_there,
    ),
    Row(
        "warm-up", "reliability", "Warm-up after start", "recommended", ("readiness 12",),
        "Set warm: true for the models in ollama_models that are to be loaded after a start, and run the playbook site.", rules.warm_up,
    ),
    Row(
        "backup", "reliability", "Backup and restore procedure tested", "recommended", ("readiness 13",),
        "Back up the models that no registry has, and try a restore; docs/runbooks/backup.md says what to look at.", rules.backup,
    ),
    Row(
        "models-locked", "reliability", "Models whole and as locked", "recommended", ("fleet",),
        "Pin the models with the playbook lock, and bring them with the playbook models.", rules.models_locked,
    ),
    Row(
        "time-sync", "reliability", "Clock synchronized", "recommended", ("fleet",),
        "Install chrony, or enable systemd-timesyncd, and let it reach a time server.", rules.clock,
    ),
    Row(
        "swap", "reliability", "No swap under models", "recommended", ("fleet",),
        "Turn swap off, or set MemorySwapMax=0 in a drop-in of the instances.", rules.swap,
    ),
    Row(
        "disk", "reliability", f"At least {rules.MIN_FREE:.0%} of each disk free", "required", ("fleet",),
        "Delete models that nobody needs (ollama_models_prune_enabled), or enlarge the disk.", rules.disk,
    ),
    Row(
        "configuration", "reliability", "What runs is what is configured", "recommended", ("fleet",),
        "Run the playbook site, which restarts what runs with an old configuration.", rules.configuration_runs,
    ),
    Row(
        "health-monitored", "monitoring", "Health endpoint monitored", "required", ("readiness 14",),
        "Put a host into the group monitoring and run the playbook site; docs/runbooks/monitoring.md says why a target is down.", rules.health_monitored,
    ),
    Row(
        "latency-errors", "monitoring", "Latency and error rate tracked", "recommended", ("readiness 15",),
        "Let Prometheus reach the gateways' figures (ollama_gateway_metrics_port), and run the playbook site.", rules.latency_tracked,
    ),
    Row(
        "dashboards", "monitoring", "Dashboards for CPU, RAM, GPU", "recommended", ("readiness 16",),
        "Set ollama_monitoring_grafana_enabled and a password, and run the playbook site.", rules.dashboards,
    ),
    Row(
        "alerts", "monitoring", "Alerts on downtime and error spikes", "recommended", ("readiness 17",),
        "Say in ollama_monitoring_receivers who is told, take the alerts out of ollama_monitoring_alerts_disabled, and run the playbook site.", rules.alerts,
    ),
    Row(
        "logs", "monitoring", "Logs collected and kept", "recommended", ("readiness 18",),
        "Set Storage=persistent in journald.conf, send the journals to another host, and let logrotate care for nginx's logs.", rules.logs_kept,
    ),
    Row(
        "model-sizes", "performance", "Model size and quantization validated", "required", ("readiness 19",),
        "Choose a smaller quantization, or another host, for a model that does not fit; the log of its instance says why it is not on a GPU.",
        rules.model_sizes,
    ),
    Row(
        "context-length", "performance", "num_ctx set to practical limits", "required", ("readiness 20",),
        "Set context_length in the environment of the instance in ollama_instances, and run the playbook site.", rules.context_length,
    ),
    Row(
        "num-parallel", "performance", "OLLAMA_NUM_PARALLEL tuned for the hardware", "recommended", ("readiness 21",),
        "Set num_parallel in the environment of the instance in ollama_instances, and run the playbook site.", rules.num_parallel,
    ),
    Row(
        "keep-alive", "performance", "OLLAMA_KEEP_ALIVE set for the usage", "recommended", ("readiness 22",),
        "Set keep_alive in the environment of the instance in ollama_instances, and run the playbook site.", rules.keep_alive,
    ),
    Row(
        "gpus", "performance", "GPUs and their driver are well", "required", ("fleet",),
        "See docs/runbooks/gpu.md; a driver that is installed and not loaded wants a reboot (playbook gpu_upgrade).", rules.gpu_state,
    ),
)


def verdict(findings: list[Mapping[str, Any]]) -> str:
    """One bad piece of evidence is enough to fail, and at least one good one is needed to pass."""
    values = [finding["good"] for finding in findings]
    if False in values:
        return FAIL
    return PASS if True in values else NOT_APPLICABLE


def evaluate(fleet: Fleet) -> list[dict[str, Any]]:
    """All rows with their verdict and their evidence, what is bad first."""
    result = []
    for row in ROWS:
        findings = [finding._asdict() for finding in row.check(fleet)]
        findings.sort(key=lambda finding: {False: 0, True: 1, None: 2}[finding["good"]])
        fields = {key: getattr(row, key) for key in ("id", "category", "item", "priority", "mend")}
        result.append({**fields, "sources": list(row.sources), "verdict": verdict(findings), "evidence": findings})
    return result


def summary(rows: list[Mapping[str, Any]]) -> dict[str, int]:
    """How many rows have which verdict, and how many that failed are of which priority."""
    counts = {name: sum(row["verdict"] == name for row in rows) for name in (PASS, FAIL, NOT_APPLICABLE)}
    failed = {f"{priority} failed": sum(row["verdict"] == FAIL and row["priority"] == priority for row in rows) for priority in PRIORITIES}
    return {**counts, **failed}
