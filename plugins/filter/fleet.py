# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The data model as filters: thin wrappers, so that a broken inventory gives one sentence."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.gpufleet.ollama.plugins.plugin_utils import (
    _acme,
    _archives,
    _audit_plan,
    _capacity,
    _checksums,
    _containers,
    _firewall,
    _gateway,
    _gpu_monitoring,
    _keys,
    _lock,
    _mirror,
    _model,
    _models,
    _monitoring,
    _nvidia,
    _rollout,
    _routing,
)


def _filter(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn the data model's error into Ansible's."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except _model.ModelError as error:
            raise AnsibleFilterError(str(error)) from None

    return wrapped


class FilterModule:
    """Filters of gpufleet.ollama."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name of each filter and its function."""
        functions = (
            _acme.acme_names,
            _acme.acme_reason,
            _archives.archive_names,
            _audit_plan.audit_probes,
            _audit_plan.audit_questions,
            _audit_plan.audit_wanted,
            _capacity.capacity_report,
            _checksums.release_checksums,
            _containers.cdi_feature_flags,
            _containers.docker_daemon,
            _firewall.firewall_advice,
            _firewall.firewall_names,
            _firewall.firewall_rules,
            _firewall.firewall_services,
            _firewall.firewall_ssh_ports,
            _gateway.gateway_clients,
            _gateway.gateway_listeners,
            _gateway.gateway_oauth2,
            _gateway.gateway_server_names,
            _gateway.gateway_users,
            _gateway.gateway_zones,
            _gpu_monitoring.gpu_exporter_hosts,
            _keys.api_key_sha256,
            _keys.key_checks,
            _keys.newest_keys,
            _keys.rotatable,
            _lock.lock_document,
            _lock.lock_moves,
            _lock.lockable,
            _lock.model_lock,
            _mirror.mirror_networks,
            _mirror.mirror_redirect_hosts,
            _model.config_id,
            _model.instances,
            _model.listen_address,
            _model.listeners,
            _model.management_address,
            _model.mount_options,
            _model.scrape_targets,
            _model.service_units,
            _model.store_writer,
            _model.url_host,
            _models.exporter_instances,
            _models.manifest,
            _models.mirror_store,
            _models.model_sources,
            _models.resolved_models,
            _models.store_models,
            _models.store_proxies,
            _models.warm_models,
            _monitoring.alert_rules,
            _monitoring.alertmanager_config,
            _monitoring.scrape_configs,
            _monitoring.web_users,
            _nvidia.nvidia_devices,
            _nvidia.nvidia_dnf_module,
            _nvidia.nvidia_dnf_specs,
            _nvidia.nvidia_fabricmanager,
            _nvidia.nvidia_headers,
            _nvidia.nvidia_in_use,
            _nvidia.nvidia_installed,
            _nvidia.nvidia_mig,
            _nvidia.nvidia_packages,
            _nvidia.nvidia_persistence,
            _nvidia.nvidia_plan,
            _nvidia.nvidia_preferences,
            _nvidia.nvidia_problems,
            _nvidia.nvidia_reboot_refusal,
            _nvidia.nvidia_removable,
            _nvidia.nvidia_target,
            _nvidia.nvidia_tuning,
            _nvidia.nvidia_verify,
            _nvidia.nvidia_versionlock,
            _nvidia.nvidia_versions,
            _rollout.release_report,
            _rollout.rollout_instances,
            _routing.gateway_routing,
            _routing.upstreams,
        )
        return {function.__name__: _filter(function) for function in functions}
