# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The data model as filters: thin wrappers, so that a broken inventory gives one sentence."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from ansible.errors import AnsibleFilterError

PACKAGE = "ansible_collections.gpufleet.ollama.plugins.plugin_utils"
# which module has which filters
MODULES = {
    "_acme": ("acme_names", "acme_reason"),
    "_archives": ("archive_names",),
    "_audit_plan": ("audit_probes", "audit_questions", "audit_wanted"),
    "_backups": ("backup_environment", "backup_plan", "backup_report"),
    "_capacity": ("capacity_report",),
    "_checksums": ("release_checksums",),
    "_containers": ("cdi_feature_flags", "docker_daemon"),
    "_firewall": ("firewall_advice", "firewall_names", "firewall_rules", "firewall_services", "firewall_ssh_ports"),
    "_gateway": ("gateway_clients", "gateway_listeners", "gateway_oauth2", "gateway_server_names", "gateway_users", "gateway_zones"),
    "_gpu_monitoring": ("gpu_exporter_hosts",),
    "_keys": ("api_key_sha256", "key_checks", "newest_keys", "rotatable"),
    "_lock": ("lock_document", "lock_moves", "lockable", "model_lock"),
    "_logs": ("log_certificate_name", "log_collector_address", "log_destination", "log_senders", "log_sources"),
    "_mirror": ("mirror_networks", "mirror_redirect_hosts"),
    "_model": (
        "config_id",
        "instances",
        "listen_address",
        "listeners",
        "management_address",
        "mount_options",
        "scrape_targets",
        "service_units",
        "store_writer",
        "url_host",
    ),
    "_models": ("exporter_instances", "manifest", "mirror_store", "model_sources", "resolved_models", "store_models", "store_proxies", "warm_models"),
    "_monitoring": ("alert_rules", "alertmanager_config", "scrape_configs", "web_users"),
    "_nvidia": (
        "nvidia_devices",
        "nvidia_dnf_module",
        "nvidia_dnf_specs",
        "nvidia_fabricmanager",
        "nvidia_headers",
        "nvidia_in_use",
        "nvidia_installed",
        "nvidia_mig",
        "nvidia_packages",
        "nvidia_persistence",
        "nvidia_plan",
        "nvidia_preferences",
        "nvidia_problems",
        "nvidia_reboot_refusal",
        "nvidia_removable",
        "nvidia_target",
        "nvidia_tuning",
        "nvidia_verify",
        "nvidia_versionlock",
        "nvidia_versions",
    ),
    "_rollout": ("release_report", "rollout_instances"),
    "_routing": ("gateway_routing", "upstreams"),
}


def _filter(module: str, name: str) -> Callable[..., Any]:
    """A function of a module, which turns the data model's error into Ansible's.

    The module is loaded when the filter is used: each task of each host is a process of its own, which would else load all of them, in 50 ms.
    """

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        function = getattr(import_module(f"{PACKAGE}.{module}"), name)
        try:
            return function(*args, **kwargs)
        except import_module(f"{PACKAGE}._model").ModelError as error:
            raise AnsibleFilterError(str(error)) from None

    return wrapped


class FilterModule:
    """Filters of gpufleet.ollama."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name of each filter and its function."""
        return {name: _filter(module, name) for module, names in MODULES.items() for name in names}
